//! What is set aside: whole, startable, and out of reach of whoever comes after it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use common::sys::passing;
use e2e::cluster::Recipe;
use e2e::disk::{Disk, in_private};
use e2e::faults::Rehearsal;
use e2e::layout::Layout;
use e2e::{Cluster, Repo, Sandbox, StopMode, Workload, settings, workload};

/// A directory that is renamed aside still leads, through its links, into what the new cluster writes. So everything
/// moves, and the preserved cluster starts beside the recovered one: each writes, and neither sees the other's.
fn preserved_beside_recovered(layout: Layout) -> Result<()> {
    let sandbox = Sandbox::new()?;
    let repo = Repo::new(&sandbox, "repo")?;
    let laid = layout.build(&sandbox, &repo)?;
    let cluster = &laid.cluster;
    workload::create_schema(cluster)?;
    if let [fast, slow] = &laid.spaces[..] {
        cluster.sql("alter table orders set tablespace fast; create table t (n int) tablespace slow")?;
        cluster.backup(&[])?;
        // One that the backup knows and the cluster does not any more, and one that only the cluster knows.
        cluster.sql("drop table t; drop tablespace slow")?;
        let late = sandbox.folder("late")?;
        cluster.sql(&format!("create tablespace late location '{}'", late.display()))?;
        cluster.sql("alter table order_items set tablespace late")?;
        ensure!(fast != slow);
    } else {
        cluster.backup(&[])?;
    }
    let load = Workload::start(cluster, 1)?;
    load.wait_for(cluster, 20)?;
    load.stop()?;
    let all = workload::orders(cluster)?;
    cluster.recover(&["--target-immediate"])?;
    let recovered = workload::orders(cluster)?;
    ensure!(recovered.is_empty());

    let args = ["status", "--json", "-D", cluster.pgdata_arg()?, "--repo", repo.arg()?];
    let status: serde_json::Value = serde_json::from_str(&sandbox.run("recover", &args)?.success()?.stdout)?;
    let preserved =
        status.pointer("/preserved").and_then(serde_json::Value::as_str).with_context(|| status.to_string())?;
    let old = Cluster::at(&sandbox, preserved.as_ref(), None);
    let lines = [("port", sandbox.new_port().to_string()), ("archive_mode", "off".to_owned())];
    old.configure(&lines.map(|(name, value)| (name.to_owned(), value)))?;
    old.start()?;
    workload::same_orders(&workload::orders(&old)?, &all).context("the preserved cluster")?;
    for (writes, other) in [(&old, cluster), (cluster, &old)] {
        let before = workload::orders(other)?;
        let load = Workload::start(writes, 1)?;
        load.wait_for(writes, 5)?;
        load.stop()?;
        writes.sql("checkpoint")?;
        // From its files, not from its memory.
        other.restart()?;
        workload::same_orders(&workload::orders(other)?, &before)?;
    }
    let all = workload::orders(&old)?;
    old.stop(StopMode::Fast)?;
    let args = ["rollback", "-D", cluster.pgdata_arg()?, "--repo", repo.arg()?, "-U", "postgres", "--yes"];
    sandbox.run("recover", &args)?.success()?;
    let lines = [("archive_mode", "on".to_owned())];
    cluster.configure(&lines.map(|(name, value)| (name.to_owned(), value)))?;
    cluster.restart()?;
    workload::same_orders(&workload::orders(cluster)?, &all).context("after the rollback")
}

#[test]
fn hazard_09_tablespaces_are_set_aside_with_their_cluster() -> Result<()> {
    Layout::Tablespaces.tell(|| preserved_beside_recovered(Layout::Tablespaces))
}

#[test]
fn hazard_09_a_linked_pg_wal_is_set_aside_with_its_cluster() -> Result<()> {
    Layout::LinkedWal.tell(|| preserved_beside_recovered(Layout::LinkedWal))
}

#[test]
fn hazard_09_a_mount_point_is_emptied_into_itself() -> Result<()> {
    Layout::MountPoint.tell(|| preserved_beside_recovered(Layout::MountPoint))
}

