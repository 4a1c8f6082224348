//! The repository's own formats.

use std::io::{self, Read};
use std::path::{Component, Path};

use common::codec::{Codec, Compression, Digest, decoder};
use common::repo::FORMAT;
use common::repo::envelope::{self, Record, RecordError};
use common::repo::index::{self, IndexEntry, RelativePath};
use common::repo::part::{Attributes, FRAME_BYTES, FrameTable, PartWriter, skip};
use common::repo::records::{AbandonedRecord, BackupRecord, IdentityRecord, RepositoryRecord, StartedRecord};
use common::restore::wal_plan::WalPlan;

use super::input;

/// A record of every kind: the input as the whole record, and as the body within a right envelope.
pub fn record(bytes: &[u8]) {
    check_record::<RepositoryRecord>(bytes);
    check_record::<IdentityRecord>(bytes);
    check_record::<StartedRecord>(bytes);
    check_record::<BackupRecord>(bytes);
    check_record::<AbandonedRecord>(bytes);
    check_record::<WalPlan>(bytes);
}

fn check_record<R: Record + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    drop(envelope::open::<R>(bytes));
    let Ok(body) = std::str::from_utf8(bytes) else { return };
    // The digest covers the value as it stands, without the blanks around it.
    let body = body.trim_matches([' ', '\t', '\r', '\n']);
    let (kind, sha256) = (R::KIND, Digest::of(body.as_bytes()));
    let enveloped = format!(r#"{{"format":{FORMAT},"kind":"{kind}","sha256":"{sha256}","record":{body}}}"#);
    let outcome = envelope::open::<R>(enveloped.as_bytes());
    assert!(!matches!(outcome, Err(RecordError::Newer(_))));
    let Ok(record) = outcome else { return };
    let sealed = envelope::seal(&record).unwrap_or_default();
    match envelope::open::<R>(&sealed) {
        Ok(again) => assert_eq!(again, record),
        Err(error) => unreachable!("{error} in a record sealed here"),
    }
}

/// An index.
pub fn index(bytes: &[u8]) {
    let entries: Vec<IndexEntry> = index::entries(bytes).map_while(Result::ok).collect();
    let mut written = Vec::new();
    for entry in &entries {
        match entry {
            IndexEntry::Directory(directory) => check_path(&directory.path),
            IndexEntry::File(file) => check_path(&file.path),
            IndexEntry::Frames(table) => check_table(table, bytes),
        }
        assert!(index::write_entry(&mut written, entry).is_ok());
    }
    let again: io::Result<Vec<_>> = index::entries(&written[..]).collect();
    assert_eq!(again.ok(), Some(entries));
}

/// A path leads to a place below the folder that it is joined to.
fn check_path(path: &RelativePath) {
    let root = Path::new("/data");
    let joined = path.below(root);
    let below: Option<Vec<_>> = joined.strip_prefix(root).ok().map(|rest| rest.components().collect());
    assert!(
        below.is_some_and(|parts| !parts.is_empty() && parts.iter().all(|part| matches!(part, Component::Normal(_))))
    );
    assert!(!path.as_bytes().contains(&0));
}

/// A frame table of the input's numbers, asked for any range.
pub fn frames(bytes: &[u8]) {
    let (plain_bytes, rest) = input::long(bytes);
    let frames = rest.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect();
    check_table(&FrameTable { part: 1, plain_bytes, frames }, rest);
    // A table that fits its part.
    let count = rest.len() / 4;
    let frames: Vec<u32> = rest.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect();
    let plain_bytes = (count as u64 * FRAME_BYTES as u64).saturating_sub(plain_bytes % FRAME_BYTES as u64);
    check_table(&FrameTable { part: 1, plain_bytes, frames }, rest);
}

/// Ranges lie within the part, begin where a frame begins, and hold what was asked for.
fn check_table(table: &FrameTable, numbers: &[u8]) {
    let (offset, rest) = input::long(numbers);
    let (length, _) = input::long(rest);
    let plain = table.plain_bytes.max(1);
    for (offset, length) in [(offset, length), (offset % plain, length % plain), (0, table.plain_bytes)] {
        let Some(range) = table.range(offset, length) else { continue };
        assert!(range.offset + range.length <= table.stored_bytes());
        assert!(offset.checked_add(length).is_some_and(|end| end <= table.plain_bytes) && range.skip <= offset);
        let ends = std::iter::once(0).chain(table.frames.iter().scan(0, |end, size| {
            *end += u64::from(*size);
            Some(*end)
        }));
        let borders: Vec<u64> = ends.collect();
        assert!(borders.contains(&range.offset) && borders.contains(&(range.offset + range.length)));
    }
}

/// The choices from here on make a large part; they are few, since one takes its time.
const LARGE_PART: u8 = 0xF8;

