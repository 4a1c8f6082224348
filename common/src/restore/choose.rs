//! Which backup, and along which timeline. Pure.
//!
//! The timeline is always a number: `latest` follows whatever history file turns up, also one of a timeline that
//! nobody ever wrote on.

use crate::pg::{Lsn, TimelineId, WalSegmentName};
use crate::repo::BackupId;
use crate::repo::chain::{Inventory, Route};
use crate::repo::records::BackupRecord;
use crate::report::Advice;

use super::target::Target;

/// Which timeline the user asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WantedTimeline {
    /// The newest that leads on from a backup and was not given up.
    Newest,
    /// The one that the backup was taken on.
    OfBackup,
    /// This one.
    Number(TimelineId),
}

/// What the user asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// The moment.
    pub target: Target,
    /// The timeline.
    pub timeline: WantedTimeline,
    /// The backup, when it was named.
    pub backup: Option<BackupId>,
}

/// A backup and a way from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The backup to unpack.
    pub backup: BackupRecord,
    /// The way through the WAL.
    pub route: Route,
    /// Set when the wanted timeline cannot be followed: the way is its parent's, which is the same up to the fork, and
    /// the target must turn out to lie before that.
    pub missing_fork: Option<MissingFork>,
}

/// A timeline whose first segment is in no repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MissingFork {
    /// That segment.
    pub segment: WalSegmentName,
    /// Where the timeline begins.
    pub begins: Lsn,
    /// The timeline that it forked off from.
    pub parent: TimelineId,
}

impl MissingFork {
    /// Why a target behind the fork is refused.
    pub fn advice(&self) -> Advice {
        let Self { segment, begins, parent } = self;
        let timeline = segment.timeline;
        Advice::refused(format!(
            "timeline {timeline} cannot be followed behind {begins}: its first segment {segment} is in no repository"
        ))
        .hint(format!(
            "archive that segment, or name the timeline to recover along with --target-timeline; {parent} is the one \
             before"
        ))
    }
}

/// Chooses the newest backup from which the target can be reached along the wanted timeline.
///
/// `backups` are the whole backups of one system, oldest first. A time is measured against the backups' stop times, a
/// position against their stop positions, a transaction against the next one at their stop; for everything else the
/// newest is taken. Times, transactions and names are no sure measure: [`aim`](super::aim::aim) looks them up in the WAL. Whether all WAL is there is not looked at, except for the fork of a timeline: without its first
/// segment PostgreSQL would go on along the parent without a word.
pub fn choose(backups: &[BackupRecord], inventory: &Inventory, wish: &Wish) -> Result<Choice, Advice> {
    if backups.is_empty() {
        return Err(Advice::failed("there is no backup to recover from").hint("basebackup list shows what there is"));
    }
    let named = |id| {
        let found = backups.iter().find(|backup| backup.id == id);
        found.map(std::slice::from_ref).ok_or_else(|| {
            Advice::failed(format!("there is no backup {id}")).hint("recover list shows the backups that there are")
        })
    };
    let candidates = wish.backup.map_or(Ok(backups), named)?;
    // Neither a clock nor a number speaks against a backup that was named: where the target lies is seen in the WAL.
    let by_name = wish.backup.is_some() && matches!(wish.target, Target::Time(_) | Target::Xid(_));
    let reaching: Vec<&BackupRecord> =
        candidates.iter().filter(|backup| by_name || is_before(backup, &wish.target)).collect();
    if reaching.is_empty() {
        return Err(too_early(candidates, &wish.target));
    }
    let timeline = wanted_timeline(&reaching, inventory, wish)?;
    let chosen = reaching.into_iter().rev().find(|backup| leads_to(backup, inventory, timeline));
    choice(chosen.ok_or_else(|| off_route(timeline, &wish.target))?, timeline, inventory, wish)
}

/// This backup, and the way from it to a timeline that it leads to.
fn choice(backup: &BackupRecord, timeline: TimelineId, inventory: &Inventory, wish: &Wish) -> Result<Choice, Advice> {
    let (route, missing_fork) = way(backup, timeline, inventory, &wish.target)?;
    Ok(Choice { backup: backup.clone(), route, missing_fork })
}

/// Every backup that lies on the way to the wanted timeline, oldest first and at least one.
pub(super) fn choices(backups: &[BackupRecord], inventory: &Inventory, wish: &Wish) -> Result<Vec<Choice>, Advice> {
    let all: Vec<&BackupRecord> = backups.iter().collect();
    let wanted = wanted_timeline(&all, inventory, wish)?;
    let timeline_for = |backup: &BackupRecord| match wish.timeline {
        WantedTimeline::OfBackup => backup.span.timeline,
        WantedTimeline::Newest | WantedTimeline::Number(_) => wanted,
    };
    let leading = all.into_iter().filter(|backup| leads_to(backup, inventory, timeline_for(backup)));
    let found: Vec<Choice> =
        leading.map(|backup| choice(backup, timeline_for(backup), inventory, wish)).collect::<Result<_, _>>()?;
    if found.is_empty() { Err(off_route(wanted, &wish.target)) } else { Ok(found) }
}

