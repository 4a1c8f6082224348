//! What the records say that a recovery can stop at, the ends of transactions (`src/include/access/xact.h`,
//! `src/backend/access/rmgrdesc/xactdesc.c`) and restore points (`src/include/access/xlog_internal.h`), and those that
//! a copy must not replay, the creations of tablespaces (`src/include/commands/tablespace.h`); in depth, what
//! [`super::changes`] knows too.
//!
//! A commit record names every subtransaction and every dropped relation and can be as large as a record can be. What
//! is wanted of it lies at its beginning, except the relations and a prepared transaction's number: these are picked out as
//! the bytes pass.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use chrono::{DateTime, Utc};

use super::changes::Change;
use super::kinds::{Depth, Listed, RecordKind, TransactionEnd};
use super::lists::{Items, List, Walk};
use super::record::{RM_XLOG, RMGR_INFO_MASK};
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

/// Which kind of record of interest it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subject {
    Commit,
    Abort,
    CommitPrepared,
    AbortPrepared,
    RestorePoint,
    TablespaceCreate,
    Change(Change),
}

impl Subject {
    /// Of a record of this resource manager and `xl_info`, as far as a recovery is concerned.
    fn of(manager: u8, info: u8) -> Option<Self> {
        match manager {
            RM_XLOG if info & RMGR_INFO_MASK == XLOG_RESTORE_POINT => Some(Self::RestorePoint),
            RM_TABLESPACE if info & RMGR_INFO_MASK == XLOG_TABLESPACE_CREATE => Some(Self::TablespaceCreate),
            RM_XACT => match info & XACT_OPERATION_MASK {
                XACT_COMMIT => Some(Self::Commit),
                XACT_ABORT => Some(Self::Abort),
                XACT_COMMIT_PREPARED => Some(Self::CommitPrepared),
                XACT_ABORT_PREPARED => Some(Self::AbortPrepared),
                _ => None,
            },
            _ => None,
        }
    }

    /// How much of the beginning is kept.
    fn head_max(self) -> usize {
        if self == Self::TablespaceCreate { TABLESPACE_HEAD_MAX } else { HEAD_MAX }
    }
}

/// A record of interest, as its bytes after the fixed header come by.
#[derive(Debug)]
pub(super) struct Contents {
    subject: Subject,
    info: u8,
    magic: u16,
    depth: Depth,
    head: Vec<u8>,
    /// Bytes so far.
    length: u64,
    /// Through its lists, once the head is there.
    walk: Option<Walk>,
}

impl Contents {
    /// For a record of this resource manager and `xl_info`; `None` when it is of no interest.
    pub(super) fn of(manager: u8, info: u8, magic: u16, depth: Depth) -> Option<Self> {
        let subject = if let Some(subject) = Subject::of(manager, info) {
            subject
        } else {
            // A recovery must look out for changed settings, whether or not it looks into the rest.
            let is_wanted = |it: &Change| depth >= Depth::Changes || *it == Change::Parameters;
            Subject::Change(Change::of(manager, info, magic).filter(is_wanted)?)
        };
        Some(Self { subject, info, magic, depth, head: Vec::new(), length: 0, walk: None })
    }

    /// The next bytes, of one page at most; tells what they list.
    pub(super) fn feed(&mut self, bytes: &[u8], listed: &mut Vec<Listed>) {
        let (head, rest) = bytes.split_at(bytes.len().min(self.subject.head_max() - self.head.len()));
        self.head.extend_from_slice(head);
        if !rest.is_empty() {
            self.walk_on(self.length + head.len() as u64, rest, listed);
        }
        self.length += bytes.len() as u64;
    }

    /// Goes on through the lists in bytes behind the head, which is full or all there is.
    fn walk_on(&mut self, offset: u64, bytes: &[u8], listed: &mut Vec<Listed>) {
        if self.walk.is_none() {
            self.walk = self.main_data().and_then(|(main, _)| self.new_walk(main));
            if let Some(walk) = &mut self.walk {
                walk.feed(0, &self.head, listed);
            }
        }
        if let Some(walk) = &mut self.walk {
            walk.feed(offset, bytes, listed);
        }
    }

