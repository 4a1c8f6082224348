//! The figures: tables for people, one document for programs.

use chrono::SecondsFormat;
use common::app::Context;
use common::units::ByteCount;
use serde::Serialize;

use super::count::{Figures, Rate, Written};

#[derive(Serialize)]
struct Document<'a> {
    cluster: &'a str,
    repositories: Vec<OfRepository<'a>>,
}

#[derive(Serialize)]
struct OfRepository<'a> {
    repository: &'a str,
    systems: &'a [Figures],
}

/// Prints the figures of every repository.
pub(crate) fn print(repositories: &[(&str, Vec<Figures>)], ctx: &Context) -> anyhow::Result<()> {
    if ctx.output.is_json() {
        let of_each = repositories.iter().map(|(repository, systems)| OfRepository { repository, systems });
        let cluster = ctx.settings.cluster.value.as_str();
        return ctx.output.json(&Document { cluster, repositories: of_each.collect() });
    }
    for (index, (repository, systems)) in repositories.iter().enumerate() {
        if index > 0 {
            ctx.output.line("")?;
        }
        ctx.output.line(&format!("repository {repository}"))?;
        if systems.is_empty() {
            ctx.output.line("nothing archived yet")?;
        }
        systems.iter().try_for_each(|figures| system(figures, ctx))?;
    }
    Ok(())
}

fn system(figures: &Figures, ctx: &Context) -> anyhow::Result<()> {
    let rows: Vec<Vec<String>> =
        summary(figures).into_iter().map(|(what, value)| vec![what.to_owned(), value]).collect();
    ctx.output.line("")?;
    ctx.output.table(&["WHAT", "FIGURE"], &rows)?;
    if figures.timelines.is_empty() {
        return Ok(());
    }
    let cell = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
    let rows = figures.timelines.iter().map(|timeline| {
        vec![
            timeline.id.to_string(),
            timeline.segments.to_string(),
            ByteCount(timeline.stored_bytes).to_string(),
            timeline.first.clone(),
            timeline.last.clone(),
            cell(timeline.holes),
            cell(timeline.missing_segments),
        ]
    });
    ctx.output.line("")?;
    let header = ["TIMELINE", "SEGMENTS", "STORED", "FIRST", "LAST", "HOLES", "MISSING"];
    ctx.output.table(&header, &rows.collect::<Vec<_>>())
}

fn summary(figures: &Figures) -> Vec<(&'static str, String)> {
    let size = |bytes: Option<u64>| bytes.map_or_else(|| "-".to_owned(), |bytes| ByteCount(bytes).to_string());
    let written = |written: Option<Written>| {
        written.map_or_else(
            || "nothing yet".to_owned(),
            |it| format!("{}, written {}", it.segment, it.at.to_rfc3339_opts(SecondsFormat::Secs, true)),
        )
    };
    let ratio = figures.compression_ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
    vec![
        ("system", figures.system_identifier.clone()),
        (
            "files",
            format!(
                "{}: {} segments, {} histories, {} partial, {} backup histories",
                figures.files, figures.segments, figures.histories, figures.partials, figures.backup_histories
            ),
        ),
        ("stored", ByteCount(figures.stored_bytes).to_string()),
        ("segments unpacked", size(figures.plain_bytes)),
        ("compression", ratio),
        ("first segment", written(figures.first)),
        ("last segment", written(figures.last)),
        ("a day, on average", figures.per_day.whole.as_ref().map_or_else(|| "-".to_owned(), per_day)),
        ("the last 24 hours", per_day(&figures.per_day.last_day)),
    ]
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate for people, never negative")]
fn per_day(rate: &Rate) -> String {
    let size = |bytes: f64| ByteCount(bytes as u64).to_string();
    let plain = rate.plain_bytes.map_or_else(String::new, |bytes| format!(", {} unpacked", size(bytes)));
    format!("{:.1} segments, {} stored{plain}", rate.segments, size(rate.stored_bytes))
}
