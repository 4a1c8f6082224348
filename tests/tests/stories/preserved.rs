//! What somebody does by hand between two commands with the clusters that a recovery keeps: nothing of it may cost one.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use common::sys::passing;
use e2e::cluster::{Recipe, StopMode};
use e2e::faults::Rehearsal;
use e2e::{Cluster, Ran, Repo, Sandbox, wait};

struct Scene {
    sandbox: Sandbox,
    repo: Repo,
    cluster: Cluster,
}

impl Scene {
    /// A running cluster with a backup and a row that is younger.
    fn new() -> Result<Self> {
        let sandbox = Sandbox::new()?;
        let repo = Repo::new(&sandbox, "repo")?;
        let cluster = Recipe::new("pg").segment_mb(1).archived_to(&repo).start(&sandbox)?;
        cluster.backup(&[])?;
        cluster.sql("create table t as select 7 as n")?;
        Ok(Self { sandbox, repo, cluster })
    }

    fn recover_in(&self, pgdata: &Path, words: &[&str]) -> Result<Ran> {
        let pgdata = pgdata.to_str().context("a path of a test is text")?;
        let place = ["-D", pgdata, "--repo", self.repo.arg()?, "-U", "postgres"];
        self.sandbox.run("recover", &[words, &place].concat())
    }

    fn recover(&self, words: &[&str]) -> Result<Ran> {
        self.recover_in(self.cluster.pgdata(), words)
    }

    /// A recovery that is killed while it unpacks.
    fn killed_run(&self) -> Result<()> {
        let args = ["run", "-D", self.cluster.pgdata_arg()?, "--repo", self.repo.arg()?, "-U", "postgres", "--yes"];
        let run = Rehearsal::new(&self.sandbox, "recover", &[&args[..], &["--target-immediate"]].concat());
        run.killed_at(60, "make *base/*")?.context("it unpacks more")?;
        Ok(())
    }

    fn preserved(&self) -> Result<PathBuf> {
        let status = self.recover(&["status", "--json"])?.success()?.json()?;
        let path = status.pointer("/preserved").and_then(|path| path.as_str()).context("what is preserved")?;
        Ok(path.into())
    }

    fn require_old(&self) -> Result<()> {
        wait::until("the old server takes sessions", || Ok(self.cluster.try_sql("select 1")?.code == Some(0)))?;
        ensure!(self.cluster.sql("select n from t")? == "7");
        Ok(())
    }
}

/// Put back by hand and started, the old cluster lies where the unpacked backup lay.
#[test]
fn what_a_run_goes_on_with_is_what_it_has_made() -> Result<()> {
    let scene = Scene::new()?;
    scene.killed_run()?;
    let preserved = scene.preserved()?;
    scene.sandbox.clear(scene.cluster.pgdata())?;
    passing::rename(&preserved, scene.cluster.pgdata())?;
    scene.cluster.start()?;
    scene.recover(&["run", "--resume"])?.expect_code(20)?.says(&["a server (process", "runs on"])?;
    scene.require_old()?;
    scene.cluster.stop(StopMode::Fast)?;
    let name = preserved.to_string_lossy();
    scene.recover(&["run", "--resume"])?.expect_code(20)?.says(&["the old cluster is not in", &name])?;
    scene.cluster.start()?;
    scene.require_old()?;
    // It is as it was, which a rollback finds out too.
    scene.recover(&["rollback", "--yes"])?.success()?;
    scene.require_old()
}