    /// All bytes have come: what the record says. `xid` is that of its header. `None` when it is none that a known
    /// version writes; these records never carry blocks.
    pub(super) fn finish(mut self, xid: u32, listed: &mut Vec<Listed>) -> Option<RecordKind> {
        let (main, main_length) = self.main_data()?;
        if main as u64 + u64::from(main_length) != self.length {
            return None;
        }
        self.walk_on(self.length, &[], listed);
        let data = self.head.get(main..)?;
        let end = |xid: Option<u32>| {
            let time = timestamp(i64_at(data, 0)?);
            let lists_end = self.walk.as_ref().is_none_or(|walk| walk.is_complete(self.length));
            Some(TransactionEnd { xid: xid?, time }).filter(|_| lists_end)
        };
        let prepared = || end(self.walk.as_ref()?.number());
        Some(match self.subject {
            Subject::Commit => RecordKind::Commit(end(Some(xid))?),
            Subject::Abort => RecordKind::Abort(end(Some(xid))?),
            Subject::CommitPrepared => RecordKind::CommitPrepared(prepared()?),
            Subject::AbortPrepared => RecordKind::AbortPrepared(prepared()?),
            Subject::RestorePoint => {
                let name = data.get(TIME_SIZE..TIME_SIZE + RESTORE_POINT_NAME_SIZE)?.split(|byte| *byte == 0).next()?;
                let name = String::from_utf8_lossy(name).into_owned();
                RecordKind::RestorePoint { name, time: timestamp(i64_at(data, 0)?) }
            }
            Subject::TablespaceCreate => {
                let path = data.get(TABLESPACE_OID_SIZE..)?.split(|byte| *byte == 0).next()?;
                RecordKind::TablespaceCreated { oid: u32_at(data, 0)?, location: OsStr::from_bytes(path).into() }
            }
            Subject::Change(change) => change.read(data, main_length.into())?,
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

    /// The walk through what the record lists, if anybody wants something of it.
    fn new_walk(&self, main: usize) -> Option<Walk> {
        let is_prepared = match self.subject {
            Subject::CommitPrepared | Subject::AbortPrepared => true,
            Subject::Commit | Subject::Abort => false,
            Subject::Change(change) => return change.walk(main as u64, self.depth),
            Subject::RestorePoint | Subject::TablespaceCreate => return None,
        };
        let flags = u32_at(&self.head, main + TIME_SIZE).filter(|_| self.info & XACT_HAS_INFO != 0)?;
        let has_number = is_prepared && flags & HAS_TWOPHASE != 0;
        if !has_number && self.depth == Depth::Stops {
            return None;
        }
        let dbinfo = if flags & HAS_DBINFO != 0 { DBINFO_SIZE } else { 0 };
        let position = (main + TIME_SIZE + FLAGS_SIZE) as u64 + dbinfo;
        Some(Walk::new(position, lists_of(flags, self.magic, self.depth), has_number))
    }
}

/// The lists in the end of a transaction, last first.
fn lists_of(flags: u32, magic: u16, depth: Depth) -> Vec<List> {
    // xl_xact_stats_item: its object's number was widened to 64 bits in version 18.
    let stats_item = if major_of_magic(magic).is_some_and(|major| major < 18) { 12 } else { 16 };
    let relations = if depth >= Depth::Changes { Items::Relations } else { Items::Any(12) };
    let subtransactions = if depth == Depth::Rows { Items::Subtransactions } else { Items::Any(4) };
    let all = [
        (HAS_INVALIDATIONS, Items::Any(16)),
        (HAS_DROPPED_STATS, Items::Any(stats_item)),
        (HAS_RELATIONS, relations),
        (HAS_SUBXACTS, subtransactions),
    ];
    all.into_iter().filter(|(flag, _)| flags & flag != 0).map(|(_, items)| List { gap: 0, items }).collect()
}

/// A `TimestampTz`; what lies beyond all calendars becomes their end.
fn timestamp(micros: i64) -> DateTime<Utc> {
    let limit = if micros < 0 { DateTime::<Utc>::MIN_UTC } else { DateTime::<Utc>::MAX_UTC };
    DateTime::from_timestamp_micros(micros.saturating_add(POSTGRESQL_EPOCH_MICROS)).unwrap_or(limit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::wal_reader::{RelFileLocator, testing};
    use proptest::prelude::*;
    use rstest::rstest;

    /// What the record is, read in depth, and what it lists. Without depth it is the same and lists nothing.
    fn read_all(manager: u8, info: u8, magic: u16, body: &[u8], piece: usize) -> Option<(RecordKind, Vec<Listed>)> {
        let read = |depth| {
            let mut contents = Contents::of(manager, info, magic, depth)?;
            let mut listed = Vec::new();
            body.chunks(piece).for_each(|piece| contents.feed(piece, &mut listed));
            Some((contents.finish(7, &mut listed)?, listed))
        };
        let outcome = read(Depth::Changes);
        if let (Some((kind, _)), Some(_)) = (&outcome, Subject::of(manager, info)) {
            assert_eq!(read(Depth::Stops), Some((kind.clone(), vec![])));
            assert_eq!(read(Depth::Rows).map(|(kind, _)| kind), Some(kind.clone()));
        }
        outcome
    }

    fn read(manager: u8, info: u8, magic: u16, body: &[u8], piece: usize) -> Option<RecordKind> {
        read_all(manager, info, magic, body, piece).map(|(kind, _)| kind)
    }

    #[rstest]
    #[case::version_14(0xD10D, 12)]
    #[case::version_15(0xD110, 12)]
    #[case::version_17(0xD116, 12)]
    #[case::version_18(0xD118, 16)]
    #[case::newer(0xD121, 16)]
    fn a_prepared_transactions_number_lies_behind_all_sections(#[case] magic: u16, #[case] stats_item: usize) {
        for (sizes, piece) in
            [([0, 0, 0, 0], 1), ([3, 1, 2, 5], 7), ([500, 40, 0, 900], 100), ([1, 0, 900, 1], 1 << 20)]
        {
            let data = testing::transaction_end(Some(42), sizes, stats_item).0;
            let body = testing::main_data(&data);
            let kind = read(RM_XACT, XACT_COMMIT_PREPARED | XACT_HAS_INFO, magic, &body, piece);
            assert!(matches!(kind, Some(RecordKind::CommitPrepared(end)) if end.xid == 42), "{kind:?}");
            let kind = read(RM_XACT, XACT_ABORT_PREPARED | XACT_HAS_INFO, magic, &body, piece);
            assert!(matches!(kind, Some(RecordKind::AbortPrepared(end)) if end.xid == 42), "{kind:?}");
        }
    }

    #[rstest]
    #[case::version_14(0xD10D, 12)]
    #[case::version_18(0xD118, 16)]
    fn the_relations_that_an_end_removes_are_told(#[case] magic: u16, #[case] stats_item: usize) {
        for sizes in [[0, 0, 0, 0], [0, 1, 0, 0], [3, 2, 2, 5], [500, 3000, 40, 900]] {
            let (data, expected) = testing::transaction_end(Some(42), sizes, stats_item);
            let body = testing::main_data(&data);
            for (operation, piece) in
                [(XACT_COMMIT, 8192), (XACT_ABORT, 1), (XACT_COMMIT_PREPARED, 13), (XACT_ABORT_PREPARED, 100)]
            {
                let (_, listed) = read_all(RM_XACT, operation | XACT_HAS_INFO, magic, &body, piece).unwrap();
                let listed: Vec<RelFileLocator> = listed
                    .iter()
                    .map(|item| match item {
                        Listed::Relation(relation) => *relation,
                        other => panic!("{other:?}"),
                    })
                    .collect();
                assert_eq!(listed, expected);
            }
        }
    }

    #[test]
    fn a_list_longer_than_its_record_is_refused_in_depth() {
        let mut data = testing::transaction_end(None, [0, 3, 0, 0], 12).0;
        let body = |data: &[u8]| testing::main_data(data);
        assert!(read(RM_XACT, XACT_HAS_INFO, 0xD110, &body(&data), 100).is_some());
        data.truncate(data.len() - 1);
        assert_eq!(read(RM_XACT, XACT_HAS_INFO, 0xD110, &body(&data), 100), None);
        let mut plain = Contents::of(RM_XACT, XACT_HAS_INFO, 0xD110, Depth::Stops).unwrap();
        plain.feed(&body(&data), &mut vec![]);
        assert!(plain.finish(7, &mut vec![]).is_some(), "a recovery does not look there");
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
        assert!(Contents::of(RM_TABLESPACE, 0x10, 0xD110, Depth::Changes).is_none());
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
        fn never_panics(info: u8, manager in 0_u8..11, magic in prop_oneof![Just(0xD10D), Just(0xD118), any::<u16>()], body in proptest::collection::vec(any::<u8>(), 0..300), lead: bool) {
            let body = if lead { testing::main_data(&body) } else { body };
            for piece in [1, 50, 1000] {
                drop(read(manager, info, magic, &body, piece));
            }
        }
    }
}
