//! What is said of a backup that was taken.

use std::collections::BTreeMap;
use std::time::Duration;

use common::app::{Context, Outcome};
use common::pg::{Lsn, TimelineId};
use common::repo::BackupId;
use common::repo::records::{BackupRecord, DamagedPage};
use common::report::ExitClass;
use common::units::{ByteCount, Took};
use serde::Serialize;

/// How many files with damaged pages are named in the log; the record has more.
const FILES_NAMED_MAX: usize = 20;

/// How many pages of each are.
const BLOCKS_NAMED_MAX: usize = 5;

/// The document of `--json`.
#[derive(Debug, Serialize)]
struct Taken<'a> {
    id: BackupId,
    label: &'a str,
    repository: &'a str,
    timeline: TimelineId,
    start_lsn: Lsn,
    stop_lsn: Lsn,
    files: u64,
    plain_bytes: u64,
    stored_bytes: u64,
    seconds: f64,
    damaged_page_count: u64,
    damaged_pages: &'a [DamagedPage],
}

/// Prints the id, alone on standard output, or the document; the rest goes to the log.
pub(crate) fn report(
    record: &BackupRecord,
    repository: &str,
    took: Duration,
    ctx: &Context,
) -> anyhow::Result<Outcome> {
    if ctx.output.is_json() {
        ctx.output.json(&Taken {
            id: record.id,
            label: &record.label,
            repository,
            timeline: record.span.timeline,
            start_lsn: record.span.start_lsn,
            stop_lsn: record.span.stop_lsn,
            files: record.files,
            plain_bytes: record.plain_bytes,
            stored_bytes: record.stored_bytes,
            seconds: took.as_secs_f64(),
            damaged_page_count: record.damaged_page_count,
            damaged_pages: &record.damaged_pages,
        })?;
    } else {
        ctx.output.line(&record.id.to_string())?;
    }
    tracing::info!(
        "{} files, {} stored as {}, ends at {}, took {}",
        record.files,
        ByteCount(record.plain_bytes),
        ByteCount(record.stored_bytes),
        record.span.stop_lsn,
        Took(took)
    );
    if record.damaged_page_count == 0 {
        return Ok(Outcome::Done);
    }
    for line in damage(record) {
        tracing::error!("{line}");
    }
    Ok(Outcome::Class(ExitClass::Findings))
}

/// A line a damaged file, and one that says what it means.
fn damage(record: &BackupRecord) -> Vec<String> {
    let mut files: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for page in &record.damaged_pages {
        files.entry(&page.path).or_default().push(page.block);
    }
    let line = |(path, blocks): (&&str, &Vec<u64>)| {
        let named: Vec<String> = blocks.iter().take(BLOCKS_NAMED_MAX).map(u64::to_string).collect();
        let more = blocks.len().saturating_sub(BLOCKS_NAMED_MAX);
        let more = if more == 0 { String::new() } else { format!(" and {more} more") };
        format!("wrong page checksum: {path}, block {}{more}", named.join(", "))
    };
    let mut lines: Vec<String> = files.iter().take(FILES_NAMED_MAX).map(line).collect();
    if files.len() > FILES_NAMED_MAX {
        lines.push(format!("wrong page checksums in {} more files", files.len() - FILES_NAMED_MAX));
    }
    let named = record.damaged_pages.len() as u64;
    let all = record.damaged_page_count;
    let which = if named < all { format!(", of which the first {named} are named") } else { String::new() };
    lines.push(format!(
        "{} is published with {all} damaged pages{which}, as they are in the server; retention never counts it as a \
         good one",
        record.id
    ));
    lines
}
