//! A recovery is undone: the preserved cluster is back, and what was abandoned never returns.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use e2e::cluster::Recipe;
use e2e::{Cluster, Oracle, Repo, Sandbox, Workload, wait, workload};

/// Writes orders until `count` more are committed.
fn write(cluster: &Cluster, count: u64) -> Result<()> {
    let load = Workload::start(cluster, 2)?;
    load.wait_for(cluster, count)?;
    load.stop().map(drop)
}

#[test]
fn the_preserved_cluster_comes_back() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let repo = Repo::new(&sandbox, "repo")?;
    let cluster = Recipe::new("pg").segment_mb(1).archived_to(&repo).start(&sandbox)?;
    workload::create_schema(&cluster)?;
    cluster.backup(&[])?;
    write(&cluster, 60)?;
    let before = workload::orders(&cluster)?;
    let oracle = Oracle::read(&sandbox, &repo, Some(&cluster.pgdata().join("pg_wal")), 1)?;
    let commit = oracle.commits().get(30).copied().context("thirty commits")?;

    cluster.recover(&["--target-lsn", &commit.lsn.to_string()])?;
    workload::same_orders(&workload::orders(&cluster)?, &oracle.at_lsn(commit.lsn, true))?;
    // The abandoned life goes as far as the archive.
    write(&cluster, 20)?;
    cluster.switch_wal()?;

    let args = ["rollback", "-D", cluster.pgdata_arg()?, "--repo", repo.arg()?, "-U", "postgres", "--yes"];
    sandbox.run("recover", &args)?.success()?;
    // The server ran before, so it runs again, and takes sessions.
    workload::same_orders(&workload::orders(&cluster)?, &before).context("after the rollback")?;

    // Life goes on, is archived, and is what "latest" means.
    write(&cluster, 20)?;
    cluster.switch_wal()?;
    let now = workload::orders(&cluster)?;
    ensure!(before.is_subset(&now));
    let copy = cluster.recover_copy("copy", &["--target-latest"])?;
    workload::same_orders(&workload::orders(&copy)?, &now).context("the latest after a rollback")
}

/// Writes that nobody wants to miss need a word; the timeline of what was undone is in the archive, and every server that
/// follows "latest" would follow it, if the old cluster did not come back on a newer one.
#[test]
fn hazard_05_what_was_undone_is_followed_by_nobody() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let repo = Repo::new(&sandbox, "repo")?;
    let cluster = Recipe::new("pg").segment_mb(1).archived_to(&repo).start(&sandbox)?;
    workload::create_schema(&cluster)?;
    cluster.backup(&[])?;
    write(&cluster, 20)?;
    let before = workload::orders(&cluster)?;
    cluster.recover(&["--target-immediate"])?;
    write(&cluster, 20)?;
    cluster.switch_wal()?;
    let args = ["rollback", "-D", cluster.pgdata_arg()?, "--repo", repo.arg()?, "-U", "postgres"];
    sandbox.run("recover", &args)?.expect_code(20)?.says(&["whatever was written since", "--yes"])?;
    ensure!(cluster.is_running());

    let ran = sandbox.run("recover", &[&args[..], &["--yes"]].concat())?.success()?;
    ensure!(cluster.timeline()? == 3, "{ran}");
    workload::same_orders(&workload::orders(&cluster)?, &before).context("after the rollback")?;
    let auto_conf = std::fs::read_to_string(cluster.pgdata().join("postgresql.auto.conf"))?;
    ensure!(!auto_conf.contains("recovery_target") && !auto_conf.contains("restore_command"), "{auto_conf}");

    // Without a look at the server itself: its host may be lost next.
    let copy = cluster.recover_copy("copy", &["--target-latest"])?;
    workload::same_orders(&workload::orders(&copy)?, &before).context("the latest after a rollback")?;
    for streams in [false, true] {
        let standby = cluster.standby(&format!("standby{}", u8::from(streams)), streams)?;
        write(&cluster, 5)?;
        cluster.switch_wal()?;
        let now = workload::orders(&cluster)?;
        wait::until("the standby follows", || Ok(workload::orders(&standby)? == now))?;
        ensure!(standby.sql("select pg_is_in_recovery()")? == "t");
    }
    Ok(())
}

/// A server that was down stays down, and gets its newer timeline all the same.
#[test]
fn a_server_that_was_down_is_down_again() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let repo = Repo::new(&sandbox, "repo")?;
    let cluster = Recipe::new("pg").segment_mb(1).archived_to(&repo).start(&sandbox)?;
    workload::create_schema(&cluster)?;
    cluster.backup(&[])?;
    write(&cluster, 20)?;
    let before = workload::orders(&cluster)?;
    cluster.kill9()?;
    cluster.recover(&["--target-immediate"])?;
    cluster.switch_wal()?;
    let args = ["rollback", "-D", cluster.pgdata_arg()?, "--repo", repo.arg()?, "-U", "postgres", "--yes"];
    sandbox.run("recover", &args)?.success()?;
    ensure!(!cluster.is_running());
    cluster.start()?;
    ensure!(cluster.timeline()? == 3);
    workload::same_orders(&workload::orders(&cluster)?, &before)
}

