//! The index and the manifest, written side by side while the parts are copied.
//!
//! Both hold a line a file and nothing of it is kept in memory. Directories come first, then the files in the order of
//! their parts and offsets, then the frame tables: the order that a restore reads them in.

use anyhow::Context as _;
use common::pg::SystemIdentifier;
use common::repo::index::{DirectoryEntry, FileEntry, IndexEntry, write_entry};
use common::repo::layout::backup_object;
use common::repo::listing::ManifestOfIndex;
use common::repo::part::FrameTable;
use common::repo::records::{ObjectRecord, Span};

use crate::object::{ObjectStream, Target};

/// Index and manifest on their way.
pub(crate) struct Catalog<'a> {
    index: ObjectStream<'a>,
    manifest: ManifestOfIndex<ObjectStream<'a>>,
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
        let manifest = ManifestOfIndex::begin(manifest, major, system).context("write the manifest")?;
        Ok(Self { index, manifest, frames: Vec::new(), files: 0, plain_bytes: 0 })
    }

    /// Adds a part: its files in the order of their offsets. Parts must come in the order of their numbers.
    pub(crate) fn add(&mut self, files: Vec<FileEntry>, frames: FrameTable) -> anyhow::Result<()> {
        for file in files {
            self.manifest.add(&file).context("write the manifest")?;
            self.files += 1;
            self.plain_bytes += file.size;
            write_entry(&mut self.index, &IndexEntry::File(file)).context("write the index")?;
        }
        self.frames.push(frames);
        Ok(())
    }

    /// Completes and publishes both; `span` is the WAL that a restore needs.
    pub(crate) fn finish(mut self, span: &Span) -> anyhow::Result<Written> {
        for table in self.frames {
            write_entry(&mut self.index, &IndexEntry::Frames(table)).context("write the index")?;
        }
        let index = self.index.finish()?;
        let manifest = self.manifest.finish(span).context("write the manifest")?.finish()?;
        Ok(Written { index, manifest, files: self.files, plain_bytes: self.plain_bytes })
    }
}
