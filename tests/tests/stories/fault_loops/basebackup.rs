//! `basebackup`: a fault at each of its calls, the reading of the server's files included.

use anyhow::{Context, Result, ensure};
use e2e::faults::{some, try_each};

use super::{Scene, require_restored};

#[test]
fn basebackup_survives_every_fault() -> Result<()> {
    let scene = Scene::new()?;
    let command = scene.backup()?;
    let folder = scene.repo.path().join("main/backup");
    let calls = command.calls()?;
    try_each("basebackup", &calls, &some("basebackup", &calls, 2), |fault| {
        scene.sandbox.clear(&folder)?;
        // Archived WAL that no later backup needs: the server archives on meanwhile, so its newest stays.
        for object in scene.repo.wal_objects().into_values().rev().skip(6) {
            scene.repo.remove(&object)?;
        }
        let ran = command.suffer(fault)?;
        scene.require_whole(&scene.repo)?;
        ensure!(ran.code != Some(0) || !scene.repo.backups().is_empty(), "a backup was made and is not there: {ran}");
        let before = scene.repo.backups();
        let again = command.run()?.success()?;
        let new: Vec<_> = scene.repo.backups().into_iter().filter(|id| !before.contains(id)).collect();
        ensure!(new == [again.stdout.trim()], "{new:?} after {again}");
        scene.require_whole(&scene.repo)
    })?;

    let id = scene.repo.backups().pop().context("a backup")?;
    let copy = scene.sandbox.path().join("copy");
    let copy = copy.to_str().context("text")?;
    let args = ["run", "--repo", scene.repo.arg()?, "-D", copy, "--backup", &id, "--no-start", "--yes", "-p", "5999"];
    scene.sandbox.run("recover", &args)?.success()?;
    require_restored(&scene.sandbox, copy).map(drop)
}
