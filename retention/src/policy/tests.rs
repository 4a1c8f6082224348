use std::collections::BTreeSet;
use std::fmt::Write as _;

use common::pg::{ArchiveName, Lsn, TimelineHistory, TimelineId};
use common::repo::BackupId;
use common::repo::chain::{Inventory, Route};
use common::repo::records::WalPosition;
use common::store::Store as _;
use proptest::prelude::*;
use rstest::rstest;

use super::{Plan, Verdict};
use crate::facts::{self, State};
use crate::testing::{SIZE, SYSTEM, World, at, dropped_wal, kept, record, segment, time};

/// Five backups an hour apart, each beginning in the middle of a segment of its own, and all WAL between them.
fn five() -> (World, Vec<BackupId>) {
    let world = World::new();
    world.segments(1, 1..=12);
    let ids = (1..=5_i64).zip(1..).map(|(hour, n)| world.backup(hour * 60, 1, at(n * 16 + 4), at(n * 16 + 9), 0));
    let ids = ids.collect();
    (world, ids)
}

fn names(numbers: impl IntoIterator<Item = u64>) -> Vec<String> {
    numbers.into_iter().map(|number| segment(1, number).to_string()).collect()
}

fn reason(plan: &Plan, id: BackupId) -> &str {
    &plan.backups.iter().find(|item| item.id == id).unwrap().reason
}

#[rstest]
#[case(1, 9)]
#[case(2, 7)]
#[case(5, 1)]
#[case(9, 1)]
fn keeps_the_newest_and_their_wal(#[case] keep: u32, #[case] first_dropped_not: u64) {
    let (world, ids) = five();
    let plan = world.plan(keep, 600);
    let first = ids.len().saturating_sub(keep as usize);
    assert_eq!(kept(&plan), ids[first..]);
    let floor = if keep >= 5 { 2 } else { first_dropped_not + 1 };
    assert_eq!(dropped_wal(&plan), names(1..floor));
    assert!(plan.findings.is_empty());
}

/// A restore from the second of five backups.
#[test]
fn what_somebody_restores_from_stays_until_the_lease_expires() {
    let (world, ids) = five();
    world.lease(ids[1], at(36), 630);
    let plan = world.plan(1, 600);
    assert_eq!(kept(&plan), [ids[1], ids[4]]);
    assert!(reason(&plan, ids[1]).starts_with("recover run of /copy on db2 holds a lease until "));
    assert_eq!(dropped_wal(&plan), names(1..4));
    let plan = world.plan(1, 630);
    assert_eq!((kept(&plan), dropped_wal(&plan)), (vec![ids[4]], names(1..10)));
    // The backup is half removed, by hand say: what is left of it stays, and so does its WAL.
    world.lease(ids[1], at(36), 700);
    let commit = world.repository.layout().backup_object(ids[1], "backup.json").unwrap();
    world.store.delete(&[commit]).unwrap();
    let plan = world.plan(1, 600);
    assert_eq!((kept(&plan), dropped_wal(&plan)), (vec![ids[1], ids[4]], names(1..4)));
}

#[test]
fn a_lease_that_cannot_be_read_protects_everything() {
    let (world, ids) = five();
    world.unreadable_lease();
    let plan = world.plan(1, 600);
    assert_eq!(kept(&plan), ids);
    assert!(plan.drops_nothing());
    assert!(plan.findings[0].contains("lease/0123.json"), "{:?}", plan.findings);
}

#[test]
fn the_plan_in_full() {
    let (world, _) = five();
    world.history(2, "1\t0/C000000\tx\n");
    world.wal(SYSTEM, ArchiveName::Partial(segment(1, 3)));
    world.wal(SYSTEM, ArchiveName::BackupHistory(segment(1, 8), 0x28));
    let mut plan = world.plan(2, 600);
    // Records grow with every field that they get.
    plan.backups.iter_mut().for_each(|item| item.bytes = 1000);
    insta::assert_snapshot!(serde_json::to_string_pretty(&plan).unwrap());
}

