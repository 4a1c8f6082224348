//! Every kind of target, to the transaction.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use common::pg::Lsn;
use e2e::cluster::Recipe;
use e2e::{Cluster, Oracle, Repo, Sandbox, StopMode, Workload, workload};

struct Scene {
    repo: Repo,
    cluster: Cluster,
    oracle: Oracle,
    /// The orders that were committed before the backup began, and when it was done.
    backup: (BTreeSet<u64>, BTreeSet<u64>),
    /// Where the restore point `midday` ends.
    midday: Lsn,
}

impl Scene {
    fn new() -> Result<Self> {
        let sandbox = Sandbox::new()?;
        let repo = Repo::new(&sandbox, "repo")?;
        let cluster = Recipe::new("pg").segment_mb(1).archived_to(&repo).start(&sandbox)?;
        workload::create_schema(&cluster)?;
        let load = Workload::start(&cluster, 2)?;
        load.wait_for(&cluster, 50)?;
        let before = workload::orders(&cluster)?;
        cluster.backup(&[])?;
        let after = workload::orders(&cluster)?;
        load.wait_for(&cluster, 50)?;
        let midday = cluster.ask("select pg_create_restore_point('midday')")?;
        load.wait_for(&cluster, 50)?;
        load.stop()?;
        cluster.switch_wal()?;
        let oracle = Oracle::read(&sandbox, &repo, Some(&cluster.pgdata().join("pg_wal")), 1)?;
        Ok(Self { repo, cluster, oracle, backup: (before, after), midday })
    }

    /// The orders of a copy recovered with these options.
    fn recover(&self, name: &str, options: &[&str]) -> Result<BTreeSet<u64>> {
        let copy = self.cluster.recover_copy(name, options).with_context(|| name.to_owned())?;
        let found = workload::orders(&copy)?;
        copy.stop(StopMode::Immediate)?;
        Ok(found)
    }

    fn expect(&self, name: &str, options: &[&str], expected: &BTreeSet<u64>) -> Result<()> {
        workload::same_orders(&self.recover(name, options)?, expected).with_context(|| name.to_owned())
    }
}

#[test]
fn positions_and_transactions_with_and_without_the_last_one() -> Result<()> {
    let scene = Scene::new()?;
    let commits = scene.oracle.commits();
    let commit = commits.get(commits.len() - 40).context("a commit after the backup")?;
    let (lsn, xid) = (commit.lsn.to_string(), commit.xid.to_string());
    let (with, without) = (scene.oracle.at_lsn(commit.lsn, true), scene.oracle.at_lsn(commit.lsn, false));
    ensure!(with.len() == without.len() + 1);
    scene.expect("lsn", &["--target-lsn", &lsn], &with)?;
    scene.expect("lsnex", &["--target-lsn", &lsn, "--target-exclusive"], &without)?;
    scene.expect("xid", &["--target-xid", &xid], &with)?;
    scene.expect("xidex", &["--target-xid", &xid, "--target-exclusive"], &without)
}

#[test]
fn a_name_the_end_of_the_backup_and_the_latest() -> Result<()> {
    let scene = Scene::new()?;
    scene.expect("name", &["--target-name", "midday"], &scene.oracle.at_lsn(scene.midday, false))?;
    scene.expect("latest", &["--target-latest"], &scene.oracle.all())?;

    let found = scene.recover("immediate", &["--target-immediate"])?;
    let (before, after) = &scene.backup;
    ensure!(before.is_subset(&found), "orders committed before the backup began are missing");
    ensure!(found.is_subset(after), "orders committed after the backup was done");
    let first: BTreeSet<u64> = scene.oracle.commits().iter().take(found.len()).map(|commit| commit.xid).collect();
    workload::same_orders(&found, &first).context("the orders are not the first ones committed")
}

/// What can't be reached never succeeds; what the plan alone can tell is refused before a file is made.
#[test]
fn an_impossible_target_is_no_success() -> Result<()> {
    let scene = Scene::new()?;
    let before = scene.repo.fingerprint()?;
    for (number, (target, told_by_the_plan)) in [
        (["--target-lsn", "FF/0"], true),
        (["--target-time", "2001-01-01 00:00:00+00"], true),
        (["--target-timeline", "7"], true),
        (["--backup", "backup_20010101_000000"], true),
        (["--target-time", "2099-01-01 00:00:00+00"], false),
        (["--target-xid", "4000000"], false),
        (["--target-name", "midnight"], false),
    ]
    .iter()
    .enumerate()
    {
        let pgdata = scene.cluster.sandbox().path().join(format!("never{number}"));
        let copy = Cluster::at(scene.cluster.sandbox(), &pgdata, Some(&scene.repo));
        let ran = copy.try_recover(&[&["--as", "copy", "--port", "5999"], &target[..]].concat())?;
        ensure!(ran.code.is_some_and(|code| code != 0), "{target:?}: {ran}");
        ensure!(!(*told_by_the_plan && pgdata.exists()), "{target:?} made {}: {ran}", pgdata.display());
        ensure!(!copy.is_running(), "{target:?}: a server runs on {}", pgdata.display());
    }
    ensure!(scene.cluster.is_running());
    ensure!(scene.repo.fingerprint()? == before, "a refused recovery changed the repository");
    Ok(())
}

/// A dry run prints the plan and does nothing.
#[test]
fn a_dry_run_touches_nothing() -> Result<()> {
    let scene = Scene::new()?;
    let server = scene.cluster.pid()?;
    let ran = scene.cluster.try_recover(&["--target-latest", "--dry-run"])?.success()?;
    ensure!(!(ran.stdout.is_empty() && ran.stderr.is_empty()), "a plan that says nothing");
    ensure!(scene.cluster.pid()? == server && scene.cluster.is_running());
    workload::same_orders(&workload::orders(&scene.cluster)?, &scene.oracle.all())
}
