use std::io;
use std::sync::Arc;

use common::archive::Repository;
use common::codec::Compression;
use common::pg::TimelineId;
use common::repo::records::WalPosition;
use common::repo::{BackupId, ClusterName};
use common::report::{Cancel, Interrupted, Silent};
use common::store::{FaultKind, FaultPlan, FaultStore, Store};

use super::{Acted, carry_out};
use crate::testing::{World, at, dropped_wal, kept, objects, record, time};

const NOW: i64 = 600;

/// Three backups, the remains of a dead one, and their WAL on two timelines.
fn world() -> World {
    let world = World::new();
    world.segments(1, 1..=9);
    world.history(2, "1\t0/9800000\tx\n");
    world.segments(2, 9..=14);
    world.backup(60, 1, at(17), at(20), 0);
    world.backup(120, 1, at(49), at(52), 0);
    world.backup(180, 2, at(81), at(90), 0);
    let dead = BackupId::at(time(200));
    world.started(dead, time(201), None);
    world.put_backup_object(dead, "part-00001.tar.zst", b"x");
    world
}

fn through(store: Arc<dyn Store>) -> anyhow::Result<Repository> {
    Repository::open(store, ClusterName::default(), Compression::default())
}

fn act(world: &World, store: Arc<dyn Store>) -> anyhow::Result<Acted> {
    carry_out(&through(store)?, &world.plan(1, NOW), time(NOW), &Silent, &Cancel::default())
}

#[test]
fn does_what_the_plan_says() {
    let world = world();
    let plan = world.plan(1, NOW);
    let (before, gone) = (world.keys(), dropped_wal(&plan));
    assert_eq!(gone.len(), 10);
    let acted = act(&world, world.store.clone()).unwrap();
    assert_eq!(acted, Acted { backups: 3, wal_files: 10, bytes: plan.dropped_bytes() });
    let after = world.keys();
    let vanished = |name: &String| before.difference(&after).any(|key| key.contains(name.as_str()));
    assert!(gone.iter().all(vanished));
    assert_eq!(kept(&world.plan(1, NOW)), [BackupId::at(time(180))]);
    assert!(world.plan(1, NOW).drops_nothing());
}

/// Ends the run at every call in turn, before and after the call is carried out.
#[test]
fn a_crash_anywhere_leaves_what_is_kept_whole_and_the_next_run_finishes() {
    let done = world();
    let calls = {
        let store = Arc::new(FaultStore::new(done.store.clone()));
        act(&done, store.clone()).unwrap();
        store.calls()
    };
    assert!(calls > 15, "{calls}");
    for at in 1..=calls {
        for kind in [FaultKind::Fail(io::ErrorKind::TimedOut), FaultKind::FailAfter(io::ErrorKind::TimedOut)] {
            let world = world();
            let (before, plan) = (world.keys(), world.plan(1, NOW));
            let faulty = FaultStore::with_plan(world.store.clone(), FaultPlan { at, kind: kind.clone() });
            act(&world, Arc::new(faulty)).unwrap_err();
            let after = world.keys();
            let may_go = |key: &&String| {
                let dropped = plan.dropped_backups().any(|item| key.contains(&item.id.to_string()));
                dropped || plan.dropped_wal().flat_map(|item| &item.keys).any(|gone| gone.as_str() == key.as_str())
            };
            let lost: Vec<_> = before.difference(&after).filter(|key| !may_go(key)).collect();
            assert_eq!(lost, Vec::<&String>::new(), "{kind:?} at {at}");
            // A backup that is still listed is whole, and so is its WAL.
            for record in common::archive::backups::complete(&world.repository).unwrap() {
                for name in objects(&record) {
                    let key = world.repository.layout().backup_object(record.id, &name).unwrap();
                    assert!(after.contains(key.as_str()), "{kind:?} at {at}: {key}");
                }
                let first = record.span.first_segment(record.source.segment_size);
                assert!(world.inventory().has(first), "{kind:?} at {at}: {first}");
            }
            act(&world, world.store.clone()).unwrap();
            assert_eq!(world.keys(), done.keys(), "{kind:?} at {at}");
        }
    }
}

#[test]
fn two_runs_at_once_do_what_one_does() {
    let (one, done) = (world(), world());
    act(&done, done.store.clone()).unwrap();
    let plan = one.plan(1, NOW);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| carry_out(&one.repository, &plan, time(NOW), &Silent, &Cancel::default()).unwrap());
        }
    });
    assert_eq!(one.keys(), done.keys());
}

#[test]
fn a_backup_that_begins_meanwhile_keeps_all_wal() {
    let world = world();
    let plan = world.plan(1, NOW);
    let position = WalPosition { timeline: TimelineId(1), lsn: at(17) };
    world.started(BackupId::at(time(NOW)), time(NOW), Some(position));
    let acted = carry_out(&world.repository, &plan, time(NOW), &Silent, &Cancel::default()).unwrap();
    assert_eq!((acted.backups, acted.wal_files), (3, 0));
}

#[test]
fn a_lease_that_is_taken_meanwhile_keeps_its_backup_and_all_wal() {
    let world = world();
    let plan = world.plan(1, NOW);
    let wanted = BackupId::at(time(60));
    world.lease(wanted, at(17), NOW + 1);
    let acted = carry_out(&world.repository, &plan, time(NOW), &Silent, &Cancel::default()).unwrap();
    assert_eq!((acted.backups, acted.wal_files), (2, 0));
    assert!(world.keys().iter().any(|key| key.contains(&wanted.to_string())));
    // Once it has expired, everything goes, the lease too.
    let later = NOW + 1;
    carry_out(&world.repository, &world.plan(1, later), time(later), &Silent, &Cancel::default()).unwrap();
    assert!(!world.keys().iter().any(|key| key.contains(&wanted.to_string()) || key.contains("/lease/")));
}

#[test]
fn a_run_that_wakes_up_or_finishes_meanwhile_is_spared() {
    for finished in [false, true] {
        let world = world();
        let plan = world.plan(1, NOW);
        let dead = BackupId::at(time(200));
        if finished {
            world.write(&record(200, crate::testing::SYSTEM, 2, at(85), at(90), 0));
        } else {
            world.started(dead, time(NOW), None);
        }
        let acted = carry_out(&world.repository, &plan, time(NOW), &Silent, &Cancel::default()).unwrap();
        assert_eq!(acted.backups, 2);
        assert!(world.keys().iter().any(|key| key.contains(&dead.to_string())));
    }
}

#[test]
fn stops_when_it_is_asked_to() {
    let world = world();
    let (before, plan, cancel) = (world.keys(), world.plan(1, NOW), Cancel::default());
    cancel.cancel();
    let err = carry_out(&world.repository, &plan, time(NOW), &Silent, &cancel).unwrap_err();
    assert!(err.is::<Interrupted>());
    assert_eq!(world.keys(), before);
}
