//! What the records say that matters to a check of the log in depth, not to a recovery's target: settings
//! (`src/include/access/xlog_internal.h`), relations that are created and cut off (`src/include/catalog/storage_xlog.h`),
//! `TRUNCATE` (`src/include/access/heapam_xlog.h`), databases (`src/include/commands/dbcommands_xlog.h`) and mapped
//! catalogs (`src/include/utils/relmapper.h`). All of these are the same from 14 to 18, but for the databases' operations.

use super::kinds::{DatabaseFolder, Depth, Parameters, RecordKind, RelFileLocator};
use super::lists::{Items, List, Walk};
use super::record::{RM_XLOG, RMGR_INFO_MASK};
use crate::pg::bytes::{i32_at, u8_at, u32_at};
use crate::pg::exclusions::Fork;
use crate::pg::wal_page::major_of_magic;

/// `RM_SMGR_ID`, `RM_DBASE_ID`, `RM_RELMAP_ID`, `RM_HEAP_ID`.
const RM_STORAGE: u8 = 2;
const RM_DATABASE: u8 = 4;
const RM_MAP: u8 = 7;
const RM_HEAP: u8 = 10;

/// `XLOG_PARAMETER_CHANGE`, `XLOG_FPW_CHANGE`.
const XLOG_PARAMETER_CHANGE: u8 = 0x60;
const XLOG_FPW_CHANGE: u8 = 0x80;
/// `XLOG_SMGR_CREATE`, `XLOG_SMGR_TRUNCATE`.
const STORAGE_CREATE: u8 = 0x10;
const STORAGE_TRUNCATE: u8 = 0x20;
/// `XLOG_HEAP_OPMASK`, `XLOG_HEAP_TRUNCATE`.
const HEAP_OPERATION_MASK: u8 = 0x70;
const HEAP_TRUNCATE: u8 = 0x30;
/// `XLOG_RELMAP_UPDATE`.
const MAP_UPDATE: u8 = 0x00;

/// `XLH_TRUNCATE_CASCADE`, `XLH_TRUNCATE_RESTART_SEQS`.
const TRUNCATE_CASCADE: u8 = 1;
const TRUNCATE_RESTART_IDENTITY: u8 = 2;

/// `SizeOfHeapTruncate`, `MinSizeOfDbaseDropRec`, `MinSizeOfRelmapUpdate`: what comes before the items.
const TRUNCATE_HEAD_SIZE: u64 = 12;
const DROP_HEAD_SIZE: u64 = 8;
const MAP_HEAD_SIZE: u64 = 12;
/// `RelMapFile.num_mappings`, behind the magic.
const MAP_COUNT_OFFSET: u64 = 4;

/// A kind of these records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Parameters,
    FullPageWrites,
    RelationCreate,
    RelationTruncate,
    TablesTruncate,
    DatabaseCopy,
    DatabaseCreate,
    DatabaseDrop,
    MapUpdate,
}

impl Change {
    /// The kind of a record of this resource manager and `xl_info`; `None` when it is another one.
    pub(super) fn of(manager: u8, info: u8, magic: u16) -> Option<Self> {
        let operation = info & RMGR_INFO_MASK;
        Some(match (manager, operation) {
            (RM_XLOG, XLOG_PARAMETER_CHANGE) => Self::Parameters,
            (RM_XLOG, XLOG_FPW_CHANGE) => Self::FullPageWrites,
            (RM_STORAGE, STORAGE_CREATE) => Self::RelationCreate,
            (RM_STORAGE, STORAGE_TRUNCATE) => Self::RelationTruncate,
            (RM_MAP, MAP_UPDATE) => Self::MapUpdate,
            (RM_HEAP, _) if info & HEAP_OPERATION_MASK == HEAP_TRUNCATE => Self::TablesTruncate,
            (RM_DATABASE, _) => return Self::of_database(operation, magic),
            _ => return None,
        })
    }

    /// Version 15 put the creation without a copy between the two that there were.
    fn of_database(operation: u8, magic: u16) -> Option<Self> {
        let with_log = if major_of_magic(magic) == Some(14) { None } else { Some(Self::DatabaseCreate) };
        [Some(Self::DatabaseCopy), with_log, Some(Self::DatabaseDrop)]
            .into_iter()
            .flatten()
            .nth(usize::from(operation >> 4))
    }

    /// The walk over what it lists, when its main data begins at `main`.
    pub(super) fn walk(self, main: u64, depth: Depth) -> Option<Walk> {
        let list = match self {
            Self::MapUpdate if depth == Depth::Rows => {
                let list = List { gap: 0, items: Items::Mappings };
                return Some(Walk::new(main + MAP_HEAD_SIZE + MAP_COUNT_OFFSET, vec![list], false));
            }
            Self::TablesTruncate => List { gap: 4, items: Items::Tables },
            Self::DatabaseDrop => List { gap: 0, items: Items::Tablespaces },
            _ => return None,
        };
        // The database comes first in both.
        Some(Walk::new(main + 4, vec![list], false))
    }

