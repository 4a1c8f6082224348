//! PostgreSQL's own formats: bytes in, values out. No I/O, no knowledge of repositories.
//!
//! Every parser here is total: any input gives a value or an error, never a panic, and allocates no more than a
//! constant times its input.

mod bytes;
pub mod catalog;
pub mod control;
pub mod exclusions;
pub mod filenode_map;
pub mod heap;
pub mod history;
pub mod label;
mod lsn;
pub mod manifest;
pub mod page_checksum;
mod segment_name;
pub mod tablespace_map;
mod timeline;
pub mod wal_page;
pub mod wal_reader;

pub use control::{ClusterState, ControlError, ControlFile};
pub use history::{HistoryEntry, HistoryError, TimelineHistory};
pub use label::{BackupLabel, LabelError, StopInfo};
pub use lsn::Lsn;
pub use manifest::{ChecksumAlgorithm, Manifest, ManifestEntry, ManifestError, ManifestFile, ManifestWriter, WalRange};
pub use page_checksum::PageState;
pub use segment_name::{ArchiveName, SegmentSize, WalSegmentName};
pub use timeline::TimelineId;
pub use wal_page::{Expected, LongHeader, PageHeader, SegmentCheck, SegmentError, Wholeness};

/// A database system identifier (`pg_control`, `xlp_sysid`, `pg_controldata`'s first lines).
pub type SystemIdentifier = u64;
