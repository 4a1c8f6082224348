//! `recover list`: the backups, as recovery sees them.

use common::app::{Context, Outcome};
use common::archive::backups::{self, Found};
use common::units::ByteCount;

use crate::facts::open_repository;

/// Prints the whole backups, oldest first.
pub(crate) fn run(ctx: &Context) -> anyhow::Result<Outcome> {
    let repository = open_repository(ctx)?;
    let mut rows = Vec::new();
    let mut documents = Vec::new();
    let all = backups::list(&repository)?;
    if all.is_empty() {
        repository.require_cluster()?;
    }
    for (id, found) in all {
        match found {
            Found::Complete(backup) => {
                rows.push(vec![
                    id.to_string(),
                    backup.span.stopped_at.format("%Y-%m-%d %H:%M:%SZ").to_string(),
                    backup.span.timeline.to_string(),
                    backup.span.stop_lsn.to_string(),
                    backup.span.next_xid.to_string(),
                    ByteCount(backup.plain_bytes).to_string(),
                    backup.source.data_directory.display().to_string(),
                    backup.label.clone(),
                ]);
                documents.push(serde_json::json!({
                    "id": id, "label": backup.label, "complete_at": backup.span.stopped_at,
                    "timeline": backup.span.timeline, "start_lsn": backup.span.start_lsn,
                    "stop_lsn": backup.span.stop_lsn, "next_xid": backup.span.next_xid,
                    "system_identifier": backup.source.system_identifier.to_string(),
                    "postgresql_version": backup.source.version_number, "bytes": backup.plain_bytes,
                    "data_directory": backup.source.data_directory, "host": backup.source.host,
                    "damaged_page_count": backup.damaged_page_count, "tablespaces": backup.tablespaces,
                }));
            }
            Found::Damaged(reason) => tracing::warn!("{id} is left out: {reason}"),
            Found::Unfinished(_) => {}
        }
    }
    ctx.output.table(
        &["backup", "complete at", "timeline", "stop LSN", "next xid", "size", "data directory", "label"],
        &rows,
    )?;
    if ctx.output.is_json() {
        ctx.output.json(&serde_json::json!({ "backups": documents }))?;
    }
    Ok(Outcome::Done)
}
