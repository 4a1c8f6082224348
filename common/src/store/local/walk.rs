//! Walks the folders of a [`LocalStore`].

use std::fs::{self, FileType};
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use super::{LocalStore, io_error, look, modified};
use crate::store::{Entry, Key, StoreError};
use crate::sys::clock::{Clock, SystemClock};
use crate::sys::durable;
use crate::sys::faults;

/// What `mkfs` puts into the root of a file system, for root alone to read: a mount point can be a store all the same.
const LOST_AND_FOUND: &str = "lost+found";

/// Which objects are asked for, and those found so far.
struct Listing<'a> {
    store: &'a LocalStore,
    prefix: &'a str,
    start_after: &'a str,
    limit: usize,
    found: Vec<Entry>,
}

pub(super) fn list(
    store: &LocalStore,
    prefix: &str,
    start_after: Option<&str>,
    limit: usize,
) -> Result<Vec<Entry>, StoreError> {
    if !store.has_root()? {
        return Err(store.no_root());
    }
    let mut listing = Listing { store, prefix, start_after: start_after.unwrap_or_default(), limit, found: Vec::new() };
    // The folders that the prefix names need not be searched for.
    let folder = prefix.rfind('/').and_then(|slash| prefix.get(..=slash)).unwrap_or_default();
    if let Some(name) = folder.strip_suffix('/') {
        // No key can begin with what is no key itself.
        if Key::new(name).is_err() {
            return Ok(Vec::new());
        }
        let path = store.root.join(name);
        store.refuse_linked_folders(&path.join("object"))?;
    }
    listing.walk(folder)?;
    Ok(listing.found)
}

/// The children of a folder of the store, without those that cannot lead to an object; empty when the folder is gone.
fn children(store: &LocalStore, path: &Path) -> Result<Vec<(String, FileType)>, StoreError> {
    let failed = |error| io_error("list", path, error);
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut children = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        // A name that is no text is no part of a key.
        let Ok(name) = entry.file_name().into_string() else { continue };
        if name == LOST_AND_FOUND && path == store.root {
            continue;
        }
        match entry.file_type() {
            Ok(kind) if kind.is_file() || kind.is_dir() => children.push((name, kind)),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(children)
}

impl Listing<'_> {
    /// Looks through a folder, which is empty (the root) or ends in a slash.
    fn walk(&mut self, folder: &str) -> Result<(), StoreError> {
        let mut names: Vec<String> = children(self.store, &self.store.root.join(folder))?
            .into_iter()
            .filter(|(name, _)| Key::new(format!("{folder}{name}")).is_ok())
            // With its slash a folder stands where its objects do among its neighbours.
            .map(|(name, kind)| if kind.is_dir() { format!("{folder}{name}/") } else { format!("{folder}{name}") })
            .filter(|name| self.may_match(name))
            .collect();
        names.sort_unstable();
        for name in names {
            if self.found.len() >= self.limit {
                break;
            }
            if name.ends_with('/') { self.walk(&name)? } else { self.add(&name)? }
        }
        Ok(())
    }

    /// Whether an object is asked for, or any below a folder can be.
    fn may_match(&self, name: &str) -> bool {
        let is_folder = name.ends_with('/');
        let after = name > self.start_after || (is_folder && self.start_after.starts_with(name));
        after && (name.starts_with(self.prefix) || (is_folder && self.prefix.starts_with(name)))
    }

    fn add(&mut self, name: &str) -> Result<(), StoreError> {
        let path = self.store.root.join(name);
        // It may have vanished, or become something else, since its name was read.
        if let Some(metadata) = look(&path)?.filter(fs::Metadata::is_file) {
            self.found.push(Entry { key: Key::new(name)?, size: metadata.len(), modified: modified(&metadata) });
        }
        Ok(())
    }
}

pub(super) fn sweep(store: &LocalStore, age: Duration) -> Result<u64, StoreError> {
    let now = SystemClock.now();
    let mut swept = 0;
    let mut folders = vec![store.root.clone()];
    while let Some(folder) = folders.pop() {
        for (name, kind) in children(store, &folder)? {
            let path = folder.join(&name);
            if kind.is_dir() {
                if !name.starts_with('.') {
                    folders.push(path);
                }
                continue;
            }
            let Some(metadata) = look(&path)?.filter(|_| durable::is_temporary_name(name.as_ref())) else { continue };
            // A time in the future is no age at all.
            let old = (now - modified(&metadata)).to_std().is_ok_and(|time| time >= age);
            if old {
                match faults::call("remove", &path, || fs::remove_file(&path)) {
                    Ok(()) => swept += 1,
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    Err(error) => return Err(io_error("remove", &path, error)),
                }
            }
        }
    }
    Ok(swept)
}
