//! Backups in a repository: claimed, published, listed, removed.
//!
//! A backup exists when its commit record does. `started.json` is created first and protects the folder; the commit
//! record is written last; removal takes the commit record first and `started.json` last, so that a crash anywhere
//! leaves either a whole backup or one that nobody lists.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context as _;
use chrono::{DateTime, TimeDelta, Utc};

use crate::repo::envelope::RecordError;
use crate::repo::layout::backup_object;
use crate::repo::records::{BackupRecord, StartedRecord, WalPosition};
use crate::repo::{BackupId, plausible};
use crate::report::{Advice, message_of};
use crate::store::{Key, Published};
use crate::sys::clock::Clock;

use super::Repository;
use super::heartbeat::Heartbeat;
use super::repository::random_name;

/// A running backup that has not shown itself for this long is dead.
const HEARTBEAT_AGE_MAX: TimeDelta = TimeDelta::minutes(30);

/// How many taken names are passed over when a backup looks for its own.
const NAME_ATTEMPTS_MAX: i64 = 60;

/// What stands under a backup's name.
#[derive(Debug, Clone)]
pub enum Found {
    /// A whole backup.
    Complete(Box<BackupRecord>),
    /// Somebody is making it, or died while making or removing it; see [`is_alive`]. `None` without any record.
    Unfinished(Option<StartedRecord>),
    /// Its record, the commit record or that of the run, cannot be read: the reason.
    Damaged(String),
}

/// Every backup's name and what stands under it, oldest first.
pub fn list(repository: &Repository) -> anyhow::Result<BTreeMap<BackupId, Found>> {
    let mut objects: BTreeMap<BackupId, Vec<Key>> = BTreeMap::new();
    let folder = repository.layout().backups();
    for entry in repository.list_all(&folder)? {
        let id = entry.key.as_str().strip_prefix(&folder).and_then(|rest| rest.split('/').next());
        if let Some(id) = id.and_then(|id| id.parse().ok()) {
            objects.entry(id).or_default().push(entry.key);
        }
    }
    let mut found = BTreeMap::new();
    for (id, keys) in objects {
        let is_there = |name: &str| keys.iter().any(|key| key.file_name() == name);
        let what = if is_there(backup_object::COMMIT) {
            match load(repository, id) {
                Ok(record) => Found::Complete(Box::new(record)),
                Err(err) => Found::Damaged(message_of(&err)),
            }
        } else {
            let key = repository.layout().backup_object(id, backup_object::STARTED)?;
            match repository.read_record(&key) {
                Ok(started) => Found::Unfinished(started),
                Err(err) => Found::Damaged(message_of(&err)),
            }
        };
        found.insert(id, what);
    }
    Ok(found)
}

/// The whole backups, oldest first. Unfinished ones are left out, and damaged ones with a warning.
pub fn complete(repository: &Repository) -> anyhow::Result<Vec<BackupRecord>> {
    let whole = |(id, found)| match found {
        Found::Complete(record) => Some(*record),
        Found::Unfinished(_) => None,
        Found::Damaged(reason) => {
            tracing::warn!("{id} is left out: {reason}");
            None
        }
    };
    Ok(list(repository)?.into_iter().filter_map(whole).collect())
}

/// The commit record of a backup.
pub fn load(repository: &Repository, id: BackupId) -> anyhow::Result<BackupRecord> {
    let key = repository.layout().backup_object(id, backup_object::COMMIT)?;
    let record: Option<BackupRecord> = repository.read_record(&key)?;
    let record = record.ok_or_else(|| {
        Advice::failed(format!("there is no backup {id} in {}", repository.describe()))
            .hint("basebackup list shows the backups that there are")
    })?;
    let contradiction = if record.id == id {
        plausible::contradiction(&record)
    } else {
        Some(format!("it is the record of {}", record.id))
    };
    match contradiction {
        None => Ok(record),
        Some(what) => Err(repository.unusable::<BackupRecord>(&key, RecordError::Damaged(what))),
    }
}

