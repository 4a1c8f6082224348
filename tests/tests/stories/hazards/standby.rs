//! H2: exit 200 and above takes down a healthy standby, and the loss of primary and archive must not.

use std::fs;

use anyhow::{Context, Result, ensure};
use e2e::cluster::Recipe;
use e2e::{Ran, Repo, Sandbox, StopMode, wait};

use crate::fetch_truth::Scene;

/// Whatever is wrong, a standby hears "absent", and its log gets one line.
#[test]
fn hazard_02_every_failure_is_absence_to_a_standby() -> Result<()> {
    let scene = Scene::new()?;
    scene.sandbox.write(&scene.node.pgdata().join("standby.signal"), b"")?;
    let one_line = |ran: Ran| -> Result<()> {
        let ran = ran.expect_code(1)?;
        ensure!(ran.stderr.trim().lines().count() == 1 && !ran.stderr.contains("panic"), "one line, not {ran}");
        scene.nothing_left()
    };
    let (segment, destination) = (scene.segment(3)?, "pg_wal/RECOVERYXLOG");
    let run = |args: &[&str]| scene.sandbox.run_in(scene.node.pgdata(), "restore-wal", args);
    // The end of the archive is no failure, and asked for every few seconds: no line at all.
    for name in [&scene.next_segment()?, "00000002.history"] {
        let ran = scene.fetch(name)?.expect_code(1)?;
        ensure!(ran.stderr.is_empty(), "{ran}");
    }
    let damaged = scene.repo.wal(scene.segment(0)?)?;
    scene.repo.flip(&damaged, fs::read(&damaged)?.len() / 2)?;
    one_line(scene.fetch(scene.segment(0)?)?).context("damage")?;
    scene.repo.remove(&scene.repo.wal(scene.segment(1)?)?)?;
    one_line(scene.fetch(scene.segment(1)?)?).context("hole")?;

    let repo = scene.repo.arg()?;
    one_line(run(&["--no-such-option"])?).context("bad option")?;
    one_line(run(&[])?).context("no arguments")?;
    one_line(run(&["--repo", repo, "nonsense", destination])?).context("bad name")?;
    one_line(run(&["--repo", repo, "--cluster", "nobody", segment, destination])?).context("no such cluster")?;
    one_line(run(&[segment, destination])?).context("nothing configured")?;
    one_line(run(&["--repo", repo, "--plan", "/nowhere", segment, destination])?).context("no plan")?;
    let empty = Repo::new(&scene.sandbox, "empty")?;
    one_line(run(&["--repo", empty.arg()?, segment, destination])?).context("empty repository")?;
    let config = scene.sandbox.path().join("wrong.toml");
    scene.sandbox.write(&config, b"colour = \"red\"\n")?;
    one_line(run(&["--config", config.to_str().context("text")?, segment, destination])?)
        .context("bad configuration")?;
    let away = scene.repo.take_away()?;
    one_line(scene.fetch(segment)?).context("unreachable")?;
    one_line(scene.fetch("00000002.history")?).context("unreachable")?;
    away.bring_back()
}

/// A standby whose next segments lie in its own `pg_wal` starts, though the archive has a hole there; and so does a
/// server in archive recovery, which is no standby.
#[test]
fn hazard_02_the_servers_own_segments_bridge_a_hole() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let repo = Repo::new(&sandbox, "repo")?;
    let primary = Recipe::new("pg").segment_mb(1).archived_to(&repo).set("wal_keep_size", "64MB").start(&sandbox)?;
    primary.sql("create table t (n int)")?;
    let standby = primary.standby("standby", true)?;
    wait::until("the standby streams", || {
        Ok(primary.sql("select count(*) from pg_stat_replication where state = 'streaming'")? == "1")
    })?;
    let mut segments = Vec::new();
    for _ in 0..4 {
        primary.sql("insert into t select generate_series(1, 1000)")?;
        segments.push(primary.switch_wal()?);
    }
    wait::until("the standby has every row", || Ok(standby.sql("select count(*) from t")? == "4000"))?;
    standby.stop(StopMode::Immediate)?;
    primary.stop(StopMode::Fast)?;
    let hole = segments.get(1).context("four segments")?;
    ensure!(standby.pgdata().join("pg_wal").join(hole).exists(), "the standby does not keep {hole}");
    repo.remove(&repo.wal(hole)?)?;

    standby.start()?;
    wait::until("the standby has every row", || {
        ensure!(standby.is_running(), "the standby ended:\n{}", standby.log());
        Ok(standby.try_sql("select count(*) from t")?.stdout.trim() == "4000")
    })?;
    ensure!(standby.sql("select pg_is_in_recovery()")? == "t");
    standby.stop(StopMode::Immediate)?;

    fs::remove_file(standby.pgdata().join("standby.signal"))?;
    sandbox.write(&standby.pgdata().join("recovery.signal"), b"")?;
    standby.start()?;
    standby.wait_promoted()?;
    ensure!(standby.sql("select count(*) from t")? == "4000");
    Ok(())
}
