//! The bodies of the repository's records (`docs/FORMAT.md`, section "Records").
//!
//! System identifiers are strings in JSON: they exceed what a JSON reader must keep of a number.

use std::path::PathBuf;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::codec::{Compression, Digest};
use crate::pg::{Lsn, SegmentSize, SystemIdentifier, TimelineId, WalSegmentName};

use super::BackupId;
use super::envelope::Record;

/// `holdfast.json`: this folder is a repository. Written on first use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositoryRecord {
    /// A random name that tells this repository from every other one.
    pub id: String,
    /// When it was first used.
    pub created: DateTime<Utc>,
}

/// `cluster/<sysid>.json`: a system identifier that belongs to the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityRecord {
    /// The identifier.
    #[serde(with = "as_text")]
    pub system_identifier: SystemIdentifier,
    /// PostgreSQL's major version; absent when a server newer than this program wrote the first WAL.
    pub postgresql_major: Option<u32>,
    /// The size of its WAL segments in bytes.
    #[serde(with = "segment_size")]
    pub segment_size: SegmentSize,
    /// When the repository first saw it.
    pub first_seen: DateTime<Utc>,
}

/// `backup/<id>/started.json`: somebody is making this backup. Rewritten now and then with a new heartbeat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartedRecord {
    /// A random name of the run, so that two runs never take each other for themselves.
    pub owner: String,
    /// The host that it runs on.
    pub host: String,
    /// Its process id there.
    pub pid: u32,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// When it last showed that it lives.
    pub heartbeat_at: DateTime<Utc>,
    /// Where the WAL that it needs begins, once known.
    pub start_wal: Option<WalPosition>,
}

/// A place in the WAL of one timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalPosition {
    /// The timeline.
    pub timeline: TimelineId,
    /// The position.
    pub lsn: Lsn,
}

/// `backup/<id>/backup.json`: the commit record. Without it the backup does not exist.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupRecord {
    /// The backup's name.
    pub id: BackupId,
    /// What the user called it.
    pub label: String,
    /// The version of Holdfast that made it.
    pub holdfast_version: String,
    /// The server it was taken from.
    pub source: Source,
    /// Where it begins and ends in the WAL.
    pub span: Span,
    /// Tablespaces outside the data directory.
    pub tablespaces: Vec<Tablespace>,
    /// How the parts, the index and the manifest are compressed.
    pub compression: Compression,
    /// The parts in order of number.
    pub parts: Vec<PartRecord>,
    /// The index's size and digest before compression.
    pub index: ObjectRecord,
    /// The manifest's size and digest before compression.
    pub manifest: ObjectRecord,
    /// The archive of configuration files from outside the data directory, when there are any.
    pub config: Option<ObjectRecord>,
    /// Files in the backup.
    pub files: u64,
    /// Bytes of these files.
    pub plain_bytes: u64,
    /// Bytes of all stored objects but this one.
    pub stored_bytes: u64,
    /// Pages whose checksum was wrong, up to a limit; empty is good.
    pub damaged_pages: Vec<DamagedPage>,
    /// How many pages' checksums were wrong in all.
    pub damaged_page_count: u64,
}

/// The server that a backup was taken from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Its database system identifier.
    #[serde(with = "as_text")]
    pub system_identifier: SystemIdentifier,
    /// PostgreSQL's version number, such as 150018.
    pub version_number: u32,
    /// The catalog version, which names the folders in tablespaces (`PG_15_202209061`).
    pub catalog_version: u32,
    /// The size of a WAL segment in bytes.
    #[serde(with = "segment_size")]
    pub segment_size: SegmentSize,
    /// Whether its pages carry checksums.
    pub data_checksums: bool,
    /// Whether it was a standby.
    pub standby: bool,
    /// The host's name.
    pub host: String,
    /// The data directory.
    pub data_directory: PathBuf,
    /// The permission bits of the data directory: 0700, or 0750 with group access (`initdb -g`).
    pub data_directory_mode: u32,
    /// The main configuration file.
    pub config_file: PathBuf,
    /// The host-based authentication file.
    pub hba_file: PathBuf,
    /// The user-name map.
    pub ident_file: PathBuf,
    /// The port that it listened on.
    pub port: u16,
}

/// Where a backup begins and ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// The timeline that it was taken on.
    pub timeline: TimelineId,
    /// Replay must begin here (the label's START WAL LOCATION).
    pub start_lsn: Lsn,
    /// Replay must reach this.
    pub stop_lsn: Lsn,
    /// When the backup began, by the server's clock.
    pub started_at: DateTime<Utc>,
    /// When the backup was complete, by the server's clock.
    pub stopped_at: DateTime<Utc>,
    /// The first transaction id not yet given out at the stop, with its epoch.
    pub next_xid: u64,
}

impl Span {
    /// The first segment that a restore needs.
    pub fn first_segment(&self, size: SegmentSize) -> WalSegmentName {
        WalSegmentName::containing(self.timeline, self.start_lsn, size)
    }

