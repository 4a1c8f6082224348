//! H6: the last committed rows lie only in the server's own `pg_wal`.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use e2e::cluster::Recipe;
use e2e::repository::fingerprint;
use e2e::{Cluster, Oracle, Repo, Sandbox, Workload, workload};

use super::{future_copy, unchanged};

fn scene(sandbox: &Sandbox) -> Result<(Cluster, Workload)> {
    let repo = Repo::new(sandbox, "repo")?;
    let cluster = Recipe::new("pg").segment_mb(1).archived_to(&repo).start(sandbox)?;
    workload::create_schema(&cluster)?;
    let load = Workload::start(&cluster, 2)?;
    cluster.backup(&[])?;
    load.wait_for(&cluster, 30)?;
    cluster.switch_wal()?;
    Ok((cluster, load))
}

/// The archive dies: whole segments and the last, half-written one are nowhere else.
fn let_the_archive_die(cluster: &Cluster, load: &Workload) -> Result<()> {
    cluster.set("archive_command", "/bin/false")?;
    load.wait_for(cluster, 20)?;
    cluster.end_segment()?;
    load.wait_for(cluster, 20)
}

/// Several segments, each with a row of the table "late"; answers how many rows it wrote.
fn write_segments(cluster: &Cluster) -> Result<u32> {
    const COUNT: u32 = 6;
    for n in 0..COUNT {
        cluster.sql(&format!("insert into late values ({n})"))?;
        cluster.end_segment()?;
    }
    cluster.sql("insert into late values (-1)")?;
    Ok(COUNT + 1)
}

fn has_all(copy: &Cluster, acknowledged: &BTreeSet<u64>) -> Result<()> {
    let found = workload::orders(copy)?;
    let lost: Vec<_> = acknowledged.difference(&found).collect();
    ensure!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    Ok(())
}

/// A configuration file with which nobody waits long for an archive.
fn impatient(sandbox: &Sandbox) -> Result<String> {
    let config = sandbox.path().join("impatient.toml");
    sandbox.write(&config, b"[backup]\narchive-timeout = \"2s\"\n")?;
    Ok(config.to_str().context("text")?.to_owned())
}

/// Killed with a dead archive; a copy has every committed row, and what was killed stays as it lies.
#[test]
fn hazard_06_killed_with_a_dead_archive() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let (cluster, load) = scene(&sandbox)?;
    let_the_archive_die(&cluster, &load)?;
    cluster.kill9()?;
    let acknowledged = load.stop()?;
    let before = fingerprint(cluster.pgdata())?;
    let oracle = Oracle::read(&sandbox, cluster.repo()?, Some(&cluster.pgdata().join("pg_wal")), 1)?;
    let copy = cluster.recover_copy("copy", &["--target-latest"])?;
    has_all(&copy, &acknowledged)?;
    workload::same_orders(&workload::orders(&copy)?, &oracle.all())?;
    unchanged(&before, &fingerprint(cluster.pgdata())?)
}

/// Killed right after a segment was ended, nothing in the next one but a header, or not even that.
#[test]
fn hazard_06_killed_at_the_end_of_a_segment() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let (cluster, load) = scene(&sandbox)?;
    let_the_archive_die(&cluster, &load)?;
    let acknowledged = load.stop()?;
    cluster.end_segment()?;
    cluster.kill9()?;
    cluster.recover(&["--target-latest"])?;
    has_all(&cluster, &acknowledged)
}

/// A copy made while the server lives sees the last commit, without waiting for a segment to fill.
#[test]
fn hazard_06_a_copy_of_a_living_server() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let (cluster, load) = scene(&sandbox)?;
    let acknowledged = load.stop()?;
    cluster.sql("create table last as select 1 as n")?;
    let server = cluster.pid()?;
    let copy = cluster.recover_copy("copy", &["--target-latest"])?;
    has_all(&copy, &acknowledged)?;
    ensure!(copy.sql("select n from last")? == "1");
    ensure!(cluster.pid()? == server && cluster.is_running(), "a copy must not touch the server");
    Ok(())
}

