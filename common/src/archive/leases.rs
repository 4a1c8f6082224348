//! Leases: somebody restores from a backup, and retention keeps what that takes.
//!
//! A lease names a backup and where its WAL begins, and says until when it holds. A living holder renews it; one that
//! died, or whose host went down, is believed until the lease expires, since a server that was started may go on
//! without the program that started it. There is no lock: who takes a lease looks afterwards whether the backup is
//! still whole, and who removes looks for leases right before. So the worst that can come of a meeting is a restore
//! that fails.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};

use crate::repo::records::{BackupRecord, LeaseRecord, WalPosition};
use crate::report::message_of;
use crate::store::{Key, Published};
use crate::sys::clock::Clock;
use crate::sys::process;

use super::Repository;
use super::heartbeat::Heartbeat;
use super::repository::random_name;

/// How long a lease holds after its holder has last shown itself. Clocks of two hosts may differ by minutes.
const HOLDS: TimeDelta = TimeDelta::minutes(30);

/// What a lease that somebody left to expire holds for: a server that another program starts, or that waits at its
/// target, still fetches WAL.
pub const LEFT_HOLDS: TimeDelta = TimeDelta::hours(24);

/// What stands under a lease's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A lease, running or expired.
    Lease(Box<LeaseRecord>),
    /// It cannot be read: the reason. What it protects is not known.
    Unreadable(String),
}

/// Who takes a lease.
#[derive(Debug, Clone)]
pub struct Holder<'a> {
    /// The host that restores.
    pub host: &'a str,
    /// The data directory that is made.
    pub data_directory: &'a Path,
    /// What is being done, for people.
    pub purpose: &'a str,
}

/// A lease that is renewed as long as this value lives. Dropping it ends the renewing and leaves the record to expire.
#[derive(Debug)]
pub struct Lease {
    repository: Repository,
    key: Key,
    record: LeaseRecord,
    clock: Arc<dyn Clock>,
    heartbeat: Option<Heartbeat<()>>,
}

impl Lease {
    /// Takes a lease on a backup and all WAL that may be replayed on it, and begins to renew it. Whether the backup is
    /// still whole must be looked at afterwards.
    pub fn take(
        repository: &Repository,
        backup: &BackupRecord,
        holder: &Holder<'_>,
        clock: &Arc<dyn Clock>,
    ) -> anyhow::Result<Self> {
        let now = clock.now();
        let record = LeaseRecord {
            owner: random_name(),
            host: holder.host.to_owned(),
            pid: std::process::id(),
            data_directory: PathBuf::from(holder.data_directory),
            purpose: holder.purpose.to_owned(),
            system_identifier: backup.source.system_identifier,
            backup: backup.id,
            start_wal: WalPosition { timeline: backup.span.timeline, lsn: backup.span.start_lsn },
            taken_at: now,
            expires_at: now + HOLDS,
        };
        let key = repository.layout().lease(&record.owner)?;
        let published = repository.create_record(&key, &record)?;
        anyhow::ensure!(published == Published::Created, "{key} exists already, written by somebody else");
        let (store, mut renewed, now) = (repository.clone(), record.clone(), Arc::clone(clock));
        let heartbeat = Heartbeat::start(key.clone(), move |key, _: Option<()>| {
            renewed.expires_at = now.now() + HOLDS;
            store.replace_record(key, &renewed)
        });
        let heartbeat = Some(heartbeat);
        Ok(Self { repository: repository.clone(), key, record, clock: Arc::clone(clock), heartbeat })
    }

    /// Gives it up: nothing needs what it protected any more.
    pub fn release(mut self) -> anyhow::Result<()> {
        self.heartbeat = None;
        self.repository.store().delete(std::slice::from_ref(&self.key))?;
        Ok(())
    }

    /// Ends the renewing, and lets it hold for so long from now.
    pub fn leave(mut self, time: TimeDelta) -> anyhow::Result<()> {
        self.heartbeat = None;
        self.record.expires_at = self.clock.now() + time;
        self.repository.replace_record(&self.key, &self.record)
    }
}

/// All leases, by key.
pub fn list(repository: &Repository) -> anyhow::Result<Vec<(Key, Found)>> {
    let mut found = Vec::new();
    for entry in repository.list_all(&repository.layout().leases())? {
        match repository.read_record::<LeaseRecord>(&entry.key) {
            Ok(Some(record)) => found.push((entry.key, Found::Lease(Box::new(record)))),
            // It was given up between the two calls.
            Ok(None) => {}
            Err(err) => found.push((entry.key, Found::Unreadable(message_of(&err)))),
        }
    }
    Ok(found)
}

/// Whether the lease still holds.
pub fn is_held(lease: &LeaseRecord, now: DateTime<Utc>) -> bool {
    now < lease.expires_at
}

