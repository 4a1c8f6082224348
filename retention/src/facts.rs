//! What a repository holds: all that a decision needs to know.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use common::archive::backups::{self, Found};
use common::archive::sweep::{self, WalFile};
use common::archive::{Repository, inventory, leases};
use common::pg::{SegmentSize, SystemIdentifier};
use common::repo::BackupId;
use common::repo::chain::Inventory;
use common::repo::records::{BackupRecord, IdentityRecord, LeaseRecord, StartedRecord};
use common::report::message_of;

/// A repository's backups and WAL.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    /// Every backup's name and what stands under it.
    pub backups: BTreeMap<BackupId, Backup>,
    /// The archived WAL of every system identifier.
    pub wal: BTreeMap<SystemIdentifier, SystemWal>,
    /// The system identifier that the cluster got last; none when the cluster has no record of any.
    pub newest_system: Option<SystemIdentifier>,
    /// Who restores from what, by the name of the record.
    pub leases: BTreeMap<String, leases::Found>,
}

/// One backup.
#[derive(Debug, Clone)]
pub struct Backup {
    /// What it is.
    pub state: State,
    /// The stored size of its objects.
    pub bytes: u64,
}

/// What stands under a backup's name.
#[derive(Debug, Clone)]
pub enum State {
    /// A whole backup.
    Complete(Box<BackupRecord>),
    /// Somebody is making it, or died while making or removing it; a folder without `started.json` has no record.
    Unfinished(Option<StartedRecord>),
    /// Its record cannot be read: the reason. What it needs is not known.
    Unreadable(String),
}

/// The archived WAL of one system identifier.
#[derive(Debug, Clone)]
pub struct SystemWal {
    /// Every file, in the order of keys.
    pub files: Vec<WalFile>,
    /// What the names say of timelines and holes; a reason when the size of segments or a timeline's history is not
    /// known.
    pub inventory: Result<Inventory, String>,
}

impl Catalog {
    /// The leases that hold at this moment.
    pub fn held_leases(&self, now: DateTime<Utc>) -> impl Iterator<Item = (&String, &LeaseRecord)> {
        self.leases.iter().filter_map(move |(key, found)| match found {
            leases::Found::Lease(lease) if leases::is_held(lease, now) => Some((key, &**lease)),
            leases::Found::Lease(_) | leases::Found::Unreadable(_) => None,
        })
    }

    /// A lease that cannot be read, and why: what it protects is not known.
    pub fn unreadable_lease(&self) -> Option<(&String, &String)> {
        self.leases.iter().find_map(|(key, found)| match found {
            leases::Found::Unreadable(reason) => Some((key, reason)),
            leases::Found::Lease(_) => None,
        })
    }

    /// Whether the cluster has left no trace.
    pub fn is_empty(&self) -> bool {
        self.backups.is_empty() && self.wal.is_empty() && self.newest_system.is_none()
    }
}

/// Reads names, sizes and records; no contents but those of timeline histories.
pub(crate) fn gather(repository: &Repository) -> anyhow::Result<Catalog> {
    // WAL first: a backup that ends in between is then seen whole, with WAL that is only newer than what is listed.
    let files = sweep::wal_files(repository)?;
    let bytes = sweep::backup_bytes(repository)?;
    let mut backups = BTreeMap::new();
    for (id, found) in backups::list(repository)? {
        let bytes = bytes.get(&id).copied().unwrap_or_default();
        let state = match found {
            Found::Complete(record) => State::Complete(record),
            Found::Unfinished(started) => State::Unfinished(started),
            Found::Damaged(reason) => State::Unreadable(reason),
        };
        backups.insert(id, Backup { state, bytes });
    }
    let identities = repository.identities()?;
    let wal = files.into_iter().map(|(system, files)| {
        let inventory = segment_size(system, &identities, &backups)
            .and_then(|size| inventory::read(repository, system, size).map_err(|err| message_of(&err)));
        (system, SystemWal { files, inventory })
    });
    // Leases last: one that is taken while this reads is seen, and one that is given up is of no use any more.
    let leases = leases::list(repository)?.into_iter().map(|(key, found)| (key.to_string(), found)).collect();
    let newest = identities.iter().max_by_key(|identity| (identity.first_seen, identity.system_identifier));
    let newest_system = newest.map(|identity| identity.system_identifier);
    Ok(Catalog { wal: wal.collect(), newest_system, backups, leases })
}

/// The size of a system's segments, when the records that know it agree.
fn segment_size(
    system: SystemIdentifier,
    identities: &[IdentityRecord],
    backups: &BTreeMap<BackupId, Backup>,
) -> Result<SegmentSize, String> {
    let recorded = identities.iter().map(|identity| (identity.system_identifier, identity.segment_size));
    let backed_up = backups.values().filter_map(|backup| match &backup.state {
        State::Complete(record) => Some((record.source.system_identifier, record.source.segment_size)),
        State::Unfinished(_) | State::Unreadable(_) => None,
    });
    let mut sizes = recorded.chain(backed_up).filter(|(known, _)| *known == system).map(|(_, size)| size);
    let first = sizes.next().ok_or("the cluster has no record of this system identifier")?;
    if sizes.all(|size| size == first) { Ok(first) } else { Err("records differ in the size of its segments".into()) }
}
