//! PostgreSQL's manifest of a backup, made from what the index says of its files.
//!
//! The index and the record say all that is in the manifest, and so which bytes it has: whoever writes a backup makes it
//! here, and whoever checks one need not read two long lists side by side.

use std::io::{self, Write};

use chrono::DateTime;

use super::index::FileEntry;
use super::records::Span;
use crate::pg::{ChecksumAlgorithm, ManifestFile, ManifestWriter, SystemIdentifier, WalRange};

/// The first major version whose manifests name the cluster.
const VERSION_2_SINCE: u32 = 17;

/// A manifest on its way: files in the order of the index, nothing kept in memory.
#[derive(Debug)]
pub struct ManifestOfIndex<W: Write>(ManifestWriter<W>);

impl<W: Write> ManifestOfIndex<W> {
    /// Begins one of the version that a server of version `major` writes. Small pieces are written.
    pub fn begin(out: W, major: u32, system: SystemIdentifier) -> io::Result<Self> {
        ManifestWriter::new(out, (major >= VERSION_2_SINCE).then_some(system)).map(Self)
    }

    /// Adds a file.
    pub fn add(&mut self, file: &FileEntry) -> io::Result<()> {
        let seconds = i64::try_from(file.modified).unwrap_or(i64::MAX);
        self.0.add(&ManifestFile {
            path: file.path.as_bytes(),
            size: file.size,
            modified: DateTime::from_timestamp(seconds, 0).unwrap_or_default(),
            checksum: (ChecksumAlgorithm::Sha256, file.sha256.as_bytes()),
        })
    }

    /// Ends it with the WAL that a restore needs. Gives the writer back, not flushed.
    pub fn finish(self, span: &Span) -> io::Result<W> {
        self.0.finish(&[WalRange { timeline: span.timeline, start: span.start_lsn, end: span.stop_lsn }])
    }
}
