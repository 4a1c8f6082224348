//! A replay that stops on its way: a failure with the server's reason, what helps, and what can be reached all the same.

use std::{fs, thread};

use anyhow::{Context, Result, anyhow, ensure};
use e2e::cluster::Recipe;
use e2e::{Cluster, Ran, Repo, Sandbox, StopMode, wait};

use crate::onward::recover;

/// The WAL makes a tablespace in a directory that goes away before the server starts, and later something is in
/// its way. Each time the last commit before that is named, also where the server tells neither the record nor the segment.
/// Once nothing is in the way, the recovery goes on.
#[test]
fn it_tells_why_and_goes_on_when_that_is_gone() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let repo = Repo::new(&sandbox, "repo")?;
    let cluster = Recipe::new("pg").segment_mb(1).archived_to(&repo).start(&sandbox)?;
    cluster.sql("create table t (n int)")?;
    cluster.backup(&[])?;
    cluster.sql("insert into t select generate_series(1, 50000)")?;
    let place = sandbox.folder("ts")?;
    cluster.sql(&format!("create tablespace ts location '{}'", place.display()))?;
    cluster.sql("create table u tablespace ts as select 7 as n")?;
    let oid = cluster.sql("select oid from pg_tablespace where spcname = 'ts'")?;
    cluster.switch_wal()?;
    cluster.stop(StopMode::Immediate)?;

    let words =
        ["does not exist", "make that directory", "recover continue", "the last commit before", "--target-timeline 1"];
    let ran = thread::scope(|scope| {
        // Step 1 would see that it is gone: so it goes when the old cluster is aside.
        let (folder, own) = (sandbox.path(), format!("{}.before-", name(&cluster)?));
        let is_aside =
            move || Ok(fs::read_dir(folder)?.flatten().any(|it| it.file_name().to_string_lossy().starts_with(&own)));
        let (place, sandbox) = (&place, &sandbox);
        let disaster = scope.spawn(move || {
            wait::until("the old cluster is aside", is_aside)?;
            sandbox.clear(place)
        });
        let ran = cluster.try_recover(&["--target-latest"])?;
        disaster.join().map_err(|_| anyhow!("the disaster died"))??;
        Ok::<_, anyhow::Error>(ran)
    })?;
    let ran = ran.expect_code(1)?.says(&words)?;
    let lsn = reachable(&ran)?;
    ensure!(!cluster.is_running());

    let again = cluster.try_recover(&["--resume"])?.expect_code(1)?.says(&["the replay stopped at", words[0]])?;
    ensure!(reachable(&again)? == lsn, "not {lsn}: {again}");

    sandbox.folder("ts")?;
    let link = cluster.pgdata().join("pg_tblspc").join(&oid);
    sandbox.clear(&link)?;
    sandbox.folder(&format!("pg/pg_tblspc/{oid}"))?;
    sandbox.folder(&format!("pg/pg_tblspc/{oid}/obstacle"))?;
    cluster.configure(&[("log_error_verbosity".to_owned(), "terse".to_owned())])?;
    cluster.configure(&[("update_process_title".to_owned(), "off".to_owned())])?;
    let terse = recover(&cluster, "continue", &[])?.expect_code(1)?;
    reachable(&terse.says(&["the replay got into 0000", "the last commit before its end"])?)?;

    let copy = cluster.recover_copy("copy", &["--target-lsn", &lsn])?;
    ensure!(copy.sql("select (select count(*) from t), to_regclass('u') is null")? == "50000|t");
    copy.stop(StopMode::Immediate)?;
    sandbox.clear(&link)?;
    recover(&cluster, "continue", &[])?.success()?;
    cluster.wait_promoted()?;
    ensure!(cluster.sql("select (select count(*) from t), n from u")? == "50000|7");
    cluster.stop(StopMode::Immediate)
}

/// The position of the last commit that can be reached, as it was told.
fn reachable(ran: &Ran) -> Result<String> {
    let (_, rest) = ran.stderr.split_once("recover run --target-lsn ").context("a reachable moment")?;
    Ok(rest.split_whitespace().next().context("a position")?.to_owned())
}

/// The name of its data directory.
fn name(cluster: &Cluster) -> Result<String> {
    let name = cluster.pgdata().file_name().context("a data directory has a name")?;
    Ok(name.to_string_lossy().into_owned())
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
    let copy = Cluster::at(&sandbox, &sandbox.path().join("copy"), Some(&repo));
    let port = sandbox.new_port().to_string();
    let ran = copy.try_recover(&["--as", "copy", "-p", &port, "--target-immediate"])?.expect_code(1)?;
    ran.says(&["no_such_library", "not installed on this host", "server.log", "recover rollback"])?;
    cluster.stop(StopMode::Immediate)
}