/// Files made of the input go into a part; tar, the frame table and the seek table must give them back.
pub fn part(bytes: &[u8]) {
    let (choice, rest) = input::byte(bytes);
    let codec = Codec::ALL.get(usize::from(choice % 3)).copied().unwrap_or(Codec::Zstd);
    let files = files(rest, choice >= LARGE_PART);
    match write_part(&files, codec) {
        Ok((stored, table, offsets)) => {
            check_tar(codec, &stored, &files);
            for (offset, file) in offsets.iter().zip(&files) {
                assert_eq!(
                    read_range(codec, &stored, &table, *offset, file.contents.len()).ok().as_ref(),
                    Some(&file.contents)
                );
            }
            if codec == Codec::Zstd {
                check_seek_table(&stored, &table);
            }
        }
        Err(error) => unreachable!("{error} while a part is written to memory"),
    }
}

/// Larger files tell nothing more, a large part's first one apart.
const FILE_BYTES_MAX: usize = 4096;

struct File {
    path: Vec<u8>,
    contents: Vec<u8>,
}

/// At most sixteen files: the lengths of path and contents, then the path, which also fills the contents. The first of a
/// large part is longer than a frame.
fn files(mut input: &[u8], large: bool) -> Vec<File> {
    let mut files = Vec::new();
    while !input.is_empty() && files.len() < 16 {
        let (path_length, rest) = input::byte(input);
        let (size, rest) = input::piece(rest);
        let (path, rest) = rest.split_at(rest.len().min(usize::from(path_length)));
        // What a header cannot hold: a NUL ends a name, a slash at its end makes a folder.
        let mut path: Vec<u8> = path.iter().map(|byte| if matches!(byte, 0 | b'/') { b'_' } else { *byte }).collect();
        path.push(b'x');
        let size = if large && files.is_empty() { FRAME_BYTES + size } else { (size - 1) % FILE_BYTES_MAX };
        let contents = path.iter().copied().cycle().take(size).collect();
        files.push(File { path, contents });
        input = rest;
    }
    files
}

fn write_part(files: &[File], codec: Codec) -> io::Result<(Vec<u8>, FrameTable, Vec<u64>)> {
    let mut part = PartWriter::new(1, Vec::new(), Compression::usual(codec));
    let mut offsets = Vec::new();
    for file in files {
        let attributes = Attributes { mode: 0o600, modified: 1_700_000_000 };
        offsets.push(part.file(&file.path, file.contents.len() as u64, attributes)?);
        part.contents(&file.contents)?;
    }
    let (stored, table, record) = part.finish()?;
    assert_eq!((record.stored_bytes, record.stored_sha256), (stored.len() as u64, Digest::of(&stored)));
    assert!(table.stored_bytes() <= record.stored_bytes && table.plain_bytes == record.plain_bytes);
    Ok((stored, table, offsets))
}

fn check_tar(codec: Codec, stored: &[u8], files: &[File]) {
    let read = || -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut archive = tar::Archive::new(decoder(codec, stored)?);
        let entries = archive.entries()?.map(|entry| {
            let mut entry = entry?;
            let mut contents = Vec::new();
            entry.read_to_end(&mut contents)?;
            Ok((entry.path_bytes().into_owned(), contents))
        });
        entries.collect()
    };
    let written: Vec<_> = files.iter().map(|file| (file.path.clone(), file.contents.clone())).collect();
    assert!(read().ok() == Some(written), "tar reads other files");
}

fn read_range(codec: Codec, stored: &[u8], table: &FrameTable, offset: u64, size: usize) -> io::Result<Vec<u8>> {
    let missing = || io::Error::other("the table does not reach so far");
    let range = table.range(offset, size as u64).ok_or_else(missing)?;
    let from = usize::try_from(range.offset).map_err(io::Error::other)?;
    let frames = stored.get(from..).ok_or_else(missing)?.take(range.length);
    let mut contents = vec![0; size];
    if size > 0 {
        let mut source = decoder(codec, frames)?;
        skip(&mut source, range.skip)?;
        source.read_exact(&mut contents)?;
    }
    Ok(contents)
}

/// The seek table at the end of the object (Zstandard Seekable Format): as many frames, of the same sizes.
fn check_seek_table(stored: &[u8], table: &FrameTable) {
    let count = table.frames.len();
    let seek_table = stored.len().checked_sub(8 * count + 17).and_then(|at| stored.get(at..)).unwrap_or_default();
    let words: Vec<u32> = seek_table.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect();
    assert_eq!(words.first(), Some(&0x184D_2A5E));
    assert_eq!(words.get(1).map(|size| *size as usize), Some(8 * count + 9));
    let entries = words.get(2..2 + 2 * count).unwrap_or_default();
    assert!(entries.iter().step_by(2).eq(&table.frames));
    assert_eq!(entries.iter().skip(1).step_by(2).map(|size| u64::from(*size)).sum::<u64>(), table.plain_bytes);
    assert!(seek_table.ends_with(&0x8F92_EAB1_u32.to_le_bytes()));
}
