//! The index of a backup, checked against its record while it is read.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::{Arc, Mutex};

use anyhow::Context as _;

use crate::codec::{Digest, Sha256Stream, decoder};
use crate::repo::index::{self, FileEntry, IndexEntry};
use crate::repo::layout::backup_object;
use crate::repo::records::{BackupRecord, ObjectRecord};

use crate::archive::Repository;

/// The index of a backup as a stream, checked against the commit record at its end.
pub struct IndexReader {
    lines: Option<Box<dyn BufRead + Send>>,
    seen: Arc<Mutex<Seen>>,
    expected: ObjectRecord,
    what: String,
}

struct Seen {
    bytes: u64,
    digest: Sha256Stream,
}

/// Passes bytes on and notes them.
struct Noting<R> {
    inner: R,
    seen: Arc<Mutex<Seen>>,
}

impl<R: Read> Read for Noting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        let mut seen = self.seen.lock().map_err(|_| io::Error::other("the reader of an index died"))?;
        seen.bytes += count as u64;
        seen.digest.update(buffer.get(..count).unwrap_or_default());
        Ok(count)
    }
}

impl IndexReader {
    /// Opens the index of this backup.
    pub fn open(repository: &Repository, backup: &BackupRecord) -> anyhow::Result<Self> {
        let codec = backup.compression.codec;
        let key = repository.layout().backup_object(backup.id, &backup_object::index(codec))?;
        let what = format!("{key} in {}", repository.describe());
        let stored = repository.store().get(&key).with_context(|| what.clone())?;
        let seen = Arc::new(Mutex::new(Seen { bytes: 0, digest: Sha256Stream::new() }));
        // One byte more than was written is enough to know that it is another index, which may have no end.
        let plain =
            decoder(codec, stored).with_context(|| what.clone())?.take(backup.index.plain_bytes.saturating_add(1));
        let plain = Noting { inner: plain, seen: seen.clone() };
        Ok(Self { lines: Some(Box::new(BufReader::new(plain))), seen, expected: backup.index, what })
    }

    /// The entries in order; an error, after which nothing is to be believed, when the files are not by part and within
    /// it by offset. A second call gives none.
    pub fn entries(&mut self) -> impl Iterator<Item = anyhow::Result<IndexEntry>> + use<'_> {
        let what = &self.what;
        let lines = self.lines.take();
        let mut order = Order::default();
        let in_order = move |entry: io::Result<IndexEntry>| match entry {
            Ok(IndexEntry::File(file)) => order.follow(&file).map(|()| IndexEntry::File(file)),
            other => other,
        };
        lines.into_iter().flat_map(index::entries).map(in_order).map(move |entry| entry.with_context(|| what.clone()))
    }

    /// Once the entries are read to their end: whether they are the ones that the commit record promises.
    pub fn finish(self) -> anyhow::Result<()> {
        let mut seen = self.seen.lock().map_err(|_| anyhow::anyhow!("the reader of an index died"))?;
        let digest: Digest = std::mem::replace(&mut seen.digest, Sha256Stream::new()).finish();
        anyhow::ensure!(
            seen.bytes == self.expected.plain_bytes && digest == self.expected.sha256,
            "{} is damaged: its contents do not match the backup's record",
            self.what
        );
        Ok(())
    }
}

/// How far the files of an index have come. In any other order a reader would go through parts again and again, and
/// keep more files of one part than can lie in it.
#[derive(Default)]
struct Order {
    part: u32,
    end: u64,
}

impl Order {
    fn follow(&mut self, file: &FileEntry) -> io::Result<()> {
        let start = if file.part == self.part { self.end } else { 0 };
        let end = file.offset.checked_add(file.size).filter(|_| file.part >= self.part && file.offset >= start);
        self.part = file.part;
        self.end = end.ok_or_else(|| {
            let what = format!("damaged index: {} in part {} is out of order", file.path.display(), file.part);
            io::Error::new(io::ErrorKind::InvalidData, what)
        })?;
        // The next one has a header before it, an empty file too.
        self.end = self.end.saturating_add(1);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::testing::World;
    use crate::codec::Codec;
    use crate::repo::index::RelativePath;
    use rstest::rstest;

    #[test]
    fn an_index_that_goes_on_is_read_no_further_than_its_record_says() {
        let world = World::new(Codec::Zstd);
        let key = world.key("index.jsonl.zst");
        let plain = world.plain(&key);
        let lines = plain.split_inclusive(|byte| *byte == b'\n');
        let endless: Vec<u8> =
            lines.clone().chain(lines.clone().take(1).cycle().take(1000)).flatten().copied().collect();
        world.rewrite(&key, &endless);
        let mut index = IndexReader::open(&world.repository, &world.record).unwrap();
        assert_eq!(index.entries().flatten().count(), lines.count());
        assert!(index.finish().unwrap_err().to_string().contains("do not match"));
    }

    #[rstest]
    #[case(&[(1, 512, 10), (1, 1536, 0), (1, 2048, 5), (2, 512, 1)], true)]
    #[case::twice(&[(1, 512, 10), (1, 512, 10)], false)]
    #[case::an_empty_file_twice(&[(1, 512, 0), (1, 512, 0)], false)]
    #[case::within_another(&[(1, 512, 10), (1, 520, 1)], false)]
    #[case::a_part_again(&[(1, 512, 1), (2, 512, 1), (1, 1536, 1)], false)]
    #[case::beyond_all_numbers(&[(1, u64::MAX, 1)], false)]
    fn files_come_in_order(#[case] files: &[(u32, u64, u64)], #[case] expected: bool) {
        let path = RelativePath::new("f").unwrap();
        let entry = |&(part, offset, size): &(u32, u64, u64)| FileEntry {
            path: path.clone(),
            part,
            offset,
            size,
            mode: 0o600,
            modified: 0,
            sha256: Digest::of(b""),
        };
        let mut order = Order::default();
        assert_eq!(files.iter().map(entry).all(|file| order.follow(&file).is_ok()), expected);
    }
}
