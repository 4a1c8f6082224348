//! A recovery that takes what is the same from the old cluster, and leaves that as it was.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use e2e::cluster::Recipe;
use e2e::disk::{self, Disk};
use e2e::{Cluster, Repo, Sandbox, StopMode, process, settings, wait};

use crate::onward::recover;

/// The contents of every relation file below a data directory.
fn relations(pgdata: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let mut files: Vec<_> = e2e::sandbox::walk(&pgdata.join("base"));
    files.sort();
    let name = |path: &Path| path.strip_prefix(pgdata).map(|path| path.display().to_string());
    files.iter().map(|path| Ok((name(path)?, fs::read(path)?))).collect()
}

fn preserved(cluster: &Cluster) -> Result<std::path::PathBuf> {
    let parent = cluster.pgdata().parent().context("a data directory lies somewhere")?;
    let paths: Vec<_> = fs::read_dir(parent)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    paths.into_iter().find(|path| path.display().to_string().contains("pg.before-")).context("the old cluster is aside")
}

/// One table of many changed: little is fetched, and what was taken is neither moved nor shared.
#[test]
fn hazard_09_a_delta_restore_copies_what_a_rollback_needs() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let repo = Repo::new(&sandbox, "repo")?;
    let cluster = Recipe::new("pg").segment_mb(1).archived_to(&repo).start(&sandbox)?;
    cluster.sql("create table quiet as select n, md5(n::text) from generate_series(1, 100000) n")?;
    cluster.sql("create table busy as select n from generate_series(1, 1000) n; vacuum (freeze)")?;
    cluster.backup(&[])?;
    let before = cluster.sql("select pg_current_wal_insert_lsn()")?;
    cluster.sql("update busy set n = -n")?;
    cluster.sql("insert into busy select generate_series(1, 9000)")?;
    cluster.sql("checkpoint")?;

    let options = ["--target-lsn", &before, "--delta", "--json"];
    let json = cluster.try_recover(&options)?.success()?.json()?;
    cluster.wait_promoted()?;
    ensure!(cluster.sql("select count(*), min(n) from busy")? == "1000|1");
    ensure!(cluster.sql("select count(*) from quiet")? == "100000");
    let number = |name: &str| json["extracted"][name].as_u64().with_context(|| format!("{name} in {json:#}"));
    let (all, reused, fetched) = (number("bytes")?, number("reused_bytes")?, number("fetched_bytes")?);
    ensure!(reused > all * 9 / 10, "of {all} bytes {reused} were reused");
    let of_backups = |path: &&std::path::PathBuf| path.display().to_string().contains("/backup/");
    let objects = repo.objects();
    let stored = objects.iter().filter(of_backups).map(|path| Ok(fs::metadata(path)?.len())).sum::<Result<u64>>()?;
    ensure!(fetched > 0 && fetched < stored / 2, "of {stored} stored bytes {fetched} were fetched");

    // The server writes on, and the old cluster does not notice.
    let old = preserved(&cluster)?;
    let files = relations(&old)?;
    for (name, _) in &files {
        if let Ok(metadata) = fs::metadata(cluster.pgdata().join(name)) {
            ensure!(metadata.nlink() == 1, "{name} is the old cluster's own file");
        }
    }
    cluster.sql("update quiet set n = n + 1; checkpoint")?;
    ensure!(relations(&old)? == files, "the preserved cluster has changed");
    recover(&cluster, "rollback", &["--yes"])?.success()?;
    wait::until("the server is back", || Ok(cluster.is_running()))?;
    cluster.wait_promoted()?;
    ensure!(cluster.sql("select count(*) from busy")? == "10000");
    cluster.stop(StopMode::Immediate)
}

/// Where the file system can, what is taken costs no room: its blocks are those of the old cluster's file.
#[test]
fn a_delta_restore_shares_blocks() -> Result<()> {
    if !settings::has_root("a_delta_restore_shares_blocks") {
        return Ok(());
    }
    disk::in_private(|| {
        let sandbox = Sandbox::new()?;
        let disk = Disk::sharing(&sandbox, "disk", 1024)?;
        let repo = Repo::new(&sandbox, "repo")?;
        let cluster = Recipe::new("pg").segment_mb(1).archived_to(&repo).start(&sandbox)?;
        cluster.sql("create table quiet as select n, md5(n::text) from generate_series(1, 100000) n")?;
        cluster.sql("vacuum (freeze) quiet")?;
        cluster.backup(&[])?;
        let node = cluster.sql("select pg_relation_filepath('quiet')")?;
        cluster.stop(StopMode::Fast)?;
        // The same cluster on the disk: what it lies on is no part of what it is.
        let moved = Cluster::at(&sandbox, &disk.path().join("pg"), Some(&repo));
        sandbox.copy(cluster.pgdata(), moved.pgdata())?;
        moved.try_recover(&["--target-latest", "--delta", "--as", "production"])?.success()?;
        moved.wait_promoted()?;
        let extents = process::run(Command::new("filefrag").arg("-v").arg(moved.pgdata().join(node)), "")?.success()?;
        ensure!(extents.stdout.contains("shared"), "no block is shared: {extents}");
        moved.stop(StopMode::Immediate)?;
        drop(disk);
        Ok(())
    })
}
