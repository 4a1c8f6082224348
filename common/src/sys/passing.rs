//! Changes to files that may be lost: a power cut undoes any of them, and nobody minds.
//!
//! Readers still see a file whole or not at all. What must survive belongs to [`super::durable`].

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use super::durable::{TemporaryFile, parent_of, rename_over};
use super::faults;

/// The file with these bytes, in place of any that has the name.
pub fn replace(dest: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = TemporaryFile::create_in(parent_of(dest), mode)?;
    file.write_all(bytes)?;
    file.rename_unsynced(dest)
}

/// Renames within a file system, in place of a file that has the name.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    rename_over(from, to)
}

/// Removes a file. [`io::ErrorKind::NotFound`] when there is none.
pub fn remove(path: &Path) -> io::Result<()> {
    faults::call("remove", path, || fs::remove_file(path))
}

/// Removes a directory with nothing in it; an error when there is something, or no directory.
pub fn remove_empty_dir(path: &Path) -> io::Result<()> {
    faults::call("remove", path, || fs::remove_dir(path))
}
