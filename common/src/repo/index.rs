//! The index of a backup: a line of JSON for every file and directory, then one for every part's frame table.
//!
//! It is written and read as a stream, so that millions of files cost no memory, and it is what a restore works from:
//! tar headers are for stock tools. Paths are checked on reading; one that could leave its directory is refused.

use std::ffi::OsStr;
use std::io::{self, BufRead, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::codec::Digest;

use super::part::FrameTable;

/// The longest line that is read, in bytes. A frame table takes about ten bytes a frame of 4 MiB.
const LINE_BYTES_MAX: u64 = 16 << 20;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IndexEntry {
    /// A directory.
    Directory(DirectoryEntry),
    /// A regular file.
    File(FileEntry),
    /// Where the frames of a part lie.
    Frames(FrameTable),
}

/// A directory of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "DirectoryFields", into = "DirectoryFields")]
pub struct DirectoryEntry {
    /// Relative to the data directory.
    pub path: RelativePath,
    /// Permission bits.
    pub mode: u32,
}

/// A file of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "FileFields", into = "FileFields")]
pub struct FileEntry {
    /// Relative to the data directory.
    pub path: RelativePath,
    /// The part that holds it.
    pub part: u32,
    /// Where its contents begin in the plain part.
    pub offset: u64,
    /// Its size.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// Seconds since 1970.
    pub modified: u64,
    /// The digest of its contents.
    pub sha256: Digest,
}

/// A path that stays below the directory that it is joined to: no root, no `..`, no `.`, nothing empty, no NUL.
///
/// In JSON it is `"path":"…"`, or `"encoded_path":"<hex>"` when it is no UTF-8.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelativePath(Box<[u8]>);

/// A directory as its line has it. The fields of the path stand among the others and not in a flattened structure of
/// their own: serde gathers whatever else the line has for such a one, at fifty times its size.
#[derive(Serialize, Deserialize)]
struct DirectoryFields {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    encoded_path: Option<String>,
    mode: u32,
}

/// A file as its line has it, like [`DirectoryFields`].
#[derive(Serialize, Deserialize)]
struct FileFields {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    encoded_path: Option<String>,
    part: u32,
    offset: u64,
    size: u64,
    mode: u32,
    modified: u64,
    sha256: Digest,
}

/// The bytes are no path below a directory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no path below the data directory")]
pub struct PathError(String);

impl RelativePath {
    /// The path with these bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, PathError> {
        let bytes = bytes.into();
        let good = |part: &[u8]| !part.is_empty() && part != b"." && part != b".." && !part.contains(&0);
        if bytes.split(|b| *b == b'/').all(good) {
            Ok(Self(bytes.into_boxed_slice()))
        } else {
            Err(PathError(String::from_utf8_lossy(&bytes).chars().take(120).collect()))
        }
    }

    /// The path's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The path for the file system.
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }

    /// The path below `directory`.
    pub fn below(&self, directory: &Path) -> PathBuf {
        directory.join(self.as_path())
    }

    /// For messages.
    pub fn display(&self) -> String {
        String::from_utf8_lossy(&self.0).into_owned()
    }
}

impl RelativePath {
    /// From the two fields of a line, of which there is exactly one.
    fn of_fields(path: Option<String>, encoded_path: Option<String>) -> Result<Self, PathError> {
        match (path, encoded_path) {
            (Some(path), None) => Self::new(path),
            (None, Some(encoded)) => {
                Self::new(hex::decode(&encoded).map_err(|_| PathError(encoded.chars().take(120).collect()))?)
            }
            _ => Err(PathError(String::new())),
        }
    }

    fn into_fields(self) -> (Option<String>, Option<String>) {
        match String::from_utf8(self.0.into_vec()) {
            Ok(text) => (Some(text), None),
            Err(err) => (None, Some(hex::encode(err.as_bytes()))),
        }
    }
}

impl TryFrom<DirectoryFields> for DirectoryEntry {
    type Error = PathError;

    fn try_from(fields: DirectoryFields) -> Result<Self, Self::Error> {
        Ok(Self { path: RelativePath::of_fields(fields.path, fields.encoded_path)?, mode: fields.mode })
    }
}

