//! An archive over a promotion in the middle of a segment, and standbys that follow it.

use anyhow::{Result, ensure};
use e2e::cluster::Recipe;
use e2e::{Cluster, Repo, Sandbox, Workload, wait, workload};

fn wait_orders(cluster: &Cluster, count: usize) -> Result<()> {
    wait::until("the standby has every order", || {
        ensure!(cluster.is_running(), "the standby ended:\n{}", cluster.log());
        Ok(cluster.try_sql("select count(*) from orders")?.stdout.trim().parse() == Ok(count))
    })
}

#[test]
fn the_archive_and_its_followers_survive_a_promotion() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let repo = Repo::new(&sandbox, "repo")?;
    let primary = Recipe::new("pg").archived_to(&repo).start(&sandbox)?;
    workload::create_schema(&primary)?;
    primary.backup(&[])?;
    let next = primary.standby("next", true)?;
    let follower = primary.standby("follower", false)?;

    let load = Workload::start(&primary, 2)?;
    load.wait_for(&primary, 50)?;
    primary.switch_wal()?;
    load.wait_for(&primary, 50)?;
    let before = load.stop()?;
    wait_orders(&next, before.len())?;
    primary.kill9()?;

    next.sql("select pg_promote()")?;
    next.wait_promoted()?;
    let load = Workload::start(&next, 2)?;
    load.wait_for(&next, 50)?;
    load.stop()?;
    let segment = next.switch_wal()?;
    ensure!(segment.starts_with("00000002"), "{segment} is not of the second timeline");
    ensure!(repo.find_wal("00000002.history").is_some());
    let all = workload::orders(&next)?;
    ensure!(before.is_subset(&all));

    // The follower crosses over to the new timeline through the archive alone.
    wait_orders(&follower, all.len())?;
    // So does a recovery from the backup that the old primary made.
    let copy = next.recover_copy("copy", &["--target-latest"])?;
    workload::same_orders(&workload::orders(&copy)?, &all)
}

/// Primary and archive vanish together: a standby has nothing else left, and must stay.
#[test]
fn a_standby_survives_the_loss_of_the_archive() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let repo = Repo::new(&sandbox, "repo")?;
    let primary = Recipe::new("pg").segment_mb(1).archived_to(&repo).start(&sandbox)?;
    workload::create_schema(&primary)?;
    let standby = primary.standby("standby", true)?;
    let load = Workload::start(&primary, 1)?;
    load.wait_for(&primary, 20)?;
    primary.switch_wal()?;
    let count = load.stop()?.len();
    wait_orders(&standby, count)?;

    let away = repo.take_away()?;
    primary.kill9()?;
    let quiet = standby.log().matches("restore-wal:").count();
    wait::until("the standby asks the archive in vain, twice", || {
        ensure!(standby.is_running(), "the standby ended:\n{}", standby.log());
        Ok(standby.log().matches("restore-wal:").count() >= quiet + 2)
    })?;
    ensure!(standby.sql("select pg_is_in_recovery()")? == "t");
    wait_orders(&standby, count)?;

    // Back again, it goes on: the primary returns, and the standby catches up.
    away.bring_back()?;
    primary.start()?;
    let load = Workload::start(&primary, 1)?;
    load.wait_for(&primary, 20)?;
    load.stop()?;
    primary.switch_wal()?;
    wait_orders(&standby, workload::orders(&primary)?.len())
}
