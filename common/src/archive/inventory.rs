//! What a repository holds of one system's WAL, as an [`Inventory`].

use std::io::Read as _;

use anyhow::Context as _;

use crate::pg::history::TimelineHistory;
use crate::pg::{ArchiveName, SegmentSize, SystemIdentifier, TimelineId};
use crate::repo::chain::Inventory;
use crate::repo::layout::{parse_abandoned, parse_wal_object};
use crate::report::Advice;

use super::Repository;
use super::segments::TEXT_FILE_BYTES_MAX;

/// Lists all archived WAL of one system and reads its timeline histories.
///
/// A history that cannot be read is an error: guessing at timelines loses data.
pub fn read(repository: &Repository, system: SystemIdentifier, size: SegmentSize) -> anyhow::Result<Inventory> {
    let mut inventory = Inventory::new(size);
    for entry in repository.list_all(&repository.layout().wal(system))? {
        let file_name = entry.key.file_name();
        if let Some(timeline) = parse_abandoned(file_name) {
            inventory.abandon(timeline);
        }
        match parse_wal_object(file_name).map(|object| object.name) {
            Some(ArchiveName::Segment(segment)) => inventory.add_segment(segment),
            Some(ArchiveName::History(timeline)) => {
                inventory.add_history(
                    read_history(repository, system, timeline)?.with_context(|| {
                        format!("{} vanished from {}", timeline.history_file(), repository.describe())
                    })?,
                );
            }
            _ => {}
        }
    }
    Ok(inventory)
}

/// Reads one archived timeline history; `None` when it is not archived.
pub fn read_history(
    repository: &Repository,
    system: SystemIdentifier,
    timeline: TimelineId,
) -> anyhow::Result<Option<TimelineHistory>> {
    let Some((key, codec)) = super::segments::locate(repository, system, ArchiveName::History(timeline))? else {
        return Ok(None);
    };
    let mut bytes = Vec::new();
    let reading = || {
        Advice::failed(format!("read {key} in {}", repository.describe())).hint(format!(
            "move it away and keep it, and archive {} again with archive-wal: it lies in the pg_wal of every server \
             that was on that timeline",
            timeline.history_file()
        ))
    };
    crate::codec::decoder(codec, repository.store().get(&key)?)
        .and_then(|source| source.take(TEXT_FILE_BYTES_MAX).read_to_end(&mut bytes))
        .with_context(reading)?;
    TimelineHistory::parse(timeline, &bytes).map(Some).with_context(reading)
}