    /// What a record of this kind says: `data` is the beginning of its main data, of `length` bytes in all. `None` for
    /// data that no known version writes.
    pub(super) fn read(self, data: &[u8], length: u64) -> Option<RecordKind> {
        let number = |at| u32_at(data, at);
        let folder = |at| Some(DatabaseFolder { database: number(at)?, tablespace: number(at + 4)? });
        let (size, kind) = match self {
            Self::Parameters => (28, RecordKind::ParametersChanged(parameters(data)?)),
            Self::FullPageWrites => (1, RecordKind::FullPageWritesChanged(flag(data, 0)?)),
            Self::RelationCreate => {
                let (relation, fork) = (locator(data, 0)?, fork(number(12)?)?);
                (16, RecordKind::RelationCreated { relation, fork })
            }
            Self::RelationTruncate => {
                let (blocks, relation, forks) = (number(0)?, locator(data, 4)?, number(16)?);
                (20, RecordKind::RelationTruncated { relation, blocks, forks })
            }
            Self::TablesTruncate => {
                let (database, tables, flags) = (number(0)?, number(4)?, u8_at(data, 8)?);
                let cascade = flags & TRUNCATE_CASCADE != 0;
                let restart_identity = flags & TRUNCATE_RESTART_IDENTITY != 0;
                let kind = RecordKind::TablesTruncated { database, tables, cascade, restart_identity };
                (TRUNCATE_HEAD_SIZE + 4 * u64::from(tables), kind)
            }
            Self::DatabaseCopy => (16, RecordKind::DatabaseCreated { folder: folder(0)?, copied: Some(folder(8)?) }),
            Self::DatabaseCreate => (8, RecordKind::DatabaseCreated { folder: folder(0)?, copied: None }),
            Self::DatabaseDrop => {
                let (database, tablespaces) = (number(0)?, number(4)?);
                let size = DROP_HEAD_SIZE + 4 * u64::from(tablespaces);
                (size, RecordKind::DatabaseDropped { database, tablespaces })
            }
            Self::MapUpdate => (MAP_HEAD_SIZE + u64::from(number(8)?), RecordKind::MapUpdated(folder(0)?)),
        };
        (size == length).then_some(kind)
    }
}

fn parameters(data: &[u8]) -> Option<Parameters> {
    let number = |at| i32_at(data, at);
    Some(Parameters {
        max_connections: number(0)?,
        max_worker_processes: number(4)?,
        max_wal_senders: number(8)?,
        max_prepared_xacts: number(12)?,
        max_locks_per_xact: number(16)?,
        wal_level: number(20)?,
        wal_log_hints: flag(data, 24)?,
        track_commit_timestamp: flag(data, 25)?,
    })
}

/// The three numbers of a relation's place.
pub(super) fn locator(data: &[u8], at: usize) -> Option<RelFileLocator> {
    let number = |at| u32_at(data, at);
    Some(RelFileLocator { tablespace: number(at)?, database: number(at + 4)?, relnumber: number(at + 8)? })
}

/// A `ForkNumber`.
fn fork(number: u32) -> Option<Fork> {
    [Fork::Main, Fork::Fsm, Fork::Vm, Fork::Init].get(usize::try_from(number).ok()?).copied()
}

