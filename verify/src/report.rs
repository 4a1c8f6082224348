//! What was found: a table for people, one document for programs.

use std::time::Duration;

use common::app::Context;
use common::archive::Repository;
use common::archive::inspect::{Depth, Finding};
use common::repo::BackupId;
use common::units::{ByteCount, Took};
use serde::{Serialize, Serializer};

/// What one backup's inspection found.
#[derive(Debug, Serialize)]
pub(crate) struct Inspected {
    /// The backup.
    pub(crate) id: BackupId,
    /// The stored size of its objects as recorded; 0 when the record cannot be read.
    pub(crate) stored_bytes: u64,
    /// How long it took, in seconds in JSON.
    #[serde(rename = "seconds", serialize_with = "in_seconds")]
    pub(crate) took: Duration,
    /// Empty is good.
    pub(crate) findings: Vec<Finding>,
}

#[derive(Serialize)]
struct Document<'a> {
    repository: &'a str,
    cluster: &'a str,
    depth: Depth,
    ok: bool,
    backups: Vec<OfBackup<'a>>,
}

#[derive(Serialize)]
struct OfBackup<'a> {
    ok: bool,
    #[serde(flatten)]
    inspected: &'a Inspected,
}

/// Prints a line for each backup and a table of all findings.
pub(crate) fn print(repository: &Repository, depth: Depth, results: &[Inspected], ctx: &Context) -> anyhow::Result<()> {
    if ctx.output.is_json() {
        return ctx.output.json(&Document {
            repository: &repository.describe(),
            cluster: ctx.settings.cluster.value.as_str(),
            depth,
            ok: results.iter().all(|result| result.findings.is_empty()),
            backups: results
                .iter()
                .map(|inspected| OfBackup { ok: inspected.findings.is_empty(), inspected })
                .collect(),
        });
    }
    let backups: Vec<Vec<String>> = results.iter().map(row).collect();
    ctx.output.table(&["BACKUP", "RESULT", "SIZE", "TOOK"], &backups)?;
    let findings: Vec<Vec<String>> = results.iter().flat_map(finding_rows).collect();
    if findings.is_empty() {
        return Ok(());
    }
    ctx.output.line("")?;
    ctx.output.table(&["BACKUP", "FINDING", "OBJECT", "WHAT"], &findings)
}

fn row(inspected: &Inspected) -> Vec<String> {
    let result = match inspected.findings.len() {
        0 => "ok".to_owned(),
        1 => "1 finding".to_owned(),
        count => format!("{count} findings"),
    };
    let size = ByteCount(inspected.stored_bytes).to_string();
    vec![inspected.id.to_string(), result, size, Took(inspected.took).to_string()]
}

fn finding_rows(inspected: &Inspected) -> impl Iterator<Item = Vec<String>> + '_ {
    let id = inspected.id.to_string();
    let short = |object: &str| object.rsplit('/').next().unwrap_or(object).to_owned();
    inspected.findings.iter().map(move |finding| {
        vec![id.clone(), finding.kind.name().to_owned(), short(&finding.object), finding.what.clone()]
    })
}

fn in_seconds<S: Serializer>(took: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(took.as_secs_f64())
}
