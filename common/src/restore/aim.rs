//! Aims at a target that is known by no position: it is looked up in the WAL, and the backup is the newest one that is
//! complete before the place where it lies.
//!
//! Clocks cannot say that. Commit times are not ordered, a server's clock may jump, and the backup's stop time is taken
//! apart from any commit. The number of a transaction says when it began, not when it ended. The name of a restore point says nothing of its place, and may come twice: then nobody knows
//! which one is meant, and only a look at all WAL tells.

use chrono::{DateTime, FixedOffset, TimeDelta};

use crate::archive::moments::{Ended, Located};
use crate::pg::Lsn;
use crate::repo::chain::Inventory;
use crate::repo::records::BackupRecord;
use crate::report::Interrupted;

use super::choose::{Choice, Wish, choices, choose, is_before, may_be_open, too_early};
use super::target::Target;

/// A backup that began so long before a time is believed to have no commit before its start that is later: a clock would
/// have to go back so far for that. Nearer ones are looked at.
const CLOCK_TRUST: TimeDelta = TimeDelta::hours(1);

/// A choice, and what was found on the way to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Aim {
    /// The backup and the way.
    pub choice: Choice,
    /// The target as replay from this backup meets it; `None` where nothing was looked up.
    pub located: Option<Located>,
}

/// Looks along a choice's way from its backup's start for the wish's target, up to a position when one is given.
pub type Look<'a> = &'a mut dyn FnMut(&Choice, Option<Lsn>) -> anyhow::Result<Located>;

/// Chooses the backup; `backups` are the whole ones of one system, oldest first.
///
/// A target that is in no WAL at hand is no error here: what was found says how far it goes.
pub fn aim(backups: &[BackupRecord], inventory: &Inventory, wish: &Wish, look: Look<'_>) -> anyhow::Result<Aim> {
    match &wish.target {
        Target::Time(time) if wish.backup.is_none() => at_time(time, backups, inventory, wish, look),
        Target::Xid(xid) if wish.backup.is_none() => at_xid(*xid, backups, inventory, wish, look),
        Target::Name(_) if wish.backup.is_none() => at_name(backups, inventory, wish, look),
        _ => Ok(Aim { choice: choose(backups, inventory, wish)?, located: None }),
    }
}

/// From the newest backup back to the first one behind whose end the time lies. A backup that is too new is found out at
/// its first commit. Only where no transaction ended between a backup's start and the first one that is later, its own
/// clock is asked.
fn at_time(
    time: &DateTime<FixedOffset>,
    backups: &[BackupRecord],
    inventory: &Inventory,
    wish: &Wish,
    look: Look<'_>,
) -> anyhow::Result<Aim> {
    let mut candidates = choices(backups, inventory, wish)?;
    let mut fault = None;
    while let Some(choice) = candidates.pop() {
        let located = match look(&choice, None) {
            Ok(located) => located,
            // What is wrong with newer WAL may not matter: the time may lie before it.
            Err(err) if err.downcast_ref::<Interrupted>().is_none() && !candidates.is_empty() => {
                fault = Some(err);
                continue;
            }
            Err(err) => return Err(err),
        };
        let span = &choice.backup.span;
        let lies_behind = match &located.stop {
            // That something earlier comes first is seen, or else the clock has to say it.
            Some(stop) => {
                stop.replay_end >= span.stop_lsn && (located.last_before.is_some() || span.stopped_at <= *time)
            }
            // Where no transaction ended nobody knows on which side of the time it is.
            None => located.last_transaction.is_some() || candidates.is_empty(),
        };
        if lies_behind && !came_before(time, &choice, candidates.last(), look)? {
            return Ok(Aim { choice, located: Some(located) });
        }
    }
    match fault {
        Some(fault) => Err(fault),
        None => Err(too_early(backups, &wish.target).into()),
    }
}

