//! A recovery is undone: the preserved cluster is back, and what was abandoned never returns.

use anyhow::{Context, Result, ensure};
use e2e::cluster::Recipe;
use e2e::{Cluster, Oracle, Repo, Sandbox, Workload, wait, workload};

/// Writes orders until `count` more are committed.
fn write(cluster: &Cluster, count: u64) -> Result<()> {
    let load = Workload::start(cluster, 2)?;
    load.wait_for(cluster, count)?;
    load.stop().map(drop)
}

#[test]
fn the_preserved_cluster_comes_back() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let repo = Repo::new(&sandbox, "repo")?;
    let cluster = Recipe::new("pg").segment_mb(1).archived_to(&repo).start(&sandbox)?;
    workload::create_schema(&cluster)?;
    cluster.backup(&[])?;
    write(&cluster, 60)?;
    let before = workload::orders(&cluster)?;
    let oracle = Oracle::read(&sandbox, &repo, Some(&cluster.pgdata().join("pg_wal")), 1)?;
    let commit = oracle.commits().get(30).copied().context("thirty commits")?;

    cluster.recover(&["--target-lsn", &commit.lsn.to_string()])?;
    workload::same_orders(&workload::orders(&cluster)?, &oracle.at_lsn(commit.lsn, true))?;
    // The abandoned life goes as far as the archive.
    write(&cluster, 20)?;
    cluster.switch_wal()?;

    let args = ["rollback", "-D", cluster.pgdata_arg()?, "--repo", repo.arg()?, "-U", "postgres", "--yes"];
    sandbox.run("recover", &args)?.success()?;
    // The server ran before, so it runs again.
    wait::until("the server is back", || Ok(cluster.is_running()))?;
    cluster.wait_promoted()?;
    workload::same_orders(&workload::orders(&cluster)?, &before).context("after the rollback")?;

    // Life goes on, is archived, and is what "latest" means.
    write(&cluster, 20)?;
    cluster.switch_wal()?;
    let now = workload::orders(&cluster)?;
    ensure!(before.is_subset(&now));
    let copy = cluster.recover_copy("copy", &["--target-latest"])?;
    workload::same_orders(&workload::orders(&copy)?, &now).context("the latest after a rollback")
}
