//! What the records say that a recovery can stop at, the ends of transactions (`src/include/access/xact.h`,
//! `src/backend/access/rmgrdesc/xactdesc.c`) and restore points (`src/include/access/xlog_internal.h`), and those that
//! a copy must not replay, the creations of tablespaces (`src/include/commands/tablespace.h`).
//!
//! A commit record names every subtransaction and every dropped relation and can be as large as a record can be. What
//! is wanted of it lies at its beginning, except a prepared transaction's number: that is picked out as the bytes pass.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use chrono::{DateTime, Utc};

use super::record::{RM_XLOG, RMGR_INFO_MASK};
use super::{RecordKind, TransactionEnd, at_most};
use crate::pg::bytes::{i64_at, u8_at, u32_at};
use crate::pg::wal_page::major_of_magic;

/// Holds the fragment headers and the largest contents that are wanted from a record's beginning, a restore point.
const HEAD_MAX: usize = 128;
/// The same for the creation of a tablespace, whose path has at most `MAXPGPATH` bytes.
const TABLESPACE_HEAD_MAX: usize = 1024 + HEAD_MAX;

/// `RM_XACT_ID`.
const RM_XACT: u8 = 1;
/// `RM_TBLSPC_ID`.
const RM_TABLESPACE: u8 = 5;
/// `XLOG_TBLSPC_CREATE`.
const XLOG_TABLESPACE_CREATE: u8 = 0x00;
/// The number of the tablespace in `xl_tblspc_create_rec`, before its path.
const TABLESPACE_OID_SIZE: usize = 4;
/// `XLOG_RESTORE_POINT`.
const XLOG_RESTORE_POINT: u8 = 0x70;
/// `MAXFNAMELEN`.
const RESTORE_POINT_NAME_SIZE: usize = 64;

/// `XLOG_XACT_OPMASK` and the operations.
const XACT_OPERATION_MASK: u8 = 0x70;
const XACT_COMMIT: u8 = 0x00;
const XACT_ABORT: u8 = 0x20;
const XACT_COMMIT_PREPARED: u8 = 0x30;
const XACT_ABORT_PREPARED: u8 = 0x40;
/// `XLOG_XACT_HAS_INFO`: flags follow the time.
const XACT_HAS_INFO: u8 = 0x80;

/// `XACT_XINFO_HAS_…`: which sections follow the flags.
const HAS_DBINFO: u32 = 1 << 0;
const HAS_SUBXACTS: u32 = 1 << 1;
const HAS_RELATIONS: u32 = 1 << 2;
const HAS_INVALIDATIONS: u32 = 1 << 3;
const HAS_TWOPHASE: u32 = 1 << 4;
const HAS_DROPPED_STATS: u32 = 1 << 8;

/// Sizes of a time stamp, of the flags, of `xl_xact_dbinfo`.
const TIME_SIZE: usize = 8;
const FLAGS_SIZE: usize = 4;
const DBINFO_SIZE: u64 = 8;

/// `XLR_BLOCK_ID_…`: what the fragment headers begin with.
const DATA_SHORT: u8 = 255;
const DATA_LONG: u8 = 254;
const ORIGIN: u8 = 253;
const TOPLEVEL_XID: u8 = 252;

/// 2000-01-01, PostgreSQL's zero, in microseconds since 1970.
const POSTGRESQL_EPOCH_MICROS: i64 = 946_684_800_000_000;

/// A record of interest, as its bytes after the fixed header come by.
#[derive(Debug)]
pub(super) struct Contents {
    manager: u8,
    info: u8,
    magic: u16,
    head: Vec<u8>,
    /// Bytes so far.
    length: u64,
    prepared: Option<PreparedXid>,
}

impl Contents {
    /// For a record of this resource manager and `xl_info`; `None` when it is of no interest.
    pub(super) fn of(manager: u8, info: u8, magic: u16) -> Option<Self> {
        let interesting = match manager {
            RM_XLOG => info & RMGR_INFO_MASK == XLOG_RESTORE_POINT,
            RM_TABLESPACE => info & RMGR_INFO_MASK == XLOG_TABLESPACE_CREATE,
            RM_XACT => matches!(
                info & XACT_OPERATION_MASK,
                XACT_COMMIT | XACT_ABORT | XACT_COMMIT_PREPARED | XACT_ABORT_PREPARED
            ),
            _ => false,
        };
        interesting.then(|| Self { manager, info, magic, head: Vec::new(), length: 0, prepared: None })
    }