/// The same while its archive is dead: the wait is bounded, and the live `pg_wal` counts.
#[test]
fn hazard_06_a_copy_of_a_living_server_with_a_dead_archive() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let (cluster, load) = scene(&sandbox)?;
    let_the_archive_die(&cluster, &load)?;
    let acknowledged = load.stop()?;
    cluster.sql("create table last as select 1 as n")?;
    let config = impatient(&sandbox)?;
    let copy = future_copy(&cluster, "copy")?;
    let port = sandbox.new_port().to_string();
    copy.try_recover(&["--as", "copy", "--port", &port, "--target-latest", "--config", &config])?.success()?;
    copy.wait_promoted()?;
    has_all(&copy, &acknowledged)?;
    ensure!(copy.sql("select n from last")? == "1" && cluster.is_running());
    Ok(())
}

/// An archiver that says yes and keeps nothing: the last checkpoint before a stop takes away what only `pg_wal` had.
#[test]
fn hazard_06_a_stop_takes_no_wal_away() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let (cluster, load) = scene(&sandbox)?;
    let acknowledged = load.stop()?;
    cluster.set("archive_command", "/bin/true")?;
    cluster.sql("create table late (n int)")?;
    let count = write_segments(&cluster)?;
    cluster.recover(&["--target-latest", "--config", &impatient(&sandbox)?])?;
    has_all(&cluster, &acknowledged)?;
    ensure!(cluster.ask::<u32>("select count(*) from late")? == count, "rows are lost");
    Ok(())
}

/// No archiver at all. What was kept beside the data directory also serves a recovery after a rollback, until it is
/// cleaned up.
#[test]
fn hazard_06_what_a_stop_takes_away_is_there_after_a_rollback() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let (cluster, load) = scene(&sandbox)?;
    load.stop()?;
    cluster.sql("alter system set archive_mode = off")?;
    cluster.restart()?;
    cluster.sql("create table late (n int)")?;
    let count = write_segments(&cluster)?;
    let lsn = cluster.sql("select pg_current_wal_insert_lsn()")?;
    cluster.sql("drop table late")?;
    cluster.sql("create table late (n int)")?;
    write_segments(&cluster)?;
    cluster.sql("drop table late")?;
    let place = ["-D", cluster.pgdata_arg()?, "--repo", cluster.repo()?.arg()?, "-U", "postgres", "--yes"];
    let recover = |words: &[&str]| sandbox.run("recover", &[words, &place].concat())?.success();
    let comes_back = || {
        recover(&["run", "--target-lsn", &lsn, "--config", &impatient(&sandbox)?])?;
        ensure!(cluster.ask::<u32>("select count(*) from late")? == count, "rows are lost");
        Ok(())
    };
    comes_back()?;
    recover(&["rollback"])?;
    ensure!(cluster.sql("select to_regclass('late') is null")? == "t");
    comes_back()?;
    let tail = cluster.pgdata().with_extension("holdfast").join("tail");
    ensure!(tail.exists());
    recover(&["cleanup"])?;
    ensure!(!tail.exists(), "what is cleaned up is gone");
    Ok(())
}

/// On another disk nothing can be linked: what waits there for a dead archive is left to its server, however much it is.
#[test]
fn hazard_06_waiting_wal_on_another_disk_is_not_copied() -> Result<()> {
    let (sandbox, memory) = (Sandbox::new()?, Sandbox::in_memory()?);
    let repo = Repo::new(&sandbox, "repo")?;
    let wal = memory.folder("wal")?;
    let cluster = Recipe::new("pg").segment_mb(1).wal_dir(&wal).archived_to(&repo).start(&sandbox)?;
    cluster.sql("create table late (n int)")?;
    cluster.backup(&[])?;
    cluster.set("archive_command", "/bin/false")?;
    let count = (0..4).map(|_| write_segments(&cluster)).sum::<Result<u32>>()?;
    ensure!(cluster.waiting_to_be_archived()?.len() > 16);
    let place = ["-D", cluster.pgdata_arg()?, "--repo", repo.arg()?, "-U", "postgres", "--yes"];
    let options = ["run", "--target-latest", "--config", &impatient(&sandbox)?];
    sandbox.run("recover", &[&options, &place[..]].concat())?.success()?;
    ensure!(cluster.ask::<u32>("select count(*) from late")? == count, "rows are lost");
    let kept = std::fs::read_dir(cluster.pgdata().with_extension("holdfast").join("tail"))?.count();
    ensure!(kept <= 2, "{kept} files are kept");
    Ok(())
}