/// The data directory, its journal and what it names, copied to another place.
#[test]
fn a_journal_is_obeyed_in_its_own_place() -> Result<()> {
    let scene = Scene::new()?;
    scene.cluster.recover(&["--target-immediate"])?;
    let preserved = scene.preserved()?;
    scene.cluster.stop(StopMode::Fast)?;
    let (one, two) = (scene.cluster.pgdata(), scene.sandbox.folder("two")?.join("pg"));
    let kept = |pgdata: &Path| pgdata.with_extension("holdfast");
    scene.sandbox.copy(one, &two)?;
    scene.sandbox.copy(&kept(one), &kept(&two))?;
    let (here, there) = (two.to_string_lossy(), one.to_string_lossy());
    for words in [
        &["cleanup", "--yes"][..],
        &["rollback", "--yes"],
        &["status"],
        &["finish"],
        &["run", "--resume"],
        &["run", "--target-immediate", "--yes"],
    ] {
        let ran = scene.recover_in(&two, words)?.expect_code(20)?;
        ran.says(&[&format!("a recovery of {there}, not of {here}"), "move"])?;
        ensure!(preserved.exists() && one.exists() && two.exists(), "{words:?}");
    }
    scene.sandbox.clear(&kept(&two))?;
    ensure!(scene.recover_in(&two, &["status"])?.success()?.stdout.contains("no recovery"));
    // Another way to the same place is no other place.
    let link = scene.sandbox.path().join("link");
    std::os::unix::fs::symlink(one, &link)?;
    scene.recover_in(&link, &["status"])?.success()?;
    scene.recover_in(&link, &["rollback", "--yes"])?.success()?;
    scene.require_old()
}

/// Without the old cluster there is nothing that could be as it was.
#[test]
fn a_rollback_needs_the_preserved_cluster() -> Result<()> {
    let scene = Scene::new()?;
    scene.cluster.recover(&["--target-immediate"])?;
    scene.cluster.switch_wal()?;
    let (preserved, elsewhere) = (scene.preserved()?, scene.sandbox.path().join("elsewhere"));
    passing::rename(&preserved, &elsewhere)?;
    let (pid, before) = (scene.cluster.pid()?, scene.repo.fingerprint()?);
    let name = preserved.to_string_lossy();
    scene.recover(&["rollback", "--yes"])?.expect_code(20)?.says(&[
        "the old cluster is not in",
        &name,
        "move it back",
    ])?;
    ensure!(scene.cluster.pid()? == pid && scene.cluster.is_running() && scene.repo.fingerprint()? == before);
    passing::rename(&elsewhere, &preserved)?;
    scene.recover(&["rollback", "--yes"])?.success()?;
    scene.require_old()
}

/// Somebody looks at the old data, by a server on the preserved directory.
#[test]
fn a_server_on_the_preserved_cluster_keeps_its_directory() -> Result<()> {
    let scene = Scene::new()?;
    scene.killed_run()?;
    let preserved = scene.preserved()?;
    let looked_at = Cluster::at(&scene.sandbox, &preserved, None);
    looked_at.start()?;
    for words in [&["rollback", "--yes"][..], &["run", "--target-immediate", "--yes"]] {
        let name = preserved.to_string_lossy();
        scene.recover(words)?.expect_code(20)?.says(&["a server (process", "runs on", &name])?;
        ensure!(looked_at.is_running() && looked_at.sql("select n from t")? == "7");
    }
    looked_at.stop(StopMode::Fast)?;
    scene.recover(&["rollback", "--yes"])?.success()?;
    scene.require_old()
}

/// A new run undoes one that was cut short, and is refused: the old server would stay down.
#[test]
fn a_server_that_a_second_run_left_down_comes_up() -> Result<()> {
    let scene = Scene::new()?;
    let refused = || -> Result<()> {
        scene.killed_run()?;
        let ran = scene.recover(&["run", "--target-lsn", "FFFF/0", "--yes"])?.expect_code(20)?;
        ensure!(ran.stdout.contains("recover rollback starts it"), "{ran}");
        ensure!(!scene.cluster.is_running());
        Ok(())
    };
    refused()?;
    let told = scene.recover(&["rollback", "--json"])?.success()?.json()?;
    ensure!(told.pointer("/server").is_some_and(|server| server == "ready"), "{told}");
    scene.require_old()?;
    // Whoever stops it afterwards wants it down.
    scene.cluster.stop(StopMode::Fast)?;
    let told = scene.recover(&["rollback", "--json"])?.success()?.json()?;
    ensure!(told.pointer("/server").is_some_and(serde_json::Value::is_null), "{told}");
    ensure!(!scene.cluster.is_running());

    // A later run takes it over that the server ran.
    scene.cluster.start()?;
    refused()?;
    scene.cluster.recover(&["--target-immediate"])?;
    scene.recover(&["rollback", "--yes"])?.success()?;
    scene.require_old()
}