#[test]
fn a_backup_with_bad_pages_never_counts() {
    let (world, ids) = five();
    let bad = world.backup(330, 1, at(84), at(89), 3);
    let old_bad = world.backup(150, 1, at(36), at(41), 1);
    let plan = world.plan(2, 600);
    assert_eq!(kept(&plan), [ids[3], ids[4], bad]);
    assert_eq!(reason(&plan, bad), "newer than the oldest good one, with damaged pages: 3");
    assert_eq!(reason(&plan, old_bad), "older than the oldest good one, with damaged pages: 1");
}

#[test]
fn without_a_good_backup_nothing_goes() {
    let world = World::new();
    world.segments(1, 1..=9);
    world.backup(60, 1, at(40), at(45), 1);
    world.started(BackupId::at(time(1)), time(1), None);
    let plan = world.plan(1, 600);
    assert!(plan.drops_nothing());
    assert!(plan.backups.iter().all(|item| item.reason == "nothing goes while there is no good backup"));
}

#[test]
fn a_record_that_cannot_be_read_stays_and_holds_all_wal() {
    let (world, ids) = five();
    world.put_backup_object(ids[0], "backup.json", b"{}");
    let plan = world.plan(1, 600);
    assert_eq!(kept(&plan), [ids[0], ids[4]]);
    assert_eq!(dropped_wal(&plan), Vec::<String>::new());
    assert!(plan.findings.len() == 1 && plan.findings[0].starts_with(&ids[0].to_string()), "{:?}", plan.findings);
}

#[rstest]
// The last heartbeat in minutes before now, where its WAL begins, whether it is dropped, the first segment kept.
#[case::alive_and_its_start_not_known(20, None, false, 1)]
#[case::alive(20, Some(28), false, 3)]
#[case::dead(31, None, true, 10)]
#[case::dead_whatever_it_needed(31, Some(28), true, 10)]
fn an_unfinished_backup(
    #[case] silent: i64,
    #[case] start: Option<u64>,
    #[case] dropped: bool,
    #[case] first_kept: u64,
) {
    let (world, _) = five();
    let id = BackupId::at(time(500));
    let start_wal = start.map(|eighths| WalPosition { timeline: TimelineId(1), lsn: at(eighths) });
    world.started(id, time(600 - silent), start_wal);
    world.put_backup_object(id, "part-00001.tar.zst", b"x");
    let plan = world.plan(1, 600);
    assert_eq!(!kept(&plan).contains(&id), dropped);
    assert_eq!(dropped_wal(&plan), names(1..first_kept));
}

#[test]
fn remains_without_a_record_go_but_an_unreadable_one_stays() {
    let (world, _) = five();
    let (remains, unreadable) = (BackupId::at(time(500)), BackupId::at(time(501)));
    world.put_backup_object(remains, "part-00001.tar.zst", b"x");
    let plan = world.plan(1, 600);
    assert!(!kept(&plan).contains(&remains));
    world.put_backup_object(unreadable, "started.json", b"");
    let plan = world.plan(1, 600);
    assert!(kept(&plan).contains(&unreadable) && dropped_wal(&plan).is_empty() && plan.findings.len() == 1);
}

/// Recovered from the first of two backups: the second lies on the way that was left.
fn after_a_recovery() -> (World, BackupId, BackupId) {
    let world = World::new();
    world.segments(1, 1..=9);
    let first = world.backup(60, 1, at(17), at(20), 0);
    let second = world.backup(120, 1, at(49), at(52), 0);
    world.history(2, "1\t0/4800000\tx\n");
    world.segments(2, 4..=7);
    (world, first, second)
}

#[test]
fn the_way_to_the_present_timeline_stays() {
    let (world, first, second) = after_a_recovery();
    let plan = world.plan(1, 600);
    assert_eq!(kept(&plan), [first, second]);
    assert_eq!(reason(&plan, first), "the newest that leads to timeline 2, the present one");
    assert_eq!(dropped_wal(&plan), names(1..2));
    world.abandon(2);
    let plan = world.plan(1, 600);
    assert_eq!(kept(&plan), [second]);
}