    /// The next bytes.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        let head_max = if self.manager == RM_TABLESPACE { TABLESPACE_HEAD_MAX } else { HEAD_MAX };
        let (head, rest) = bytes.split_at(bytes.len().min(head_max - self.head.len()));
        self.head.extend_from_slice(head);
        if !rest.is_empty() {
            self.look_for_prepared(self.length + head.len() as u64, rest);
        }
        self.length += bytes.len() as u64;
    }

    /// Goes on looking for a prepared transaction's number in bytes behind the head, which is full or all there is.
    fn look_for_prepared(&mut self, offset: u64, bytes: &[u8]) {
        if self.prepared.is_none() && self.is_prepared() {
            self.prepared = self.main_data().and_then(|(main, _)| self.first_section(main));
            if let Some(prepared) = &mut self.prepared {
                prepared.feed(0, &self.head);
            }
        }
        if let Some(prepared) = &mut self.prepared {
            prepared.feed(offset, bytes);
        }
    }

    fn is_prepared(&self) -> bool {
        self.manager == RM_XACT && matches!(self.info & XACT_OPERATION_MASK, XACT_COMMIT_PREPARED | XACT_ABORT_PREPARED)
    }

    /// All bytes have come: what the record says. `xid` is that of its header. `None` when it is none that a known
    /// version writes; these records never carry blocks.
    pub(super) fn finish(mut self, xid: u32) -> Option<RecordKind> {
        let (main, main_length) = self.main_data()?;
        if main as u64 + u64::from(main_length) != self.length {
            return None;
        }
        if self.manager == RM_TABLESPACE {
            let path = self.head.get(main + TABLESPACE_OID_SIZE..)?.split(|byte| *byte == 0).next()?;
            return Some(RecordKind::TablespaceCreated {
                oid: u32_at(&self.head, main)?,
                location: OsStr::from_bytes(path).into(),
            });
        }
        let time = timestamp(i64_at(&self.head, main)?);
        if self.manager == RM_XLOG {
            let name = self.head.get(main + TIME_SIZE..main + TIME_SIZE + RESTORE_POINT_NAME_SIZE)?;
            let name = name.split(|byte| *byte == 0).next()?;
            return Some(RecordKind::RestorePoint { name: String::from_utf8_lossy(name).into_owned(), time });
        }
        self.look_for_prepared(self.length, &[]);
        let prepared = || Some(TransactionEnd { xid: self.prepared.as_ref()?.found?, time });
        Some(match self.info & XACT_OPERATION_MASK {
            XACT_COMMIT => RecordKind::Commit(TransactionEnd { xid, time }),
            XACT_ABORT => RecordKind::Abort(TransactionEnd { xid, time }),
            XACT_COMMIT_PREPARED => RecordKind::CommitPrepared(prepared()?),
            _ => RecordKind::AbortPrepared(prepared()?),
        })
    }

    /// Where the main data begins and how long it says it is.
    fn main_data(&self) -> Option<(usize, u32)> {
        let mut at = 0;
        loop {
            match u8_at(&self.head, at)? {
                ORIGIN => at += 3,
                TOPLEVEL_XID => at += 5,
                DATA_SHORT => return Some((at + 2, u32::from(u8_at(&self.head, at + 1)?))),
                DATA_LONG => return Some((at + 5, u32_at(&self.head, at + 1)?)),
                _ => return None,
            }
        }
    }

    /// The search for a prepared transaction's number from the first section on.
    fn first_section(&self, main: usize) -> Option<PreparedXid> {
        let flags = u32_at(&self.head, main + TIME_SIZE).filter(|_| self.info & XACT_HAS_INFO != 0)?;
        let dbinfo = if flags & HAS_DBINFO != 0 { DBINFO_SIZE } else { 0 };
        (flags & HAS_TWOPHASE != 0).then(|| PreparedXid {
            sections: counted_sections(flags, self.magic),
            field: [0; 4],
            field_held: 0,
            wanted: (main + TIME_SIZE + FLAGS_SIZE) as u64 + dbinfo,
            found: None,
        })
    }
}

/// The sections before a prepared transaction's number, last first: each is a count and so many items of this size.
fn counted_sections(flags: u32, magic: u16) -> Vec<u64> {
    // xl_xact_stats_item: its object's number was widened to 64 bits in version 18.
    let stats_item = if major_of_magic(magic).is_some_and(|major| major < 18) { 12 } else { 16 };
    let all = [(HAS_INVALIDATIONS, 16), (HAS_DROPPED_STATS, stats_item), (HAS_RELATIONS, 12), (HAS_SUBXACTS, 4)];
    all.into_iter().filter(|(flag, _)| flags & flag != 0).map(|(_, size)| size).collect()
}

/// Walks over the counted sections to the number behind them.
#[derive(Debug)]
struct PreparedXid {
    /// Item sizes of the sections still to come, last first.
    sections: Vec<u64>,
    field: [u8; 4],
    field_held: usize,
    /// Where the next count, or the number itself, begins.
    wanted: u64,
    found: Option<u32>,
}

impl PreparedXid {
    /// The bytes from `offset` on, which follow those of the call before.
    fn feed(&mut self, offset: u64, bytes: &[u8]) {
        while self.found.is_none() {
            let next = self.wanted.saturating_add(self.field_held as u64);
            let Some(piece) = next.checked_sub(offset).and_then(|skip| bytes.get(usize::try_from(skip).ok()?..)) else {
                return;
            };
            let room = self.field.get_mut(self.field_held..).unwrap_or_default();
            self.field_held += at_most(piece, room.len() as u64).len();
            room.iter_mut().zip(piece).for_each(|(to, from)| *to = *from);
            if self.field_held < self.field.len() {
                return;
            }
            let value = u32::from_ne_bytes(self.field);
            self.field_held = 0;
            match self.sections.pop() {
                Some(size) => self.wanted = self.wanted.saturating_add(4 + u64::from(value) * size),
                None => self.found = Some(value),
            }
        }
    }
}

