//! The server is killed while its archive is dead: its last committed rows lie in its own `pg_wal` alone.

use anyhow::{Result, ensure};
use e2e::cluster::Recipe;
use e2e::{Cluster, Oracle, Repo, Sandbox, Workload, workload};

/// A cluster killed in the middle of its work, and every order whose commit it had acknowledged.
fn killed(sandbox: &Sandbox, repo: &Repo) -> Result<(Cluster, std::collections::BTreeSet<u64>)> {
    let cluster = Recipe::new("pg").segment_mb(1).archived_to(repo).start(sandbox)?;
    workload::create_schema(&cluster)?;
    let load = Workload::start(&cluster, 2)?;
    cluster.backup(&[])?;
    load.wait_for(&cluster, 50)?;
    cluster.switch_wal()?;
    cluster.set("archive_command", "/bin/false")?;
    // Whole segments that no repository has, and one that is not full.
    for _ in 0..3 {
        load.wait_for(&cluster, 20)?;
        cluster.end_segment()?;
    }
    load.wait_for(&cluster, 20)?;
    cluster.kill9()?;
    let acknowledged = load.stop()?;
    Ok((cluster, acknowledged))
}

#[test]
fn every_committed_row_comes_back() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let repo = Repo::new(&sandbox, "repo")?;
    let (cluster, acknowledged) = killed(&sandbox, &repo)?;
    let oracle = Oracle::read(&sandbox, &repo, Some(&cluster.pgdata().join("pg_wal")), 1)?;
    cluster.recover(&["--target-latest"])?;
    let found = workload::orders(&cluster)?;
    let lost: Vec<_> = acknowledged.difference(&found).collect();
    ensure!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    workload::same_orders(&found, &oracle.all())
}

/// A moment seconds before the crash, past the last archived segment.
#[test]
fn a_moment_in_the_tail_can_be_reached() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let repo = Repo::new(&sandbox, "repo")?;
    let (cluster, _) = killed(&sandbox, &repo)?;
    let oracle = Oracle::read(&sandbox, &repo, Some(&cluster.pgdata().join("pg_wal")), 1)?;
    let commits = oracle.commits();
    let commit = commits.get(commits.len().saturating_sub(5));
    let commit = *anyhow::Context::context(commit, "a commit in the tail")?;
    cluster.recover(&["--target-lsn", &commit.lsn.to_string()])?;
    workload::same_orders(&workload::orders(&cluster)?, &oracle.at_lsn(commit.lsn, true))
}

/// A running server is asked for what it has not archived yet, before it is stopped.
#[test]
fn a_running_server_gives_its_last_segment() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let repo = Repo::new(&sandbox, "repo")?;
    let cluster = Recipe::new("pg").archived_to(&repo).start(&sandbox)?;
    workload::create_schema(&cluster)?;
    cluster.backup(&[])?;
    let load = Workload::start(&cluster, 2)?;
    load.wait_for(&cluster, 50)?;
    load.stop()?;
    let before = workload::orders(&cluster)?;
    cluster.recover(&["--target-latest"])?;
    workload::same_orders(&workload::orders(&cluster)?, &before)
}
