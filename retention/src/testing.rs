//! Repositories in memory with backups and WAL that have names, records and sizes, and no real contents.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use common::archive::{Repository, inventory};
use common::codec::{Codec, Compression};
use common::pg::{ArchiveName, Lsn, SegmentSize, SystemIdentifier, TimelineHistory, TimelineId, WalSegmentName};
use common::repo::chain::Inventory;
use common::repo::layout::backup_object;
use common::repo::records::{
    AbandonedRecord, BackupRecord, IdentityRecord, LeaseRecord, PartRecord, StartedRecord, WalPosition, testing,
};
use common::repo::{BackupId, ClusterName};
use common::store::{MemoryStore, Store};

use crate::facts;
use crate::policy::{Plan, Policy, Verdict, decide};

pub(crate) const SIZE: SegmentSize = SegmentSize::DEFAULT;
pub(crate) const SEG: u64 = 16 << 20;
pub(crate) const SYSTEM: SystemIdentifier = 7;

/// A position `eighths` eighths of a segment from 0/0.
pub(crate) fn at(eighths: u64) -> Lsn {
    Lsn(eighths * SEG / 8)
}

/// The moment `minutes` after the tests' day begins.
pub(crate) fn time(minutes: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000, 0).unwrap() + TimeDelta::minutes(minutes)
}

pub(crate) fn segment(timeline: u32, number: u64) -> WalSegmentName {
    WalSegmentName::numbered(TimelineId(timeline), number, SIZE)
}

pub(crate) struct World {
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) repository: Repository,
}

impl World {
    /// A cluster that is known by [`SYSTEM`] and has nothing yet.
    pub(crate) fn new() -> Self {
        let store = Arc::new(MemoryStore::new());
        let shared: Arc<dyn Store> = store.clone();
        let repository =
            Repository::open_or_create(shared, ClusterName::default(), Compression::default(), time(0)).unwrap();
        let world = Self { store, repository };
        world.system(SYSTEM, 0);
        world
    }

    /// The cluster has a system identifier since `minutes`.
    pub(crate) fn system(&self, system: SystemIdentifier, minutes: i64) {
        let record = IdentityRecord {
            system_identifier: system,
            postgresql_major: Some(15),
            segment_size: SIZE,
            first_seen: time(minutes),
        };
        self.repository.create_record(&self.repository.layout().identity(system).unwrap(), &record).unwrap();
    }

    /// A whole backup, made at `minutes`.
    pub(crate) fn backup(&self, minutes: i64, timeline: u32, start: Lsn, stop: Lsn, bad_pages: u64) -> BackupId {
        self.write(&record(minutes, SYSTEM, timeline, start, stop, bad_pages))
    }

    /// Writes a backup's objects, and `started.json` with its last heartbeat at its start.
    pub(crate) fn write(&self, record: &BackupRecord) -> BackupId {
        for name in objects(record) {
            self.put_backup_object(record.id, &name, b"x");
        }
        self.started(record.id, record.id.time(), None);
        let commit = self.repository.layout().backup_object(record.id, backup_object::COMMIT).unwrap();
        self.repository.create_record(&commit, record).unwrap();
        record.id
    }

    pub(crate) fn started(&self, id: BackupId, heartbeat_at: DateTime<Utc>, start_wal: Option<WalPosition>) {
        let record = StartedRecord {
            owner: "someone".to_owned(),
            host: "db1".to_owned(),
            pid: 1,
            started_at: id.time(),
            heartbeat_at,
            start_wal,
        };
        let key = self.repository.layout().backup_object(id, backup_object::STARTED).unwrap();
        self.repository.replace_record(&key, &record).unwrap();
    }

    /// Somebody restores from a backup and needs WAL of timeline 1 from `start` on, until `minutes`.
    pub(crate) fn lease(&self, backup: BackupId, start: Lsn, minutes: i64) {
        let record = LeaseRecord {
            owner: format!("{minutes}"),
            host: "db2".to_owned(),
            pid: 1,
            data_directory: "/copy".into(),
            purpose: "recover run".to_owned(),
            system_identifier: SYSTEM,
            backup,
            start_wal: WalPosition { timeline: TimelineId(1), lsn: start },
            taken_at: time(0),
            expires_at: time(minutes),
        };
        self.repository.create_record(&self.repository.layout().lease(&record.owner).unwrap(), &record).unwrap();
    }

