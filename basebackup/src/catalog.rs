//! The index and the manifest, written side by side while the parts are copied.
//!
//! Both hold a line a file and nothing of it is kept in memory. Directories come first, then the files in the order of
//! their parts and offsets, then the frame tables: the order that a restore reads them in.

use anyhow::Context as _;
use chrono::DateTime;
use common::pg::{ChecksumAlgorithm, ManifestFile, ManifestWriter, SystemIdentifier, WalRange};
use common::repo::index::{DirectoryEntry, FileEntry, IndexEntry, write_entry};
use common::repo::layout::backup_object;
use common::repo::part::FrameTable;
use common::repo::records::ObjectRecord;

use crate::object::{ObjectStream, Target};

/// The first major version whose manifests name the cluster.
const MANIFEST_2_SINCE: u32 = 17;

/// Index and manifest on their way.
pub(crate) struct Catalog<'a> {
    index: ObjectStream<'a>,
    manifest: ManifestWriter<ObjectStream<'a>>,
    frames: Vec<FrameTable>,
    files: u64,
    plain_bytes: u64,
}

/// What [`Catalog::finish`] wrote.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Written {
    /// The index.
    pub(crate) index: ObjectRecord,
    /// The manifest.
    pub(crate) manifest: ObjectRecord,
    /// Files in them.
    pub(crate) files: u64,
    /// Bytes of these files.
    pub(crate) plain_bytes: u64,
}

impl<'a> Catalog<'a> {
    /// Begins with the directories. The manifest is of the version that a server of version `major` writes.
    pub(crate) fn begin(
        target: Target<'a>,
        major: u32,
        system: SystemIdentifier,
        directories: &[DirectoryEntry],
    ) -> anyhow::Result<Self> {
        let codec = target.codec();
        let mut index = ObjectStream::begin(target, &backup_object::index(codec))?;
        for directory in directories {
            write_entry(&mut index, &IndexEntry::Directory(directory.clone())).context("write the index")?;
        }
        let manifest = ObjectStream::begin(target, &backup_object::manifest(codec))?;
        let system = (major >= MANIFEST_2_SINCE).then_some(system);
        let manifest = ManifestWriter::new(manifest, system).context("write the manifest")?;
        Ok(Self { index, manifest, frames: Vec::new(), files: 0, plain_bytes: 0 })
    }

    /// Adds a part: its files in the order of their offsets. Parts must come in the order of their numbers.
    pub(crate) fn add(&mut self, files: Vec<FileEntry>, frames: FrameTable) -> anyhow::Result<()> {
        for file in files {
            let seconds = i64::try_from(file.modified).unwrap_or(i64::MAX);
            let manifest_file = ManifestFile {
                path: file.path.as_bytes(),
                size: file.size,
                modified: DateTime::from_timestamp(seconds, 0).unwrap_or_default(),
                checksum: (ChecksumAlgorithm::Sha256, file.sha256.as_bytes()),
            };
            self.manifest.add(&manifest_file).context("write the manifest")?;
            self.files += 1;
            self.plain_bytes += file.size;
            write_entry(&mut self.index, &IndexEntry::File(file)).context("write the index")?;
        }
        self.frames.push(frames);
        Ok(())
    }

    /// Completes and publishes both; `range` is the WAL that a restore needs.
    pub(crate) fn finish(mut self, range: WalRange) -> anyhow::Result<Written> {
        for table in self.frames {
            write_entry(&mut self.index, &IndexEntry::Frames(table)).context("write the index")?;
        }
        let index = self.index.finish()?;
        let manifest = self.manifest.finish(&[range]).context("write the manifest")?.finish()?;
        Ok(Written { index, manifest, files: self.files, plain_bytes: self.plain_bytes })
    }
}
