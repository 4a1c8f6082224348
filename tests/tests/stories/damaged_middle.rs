//! A whole recovery with a damaged segment, or a hole, in the middle of its WAL.

use anyhow::{Context, Result, ensure};
use e2e::cluster::{Recipe, StopMode};
use e2e::{Cluster, Repo, Sandbox, wait};

use super::recover_refusals::told_lsn;

/// A cluster with a backup and six batches of rows after it, a segment each.
pub(crate) fn six_batches(sandbox: &Sandbox) -> Result<(Cluster, Repo, Vec<String>)> {
    let repo = Repo::new(sandbox, "repo")?;
    let cluster = Recipe::new("pg").segment_mb(1).archived_to(&repo).start(sandbox)?;
    cluster.sql("create table t (batch int, n int)")?;
    cluster.backup(&[])?;
    let mut segments = Vec::new();
    for batch in 1..=6 {
        cluster.sql(&format!("insert into t select {batch}, generate_series(1, 2000)"))?;
        segments.push(cluster.switch_wal()?);
    }
    Ok((cluster, repo, segments))
}

#[test]
fn the_recovered_server_stays_down() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let (cluster, repo, segments) = six_batches(&sandbox)?;
    let middle = segments.get(2).context("six segments")?;
    let object = repo.wal(middle)?;
    let sound = std::fs::read(&object)?;
    let rows = cluster.sql("select count(*) from t")?;
    // A copy that is complete but for its replay; nobody watches that.
    let alone = Cluster::at(&sandbox, &sandbox.path().join("alone"), Some(&repo));
    let port = sandbox.new_port().to_string();
    alone.try_recover(&["--as", "copy", "--port", &port, "--target-latest", "--no-start"])?.success()?;
    repo.flip(&object, sound.len() / 2)?;

    // Reading the WAL of a copy finds the damage before anything is made.
    let copy = Cluster::at(&sandbox, &sandbox.path().join("copy"), Some(&repo));
    let ran = copy.try_recover(&["--as", "copy", "--port", "5999", "--target-latest"])?;
    ensure!(ran.code != Some(0), "recovery over a damaged segment: {ran}");
    ran.says(&[middle])?;
    ensure!(!copy.pgdata().exists(), "a refused recovery made {}", copy.pgdata().display());

    // In place it is refused too: the server runs on, and nothing was touched.
    let ran = cluster.try_recover(&["--target-latest"])?;
    ensure!(ran.code != Some(0), "recovery over a damaged segment: {ran}");
    ran.says(&[middle])?;
    ensure!(cluster.is_running(), "the server was stopped for a recovery that cannot succeed");

    alone.start_or_end()?;
    wait::until("the server stops at the damaged segment", || {
        let promoted = alone.try_sql("select pg_is_in_recovery()").is_ok_and(|ran| ran.stdout.trim() == "f");
        ensure!(!promoted, "PostgreSQL promoted itself over a damaged segment");
        Ok(!alone.is_running())
    })?;
    ensure!(alone.log().contains(middle), "the log does not name {middle}:\n{}", alone.log());

    // Mended, the same directory recovers: nothing was promoted.
    repo.replace(&object, &sound)?;
    alone.start()?;
    alone.wait_promoted()?;
    ensure!(alone.sql("select count(*) from t")? == rows && cluster.sql("select count(*) from t")? == rows);
    Ok(())
}

#[test]
fn a_hole_is_refused_before_anything_is_touched() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let (cluster, repo, segments) = six_batches(&sandbox)?;
    let middle = segments.get(2).context("six segments")?;
    // The server's own copy would fill the hole.
    cluster.stop(StopMode::Fast)?;
    let own = cluster.pgdata().join("pg_wal").join(middle);
    if own.exists() {
        std::fs::remove_file(own)?;
    }
    repo.remove(&repo.wal(middle)?)?;
    let copy = Cluster::at(&sandbox, &sandbox.path().join("copy"), Some(&repo));
    let port = sandbox.new_port().to_string();
    let ran = copy.try_recover(&["--as", "copy", "--port", &port, "--target-latest"])?;
    ensure!(ran.code != Some(0), "recovery over a hole: {ran}");
    let ran = ran.says(&[middle])?;
    ensure!(!copy.pgdata().exists(), "a refused recovery made {}", copy.pgdata().display());

    // The way that the refusals tell is one: the last commit before the hole, not the end of the segment before it, which a
    // switch has ended, nor that commit's time. The end of all WAL is none.
    let lsn = told_lsn(&ran)?.to_owned();
    let ran = copy.try_recover(&["--as", "copy", "--port", &port, "--target-time", "2099-01-01 00:00:00+00"])?;
    let ran = ran.expect_code(20)?.says(&[middle])?;
    ensure!(told_lsn(&ran)? == lsn && !ran.stderr.contains("--target-latest"), "{ran}");
    copy.recover(&["--as", "copy", "--port", &port, "--target-lsn", &lsn])?;
    ensure!(copy.sql("select count(*) from t")? == "4000", "not the last commit before the hole");
    copy.stop(StopMode::Immediate)
}
