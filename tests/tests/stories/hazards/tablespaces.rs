//! H1: the WAL names tablespaces by absolute paths, and a copy that replays it must never write into production's.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use e2e::cluster::Recipe;
use e2e::repository::fingerprint;
use e2e::{Cluster, Repo, Sandbox, StopMode, wait};

use super::{copy_is_refused, unchanged};

/// A cluster with 5,000 rows in a tablespace, a backup of it, and 1,000 more rows that are archived.
fn scene(sandbox: &Sandbox) -> Result<(Cluster, PathBuf)> {
    let repo = Repo::new(sandbox, "repo")?;
    let cluster = Recipe::new("pg").segment_mb(1).archived_to(&repo).start(sandbox)?;
    let space = make_tablespace(&cluster, "fast")?;
    cluster.sql("create table t tablespace fast as select generate_series(1, 5000) as n")?;
    cluster.backup(&[])?;
    cluster.sql("insert into t select generate_series(1, 1000)")?;
    settle(&cluster)?;
    Ok((cluster, space))
}

fn make_tablespace(cluster: &Cluster, name: &str) -> Result<PathBuf> {
    let location = cluster.sandbox().folder(&format!("space_{name}"))?;
    cluster.sql(&format!("create tablespace {name} location '{}'", location.display()))?;
    Ok(location)
}

/// All pages are on disk, with their hint bits; from here on only somebody else changes the files.
fn settle(cluster: &Cluster) -> Result<()> {
    cluster.sql("vacuum freeze")?;
    cluster.sql("checkpoint")?;
    cluster.switch_wal().map(drop)
}

#[test]
fn hazard_01_a_copy_without_a_mapping_touches_nothing() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let (cluster, space) = scene(&sandbox)?;
    let before = fingerprint(&space)?;
    copy_is_refused(&cluster, "copy", &["--target-latest"], &["fast", "-T"])?;
    // Mapped onto itself is not mapped.
    let itself = format!("{0}={0}", space.display());
    copy_is_refused(&cluster, "copy", &["--target-latest", "-T", &itself], &["fast"])?;
    unchanged(&before, &fingerprint(&space)?)?;
    ensure!(cluster.sql("select count(*) from t")? == "6000");
    Ok(())
}

#[test]
fn hazard_01_a_copy_that_writes_leaves_production_alone() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let (cluster, space) = scene(&sandbox)?;
    let before = fingerprint(&space)?;
    let mapping = format!("{}={}", space.display(), sandbox.path().join("copied").display());
    let copy = cluster.recover_copy("copy", &["--target-latest", "-T", &mapping])?;
    ensure!(copy.sql("select count(*) from t")? == "6000");
    copy.sql("update t set n = -n; create table u tablespace fast as select * from t; vacuum t; checkpoint")?;
    copy.restart()?;
    copy.sql("drop table t; checkpoint")?;
    copy.stop(StopMode::Fast)?;
    unchanged(&before, &fingerprint(&space)?)?;
    // What production has in memory and what it has on disk are the same.
    ensure!(cluster.sql("select count(*) from t where n > 0")? == "6000");
    cluster.restart()?;
    ensure!(cluster.sql("select count(*) from t where n > 0")? == "6000");
    Ok(())
}

/// The backup knows nothing of a tablespace that was created after it; the WAL does, by production's path.
#[test]
fn hazard_01_a_tablespace_made_after_the_backup() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let (cluster, space) = scene(&sandbox)?;
    let mapping = format!("{}={}", space.display(), sandbox.path().join("copied").display());
    let earlier: String = cluster.sql("select pg_current_wal_insert_lsn()")?;
    cluster.sql("insert into t select generate_series(1, 500)")?;
    let late = make_tablespace(&cluster, "late")?;
    cluster.sql("create table v tablespace late as select generate_series(1, 3000) as n")?;
    settle(&cluster)?;
    let before = fingerprint(&late)?;
    ensure!(!before.is_empty());
    let late_arg = late.display().to_string();
    copy_is_refused(&cluster, "copy", &["--target-latest", "-T", &mapping], &[&late_arg])?;
    unchanged(&before, &fingerprint(&late)?)?;

    // Up to a moment before it was created there is nothing to share.
    let copy = cluster.recover_copy("earlier", &["--target-lsn", &earlier, "-T", &mapping])?;
    ensure!(copy.sql("select count(*) from t")? == "6000");
    copy.stop(StopMode::Fast)?;
    unchanged(&before, &fingerprint(&late)?)?;
    ensure!(cluster.sql("select count(*) from v")? == "3000");
    Ok(())
}

/// It was dropped again, and nothing of production's lies there. What a recovery to a moment in between has made goes
/// aside with a rollback, and the same recovery finds its place free.
#[test]
fn hazard_01_in_place_a_tablespace_that_was_there_for_a_while() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let (cluster, _) = scene(&sandbox)?;
    make_tablespace(&cluster, "late")?;
    cluster.sql("create table v tablespace late as select generate_series(1, 3000) as n")?;
    let lsn = cluster.sql("select pg_current_wal_insert_lsn()")?;
    cluster.sql("drop table v")?;
    cluster.sql("drop tablespace late")?;
    settle(&cluster)?;
    let args = ["rollback", "-D", cluster.pgdata_arg()?, "--repo", cluster.repo()?.arg()?, "-U", "postgres", "--yes"];
    for _ in 0..2 {
        cluster.recover(&["--target-lsn", &lsn])?;
        ensure!(cluster.sql("select count(*) from v")? == "3000");
        sandbox.run("recover", &args)?.success()?;
        ensure!(cluster.sql("select to_regclass('v') is null")? == "t");
    }
    Ok(())
}

/// In place it is production's own: replay creates it again, and the preserved cluster keeps its files.
#[test]
fn hazard_01_in_place_a_tablespace_made_after_the_backup() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let (cluster, _) = scene(&sandbox)?;
    make_tablespace(&cluster, "late")?;
    cluster.sql("create table v tablespace late as select generate_series(1, 3000) as n")?;
    settle(&cluster)?;
    cluster.recover(&["--target-latest"]).context("recover")?;
    ensure!(cluster.sql("select (select count(*) from t) || ' ' || (select count(*) from v)")? == "6000 3000");
    cluster.sql("drop table v; delete from t; checkpoint")?;
    let args = ["rollback", "-D", cluster.pgdata_arg()?, "--repo", cluster.repo()?.arg()?, "-U", "postgres", "--yes"];
    let ran = sandbox.run("recover", &args)?.success()?;
    wait::until("the server is back", || Ok(cluster.is_running())).with_context(|| ran.to_string())?;
    cluster.wait_promoted().with_context(|| ran.to_string())?;
    ensure!(cluster.sql("select (select count(*) from t) || ' ' || (select count(*) from v)")? == "6000 3000");
    Ok(())
}
