//! Parts: tar streams cut into independent frames of [`FRAME_BYTES`] plain bytes.
//!
//! Any part decompresses with the stock program of its codec and unpacks with `tar`. A Zstandard part ends with a seek
//! table (Zstandard Seekable Format, a skippable frame) for stock tools; this program uses the frame table of the
//! index, which every codec has. Works over [`std::io::Write`] alone.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};
use tar::{EntryType, Header};

use crate::codec::{Codec, Compression, CountingWriter, Encoder, HashingWriter};

use super::records::PartRecord;

/// Plain bytes in every frame of a part but its last.
pub const FRAME_BYTES: usize = 4 << 20;

/// A tar block.
pub(crate) const TAR_BLOCK: usize = 512;

/// The longest path that fits a plain tar header here; longer ones get a GNU long-name entry before them.
pub(crate) const TAR_NAME_MAX: usize = 99;

/// Where the frames of a part lie.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrameTable {
    /// The part's number.
    pub part: u32,
    /// Plain bytes of the whole part.
    pub plain_bytes: u64,
    /// Stored bytes of each frame, in order.
    pub frames: Vec<u32>,
}

impl FrameTable {
    /// The stored bytes of all frames; a seek table may follow them.
    pub fn stored_bytes(&self) -> u64 {
        self.frames.iter().map(|&size| u64::from(size)).sum()
    }

    /// The stored range that covers `length` plain bytes from `offset` on, and how many plain bytes of it come before
    /// `offset`. `None` when the part does not reach that far.
    pub fn range(&self, offset: u64, length: u64) -> Option<StoredRange> {
        let end = offset.checked_add(length).filter(|end| *end <= self.plain_bytes)?;
        let first = usize::try_from(offset / FRAME_BYTES as u64).ok()?;
        let last = usize::try_from(end.saturating_sub(1).max(offset) / FRAME_BYTES as u64).ok()?;
        let last = last.min(self.frames.len().checked_sub(1)?);
        let stored = |range: &[u32]| range.iter().map(|&size| u64::from(size)).sum::<u64>();
        Some(StoredRange {
            offset: stored(self.frames.get(..first)?),
            length: stored(self.frames.get(first..=last)?),
            skip: offset - (first * FRAME_BYTES) as u64,
        })
    }
}

/// A run of whole frames within a stored part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredRange {
    /// Where it begins in the stored object.
    pub offset: u64,
    /// Its stored bytes.
    pub length: u64,
    /// Plain bytes to pass over at its beginning.
    pub skip: u64,
}

/// Permissions and age of a tar entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// Permission bits.
    pub mode: u32,
    /// Seconds since 1970.
    pub modified: u64,
}

/// Writes one part. Nothing is whole before [`PartWriter::finish`]; dropping it finishes nothing.
pub struct PartWriter<W: Write> {
    number: u32,
    sink: HashingWriter<W>,
    compression: Compression,
    frame: Vec<u8>,
    table: FrameTable,
    left_in_file: u64,
    padding: usize,
}

impl<W: Write> PartWriter<W> {
    /// An empty part of this number.
    pub fn new(number: u32, sink: W, compression: Compression) -> Self {
        Self {
            number,
            sink: HashingWriter::new(sink),
            compression,
            frame: Vec::new(),
            table: FrameTable { part: number, plain_bytes: 0, frames: Vec::new() },
            left_in_file: 0,
            padding: 0,
        }
    }

    /// Plain bytes so far.
    pub fn plain_bytes(&self) -> u64 {
        self.table.plain_bytes
    }

    /// Adds a directory.
    pub fn directory(&mut self, path: &[u8], attributes: Attributes) -> io::Result<()> {
        let mut path = path.to_vec();
        path.push(b'/');
        self.header(&path, EntryType::Directory, 0, attributes)
    }

    /// Begins a file of exactly `size` bytes; answers where its contents begin in the plain part. Exactly that many
    /// bytes must follow with [`PartWriter::contents`].
    pub fn file(&mut self, path: &[u8], size: u64, attributes: Attributes) -> io::Result<u64> {
        self.header(path, EntryType::Regular, size, attributes)?;
        self.left_in_file = size;
        self.padding = usize::try_from(size.wrapping_neg() % TAR_BLOCK as u64).unwrap_or(0);
        let offset = self.table.plain_bytes;
        self.end_of_file()?;
        Ok(offset)
    }

