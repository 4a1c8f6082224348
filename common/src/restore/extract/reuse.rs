//! Files of an older state of the cluster, taken where their contents are those of the backup.
//!
//! Nothing about a file but its bytes says that it is the same: times are set by tools, sizes stay while contents change.
//! So a file is taken only when its copy has the digest of the index. The copy is one: what it comes from must stay as it
//! is, or a rollback would bring back something else. Where the file system can share the blocks of two files (reflinks)
//! the system does, and the copy takes neither time nor room.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek as _, SeekFrom};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::archive::Repository;
use crate::archive::inspect::IndexReader;
use crate::codec::{Digest, Sha256Stream};
use crate::repo::index::{FileEntry, IndexEntry};
use crate::repo::part::{FRAME_BYTES, FrameTable};
use crate::repo::records::BackupRecord;
use crate::report::Cancel;
use crate::sys::durable;
use crate::sys::faults;

/// How much is copied between two looks at a cancellation.
const COPY_BYTES: u64 = 64 << 20;

/// Where files may be taken from, and where in the parts the others lie.
pub(super) struct Reuse {
    from: PathBuf,
    frames: BTreeMap<u32, FrameTable>,
}

impl Reuse {
    /// Files of the data directory `from`. Reads where the frames lie: the index has that at its end.
    pub(super) fn new(repository: &Repository, backup: &BackupRecord, from: &Path) -> anyhow::Result<Self> {
        let mut index = IndexReader::open(repository, backup)?;
        let mut frames = BTreeMap::new();
        for entry in index.entries() {
            if let IndexEntry::Frames(table) = entry? {
                frames.insert(table.part, table);
            }
        }
        index.finish()?;
        Ok(Self { from: from.to_path_buf(), frames })
    }

    /// The frames of a part.
    pub(super) fn frames(&self, part: u32) -> Option<&FrameTable> {
        self.frames.get(&part)
    }

