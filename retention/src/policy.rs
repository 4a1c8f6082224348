//! What is kept and what goes, each with its reason. Pure: facts and the time in, a plan out.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;

use chrono::{DateTime, Utc};
use common::archive::backups::is_alive;
use common::archive::leases;
use common::pg::{SystemIdentifier, TimelineId};
use common::repo::BackupId;
use common::repo::records::{BackupRecord, LeaseRecord};
use serde::Serialize;

use crate::facts::{Catalog, State};
use crate::wal;

pub use crate::wal::WalItem;

/// What the user wants to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// So many of the newest good backups.
    pub keep_last: NonZeroU32,
}

/// Whether something stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It stays.
    Keep,
    /// It is removed.
    Drop,
}

impl Verdict {
    /// As it stands in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Drop => "drop",
        }
    }
}

/// One backup of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BackupItem {
    /// The backup.
    pub id: BackupId,
    /// Whether it stays.
    pub verdict: Verdict,
    /// Why.
    pub reason: String,
    /// The stored size of its objects.
    pub bytes: u64,
    /// Whether it was never finished, or is half removed.
    #[serde(rename = "unfinished")]
    pub was_unfinished: bool,
}

/// What is to be done in one repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// Every backup, oldest first.
    pub backups: Vec<BackupItem>,
    /// The WAL, by system identifier and timeline.
    pub wal: Vec<WalItem>,
    /// What somebody should look at: records and histories that cannot be read.
    pub findings: Vec<String>,
    /// The leases that are known, by the names of their records.
    #[serde(skip)]
    pub leases: BTreeSet<String>,
}

impl Plan {
    /// The backups that go, oldest first.
    pub fn dropped_backups(&self) -> impl Iterator<Item = &BackupItem> {
        self.backups.iter().filter(|item| item.verdict == Verdict::Drop)
    }

    /// The WAL that goes.
    pub fn dropped_wal(&self) -> impl Iterator<Item = &WalItem> {
        self.wal.iter().filter(|item| item.verdict == Verdict::Drop)
    }

    /// How many stored bytes go.
    pub fn dropped_bytes(&self) -> u64 {
        let backups = self.dropped_backups().map(|item| item.bytes);
        backups.chain(self.dropped_wal().map(|item| item.bytes)).sum()
    }

    /// Whether nothing goes.
    pub fn drops_nothing(&self) -> bool {
        self.dropped_backups().next().is_none() && self.dropped_wal().next().is_none()
    }
}

/// Decides.
///
/// A backup is good when it is whole and none of its pages had a wrong checksum. The newest `keep_last` good ones stay,
/// and the newest good one that leads to the timeline that the cluster is on, should none of these do: after a recovery
/// to an earlier moment the newest backups may lie on the way that was left. Without any good backup nothing goes, nor
/// what a lease protects; one that cannot be read protects everything.
pub fn decide(catalog: &Catalog, policy: Policy, now: DateTime<Utc>) -> Plan {
    let good = kept_good(catalog, policy);
    let oldest_good = good.first_key_value().map(|(id, _)| *id);
    let mut findings = Vec::new();
    let mut backups = Vec::new();
    let unreadable = catalog.unreadable_lease();
    findings.extend(unreadable.map(|(key, reason)| format!("{key}: {reason}")));
    for (id, backup) in &catalog.backups {
        let (verdict, reason) = match (&backup.state, oldest_good) {
            (State::Unreadable(reason), _) => {
                findings.push(format!("{id}: {reason}"));
                (Verdict::Keep, "its record cannot be read".to_owned())
            }
            (State::Unfinished(Some(started)), _) if is_alive(started, now) => {
                (Verdict::Keep, format!("it is being made on {}", started.host))
            }
            (_, None) => (Verdict::Keep, "nothing goes while there is no good backup".to_owned()),
            (State::Unfinished(started), Some(_)) => (Verdict::Drop, unfinished(started.is_some())),
            (State::Complete(record), Some(oldest)) => complete(*id, record, oldest, &good, policy),
        };
        let leased = match unreadable {
            Some((key, _)) => Some(format!("what {key} protects is not known")),
            None => lease_on(catalog, *id, now).map(leases::describe),
        };
        let (verdict, reason) = match (verdict, leased) {
            (Verdict::Drop, Some(lease)) => (Verdict::Keep, lease),
            unchanged => (unchanged.0, reason),
        };
        let was_unfinished = matches!(backup.state, State::Unfinished(_));
        backups.push(BackupItem { id: *id, verdict, reason, bytes: backup.bytes, was_unfinished });
    }
    let kept: BTreeSet<BackupId> =
        backups.iter().filter(|item| item.verdict == Verdict::Keep).map(|item| item.id).collect();
    let wal = wal::decide(catalog, &kept, now, oldest_good.is_some(), &mut findings);
    Plan { backups, wal, findings, leases: catalog.leases.keys().cloned().collect() }
}

