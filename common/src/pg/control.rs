//! `global/pg_control`: who a cluster is and where it stands (`src/include/catalog/pg_control.h`).

use std::fmt;

use super::bytes::{i32_at, i64_at, u8_at, u32_at, u64_at};
use super::{Lsn, SegmentSize, SystemIdentifier, TimelineId};

/// The size of the file; what lies behind the structure is zero.
pub const CONTROL_FILE_SIZE: usize = 8192;

/// What `pg_control` says, for PostgreSQL 14 to 18.
///
/// Fields have the names of `ControlFileData` and `CheckPoint`, spelt out; `pg_controldata` prints them in the same order.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "they are the file's own fields, not a state to be told apart")]
pub struct ControlFile {
    /// The cluster's identity, given by initdb.
    pub system_identifier: SystemIdentifier,
    /// The format of this file: 1300 (14 to 16), 1700 or 1800.
    pub pg_control_version: u32,
    /// The format of the system catalogs; each major version has its own.
    pub catalog_version: u32,
    /// Whether the server runs or ran, and how.
    pub state: ClusterState,
    /// The latest checkpoint's record.
    pub checkpoint: Lsn,
    /// Where replay from that checkpoint begins.
    pub redo: Lsn,
    /// The timeline of that checkpoint.
    pub checkpoint_timeline: TimelineId,
    /// The timeline before it, when that checkpoint begins a timeline; else the same.
    pub prev_timeline: TimelineId,
    /// The setting at that checkpoint.
    pub full_page_writes: bool,
    /// The next transaction id, epoch included.
    pub next_xid: u64,
    /// When that checkpoint was made, in seconds since 1970 UTC.
    pub checkpoint_time: i64,
    /// How far replay must get before the cluster is consistent; 0/0 outside recovery.
    pub min_recovery_point: Lsn,
    /// The timeline of that position; 0 outside recovery.
    pub min_recovery_timeline: TimelineId,
    /// The redo position of the backup that is being recovered from; 0/0 once its end has been replayed.
    pub backup_start_point: Lsn,
    /// Where a backup that was taken from a standby ends; 0/0 once replayed.
    pub backup_end_point: Lsn,
    /// Whether an end-of-backup record must be replayed first.
    pub backup_end_required: bool,
    /// 0 minimal, 1 replica, 2 logical.
    pub wal_level: i32,
    /// `wal_log_hints`.
    pub wal_log_hints: bool,
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
    /// `track_commit_timestamp`.
    pub track_commit_timestamp: bool,
    /// Bytes in a data page.
    pub block_size: u32,
    /// Data pages in a full segment file of a relation.
    pub relseg_blocks: u32,
    /// Bytes in a WAL page.
    pub wal_block_size: u32,
    /// Bytes in a WAL segment.
    pub segment_size: SegmentSize,
    /// 0 when data pages have no checksums.
    pub data_checksum_version: u32,
}

/// The `DBState` of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClusterState {
    /// Fresh from initdb, or starting.
    StartingUp,
    /// Stopped cleanly.
    ShutDown,
    /// A standby, stopped cleanly.
    ShutDownInRecovery,
    /// Being stopped.
    ShuttingDown,
    /// Replaying after a crash.
    InCrashRecovery,
    /// Replaying from an archive, or a running standby.
    InArchiveRecovery,
    /// Running, or killed while it was.
    InProduction,
}

impl ClusterState {
    fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::StartingUp,
            1 => Self::ShutDown,
            2 => Self::ShutDownInRecovery,
            3 => Self::ShuttingDown,
            4 => Self::InCrashRecovery,
            5 => Self::InArchiveRecovery,
            6 => Self::InProduction,
            _ => return None,
        })
    }
}

/// In the words of `pg_controldata`.
impl fmt::Display for ClusterState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::StartingUp => "starting up",
            Self::ShutDown => "shut down",
            Self::ShutDownInRecovery => "shut down in recovery",
            Self::ShuttingDown => "shutting down",
            Self::InCrashRecovery => "in crash recovery",
            Self::InArchiveRecovery => "in archive recovery",
            Self::InProduction => "in production",
        })
    }
}

