//! A store in a folder: one file an object, the key is its path.
//!
//! A write is acknowledged when the file, its directory and every directory up to the root are on disk
//! ([`crate::sys::durable`]). Symbolic links inside the root are never followed: the root itself may be one. What
//! cannot be looked at (no rights, an I/O error, a file where a folder should be) is an error, never "absent".

use std::collections::BTreeSet;
use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::{Entry, Key, Published, Store, StoreError, Upload};
use crate::sys::durable::{self, TemporaryFile};
use crate::sys::faults;
use crate::sys::writeback::Writeback;

mod walk;

/// Archives are often read by a backup group; never by everybody.
const DIRECTORY_MODE: u32 = 0o750;
const FILE_MODE: u32 = 0o640;
/// How often a folder that another process removed as empty, while we were about to use it, is made again.
const FOLDER_ATTEMPTS_MAX: u32 = 100;

/// A [`Store`] in a local (or mounted) folder. The first write makes the folder; one that was there and vanished is not
/// made again.
#[derive(Debug, Clone)]
pub struct LocalStore {
    root: PathBuf,
    /// Whether the root was found in its place before; clones share it.
    root_was_seen: Arc<AtomicBool>,
}

fn io_error(action: &str, path: &Path, source: io::Error) -> StoreError {
    StoreError::Io { what: format!("{action} {}", path.display()), source }
}

/// The path's metadata without following a link; `None` only when the operating system says that nothing is there.
fn look(path: &Path) -> Result<Option<Metadata>, StoreError> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error("look at", path, error)),
    }
}

fn refuse_link(path: &Path) -> StoreError {
    StoreError::Link(path.display().to_string())
}

impl LocalStore {
    /// The store in `root`, an absolute path. Touches nothing.
    pub fn open(root: PathBuf) -> Self {
        Self { root, root_was_seen: Arc::default() }
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.root.join(key.as_str())
    }

    fn no_root(&self) -> StoreError {
        StoreError::NoRoot(self.root.display().to_string())
    }

    /// Whether the root is there. What it is shows when it is used.
    fn has_root(&self) -> Result<bool, StoreError> {
        match fs::metadata(&self.root) {
            Ok(_) => {
                self.root_was_seen.store(true, Ordering::Relaxed);
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(io_error("look at", &self.root, error)),
        }
    }

    /// Refuses a link among the folders between the root and `path`; folders that are missing are fine.
    fn refuse_linked_folders(&self, path: &Path) -> Result<(), StoreError> {
        for folder in self.folders_of(path).filter(|folder| *folder != self.root) {
            if look(folder)?.is_some_and(|metadata| metadata.is_symlink()) {
                return Err(refuse_link(folder));
            }
        }
        Ok(())
    }

    /// The folders that lead to `path`, from its own up to the root, the root included.
    fn folders_of<'a>(&'a self, path: &'a Path) -> impl Iterator<Item = &'a Path> {
        path.ancestors().skip(1).take_while(|folder| folder.starts_with(&self.root))
    }

    /// The object's path and metadata; `None` when it is provably absent.
    fn find(&self, key: &Key) -> Result<Option<(PathBuf, Metadata)>, StoreError> {
        let path = self.path(key);
        self.refuse_linked_folders(&path)?;
        match look(&path)? {
            Some(metadata) if metadata.is_file() => Ok(Some((path, metadata))),
            Some(metadata) if metadata.is_symlink() => Err(refuse_link(&path)),
            Some(metadata) if metadata.is_dir() => Err(io_error("open", &path, ErrorKind::IsADirectory.into())),
            Some(_) => {
                let source = io::Error::new(ErrorKind::InvalidInput, "neither a file nor a folder");
                Err(io_error("open", &path, source))
            }
            None if self.has_root()? => Ok(None),
            None => Err(self.no_root()),
        }
    }

    fn open_object(&self, key: &Key) -> Result<File, StoreError> {
        let not_found = || StoreError::NotFound(key.to_string());
        let (path, _) = self.find(key)?.ok_or_else(not_found)?;
        match durable::open_nofollow(&path) {
            Ok(file) => Ok(file),
            Err(error) if error.kind() == ErrorKind::NotFound && self.has_root()? => Err(not_found()),
            Err(error) => Err(io_error("open", &path, error)),
        }
    }

    /// A temporary file in the folder of `path`, which is made, durably, where it is missing.
    fn temporary_for(&self, path: &Path) -> Result<TemporaryFile, StoreError> {
        self.refuse_linked_folders(path)?;
        let folder = path.parent().unwrap_or(&self.root);
        // A root that was there and is not was unmounted: what were written to its place would be hidden later, or fill
        // another disk.
        if !self.has_root()? && self.root_was_seen.load(Ordering::Relaxed) {
            return Err(self.no_root());
        }
        let failed = |error| io_error("make a file in", folder, error);
        for _ in 0..FOLDER_ATTEMPTS_MAX {
            let file = match TemporaryFile::create_in(folder, FILE_MODE) {
                Ok(file) => Some(file),
                Err(error) if error.kind() == ErrorKind::NotFound => None,
                Err(error) => return Err(failed(error)),
            };
            // Also for a folder that was there: its entry may not be durable yet. With a file in it, nobody can
            // remove and make it again behind our back.
            match (durable::create_dir_all(folder, DIRECTORY_MODE), file) {
                (Ok(()), Some(file)) => {
                    self.root_was_seen.store(true, Ordering::Relaxed);
                    return Ok(file);
                }
                (Ok(()), None) => {}
                (Err(error), _) if error.kind() == ErrorKind::NotFound => {}
                (Err(error), _) => return Err(failed(error)),
            }
        }
        Err(failed(ErrorKind::NotFound.into()))
    }

    /// Makes an object that somebody else published durable: its bytes, and the way to it.
    fn sync_existing(&self, path: &Path) -> Result<(), StoreError> {
        match look(path)? {
            Some(metadata) if metadata.is_symlink() => return Err(refuse_link(path)),
            Some(metadata) if metadata.is_dir() => {
                return Err(io_error("publish", path, ErrorKind::IsADirectory.into()));
            }
            _ => {}
        }
        let sync = |path: &Path, result: io::Result<()>| result.map_err(|error| io_error("sync", path, error));
        sync(path, durable::open_nofollow(path).and_then(|file| faults::call("sync", path, || file.sync_all())))?;
        for folder in self.folders_of(path) {
            sync(folder, durable::sync_dir(folder))?;
        }
        // Whoever made the root may have been cut short before its own entry was durable.
        sync(&self.root, durable::create_dir_all(&self.root, DIRECTORY_MODE))
    }

    fn remove(&self, path: &Path) -> Result<(), StoreError> {
        self.refuse_linked_folders(path)?;
        match faults::call("remove", path, || fs::remove_file(path)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(io_error("remove", path, error)),
            _ => Ok(()),
        }
    }

    /// Makes the removals in `folder` durable, then removes it and those above it as long as they are empty. A
    /// folder that is gone was removed by somebody else, together with what was in it.
    fn settle(&self, folder: &Path) -> Result<(), StoreError> {
        for folder in self.folders_of(&folder.join("object")) {
            match durable::sync_dir(folder) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(io_error("sync", folder, error)),
            }
            if folder == self.root {
                break;
            }
            match faults::call("remove", folder, || fs::remove_dir(folder)) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                // Not empty, or not ours to remove: it may stay.
                Err(_) => break,
            }
        }
        Ok(())
    }
}