/// A `TimestampTz`; what lies beyond all calendars becomes their end.
fn timestamp(micros: i64) -> DateTime<Utc> {
    let limit = if micros < 0 { DateTime::<Utc>::MIN_UTC } else { DateTime::<Utc>::MAX_UTC };
    DateTime::from_timestamp_micros(micros.saturating_add(POSTGRESQL_EPOCH_MICROS)).unwrap_or(limit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::wal_reader::testing;
    use proptest::prelude::*;
    use rstest::rstest;

    fn read(manager: u8, info: u8, magic: u16, body: &[u8], piece: usize) -> Option<RecordKind> {
        let mut contents = Contents::of(manager, info, magic)?;
        body.chunks(piece).for_each(|piece| contents.feed(piece));
        contents.finish(7)
    }

    #[rstest]
    #[case::version_15(0xD110, 12)]
    #[case::version_17(0xD116, 12)]
    #[case::version_18(0xD118, 16)]
    #[case::newer(0xD121, 16)]
    fn a_prepared_transactions_number_lies_behind_all_sections(#[case] magic: u16, #[case] stats_item: usize) {
        for (sizes, piece) in
            [([0, 0, 0, 0], 1), ([3, 1, 2, 5], 7), ([500, 40, 0, 900], 100), ([1, 0, 900, 1], 1 << 20)]
        {
            let data = testing::prepared(42, sizes, stats_item);
            let body = testing::main_data(&data);
            let kind = read(RM_XACT, XACT_COMMIT_PREPARED | XACT_HAS_INFO, magic, &body, piece);
            assert!(matches!(kind, Some(RecordKind::CommitPrepared(end)) if end.xid == 42), "{kind:?}");
            let kind = read(RM_XACT, XACT_ABORT_PREPARED | XACT_HAS_INFO, magic, &body, piece);
            assert!(matches!(kind, Some(RecordKind::AbortPrepared(end)) if end.xid == 42), "{kind:?}");
        }
    }

    #[test]
    fn origin_and_top_level_transaction_are_passed_over() {
        let time = 842_000_000_123_456_i64;
        let mut body = vec![ORIGIN, 1, 2, TOPLEVEL_XID, 1, 2, 3, 4];
        body.extend(testing::main_data(&time.to_ne_bytes()));
        let kind = read(RM_XACT, XACT_ABORT, 0xD110, &body, 3).unwrap();
        let end = kind.transaction().unwrap();
        assert_eq!((end.xid, end.time.to_rfc3339()), (7, "2026-09-06T08:53:20.123456+00:00".to_owned()));
    }

    #[rstest]
    #[case("/space/fast".to_owned())]
    #[case(format!("/{}", "x".repeat(1022)))]
    #[case(String::new())]
    fn a_tablespace_is_created_at_a_path(#[case] path: String) {
        let data = [&16_385_u32.to_ne_bytes()[..], path.as_bytes(), &[0]].concat();
        for piece in [1, 100, 4000] {
            let kind = read(RM_TABLESPACE, XLOG_TABLESPACE_CREATE, 0xD110, &testing::main_data(&data), piece);
            let expected = RecordKind::TablespaceCreated { oid: 16_385, location: path.clone().into() };
            assert_eq!(kind, Some(expected));
        }
        // Dropping one harms nobody: the drop follows the link in the data directory.
        assert!(Contents::of(RM_TABLESPACE, 0x10, 0xD110).is_none());
    }

    #[rstest]
    #[case::no_contents(&[])]
    #[case::a_block(&[0, 0, 0, 0])]
    #[case::too_short(&[255, 4, 0, 0, 0, 0])]
    #[case::shorter_than_said(&[255, 9, 0, 0, 0, 0, 0, 0, 0, 0])]
    #[case::longer_than_said(&[255, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0])]
    fn strange_contents_are_refused(#[case] body: &[u8]) {
        for info in [XACT_COMMIT, XACT_ABORT_PREPARED] {
            assert_eq!(read(RM_XACT, info, 0xD110, body, 64), None);
        }
    }

    #[rstest]
    #[case(i64::MIN, DateTime::<Utc>::MIN_UTC)]
    #[case(i64::MAX, DateTime::<Utc>::MAX_UTC)]
    fn times_beyond_all_calendars_are_their_end(#[case] micros: i64, #[case] time: DateTime<Utc>) {
        assert_eq!(timestamp(micros), time);
    }

    proptest! {
        #[test]
        fn never_panics(info: u8, manager in 0_u8..6, magic: u16, body in proptest::collection::vec(any::<u8>(), 0..300), lead: bool) {
            let body = if lead { testing::main_data(&body) } else { body };
            for piece in [1, 50, 1000] {
                drop(read(manager, info, magic, &body, piece));
            }
        }
    }
}
