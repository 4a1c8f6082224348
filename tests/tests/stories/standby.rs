//! A new standby out of the repository, of a primary that runs or is lost.

use std::fs;

use anyhow::{Result, ensure};
use e2e::cluster::Recipe;
use e2e::{Cluster, Repo, Sandbox, StopMode, wait};

/// A primary with a thousand rows in its backup, and a thousand after it.
fn scene() -> Result<(Sandbox, Repo, Cluster)> {
    let sandbox = Sandbox::new()?;
    let repo = Repo::new(&sandbox, "repo")?;
    let primary = Recipe::new("pg").segment_mb(1).archived_to(&repo).start(&sandbox)?;
    primary.sql("create table t as select generate_series(1, 1000) as n")?;
    primary.backup(&[])?;
    primary.sql("insert into t select generate_series(1001, 2000)")?;
    Ok((sandbox, repo, primary))
}

/// It takes what is archived from the repository, and then streams, through its slot, what is not.
#[test]
fn a_standby_from_the_repository_streams() -> Result<()> {
    let (sandbox, repo, primary) = scene()?;
    primary.sql("select pg_create_physical_replication_slot('second')")?;

    let standby = Cluster::at(&sandbox, &sandbox.path().join("second"), Some(&repo));
    let port = sandbox.new_port().to_string();
    let conninfo = format!("host={} port={} user=postgres", primary.socket_dir()?, primary.port()?);
    let options = |conninfo: &str| -> Result<e2e::Ran> {
        standby.try_recover(&["--standby", "-p", &port, "--slot", "second", "--primary-conninfo", conninfo])
    };
    // The message must not show it either.
    let ran = options(&format!("{conninfo} password=hush"))?.expect_code(2)?.says(&["passfile"])?;
    ensure!(!ran.stderr.contains("hush") && !standby.pgdata().exists(), "{ran}");
    options(&conninfo)?.success()?.prints(&["streams from the primary", "stays a standby"])?;

    primary.sql("insert into t select generate_series(2001, 3000)")?;
    wait::until("the standby has every row", || Ok(standby.sql("select count(*) from t")? == "3000"))?;
    let state = "select state || ' ' || s.active from pg_stat_replication r join pg_replication_slots s on s.active_pid = r.pid";
    ensure!(primary.sql(state)? == "streaming true", "it does not stream through its slot");
    ensure!(standby.sql("select pg_is_in_recovery()")? == "t");
    let conf = fs::read_to_string(standby.pgdata().join("postgresql.auto.conf"))?;
    ensure!(conf.contains("recovery_target_timeline = 'latest'") && !conf.contains("--plan"), "{conf}");

    // It is one after a restart too, and becomes a primary that archives.
    standby.restart()?;
    primary.stop(StopMode::Fast)?;
    standby.sql("select pg_promote()")?;
    standby.wait_promoted()?;
    standby.sql("insert into t values (3001)")?;
    standby.switch_wal()?;
    ensure!(standby.sql("select count(*) from t")? == "3001");
    standby.stop(StopMode::Immediate)
}

/// A primary that nobody reaches, as after the loss of a whole site: the standby comes up out of the archive alone, and
/// what is wrong is told.
#[test]
fn a_standby_without_its_primary_lives_on_the_archive() -> Result<()> {
    let (sandbox, repo, primary) = scene()?;
    let conninfo = format!("host={} port={} user=postgres", primary.socket_dir()?, primary.port()?);
    let last = primary.switch_wal()?;
    primary.require_archived(&last)?;
    primary.stop(StopMode::Immediate)?;

    let standby = Cluster::at(&sandbox, &sandbox.path().join("second"), Some(&repo));
    let port = sandbox.new_port().to_string();
    let ran = standby.try_recover(&["--standby", "-p", &port, "--primary-conninfo", &conninfo])?;
    ran.expect_code(3)?.prints(&["stands by", "does not stream from its primary", "stays a standby"])?;
    ensure!(standby.sql("select pg_is_in_recovery(), count(*) from t")? == "t|2000");
    standby.stop(StopMode::Immediate)
}