impl From<DirectoryEntry> for DirectoryFields {
    fn from(DirectoryEntry { path, mode }: DirectoryEntry) -> Self {
        let (path, encoded_path) = path.into_fields();
        Self { path, encoded_path, mode }
    }
}

impl TryFrom<FileFields> for FileEntry {
    type Error = PathError;

    fn try_from(fields: FileFields) -> Result<Self, Self::Error> {
        let FileFields { path, encoded_path, part, offset, size, mode, modified, sha256 } = fields;
        Ok(Self { path: RelativePath::of_fields(path, encoded_path)?, part, offset, size, mode, modified, sha256 })
    }
}

impl From<FileEntry> for FileFields {
    fn from(FileEntry { path, part, offset, size, mode, modified, sha256 }: FileEntry) -> Self {
        let (path, encoded_path) = path.into_fields();
        Self { path, encoded_path, part, offset, size, mode, modified, sha256 }
    }
}

/// Writes one line.
pub fn write_entry(sink: &mut impl Write, entry: &IndexEntry) -> io::Result<()> {
    serde_json::to_writer(&mut *sink, entry)?;
    sink.write_all(b"\n")
}

/// Reads the lines one by one; the first bad one ends the reading with an error that names its number.
pub fn entries(source: impl BufRead) -> impl Iterator<Item = io::Result<IndexEntry>> {
    let mut source = Some(source);
    let mut number = 0_u64;
    let mut line = Vec::new();
    std::iter::from_fn(move || {
        let reader = source.as_mut()?;
        number += 1;
        line.clear();
        let read = io::Read::take(&mut *reader, LINE_BYTES_MAX).read_until(b'\n', &mut line);
        let entry = match read {
            Ok(0) => None,
            Ok(_) => Some(serde_json::from_slice(&line).map_err(|err| damaged(number, &err))),
            Err(err) => Some(Err(err)),
        };
        if !matches!(entry, Some(Ok(_))) {
            source = None;
        }
        entry
    })
}

fn damaged(line: u64, err: &serde_json::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("damaged index, line {line}: {err}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    #[rstest]
    #[case("../etc/passwd")]
    #[case("/etc/passwd")]
    #[case("base/../../x")]
    #[case("base//1")]
    #[case("base/.")]
    #[case("")]
    #[case("a\0b")]
    fn a_path_that_could_escape_is_refused(#[case] path: &str) {
        assert!(RelativePath::new(path).is_err());
        let line = serde_json::json!({"directory": {"path": path, "mode": 448}}).to_string();
        assert!(entries(line.as_bytes()).next().unwrap().is_err());
    }

    fn any_entry() -> impl Strategy<Value = IndexEntry> {
        let path = proptest::collection::vec(1_u8..=255, 1..20)
            .prop_filter_map("no path", |bytes| RelativePath::new(bytes).ok());
        prop_oneof![
            (path.clone(), any::<u32>()).prop_map(|(path, mode)| IndexEntry::Directory(DirectoryEntry { path, mode })),
            (path, any::<(u32, u64, u64, u32, u64)>()).prop_map(|(path, (part, offset, size, mode, modified))| {
                IndexEntry::File(FileEntry { path, part, offset, size, mode, modified, sha256: Digest::of(b"x") })
            }),
            (any::<u32>(), any::<u64>(), any::<Vec<u32>>()).prop_map(|(part, plain_bytes, frames)| {
                IndexEntry::Frames(FrameTable { part, plain_bytes, frames })
            }),
        ]
    }

    proptest! {
        #[test]
        fn round_trips(written in proptest::collection::vec(any_entry(), 0..8)) {
            let mut bytes = Vec::new();
            for entry in &written {
                write_entry(&mut bytes, entry).unwrap();
            }
            let read: Vec<_> = entries(&bytes[..]).collect::<io::Result<_>>().unwrap();
            prop_assert_eq!(read, written);
        }

        #[test]
        fn never_panics(bytes: Vec<u8>) {
            let _ = entries(&bytes[..]).count();
        }
    }
}
