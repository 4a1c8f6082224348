//! `recover run`: a fault at each of its calls until the files are in place.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use e2e::faults::{Rehearsal, at, some, try_each};
use e2e::{Ran, StopMode, wait};

use super::{Scene, require_restored};

/// Runs an interrupted recovery of a directory in `place` again. It succeeds; but where only the last word of the first
/// run is missing it is refused, so that a server that somebody has started on the files is not set aside unasked.
pub(super) fn run_again(command: &Rehearsal, place: &Path) -> Result<Ran> {
    let again = command.run()?;
    let mut journals = e2e::sandbox::find_files(place, "journal.json").into_iter();
    let journal = journals.next().map(std::fs::read_to_string).transpose()?.unwrap_or_default();
    if again.code != Some(0) && journal.contains("\"stage\":\"placed\"") {
        again.expect_code(20)?.says(&["is not over", "recover rollback"])
    } else {
        again.success()
    }
}

#[test]
fn a_copy_survives_every_fault() -> Result<()> {
    let scene = Scene::new()?;
    scene.backup()?.run()?.success()?;
    scene.cluster.switch_wal()?;
    scene.cluster.stop(StopMode::Fast)?;
    // The leases of those that were killed are there until they expire.
    let fingerprint = || {
        let all = scene.repo.fingerprint()?.into_iter();
        anyhow::Ok(all.filter(|(path, _)| !path.to_string_lossy().contains("/lease/")).collect::<BTreeMap<_, _>>())
    };
    let before = fingerprint()?;
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
        if command.suffer(fault)?.code != Some(0) {
            run_again(&command, &place)?;
        }
        ensure!(copy.join("recovery.signal").exists(), "nothing tells the server to recover");
        require_restored(&scene.sandbox, pgdata).map(drop)
    })?;
    ensure!(fingerprint()? == before, "a recovery changed the repository");
    Ok(())
}

/// The same command undoes what an interrupted one made and goes all the way; a rollback after it still knows that a
/// server ran before the first.
#[test]
fn an_interrupted_recovery_in_place_begins_anew() -> Result<()> {
    let scene = Scene::new()?;
    scene.backup()?.run()?.success()?;
    scene.cluster.sql("create table late as select 1 as n")?;
    let pgdata = scene.cluster.pgdata_arg()?;
    let run = ["run", "--repo", scene.repo.arg()?, "-D", pgdata, "-U", "postgres", "--yes", "-j", "1"];
    let recover = Rehearsal::new(&scene.sandbox, "recover", &run);
    let files = Rehearsal::new(&scene.sandbox, "recover", &[&run[..], &["--no-start"]].concat());
    let rollback = || {
        scene.sandbox.run("recover", &["rollback", "--repo", scene.repo.arg()?, "-D", pgdata, "--yes"])?.success()?;
        wait::until("the old server is back", || Ok(scene.cluster.is_running()))?;
        scene.cluster.wait_promoted()
    };
    let calls = files.calls()?;
    rollback()?;
    let extracting = at(&calls, "make", "base/", "kill").context("a file is made in base")?;
    recover.suffer(&extracting)?;
    ensure!(!scene.cluster.is_running() && !scene.cluster.pgdata().join("global/pg_control").exists());
    let dry = scene.sandbox.run("recover", &[&run[..], &["--dry-run"]].concat())?;
    dry.expect_code(20)?.says(&["is not over"])?;

    let again = recover.run()?.success()?;
    ensure!(again.stdout.contains("is undone first"), "{again}");
    scene.cluster.wait_promoted()?;
    ensure!(scene.cluster.timeline()? == 2 && scene.cluster.sql("select count(*) from late")? == "1");
    rollback()?;
    // What was undone had been archived, so the old cluster is on a newer timeline than that.
    ensure!(scene.cluster.timeline()? == 3 && scene.cluster.sql("select count(*) from late")? == "1");
    Ok(())
}
