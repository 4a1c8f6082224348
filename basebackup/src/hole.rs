//! A hole in the archive just before a backup: most often what a promoted standby never archived for its dead primary.
//!
//! The backup itself is whole, and moments behind it are reached. But nobody gets from an older backup across the hole,
//! and this is when somebody looks.

use common::archive::{Repository, backups, inventory};
use common::pg::WalSegmentName;
use common::repo::BackupId;
use common::repo::chain::{Inventory, Route};
use common::repo::records::BackupRecord;

/// Says where the way from the backup before leads through a hole. The new backup stands whatever is found.
pub(crate) fn tell(record: &BackupRecord, repository: &Repository) {
    match look(record, repository) {
        Ok(None) => {}
        Ok(Some((missing, earlier))) => tracing::warn!(
            "{missing} is missing from the archive: no moment from there to {} can be reached, since nothing leads from \
             {earlier} across it; archive-wal check --backfill puts there what the server's pg_wal still has",
            record.span.start_lsn
        ),
        Err(err) => tracing::warn!("the way from the backup before was not looked at: {err:#}"),
    }
}

fn look(record: &BackupRecord, repository: &Repository) -> anyhow::Result<Option<(WalSegmentName, BackupId)>> {
    let source = &record.source;
    let backups = backups::complete(repository)?;
    let known = inventory::read(repository, source.system_identifier, source.segment_size)?;
    Ok(before(record, &backups, &known))
}

/// The first segment that is missing on the way from the newest backup that leads here, and that backup. Pure.
fn before(record: &BackupRecord, backups: &[BackupRecord], known: &Inventory) -> Option<(WalSegmentName, BackupId)> {
    let history = known.history(record.span.timeline);
    let leads_here = |earlier: &&BackupRecord| {
        let (own, span) = (&record.span, &earlier.span);
        let on_the_way = span.timeline == own.timeline
            || history.switch_of(span.timeline).is_some_and(|switch| span.stop_lsn <= switch);
        earlier.source.system_identifier == record.source.system_identifier
            && on_the_way
            && span.stop_lsn <= own.start_lsn
    };
    let earlier = backups.iter().filter(leads_here).max_by_key(|earlier| earlier.span.stop_lsn)?;
    let route = Route::new(history, known.segment_size());
    let missing = route.first_missing(known, earlier.span.stop_lsn, record.span.start_lsn)?;
    Some((missing, earlier.id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::pg::{SegmentSize, TimelineHistory, TimelineId};
    use common::repo::records::testing::backup;
    use rstest::rstest;

    const SEG: u64 = 16 << 20;

    fn name(timeline: u32, number: u64) -> WalSegmentName {
        WalSegmentName::numbered(TimelineId(timeline), number, SegmentSize::DEFAULT)
    }

    /// A backup of this timeline that ends in this segment.
    fn taken(day: u64, timeline: u32, number: u64) -> BackupRecord {
        let mut record = backup(timeline, number * SEG + 0x100, day);
        record.span.start_lsn.0 = number * SEG + 0x28;
        record
    }

    /// Timeline 2 left timeline 1 in segment 5. The backup is of timeline 2, in segment 8.
    #[rstest]
    #[case::whole(&[(1, 3), (1, 4), (2, 5), (2, 6), (2, 7), (2, 8)], &[(1, 3)], None)]
    #[case::what_the_primary_had(&[(1, 3), (2, 5), (2, 6), (2, 7), (2, 8)], &[(1, 3)], Some((1, 4)))]
    #[case::the_fork_itself(&[(1, 3), (1, 4), (1, 5), (2, 6), (2, 7), (2, 8)], &[(1, 3)], Some((2, 5)))]
    #[case::before_the_newest_one(&[(1, 3), (2, 5), (2, 6), (2, 7), (2, 8)], &[(1, 3), (2, 6)], None)]
    #[case::not_from_the_dead_end(&[(2, 8)], &[(1, 6)], None)]
    #[case::the_first_backup(&[(2, 8)], &[], None)]
    fn only_the_way_from_the_backup_before_counts(
        #[case] segments: &[(u32, u64)],
        #[case] earlier: &[(u32, u64)],
        #[case] expected: Option<(u32, u64)>,
    ) {
        let mut known = Inventory::new(SegmentSize::DEFAULT);
        known.add_history(TimelineHistory::parse(TimelineId(2), b"1\t0/5000800\tx\n").unwrap());
        for (timeline, number) in segments {
            known.add_segment(name(*timeline, *number));
        }
        let backups: Vec<_> = (1..).zip(earlier).map(|(day, at)| taken(day, at.0, at.1)).collect();
        let own = taken(9, 2, 8);
        let found = before(&own, &backups, &known).map(|(missing, _)| missing);
        assert_eq!(found, expected.map(|(timeline, number)| name(timeline, number)));
    }
}
