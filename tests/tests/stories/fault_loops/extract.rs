//! `recover extract`: a fault at each of its calls. Production notices nothing, and of the scratch cluster nothing stays:
//! after a failure at once, after a death when the next extraction has begun.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use e2e::faults::{Rehearsal, some, try_each};
use e2e::{Sandbox, settings};

use super::Scene;
use crate::extract::{Production, nothing_left};

/// How many faults are tried where not all are: each takes a cluster or two.
const SAMPLE: usize = 12;

/// A backup, rows behind it, and an extraction of them into a folder of its own.
pub(super) struct Extraction {
    sandbox: Sandbox,
    place: PathBuf,
    pub(super) out: PathBuf,
    pub(super) command: Rehearsal,
}

impl Extraction {
    /// Of the backup that is there and the rows that [`Extraction::require_right`] asks for.
    pub(super) fn of(scene: &Scene) -> Result<Self> {
        let place = scene.sandbox.folder("extracts")?;
        let out = place.join("out.sql");
        let mut args = vec!["extract", "--repo", scene.repo.arg()?, "-d", "postgres", "-t", "t", "-j", "1"];
        args.extend(["-U", "postgres", "--output", out.to_str().context("text")?]);
        let command = Rehearsal::new(&scene.sandbox, "recover", &args);
        Ok(Self { sandbox: scene.sandbox.clone(), place, out, command })
    }

    /// Fails unless the extract has all rows of the table, once each.
    pub(super) fn require_right(&self) -> Result<()> {
        let text = fs::read_to_string(&self.out).with_context(|| format!("read {}", self.out.display()))?;
        let mut rows: Vec<u32> = text.lines().filter_map(|line| line.parse().ok()).collect();
        rows.sort_unstable();
        ensure!(rows == (1..=1001).collect::<Vec<_>>(), "{} rows of 1001, or not the same", rows.len());
        Ok(())
    }

    /// Fails when anything but the extract is left.
    pub(super) fn require_alone(&self) -> Result<()> {
        // Whether a file can be made there is tried with an empty one, and who dies right then leaves it.
        for path in e2e::sandbox::walk(&self.place) {
            if path != self.out && path.metadata()?.len() == 0 {
                self.sandbox.clear(&path)?;
            }
        }
        nothing_left(&self.place)
    }
}

#[test]
fn an_extraction_survives_every_fault() -> Result<()> {
    let scene = Scene::new()?;
    scene.backup()?.run()?.success()?;
    scene.cluster.sql("insert into t values (1001)")?;
    let production = Production::look(&scene.cluster, &[])?;
    let extraction = Extraction::of(&scene)?;
    let calls = extraction.command.calls()?;
    extraction.require_right()?;
    let again = || {
        scene.sandbox.clear(&extraction.out)?;
        extraction.command.run()?.success()?;
        extraction.require_right()?;
        extraction.require_alone()
    };
    let mut faults = some("extract", &calls, 0);
    fastrand::Rng::with_seed(settings::seed("extract")).shuffle(&mut faults);
    if !settings::is_soak() {
        faults.truncate(SAMPLE);
    }
    try_each("extract", &calls, &faults, |fault| {
        scene.sandbox.clear(&extraction.out)?;
        let ran = extraction.command.suffer(fault)?;
        if ran.code == Some(0) || extraction.out.exists() {
            extraction.require_right()?;
        }
        // What could not be removed is told of.
        let stays = ["could not be removed", "is left"].iter().any(|words| ran.stderr.contains(words));
        if !fault.kills() && !stays {
            extraction.require_alone().with_context(|| ran.to_string())?;
        }
        if settings::is_soak() || fault.kills() || stays {
            again().with_context(|| ran.to_string())?;
        }
        production.is_as_before()
    })?;
    again()
}