#[test]
fn a_timeline_that_nothing_leads_to_keeps_what_is_newer() {
    let (world, _, second) = after_a_recovery();
    let third = world.backup(180, 2, at(50), at(53), 0);
    let plan = world.plan(1, 600);
    assert_eq!(kept(&plan), [third]);
    assert!(!kept(&plan).contains(&second));
    // Timeline 1 is an ancestor, timeline 2 the backup's own; both begin to be needed at segment 6.
    let expected: Vec<String> =
        (1..6).map(|n| segment(1, n)).chain((4..6).map(|n| segment(2, n))).map(|name| name.to_string()).collect();
    assert_eq!(dropped_wal(&plan), expected);
}

#[test]
fn a_damaged_history_holds_the_wal() {
    let (world, _, _) = after_a_recovery();
    let key = world.repository.layout().histories(SYSTEM) + "00000002.history.zst";
    common::store::Store::replace(&*world.store, &common::store::Key::new(key).unwrap(), b"x").unwrap();
    let plan = world.plan(1, 600);
    assert!(dropped_wal(&plan).is_empty() && plan.findings.len() == 1, "{plan:?}");
}

#[test]
fn the_wal_from_before_an_upgrade_goes_with_its_last_backup() {
    let (world, ids) = five();
    world.system(8, 400);
    let new = |number| ArchiveName::Segment(segment(1, number));
    world.wal(8, new(2));
    world.wal(8, new(3));
    assert_eq!(kept(&world.plan(1, 600)), [ids[4]]);
    assert_eq!(dropped_wal(&world.plan(1, 600)), names(1..10), "the new system's WAL stays without a backup");
    let backup = world.write(&record(420, 8, 1, at(25), at(27), 0));
    let plan = world.plan(1, 600);
    assert_eq!(kept(&plan), [backup]);
    assert_eq!(dropped_wal(&plan).len(), 13);
    let ids: BTreeSet<_> = plan.dropped_wal().map(|item| item.system_identifier).collect();
    assert_eq!(ids, BTreeSet::from([SYSTEM, 8]));
    // While a backup is being made, nobody knows of which system.
    let lsn = at(25);
    world.started(BackupId::at(time(590)), time(595), Some(WalPosition { timeline: TimelineId(1), lsn }));
    assert!(world.plan(1, 600).dropped_wal().all(|item| item.system_identifier == 8));
}

#[test]
fn the_wal_of_a_system_without_a_record_stays() {
    let (world, _) = five();
    world.wal(99, ArchiveName::Segment(segment(1, 1)));
    let plan = world.plan(1, 600);
    assert!(plan.dropped_wal().all(|item| item.system_identifier == SYSTEM));
    assert_eq!(plan.findings.len(), 1);
}

/// A cluster with a tree of timelines.
#[derive(Debug, Clone)]
struct Tree {
    /// For timelines from 2 on: how far down the parent is, and how far after the parent's beginning it forks off.
    forks: Vec<(u32, u64)>,
    /// Of each timeline: how many segments it has, and which of them are missing.
    lengths: Vec<(u64, BTreeSet<u64>)>,
    /// Timeline, start after the timeline's beginning, length, damaged pages.
    backups: Vec<(u32, u64, u64, bool)>,
    abandoned: BTreeSet<u32>,
    lost_histories: BTreeSet<u32>,
}

fn any_tree() -> impl Strategy<Value = Tree> {
    let fork = (0_u32..4, 0_u64..60);
    let length = (1_u64..12, proptest::collection::btree_set(0_u64..12, 0..3));
    let backup = (0_u32..5, 0_u64..70, 1_u64..20, proptest::bool::weighted(0.2));
    let some = |chance| proptest::collection::btree_set(1_u32..6, 0..chance);
    (
        proptest::collection::vec(fork, 4),
        proptest::collection::vec(length, 5),
        proptest::collection::vec(backup, 1..8),
        some(3),
        some(2),
    )
        .prop_map(|(forks, lengths, backups, abandoned, lost_histories)| Tree {
            forks,
            lengths,
            backups,
            abandoned,
            lost_histories,
        })
}

