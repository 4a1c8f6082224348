//! H10 and H24: a target, to the transaction and to the microsecond.

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, TimeDelta, Utc};
use common::repo::envelope;
use common::repo::records::BackupRecord;
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

/// A clock that was wrong when a backup ended, and names that come before it: where the target lies in the WAL decides.
#[test]
fn hazard_24_the_wal_chooses_the_backup() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let repo = Repo::new(&sandbox, "repo")?;
    let cluster = Recipe::new("pg").segment_mb(1).archived_to(&repo).start(&sandbox)?;
    cluster.sql("create table t (n int)")?;
    let mut ids = Vec::new();
    let mut times = Vec::new();
    for round in 0..2 {
        ids.push(cluster.backup(&[])?);
        cluster.sql(&format!("insert into t values ({round})"))?;
        times.push(cluster.sql("select clock_timestamp() at time zone 'utc'")?);
        cluster.sql(&format!("select pg_create_restore_point('round {round}')"))?;
        cluster.sql("select pg_create_restore_point('every round')")?;
        cluster.sql("insert into t values (99)")?;
    }
    cluster.switch_wal()?;
    let chosen = |target: &[&str]| -> Result<String> {
        let options = ["--as", "copy", "--port", "5999", "--json"];
        let copy = sandbox.path().join("copy");
        let args = ["check", "--repo", repo.arg()?, "-D", copy.to_str().context("text")?];
        let ran = sandbox.run("recover", &[&args[..], &options, target].concat())?.success()?.json()?;
        Ok(ran.pointer("/plan/backup").and_then(|id| id.as_str()).context("a backup")?.to_owned())
    };
    // Every clock says that all backups ended long after each time, then long before.
    for hours in [1000, -2000] {
        for id in &ids {
            let path = repo.path().join(format!("main/backup/{id}/backup.json"));
            let mut record: BackupRecord = envelope::open(&std::fs::read(&path)?)?;
            record.span.stopped_at += TimeDelta::hours(hours);
            repo.replace(&path, &envelope::seal(&record)?)?;
        }
        for (time, id) in std::iter::zip(&times, &ids) {
            ensure!(chosen(&["--target-time", &format!("{time}+00")])? == *id, "{time} with clocks {hours} hours off");
        }
    }
    for (name, id) in std::iter::zip(["round 0", "round 1"], &ids) {
        ensure!(chosen(&["--target-name", name])? == *id, "{name}");
    }
    // The name that comes in both rounds is told with both places, though the newest backup has only one behind it.
    let refused = super::copy_is_refused(&cluster, "copy", &["--target-name", "every round"], &["occurs 2 times"])?;
    ensure!(refused.stderr.contains("--target-lsn"), "{refused}");
    let copy = cluster.recover_copy("first", &["--target-name", "round 0"])?;
    ensure!(copy.sql("select string_agg(n::text, ' ') from t")? == "0");
    Ok(())
}

/// The transaction that dropped a table comes along unless it is left out; a name that was given twice says nothing.
#[test]
fn hazard_10_just_before_a_drop() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let repo = Repo::new(&sandbox, "repo")?;
    let cluster = Recipe::new("pg").segment_mb(1).archived_to(&repo).start(&sandbox)?;
    cluster.sql("create table t as select 1 as n")?;
    cluster.backup(&[])?;
    cluster.sql("select pg_create_restore_point('before')")?;
    let xid = cluster.sql("begin; select pg_current_xact_id(); drop table t; commit")?;
    cluster.sql("select pg_create_restore_point('before')")?;
    cluster.switch_wal()?;
    let is_there = |name: &str, options: &[&str]| -> Result<bool> {
        let copy = cluster.recover_copy(name, options)?;
        let found = copy.sql("select to_regclass('t') is not null")?;
        copy.stop(StopMode::Immediate)?;
        Ok(found == "t")
    };
    ensure!(!is_there("with", &["--target-xid", &xid])?, "the target itself is left out");
    ensure!(is_there("without", &["--target-xid", &xid, "--target-exclusive"])?, "the drop came along");
    super::copy_is_refused(&cluster, "copy", &["--target-name", "before"], &["occurs 2 times", "--target-lsn"])?;
    let args = ["find", "--repo", repo.arg()?, "-D", cluster.pgdata_arg()?, "-U", "postgres"];
    let told = sandbox.run("recover", &args)?.success()?;
    let command = told.stdout.lines().find(|line| line.contains("recover run")).with_context(|| told.to_string())?;
    ensure!(command.contains("--target-lsn") && command.contains("--target-exclusive"), "{command}");
    Ok(())
}