    /// The last segment that makes the backup consistent: the one with the last byte before the stop.
    pub fn last_segment(&self, size: SegmentSize) -> WalSegmentName {
        WalSegmentName::before(self.timeline, self.stop_lsn, size)
    }
}

/// A tablespace outside the data directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tablespace {
    /// Its object id: the name of its link in `pg_tblspc`.
    pub oid: u32,
    /// Its SQL name.
    pub name: String,
    /// Where it lay.
    pub location: PathBuf,
    /// Bytes of its files in the backup.
    pub bytes: u64,
}

/// One part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartRecord {
    /// Its number, from 1.
    pub number: u32,
    /// Its size as a tar stream.
    pub plain_bytes: u64,
    /// Its size in the store.
    pub stored_bytes: u64,
    /// The SHA-256 of its stored bytes.
    pub stored_sha256: Digest,
}

/// A small object that is read whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectRecord {
    /// Its size before compression.
    pub plain_bytes: u64,
    /// Its size in the store.
    pub stored_bytes: u64,
    /// The SHA-256 of its stored bytes.
    pub stored_sha256: Digest,
    /// Its SHA-256 before compression.
    pub sha256: Digest,
}

/// A page whose checksum was wrong when it was backed up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamagedPage {
    /// The file, relative to the data directory.
    pub path: String,
    /// The block within that file, from 0.
    pub block: u64,
}

/// `wal/<sysid>/history/<tli>.abandoned.json`: a recovery onto this timeline was rolled back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AbandonedRecord {
    /// The timeline that nobody follows any more.
    pub timeline: TimelineId,
    /// When it was given up.
    pub at: DateTime<Utc>,
}

/// `lease/<owner>.json`: somebody restores from this backup. Rewritten now and then with a new end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRecord {
    /// A random name of the holder; also the key's.
    pub owner: String,
    /// The host that it restores on.
    pub host: String,
    /// Its process id there.
    pub pid: u32,
    /// The data directory that it makes.
    pub data_directory: PathBuf,
    /// What it does, for people.
    pub purpose: String,
    /// The system of the backup and of the WAL.
    #[serde(with = "as_text")]
    pub system_identifier: SystemIdentifier,
    /// The backup that must stay.
    pub backup: BackupId,
    /// Where the WAL begins that must stay, on every timeline that leads on from there.
    pub start_wal: WalPosition,
    /// When it was taken.
    pub taken_at: DateTime<Utc>,
    /// Until when it holds.
    pub expires_at: DateTime<Utc>,
}

impl Record for RepositoryRecord {
    const KIND: &'static str = "repository";
    const MENDING: &'static str =
        "bring it back from a copy of the repository, or write it anew: see \"A record is damaged\" in OPERATIONS.md";
}

impl Record for IdentityRecord {
    const KIND: &'static str = "cluster";
    const MENDING: &'static str = "move it away and keep it: archive-wal writes it anew";
}

impl Record for StartedRecord {
    const KIND: &'static str = "started";
}

impl Record for BackupRecord {
    const KIND: &'static str = "backup";
    const MENDING: &'static str =
        "bring it back from a copy of the repository; verify backup --all shows which backups are whole";
}

impl Record for AbandonedRecord {
    const KIND: &'static str = "abandoned";
}

impl Record for LeaseRecord {
    const KIND: &'static str = "lease";
    const MENDING: &'static str = "when no restore is going on, remove it: retention keeps everything until then";
}

