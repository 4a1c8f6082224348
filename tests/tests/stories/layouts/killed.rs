//! `kill -9` at each step and between: gone on with, the recovery is right; undone, the old cluster is.

use anyhow::{Context, Result, ensure};
use e2e::layout::ALL;
use e2e::{settings, workload};

use super::scene::Scene;

/// Each time the journal is written, a step begins or has ended; the first time nothing is touched yet.
const NOTED: &str = "rename to *journal.json";

/// How often a whole run writes its journal.
const NOTES: u32 = 17;

/// In the middle of a step: which call of which sort.
const AMID: [(u32, &str); 8] = [
    (1, "rename to *before-*"),
    (2, "rename to *before-*"),
    (60, "make *base/*"),
    (1, "rename to *backup_manifest"),
    (1, "rename to *postgresql.auto.conf"),
    (1, "rename to *recovery.signal"),
    (1, "rename to *server.log"),
    (2, "rename to *postgresql.auto.conf"),
];

/// One for each step, and some between: by turns for the layouts.
const SAMPLE: [(u32, &str); 10] = [
    (2, NOTED),
    (3, NOTED),
    (1, "rename to *before-*"),
    (6, NOTED),
    (60, "make *base/*"),
    (8, NOTED),
    (1, "rename to *recovery.signal"),
    (13, NOTED),
    (15, NOTED),
    (17, NOTED),
];

pub(super) fn at_its_steps(scene: &Scene) -> Result<()> {
    let points: Vec<(u32, &str)> = if settings::is_soak() {
        (2..=NOTES).map(|number| (number, NOTED)).chain(AMID).collect()
    } else {
        let own = |index: &usize| index % ALL.len() == scene.layout.index();
        (0..SAMPLE.len()).filter(own).filter_map(|index| SAMPLE.get(index).copied()).collect()
    };
    let mut killed = 0;
    for (number, pattern) in points {
        let context = || format!("{:?}, killed before call {number} that looks like {pattern:?}", scene.layout);
        killed += u32::from(resumed(scene, number, pattern).with_context(context)?);
        killed += u32::from(undone(scene, number, pattern).with_context(context)?);
        // What was undone is not needed, and there is only so much room.
        scene.recover("cleanup", &["--yes"])?.run()?.success().with_context(context)?;
        scene.require_as_before().with_context(context)?;
    }
    settings::tell(&format!("{:?}: killed {killed} times", scene.layout));
    while_it_is_undone(scene)
}

/// The calls of a rollback that it is killed before. Not every layout has all of them.
const UNDOING: [(u32, &str); 10] = [
    (1, NOTED),
    (2, NOTED),
    (1, "rename to *undone-*"),
    (3, NOTED),
    (4, NOTED),
    (1, "rename to *postgresql.auto.conf"),
    (1, "rename to *recovery.signal"),
    (5, NOTED),
    (2, "rename to *postgresql.auto.conf"),
    (6, NOTED),
];

/// A rollback that is killed goes on when it is called again. In a soak at each of these calls; otherwise one in a layout.
fn while_it_is_undone(scene: &Scene) -> Result<()> {
    let own = |index: &usize| settings::is_soak() || *index == scene.layout.index() + 2;
    let lsn = scene.commit()?.lsn.to_string();
    let mut killed = 0;
    for (number, pattern) in (0..UNDOING.len()).filter(own).filter_map(|index| UNDOING.get(index)) {
        let context = || format!("{:?}, rollback killed before call {number} of {pattern:?}", scene.layout);
        scene.run(&["--target-lsn", &lsn])?.run()?.success().with_context(context)?;
        let rollback = scene.recover("rollback", &["--yes"])?;
        killed += u32::from(rollback.killed_at(*number, pattern).with_context(context)?.is_some());
        scene.roll_back().with_context(context)?;
        let status = scene.status()?;
        ensure!(status.pointer("/stage").is_some_and(|stage| stage == "rolledback"), "{status}");
        scene.recover("cleanup", &["--yes"])?.run()?.success().with_context(context)?;
    }
    settings::tell(&format!("{:?}: rollback killed {killed} times", scene.layout));
    Ok(())
}

/// Kills a run; whether it had that call. One that had not is undone.
fn kill(scene: &Scene, number: u32, pattern: &str) -> Result<bool> {
    let lsn = scene.commit()?.lsn.to_string();
    let was_killed = scene.run(&["--target-lsn", &lsn])?.killed_at(number, pattern)?.is_some();
    if !was_killed {
        ensure!(pattern != NOTED, "a run writes its journal less often");
        scene.roll_back()?;
    }
    Ok(was_killed)
}

fn resumed(scene: &Scene, number: u32, pattern: &str) -> Result<bool> {
    if !kill(scene, number, pattern)? {
        return Ok(false);
    }
    let status = scene.status()?;
    let next = status.pointer("/next/0").and_then(serde_json::Value::as_str);
    if (number, pattern) == (2, NOTED) {
        // Nothing was touched, so nothing is to be gone on with; the journal alone says that there was something.
        ensure!(status.pointer("/next").is_some() && next.is_none(), "{status}");
    } else {
        ensure!(next.is_some_and(|next| next.contains("run --resume")), "{status}");
    }
    let ran = scene.recover("run", &["--resume"])?.run()?.success()?;
    let recovered = scene.recovered();
    recovered.wait_promoted()?;
    let expected = scene.oracle.at_lsn(scene.commit()?.lsn, true);
    workload::same_orders(&workload::orders(&recovered)?, &expected).with_context(|| ran.to_string())?;
    let again = scene.recover("run", &["--resume"])?.run()?;
    again.expect_code(20)?.says(&["is over"])?;
    scene.roll_back()?;
    Ok(true)
}

fn undone(scene: &Scene, number: u32, pattern: &str) -> Result<bool> {
    if !kill(scene, number, pattern)? {
        return Ok(false);
    }
    let ran = scene.roll_back()?;
    // As often as it is asked for.
    let again = scene.recover("rollback", &["--yes"])?.run()?.success()?;
    ensure!(again.stdout.contains("undone already"), "{ran}{again}");
    scene.require_as_before()?;
    Ok(true)
}