impl Tree {
    fn build(&self) -> World {
        let world = World::new();
        let mut histories: Vec<TimelineHistory> = vec![TimelineHistory::root(TimelineId(1))];
        let mut begins = vec![8_u64];
        for (number, (down, after)) in (2_u32..).zip(&self.forks) {
            let parent = histories.len() - 1 - (*down as usize).min(histories.len() - 1);
            let fork = begins[parent] + after;
            let mut text = histories[parent].to_text();
            writeln!(text, "\n{}\t{}\tx", histories[parent].timeline, at(fork)).unwrap();
            let history = TimelineHistory::parse(TimelineId(number), text.as_bytes()).unwrap();
            if !self.lost_histories.contains(&number) {
                world.history(number, &text);
            }
            histories.push(history);
            begins.push(fork);
        }
        for (index, (length, missing)) in self.lengths.iter().enumerate() {
            let first = begins[index] / 8;
            let timeline = histories[index].timeline.0;
            world.segments(timeline, (first..first + length).filter(|number| !missing.contains(&(number - first))));
        }
        for (minutes, (index, after, length, bad)) in (1_i64..).zip(&self.backups) {
            let index = *index as usize;
            let start = Lsn(at(begins[index] + after).0 + 0x28);
            world.backup(minutes, histories[index].timeline.0, start, Lsn(start.0 + at(*length).0), u64::from(*bad));
        }
        for timeline in &self.abandoned {
            world.abandon(*timeline);
        }
        world
    }
}

/// Every segment that a recovery from this backup may read, along any timeline.
fn readable(inventory: &Inventory, timeline: TimelineId, start: Lsn, stop: Lsn) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for descendant in inventory.descendants(timeline, stop) {
        let route = Route::new(inventory.history(descendant), SIZE);
        let names = route.segments(start, at(8 * 80));
        found.extend(names.filter(|name| inventory.has(*name)).map(|name| name.to_string()));
    }
    found
}

proptest! {
    #[test]
    fn what_a_kept_backup_needs_is_never_dropped(tree in any_tree(), keep in 1_u32..5) {
        let world = tree.build();
        let inventory = world.inventory();
        let catalog = facts::gather(&world.repository).unwrap();
        let plan = world.plan(keep, 1000);
        let dropped: BTreeSet<String> = dropped_wal(&plan).into_iter().collect();
        for id in kept(&plan) {
            let State::Complete(record) = &catalog.backups[&id].state else { panic!("all are whole") };
            let span = &record.span;
            let needed = readable(&inventory, span.timeline, span.start_lsn, span.stop_lsn);
            prop_assert!(needed.is_disjoint(&dropped), "{id}: {:?}", needed.intersection(&dropped).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_newest_good_ones_always_stay(tree in any_tree(), keep in 1_u32..5) {
        let world = tree.build();
        let plan = world.plan(keep, 1000);
        let good: Vec<BackupId> = (1_i64..)
            .zip(&tree.backups)
            .filter(|(_, (_, _, _, bad))| !bad)
            .map(|(minutes, _)| BackupId::at(time(minutes)))
            .collect();
        let kept = kept(&plan);
        prop_assert!(good.iter().rev().take(keep as usize).all(|id| kept.contains(id)));
        if good.is_empty() {
            prop_assert!(plan.drops_nothing());
        }
    }

    #[test]
    fn a_second_plan_after_the_first_drops_nothing(tree in any_tree(), keep in 1_u32..5) {
        let world = tree.build();
        let plan = world.plan(keep, 1000);
        for item in plan.dropped_backups() {
            common::archive::backups::remove(&world.repository, item.id).unwrap();
        }
        for item in plan.wal.iter().filter(|item| item.verdict == Verdict::Drop) {
            common::store::Store::delete(&*world.store, &item.keys).unwrap();
        }
        prop_assert!(world.plan(keep, 1000).drops_nothing());
    }
}
