//! Single files of a backup, read by range: the frames that hold a file, and no others.

use std::collections::BTreeMap;
use std::io::Read;

use anyhow::Context as _;

use crate::archive::Repository;
use crate::archive::inspect::IndexReader;
use crate::codec::{HashingReader, decoder};
use crate::repo::index::{FileEntry, IndexEntry, RelativePath};
use crate::repo::layout::backup_object;
use crate::repo::part::{FrameTable, skip};
use crate::repo::records::BackupRecord;
use crate::report::Cancel;

/// Some files of a backup, and where they lie.
#[derive(Debug)]
pub struct Picked<'a> {
    repository: &'a Repository,
    backup: &'a BackupRecord,
    /// The files, in the order of the index.
    pub files: Vec<FileEntry>,
    frames: BTreeMap<u32, FrameTable>,
}

/// Goes through the index and notes the files whose paths are `wanted`, at most `count_max`: what is beyond is passed over.
/// The index is the one that the backup's record promises, or an error.
pub fn pick<'a>(
    repository: &'a Repository,
    backup: &'a BackupRecord,
    count_max: usize,
    wanted: impl Fn(&RelativePath) -> bool,
    cancel: &Cancel,
) -> anyhow::Result<Picked<'a>> {
    let mut picked = Picked { repository, backup, files: Vec::new(), frames: BTreeMap::new() };
    let mut index = IndexReader::open(repository, backup)?;
    for entry in index.entries() {
        cancel.check()?;
        match entry? {
            IndexEntry::File(file) if picked.files.len() < count_max && wanted(&file.path) => picked.files.push(file),
            IndexEntry::Frames(table) if picked.files.iter().any(|file| file.part == table.part) => {
                picked.frames.insert(table.part, table);
            }
            IndexEntry::File(_) | IndexEntry::Directory(_) | IndexEntry::Frames(_) => {}
        }
    }
    index.finish()?;
    Ok(picked)
}

impl Picked<'_> {
    /// Reads one of the files from its beginning to its end, piece by piece of `piece` bytes, the last may be shorter, and
    /// proves at the end that it is the file that was backed up. Until then what was handed over may be wrong.
    pub fn read(&self, file: &FileEntry, piece: usize, each: &mut dyn FnMut(&[u8])) -> anyhow::Result<()> {
        let codec = self.backup.compression.codec;
        let key = self.repository.layout().backup_object(self.backup.id, &backup_object::part(file.part, codec))?;
        let what = || format!("read {} in {key}", file.path.display());
        let frames = self.frames.get(&file.part).with_context(what)?;
        let range = frames.range(file.offset, file.size).with_context(what)?;
        let stored = self.repository.store().get_range(&key, range.offset, range.length).with_context(what)?;
        let mut plain = decoder(codec, stored).with_context(what)?;
        skip(&mut plain, range.skip).with_context(what)?;
        let mut source = HashingReader::new(plain.take(file.size));
        let mut buffer = vec![0; piece];
        loop {
            let count = crate::codec::read_full(&mut source, &mut buffer).with_context(what)?;
            each(buffer.get(..count).unwrap_or_default());
            if count < piece {
                break;
            }
        }
        let (_, count, digest) = source.finish();
        anyhow::ensure!(count == file.size && digest == file.sha256, "{} is damaged in {key}", file.path.display());
        Ok(())
    }
}
