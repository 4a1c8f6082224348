//! An archive over a promotion in the middle of a segment, and standbys that follow it.

use anyhow::{Context, Result, ensure};
use e2e::cluster::{Recipe, restore_command};
use e2e::{Cluster, Repo, Sandbox, Workload, wait, workload};

/// A standby of `primary` that follows the archive, and streams when asked to.
fn standby(primary: &Cluster, name: &str, streams: bool) -> Result<Cluster> {
    let sandbox = primary.sandbox();
    let pgdata = sandbox.path().join(name);
    let connection = primary.connection()?;
    let mut args = vec!["-D", pgdata.to_str().context("text")?, "-X", "none", "-c", "fast", "--no-sync"];
    args.extend(connection.iter().map(String::as_str));
    sandbox.run_other("pg_basebackup", &args)?.success()?;
    let standby = Cluster::at(sandbox, &pgdata, Some(primary.repo()?));
    let mut lines = vec![
        ("port".to_owned(), sandbox.new_port().to_string()),
        ("restore_command".to_owned(), restore_command(sandbox, primary.repo()?)?),
        ("wal_retrieve_retry_interval".to_owned(), "100ms".to_owned()),
    ];
    if streams {
        let conninfo = format!("host={} port={} user=postgres", primary.socket_dir()?, primary.port()?);
        lines.push(("primary_conninfo".to_owned(), conninfo));
    }
    standby.configure(&lines)?;
    sandbox.write(&pgdata.join("standby.signal"), b"")?;
    standby.start()?;
    Ok(standby)
}

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
    let next = standby(&primary, "next", true)?;
    let follower = standby(&primary, "follower", false)?;

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
    let standby = standby(&primary, "standby", true)?;
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
