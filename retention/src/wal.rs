//! Which WAL goes. Pure.
//!
//! A segment is needed when a recovery from a kept backup may read it: it is at or after the segment of the backup's
//! start, on a timeline that the backup leads to or on one of that timeline's ancestors; the same holds for a backup that
//! somebody restores from. On timelines that no kept
//! backup leads to, what is older than the start of every kept backup goes; the rest stays, since nobody can tell what
//! it is for. History files are small, and the map of all timelines: they stay for ever, as do the records of abandoned
//! timelines.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use common::archive::backups::is_alive;
use common::archive::sweep::WalFile;
use common::pg::{ArchiveName, Lsn, SystemIdentifier, TimelineId, WalSegmentName};
use common::repo::BackupId;
use common::repo::chain::Inventory;
use common::store::Key;
use serde::{Serialize, Serializer};

use crate::facts::{Catalog, State, SystemWal};
use crate::policy::Verdict;

/// The files of one timeline that have one verdict for one reason. History files are in no item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WalItem {
    /// The system identifier; a string in JSON.
    #[serde(serialize_with = "as_text")]
    pub system_identifier: SystemIdentifier,
    /// The timeline.
    pub timeline: TimelineId,
    /// Whether they stay.
    pub verdict: Verdict,
    /// Why.
    pub reason: String,
    /// The name of the first of them.
    pub first: String,
    /// The name of the last of them.
    pub last: String,
    /// How many there are.
    pub files: u64,
    /// Their stored size.
    pub bytes: u64,
    /// Their objects, in ascending order.
    #[serde(skip)]
    pub keys: Vec<Key>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn as_text<S: Serializer>(system: &SystemIdentifier, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(system)
}

/// Where the needs of a backup begin.
struct Start {
    backup: BackupId,
    timeline: TimelineId,
    begins: Lsn,
    /// Where it is complete; its start while it is being made, from which at least as much follows.
    stop: Lsn,
}

/// Decides on every file; `kept` are the backups that stay. What keeps WAL that would go otherwise, and is worth a look,
/// is added to `findings`.
pub(crate) fn decide(
    catalog: &Catalog,
    kept: &BTreeSet<BackupId>,
    now: DateTime<Utc>,
    has_good: bool,
    findings: &mut Vec<String>,
) -> Vec<WalItem> {
    let held = reason_to_hold(catalog, now, has_good);
    let mut items = Vec::new();
    for (system, wal) in &catalog.wal {
        let rule = match (&held, &wal.inventory) {
            (_, Err(reason)) => {
                findings.push(format!("WAL of system {system}: {reason}"));
                Rule::Everything(Verdict::Keep, format!("its timelines are not known: {reason}"))
            }
            (Some(reason), Ok(_)) => Rule::Everything(Verdict::Keep, reason.clone()),
            (None, Ok(inventory)) => rule(catalog, *system, inventory, kept, now),
        };
        items.extend(apply(*system, wal, &rule));
    }
    items
}

/// Why no WAL goes at all; `None` when it may.
fn reason_to_hold(catalog: &Catalog, now: DateTime<Utc>, has_good: bool) -> Option<String> {
    if !has_good {
        return Some("nothing goes while there is no good backup".to_owned());
    }
    if let Some((key, _)) = catalog.unreadable_lease() {
        return Some(format!("what {key} protects is not known"));
    }
    catalog.backups.iter().find_map(|(id, backup)| match &backup.state {
        State::Unreadable(_) => Some(format!("what {id} needs is not known: its record cannot be read")),
        State::Unfinished(Some(started)) if started.start_wal.is_none() && is_alive(started, now) => {
            Some(format!("{id} is being made, and where its WAL begins is not known yet"))
        }
        State::Unfinished(_) | State::Complete(_) => None,
    })
}

/// What decides on the files of one system.
enum Rule {
    /// All of them have one verdict.
    Everything(Verdict, String),
    /// It depends on timeline and position.
    Floors(Floors),
}

fn rule(
    catalog: &Catalog,
    system: SystemIdentifier,
    inventory: &Inventory,
    kept: &BTreeSet<BackupId>,
    now: DateTime<Utc>,
) -> Rule {
    let being_made = being_made(catalog, now);
    let mut starts: Vec<Start> = kept.iter().filter_map(|id| start_of(catalog, *id, system)).collect();
    starts.extend(leased(catalog, system, now));
    if starts.is_empty() {
        return if catalog.newest_system == Some(system) || catalog.newest_system.is_none() || !being_made.is_empty() {
            Rule::Everything(Verdict::Keep, "no backup of this system is kept yet".to_owned())
        } else {
            let reason = "it is from before an upgrade, and no backup of that time is kept".to_owned();
            Rule::Everything(Verdict::Drop, reason)
        };
    }
    // Whose system a running backup belongs to, its record does not say: it counts for all.
    starts.extend(being_made);
    Rule::Floors(Floors::new(inventory, &starts))
}

