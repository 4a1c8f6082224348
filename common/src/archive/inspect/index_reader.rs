//! The index of a backup, checked against its record while it is read.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::{Arc, Mutex};

use anyhow::Context as _;

use crate::codec::{Digest, Sha256Stream, decoder};
use crate::repo::index::{self, IndexEntry};
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

    /// The entries in order. A second call gives none.
    pub fn entries(&mut self) -> impl Iterator<Item = anyhow::Result<IndexEntry>> + use<'_> {
        let what = &self.what;
        let lines = self.lines.take();
        lines.into_iter().flat_map(index::entries).map(move |entry| entry.with_context(|| what.clone()))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::testing::World;
    use crate::codec::Codec;

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
}