/// Gives up every lease that was taken on this host for this data directory; answers how many. Leases that cannot be
/// read stay, and those of other processes that run: such a one may be about to begin the next recovery there.
pub fn release_all(repository: &Repository, host: &str, data_directory: &Path) -> anyhow::Result<usize> {
    let is_ours = |lease: &LeaseRecord| {
        lease.host == host && lease.data_directory == data_directory && !is_in_other_hands(lease.pid)
    };
    let ours = list(repository)?.into_iter().filter_map(|(key, found)| match found {
        Found::Lease(lease) if is_ours(&lease) => Some(key),
        Found::Lease(_) | Found::Unreadable(_) => None,
    });
    let keys: Vec<Key> = ours.collect();
    repository.store().delete(&keys)?;
    Ok(keys.len())
}

/// Whether another process of this host holds it. A number that was given anew keeps a lease until it expires.
fn is_in_other_hands(pid: u32) -> bool {
    pid != std::process::id() && i32::try_from(pid).is_ok_and(process::alive)
}

/// Removes the leases that have expired; answers how many. A holder that was only slow writes its lease anew.
pub fn remove_expired(repository: &Repository, now: DateTime<Utc>) -> anyhow::Result<usize> {
    let expired = list(repository)?.into_iter().filter_map(|(key, found)| match found {
        Found::Lease(lease) if !is_held(&lease, now) => Some(key),
        Found::Lease(_) | Found::Unreadable(_) => None,
    });
    let keys: Vec<Key> = expired.collect();
    repository.store().delete(&keys)?;
    Ok(keys.len())
}

/// Whose lease it is, for messages.
pub fn describe(lease: &LeaseRecord) -> String {
    format!(
        "{} of {} on {} holds a lease until {}",
        lease.purpose,
        lease.data_directory.display(),
        lease.host,
        lease.expires_at.format("%Y-%m-%d %H:%M:%SZ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::testing::World;
    use crate::codec::Codec;
    use crate::store::Store as _;
    use crate::sys::clock::FixedClock;

    fn take(world: &World, clock: &Arc<dyn Clock>) -> Lease {
        let holder = Holder { host: "db1", data_directory: Path::new("/copy"), purpose: "recover run" };
        Lease::take(&world.repository, &world.record, &holder, clock).unwrap()
    }

    fn clock(minutes: i64) -> (DateTime<Utc>, Arc<dyn Clock>) {
        let now = DateTime::from_timestamp(1_700_000_000, 0).unwrap() + TimeDelta::minutes(minutes);
        (now, Arc::new(FixedClock(now)))
    }

    fn only(world: &World) -> LeaseRecord {
        match &list(&world.repository).unwrap()[..] {
            [(_, Found::Lease(lease))] => (**lease).clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn it_holds_until_it_is_released() {
        let world = World::new(Codec::Zstd);
        let (now, clock) = clock(0);
        let lease = take(&world, &clock);
        let seen = only(&world);
        assert_eq!((seen.system_identifier, seen.backup), (world.record.source.system_identifier, world.record.id));
        assert!(is_held(&seen, now) && is_held(&seen, now + TimeDelta::minutes(29)));
        assert!(!is_held(&seen, now + TimeDelta::minutes(30)));
        lease.release().unwrap();
        assert_eq!(list(&world.repository).unwrap(), []);
    }

    #[test]
    fn one_that_was_left_holds_longer_and_is_found_by_its_place() {
        let world = World::new(Codec::Zstd);
        let (now, clock) = clock(0);
        for _ in 0..2 {
            take(&world, &clock).leave(LEFT_HOLDS).unwrap();
        }
        assert_eq!(remove_expired(&world.repository, now + TimeDelta::hours(23)).unwrap(), 0);
        assert_eq!(release_all(&world.repository, "db2", Path::new("/copy")).unwrap(), 0);
        assert_eq!(release_all(&world.repository, "db1", Path::new("/other")).unwrap(), 0);
        assert_eq!(release_all(&world.repository, "db1", Path::new("/copy")).unwrap(), 2);
    }

    #[test]
    fn one_of_another_process_that_runs_is_not_given_up() {
        let world = World::new(Codec::Zstd);
        take(&world, &clock(0).1).leave(LEFT_HOLDS).unwrap();
        let (key, _) = list(&world.repository).unwrap().remove(0);
        let release = |pid| {
            world.repository.replace_record(&key, &LeaseRecord { pid, ..only(&world) }).unwrap();
            release_all(&world.repository, "db1", Path::new("/copy")).unwrap()
        };
        assert_eq!(release(std::os::unix::process::parent_id()), 0);
        assert_eq!(release(u32::MAX), 1);
    }

    #[test]
    fn a_dead_holders_lease_expires_and_an_unreadable_one_stays() {
        let world = World::new(Codec::Zstd);
        let (now, clock) = clock(0);
        drop(take(&world, &clock));
        assert_eq!(remove_expired(&world.repository, now + TimeDelta::minutes(29)).unwrap(), 0);
        let key = world.repository.layout().lease("0123").unwrap();
        world.store.replace(&key, b"{").unwrap();
        assert_eq!(remove_expired(&world.repository, now + TimeDelta::minutes(31)).unwrap(), 1);
        let left = list(&world.repository).unwrap();
        assert!(matches!(&left[..], [(found, Found::Unreadable(_))] if *found == key), "{left:?}");
    }
}