    /// Makes the file at `path` a copy of the old one, when that has the entry's contents; `false` otherwise, and then
    /// nothing is at `path`. Permissions and times are the caller's. An old file that cannot be read is no error: the
    /// repository has the contents too.
    pub(super) fn take(
        &self,
        entry: &FileEntry,
        path: &Path,
        buffer: &mut [u8],
        cancel: &Cancel,
    ) -> anyhow::Result<Option<File>> {
        let old = entry.path.below(&self.from);
        let Ok(source) = durable::open_nofollow(&old) else { return Ok(None) };
        let Ok(metadata) = source.metadata() else { return Ok(None) };
        if !metadata.is_file() || metadata.len() != entry.size {
            return Ok(None);
        }
        // With another time it has most likely other contents; finding that out beforehand costs no writing.
        let is_as_old = u64::try_from(metadata.mtime()).is_ok_and(|modified| modified == entry.modified);
        if !is_as_old && digest(&source, buffer, cancel)? != Some(entry.sha256) {
            return Ok(None);
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(entry.mode);
        let Ok(copy) = faults::call("make", path, || options.open(path)) else { return Ok(None) };
        let copied = copy_all(&source, &copy, entry.size, path, cancel)?;
        // What was copied is what counts: the old file may have changed since.
        if copied && digest(&copy, buffer, cancel)? == Some(entry.sha256) {
            return Ok(Some(copy));
        }
        durable::remove_file(path)?;
        Ok(None)
    }
}

/// The digest of the whole file; `None` where it cannot be read.
fn digest(mut file: &File, buffer: &mut [u8], cancel: &Cancel) -> anyhow::Result<Option<Digest>> {
    let mut digest = Sha256Stream::new();
    if file.seek(SeekFrom::Start(0)).is_err() {
        return Ok(None);
    }
    loop {
        cancel.check()?;
        match file.read(buffer) {
            Ok(0) => return Ok(Some(digest.finish())),
            Ok(count) => digest.update(buffer.get(..count).unwrap_or_default()),
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Ok(None),
        }
    }
}

/// Copies `size` bytes inside the system, which shares blocks where it can; whether all came over.
fn copy_all(mut source: &File, mut copy: &File, size: u64, path: &Path, cancel: &Cancel) -> anyhow::Result<bool> {
    if source.seek(SeekFrom::Start(0)).is_err() {
        return Ok(false);
    }
    let mut left = size;
    while left > 0 {
        cancel.check()?;
        let step = left.min(COPY_BYTES);
        match faults::call("copy", path, || io::copy(&mut source.take(step), &mut copy)) {
            Ok(0) | Err(_) => return Ok(false),
            Ok(count) => left = left.saturating_sub(count),
        }
    }
    Ok(true)
}

/// The files as runs that are read at one go: between two of a run lies less than a frame that nobody needs.
pub(super) fn runs<'a>(files: &[&'a FileEntry]) -> Vec<Vec<&'a FileEntry>> {
    let mut runs: Vec<Vec<&FileEntry>> = Vec::new();
    for file in files {
        let end = |last: &FileEntry| last.offset.saturating_add(last.size);
        match runs.last_mut() {
            Some(run) if run.last().is_some_and(|last| file.offset.saturating_sub(end(last)) < FRAME_BYTES as u64) => {
                run.push(file);
            }
            _ => runs.push(vec![file]),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::super::{Destination, Extracted, Means, extract, extract_reusing};
    use super::*;
    use crate::archive::testing::World;
    use crate::codec::Codec;
    use crate::report::Silent;
    use rstest::rstest;

    /// Unpacks the world's backup into a new directory.
    fn unpacked(world: &World, from: Option<&Path>) -> (tempfile::TempDir, Extracted) {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["base/1", "global"] {
            std::fs::create_dir_all(dir.path().join(folder)).unwrap();
        }
        let destination = Destination { pgdata: dir.path().to_path_buf(), pg_wal: None, tablespaces: Vec::new() };
        let means = Means { jobs: 2, progress: &Silent, cancel: &Cancel::default() };
        let done = match from {
            None => extract(&world.repository, &world.record, &destination, means).unwrap(),
            Some(from) => extract_reusing(&world.repository, &world.record, &destination, from, means).unwrap(),
        };
        (dir, done)
    }

    fn same(a: &Path, b: &Path) {
        for name in ["PG_VERSION", "base/1/1259", "empty", "base/1/big", "backup_label", "global/pg_control"] {
            assert!(std::fs::read(a.join(name)).unwrap() == std::fs::read(b.join(name)).unwrap(), "{name}");
            let (one, other) = (std::fs::metadata(a.join(name)).unwrap(), std::fs::metadata(b.join(name)).unwrap());
            assert_eq!((one.mode(), one.mtime(), one.nlink()), (other.mode(), other.mtime(), 1), "{name}");
        }
    }

    #[rstest]
    #[case(Codec::Zstd)]
    #[case(Codec::Lz4)]
    #[case(Codec::Gzip)]
    fn what_is_the_same_is_taken_and_the_rest_fetched(#[case] codec: Codec) {
        let world = World::new(codec);
        let (whole, done) = unpacked(&world, None);
        assert_eq!((done.reused_files, done.reused_bytes), (0, 0));
        let stored: u64 = world.record.parts.iter().map(|part| part.stored_bytes).sum();
        assert_eq!(done.fetched_bytes, stored);

        let (again, done) = unpacked(&world, Some(whole.path()));
        same(whole.path(), again.path());
        assert_eq!((done.files, done.fetched_bytes), (6, 0));
        assert_eq!(done.reused_bytes, world.record.plain_bytes);

        // Another byte, of the same size and time; and one that is shorter.
        let old = again.path().join("base/1/1259");
        let before = std::fs::metadata(&old).unwrap().modified().unwrap();
        let mut bytes = std::fs::read(&old).unwrap();
        bytes[7] ^= 1;
        durable::replace(&old, &bytes, 0o600).unwrap();
        File::options().write(true).open(&old).unwrap().set_modified(before).unwrap();
        durable::replace(&again.path().join("backup_label"), b"short", 0o600).unwrap();
        let (third, done) = unpacked(&world, Some(again.path()));
        same(whole.path(), third.path());
        assert_eq!(std::fs::read(&old).unwrap(), bytes, "the old file is left alone");
        assert!(done.fetched_bytes > 0 && done.fetched_bytes < stored / 2, "{done:?}");
    }

    #[test]
    fn what_lies_far_apart_is_not_read_over() {
        let world = World::new(Codec::Zstd);
        let mut index = IndexReader::open(&world.repository, &world.record).unwrap();
        let mut file = index
            .entries()
            .find_map(|entry| match entry.unwrap() {
                IndexEntry::File(file) => Some(file),
                _ => None,
            })
            .unwrap();
        let mut at = |offset, size| {
            (file.offset, file.size) = (offset, size);
            file.clone()
        };
        let frame = FRAME_BYTES as u64;
        let files = [at(0, 10), at(512, 10), at(522 + frame, 5), at(9 * frame, 1)];
        let lengths: Vec<_> = runs(&files.iter().collect::<Vec<_>>()).iter().map(Vec::len).collect();
        assert_eq!(lengths, [2, 1, 1]);
        assert!(runs(&[]).is_empty());
    }
}