/// Whether a transaction that ended later is already among those between the backup before and this one.
fn came_before(
    time: &DateTime<FixedOffset>,
    choice: &Choice,
    before: Option<&Choice>,
    look: Look<'_>,
) -> anyhow::Result<bool> {
    let span = &choice.backup.span;
    let Some(before) = before.filter(|_| time.to_utc().signed_duration_since(span.started_at) < CLOCK_TRUST) else {
        return Ok(false);
    };
    match look(before, Some(span.start_lsn)) {
        Ok(located) => Ok(located.stop.is_some()),
        Err(err) if err.downcast_ref::<Interrupted>().is_some() => Err(err),
        // Nothing can be recovered from there to here, so this backup is the one.
        Err(_) => Ok(false),
    }
}

/// From the newest backup that is older than the transaction, over every hole that a newer backup bridges. Where none is
/// older it may have been running during the oldest: what counts is where it ended.
fn at_xid(
    xid: u64,
    backups: &[BackupRecord],
    inventory: &Inventory,
    wish: &Wish,
    look: Look<'_>,
) -> anyhow::Result<Aim> {
    let candidates = choices(backups, inventory, wish)?;
    let older = candidates.iter().rposition(|choice| is_before(&choice.backup, &wish.target));
    let mut rest = candidates.get(older.unwrap_or_default()..).unwrap_or_default();
    let mut first = None;
    while let Some(choice) = rest.first().filter(|choice| older.is_some() || may_be_open(&choice.backup, xid)) {
        let located = look(choice, None)?;
        let end = located.end_of_wal;
        let is_cut_off = matches!(located.ended, Ended::Missing(_) | Ended::Invalid(..));
        let stop = located.stop.as_ref().map(|stop| stop.replay_end);
        let aim = Aim { choice: choice.clone(), located: Some(located) };
        match stop {
            Some(stop) if stop >= choice.backup.span.stop_lsn => return Ok(aim),
            Some(_) => break,
            None => first = first.or(Some(aim)),
        }
        let behind = rest.iter().position(|choice| choice.backup.span.start_lsn > end);
        rest = behind.filter(|_| is_cut_off).and_then(|behind| rest.get(behind..)).unwrap_or_default();
    }
    first.filter(|_| older.is_some()).ok_or_else(|| too_early(backups, &wish.target).into())
}

