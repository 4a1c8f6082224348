//! Step 6: WAL that is in no repository, from the cluster's own `pg_wal`.

use anyhow::Context as _;
use common::archive::Identity;
use common::pg::{ArchiveName, Lsn};
use common::repo::records::BackupRecord;
use common::report::Advice;
use common::restore::salvage;

use super::Site;
use crate::aside;
use crate::journal::{Journal, Stage};
use crate::plan::Plan;

/// Copies what the archive lacks. Looked up anew: the old server wrote on until it stopped, and archived on.
pub(crate) fn run(backup: &BackupRecord, journal: &mut Journal, site: &Site<'_>) -> anyhow::Result<String> {
    journal.set_out(Stage::Placed, &site.place)?;
    let identity = identity(backup);
    let tail = site.place.tail();
    let copied = match &journal.origin_wal {
        Some(origin) => {
            let preserved = journal.preserved().map(|preserved| preserved.join("pg_wal"));
            let from = [preserved.unwrap_or_else(|| origin.clone()), tail.clone()];
            let to = site.place.pgdata.join("pg_wal");
            let copied = salvage::bring(&site.repository, &identity, &from, &to)?;
            let promised = salvage::lost(&site.repository, &identity, &needed(&journal.plan, &identity), &to)?;
            if let Some(lost) = promised.first() {
                return Err(Advice::failed(format!(
                    "{lost} was in the cluster's own pg_wal before its server stopped, and is gone"
                ))
                .hint("the server took it for archived: see its archive_command")
                .into());
            }
            copied
        }
        None => Vec::new(),
    };
    journal.plan.salvage = copied.iter().map(ArchiveName::to_string).collect();
    journal.reach(Stage::Placed, &site.place)?;
    if !journal.plan.replaces && tail.exists() {
        // Its original still has its own.
        aside::remove(&tail)?;
    }
    Ok(match copied.len() {
        0 => "the archive has all WAL".to_owned(),
        1 => format!("{} from the cluster's own pg_wal", journal.plan.salvage.join(", ")),
        count => format!("{count} WAL files from the cluster's own pg_wal"),
    })
}

/// Keeps beside the data directory what the archive lacks, before the old server stops: its last checkpoint takes away
/// what the server believes to be archived.
pub(crate) fn secure(backup: &BackupRecord, journal: &Journal, site: &Site<'_>) -> anyhow::Result<()> {
    let Some(origin) = &journal.origin_wal else { return Ok(()) };
    let from = journal.plan.wal_from;
    salvage::secure(&site.repository, &identity(backup), from, origin, &site.place.tail()).context(
        Advice::failed("the WAL that is in the server's own pg_wal alone cannot be kept").hint(format!(
            "nothing was stopped; make room beside {}, or let the server archive it",
            site.place.pgdata.display()
        )),
    )
}

fn identity(backup: &BackupRecord) -> Identity {
    let source = &backup.source;
    let major = Some(source.version_number / 10_000);
    Identity { system_identifier: source.system_identifier, segment_size: source.segment_size, major }
}

/// The files on the way to the target that were counted on.
fn needed(plan: &Plan, identity: &Identity) -> Vec<ArchiveName> {
    let end = plan.arrival.as_ref().map(|arrival| arrival.at).or(plan.wal_ends);
    let is_needed = |name: &ArchiveName| match name {
        ArchiveName::Segment(segment) => {
            let (start, size) = (segment.start(identity.segment_size), identity.segment_size.bytes());
            let is_between = |start: Lsn| start.0 + size > plan.wal_from.0 && end.is_some_and(|end| start < end);
            start.is_some_and(is_between)
        }
        _ => true,
    };
    plan.salvage.iter().filter_map(|name| ArchiveName::parse(name)).filter(is_needed).collect()
}
