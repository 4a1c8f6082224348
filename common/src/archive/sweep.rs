//! What of a repository can be removed besides backups: WAL, and what uploads that died left behind.
//!
//! Finds and removes; what may go is decided by whoever calls. Every removal is safe to repeat, and one that stops in
//! the middle leaves the newest WAL whole: it goes in ascending order.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use chrono::{DateTime, Utc};

use crate::pg::{ArchiveName, SystemIdentifier};
use crate::repo::BackupId;
use crate::repo::layout::parse_wal_object;
use crate::report::Cancel;
use crate::store::Key;

use super::Repository;

/// How many objects one removal asks the store for.
const DELETE_BATCH: usize = 500;

/// What an upload left behind is removed when it is older than this: no upload of one object takes that long.
const UNPUBLISHED_AGE: Duration = Duration::from_hours(24);

/// An archived file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct WalFile {
    /// Where it lies; sorts by timeline, then by position.
    pub key: Key,
    /// What it is.
    pub name: ArchiveName,
    /// Its stored size in bytes.
    pub bytes: u64,
    /// When it was written, by the store's clock.
    pub modified: DateTime<Utc>,
}

/// Every archived file of the cluster by system identifier, in the order of keys. Records, and names of nobody's
/// making, are left out.
pub fn wal_files(repository: &Repository) -> anyhow::Result<BTreeMap<SystemIdentifier, Vec<WalFile>>> {
    let root = format!("{}wal/", repository.layout().root());
    let listed = repository.list_all(&root).with_context(|| format!("list the WAL in {}", repository.describe()))?;
    let mut files: BTreeMap<SystemIdentifier, Vec<WalFile>> = BTreeMap::new();
    for entry in listed {
        let system = entry.key.as_str().strip_prefix(&root).and_then(|rest| rest.split_once('/')?.0.parse().ok());
        if let Some((system, object)) = system.zip(parse_wal_object(entry.key.file_name())) {
            let file = WalFile { name: object.name, bytes: entry.size, modified: entry.modified, key: entry.key };
            files.entry(system).or_default().push(file);
        }
    }
    Ok(files)
}

/// The stored bytes under each backup's name, whole or not.
pub fn backup_bytes(repository: &Repository) -> anyhow::Result<BTreeMap<BackupId, u64>> {
    let folder = repository.layout().backups();
    let mut bytes = BTreeMap::new();
    for entry in repository.list_all(&folder)? {
        let id = entry.key.as_str().strip_prefix(&folder).and_then(|rest| rest.split('/').next()?.parse().ok());
        if let Some(id) = id {
            *bytes.entry(id).or_default() += entry.size;
        }
    }
    Ok(bytes)
}

/// Removes these objects in ascending order of their keys. Those that are gone already are passed over. Stops between
/// two batches at `cancel`.
pub fn remove(repository: &Repository, keys: &[Key], cancel: &Cancel) -> anyhow::Result<()> {
    let mut keys = keys.to_vec();
    keys.sort();
    for batch in keys.chunks(DELETE_BATCH) {
        cancel.check()?;
        repository.store().delete(batch).with_context(|| format!("remove WAL from {}", repository.describe()))?;
    }
    Ok(())
}

/// Removes what uploads that died left behind, once it is a day old; answers how many.
pub fn unpublished(repository: &Repository) -> anyhow::Result<u64> {
    let removed = repository.store().sweep_unpublished(UNPUBLISHED_AGE);
    removed.with_context(|| format!("remove unfinished uploads from {}", repository.describe()))
}