/// Why the bytes are no `pg_control` that can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// The file is empty, cut off or something else.
    #[error("pg_control has {0} bytes, not {CONTROL_FILE_SIZE}")]
    WrongSize(usize),
    /// Written on a machine of the other byte order.
    #[error("pg_control was written on a machine of the other byte order")]
    ForeignByteOrder,
    /// A version of PostgreSQL before 14 or after 18.
    #[error("pg_control has version {0}; known are 1300 (PostgreSQL 14 to 16), 1700 and 1800")]
    UnknownVersion(u32),
    /// Damaged, or read while the server wrote it: reading it again may help.
    #[error("pg_control is damaged: its CRC is {found:08X}, its contents have {computed:08X}")]
    WrongChecksum {
        /// The CRC-32C in the file.
        found: u32,
        /// The CRC-32C of the bytes before it.
        computed: u32,
    },
    /// The CRC is right and a value is impossible all the same.
    #[error("pg_control has an impossible {field}: {value}")]
    Impossible {
        /// Which value.
        field: &'static str,
        /// What it is.
        value: u32,
    },
}

impl ControlFile {
    /// Reads the whole file. A [`ControlError::WrongChecksum`] can be a write that was under way: read again.
    pub fn parse(bytes: &[u8]) -> Result<Self, ControlError> {
        let too_short = ControlError::WrongSize(bytes.len());
        if bytes.len() != CONTROL_FILE_SIZE {
            return Err(too_short);
        }
        // 14 to 17 have 32 bytes of nonce behind data_checksum_version, 18 a bool before them. 17 and 18 keep wal_level
        // in what is padding before.
        let version = u32_at(bytes, 8).ok_or(too_short)?;
        let crc_offset = match version {
            1300 | 1700 => 288,
            1800 => 292,
            _ if matches!(version.swap_bytes(), 1000..=9999) => return Err(ControlError::ForeignByteOrder),
            _ => return Err(ControlError::UnknownVersion(version)),
        };
        let found = u32_at(bytes, crc_offset).ok_or(too_short)?;
        let computed = crc32c::crc32c(bytes.get(..crc_offset).ok_or(too_short)?);
        if found != computed {
            return Err(ControlError::WrongChecksum { found, computed });
        }
        let state = u32_at(bytes, 16).ok_or(too_short)?;
        let state =
            ClusterState::from_number(state).ok_or(ControlError::Impossible { field: "state", value: state })?;
        let size = u32_at(bytes, 228).ok_or(too_short)?;
        let segment_size =
            SegmentSize::new(size).ok_or(ControlError::Impossible { field: "WAL segment size", value: size })?;
        Self::fields(bytes, version, state, segment_size).ok_or(too_short)
    }

    fn fields(bytes: &[u8], version: u32, state: ClusterState, segment_size: SegmentSize) -> Option<Self> {
        let lsn = |offset| u64_at(bytes, offset).map(Lsn);
        let timeline = |offset| u32_at(bytes, offset).map(TimelineId);
        let flag = |offset| u8_at(bytes, offset).map(|byte| byte != 0);
        Some(Self {
            system_identifier: u64_at(bytes, 0)?,
            pg_control_version: version,
            catalog_version: u32_at(bytes, 12)?,
            state,
            checkpoint: lsn(32)?,
            redo: lsn(40)?,
            checkpoint_timeline: timeline(48)?,
            prev_timeline: timeline(52)?,
            full_page_writes: flag(56)?,
            next_xid: u64_at(bytes, 64)?,
            checkpoint_time: i64_at(bytes, 104)?,
            min_recovery_point: lsn(136)?,
            min_recovery_timeline: timeline(144)?,
            backup_start_point: lsn(152)?,
            backup_end_point: lsn(160)?,
            backup_end_required: flag(168)?,
            wal_level: i32_at(bytes, 172)?,
            wal_log_hints: flag(176)?,
            max_connections: i32_at(bytes, 180)?,
            max_worker_processes: i32_at(bytes, 184)?,
            max_wal_senders: i32_at(bytes, 188)?,
            max_prepared_xacts: i32_at(bytes, 192)?,
            max_locks_per_xact: i32_at(bytes, 196)?,
            track_commit_timestamp: flag(200)?,
            block_size: u32_at(bytes, 216)?,
            relseg_blocks: u32_at(bytes, 220)?,
            wal_block_size: u32_at(bytes, 224)?,
            segment_size,
            data_checksum_version: u32_at(bytes, 252)?,
        })
    }