    /// A lease that nobody can read.
    pub(crate) fn unreadable_lease(&self) {
        self.store.replace(&self.repository.layout().lease("0123").unwrap(), b"{").unwrap();
    }

    pub(crate) fn put_backup_object(&self, id: BackupId, name: &str, bytes: &[u8]) {
        self.store.replace(&self.repository.layout().backup_object(id, name).unwrap(), bytes).unwrap();
    }

    pub(crate) fn wal(&self, system: SystemIdentifier, name: ArchiveName) {
        let key = self.repository.layout().wal_file(system, name, Codec::Zstd).unwrap();
        self.store.replace(&key, b"xx").unwrap();
    }

    pub(crate) fn segments(&self, timeline: u32, numbers: impl IntoIterator<Item = u64>) {
        for number in numbers {
            self.wal(SYSTEM, ArchiveName::Segment(segment(timeline, number)));
        }
    }

    pub(crate) fn history(&self, timeline: u32, text: &str) -> TimelineHistory {
        let history = TimelineHistory::parse(TimelineId(timeline), text.as_bytes()).unwrap();
        let name = ArchiveName::History(history.timeline);
        let key = self.repository.layout().wal_file(SYSTEM, name, Codec::Zstd).unwrap();
        self.repository.put_object(&key, text.as_bytes()).unwrap();
        history
    }

    pub(crate) fn abandon(&self, timeline: u32) {
        let timeline = TimelineId(timeline);
        let key = self.repository.layout().abandoned(SYSTEM, timeline).unwrap();
        self.repository.create_record(&key, &AbandonedRecord { timeline, at: time(0) }).unwrap();
    }

    pub(crate) fn plan(&self, keep_last: u32, minutes: i64) -> Plan {
        let policy = Policy { keep_last: NonZeroU32::new(keep_last).unwrap() };
        decide(&facts::gather(&self.repository).unwrap(), policy, time(minutes))
    }

    pub(crate) fn inventory(&self) -> Inventory {
        inventory::read(&self.repository, SYSTEM, SIZE).unwrap()
    }

    /// All keys of the store.
    pub(crate) fn keys(&self) -> BTreeSet<String> {
        self.repository.list_all("").unwrap().into_iter().map(|entry| entry.key.to_string()).collect()
    }
}

/// The backups that a plan keeps.
pub(crate) fn kept(plan: &Plan) -> Vec<BackupId> {
    plan.backups.iter().filter(|item| item.verdict == Verdict::Keep).map(|item| item.id).collect()
}

/// The names of the WAL files that a plan drops.
pub(crate) fn dropped_wal(plan: &Plan) -> Vec<String> {
    let keys = plan.dropped_wal().flat_map(|item| &item.keys);
    keys.map(|key| key.file_name().trim_end_matches(".zst").to_owned()).collect()
}

/// The names of the objects of a backup but for its records.
pub(crate) fn objects(record: &BackupRecord) -> Vec<String> {
    let codec = record.compression.codec;
    let parts = record.parts.iter().map(|part| backup_object::part(part.number, codec));
    parts.chain([backup_object::index(codec), backup_object::manifest(codec)]).collect()
}

pub(crate) fn record(
    minutes: i64,
    system: SystemIdentifier,
    timeline: u32,
    start_lsn: Lsn,
    stop_lsn: Lsn,
    bad_pages: u64,
) -> BackupRecord {
    let mut record = testing::backup(timeline, stop_lsn.0, 1000);
    record.id = BackupId::at(time(minutes));
    record.source.system_identifier = system;
    record.source.segment_size = SIZE;
    record.span.start_lsn = start_lsn;
    record.span.started_at = time(minutes);
    record.span.stopped_at = time(minutes);
    let first = record.parts.first().cloned();
    record.parts.extend(first.map(|part| PartRecord { number: 2, ..part }));
    record.stored_bytes = 4;
    record.damaged_page_count = bad_pages;
    record
}