/// A number as a string.
pub(crate) mod as_text {
    use serde::{Deserialize, Deserializer, Serializer};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
    pub(crate) fn serialize<S: Serializer>(value: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A segment size in bytes, refused when PostgreSQL allows no such size.
pub(crate) mod segment_size {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::pg::SegmentSize;

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
    pub(crate) fn serialize<S: Serializer>(value: &SegmentSize, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(value.bytes())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SegmentSize, D::Error> {
        let bytes = u32::deserialize(deserializer)?;
        SegmentSize::new(bytes).ok_or_else(|| serde::de::Error::custom(format!("{bytes} is no size of a WAL segment")))
    }
}

/// Records for tests, also those of other crates.
#[cfg(any(test, feature = "testing"))]
#[expect(clippy::unwrap_used, reason = "made-up records are right")]
pub mod testing {
    use super::{BackupRecord, ObjectRecord, PartRecord, Source, Span};
    use crate::codec::{Compression, Digest};
    use crate::pg::{Lsn, SegmentSize, TimelineId};
    use crate::repo::BackupId;

    /// A backup on `timeline`, complete at `stop`, when the next transaction was `next_xid`; its times follow that.
    pub fn backup(timeline: u32, stop: u64, next_xid: u64) -> BackupRecord {
        let time = chrono::DateTime::from_timestamp(1_700_000_000 + i64::try_from(next_xid).unwrap(), 0).unwrap();
        let sha256 = Digest::of(b"x");
        let object = ObjectRecord { plain_bytes: 1, stored_bytes: 1, stored_sha256: sha256, sha256 };
        BackupRecord {
            id: BackupId::at(time),
            label: String::new(),
            holdfast_version: "0.1.0".to_owned(),
            source: Source {
                system_identifier: 7,
                version_number: 150_018,
                catalog_version: 202_209_061,
                segment_size: SegmentSize::DEFAULT,
                data_checksums: true,
                standby: false,
                host: "db1".to_owned(),
                data_directory: "/data".into(),
                data_directory_mode: 0o700,
                config_file: "/data/postgresql.conf".into(),
                hba_file: "/data/pg_hba.conf".into(),
                ident_file: "/data/pg_ident.conf".into(),
                port: 5432,
            },
            span: Span {
                timeline: TimelineId(timeline),
                start_lsn: Lsn(stop.saturating_sub(0x100_0000) + 0x28),
                stop_lsn: Lsn(stop),
                started_at: time,
                stopped_at: time,
                next_xid,
            },
            tablespaces: Vec::new(),
            compression: Compression::default(),
            parts: vec![PartRecord { number: 1, plain_bytes: 2048, stored_bytes: 1, stored_sha256: sha256 }],
            index: object,
            manifest: object,
            config: None,
            files: 1,
            plain_bytes: 1,
            stored_bytes: 3,
            damaged_pages: Vec::new(),
            damaged_page_count: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repo::envelope::{open, seal};
    use proptest::prelude::*;

    fn any_time() -> impl Strategy<Value = DateTime<Utc>> {
        (0_i64..253_000_000_000, 0_u32..1_000_000_000)
            .prop_map(|(seconds, nanos)| DateTime::from_timestamp(seconds, nanos).unwrap())
    }

    fn any_object() -> impl Strategy<Value = ObjectRecord> {
        any::<(u64, u64, u64)>().prop_map(|(plain_bytes, stored_bytes, seed)| {
            let sha256 = Digest::of(&seed.to_le_bytes());
            ObjectRecord { plain_bytes, stored_bytes, stored_sha256: Digest::of(b"x"), sha256 }
        })
    }

    proptest! {
        #[test]
        fn small_records_round_trip(text: String, number: u64, major: Option<u32>, shift in 20_u32..=30, time in any_time(), at: Option<(u32, u64)>) {
            let repository = RepositoryRecord { id: text.clone(), created: time };
            prop_assert_eq!(open::<RepositoryRecord>(&seal(&repository).unwrap()).unwrap(), repository);
            let identity = IdentityRecord {
                system_identifier: number,
                postgresql_major: major,
                segment_size: SegmentSize::new(1 << shift).unwrap(),
                first_seen: time,
            };
            prop_assert_eq!(open::<IdentityRecord>(&seal(&identity).unwrap()).unwrap(), identity);
            let owner = text.clone();
            let started = StartedRecord {
                owner: text.clone(),
                host: text,
                pid: 7,
                started_at: time,
                heartbeat_at: time,
                start_wal: at.map(|(timeline, lsn)| WalPosition { timeline: TimelineId(timeline), lsn: Lsn(lsn) }),
            };
            prop_assert_eq!(open::<StartedRecord>(&seal(&started).unwrap()).unwrap(), started);
            let abandoned = AbandonedRecord { timeline: TimelineId(7), at: time };
            prop_assert_eq!(open::<AbandonedRecord>(&seal(&abandoned).unwrap()).unwrap(), abandoned);
            let lease = LeaseRecord {
                owner: owner.clone(),
                host: owner,
                pid: 7,
                data_directory: "/data".into(),
                purpose: "x".to_owned(),
                system_identifier: number,
                backup: BackupId::at(time),
                start_wal: WalPosition { timeline: TimelineId(7), lsn: Lsn(number) },
                taken_at: time,
                expires_at: time,
            };
            prop_assert_eq!(open::<LeaseRecord>(&seal(&lease).unwrap()).unwrap(), lease);
        }

        #[test]
        fn backup_records_round_trip(texts: [String; 4], numbers: [u64; 6], object in any_object(), config in proptest::option::of(any_object()), time in any_time(), parts in 0_u32..4) {
            let mut record = testing::backup(3, numbers[0], 7);
            let [label, host, name, path] = texts;
            record.id = BackupId::at(time);
            (record.label, record.source.host) = (label, host);
            (record.source.system_identifier, record.span.next_xid) = (numbers[1], numbers[2]);
            (record.span.start_lsn, record.span.started_at) = (Lsn(numbers[3]), time);
            record.source.data_directory = PathBuf::from(&path);
            record.tablespaces = vec![Tablespace { oid: 7, name, location: path.clone().into(), bytes: numbers[4] }];
            record.parts = (1..=parts)
                .map(|number| PartRecord { number, plain_bytes: 1, stored_bytes: numbers[5], stored_sha256: object.sha256 })
                .collect();
            (record.index, record.config) = (object, config);
            record.damaged_pages = vec![DamagedPage { path, block: numbers[5] }];
            prop_assert_eq!(open::<BackupRecord>(&seal(&record).unwrap()).unwrap(), record);
        }
    }
}
