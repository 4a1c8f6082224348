//! What was decided and done: tables for people, one document for programs.

use common::app::Context;
use common::app::config::RepositorySetting;
use common::report::message_of;
use common::units::ByteCount;
use serde::Serialize;

use crate::act::Acted;
use crate::policy::{Plan, Policy};

/// What became of one repository.
pub(crate) struct Done {
    pub(crate) plan: Plan,
    pub(crate) acted: Acted,
}

type Outcome<'a> = (&'a RepositorySetting, anyhow::Result<Done>);

#[derive(Serialize)]
struct Document<'a> {
    cluster: &'a str,
    keep_last: u32,
    dry_run: bool,
    repositories: Vec<OfRepository<'a>>,
}

#[derive(Serialize)]
struct OfRepository<'a> {
    repository: &'a str,
    /// Why nothing, or not everything, was done.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(flatten)]
    plan: Option<&'a Plan>,
    removed: Removed,
}

#[derive(Serialize)]
struct Removed {
    backups: u64,
    wal_files: u64,
    bytes: u64,
}

/// Prints all results; those of repositories that failed only in the document, since `main` says their errors.
pub(crate) fn print(results: &[Outcome<'_>], policy: Policy, dry_run: bool, ctx: &Context) -> anyhow::Result<()> {
    if ctx.output.is_json() {
        return ctx.output.json(&Document {
            cluster: ctx.settings.cluster.value.as_str(),
            keep_last: policy.keep_last.get(),
            dry_run,
            repositories: results.iter().map(of_repository).collect(),
        });
    }
    for (setting, result) in results {
        if let Ok(done) = result {
            if results.len() > 1 {
                ctx.output.line(&format!("repository {}", setting.url.value))?;
            }
            table(done, dry_run, ctx)?;
        }
    }
    Ok(())
}

fn of_repository<'a>((setting, result): &'a Outcome<'_>) -> OfRepository<'a> {
    let acted = result.as_ref().map_or_else(|_| Acted::default(), |done| done.acted);
    OfRepository {
        repository: &setting.url.value,
        error: result.as_ref().err().map(message_of),
        plan: result.as_ref().ok().map(|done| &done.plan),
        removed: Removed { backups: acted.backups, wal_files: acted.wal_files, bytes: acted.bytes },
    }
}

fn table(done: &Done, dry_run: bool, ctx: &Context) -> anyhow::Result<()> {
    let plan = &done.plan;
    let size = |bytes| ByteCount(bytes).to_string();
    let backups = plan
        .backups
        .iter()
        .map(|item| vec![item.id.to_string(), item.verdict.name().to_owned(), size(item.bytes), item.reason.clone()]);
    let wal = plan.wal.iter().map(|item| {
        let what =
            if item.first == item.last { item.first.clone() } else { format!("{} to {}", item.first, item.last) };
        let what = format!("WAL {what} ({})", count(item.files, "file"));
        vec![what, item.verdict.name().to_owned(), size(item.bytes), item.reason.clone()]
    });
    let rows: Vec<Vec<String>> = backups.chain(wal).collect();
    ctx.output.table(&["WHAT", "VERDICT", "SIZE", "REASON"], &rows)?;
    for finding in &plan.findings {
        tracing::warn!("{finding}");
    }
    let summary = match (plan.drops_nothing(), dry_run) {
        (true, _) => "nothing to remove".to_owned(),
        (false, true) => format!("would free {}", size(plan.dropped_bytes())),
        (false, false) => format!(
            "removed {} and {}, freed {}",
            count(done.acted.backups, "backup"),
            count(done.acted.wal_files, "WAL file"),
            size(done.acted.bytes)
        ),
    };
    ctx.output.line(&summary)
}

fn count(number: u64, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}
