//! H3: PostgreSQL reads ahead, past the target. WAL behind the target is not needed; WAL before it is.

use std::fs;

use anyhow::{Context, Result, ensure};
use e2e::cluster::Recipe;
use e2e::{Cluster, Repo, Sandbox, StopMode};

use super::copy_is_refused;
use crate::damaged_middle::six_batches;

/// The server is gone, and with it the segments that only it had.
fn lose_the_server(cluster: &Cluster) -> Result<()> {
    cluster.stop(StopMode::Fast)?;
    for file in e2e::sandbox::walk(&cluster.pgdata().join("pg_wal")) {
        fs::remove_file(file)?;
    }
    Ok(())
}

/// A cluster that is lost: a row, `midday` and a row in the middle of the archived segments, whose names these are.
fn scene(sandbox: &Sandbox) -> Result<(Cluster, Repo, Vec<String>, [String; 2])> {
    let repo = Repo::new(sandbox, "repo")?;
    let cluster = Recipe::new("pg").segment_mb(1).archived_to(&repo).start(sandbox)?;
    cluster.sql("create table t (batch int, n int)")?;
    cluster.backup(&[])?;
    let (mut segments, mut midday) = (Vec::new(), None);
    for batch in 1..=6 {
        cluster.sql(&format!("insert into t select {batch}, generate_series(1, 2000)"))?;
        if batch == 3 {
            cluster.sql("select pg_create_restore_point('midday')")?;
            let ask = |what: &str| cluster.sql(&format!("select {what}"));
            midday = Some([ask("pg_current_wal_insert_lsn()")?, ask("clock_timestamp()")?]);
            cluster.sql("insert into t values (0, 0)")?;
        }
        segments.push(cluster.switch_wal()?);
    }
    lose_the_server(&cluster)?;
    Ok((cluster, repo, segments, midday.context("midday")?))
}

#[test]
fn hazard_03_a_hole_behind_the_target_does_not_matter() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let (cluster, repo, segments, [lsn, time]) = scene(&sandbox)?;
    // The segment after the target's is gone, the one after that is damaged.
    repo.remove(&repo.wal(segments.get(3).context("six segments")?)?)?;
    let damaged = repo.wal(segments.get(4).context("six segments")?)?;
    repo.flip(&damaged, fs::read(&damaged)?.len() / 2)?;
    for (name, target) in
        [("lsn", ["--target-lsn", &lsn]), ("time", ["--target-time", &time]), ("name", ["--target-name", "midday"])]
    {
        let copy = cluster.recover_copy(name, &target).with_context(|| name.to_owned())?;
        let found = copy.sql("select count(*) || ' ' || min(batch) || ' ' || max(batch) from t")?;
        ensure!(found == "6000 1 3", "by {name}: {found}");
        copy.stop(StopMode::Immediate)?;
    }
    // "The latest" is behind the hole.
    copy_is_refused(&cluster, "latest", &["--target-latest"], &[segments.get(3).context("six segments")?])?;
    Ok(())
}

#[test]
fn hazard_03_a_hole_before_the_target_does() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let (cluster, repo, segments, [lsn, time]) = scene(&sandbox)?;
    let hole = segments.get(1).context("six segments")?;
    repo.remove(&repo.wal(hole)?)?;
    for target in [["--target-lsn", &lsn], ["--target-time", &time], ["--target-name", "midday"]] {
        copy_is_refused(&cluster, "copy", &target, &[hole])?;
    }
    Ok(())
}

/// The plan alone decides: the same hole, the same server, and PostgreSQL without `recover` watching.
#[test]
fn hazard_03_restore_wal_follows_the_plan() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let (cluster, repo, segments) = six_batches(&sandbox)?;
    let lsn = cluster.sql("select pg_current_wal_insert_lsn()")?;
    cluster.sql("insert into t values (0, 0)")?;
    let last = cluster.switch_wal()?;
    cluster.sql("insert into t values (0, 0)")?;
    let further = cluster.switch_wal()?;
    lose_the_server(&cluster)?;

    let copy = Cluster::at(&sandbox, &sandbox.path().join("copy"), Some(&repo));
    let options = ["--as", "copy", "--port", "5999", "--target-lsn", &lsn, "--no-start"];
    copy.try_recover(&options)?.success()?;
    let plan = sandbox.path().join("copy.holdfast/wal-plan.json");
    ensure!(plan.exists(), "no plan at {}", plan.display());
    let fetch = |name: &str, plan: &[&str]| {
        let args = [&["--repo", repo.arg()?], plan, &[name, "pg_wal/RECOVERYXLOG"]].concat();
        sandbox.run_in(copy.pgdata(), "restore-wal", &args)
    };
    let planned = ["--plan", plan.to_str().context("text")?];
    let first = segments.first().context("six segments")?;
    for (name, needed) in [(first, true), (&last, true), (&further, false)] {
        let object = repo.wal(name)?;
        let sound = fs::read(&object)?;
        repo.flip(&object, sound.len() / 2)?;
        fetch(name, &[])?.stops_recovery()?;
        let ran = fetch(name, &planned)?;
        if needed {
            ran.stops_recovery()?
        } else {
            ran.expect_code(1)?
        };
        repo.replace(&object, &sound)?;
    }
    Ok(())
}