/// A data directory and a `pg_wal` whose names begin as that of PostgreSQL's folder in a tablespace are set aside and put
/// back like any other.
fn odd_names(sandbox: &Sandbox, wal: &Path) -> Result<()> {
    let repo = Repo::new(sandbox, "repo")?;
    let cluster = Recipe::new("PG_15").segment_mb(1).archived_to(&repo).wal_dir(wal).start(sandbox)?;
    cluster.sql("create table t as select 1 as n")?;
    cluster.backup(&[])?;
    cluster.recover(&["--target-immediate"])?;
    let args = ["rollback", "-D", cluster.pgdata_arg()?, "--repo", repo.arg()?, "-U", "postgres", "--yes"];
    sandbox.run("recover", &args)?.success()?;
    ensure!(cluster.sql("select n from t")? == "1");
    let beside = fs::read_dir(sandbox.path())?.flatten().map(|entry| entry.path());
    let undone: Vec<_> = beside.filter(|path| path.to_string_lossy().contains("/PG_15.undone-")).collect();
    let [undone] = &undone[..] else { anyhow::bail!("{undone:?}, not one undone cluster") };
    let leads = fs::read_link(undone.join("pg_wal"))?;
    ensure!(leads.is_dir() && leads != wal, "the undone cluster's pg_wal leads to {}", leads.display());
    cluster.stop(StopMode::Immediate)
}

#[test]
fn hazard_09_a_name_like_that_of_a_tablespaces_folder() -> Result<()> {
    let sandbox = Sandbox::new()?;
    sandbox.folder("disk")?;
    odd_names(&sandbox, &sandbox.folder("disk/PG_WAL")?)
}

#[test]
fn hazard_09_a_mount_point_with_such_a_name() -> Result<()> {
    if !settings::has_root("a pg_wal that is a mount point") {
        return Ok(());
    }
    in_private(|| {
        let sandbox = Sandbox::new()?;
        let disk = Disk::new(&sandbox, "PG_WAL", "size=300m")?;
        odd_names(&sandbox, disk.path())
    })
}

/// A link that says `../wal` leads nowhere once the data directory is renamed. A recovery that is killed then goes on,
/// and can be undone.
#[test]
fn hazard_09_a_relative_link_is_read_where_it_lay() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let repo = Repo::new(&sandbox, "repo")?;
    let cluster = Recipe::new("pg").segment_mb(1).archived_to(&repo).start(&sandbox)?;
    cluster.sql("create table t as select 1 as n")?;
    cluster.stop(StopMode::Fast)?;
    let link = cluster.pgdata().join("pg_wal");
    passing::rename(&link, &sandbox.path().join("wal"))?;
    symlink("../wal", &link)?;
    sandbox.account().own(&link)?;
    cluster.start()?;
    cluster.backup(&[])?;
    cluster.sql("insert into t values (2)")?;
    let recover = |command: &str, options: &[&str]| -> Result<Rehearsal> {
        let args = [command, "-D", cluster.pgdata_arg()?, "--repo", repo.arg()?, "-U", "postgres"];
        Ok(Rehearsal::new(&sandbox, "recover", &[&args, options].concat()))
    };
    for (number, pattern) in [(2, "rename to *before-*"), (1, "rename to *pg_wal")] {
        let run = recover("run", &["--yes", "--target-latest", "--target-timeline", "1"])?;
        ensure!(run.killed_at(number, pattern)?.is_some(), "there is no {pattern}");
        recover("run", &["--resume"])?.run()?.success().context(pattern)?;
        cluster.wait_promoted()?;
        ensure!(cluster.sql("select count(*) from t")? == "2");
        recover("rollback", &["--yes"])?.run()?.success().context(pattern)?;
        ensure!(cluster.sql("select count(*) from t")? == "2");
        ensure!(link.canonicalize()? == sandbox.path().canonicalize()?.join("wal"));
    }
    cluster.stop(StopMode::Immediate)
}
