//! `kill -9` at moments that nobody chose.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::faults::Rehearsal;
use e2e::{Repo, StopMode, process, settings};

use super::{Scene, require_restored};

/// How much longer than an undisturbed run the longest delay is, in per cent: some runs shall end by themselves.
const BEYOND: u64 = 120;

/// A program that is killed at random, and how its victims are looked at.
struct Victim<'a> {
    command: Rehearsal,
    /// How long it usually runs.
    usual: Duration,
    /// Makes everything as it was before the first run.
    reset: Box<dyn Fn() -> Result<()> + 'a>,
    /// Nothing half-written is visible.
    between: Box<dyn Fn() -> Result<()> + 'a>,
    /// The command has done its work.
    after: Box<dyn Fn() -> Result<()> + 'a>,
}

impl<'a> Victim<'a> {
    fn new(
        command: Rehearsal,
        reset: impl Fn() -> Result<()> + 'a,
        between: impl Fn() -> Result<()> + 'a,
        after: impl Fn() -> Result<()> + 'a,
    ) -> Result<Self> {
        reset()?;
        let usual = command.run()?.success()?.took;
        Ok(Self { command, usual, reset: Box::new(reset), between: Box::new(between), after: Box::new(after) })
    }

    fn kill_once(&self, random: &mut fastrand::Rng) -> Result<bool> {
        (self.reset)()?;
        let micros = random.u64(..u64::try_from(self.usual.as_micros())? * BEYOND / 100);
        let ran = process::run_and_kill(&mut self.command.command()?, Duration::from_micros(micros))?;
        let killed = ran.signal == Some(9);
        ensure!(killed || ran.code == Some(0), "{ran}");
        (self.between)()?;
        if killed {
            self.command.run()?.success()?;
        }
        (self.after)().with_context(|| format!("killed after {micros} µs: {ran}"))?;
        Ok(killed)
    }
}

#[test]
fn programs_survive_kill_9_at_random_moments() -> Result<()> {
    let scene = Scene::new()?;
    let mut random = fastrand::Rng::with_seed(settings::seed("kill -9"));
    let backup = scene.backup()?;
    for _ in 0..2 {
        backup.run()?.success()?;
    }
    let last = scene.cluster.switch_wal()?;
    let full = Repo::new(&scene.sandbox, "full")?;
    scene.sandbox.copy(scene.repo.path(), full.path())?;
    let [archive, thinned] = ["archive", "thinned"].map(|name| Repo::new(&scene.sandbox, name));
    let (archive, thinned) = (archive?, thinned?);
    // Only a segment that the server still has can be archived once more.
    scene.sandbox.write(&scene.sandbox.path().join(&last), &full.unpack(&full.wal(&last)?)?)?;
    let segment = scene.sandbox.path().join(&last);
    let segment = segment.to_str().context("text")?;
    let original = scene.sandbox.path().join("original");
    let place = scene.sandbox.folder("place")?;
    let pgdata = place.join("pg");
    let pgdata = pgdata.to_str().context("text")?;
    let backups = scene.repo.path().join("main/backup");

    let mut args = vec!["run", "--repo", full.arg()?, "-D", pgdata, "--as", "production", "--no-start", "--yes"];
    args.extend(["-U", "postgres"]);
    let recover = Rehearsal::new(&scene.sandbox, "recover", &args);
    let archive_args = ["--repo", archive.arg()?, "-D", scene.cluster.pgdata_arg()?, segment];
    // A cluster that is stopped, to be replaced.
    scene.cluster.stop(StopMode::Fast)?;
    scene.sandbox.copy(scene.cluster.pgdata(), &original)?;
    scene.cluster.start()?;

    let victims = [
        Victim::new(
            Rehearsal::new(&scene.sandbox, "archive-wal", &archive_args),
            || scene.sandbox.clear(archive.path()),
            || archive.require_whole(),
            || {
                archive.require_whole()?;
                ensure!(archive.unpack(&archive.wal(&last)?)? == std::fs::read(segment)?, "not the segment");
                Ok(())
            },
        )?,
        Victim::new(
            backup,
            || scene.sandbox.clear(&backups),
            || scene.require_whole(&scene.repo),
            || {
                ensure!(!scene.repo.backups().is_empty());
                scene.require_whole(&scene.repo)
            },
        )?,
        Victim::new(
            recover,
            || {
                scene.sandbox.clear(&place)?;
                scene.sandbox.folder("place")?;
                scene.sandbox.copy(&original, pgdata.as_ref())
            },
            || full.require_whole(),
            || require_restored(&scene.sandbox, pgdata).map(drop),
        )?,
        Victim::new(
            Rehearsal::new(&scene.sandbox, "retention", &["--repo", thinned.arg()?, "--keep-last", "1"]),
            || scene.sandbox.copy(full.path(), thinned.path()),
            || scene.require_whole(&thinned),
            || {
                ensure!(thinned.backups().len() == 1, "{:?}", thinned.backups());
                scene.require_whole(&thinned)
            },
        )?,
    ];
    // Twice as many kills as other stories have rounds.
    let kills = 2 * settings::rounds("kill -9");
    let mut killed = 0;
    for victim in victims.iter().cycle().take(usize::try_from(kills)?) {
        killed += u32::from(victim.kill_once(&mut random)?);
    }
    settings::tell(&format!("kill -9: {killed} of {kills} runs ended by it"));
    ensure!(killed > 0, "nobody was killed");
    Ok(())
}