/// Whether the backup is complete at the target, as far as its record tells.
pub(super) fn is_before(backup: &BackupRecord, target: &Target) -> bool {
    match target {
        Target::Time(time) => backup.span.stopped_at <= *time,
        Target::Lsn(lsn) => backup.span.stop_lsn <= *lsn,
        Target::Xid(xid) => backup.span.next_xid <= with_epoch(*xid, backup.span.next_xid),
        Target::Name(_) | Target::Immediate | Target::Latest => true,
    }
}

/// A transaction id without its epoch (as `xmin` or a log line shows it) counts in the epoch that brings it nearest to
/// `next`, as PostgreSQL itself reads it.
fn with_epoch(xid: u64, next: u64) -> u64 {
    const EPOCH: u64 = 1 << 32;
    if xid >= EPOCH {
        return xid;
    }
    let here = (next & !(EPOCH - 1)) | xid;
    if here + EPOCH / 2 < next { here + EPOCH } else { here }
}

/// Whether the transaction may have been running when the backup ended, as far as numbers tell.
pub(super) fn may_be_open(backup: &BackupRecord, xid: u64) -> bool {
    backup.span.next_xid.saturating_sub(with_epoch(xid, backup.span.next_xid)) < 1 << 31
}

pub(super) fn too_early(candidates: &[BackupRecord], target: &Target) -> Advice {
    let oldest = candidates.first().map_or_else(String::new, |backup| {
        format!(
            "the oldest one, {}, is complete at {} ({}, next transaction {})",
            backup.id,
            backup.span.stopped_at.format("%Y-%m-%d %H:%M:%S%.3fZ"),
            backup.span.stop_lsn,
            backup.span.next_xid
        )
    });
    Advice::refused(format!("no backup is complete before {target}: {oldest}"))
        .hint("recover windows shows which moments can be reached")
}

fn off_route(timeline: TimelineId, target: &Target) -> Advice {
    Advice::refused(format!("no backup before {target} lies on the way to timeline {timeline}"))
        .hint("name another timeline with --target-timeline; recover windows shows which moments can be reached")
}

fn wanted_timeline(reaching: &[&BackupRecord], inventory: &Inventory, wish: &Wish) -> Result<TimelineId, Advice> {
    let newest = reaching.last().map(|backup| backup.span.timeline);
    let wanted = match wish.timeline {
        WantedTimeline::Number(timeline) => {
            let known = inventory.timelines().contains(&timeline) || newest == Some(timeline);
            return if known { Ok(timeline) } else { Err(unknown_timeline(timeline, inventory)) };
        }
        WantedTimeline::OfBackup => newest,
        WantedTimeline::Newest => reaching
            .iter()
            .flat_map(|backup| inventory.descendants(backup.span.timeline, backup.span.stop_lsn))
            .filter(|timeline| !inventory.is_abandoned(*timeline))
            .max()
            .or(newest),
    };
    wanted.ok_or_else(|| Advice::failed("there is no timeline to recover along"))
}

fn unknown_timeline(timeline: TimelineId, inventory: &Inventory) -> Advice {
    let known: Vec<String> = inventory.timelines().iter().map(ToString::to_string).collect();
    Advice::refused(format!("timeline {timeline} is in no repository"))
        .hint(format!("there are the timelines {}", known.join(", ")))
}

/// Whether replay from this backup can go along the timeline's history.
fn leads_to(backup: &BackupRecord, inventory: &Inventory, timeline: TimelineId) -> bool {
    let own = backup.span.timeline;
    own == timeline || inventory.history(timeline).switch_of(own).is_some_and(|switch| backup.span.stop_lsn <= switch)
}

