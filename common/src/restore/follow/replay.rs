//! Where a replay is, seen from outside: a server that recovers without hot standby takes no sessions.
//!
//! The startup process names the segment that it replays in its title, and PostgreSQL keeps that segment in `pg_wal`, so
//! the time of a transaction in it tells which moment has been reached. Both inform; nothing is decided by them.

use std::io::Read as _;
use std::ops::ControlFlow;
use std::path::Path;

use chrono::{DateTime, Utc};

use crate::pg::wal_reader::RecordReader;
use crate::pg::{Lsn, SegmentSize, WalSegmentName};
use crate::server;

/// How much of a segment is looked through for the end of a transaction.
const LOOK_BYTES_MAX: u64 = 4 << 20;

/// How much is read at a time.
const CHUNK_BYTES: usize = 256 << 10;

/// The segment that the startup process names in its title (`src/backend/access/transam/xlogrecovery.c`); `None` where
/// it does not say, as with `update_process_title = off`.
pub(super) fn current_segment(pgdata: &Path) -> Option<WalSegmentName> {
    let title = server::processes(pgdata).ok()?.into_iter().find_map(|pid| {
        let title = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let title = String::from_utf8_lossy(&title).into_owned();
        title.contains("startup").then_some(title)
    })?;
    title.split(|c: char| !c.is_ascii_hexdigit()).find_map(WalSegmentName::parse)
}

/// When the first transaction that ends in the segment ended, as far as `pg_wal` has it and one ends near its beginning.
pub(super) fn time_in(pgdata: &Path, segment: WalSegmentName, size: SegmentSize) -> Option<DateTime<Utc>> {
    let file = std::fs::File::open(pgdata.join("pg_wal").join(segment.to_string())).ok()?;
    let mut source = file.take(LOOK_BYTES_MAX);
    let mut reader = RecordReader::new(segment.start(size)?, size);
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut found = None;
    loop {
        let count = source.read(&mut buffer).ok().filter(|count| *count > 0)?;
        let flow = reader.feed(buffer.get(..count).unwrap_or_default(), |record| {
            found = record.kind.transaction().map(|end| end.time);
            if found.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        if flow.is_break() {
            return found;
        }
    }
}

/// How far a replay is, in words: which segment of how many, and the moment that it has come to.
pub(super) fn describe(
    segment: WalSegmentName,
    size: SegmentSize,
    from: Lsn,
    until: Option<Lsn>,
    time: Option<DateTime<Utc>>,
) -> String {
    let first = from.0 / size.bytes();
    let number = segment.number(size).unwrap_or(first).saturating_sub(first) + 1;
    let last = until.map(|until| until.0.saturating_sub(1) / size.bytes());
    let of = last.map(|last| last.saturating_sub(first) + 1).filter(|count| *count >= number);
    let of = of.map(|count| format!(" of {count}")).unwrap_or_default();
    let at = time.map(|time| format!(", at {}", time.format("%Y-%m-%d %H:%M:%SZ"))).unwrap_or_default();
    format!("segment {number}{of}{at}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::TimelineId;
    use crate::pg::wal_reader::testing::{SIZE, Writer};
    use crate::sys::durable;
    use rstest::rstest;

    #[test]
    fn tells_the_time_of_a_segment() {
        let size = SegmentSize::new(SIZE).unwrap();
        let name = WalSegmentName::numbered(TimelineId(1), 3, size);
        let mut log = Writer::new(3);
        log.filler(100);
        log.commit(7, 0);
        log.commit(8, 1_000_000);
        log.pad();
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(time_in(dir.path(), name, size), None);
        std::fs::create_dir(dir.path().join("pg_wal")).unwrap();
        durable::replace(&dir.path().join("pg_wal").join(name.to_string()), &log.bytes, 0o600).unwrap();
        let expected = DateTime::from_timestamp(946_684_800, 0);
        assert_eq!(time_in(dir.path(), name, size), expected);
        durable::replace(&dir.path().join("pg_wal").join(name.to_string()), b"nonsense", 0o600).unwrap();
        assert_eq!(time_in(dir.path(), name, size), None);
    }

    #[rstest]
    #[case(3, Some(0x0500_0000), None, "segment 2 of 3")]
    #[case(3, Some(0x0500_0001), Some(0), "segment 2 of 4, at 1970-01-01 00:00:00Z")]
    #[case(3, None, None, "segment 2")]
    #[case::behind_the_target(9, Some(0x0500_0000), None, "segment 8")]
    fn describes(#[case] number: u64, #[case] until: Option<u64>, #[case] time: Option<i64>, #[case] expected: &str) {
        let size = SegmentSize::DEFAULT;
        let name = WalSegmentName::numbered(TimelineId(1), number, size);
        let time = time.and_then(|time| DateTime::from_timestamp(time, 0));
        assert_eq!(describe(name, size, Lsn(0x0200_0028), until.map(Lsn), time), expected);
    }
}