    /// The next bytes of the file that was begun last.
    pub fn contents(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.left_in_file = self
            .left_in_file
            .checked_sub(bytes.len() as u64)
            .ok_or_else(|| io::Error::other("more bytes than the tar entry was announced with"))?;
        self.plain(bytes)?;
        self.end_of_file()
    }

    /// Ends the part: tar's end marker, the last frame, the seek table. Answers the sink, the frame table and the
    /// part's record.
    pub fn finish(mut self) -> io::Result<(W, FrameTable, PartRecord)> {
        if self.left_in_file != 0 {
            return Err(io::Error::other(format!("{} bytes are missing at the end of a tar entry", self.left_in_file)));
        }
        self.plain(&[0; 2 * TAR_BLOCK])?;
        self.cut()?;
        if self.compression.codec == Codec::Zstd {
            self.sink.write_all(&seek_table(&self.table))?;
        }
        let (sink, stored_bytes, stored_sha256) = self.sink.finish();
        let record =
            PartRecord { number: self.number, plain_bytes: self.table.plain_bytes, stored_bytes, stored_sha256 };
        Ok((sink, self.table, record))
    }

    fn end_of_file(&mut self) -> io::Result<()> {
        if self.left_in_file == 0 && self.padding > 0 {
            let padding = std::mem::take(&mut self.padding);
            self.plain([0; TAR_BLOCK].get(..padding).unwrap_or_default())?;
        }
        Ok(())
    }

    fn header(&mut self, path: &[u8], kind: EntryType, size: u64, attributes: Attributes) -> io::Result<()> {
        if self.left_in_file != 0 {
            return Err(io::Error::other(format!(
                "part {}: a tar entry begins before the last one ended",
                self.number
            )));
        }
        if path.len() > TAR_NAME_MAX {
            let mut name = path.to_vec();
            name.push(0);
            let long = tar_header(
                b"././@LongLink",
                EntryType::GNULongName,
                name.len() as u64,
                Attributes { mode: 0o644, modified: 0 },
            );
            self.plain(long.as_bytes())?;
            name.resize(name.len().next_multiple_of(TAR_BLOCK), 0);
            self.plain(&name)?;
        }
        let header = tar_header(path, kind, size, attributes);
        self.plain(header.as_bytes())
    }

    fn plain(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let room = FRAME_BYTES - self.frame.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.frame.extend_from_slice(now);
            self.table.plain_bytes += now.len() as u64;
            bytes = later;
            if self.frame.len() == FRAME_BYTES {
                self.cut()?;
            }
        }
        Ok(())
    }

    fn cut(&mut self) -> io::Result<()> {
        if self.frame.is_empty() {
            return Ok(());
        }
        let counting = CountingWriter::new(&mut self.sink);
        let mut encoder = Encoder::with_size_hint(counting, self.compression, self.frame.len() as u64)?;
        encoder.write_all(&self.frame)?;
        let size = encoder.finish()?.count();
        self.frame.clear();
        self.table.frames.push(u32::try_from(size).map_err(|_| io::Error::other("a frame exceeds 4 GiB"))?);
        Ok(())
    }
}

fn tar_header(path: &[u8], kind: EntryType, size: u64, attributes: Attributes) -> Header {
    let mut header = Header::new_gnu();
    let name = path.get(..path.len().min(TAR_NAME_MAX)).unwrap_or(path);
    let field = header.as_gnu_mut().map(|gnu| &mut gnu.name);
    if let Some(place) = field.and_then(|field| field.get_mut(..name.len())) {
        place.copy_from_slice(name);
    }
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(attributes.mode);
    header.set_mtime(attributes.modified);
    header.set_uid(0);
    header.set_gid(0);
    header.set_cksum();
    header
}