fn start_of(catalog: &Catalog, id: BackupId, system: SystemIdentifier) -> Option<Start> {
    match &catalog.backups.get(&id)?.state {
        State::Complete(record) if record.source.system_identifier == system => {
            let span = &record.span;
            Some(Start { backup: id, timeline: span.timeline, begins: span.start_lsn, stop: span.stop_lsn })
        }
        _ => None,
    }
}

/// What those need who restore; the backup itself may be gone or unfinished, and its WAL stays all the same.
fn leased(catalog: &Catalog, system: SystemIdentifier, now: DateTime<Utc>) -> impl Iterator<Item = Start> {
    let of_system = catalog.held_leases(now).filter(move |(_, lease)| lease.system_identifier == system);
    of_system.map(|(_, lease)| {
        let position = lease.start_wal;
        Start { backup: lease.backup, timeline: position.timeline, begins: position.lsn, stop: position.lsn }
    })
}

fn being_made(catalog: &Catalog, now: DateTime<Utc>) -> Vec<Start> {
    let start = |(id, backup): (&BackupId, &crate::facts::Backup)| match &backup.state {
        State::Unfinished(Some(started)) if is_alive(started, now) => {
            let position = started.start_wal?;
            Some(Start { backup: *id, timeline: position.timeline, begins: position.lsn, stop: position.lsn })
        }
        _ => None,
    };
    catalog.backups.iter().filter_map(start).collect()
}

/// The number of the first segment that is needed, and who needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Floor {
    number: u64,
    backup: BackupId,
}

/// The first needed segment of every timeline.
struct Floors {
    inventory: Inventory,
    /// Of timelines that kept backups lead to, and of their ancestors.
    reached: BTreeMap<TimelineId, Floor>,
    /// The lowest of all, for the other timelines.
    lowest: Option<Floor>,
}

impl Floors {
    fn new(inventory: &Inventory, starts: &[Start]) -> Self {
        let mut reached: BTreeMap<TimelineId, Floor> = BTreeMap::new();
        let mut lowest: Option<Floor> = None;
        for start in starts {
            let floor = Floor { number: start.begins.0 / inventory.segment_size().bytes(), backup: start.backup };
            lowest = Some(lowest.map_or(floor, |other| other.min(floor)));
            for descendant in inventory.descendants(start.timeline, start.stop) {
                let history = inventory.history(descendant);
                let ancestors = history.ancestors.iter().map(|entry| entry.timeline);
                for timeline in ancestors.chain([descendant]) {
                    let known = reached.entry(timeline).or_insert(floor);
                    *known = floor.min(*known);
                }
            }
        }
        Self { inventory: inventory.clone(), reached, lowest }
    }

    fn judge(&self, segment: WalSegmentName) -> (Verdict, String) {
        let size = self.inventory.segment_size();
        let floor = self.reached.get(&segment.timeline).or(self.lowest.as_ref());
        let (Some(number), Some(floor)) = (segment.number(size), floor) else {
            return (Verdict::Keep, "its place in the WAL is not known".to_owned());
        };
        let first = WalSegmentName::numbered(segment.timeline, floor.number, size);
        let reached = self.reached.contains_key(&segment.timeline);
        match (number < floor.number, reached) {
            (true, true) => (Verdict::Drop, format!("before {first}, which {} begins with", floor.backup)),
            (true, false) => (Verdict::Drop, "no kept backup leads here, and all of them begin later".to_owned()),
            (false, true) => (Verdict::Keep, format!("needed from {first} on, for {}", floor.backup)),
            (false, false) => (Verdict::Keep, "no kept backup leads here, but one begins earlier".to_owned()),
        }
    }
}

fn apply(system: SystemIdentifier, wal: &SystemWal, rule: &Rule) -> Vec<WalItem> {
    let mut items: Vec<WalItem> = Vec::new();
    for file in &wal.files {
        let segment = match file.name {
            ArchiveName::Segment(name) | ArchiveName::Partial(name) | ArchiveName::BackupHistory(name, _) => name,
            ArchiveName::History(_) => continue,
        };
        let (verdict, reason) = match rule {
            Rule::Everything(verdict, reason) => (*verdict, reason.clone()),
            Rule::Floors(floors) => floors.judge(segment),
        };
        let same =
            |item: &&mut WalItem| item.timeline == segment.timeline && item.verdict == verdict && item.reason == reason;
        if let Some(item) = items.iter_mut().rev().find(same) {
            item.add(file);
        } else {
            let name = file.name.to_string();
            let mut item = WalItem {
                system_identifier: system,
                timeline: segment.timeline,
                verdict,
                reason,
                first: name.clone(),
                last: name,
                files: 0,
                bytes: 0,
                keys: Vec::new(),
            };
            item.add(file);
            items.push(item);
        }
    }
    items
}

impl WalItem {
    fn add(&mut self, file: &WalFile) {
        self.last = file.name.to_string();
        self.files += 1;
        self.bytes += file.bytes;
        self.keys.push(file.key.clone());
    }
}
