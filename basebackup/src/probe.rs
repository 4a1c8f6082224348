//! Proves, before anything is copied, that this cluster's WAL reaches this repository.
//!
//! An idle primary archives nothing by itself, so a record is written and the segment ended; the backup begins only
//! when that segment is here. A standby ends no segment: there the newest whole one must be here.

use common::pg::{Lsn, SegmentSize, TimelineId, WalSegmentName};
use common::server::ServerFacts;
use common::server::backup::switch_wal;

use crate::preflight::Subject;
use crate::wal::{self, Watch};

/// Waits for the proof; a refusal with the reason when it does not come.
pub(crate) fn probe(subject: &mut Subject, watch: Watch<'_>) -> anyhow::Result<()> {
    let Subject { session, facts, .. } = subject;
    let segment = if facts.in_recovery {
        newest_whole_segment(facts.timeline, facts.position, watch.size)
    } else {
        Some(WalSegmentName::before(facts.timeline, switch_wal(session)?, watch.size))
    };
    let Some(segment) = segment else { return Ok(()) };
    tracing::debug!("waiting for WAL segment {segment} in {}", watch.repository.describe());
    match wal::wait(watch, session, segment, segment)? {
        None => Ok(()),
        Some(missing) => Err(missing.advice(archive_command(facts)).into()),
    }
}

/// What the server archives with, for messages.
pub(crate) fn archive_command(facts: &ServerFacts) -> Option<&str> {
    facts.setting("archive_command").filter(|command| !command.is_empty())
}

/// The last segment that ends at or before `position`; none before the end of the first.
fn newest_whole_segment(timeline: TimelineId, position: Lsn, size: SegmentSize) -> Option<WalSegmentName> {
    let number = (position.0 / size.bytes()).checked_sub(1)?;
    Some(WalSegmentName::numbered(timeline, number, size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case(0x00FF_FFFF, None)]
    #[case(0x0100_0000, Some("000000030000000000000000"))]
    #[case(0x0100_0001, Some("000000030000000000000000"))]
    #[case(0x0200_0000, Some("000000030000000000000001"))]
    fn only_whole_segments_count(#[case] position: u64, #[case] expected: Option<&str>) {
        let segment = newest_whole_segment(TimelineId(3), Lsn(position), SegmentSize::DEFAULT);
        assert_eq!(segment.map(|segment| segment.to_string()).as_deref(), expected);
    }
}
