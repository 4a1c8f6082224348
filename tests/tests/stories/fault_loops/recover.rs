//! `recover run`: a fault at each of its calls until the files are in place.

use anyhow::{Context, Result, ensure};
use e2e::StopMode;
use e2e::faults::{Rehearsal, some, try_each};
use e2e::sandbox::walk;

use super::{Scene, require_restored};

/// Into a directory that is not there yet. Where the last call of a run is lost the files are in place already: then
/// the same command is refused, so that nobody's recovered server is set aside unasked.
#[test]
fn a_copy_survives_every_fault() -> Result<()> {
    let scene = Scene::new()?;
    scene.backup()?.run()?.success()?;
    scene.cluster.switch_wal()?;
    scene.cluster.stop(StopMode::Fast)?;
    let before = scene.repo.fingerprint()?;
    let place = scene.sandbox.folder("place")?;
    let copy = place.join("copy");
    let pgdata = copy.to_str().context("text")?;
    let mut args = vec!["run", "--repo", scene.repo.arg()?, "-D", pgdata, "--as", "copy", "-p", "5999"];
    args.extend(["--no-start", "--yes", "-j", "1"]);
    let command = Rehearsal::new(&scene.sandbox, "recover", &args);
    let calls = command.calls()?;
    try_each("recover", &calls, &some("recover", &calls, 5), |fault| {
        for left in std::fs::read_dir(&place)? {
            scene.sandbox.clear(&left?.path())?;
        }
        let ran = command.suffer(fault)?;
        if ran.code != Some(0) {
            let again = command.run()?;
            let placed = std::fs::read_to_string(place.join("copy.holdfast/journal.json")).unwrap_or_default();
            if again.code != Some(0) && placed.contains("\"stage\":\"placed\"") {
                again.expect_code(20)?.says(&["is not over", "recover rollback"])?;
            } else {
                again.success()?;
            }
        }
        ensure!(copy.join("recovery.signal").exists());
        require_restored(&scene.sandbox, pgdata)?;
        let temporary =
            |path: &std::path::PathBuf| path.file_name().is_some_and(common::sys::durable::is_temporary_name);
        ensure!(!walk(&copy).iter().any(temporary), "a temporary file lies in the data directory");
        Ok(())
    })?;
    ensure!(scene.repo.fingerprint()? == before, "a recovery changed the repository");
    Ok(())
}
