//! `retention`: a fault at each of its calls; the next run ends where an undisturbed one would have.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use chrono::TimeDelta;
use common::repo::envelope;
use common::repo::records::StartedRecord;
use e2e::faults::{Rehearsal, some, try_each};
use e2e::{Repo, StopMode};

use super::Scene;

/// What a repository holds, wherever it lies.
fn contents(repo: &Repo) -> Result<BTreeMap<PathBuf, u64>> {
    let below = |(path, digest): (PathBuf, u64)| Ok((path.strip_prefix(repo.path())?.to_owned(), digest));
    repo.fingerprint()?.into_iter().map(below).collect()
}

/// Lets a backup be two hours old. The remains of one that is minutes old are left alone for half an hour: they look
/// like a backup that is being made.
fn age(repo: &Repo, id: &str) -> Result<()> {
    let object = repo.backup_object(id, "started.json")?;
    let mut record: StartedRecord = envelope::open(&std::fs::read(&object)?)?;
    record.heartbeat_at -= TimeDelta::hours(2);
    repo.replace(&object, &envelope::seal(&record)?)
}

#[test]
fn retention_survives_every_fault() -> Result<()> {
    let scene = Scene::new()?;
    for _ in 0..3 {
        scene.cluster.switch_wal()?;
        scene.backup()?.run()?.success()?;
    }
    scene.cluster.stop(StopMode::Fast)?;
    for id in scene.repo.backups() {
        age(&scene.repo, &id)?;
    }
    let last = scene.repo.backups().pop().context("three backups")?;
    let repo = Repo::new(&scene.sandbox, "thinned")?;
    let reset = || scene.sandbox.copy(scene.repo.path(), repo.path());
    let command = Rehearsal::new(&scene.sandbox, "retention", &["--repo", repo.arg()?, "--keep-last", "1"]);
    reset()?;
    let calls = command.calls()?;
    let done = contents(&repo)?;
    ensure!(repo.backups() == [last.clone()] && done.len() < contents(&scene.repo)?.len());
    try_each("retention", &calls, &some("retention", &calls, usize::MAX), |fault| {
        reset()?;
        command.suffer(fault)?;
        scene.require_whole(&repo)?;
        ensure!(repo.backups().contains(&last), "the last backup is gone");
        command.run()?.success()?;
        scene.require_whole(&repo)?;
        ensure!(contents(&repo)? == done, "another end than that of an undisturbed run");
        Ok(())
    })
}