fn flag(data: &[u8], at: usize) -> Option<bool> {
    u8_at(data, at).map(|byte| byte != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::wal_reader::testing::{locator, numbers};
    use proptest::prelude::*;
    use rstest::rstest;

    const V14: u16 = 0xD10D;
    const V18: u16 = 0xD118;
    const RELATION: RelFileLocator = RelFileLocator { tablespace: 1663, database: 5, relnumber: 16_385 };

    fn folder(database: u32, tablespace: u32) -> DatabaseFolder {
        DatabaseFolder { database, tablespace }
    }

    fn parameters() -> (Vec<u8>, RecordKind) {
        let mut data = numbers(&[100, 8, 10, 5, 64, 2]);
        data.extend([1, 0, 0, 0]);
        let kind = RecordKind::ParametersChanged(Parameters {
            max_connections: 100,
            max_worker_processes: 8,
            max_wal_senders: 10,
            max_prepared_xacts: 5,
            max_locks_per_xact: 64,
            wal_level: 2,
            wal_log_hints: true,
            track_commit_timestamp: false,
        });
        (data, kind)
    }

    fn truncated(flags: u8, cascade: bool, restart_identity: bool) -> (Vec<u8>, RecordKind) {
        let kind = RecordKind::TablesTruncated { database: 5, tables: 2, cascade, restart_identity };
        ([numbers(&[5, 2]), vec![flags, 0, 0, 0], numbers(&[16_385, 16_390])].concat(), kind)
    }

    fn created(fork_number: u32, fork: Fork) -> (Vec<u8>, RecordKind) {
        let data = [locator(RELATION), numbers(&[fork_number])].concat();
        (data, RecordKind::RelationCreated { relation: RELATION, fork })
    }

    fn cut_off() -> (Vec<u8>, RecordKind) {
        let data = [numbers(&[12]), locator(RELATION), numbers(&[7])].concat();
        (data, RecordKind::RelationTruncated { relation: RELATION, blocks: 12, forks: 7 })
    }

    fn copied() -> (Vec<u8>, RecordKind) {
        let kind = RecordKind::DatabaseCreated { folder: folder(16_400, 1663), copied: Some(folder(1, 1664)) };
        (numbers(&[16_400, 1663, 1, 1664]), kind)
    }

    fn dropped() -> (Vec<u8>, RecordKind) {
        (numbers(&[16_400, 2, 1663, 16_384]), RecordKind::DatabaseDropped { database: 16_400, tablespaces: 2 })
    }

    fn mapped() -> (Vec<u8>, RecordKind) {
        ([numbers(&[5, 1663, 512]), vec![0; 512]].concat(), RecordKind::MapUpdated(folder(5, 1663)))
    }

    #[rstest]
    #[case::parameters(0, 0x60, V14, parameters())]
    #[case::full_page_writes(0, 0x80, V18, (vec![1], RecordKind::FullPageWritesChanged(true)))]
    #[case::no_full_page_writes(0, 0x80, V14, (vec![0], RecordKind::FullPageWritesChanged(false)))]
    #[case::main_fork(2, 0x11, V14, created(0, Fork::Main))]
    #[case::init_fork(2, 0x11, V18, created(3, Fork::Init))]
    #[case::cut_off(2, 0x21, V18, cut_off())]
    #[case::truncate(10, 0x30, V14, truncated(0, false, false))]
    #[case::truncate_cascade(10, 0xB0, V18, truncated(1, true, false))]
    #[case::truncate_restart(10, 0x30, V18, truncated(2, false, true))]
    #[case::copied_14(4, 0x01, V14, copied())]
    #[case::copied(4, 0x01, V18, copied())]
    #[case::logged(4, 0x10, V18, (numbers(&[16_400, 1663]), RecordKind::DatabaseCreated { folder: folder(16_400, 1663), copied: None }))]
    #[case::dropped_14(4, 0x11, V14, dropped())]
    #[case::dropped(4, 0x21, V18, dropped())]
    #[case::mapped(7, 0, V18, mapped())]
    fn every_kind_is_read(
        #[case] manager: u8,
        #[case] info: u8,
        #[case] magic: u16,
        #[case] (data, kind): (Vec<u8>, RecordKind),
    ) {
        let change = Change::of(manager, info, magic).unwrap();
        assert_eq!(change.read(&data, data.len() as u64), Some(kind));
        assert_eq!(change.read(&data, data.len() as u64 + 1), None, "longer than it should be");
        for length in 0..data.len() {
            assert_eq!(change.read(&data[..length], length as u64), None, "{length} bytes");
        }
    }

    #[rstest]
    #[case::checkpoint(0, 0x10, V18)]
    #[case::insert(10, 0x00, V18)]
    #[case::in_place(10, 0x70, V18)]
    #[case::no_third_operation_in_14(4, 0x20, V14)]
    #[case::nor_a_fourth_later(4, 0x30, V18)]
    #[case::other_storage(2, 0x30, V18)]
    #[case::prune(9, 0x30, V18)]
    fn other_records_are_of_no_interest(#[case] manager: u8, #[case] info: u8, #[case] magic: u16) {
        assert_eq!(Change::of(manager, info, magic), None);
    }

    #[test]
    fn there_is_no_fifth_fork() {
        let data = [locator(RELATION), numbers(&[4])].concat();
        assert_eq!(Change::RelationCreate.read(&data, 16), None);
    }

    proptest! {
        #[test]
        fn never_panics(info: u8, manager in 0_u8..12, magic in prop_oneof![Just(V14), Just(V18)], data in proptest::collection::vec(any::<u8>(), 0..40), length: u64) {
            if let Some(change) = Change::of(manager, info, magic) {
                drop(change.read(&data, length));
                drop(change.read(&data, data.len() as u64));
            }
        }
    }
}