/// The way to the timeline. PostgreSQL would go on along the parent where a timeline's first segment is missing, and
/// bring back what was discarded; so that is refused, unless the target lies before the fork, as far as can be told yet.
fn way(
    backup: &BackupRecord,
    timeline: TimelineId,
    inventory: &Inventory,
    target: &Target,
) -> Result<(Route, Option<MissingFork>), Advice> {
    let mut history = inventory.history(timeline);
    let mut missing = None;
    while history.timeline != backup.span.timeline {
        let Some(fork) = history.ancestors.pop() else { break };
        let begins = fork.switch;
        let segment = WalSegmentName::containing(history.timeline, begins, inventory.segment_size());
        if inventory.has(segment) {
            history.ancestors.push(fork);
            break;
        }
        let found = MissingFork { segment, begins, parent: fork.timeline };
        if *target == Target::Latest || matches!(target, Target::Lsn(lsn) if *lsn > begins) {
            return Err(found.advice());
        }
        missing = Some(found);
        history.timeline = fork.timeline;
    }
    Ok((Route::new(history, inventory.segment_size()), missing))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::{SegmentSize, TimelineHistory};
    use crate::repo::records::testing::backup;
    use rstest::rstest;

    const SEG: u64 = 16 << 20;

    fn wish(target: Target) -> Wish {
        Wish { target, timeline: WantedTimeline::Newest, backup: None }
    }

    /// Three backups: two on timeline 1, one on timeline 2, which forks off between the first two.
    fn world() -> (Vec<BackupRecord>, Inventory) {
        let mut inventory = Inventory::new(SegmentSize::DEFAULT);
        for number in 1..=9 {
            inventory.add_segment(WalSegmentName::numbered(TimelineId(1), number, SegmentSize::DEFAULT));
        }
        for number in 4..=12 {
            inventory.add_segment(WalSegmentName::numbered(TimelineId(2), number, SegmentSize::DEFAULT));
        }
        inventory.add_history(TimelineHistory::parse(TimelineId(2), b"1\t0/4800000\tx\n").unwrap());
        let backups = vec![backup(1, 2 * SEG, 100), backup(1, 6 * SEG, 600), backup(2, 8 * SEG, 800)];
        (backups, inventory)
    }

    #[rstest]
    #[case(Target::Lsn(Lsn(9 * SEG)), 2, 2)]
    #[case(Target::Lsn(Lsn(7 * SEG)), 0, 2)]
    #[case(Target::Xid(700), 0, 2)]
    #[case(Target::Xid(800), 2, 2)]
    #[case(Target::Latest, 2, 2)]
    #[case(Target::Name("x".into()), 2, 2)]
    fn takes_the_newest_backup_on_the_way(#[case] target: Target, #[case] expected: usize, #[case] timeline: u32) {
        let (backups, inventory) = world();
        let choice = choose(&backups, &inventory, &wish(target)).unwrap();
        assert_eq!(choice.backup.id, backups[expected].id);
        assert_eq!(choice.route.history().timeline, TimelineId(timeline));
    }

    #[test]
    fn an_older_timeline_can_be_asked_for() {
        let (backups, inventory) = world();
        let mut wish = wish(Target::Latest);
        wish.timeline = WantedTimeline::Number(TimelineId(1));
        let choice = choose(&backups, &inventory, &wish).unwrap();
        assert_eq!(choice.backup.id, backups[1].id);
        wish.timeline = WantedTimeline::Number(TimelineId(7));
        assert!(choose(&backups, &inventory, &wish).unwrap_err().message.contains("timeline 7"));
    }

    #[test]
    fn an_abandoned_timeline_is_not_followed() {
        let (backups, mut inventory) = world();
        inventory.abandon(TimelineId(2));
        let choice = choose(&backups[..2], &inventory, &wish(Target::Latest)).unwrap();
        assert_eq!(choice.route.history().timeline, TimelineId(1));
    }

    #[test]
    fn a_timeline_without_its_first_segment_is_refused() {
        let (backups, inventory) = world();
        let mut poor = Inventory::new(SegmentSize::DEFAULT);
        poor.add_history(inventory.history(TimelineId(2)));
        let refusal = choose(&backups[..1], &poor, &wish(Target::Latest)).unwrap_err();
        assert!(refusal.message.contains("000000020000000000000004"), "{refusal}");
        let behind = Target::Lsn(Lsn(5 * SEG));
        assert_eq!(choose(&backups[..1], &poor, &wish(behind)).unwrap_err(), refusal);
        // Before the fork, both timelines are the parent's WAL.
        for target in [Target::Lsn(Lsn(0x0400_0000)), Target::Immediate, Target::Xid(300), Target::Name("x".into())] {
            let choice = choose(&backups[..1], &poor, &wish(target)).unwrap();
            assert_eq!(choice.route.history(), &TimelineHistory::root(TimelineId(1)));
            assert_eq!(choice.missing_fork.unwrap().advice(), refusal);
        }
    }

    /// Timeline 3 forks off timeline 1 before timeline 2 does: it was asked for along timeline 2.
    #[test]
    fn a_backup_behind_an_earlier_fork_leads_nowhere() {
        let (mut backups, mut inventory) = world();
        backups.insert(1, backup(1, 3 * SEG, 300));
        inventory.add_history(TimelineHistory::parse(TimelineId(3), b"1\t0/4800000\tx\n\n2\t0/2800000\ty\n").unwrap());
        for number in 2..=12 {
            inventory.add_segment(WalSegmentName::numbered(TimelineId(3), number, SegmentSize::DEFAULT));
        }
        let choice = choose(&backups, &inventory, &wish(Target::Latest)).unwrap();
        assert_eq!(choice.route.history().timeline, TimelineId(3));
        assert_eq!(choice.backup.id, backups[0].id);
    }

    #[test]
    fn a_target_before_every_backup_is_refused() {
        let (backups, inventory) = world();
        assert!(choose(&backups, &inventory, &wish(Target::Lsn(Lsn(SEG)))).is_err());
        assert!(choose(&[], &inventory, &wish(Target::Latest)).is_err());
    }

    #[rstest]
    #[case(5, 100, 5)]
    #[case(5, (3 << 32) + 100, (3 << 32) + 5)]
    #[case(5, (3 << 32) + (1 << 31) + 100, (4 << 32) + 5)]
    #[case((3 << 32) + 7, 1, (3 << 32) + 7)]
    fn a_transaction_id_finds_its_epoch(#[case] xid: u64, #[case] next: u64, #[case] expected: u64) {
        assert_eq!(with_epoch(xid, next), expected);
    }
}
