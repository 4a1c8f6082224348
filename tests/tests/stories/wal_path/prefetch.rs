//! What comes next is fetched while the server replays; nothing of it is left behind, and no answer changes.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use e2e::cluster::Recipe;
use e2e::process::{self, Signal};
use e2e::{Cluster, Repo, Sandbox, StopMode, wait};

const AHEAD: &str = "was fetched ahead";

/// A server that is about to recover, from an archive with rows in forty segments.
struct Scene {
    sandbox: Sandbox,
    repo: Repo,
    rows: String,
    segments: Vec<String>,
    server: Cluster,
}

fn restore_command(sandbox: &Sandbox, repo: &Repo, option: &str) -> Result<String> {
    Ok(format!("{} {option} --repo {} %f %p", sandbox.program("restore-wal").display(), repo.arg()?))
}

impl Scene {
    /// `settings` win over those of the recovery, which ends at the last segment.
    fn new(settings: &[(&str, &str)]) -> Result<Self> {
        let sandbox = Sandbox::new()?;
        let repo = Repo::new(&sandbox, "repo")?;
        let cluster = Recipe::new("pg").segment_mb(1).archived_to(&repo).start(&sandbox)?;
        cluster.sql("create table t (n int, s text)")?;
        cluster.backup(&[])?;
        let copy = Cluster::at(&sandbox, &sandbox.path().join("copy"), Some(&repo));
        let port = sandbox.new_port().to_string();
        copy.try_recover(&["--as", "copy", "--port", &port, "--target-immediate", "--no-start"])?.success()?;
        for _ in 0..40 {
            cluster.sql("insert into t select n, md5(n::text) from generate_series(1, 3000) n")?;
            cluster.end_segment()?;
        }
        let last = cluster.end_segment()?;
        cluster.wait_archived(&last)?;
        let rows = cluster.sql("select count(*) from t")?;
        cluster.stop(StopMode::Fast)?;
        let command = restore_command(&sandbox, &repo, "-vv")?;
        let mut lines = vec![("restore_command".to_owned(), command), ("recovery_target".to_owned(), String::new())];
        lines.extend(settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        // What recover wrote there names another target and another command.
        sandbox.write(&copy.pgdata().join("postgresql.auto.conf"), b"")?;
        copy.configure(&[("archive_mode".to_owned(), "off".to_owned()), ("port".to_owned(), port)])?;
        copy.configure(&lines)?;
        let segments = repo.segments();
        Ok(Self { sandbox, repo, rows, segments, server: copy })
    }

    fn command(&self, option: &str) -> Result<String> {
        restore_command(&self.sandbox, &self.repo, option)
    }

    fn recovers(&self) -> Result<()> {
        self.server.start()?;
        self.server.wait_promoted()?;
        let rows = self.server.sql("select count(*) from t")?;
        ensure!(rows == self.rows, "{rows} rows instead of {}:\n{}", self.rows, self.server.log());
        Ok(())
    }

    /// How many segments were not fetched by the call that needed them.
    fn ahead(&self) -> usize {
        self.server.log().matches(AHEAD).count()
    }

    fn spool(&self) -> PathBuf {
        self.server.pgdata().with_extension("holdfast").join("spool")
    }

    fn prefetcher(&self) -> Result<Option<i32>> {
        process::find(self.server.pgdata(), "--prefetcher")
    }

    /// Waits until no prefetcher runs, and fails when it has left anything.
    fn is_tidied_up(&self) -> Result<()> {
        wait::until("the prefetcher ends", || Ok(self.prefetcher()?.is_none()))?;
        let left = e2e::sandbox::walk(&self.spool());
        ensure!(left.is_empty(), "left behind: {left:?}");
        Ok(())
    }
}

#[test]
fn a_recovery_finds_its_next_segments() -> Result<()> {
    let scene = Scene::new(&[])?;
    scene.recovers()?;
    ensure!(scene.ahead() >= 30, "{} of 40 segments were fetched ahead:\n{}", scene.ahead(), scene.server.log());
    scene.is_tidied_up()
}

#[test]
fn a_prefetcher_that_dies_is_not_missed() -> Result<()> {
    let scene = Scene::new(&[])?;
    scene.server.start()?;
    let mut kills = 0;
    while !scene.server.log().contains("archive recovery complete") && kills < 5 {
        if let Some(pid) = scene.prefetcher()? {
            process::signal(pid, Signal::SIGKILL)?;
            kills += 1;
        }
        ensure!(scene.server.is_running(), "the server ended:\n{}", scene.server.log());
    }
    ensure!(kills > 0, "there was no prefetcher to kill");
    scene.server.wait_promoted()?;
    let rows = scene.server.sql("select count(*) from t")?;
    ensure!(rows == scene.rows, "{rows} rows instead of {}", scene.rows);
    Ok(())
}

/// A server that stops in the middle takes its prefetcher along; the next start goes on.
#[test]
fn a_stopped_server_leaves_no_prefetcher() -> Result<()> {
    let scene = Scene::new(&[])?;
    let middle = scene.segments.get(scene.segments.len() / 2).context("forty segments")?;
    let object = scene.repo.wal(middle)?;
    let sound = std::fs::read(&object)?;
    scene.repo.flip(&object, sound.len() / 2)?;
    scene.server.start_or_end()?;
    wait::until("the server stops at the damaged segment", || Ok(!scene.server.is_running()))?;
    ensure!(scene.server.log().contains(middle), "the log does not name {middle}:\n{}", scene.server.log());
    scene.is_tidied_up()?;
    scene.repo.replace(&object, &sound)?;
    scene.recovers()?;
    scene.is_tidied_up()
}

/// Only a server in recovery is fetched ahead for: not `pg_rewind`, nor a person with a shell.
#[test]
fn nobody_else_is_fetched_ahead_for() -> Result<()> {
    let scene = Scene::new(&[("hot_standby", "on")])?;
    let name = scene.segments.last().context("forty segments")?;
    let fetch = |destination: &str| scene.server.restore_wal(name, destination)?.success();
    fetch("pg_wal/RECOVERYXLOG")?;
    ensure!(!scene.spool().exists(), "a spool without a server");
    // A standby that waits: it runs, it recovers, and it has nothing fetched ahead itself.
    scene.sandbox.write(&scene.server.pgdata().join("standby.signal"), b"")?;
    scene.server.configure(&[("restore_command".to_owned(), scene.command("--prefetch-size 0")?)])?;
    scene.server.start()?;
    fetch(&format!("pg_wal/{name}"))?;
    ensure!(!scene.spool().exists(), "a spool for pg_rewind");
    let off = ["--prefetch-size", "0", "--repo", scene.repo.arg()?, name, "pg_wal/RECOVERYXLOG"];
    scene.sandbox.run_in(scene.server.pgdata(), "restore-wal", &off)?.success()?;
    ensure!(!scene.spool().exists(), "a spool though nothing is to be fetched ahead");
    // It can be told from all those.
    fetch("pg_wal/RECOVERYXLOG")?;
    ensure!(scene.spool().exists(), "no spool for a standby");
    scene.server.stop(StopMode::Fast)?;
    scene.is_tidied_up()
}

/// What lies in the spool is not believed blindly.
#[test]
fn what_was_fetched_ahead_is_looked_at() -> Result<()> {
    let scene = Scene::new(&[("hot_standby", "on")])?;
    scene.sandbox.write(&scene.server.pgdata().join("standby.signal"), b"")?;
    scene.server.configure(&[("restore_command".to_owned(), scene.command("--prefetch-size 0")?)])?;
    scene.server.start()?;
    let (first, next) = (scene.segments.get(10).context("forty")?, scene.segments.get(11).context("forty")?);
    let archived = scene.repo.unpack(&scene.repo.wal(next)?)?;
    // The server itself uses pg_wal/RECOVERYXLOG meanwhile.
    let destination = scene.server.pgdata().join("pg_stat/RECOVERYXLOG");
    for forged in [vec![0; archived.len()], archived[..8192].to_vec(), scene.repo.unpack(&scene.repo.wal(first)?)?] {
        scene.server.restore_wal(first, "pg_stat/RECOVERYXLOG")?.success()?;
        let fetched =
            wait::for_some("the next segment is there", || Ok(e2e::sandbox::find_files(&scene.spool(), next).pop()))?;
        scene.sandbox.write(&fetched, &forged)?;
        scene.server.restore_wal(next, "pg_stat/RECOVERYXLOG")?.success()?;
        ensure!(std::fs::read(&destination)? == archived, "a forged segment was served");
    }
    scene.server.stop(StopMode::Fast)?;
    scene.is_tidied_up()
}
