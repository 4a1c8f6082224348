//! Two timelines: recovered, written to, and recovered again to moments on both.

use anyhow::{Context, Result, ensure};
use e2e::cluster::Recipe;
use e2e::{Oracle, Repo, Sandbox, StopMode, Workload, workload};

#[test]
fn moments_on_two_timelines() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let repo = Repo::new(&sandbox, "repo")?;
    let cluster = Recipe::new("pg").segment_mb(1).archived_to(&repo).start(&sandbox)?;
    let pg_wal = cluster.pgdata().join("pg_wal");
    let write = |orders| -> Result<()> {
        let load = Workload::start(&cluster, 2)?;
        load.wait_for(&cluster, orders)?;
        load.stop().map(drop)?;
        cluster.switch_wal().map(drop)
    };
    workload::create_schema(&cluster)?;
    cluster.backup(&[])?;
    write(100)?;
    let first = Oracle::read(&sandbox, &repo, Some(&pg_wal), 1)?;
    let middle = nth_commit(&first, 50)?;
    cluster.recover(&["--target-lsn", &middle.lsn.to_string()])?;
    ensure!(cluster.timeline()? == 2);
    workload::same_orders(&workload::orders(&cluster)?, &first.at_lsn(middle.lsn, true))?;

    write(100)?;
    let second = Oracle::read(&sandbox, &repo, Some(&pg_wal), 2)?;
    ensure!(second.all() != first.all());
    let on_second = nth_commit(&second, 100)?;
    ensure!(on_second.lsn > middle.lsn);
    let expect = |name: &str, timeline: &str, oracle: &Oracle, commit: &e2e::oracle::Ending| -> Result<()> {
        let options = ["--target-lsn", &commit.lsn.to_string(), "--target-timeline", timeline];
        let copy = cluster.recover_copy(name, &options).with_context(|| name.to_owned())?;
        workload::same_orders(&workload::orders(&copy)?, &oracle.at_lsn(commit.lsn, true)).context(name.to_owned())?;
        copy.stop(StopMode::Immediate)
    };
    expect("second", "2", &second, &on_second)?;
    // Past the fork, on the timeline that was left.
    expect("first", "1", &first, &nth_commit(&first, 90)?)?;

    // Without a timeline the newest is meant, and it is the one that production is on.
    let latest = cluster.recover_copy("latest", &["--target-latest"])?;
    workload::same_orders(&workload::orders(&latest)?, &second.all())?;

    // In place, to the second timeline and then back to the first.
    let lsn = on_second.lsn.to_string();
    cluster.recover(&["--target-lsn", &lsn])?;
    workload::same_orders(&workload::orders(&cluster)?, &second.at_lsn(on_second.lsn, true))?;
    let back = nth_commit(&first, 80)?;
    cluster.recover(&["--target-lsn", &back.lsn.to_string(), "--target-timeline", "1"])?;
    workload::same_orders(&workload::orders(&cluster)?, &first.at_lsn(back.lsn, true))
}

fn nth_commit(oracle: &Oracle, number: usize) -> Result<e2e::oracle::Ending> {
    oracle.commits().get(number).copied().with_context(|| format!("commit number {number}"))
}
