//! A replay that stops on its way: a failure with the server's reason, what helps, and what can be reached all the same.

use anyhow::{Result, ensure};
use e2e::cluster::Recipe;
use e2e::faults::Rehearsal;
use e2e::{Repo, Sandbox, StopMode, process};

use crate::onward::recover;

/// The WAL makes a tablespace in a directory that goes away before the server starts. Once it is back, the recovery goes on.
#[test]
fn it_tells_why_and_goes_on_when_that_is_gone() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let repo = Repo::new(&sandbox, "repo")?;
    let cluster = Recipe::new("pg").segment_mb(1).archived_to(&repo).start(&sandbox)?;
    cluster.sql("create table t (n int)")?;
    cluster.backup(&[])?;
    for _ in 0..2 {
        cluster.sql("insert into t select generate_series(1, 200000)")?;
    }
    let place = sandbox.folder("ts")?;
    cluster.sql(&format!("create tablespace ts location '{}'", place.display()))?;
    cluster.sql("create table u tablespace ts as select 7 as n")?;
    cluster.switch_wal()?;
    cluster.stop(StopMode::Immediate)?;
    // Step 1 would see that it is gone: so it goes afterwards.
    let mut args = vec!["run", "--repo", repo.arg()?, "-D", cluster.pgdata_arg()?, "-U", "postgres", "--yes"];
    args.push("--target-latest");
    let mut killed = Rehearsal::new(&sandbox, "recover", &args).command()?;
    let ran = process::run(killed.env("HOLDFAST_FAULT", "file:kill@1 rename to *server.log"), "")?;
    ensure!(ran.signal == Some(9), "it was to be killed before the start: {ran}");
    sandbox.clear(&place)?;

    let words = ["does not exist", "make that directory", "recover continue", "the last commit before", "--target-lsn"];
    cluster.try_recover(&["--resume"])?.expect_code(1)?.says(&words)?;
    ensure!(!cluster.is_running());
    sandbox.folder("ts")?;
    recover(&cluster, "continue", &[])?.success()?;
    cluster.wait_promoted()?;
    ensure!(cluster.sql("select (select count(*) from t), n from u")? == "400000|7");
    cluster.stop(StopMode::Immediate)
}

/// What the server lacks before it replays anything.
#[test]
fn it_tells_what_the_server_lacks() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let repo = Repo::new(&sandbox, "repo")?;
    let cluster = Recipe::new("pg").segment_mb(1).archived_to(&repo).start(&sandbox)?;
    // Set, and not started with: the server that comes back is the first to need it.
    cluster.configure(&[("shared_preload_libraries".to_owned(), "no_such_library".to_owned())])?;
    cluster.backup(&[])?;
    let copy = e2e::Cluster::at(&sandbox, &sandbox.path().join("copy"), Some(&repo));
    let port = sandbox.new_port().to_string();
    let ran = copy.try_recover(&["--as", "copy", "-p", &port, "--target-immediate"])?.expect_code(1)?;
    ran.says(&["no_such_library", "not installed on this host", "server.log", "recover rollback"])?;
    cluster.stop(StopMode::Immediate)
}
