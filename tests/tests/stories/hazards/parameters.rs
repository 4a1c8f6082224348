//! H11 and H12: settings below those that the WAL was written with. A server pauses at them just as at its target, or
//! ends.

use std::fs;

use anyhow::{Context, Result, ensure};
use e2e::cluster::Recipe;
use e2e::{Repo, Sandbox, StopMode};

use super::future_copy;
use crate::onward::recover;

/// A server that is restarted with more connections in the middle of the WAL: a recovery that pauses there is not at its
/// target, and one that reads the WAL first does not pause there.
#[test]
fn hazard_11_a_pause_short_of_the_target_is_no_arrival() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let repo = Repo::new(&sandbox, "repo")?;
    let cluster = Recipe::new("pg").segment_mb(1).archived_to(&repo).start(&sandbox)?;
    cluster.sql("create table t (n int)")?;
    cluster.backup(&[])?;
    cluster.sql("insert into t values (1)")?;
    cluster.configure(&[("max_connections".to_owned(), "60".to_owned())])?;
    cluster.restart()?;
    cluster.sql("insert into t values (2)")?;
    cluster.sql("select pg_create_restore_point('after')")?;
    cluster.switch_wal()?;

    // Somebody starts the copy with the setting of the backup.
    let copy = future_copy(&cluster, "copy")?;
    let port = sandbox.new_port().to_string();
    let target = ["--target-name", "after", "--target-action", "pause"];
    copy.try_recover(&[&["--as", "copy", "--port", &port, "--no-start"], &target[..]].concat())?.success()?;
    let conf = copy.pgdata().join("postgresql.auto.conf");
    let text = fs::read_to_string(&conf)?;
    ensure!(text.contains("max_connections = '60'"), "the WAL asks for 60: {text}");
    sandbox.write(&conf, text.replace("max_connections = '60'", "max_connections = '30'").as_bytes())?;
    copy.start()?;
    e2e::wait::until("replay pauses", || Ok(copy.sql("select pg_get_wal_replay_pause_state()")? == "paused"))?;
    ensure!(copy.sql("select count(*) from t")? == "1", "it does not pause where the setting changes");
    recover(&copy, "finish", &[])?.expect_code(1)?.says(&["the plan said", "max_connections is 30", "asks for 60"])?;
    recover(&copy, "promote", &[])?.expect_code(1)?.says(&["the plan said"])?;
    ensure!(copy.sql("select pg_is_in_recovery()")? == "t");

    recover(&copy, "continue", &[])?.success()?;
    ensure!(copy.sql("select count(*) from t")? == "2", "the target was not reached");
    copy.stop(StopMode::Immediate)
}

/// Prepared transactions that the configuration of the backup has no room for: the recovery makes room, and says that the
/// next restart needs it too. Without the old cluster nobody knows beforehand; then the server says it, and goes on.
#[test]
fn hazard_12_prepared_transactions_find_room() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let repo = Repo::new(&sandbox, "repo")?;
    let cluster = Recipe::new("pg").segment_mb(1).archived_to(&repo).start(&sandbox)?;
    cluster.sql("create table t (n int)")?;
    cluster.backup(&[])?;
    cluster.configure(&[("max_prepared_transactions".to_owned(), "5".to_owned())])?;
    cluster.restart()?;
    cluster.sql("begin; insert into t values (1); prepare transaction 'in doubt';")?;
    cluster.switch_wal()?;

    let ran = cluster.try_recover(&["--target-latest"])?.success()?;
    let words = ["prepared transaction is in doubt", "max_prepared_transactions is 5", "next restart"];
    ran.prints(&words)?;
    cluster.wait_promoted()?;
    cluster.sql("commit prepared 'in doubt'")?;
    ensure!(cluster.sql("select count(*) from t")? == "1");

    // The server is lost, and the archive alone is left.
    cluster.stop(StopMode::Immediate)?;
    sandbox.clear(cluster.pgdata()).context("lose the server")?;
    sandbox.clear(&cluster.pgdata().with_extension("holdfast"))?;
    let ran = cluster.try_recover(&["--target-latest", "--target-timeline", "1"])?;
    if ran.code != Some(0) {
        ran.says(&["max_prepared_transactions", "recover continue"])?;
        recover(&cluster, "continue", &[])?.success()?;
    }
    cluster.wait_promoted()?;
    ensure!(cluster.sql("select gid from pg_prepared_xacts")? == "in doubt");
    cluster.stop(StopMode::Immediate)
}
