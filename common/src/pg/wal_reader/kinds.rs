//! What is told of records.

use std::path::PathBuf;

use chrono::{DateTime, Utc};

use super::heap_record::HeapRecord;
use crate::pg::Lsn;
use crate::pg::exclusions::Fork;

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its first byte (`ReadRecPtr`): what `recovery_target_lsn` is compared with and what `pg_waldump` prints.
    pub start: Lsn,
    /// Where replay stands once it is applied (`EndRecPtr`). After a segment switch that is the next segment's start.
    pub end: Lsn,
    /// The transaction or subtransaction that wrote it, without an epoch; 0 for none. The end of a prepared transaction has
    /// that one's number in its kind alone.
    pub xid: u32,
    /// What it is.
    pub kind: RecordKind,
}

/// What a record is, as far as a recovery can stop at it or must look out for it; the variants from
/// [`RecordKind::FullPageWritesChanged`] on are told in depth only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordKind {
    /// A transaction was committed.
    Commit(TransactionEnd),
    /// A transaction was rolled back.
    Abort(TransactionEnd),
    /// A prepared transaction was committed; the number is the prepared one's own.
    CommitPrepared(TransactionEnd),
    /// A prepared transaction was rolled back; the number is the prepared one's own.
    AbortPrepared(TransactionEnd),
    /// A restore point (`pg_create_restore_point`).
    RestorePoint {
        /// Its name; bytes that are no UTF-8 are replaced.
        name: String,
        /// When it was made.
        time: DateTime<Utc>,
    },
    /// A tablespace was created (`XLOG_TBLSPC_CREATE`): its replay writes there, wherever the server runs.
    TablespaceCreated {
        /// Its object id.
        oid: u32,
        /// Where it lies; empty for one within the data directory.
        location: PathBuf,
    },
    /// The server runs with other settings from here on (`XLOG_PARAMETER_CHANGE`): a standby must not have less.
    ParametersChanged(Parameters),
    /// `full_page_writes` was switched to this (`XLOG_FPW_CHANGE`).
    FullPageWritesChanged(bool),
    /// An empty file was made for a fork of a relation (`XLOG_SMGR_CREATE`): of a new relation, or of one whose contents
    /// are written anew or thrown away (`VACUUM FULL`, `TRUNCATE`); the old files go with the commit.
    RelationCreated {
        /// The relation's files.
        relation: RelFileLocator,
        /// Which of them.
        fork: Fork,
    },
    /// A relation was cut off (`XLOG_SMGR_TRUNCATE`).
    RelationTruncated {
        /// The relation's files.
        relation: RelFileLocator,
        /// How many blocks of the main fork are left.
        blocks: u32,
        /// The forks that are cut off, as the sum of `SMGR_TRUNCATE_HEAP` (1), `SMGR_TRUNCATE_VM` (2) and
        /// `SMGR_TRUNCATE_FSM` (4).
        forks: u32,
    },
    /// `TRUNCATE` (`XLOG_HEAP_TRUNCATE`), written for logical decoding alone. Its tables are [`Listed::Table`].
    TablesTruncated {
        /// The database.
        database: u32,
        /// How many tables.
        tables: u32,
        /// Whether it was said to `CASCADE`.
        cascade: bool,
        /// Whether it was said to `RESTART IDENTITY`.
        restart_identity: bool,
    },
    /// A database was created, or for one that moves to another tablespace its folder there.
    DatabaseCreated {
        /// The new database's folder.
        folder: DatabaseFolder,
        /// The folder that replay copies whole (the strategy `FILE_COPY`, the only one before 15); none where the pages
        /// follow as records of their own (`WAL_LOG`).
        copied: Option<DatabaseFolder>,
    },
    /// A database, or what lies of it in a tablespace, was removed (`XLOG_DBASE_DROP`). The tablespaces are
    /// [`Listed::Tablespace`].
    DatabaseDropped {
        /// The database.
        database: u32,
        /// How many tablespaces it is removed from.
        tablespaces: u32,
    },
    /// Catalogs of this database, or the shared ones, have other files from here on (`XLOG_RELMAP_UPDATE`).
    MapUpdated(DatabaseFolder),
    /// Rows or whole pages of a relation changed; told with rows only.
    Heap(HeapRecord),
    /// Anything else.
    Other,
}