fn modified(metadata: &Metadata) -> DateTime<Utc> {
    // Every Unix file has this time; the standard library asks because other systems may not.
    metadata.modified().map_or(DateTime::UNIX_EPOCH, DateTime::from)
}

impl Store for LocalStore {
    fn describe(&self) -> String {
        self.root.display().to_string()
    }

    fn begin(&self, key: &Key) -> Result<Box<dyn Upload>, StoreError> {
        let dest = self.path(key);
        let file = self.temporary_for(&dest)?;
        Ok(Box::new(LocalUpload { store: self.clone(), dest, file, writeback: Writeback::default() }))
    }

    fn replace(&self, key: &Key, bytes: &[u8]) -> Result<(), StoreError> {
        let dest = self.path(key);
        let mut file = self.temporary_for(&dest)?;
        file.write_all(bytes).and_then(|()| file.replace(&dest)).map_err(|error| io_error("write", &dest, error))
    }

    fn get(&self, key: &Key) -> Result<Box<dyn Read + Send>, StoreError> {
        Ok(Box::new(self.open_object(key)?))
    }

    fn get_range(&self, key: &Key, offset: u64, length: u64) -> Result<Box<dyn Read + Send>, StoreError> {
        let mut file = self.open_object(key)?;
        file.seek(SeekFrom::Start(offset)).map_err(|error| io_error("read", &self.path(key), error))?;
        Ok(Box::new(file.take(length)))
    }

    fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Vec<Entry>, StoreError> {
        walk::list(self, prefix, start_after, limit)
    }

    fn delete(&self, keys: &[Key]) -> Result<(), StoreError> {
        if !self.has_root()? {
            return Err(self.no_root());
        }
        let mut folders = BTreeSet::new();
        for key in keys {
            let path = self.path(key);
            self.remove(&path)?;
            folders.extend(path.parent().map(Path::to_owned));
        }
        // Deepest first, so that a folder is looked at after all below it.
        folders.iter().rev().try_for_each(|folder| self.settle(folder))
    }

    fn stat(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        let found = self.find(key)?;
        Ok(found.map(|(_, metadata)| Entry { key: key.clone(), size: metadata.len(), modified: modified(&metadata) }))
    }

    /// Everything under a temporary name that was not written to for `age`; 0 when there is no store yet.
    fn sweep_unpublished(&self, age: Duration) -> Result<u64, StoreError> {
        walk::sweep(self, age)
    }
}

#[derive(Debug)]
struct LocalUpload {
    store: LocalStore,
    dest: PathBuf,
    file: TemporaryFile,
    writeback: Writeback,
}

impl Write for LocalUpload {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.writeback.advance(self.file.file(), count as u64);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Upload for LocalUpload {
    fn publish_new(self: Box<Self>) -> Result<Published, StoreError> {
        let Self { store, dest, file, .. } = *self;
        // The way to the folder is durable since the file was begun in it: it was never empty since.
        match file.publish_new(&dest) {
            Ok(true) => return Ok(Published::Created),
            Ok(false) => {}
            Err(error) if error.kind() == ErrorKind::NotFound && !store.has_root()? => return Err(store.no_root()),
            Err(error) => return Err(io_error("publish", &dest, error)),
        }
        store.sync_existing(&dest)?;
        Ok(Published::Exists)
    }

    fn abort(self: Box<Self>) {}
}

#[cfg(test)]
mod tests;
