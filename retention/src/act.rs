//! Does what a plan says, and nothing else.
//!
//! What the plan rests on is looked at once more before the two steps that cannot be taken back: a run that was taken
//! for dead may have shown itself meanwhile, and a backup may have begun.

use std::collections::BTreeSet;

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use common::archive::backups::{self, is_alive};
use common::archive::{Repository, leases, sweep};
use common::repo::BackupId;
use common::repo::layout::backup_object;
use common::repo::records::StartedRecord;
use common::report::{Cancel, Progress};

use crate::policy::Plan;

/// What was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Acted {
    /// Backups removed.
    pub(crate) backups: u64,
    /// WAL files removed.
    pub(crate) wal_files: u64,
    /// Stored bytes of both.
    pub(crate) bytes: u64,
}

/// Removes the backups that go, oldest first, then the WAL that goes, from its old end, then what died uploads left
/// behind. Safe to repeat after a crash anywhere; each step leaves everything that stays whole.
pub(crate) fn carry_out(
    repository: &Repository,
    plan: &Plan,
    now: DateTime<Utc>,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> anyhow::Result<Acted> {
    let mut acted = Acted::default();
    progress.begin("remove", Some(plan.dropped_bytes()));
    for item in plan.dropped_backups() {
        cancel.check()?;
        if item.was_unfinished && !is_still_dead(repository, item.id, now)? {
            tracing::warn!("{} shows signs of life and is kept", item.id);
            continue;
        }
        if let Some(lease) = lease_on(repository, item.id, now)? {
            tracing::warn!("{} is kept: {lease}", item.id);
            continue;
        }
        backups::remove(repository, item.id)?;
        acted.backups += 1;
        acted.bytes += item.bytes;
        progress.advance(item.bytes);
    }
    if plan.dropped_wal().next().is_some()
        && let Some(new) = new_backup(repository, plan)?
    {
        tracing::warn!("{new} has begun meanwhile: no WAL is removed this time");
        progress.end();
        return Ok(acted);
    }
    if plan.dropped_wal().next().is_some()
        && let Some(lease) = new_lease(repository, plan)?
    {
        tracing::warn!("{lease} was taken meanwhile: no WAL is removed this time");
        progress.end();
        return Ok(acted);
    }
    for item in plan.dropped_wal() {
        sweep::remove(repository, &item.keys, cancel)?;
        acted.wal_files += item.files;
        acted.bytes += item.bytes;
        progress.advance(item.bytes);
    }
    let expired = leases::remove_expired(repository, now)?;
    if expired > 0 {
        tracing::info!("removed {expired} leases that had expired");
    }
    let left_behind = sweep::unpublished(repository)?;
    if left_behind > 0 {
        tracing::info!("removed {left_behind} unfinished uploads");
    }
    progress.end();
    Ok(acted)
}

/// Whether a backup that nobody finished is still that, and nobody is at work on it.
fn is_still_dead(repository: &Repository, id: BackupId, now: DateTime<Utc>) -> anyhow::Result<bool> {
    let commit = repository.layout().backup_object(id, backup_object::COMMIT)?;
    let started: Option<StartedRecord> =
        repository.read_record(&repository.layout().backup_object(id, backup_object::STARTED)?)?;
    let is_complete = repository.store().stat(&commit)?.is_some();
    Ok(!is_complete && started.is_none_or(|started| !is_alive(&started, now)))
}

/// Why a backup must stay that nobody restored from when the plan was made.
fn lease_on(repository: &Repository, id: BackupId, now: DateTime<Utc>) -> anyhow::Result<Option<String>> {
    let found = leases::list(repository).context("look for new leases")?;
    Ok(found.iter().find_map(|(key, found)| match found {
        leases::Found::Lease(lease) if lease.backup == id && leases::is_held(lease, now) => {
            Some(leases::describe(lease))
        }
        leases::Found::Lease(_) => None,
        leases::Found::Unreadable(reason) => Some(format!("{key}: {reason}")),
    }))
}

/// A lease that the plan does not know.
fn new_lease(repository: &Repository, plan: &Plan) -> anyhow::Result<Option<String>> {
    let found = leases::list(repository).context("look for new leases")?;
    Ok(found.into_iter().map(|(key, _)| key.to_string()).find(|key| !plan.leases.contains(key)))
}

/// A backup that the plan does not know.
fn new_backup(repository: &Repository, plan: &Plan) -> anyhow::Result<Option<BackupId>> {
    let known: BTreeSet<BackupId> = plan.backups.iter().map(|item| item.id).collect();
    let present = sweep::backup_bytes(repository).context("look for new backups")?;
    Ok(present.into_keys().find(|id| !known.contains(id)))
}

#[cfg(test)]
mod tests;