/// A lease that holds on this backup.
fn lease_on(catalog: &Catalog, id: BackupId, now: DateTime<Utc>) -> Option<&LeaseRecord> {
    catalog.held_leases(now).map(|(_, lease)| lease).find(|lease| lease.backup == id)
}

fn unfinished(has_record: bool) -> String {
    let reason = if has_record { "its run died before it was whole" } else { "the remains of a removal" };
    reason.to_owned()
}

fn complete(
    id: BackupId,
    record: &BackupRecord,
    oldest_good: BackupId,
    good: &BTreeMap<BackupId, String>,
    policy: Policy,
) -> (Verdict, String) {
    if let Some(reason) = good.get(&id) {
        return (Verdict::Keep, reason.clone());
    }
    let pages = record.damaged_page_count;
    match (pages, id > oldest_good) {
        (0, _) => (Verdict::Drop, format!("keep-last {} is met by newer ones", policy.keep_last)),
        (_, true) => (Verdict::Keep, format!("newer than the oldest good one, with damaged pages: {pages}")),
        (_, false) => (Verdict::Drop, format!("older than the oldest good one, with damaged pages: {pages}")),
    }
}

/// The good backups that stay, and why.
fn kept_good(catalog: &Catalog, policy: Policy) -> BTreeMap<BackupId, String> {
    let good: Vec<(BackupId, &BackupRecord)> = catalog
        .backups
        .iter()
        .filter_map(|(id, backup)| match &backup.state {
            State::Complete(record) if record.damaged_page_count == 0 => Some((*id, &**record)),
            _ => None,
        })
        .rev()
        .collect();
    let count = usize::try_from(policy.keep_last.get()).unwrap_or(usize::MAX);
    let mut kept: BTreeMap<BackupId, String> = BTreeMap::new();
    for ((id, _), place) in good.iter().take(count).zip(1_u32..) {
        kept.insert(*id, format!("good backup {place} of {}, counted from the newest", policy.keep_last));
    }
    if let Some((system, timeline)) = present_timeline(catalog) {
        let mut leading = good.iter().filter(|(_, record)| leads_to(catalog, record, system, timeline));
        if let Some((id, _)) = leading.next() {
            kept.entry(*id).or_insert_with(|| format!("the newest that leads to timeline {timeline}, the present one"));
        }
    }
    kept
}

/// The timeline that the cluster is on, as far as WAL and backups tell: the highest of its newest system that nobody
/// gave up.
fn present_timeline(catalog: &Catalog) -> Option<(SystemIdentifier, TimelineId)> {
    let system = catalog.newest_system?;
    let inventory = catalog.wal.get(&system)?.inventory.as_ref().ok()?;
    let backed_up = catalog.backups.values().filter_map(|backup| match &backup.state {
        State::Complete(record) if record.source.system_identifier == system => Some(record.span.timeline),
        _ => None,
    });
    let known = inventory.timelines().into_iter().chain(backed_up);
    known.filter(|timeline| !inventory.is_abandoned(*timeline)).max().map(|timeline| (system, timeline))
}

fn leads_to(catalog: &Catalog, record: &BackupRecord, system: SystemIdentifier, timeline: TimelineId) -> bool {
    let inventory = catalog.wal.get(&system).and_then(|wal| wal.inventory.as_ref().ok());
    record.source.system_identifier == system
        && inventory.is_some_and(|it| it.descendants(record.span.timeline, record.span.stop_lsn).contains(&timeline))
}

#[cfg(test)]
mod tests;
