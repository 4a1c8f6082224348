//! H19: a promoted standby never archives what its dead primary had not.

use anyhow::{Context, Result, ensure};
use e2e::cluster::Recipe;
use e2e::{Cluster, Repo, Sandbox, Workload, wait, workload};

use super::copy_is_refused;
use crate::archive_tools::{element, list, texts, tool};

/// A standby of a dead primary whose archive had died before it: everything since lies in the standby's `pg_wal` alone.
/// A backup from before is in the repository.
fn orphaned_standby(sandbox: &Sandbox) -> Result<(Cluster, Repo)> {
    let repo = Repo::new(sandbox, "repo")?;
    let recipe = Recipe::new("pg").segment_mb(1).archived_to(&repo).set("wal_keep_size", "256MB");
    let primary = recipe.start(sandbox)?;
    workload::create_schema(&primary)?;
    primary.backup(&[])?;
    let standby = primary.standby("standby", true)?;
    primary.switch_wal()?;
    primary.set("archive_command", "/bin/false")?;
    let load = Workload::start(&primary, 2)?;
    for orders in [20, 40, 60] {
        load.wait_for(&primary, orders)?;
        primary.end_segment()?;
    }
    load.wait_for(&primary, 80)?;
    let orders = load.stop()?;
    wait::until("the standby has every order", || {
        Ok(standby.sql("select count(*) from orders")? == orders.len().to_string())
    })?;
    primary.kill9()?;
    // The host is lost, and its pg_wal with it.
    sandbox.clear(primary.pgdata())?;
    Ok((standby, repo))
}

fn promote(standby: &Cluster) -> Result<()> {
    standby.sql("select pg_promote()")?;
    standby.wait_promoted()?;
    let load = Workload::start(standby, 1)?;
    load.wait_for(standby, 10)?;
    load.stop()?;
    let segment = standby.switch_wal()?;
    ensure!(segment.starts_with("00000002"), "{segment} is not of the second timeline");
    Ok(())
}

/// The hole is named, nothing recovers across it, `--backfill` closes it, and the old backup leads across the fork.
#[test]
fn hazard_19_a_failover_hole_is_named_and_closed() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let (standby, repo) = orphaned_standby(&sandbox)?;
    promote(&standby)?;
    let orders = workload::orders(&standby)?;
    let named = tool(&standby, &[&repo], &["check", "--json"])?.expect_code(3)?.json()?;
    let finding = element(list(&named, "/findings")?, "kind", "hole")?;
    ensure!(finding["what"].as_str().is_some_and(|what| what.contains("0000000100000000")), "{finding:#}");
    ensure!(finding["hint"].as_str().is_some_and(|hint| hint.contains("--backfill")), "{finding:#}");
    copy_is_refused(&standby, "lost", &["--target-latest"], &["missing"])?;
    // The one who takes the next backup hears of it too; the backup itself is good.
    let old = repo.backups().pop().context("a backup from before")?;
    standby.try_backup(&[])?.success()?.says(&["is missing from the archive", &old, "--backfill"])?;

    let before = repo.segments();
    let closed = tool(&standby, &[&repo], &["check", "--backfill", "--json"])?.success()?.json()?;
    let put = texts(list(&closed, "/backfilled")?, "file");
    ensure!(
        put.len() >= 3 && put.is_sorted() && put.iter().all(|name| !before.contains(&(*name).to_owned())),
        "{put:?}"
    );
    // Neither the first timeline's half-written last segment nor a recycled file is WAL of this server's way.
    let names: Vec<String> = repo.segments().into_iter().filter(|name| !before.contains(name)).collect();
    for name in names.iter().filter(|name| !put.contains(&name.as_str())) {
        ensure!(name.starts_with("00000002"), "{name} was put by nobody");
    }
    repo.require_whole()?;
    let copy = standby.recover_copy("copy", &["--target-latest", "--backup", &old])?;
    workload::same_orders(&workload::orders(&copy)?, &orders)?;
    let again = tool(&standby, &[&repo], &["check", "--backfill", "--json"])?.success()?.json()?;
    ensure!(list(&again, "/backfilled")?.is_empty(), "{again:#}");
    Ok(())
}

/// Before anybody is promoted the standby can bring what the primary left, and then no hole comes to be.
#[test]
fn hazard_19_a_standby_fills_before_its_promotion() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let (standby, repo) = orphaned_standby(&sandbox)?;
    let seen = tool(&standby, &[&repo], &["check", "--no-switch", "--backfill", "--json"])?.success()?.json()?;
    ensure!(texts(list(&seen, "/backfilled")?, "result").len() >= 3, "{seen:#}");
    let note = element(list(&seen, "/findings")?, "kind", "failover_hole")?;
    ensure!(note["severity"] == "note", "{note:#}");
    promote(&standby)?;
    let orders = workload::orders(&standby)?;
    let after = tool(&standby, &[&repo], &["check", "--json"])?.json()?;
    ensure!(!texts(list(&after, "/findings")?, "kind").contains(&"hole"), "{after:#}");
    let copy = standby.recover_copy("copy", &["--target-latest"])?;
    workload::same_orders(&workload::orders(&copy)?, &orders)
}

/// With `archive_mode = always`, as setup recommends for standbys, there is no hole to begin with.
#[test]
fn hazard_19_a_standby_that_archives_always_leaves_no_hole() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let repo = Repo::new(&sandbox, "repo")?;
    let primary = Recipe::new("pg").segment_mb(1).archived_to(&repo).start(&sandbox)?;
    workload::create_schema(&primary)?;
    let standby = primary.standby("standby", true)?;
    tool(&standby, &[&repo], &["setup", "--apply"])?.expect_code(3)?;
    standby.restart()?;
    tool(&standby, &[&repo], &["setup"])?.success()?;
    primary.set("archive_command", "/bin/false")?;
    let load = Workload::start(&primary, 1)?;
    load.wait_for(&primary, 20)?;
    let late = primary.end_segment()?;
    let count = load.stop()?.len().to_string();
    wait::until("the standby has every order", || Ok(standby.sql("select count(*) from orders")? == count))?;
    primary.kill9()?;
    promote(&standby)?;
    repo.find_wal(&late).context("the standby archived what its primary could not")?;
    tool(&standby, &[&repo], &["check"])?.success().map(drop)
}