/// All WAL from the oldest backup on, over every hole that a newer backup bridges.
fn at_name(backups: &[BackupRecord], inventory: &Inventory, wish: &Wish, look: Look<'_>) -> anyhow::Result<Aim> {
    let candidates = choices(backups, inventory, wish)?;
    let mut rest = &candidates[..];
    let mut found: Option<Located> = None;
    let mut occurrences = Vec::new();
    while let Some(first) = rest.first() {
        let located = look(first, None)?;
        occurrences.extend(located.occurrences.iter().copied());
        let end = located.end_of_wal;
        let is_cut_off = matches!(located.ended, Ended::Missing(_) | Ended::Invalid(..));
        // One that has the target stays; without it the last one says how far the WAL goes.
        if found.as_ref().is_none_or(|known| known.stop.is_none()) {
            found = Some(located);
        }
        let behind = rest.iter().position(|choice| choice.backup.span.start_lsn > end);
        rest = behind.filter(|_| is_cut_off).and_then(|behind| rest.get(behind..)).unwrap_or_default();
    }
    occurrences.sort_unstable_by_key(|point| point.lsn);
    occurrences.dedup_by_key(|point| point.lsn);
    let at = occurrences.first().map(|point| point.lsn);
    let is_complete = |choice: &&Choice| at.is_none_or(|at| choice.backup.span.stop_lsn <= at);
    let choice = candidates.iter().rev().find(is_complete).or(candidates.first()).cloned();
    let (Some(choice), Some(mut located)) = (choice, found) else {
        return Err(too_early(backups, &wish.target).into());
    };
    located.occurrences = occurrences;
    // What was made before the backup's start is in the backup.
    located.tablespaces.retain(|made| made.lsn >= choice.backup.span.start_lsn);
    Ok(Aim { choice, located: Some(located) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::moments::{RestorePoint, Stop, Transaction};
    use crate::pg::wal_reader::{RecordKind, TransactionEnd};
    use crate::pg::{SegmentSize, TimelineId, WalSegmentName};
    use crate::repo::BackupId;
    use crate::repo::records::testing::backup;
    use crate::restore::choose::WantedTimeline;
    use chrono::Utc;
    use proptest::prelude::*;
    use rstest::rstest;

    const SEG: u64 = 16 << 20;

    /// Backups at these segments; each begins a segment before its end. One commit or restore point a line: its position
    /// in tenths of a segment, and its time or name.
    struct World {
        backups: Vec<BackupRecord>,
        commits: Vec<(u64, i64)>,
        names: Vec<(u64, &'static str)>,
        hole: Option<u64>,
        /// Where the transaction that is sought ends.
        ending: Option<u64>,
        looks: Vec<(BackupId, Option<Lsn>)>,
    }

    fn lsn(tenths: u64) -> Lsn {
        Lsn(tenths * SEG / 10)
    }

    fn moment(minutes: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_700_000_000 + minutes * 60, 0).unwrap()
    }

    impl World {
        fn new(ends: &[(u64, i64)], commits: &[(u64, i64)]) -> Self {
            let made = |(number, (end, minutes)): (u64, &(u64, i64))| {
                let mut made = backup(1, lsn(*end).0, 100 + number);
                made.span.start_lsn = lsn(end - 10);
                (made.span.started_at, made.span.stopped_at) = (moment(*minutes), moment(*minutes));
                made
            };
            let backups = (0..).zip(ends).map(made).collect();
            Self { backups, commits: commits.to_vec(), names: Vec::new(), hole: None, ending: None, looks: Vec::new() }
        }

        /// What a look finds, by PostgreSQL's rules.
        fn look(&mut self, target: &Target, choice: &Choice, until: Option<Lsn>) -> Located {
            self.looks.push((choice.backup.id, until));
            let from = choice.backup.span.start_lsn;
            let cut = self.hole.map(lsn).filter(|hole| *hole >= from);
            let end = [until, cut].into_iter().flatten().min().unwrap_or(Lsn(u64::MAX));
            let mut located = Located { end_of_wal: end.min(lsn(10_000)), ..blank() };
            if cut.is_some_and(|cut| cut == end) {
                let segment = WalSegmentName::containing(TimelineId(1), end, SegmentSize::DEFAULT);
                located.ended = Ended::Missing(segment);
            }
            let stop_at = |at: Lsn, kind| Stop { record_start: at, kind, included: false, replay_end: at };
            for (tenths, minutes) in &self.commits {
                let (at, time) = (lsn(*tenths), moment(*minutes));
                if at < from || at >= end {
                    continue;
                }
                let commit = Transaction { xid: 7, time, lsn: at };
                located.last_transaction = Some(commit);
                if matches!(target, Target::Time(target) if time > *target) && located.stop.is_none() {
                    let kind = RecordKind::Commit(TransactionEnd { xid: 7, time });
                    located.stop = Some(stop_at(at, kind));
                    located.first_after = Some(commit);
                    break;
                }
                located.last_before = Some(commit);
            }
            let ending = self.ending.map(lsn).filter(|at| matches!(target, Target::Xid(_)) && *at >= from && *at < end);
            if let Some(at) = ending.filter(|at| *at < lsn(10_000)) {
                located.stop = Some(Stop { included: true, ..stop_at(at, RecordKind::Other) });
            }
            for (tenths, name) in &self.names {
                let at = lsn(*tenths);
                if at >= from && at < end && matches!(target, Target::Name(wanted) if wanted == name) {
                    located.occurrences.push(RestorePoint { lsn: at, time: moment(0) });
                    located.stop.get_or_insert_with(|| stop_at(at, RecordKind::Other));
                }
            }
            located
        }

        /// The number of the backup that is chosen, or the refusal.
        fn aim(&mut self, target: &Target) -> Result<(usize, Located), String> {
            let mut inventory = Inventory::new(SegmentSize::DEFAULT);
            for number in 0..100 {
                inventory.add_segment(WalSegmentName::numbered(TimelineId(1), number, SegmentSize::DEFAULT));
            }
            let wish = Wish { target: target.clone(), timeline: WantedTimeline::Newest, backup: None };
            let backups = self.backups.clone();
            let mut look = |choice: &Choice, until: Option<Lsn>| Ok(self.look(target, choice, until));
            let aim = aim(&backups, &inventory, &wish, &mut look).map_err(|err| format!("{err:#}"))?;
            let place = backups.iter().position(|backup| backup.id == aim.choice.backup.id).unwrap();
            Ok((place, aim.located.unwrap()))
        }

        fn at(&mut self, minutes: i64) -> Result<usize, String> {
            self.aim(&Target::Time(moment(minutes).fixed_offset())).map(|(place, _)| place)
        }
    }

    fn blank() -> Located {
        Located {
            stop: None,
            last_before: None,
            first_after: None,
            last_transaction: None,
            end_of_wal: Lsn(0),
            occurrences: Vec::new(),
            tablespaces: Vec::new(),
            parameters: None,
            ended: Ended::Until,
        }
    }

    /// Three backups, complete at segments 2, 4 and 6, an hour and a half apart, and a commit in the middle of each segment.
    fn steady() -> World {
        World::new(&[(20, 0), (40, 90), (60, 180)], &[(15, -5), (25, 30), (35, 85), (45, 120), (55, 175), (65, 210)])
    }

    #[rstest]
    #[case::before_all(-10, None)]
    #[case::behind_the_first(20, Some(0))]
    #[case::behind_the_second(100, Some(1))]
    #[case::behind_the_last(200, Some(2))]
    #[case::behind_all_commits(500, Some(2))]
    fn a_time_takes_the_newest_backup_before_it(#[case] minutes: i64, #[case] expected: Option<usize>) {
        match (steady().at(minutes), expected) {
            (Ok(place), Some(expected)) => assert_eq!(place, expected),
            (Err(refusal), None) => assert!(refusal.contains("no backup is complete before"), "{refusal}"),
            (found, expected) => panic!("{found:?}, not {expected:?}"),
        }
    }

    /// The clock says that the backup ended long after the time, or before it; the WAL says otherwise.
    #[test]
    fn a_clock_that_is_wrong_chooses_nothing() {
        let mut world = steady();
        for backup in &mut world.backups {
            backup.span.stopped_at = moment(10_000);
        }
        assert_eq!(world.at(200), Ok(2));
        for backup in &mut world.backups {
            backup.span.stopped_at = moment(-10_000);
        }
        assert_eq!((world.at(100), world.at(20)), (Ok(1), Ok(0)));
    }

    /// A commit that is later than the time comes before the backup, whose own commits are earlier: replay of all WAL
    /// stops at it, and so does the recovery.
    #[test]
    fn times_out_of_order_before_a_backup_are_seen() {
        let mut world = World::new(&[(20, 0), (40, 60)], &[(25, 10), (29, 70), (45, 62), (55, 90)]);
        assert_eq!(world.at(65), Ok(0));
        assert_eq!(world.looks.len(), 3);
        // Far behind the backup nobody looks back.
        let mut world = steady();
        assert_eq!((world.at(300), world.looks.len()), (Ok(2), 1));
    }

    #[test]
    fn a_time_before_the_only_backup_is_refused() {
        let mut world = World::new(&[(20, 0)], &[(25, 10)]);
        assert!(world.at(-10).is_err());
        assert_eq!(world.at(5), Ok(0));
    }

    #[test]
    fn an_idle_backup_is_passed_over() {
        let mut world = World::new(&[(20, 0), (40, 60), (60, 120)], &[(25, 10), (26, 50)]);
        assert_eq!(world.at(20), Ok(0));
    }

    #[test]
    fn a_name_is_found_behind_any_backup() {
        let mut world = steady();
        world.names = vec![(25, "a"), (44, "b"), (26, "c"), (66, "c")];
        let mut find = |name: &str| world.aim(&Target::Name(name.to_owned())).unwrap();
        for (name, place, occurrences) in [("a", 0, 1), ("b", 1, 1), ("c", 0, 2), ("nowhere", 2, 0)] {
            let (found, located) = find(name);
            assert_eq!((found, located.occurrences.len()), (place, occurrences), "{name}");
            assert_eq!(located.stop.is_some(), occurrences > 0);
        }
    }

    #[test]
    fn a_name_behind_a_hole_is_found_from_the_backup_behind_it() {
        let mut world = steady();
        world.names = vec![(25, "a"), (66, "a"), (67, "b")];
        world.hole = Some(42);
        let mut find = |name: &str| world.aim(&Target::Name(name.to_owned())).unwrap();
        let (_, twice) = find("a");
        assert_eq!(twice.occurrences.len(), 2);
        let (place, once) = find("b");
        assert_eq!((place, once.occurrences.len(), once.stop.is_some()), (2, 1, true));
    }

    /// The backups end before transactions 100, 101 and 102; in this world the transaction that is sought ends at `at`.
    #[rstest]
    #[case::began_before_all_and_ended_behind_the_first(90, 25, None, Some(0))]
    #[case::ended_behind_them_all(90, 66, None, Some(0))]
    #[case::ended_before_the_first_was_complete(90, 15, None, None)]
    #[case::ended_before_all(90, 5, None, None)]
    #[case::nowhere(90, 20_000, None, None)]
    #[case::began_behind_the_second(101, 45, None, Some(1))]
    #[case::began_behind_the_second_and_ended_behind_a_hole(101, 66, Some(47), Some(2))]
    #[case::of_an_epoch_before((1 << 32) + 90, 25, None, None)]
    fn a_transaction_lies_where_it_ended(
        #[case] xid: u64,
        #[case] at: u64,
        #[case] hole: Option<u64>,
        #[case] expected: Option<usize>,
    ) {
        let mut world = steady();
        if xid > 1 << 32 {
            world.backups.iter_mut().for_each(|backup| backup.span.next_xid += 2 << 32);
        }
        world.hole = hole;
        world.ending = Some(at);
        match (world.aim(&Target::Xid(xid)), expected) {
            (Ok((place, located)), Some(expected)) => {
                assert_eq!((place, located.stop.map(|stop| stop.record_start)), (expected, Some(lsn(at))));
            }
            (Err(refusal), None) => assert!(refusal.contains("no backup is complete before"), "{refusal}"),
            (found, expected) => panic!("{found:?}, not {expected:?}"),
        }
    }

    /// A transaction that is in no WAL: what was found says how far that goes.
    #[test]
    fn a_transaction_that_never_ended_has_no_place() {
        let (place, located) = steady().aim(&Target::Xid(500)).unwrap();
        assert_eq!((place, located.stop), (2, None));
    }

    proptest! {
        /// Whatever the clocks say, a recovery from the chosen backup stops at the first commit that is later among those
        /// behind its start, and never before it is consistent.
        #[test]
        fn the_target_lies_behind_the_backup(
            commits in proptest::collection::vec((11_u64..100, -50_i64..200), 1..30),
            clocks in proptest::array::uniform3(-500_i64..500),
            minutes in -60_i64..220,
        ) {
            let mut commits = commits;
            commits.sort_unstable();
            let ends = [20, 40, 60].into_iter().zip(clocks).collect::<Vec<_>>();
            let mut world = World::new(&ends, &commits);
            if let Ok((place, located)) = world.aim(&Target::Time(moment(minutes).fixed_offset())) {
                let start = ends[place].0 - 10;
                let first = commits.iter().find(|(at, time)| *at >= start && *time > minutes);
                prop_assert_eq!(located.stop.as_ref().map(|stop| stop.record_start), first.map(|(at, _)| lsn(*at)));
                prop_assert!(first.is_none_or(|(at, _)| *at >= ends[place].0));
            }
        }
    }
}