impl RecordKind {
    /// The transaction that ends here, committed or not.
    pub fn transaction(&self) -> Option<TransactionEnd> {
        match self {
            Self::Commit(end) | Self::Abort(end) | Self::CommitPrepared(end) | Self::AbortPrepared(end) => Some(*end),
            _ => None,
        }
    }

    /// Whether a transaction becomes visible here.
    pub fn is_commit(&self) -> bool {
        matches!(self, Self::Commit(_) | Self::CommitPrepared(_))
    }
}

/// The end of one transaction. The relations whose files it removes are [`Listed::Relation`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransactionEnd {
    /// Its number, without an epoch.
    pub xid: u32,
    /// When it ended, by the clock of the server, which need not have gone forwards.
    pub time: DateTime<Utc>,
}

/// How much is told of the records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Depth {
    /// Where a recovery can stop.
    Stops,
    /// What happens to relations, databases and settings, too.
    Changes,
    /// And to rows.
    Rows,
}

/// Where a relation's files lie (`RelFileLocator`; `RelFileNode` before 16). Not its object id: a relation that is written
/// anew has other files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RelFileLocator {
    /// The tablespace's object id; 1663 is `base`, 1664 `global`.
    pub tablespace: u32,
    /// The database's object id; 0 in `global`.
    pub database: u32,
    /// `relfilenode`, the number in the file's name.
    pub relnumber: u32,
}

/// The folder of a database in a tablespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DatabaseFolder {
    /// The database's object id; 0 for what all databases share.
    pub database: u32,
    /// The tablespace's object id.
    pub tablespace: u32,
}

/// The settings that a record of their change holds (`xl_parameter_change`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameters {
    /// `max_connections`.
    pub max_connections: i32,
    /// `max_worker_processes`.
    pub max_worker_processes: i32,
    /// `max_wal_senders`.
    pub max_wal_senders: i32,
    /// `max_prepared_transactions`.
    pub max_prepared_xacts: i32,
    /// `max_locks_per_transaction`.
    pub max_locks_per_xact: i32,
    /// `wal_level`: 0 is minimal, 1 replica, 2 logical.
    pub wal_level: i32,
    /// `wal_log_hints`.
    pub wal_log_hints: bool,
    /// `track_commit_timestamp`.
    pub track_commit_timestamp: bool,
}

impl Parameters {
    /// The higher value of each number; what is no number as in `later`.
    #[must_use]
    pub fn highest(&self, later: &Self) -> Self {
        Self {
            max_connections: self.max_connections.max(later.max_connections),
            max_worker_processes: self.max_worker_processes.max(later.max_worker_processes),
            max_wal_senders: self.max_wal_senders.max(later.max_wal_senders),
            max_prepared_xacts: self.max_prepared_xacts.max(later.max_prepared_xacts),
            max_locks_per_xact: self.max_locks_per_xact.max(later.max_locks_per_xact),
            ..*later
        }
    }
}

/// One of the things that a record lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listed {
    /// The end of a transaction removes all files of this relation: it was dropped, truncated or written anew by a
    /// transaction that commits, or created by one that is rolled back.
    Relation(RelFileLocator),
    /// A database is removed from the tablespace with this object id.
    Tablespace(u32),
    /// The table with this object id is truncated.
    Table(u32),
    /// A subtransaction ends with its transaction; told with rows only.
    Subtransaction(u32),
    /// A mapped catalog, by its object id, has the files of this number from here on; told with rows only.
    Mapping {
        /// The catalog's object id.
        catalog: u32,
        /// The number in its files' names.
        relnumber: u32,
    },
}

/// What [`RecordReader::feed_all`](super::RecordReader::feed_all) tells, in the order of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// An item of the record whose own event follows once it is whole. Until then nobody knows whether its checksum is
    /// right: where the log ends before, the item was never told.
    Listed(Listed),
    /// A record.
    Record(Record),
}
