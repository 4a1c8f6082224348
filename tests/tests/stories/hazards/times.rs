//! H24: a target time, to the microsecond.

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, TimeDelta, Utc};
use e2e::cluster::Recipe;
use e2e::oracle::Ending;
use e2e::{Oracle, Repo, Sandbox, StopMode, Workload, workload};

/// A target that is exactly a commit's own time includes it; exclusively, it does not.
#[test]
fn hazard_24_a_target_that_is_a_commits_own_time() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let repo = Repo::new(&sandbox, "repo")?;
    let cluster = Recipe::new("pg").segment_mb(1).archived_to(&repo).start(&sandbox)?;
    workload::create_schema(&cluster)?;
    cluster.backup(&[])?;
    // One session alone: its commits are in the order of their times.
    let load = Workload::start(&cluster, 1)?;
    load.wait_for(&cluster, 40)?;
    load.stop()?;
    cluster.switch_wal()?;
    let oracle = Oracle::read(&sandbox, &repo, None, 1)?;
    let commits = oracle.commits();
    ensure!(commits.is_sorted_by(|a, b| a.time < b.time), "one session's commits");
    let commit = *commits.get(20).context("forty commits")?;
    let reported: String = cluster.sql(&format!(
        "select to_char(pg_xact_commit_timestamp('{}'::xid) at time zone 'utc', 'YYYY-MM-DD HH24:MI:SS.US')",
        commit.xid
    ))?;
    let text = |time: DateTime<Utc>| time.format("%Y-%m-%d %H:%M:%S%.6f").to_string();
    ensure!(reported == text(commit.time), "the oracle's time {} is not the server's {reported}", commit.time);

    let expect = |name: &str, time: DateTime<Utc>, more: &[&str], is_in: bool| -> Result<()> {
        let time = text(time) + "+00";
        let copy = cluster.recover_copy(name, &[&["--target-time", &time], more].concat())?;
        let expected = commits.iter().filter(|other| is_before(other, &commit, is_in)).map(|other| other.xid);
        workload::same_orders(&workload::orders(&copy)?, &expected.collect()).with_context(|| name.to_owned())?;
        copy.stop(StopMode::Immediate)
    };
    let tick = TimeDelta::microseconds(1);
    expect("exact", commit.time, &[], true)?;
    expect("exclusive", commit.time, &["--target-exclusive"], false)?;
    expect("before", commit.time - tick, &[], false)?;
    expect("after", commit.time + tick, &[], true)?;
    // The same moment by another clock.
    let elsewhere = (commit.time + TimeDelta::hours(5) + TimeDelta::minutes(30)).format("%Y-%m-%d %H:%M:%S%.6f+05:30");
    let copy = cluster.recover_copy("zone", &["--target-time", &elsewhere.to_string()])?;
    workload::same_orders(&workload::orders(&copy)?, &oracle.at_time(commit.time))
}

fn is_before(other: &Ending, commit: &Ending, is_in: bool) -> bool {
    other.lsn < commit.lsn || (is_in && other.lsn == commit.lsn)
}