/// Whether the run behind this record may still be at work. Clocks of two hosts may differ by minutes; a run counts as
/// dead after half an hour of silence.
pub fn is_alive(started: &StartedRecord, now: DateTime<Utc>) -> bool {
    now.signed_duration_since(started.heartbeat_at) < HEARTBEAT_AGE_MAX
}

/// Removes a backup, whole or not: the commit record first, `started.json` last. Safe to repeat after a crash.
pub fn remove(repository: &Repository, id: BackupId) -> anyhow::Result<()> {
    let layout = repository.layout();
    let commit = layout.backup_object(id, backup_object::COMMIT)?;
    let started = layout.backup_object(id, backup_object::STARTED)?;
    let removing = || format!("remove {id} from {}", repository.describe());
    repository.store().delete(std::slice::from_ref(&commit)).with_context(removing)?;
    let objects: Vec<Key> = repository.list_all(&layout.backup(id))?.into_iter().map(|entry| entry.key).collect();
    let data: Vec<Key> = objects.iter().filter(|key| **key != started && **key != commit).cloned().collect();
    repository.store().delete(&data).with_context(removing)?;
    repository.store().delete(&[started]).with_context(removing)?;
    Ok(())
}

/// A backup on its way. Dropping it leaves `started.json` and the parts behind: the next `retention` removes them once
/// the run counts as dead; [`Claim::give_up`] removes them at once.
#[derive(Debug)]
pub struct Claim {
    repository: Repository,
    id: BackupId,
    heartbeat: Option<Heartbeat<WalPosition>>,
}

impl Claim {
    /// Takes the name of a backup that starts now; when it is taken, that of the next second.
    pub fn take(repository: &Repository, clock: &Arc<dyn Clock>, host: &str) -> anyhow::Result<Self> {
        let now = clock.now();
        for attempt in 0..NAME_ATTEMPTS_MAX {
            let id = BackupId::at(now + TimeDelta::seconds(attempt));
            let key = repository.layout().backup_object(id, backup_object::STARTED)?;
            let record = StartedRecord {
                owner: random_name(),
                host: host.to_owned(),
                pid: std::process::id(),
                started_at: now,
                heartbeat_at: now,
                start_wal: None,
            };
            if repository.create_record(&key, &record)? == Published::Created {
                let heartbeat = Some(heartbeat(repository.clone(), key, record, Arc::clone(clock)));
                return Ok(Self { repository: repository.clone(), id, heartbeat });
            }
        }
        anyhow::bail!("{NAME_ATTEMPTS_MAX} names for a backup are taken, from {} on", BackupId::at(now))
    }

    /// The backup's name.
    pub fn id(&self) -> BackupId {
        self.id
    }

    /// The repository that it goes to.
    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    /// Writes down where the needed WAL begins, so that retention keeps it from now on.
    pub fn note_start(&self, start: WalPosition) {
        if let Some(heartbeat) = &self.heartbeat {
            heartbeat.tell(start);
        }
    }

    /// Writes the commit record: from now on the backup exists. All its objects must be durable.
    pub fn publish(mut self, record: &BackupRecord) -> anyhow::Result<()> {
        let key = self.repository.layout().backup_object(self.id, backup_object::COMMIT)?;
        let published = self.repository.create_record(&key, record)?;
        anyhow::ensure!(published == Published::Created, "{key} exists already, written by somebody else");
        self.heartbeat = None;
        Ok(())
    }

    /// Removes everything that was written.
    pub fn give_up(mut self) -> anyhow::Result<()> {
        self.heartbeat = None;
        remove(&self.repository, self.id)
    }
}

/// Shows in the run's record that it lives, and where its WAL begins once that is known.
fn heartbeat(
    repository: Repository,
    key: Key,
    mut record: StartedRecord,
    clock: Arc<dyn Clock>,
) -> Heartbeat<WalPosition> {
    Heartbeat::start(key, move |key, start| {
        record.start_wal = start.or(record.start_wal);
        record.heartbeat_at = clock.now();
        repository.replace_record(key, &record)
    })
}