/// Nothing goes before the user has said so; killed in the middle it goes on; afterwards there is no way back.
#[test]
fn an_old_server_that_does_not_come_up_is_told_of() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let repo = Repo::new(&sandbox, "repo")?;
    let cluster = Recipe::new("pg").segment_mb(1).archived_to(&repo).start(&sandbox)?;
    cluster.sql("create table t as select 7 as n")?;
    cluster.backup(&[])?;
    let place = ["-D", cluster.pgdata_arg()?, "--repo", repo.arg()?, "-U", "postgres"];
    let recover = |words: &[&str]| sandbox.run("recover", &[words, &place].concat());
    recover(&["run", "--target-immediate", "--no-start", "--yes"])?.success()?;
    let preserved = recover(&["status", "--json"])?.json()?;
    let preserved = preserved.pointer("/preserved").and_then(|path| path.as_str()).context("what is preserved")?;
    let conf = Path::new(preserved).join("postgresql.conf");
    let good = std::fs::read(&conf)?;
    sandbox.write(&conf, &[&good[..], b"\nshared_preload_libraries = 'no_such_library'\n"].concat())?;

    recover(&["rollback"])?.expect_code(4)?.says(&["its server does not run", "no_such_library", "rollback again"])?;
    ensure!(!cluster.is_running());
    sandbox.write(&cluster.pgdata().join("postgresql.conf"), &good)?;
    let told = recover(&["rollback", "--json"])?.success()?.json()?;
    ensure!(told.pointer("/server").is_some_and(|server| server == "ready"), "{told}");
    ensure!(cluster.sql("select n from t")? == "7");
    let told = recover(&["rollback", "--json"])?.success()?.json()?;
    ensure!(told.pointer("/server").is_some_and(serde_json::Value::is_null), "a second time: {told}");
    Ok(())
}

/// The old cluster cannot get its newer timeline yet; until then it runs and archives as before.
#[test]
fn a_rollback_that_cannot_settle_leaves_a_server_that_archives() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let repo = Repo::new(&sandbox, "repo")?;
    let cluster = Recipe::new("pg").segment_mb(1).archived_to(&repo).start(&sandbox)?;
    cluster.sql("create table t as select 7 as n")?;
    let auto_conf = || std::fs::read(cluster.pgdata().join("postgresql.auto.conf"));
    let before = auto_conf()?;
    cluster.backup(&[])?;
    cluster.recover(&["--target-immediate"])?;
    cluster.switch_wal()?;
    let mut files = e2e::sandbox::walk(repo.path()).into_iter();
    let history = files.find(|path| path.to_string_lossy().contains("00000002.history"));
    let history = history.context("the recovery's timeline is archived")?;
    // A history that is missing below one that is there is a hole, and no server passes it.
    let later = history.with_file_name(history.file_name().context("a name")?.to_string_lossy().replace("02.", "04."));
    sandbox.copy(&history, &later)?;

    let place = ["-D", cluster.pgdata_arg()?, "--repo", repo.arg()?, "-U", "postgres"];
    let rollback = |options: &[&str]| sandbox.run("recover", &[&["rollback"], &place[..], options].concat());
    rollback(&["--yes"])?.expect_code(4)?.says(&["00000003.history"])?;
    wait::until("the server is back", || Ok(cluster.try_sql("select 1")?.code == Some(0)))?;
    ensure!(auto_conf()? == before, "settings of the renewal are left");
    cluster.switch_wal()?;
    sandbox.clear(&later)?;
    rollback(&[])?.success()?;
    ensure!(auto_conf()? == before && cluster.timeline()? == 3);
    cluster.switch_wal()?;
    Ok(())
}

#[test]
fn cleaning_up_is_for_good() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let repo = Repo::new(&sandbox, "repo")?;
    let cluster = Recipe::new("pg").segment_mb(1).archived_to(&repo).start(&sandbox)?;
    cluster.backup(&[])?;
    let pgdata = cluster.pgdata_arg()?;
    let recover = |args: &[&str]| {
        let args = [args, &["-D", pgdata, "--repo", repo.arg()?, "-U", "postgres"]].concat();
        sandbox.run("recover", &args)
    };
    let kept = || {
        let entries = std::fs::read_dir(sandbox.path())?;
        let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        let names: Vec<String> = names.collect::<Result<_>>()?;
        Ok::<_, anyhow::Error>(names.into_iter().filter(|name| name.contains(".before-")).collect::<Vec<_>>())
    };
    ensure!(recover(&["status"])?.success()?.stdout.contains("no recovery"));
    recover(&["cleanup", "--yes"])?.expect_code(20)?;

    cluster.recover(&["--target-immediate"])?;
    cluster.try_recover(&["--target-immediate", "--no-start"])?.success()?;
    // The second one is not over.
    recover(&["cleanup", "--yes"])?.expect_code(20)?.says(&["not over"])?;
    cluster.start()?;
    cluster.wait_promoted()?;
    recover(&["finish"])?.success()?;
    ensure!(kept()?.len() == 2);

    let asked = recover(&["cleanup"])?.expect_code(20)?.says(&["without your word"])?;
    ensure!(asked.stdout.contains(".before-") && kept()?.len() == 2, "{asked}");
    let args = ["cleanup", "-D", pgdata, "--repo", repo.arg()?, "--yes"];
    let cleanup = e2e::faults::Rehearsal::new(&sandbox, "recover", &args);
    cleanup.killed_at(2, "remove *.before-*")?.context("it removes two")?;
    ensure!(kept()?.len() == 1);
    // A tree that is half gone is no cluster any more.
    recover(&["rollback", "--yes"])?.expect_code(20)?.says(&["no longer"])?;
    ensure!(cluster.is_running());
    let ran = recover(&["cleanup", "--yes", "--json"])?.success()?;
    ensure!(kept()?.is_empty() && ran.stdout.contains("\"removed\""), "{ran}");
    recover(&["rollback", "--yes"])?.expect_code(20)?.says(&["no longer"])?;
    ensure!(cluster.is_running() && cluster.sql("select 1")? == "1");
    Ok(())
}
