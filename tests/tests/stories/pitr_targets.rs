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

/// A transaction that was open during the only backup lies behind it: what counts is where it ended.
#[test]
fn a_transaction_that_was_open_during_the_backup() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let repo = Repo::new(&sandbox, "repo")?;
    let recipe = Recipe::new("pg").segment_mb(1).set("max_prepared_transactions", "5").archived_to(&repo);
    let cluster = recipe.start(&sandbox)?;
    cluster.sql("create table t (n int); create table other (n int)")?;
    let said =
        cluster.sql("begin; insert into t values (1); select pg_current_xact_id(); prepare transaction 'open'")?;
    let xid = said.lines().find(|line| line.parse::<u64>().is_ok()).context(said.clone())?.to_owned();
    cluster.sql("insert into other values (1)")?;
    let backup = cluster.backup(&[])?;
    cluster.sql("insert into other values (2)")?;
    cluster.sql("commit prepared 'open'")?;
    cluster.sql("insert into other values (3)")?;
    cluster.switch_wal()?;
    let sql = "select (select count(*) from t), (select max(n) from other)";
    for (name, options) in [("chosen", &[][..]), ("named", &["--backup", &backup])] {
        let copy = cluster.recover_copy(name, &[options, &["--target-xid", &xid]].concat())?;
        let found = copy.sql(sql)?;
        ensure!(found == "1|2", "{name}: {found}");
        copy.stop(StopMode::Immediate)?;
    }
    cluster.try_recover(&["--target-xid", "3"])?.expect_code(20)?.says(&["no backup is complete before"])?;
    cluster.stop(StopMode::Fast)
}

#[test]
fn a_name_the_end_of_the_backup_and_the_latest() -> Result<()> {
    let scene = Scene::new()?;
    scene.expect("name", &["--target-name", "midday"], &scene.oracle.at_lsn(scene.midday, false))?;
    // The last segment is not archived yet: the running server is asked for it.
    scene.expect("latest", &["--target-latest"], &scene.oracle.all())?;

    let found = scene.recover("immediate", &["--target-immediate"])?;
    let (before, after) = &scene.backup;
    ensure!(before.is_subset(&found), "orders committed before the backup began are missing");
    ensure!(found.is_subset(after), "orders committed after the backup was done");
    let first: BTreeSet<u64> = scene.oracle.commits().iter().take(found.len()).map(|commit| commit.xid).collect();
    workload::same_orders(&found, &first).context("the orders are not the first ones committed")
}

/// What can't be reached, or isn't clear, is refused before a file is made.
#[test]
fn an_impossible_target_touches_nothing() -> Result<()> {
    let scene = Scene::new()?;
    scene.cluster.sql("select pg_create_restore_point('midday')")?;
    scene.cluster.switch_wal()?;
    let copy = Cluster::at(scene.cluster.sandbox(), &scene.cluster.sandbox().path().join("never"), Some(&scene.repo));
    let before = scene.repo.fingerprint()?;
    for target in [
        ["--target-lsn", "FF/0"],
        ["--target-time", "2099-01-01 00:00:00+00"],
        ["--target-time", "2001-01-01 00:00:00+00"],
        ["--target-xid", "4000000"],
        ["--target-name", "midnight"],
        ["--target-name", "midday"],
        ["--target-timeline", "7"],
        ["--backup", "backup_20010101_000000"],
    ] {
        let ran = copy.try_recover(&[&["--as", "copy", "--port", "5999"], &target[..]].concat())?;
        ensure!(ran.code.is_some_and(|code| code != 0), "{target:?}: {ran}");
        ensure!(!copy.pgdata().exists(), "{target:?} made {}", copy.pgdata().display());
        ensure!(scene.cluster.is_running());
    }
    // The running server is asked for its last WAL each time: there may be more of it, and nothing else may change.
    let after = scene.repo.fingerprint()?;
    for (path, digest) in &before {
        ensure!(after.get(path) == Some(digest), "a refused recovery changed {}", path.display());
    }
    let made = after.keys().filter(|path| !before.contains_key(*path));
    ensure!(
        made.clone().all(|path| path.to_string_lossy().contains("/wal/")),
        "it made {:?}",
        made.collect::<Vec<_>>()
    );
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

/// All WAL of a finished backup is archived: its end can be had while the server archives nothing any more, at once.
#[test]
fn the_end_of_the_backup_waits_for_no_archiver() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let repo = Repo::new(&sandbox, "repo")?;
    let cluster = Recipe::new("pg").segment_mb(1).archived_to(&repo).start(&sandbox)?;
    cluster.backup(&[])?;
    cluster.set("archive_command", "false")?;
    let segment = "select pg_walfile_name(pg_current_wal_insert_lsn())";
    let before = cluster.sql(segment)?;
    cluster.recover_copy("copy", &["--target-immediate"])?;
    ensure!(cluster.sql(segment)? == before, "the server was asked for WAL that nobody needs");
    cluster.stop(StopMode::Immediate)
}