/// The seek table of the Zstandard Seekable Format 0.1.0 (`contrib/seekable_format` of Zstandard), without checksums:
/// the frames carry their own.
fn seek_table(table: &FrameTable) -> Vec<u8> {
    let count = u32::try_from(table.frames.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(table.frames.len() * 8 + 17);
    bytes.extend_from_slice(&0x184D_2A5E_u32.to_le_bytes());
    bytes.extend_from_slice(&(count.saturating_mul(8).saturating_add(9)).to_le_bytes());
    let mut left = table.plain_bytes;
    for &stored in &table.frames {
        let plain = left.min(FRAME_BYTES as u64);
        left -= plain;
        bytes.extend_from_slice(&stored.to_le_bytes());
        bytes.extend_from_slice(&u32::try_from(plain).unwrap_or(u32::MAX).to_le_bytes());
    }
    bytes.extend_from_slice(&count.to_le_bytes());
    bytes.push(0);
    bytes.extend_from_slice(&0x8F92_EAB1_u32.to_le_bytes());
    bytes
}

/// Passes over `count` bytes of `source`; an error when it ends before.
pub fn skip(source: &mut impl Read, count: u64) -> io::Result<()> {
    let passed = io::copy(&mut source.by_ref().take(count), &mut io::sink())?;
    if passed == count { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "small numbers")]
mod tests {
    use super::*;
    use crate::codec::decoder;
    use proptest::prelude::*;

    const PLAIN: Attributes = Attributes { mode: 0o600, modified: 1_700_000_000 };

    fn write(files: &[(Vec<u8>, Vec<u8>)], codec: Codec) -> (Vec<u8>, FrameTable, Vec<u64>) {
        let compression = codec.to_string().parse().unwrap();
        let mut part = PartWriter::new(1, Vec::new(), compression);
        let mut offsets = Vec::new();
        for (path, contents) in files {
            offsets.push(part.file(path, contents.len() as u64, PLAIN).unwrap());
            part.contents(contents).unwrap();
        }
        let (bytes, table, record) = part.finish().unwrap();
        assert_eq!(record.stored_bytes, bytes.len() as u64);
        assert_eq!(record.stored_sha256, crate::codec::Digest::of(&bytes));
        (bytes, table, offsets)
    }

    #[test]
    fn reads_as_tar_whatever_the_codec() {
        let long = vec![b'x'; 180];
        let big: Vec<u8> = (0..FRAME_BYTES + 12_345).map(|i| (i / 7) as u8).collect();
        let files = vec![
            (b"base/1/1234".to_vec(), b"hello".to_vec()),
            (b"empty".to_vec(), Vec::new()),
            (b"odd \xff name".to_vec(), vec![7; 512]),
            (long, b"long".to_vec()),
            (b"base/1/big".to_vec(), big),
        ];
        for codec in Codec::ALL {
            let (bytes, table, offsets) = write(&files, codec);
            assert_eq!(table.frames.len(), 2);
            let mut plain = Vec::new();
            decoder(codec, &bytes[..]).unwrap().read_to_end(&mut plain).unwrap();
            assert_eq!(plain.len() as u64, table.plain_bytes);
            let mut archive = tar::Archive::new(&plain[..]);
            for (entry, (path, contents)) in archive.entries().unwrap().zip(&files) {
                let mut entry = entry.unwrap();
                assert_eq!(&*entry.path_bytes(), &path[..]);
                let mut read = Vec::new();
                entry.read_to_end(&mut read).unwrap();
                assert_eq!(&read, contents);
            }
            for (offset, (_, contents)) in offsets.iter().zip(&files) {
                let range = table.range(*offset, contents.len() as u64).unwrap();
                let stored = &bytes[range.offset as usize..(range.offset + range.length) as usize];
                let mut source = decoder(codec, stored).unwrap();
                skip(&mut source, range.skip).unwrap();
                let mut read = vec![0; contents.len()];
                source.read_exact(&mut read).unwrap();
                assert_eq!(&read, contents);
            }
        }
    }

    #[test]
    fn a_short_file_cannot_be_finished() {
        let mut part = PartWriter::new(1, Vec::new(), Compression::default());
        part.file(b"a", 10, PLAIN).unwrap();
        part.contents(b"short").unwrap();
        assert!(part.file(b"b", 1, PLAIN).is_err());
        assert!(part.finish().is_err());
    }

    #[test]
    fn a_long_file_is_refused() {
        let mut part = PartWriter::new(1, Vec::new(), Compression::default());
        part.file(b"a", 3, PLAIN).unwrap();
        assert!(part.contents(b"long").is_err());
    }

    proptest! {
        #[test]
        fn ranges_never_panic(plain: u64, frames: Vec<u32>, offset: u64, length: u64) {
            let _ = FrameTable { part: 1, plain_bytes: plain, frames }.range(offset, length);
        }
    }
}