    /// The major version that the catalogs belong to, 14 to 18; `None` for pre-releases and derived products.
    pub fn major(&self) -> Option<u32> {
        Some(match self.catalog_version {
            202_107_181 => 14,
            202_209_061 => 15,
            202_307_071 => 16,
            202_406_281 => 17,
            202_506_291 => 18,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    /// The first 296 bytes of a running server's file, one line for each major version.
    const SAMPLES: &str = include_str!("testdata/pg_control.txt");

    fn sample(major: u32) -> Vec<u8> {
        let line = SAMPLES.lines().find_map(|line| line.strip_prefix(&format!("{major} "))).unwrap();
        let mut bytes = hex::decode(line).unwrap();
        bytes.resize(CONTROL_FILE_SIZE, 0);
        bytes
    }

    fn seal(bytes: &mut [u8], crc_offset: usize) {
        let crc = crc32c::crc32c(&bytes[..crc_offset]);
        bytes[crc_offset..crc_offset + 4].copy_from_slice(&crc.to_ne_bytes());
    }

    #[rstest]
    #[case(14, 1300, 7_710_259_805_557_169_937, 736, "0/4000060", 1_795_184_754)]
    #[case(15, 1300, 7_710_259_658_802_790_017, 727, "0/4000060", 1_795_184_755)]
    #[case(16, 1300, 7_710_259_660_991_499_924, 733, "0/4000060", 1_795_184_756)]
    #[case(17, 1700, 7_710_259_663_021_457_063, 741, "0/4000080", 1_795_184_757)]
    #[case(18, 1800, 7_710_259_665_172_627_130, 755, "0/4000080", 1_795_184_758)]
    fn says_what_pg_controldata_says(
        #[case] major: u32,
        #[case] version: u32,
        #[case] system_identifier: u64,
        #[case] next_xid: u64,
        #[case] checkpoint: &str,
        #[case] checkpoint_time: i64,
    ) {
        let control = ControlFile::parse(&sample(major)).unwrap();
        assert_eq!(control.major(), Some(major));
        let expected = ControlFile {
            system_identifier,
            pg_control_version: version,
            catalog_version: control.catalog_version,
            state: ClusterState::InProduction,
            checkpoint: checkpoint.parse().unwrap(),
            redo: Lsn(0x0400_0028),
            checkpoint_timeline: TimelineId(1),
            prev_timeline: TimelineId(1),
            full_page_writes: true,
            next_xid,
            checkpoint_time,
            min_recovery_point: Lsn(0),
            min_recovery_timeline: TimelineId(0),
            backup_start_point: Lsn(0),
            backup_end_point: Lsn(0),
            backup_end_required: false,
            wal_level: 1,
            wal_log_hints: true,
            max_connections: 33,
            max_worker_processes: 9,
            max_wal_senders: 11,
            max_prepared_xacts: 7,
            max_locks_per_xact: 77,
            track_commit_timestamp: true,
            block_size: 8192,
            relseg_blocks: 131_072,
            wal_block_size: 8192,
            segment_size: SegmentSize::DEFAULT,
            data_checksum_version: 1,
        };
        assert_eq!(control, expected);
    }

    /// Values that differ from each other in every field, as `pg_controldata` 14, 17 and 18 print them from these bytes.
    #[rstest]
    #[case(14, 288)]
    #[case(17, 288)]
    #[case(18, 292)]
    fn every_field_has_its_place(#[case] major: u32, #[case] crc_offset: usize) {
        let mut bytes = sample(major);
        let narrow = [(16, 5), (48, 21), (52, 20), (144, 22), (172, 2), (216, 4096), (220, 262_144), (224, 16384)];
        for (offset, value) in narrow.into_iter().chain([(228, 64 << 20), (252, 0)]) {
            bytes[offset..offset + 4].copy_from_slice(&u32::to_ne_bytes(value));
        }
        let wide = [(32, 0x11_2233_4455), (40, 0x11_2233_4400), (64, (3 << 32) + 77), (104, 1_700_000_000)];
        for (offset, value) in wide.into_iter().chain([136, 152, 160].map(|at| (at, (0x21 << 32) + at as u64))) {
            bytes[offset..offset + 8].copy_from_slice(&u64::to_ne_bytes(value));
        }
        for (offset, value) in [(56, 0), (168, 1), (176, 0), (200, 0)] {
            bytes[offset] = value;
        }
        seal(&mut bytes, crc_offset);
        let expected = ControlFile {
            state: ClusterState::InArchiveRecovery,
            checkpoint: "11/22334455".parse().unwrap(),
            redo: "11/22334400".parse().unwrap(),
            checkpoint_timeline: TimelineId(21),
            prev_timeline: TimelineId(20),
            full_page_writes: false,
            next_xid: (3 << 32) + 77,
            checkpoint_time: 1_700_000_000,
            min_recovery_point: "21/88".parse().unwrap(),
            min_recovery_timeline: TimelineId(22),
            backup_start_point: "21/98".parse().unwrap(),
            backup_end_point: "21/A0".parse().unwrap(),
            backup_end_required: true,
            wal_level: 2,
            wal_log_hints: false,
            track_commit_timestamp: false,
            block_size: 4096,
            relseg_blocks: 262_144,
            wal_block_size: 16384,
            segment_size: SegmentSize::new(64 << 20).unwrap(),
            data_checksum_version: 0,
            ..ControlFile::parse(&sample(major)).unwrap()
        };
        assert_eq!(ControlFile::parse(&bytes), Ok(expected));
    }

    #[test]
    fn every_flipped_bit_of_the_contents_is_seen() {
        let whole = sample(15);
        for bit in 0..292 * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(ControlFile::parse(&bytes).is_err(), "bit {bit}");
        }
    }

    #[rstest]
    #[case(0)]
    #[case(296)]
    #[case(8191)]
    #[case(8193)]
    fn another_size_is_refused(#[case] size: usize) {
        let mut bytes = sample(15);
        bytes.resize(size, 0);
        assert_eq!(ControlFile::parse(&bytes), Err(ControlError::WrongSize(size)));
    }

    #[test]
    fn other_versions_and_byte_orders_are_named() {
        let mut bytes = sample(18);
        bytes[8..12].copy_from_slice(&1900_u32.to_ne_bytes());
        assert_eq!(ControlFile::parse(&bytes), Err(ControlError::UnknownVersion(1900)));
        bytes[8..12].copy_from_slice(&1800_u32.swap_bytes().to_ne_bytes());
        assert_eq!(ControlFile::parse(&bytes), Err(ControlError::ForeignByteOrder));
        assert_eq!(ControlFile::parse(&[0; CONTROL_FILE_SIZE]), Err(ControlError::UnknownVersion(0)));
    }

    #[rstest]
    #[case(16, 7, "state")]
    #[case(228, 3 << 20, "WAL segment size")]
    fn impossible_values_are_refused(#[case] offset: usize, #[case] value: u32, #[case] field: &'static str) {
        let mut bytes = sample(17);
        bytes[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
        seal(&mut bytes, 288);
        assert_eq!(ControlFile::parse(&bytes), Err(ControlError::Impossible { field, value }));
    }

    #[rstest]
    #[case(0, ClusterState::StartingUp)]
    #[case(1, ClusterState::ShutDown)]
    #[case(2, ClusterState::ShutDownInRecovery)]
    #[case(5, ClusterState::InArchiveRecovery)]
    fn states_have_their_numbers(#[case] number: u32, #[case] state: ClusterState) {
        let mut bytes = sample(16);
        bytes[16..20].copy_from_slice(&number.to_ne_bytes());
        seal(&mut bytes, 288);
        assert_eq!(ControlFile::parse(&bytes).unwrap().state, state);
    }

    #[test]
    fn catalogs_of_pre_releases_have_no_major() {
        let mut bytes = sample(18);
        bytes[12..16].copy_from_slice(&202_504_091_u32.to_ne_bytes());
        seal(&mut bytes, 292);
        assert_eq!(ControlFile::parse(&bytes).unwrap().major(), None);
    }

    proptest! {
        #[test]
        fn never_panics(mut head in proptest::collection::vec(any::<u8>(), 0..400), version in 0_usize..4) {
            head.resize(CONTROL_FILE_SIZE, 0);
            if let Some(version) = [1300_u32, 1700, 1800].get(version) {
                head[8..12].copy_from_slice(&version.to_ne_bytes());
                seal(&mut head, if *version == 1800 { 292 } else { 288 });
            }
            ControlFile::parse(&head).ok();
        }
    }
}
