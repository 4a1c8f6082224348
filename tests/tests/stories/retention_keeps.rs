//! What retention leaves can still be recovered, and nothing goes before it was said.

use anyhow::{Context, Result, ensure};
use e2e::cluster::Recipe;
use e2e::{Repo, Sandbox, Workload, workload};

#[test]
fn the_last_backup_still_recovers() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let repo = Repo::new(&sandbox, "repo")?;
    let cluster = Recipe::new("pg").segment_mb(1).archived_to(&repo).start(&sandbox)?;
    workload::create_schema(&cluster)?;
    let load = Workload::start(&cluster, 1)?;
    let mut ids = Vec::new();
    for _ in 0..3 {
        load.wait_for(&cluster, 20)?;
        cluster.switch_wal()?;
        ids.push(cluster.backup(&[])?);
    }
    load.wait_for(&cluster, 20)?;
    load.stop()?;
    let last = cluster.switch_wal()?;
    ensure!(repo.backups() == ids, "three backups in order: {:?}", repo.backups());

    let retention = |options: &[&str]| sandbox.run("retention", &[&["--repo", repo.arg()?], options].concat());
    let before = repo.fingerprint()?;
    let plan = retention(&["--keep-last", "1", "--dry-run"])?.success()?;
    ensure!(ids.iter().all(|id| plan.stdout.contains(id)), "every backup has its line: {plan}");
    retention(&["--keep-last", "1", "--dry-run", "--json"])?.success()?.json()?;
    ensure!(repo.fingerprint()? == before, "a dry run changed the repository");
    let none = retention(&["--keep-last", "0"])?;
    ensure!(none.code.is_some_and(|code| code != 0), "keeping nothing: {none}");
    ensure!(repo.fingerprint()? == before);

    let first_segment = repo.segments().first().cloned().context("a segment")?;
    retention(&["--keep-last", "1"])?.success()?;
    ensure!(repo.backups() == ids.get(2..).unwrap_or_default(), "{:?}", repo.backups());
    ensure!(repo.find_wal(&first_segment).is_none(), "{first_segment} is of no use any more");
    ensure!(repo.find_wal(&last).is_some());
    let id = ids.last().context("three backups")?;
    sandbox.run("verify", &["backup", id, "--repo", repo.arg()?])?.success()?;
    // Again, there is nothing left to do.
    let after = repo.fingerprint()?;
    retention(&["--keep-last", "1"])?.success()?;
    ensure!(repo.backups().len() == 1 && repo.fingerprint()? == after);

    let copy = cluster.recover_copy("copy", &["--target-latest"])?;
    workload::same_orders(&workload::orders(&copy)?, &workload::orders(&cluster)?)
}
