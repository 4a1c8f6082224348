//! `recover windows`: from each backup, along each timeline, how far the WAL leads.

use chrono::{DateTime, Utc};
use common::app::{Context, Outcome};
use common::archive::{Repository, backups, inventory, segments};
use common::pg::{ArchiveName, Lsn, TimelineId, WalSegmentName};
use common::repo::BackupId;
use common::repo::chain::{Inventory, Route};
use common::repo::records::BackupRecord;
use serde::Serialize;

use crate::facts::open_repository;

/// The moments that one backup and one timeline reach.
#[derive(Debug, Serialize)]
struct Window {
    backup: BackupId,
    timeline: TimelineId,
    from: DateTime<Utc>,
    from_lsn: Lsn,
    to_lsn: Lsn,
    last_segment_archived_at: Option<DateTime<Utc>>,
    complete: bool,
    missing: Option<String>,
}

/// Prints the windows, those of the oldest backup first.
pub(crate) fn run(ctx: &Context) -> anyhow::Result<Outcome> {
    let repository = open_repository(ctx)?;
    let all = backups::complete(&repository)?;
    if all.is_empty() {
        repository.require_cluster()?;
    }
    let mut windows = Vec::new();
    let mut known: Option<(u64, Inventory)> = None;
    for backup in &all {
        let system = backup.source.system_identifier;
        if known.as_ref().is_none_or(|(of, _)| *of != system) {
            known = Some((system, inventory::read(&repository, system, backup.source.segment_size)?));
        }
        if let Some((_, inventory)) = &known {
            for timeline in inventory.descendants(backup.span.timeline, backup.span.stop_lsn) {
                windows.push(window(&repository, backup, timeline, inventory)?);
            }
        }
    }
    let rows: Vec<Vec<String>> = windows.iter().map(row).collect();
    ctx.output
        .table(&["backup", "timeline", "from", "from LSN", "to LSN", "last WAL archived at", "missing"], &rows)?;
    if ctx.output.is_json() {
        ctx.output.json(&serde_json::json!({ "windows": windows }))?;
    }
    Ok(Outcome::Done)
}

fn window(
    repository: &Repository,
    backup: &BackupRecord,
    timeline: TimelineId,
    inventory: &Inventory,
) -> anyhow::Result<Window> {
    let route = Route::new(inventory.history(timeline), inventory.segment_size());
    let size = inventory.segment_size().bytes();
    let to_lsn = route.reaches(inventory, backup.span.start_lsn);
    let last: Option<WalSegmentName> = to_lsn.0.checked_sub(1).map(|byte| route.segment(byte / size));
    let missing = route.segment(to_lsn.0 / size);
    let hole = to_lsn < backup.span.stop_lsn || route.continues_after(inventory, to_lsn);
    let archived_at = match last {
        Some(last) => archived_at(repository, backup.source.system_identifier, last)?,
        None => None,
    };
    Ok(Window {
        backup: backup.id,
        timeline,
        from: backup.span.stopped_at,
        from_lsn: backup.span.stop_lsn,
        to_lsn,
        last_segment_archived_at: archived_at,
        complete: to_lsn >= backup.span.stop_lsn,
        missing: hole.then(|| missing.to_string()),
    })
}

fn archived_at(repository: &Repository, system: u64, segment: WalSegmentName) -> anyhow::Result<Option<DateTime<Utc>>> {
    let Some((key, _)) = segments::locate(repository, system, ArchiveName::Segment(segment))? else { return Ok(None) };
    Ok(repository.store().stat(&key)?.map(|entry| entry.modified))
}

fn row(window: &Window) -> Vec<String> {
    let time = |time: DateTime<Utc>| time.format("%Y-%m-%d %H:%M:%SZ").to_string();
    vec![
        window.backup.to_string(),
        window.timeline.to_string(),
        time(window.from),
        window.from_lsn.to_string(),
        if window.complete { window.to_lsn.to_string() } else { "not restorable".to_owned() },
        window.last_segment_archived_at.map_or_else(String::new, time),
        window.missing.clone().unwrap_or_default(),
    ]
}
