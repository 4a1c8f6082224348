//! `kill -9` at moments that nobody chose.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::faults::Rehearsal;
use e2e::{Repo, StopMode, process, settings};

use super::extract::Extraction;
use super::recover::run_again;
use super::{Scene, require_restored};
use crate::extract::Production;

type Step<'a> = Box<dyn Fn() -> Result<()> + 'a>;

/// A program that is killed at random, and how its work is looked at.
struct Victim<'a> {
    command: Rehearsal,
    /// How long it runs undisturbed. Some runs are faster, and end by themselves.
    usual: Duration,
    /// Makes everything as it was before the first run.
    reset: Step<'a>,
    /// Runs it again after it was killed.
    again: Step<'a>,
    /// Nothing half-written is visible.
    between: Step<'a>,
    /// It has done its work.
    after: Step<'a>,
}

impl<'a> Victim<'a> {
    fn new(
        command: Rehearsal,
        reset: impl Fn() -> Result<()> + 'a,
        between: impl Fn() -> Result<()> + 'a,
        after: impl Fn() -> Result<()> + 'a,
    ) -> Result<Self> {
        let undisturbed = || -> Result<Duration> {
            reset()?;
            Ok(command.run()?.success()?.took)
        };
        // The first run finds nothing in memory yet.
        let usual = undisturbed()?.min(undisturbed()?);
        let same = command.clone();
        Ok(Self {
            command,
            usual,
            reset: Box::new(reset),
            again: Box::new(move || same.run()?.success().map(drop)),
            between: Box::new(between),
            after: Box::new(after),
        })
    }

    /// Answers whether it was killed before it ended.
    fn kill_once(&self, random: &mut fastrand::Rng) -> Result<bool> {
        (self.reset)()?;
        let micros = random.u64(..u64::try_from(self.usual.as_micros())?);
        let ran = process::run_and_kill(&mut self.command.command()?, Duration::from_micros(micros))?;
        let killed = ran.signal == Some(9);
        let look = || {
            ensure!(killed || ran.code == Some(0), "neither killed nor done");
            (self.between)()?;
            if killed {
                (self.again)()?;
            }
            (self.after)()
        };
        look().with_context(|| format!("killed after {micros} µs: {ran}"))?;
        Ok(killed)
    }
}

/// A segment goes into a repository that is not there yet.
fn archive_wal<'a>(scene: &'a Scene, segment: &str) -> Result<Victim<'a>> {
    let archive = Repo::new(&scene.sandbox, "archive")?;
    let (name, file) = (segment.to_owned(), scene.sandbox.path().join(segment));
    let bytes = scene.repo.unpack(&scene.repo.wal(segment)?)?;
    scene.sandbox.write(&file, &bytes)?;
    let args = ["--repo", archive.arg()?, "-D", scene.cluster.pgdata_arg()?, file.to_str().context("text")?];
    let command = Rehearsal::new(&scene.sandbox, "archive-wal", &args);
    let (fresh, seen) = (archive.clone(), archive.clone());
    Victim::new(
        command,
        move || fresh.forget(),
        move || seen.require_whole(),
        move || {
            archive.require_whole()?;
            ensure!(archive.unpack(&archive.wal(&name)?)? == bytes, "the archived segment is not the server's");
            Ok(())
        },
    )
}

fn basebackup(scene: &Scene) -> Result<Victim<'_>> {
    Victim::new(
        scene.backup()?,
        || scene.sandbox.clear(&scene.repo.path().join("main/backup")),
        || scene.require_whole(&scene.repo),
        || {
            ensure!(!scene.repo.backups().is_empty(), "no backup is there");
            scene.require_whole(&scene.repo)
        },
    )
}

/// A stopped cluster is replaced.
fn recover<'a>(scene: &'a Scene, full: &'a Repo, original: &'a Path) -> Result<Victim<'a>> {
    let place = scene.sandbox.path().join("place");
    let pgdata = place.join("pg");
    let arg = pgdata.to_str().context("text")?.to_owned();
    let mut args = vec!["run", "--repo", full.arg()?, "-D", &arg, "--as", "production", "-U", "postgres"];
    args.extend(["--no-start", "--yes"]);
    let command = Rehearsal::new(&scene.sandbox, "recover", &args);
    let (folder, same) = (place.clone(), command.clone());
    let victim = Victim::new(
        command,
        move || {
            scene.sandbox.clear(&folder)?;
            scene.sandbox.folder("place")?;
            scene.sandbox.copy(original, &pgdata)
        },
        || full.require_whole(),
        move || require_restored(&scene.sandbox, &arg).map(drop),
    )?;
    Ok(Victim { again: Box::new(move || run_again(&same, &place).map(drop)), ..victim })
}

fn retention<'a>(scene: &'a Scene, full: &'a Repo) -> Result<Victim<'a>> {
    let thinned = Repo::new(&scene.sandbox, "thinned")?;
    let command = Rehearsal::new(&scene.sandbox, "retention", &["--repo", thinned.arg()?, "--keep-last", "1"]);
    let (fresh, seen) = (thinned.clone(), thinned.clone());
    Victim::new(
        command,
        move || scene.sandbox.copy(full.path(), fresh.path()),
        move || scene.require_whole(&seen),
        move || {
            ensure!(thinned.backups().len() == 1, "{:?} are left", thinned.backups());
            scene.require_whole(&thinned)
        },
    )
}

/// Beside a server that runs; what was left by one that was killed, the next removes.
fn extract<'a>(scene: &'a Scene, extraction: &'a Extraction, production: &'a Production) -> Result<Victim<'a>> {
    let victim = Victim::new(
        extraction.command.clone(),
        || scene.sandbox.clear(&extraction.out),
        || production.is_as_before(),
        || {
            extraction.require_right()?;
            extraction.require_alone()
        },
    )?;
    let again = || {
        // Killed behind its end: what has its name is whole, and is never replaced.
        if extraction.out.exists() {
            extraction.require_right()?;
            extraction.command.run()?.expect_code(20)?;
            scene.sandbox.clear(&extraction.out)?;
        }
        extraction.command.run()?.success().map(drop)
    };
    Ok(Victim { again: Box::new(again), ..victim })
}

/// It looks and changes nothing, so nothing is left either.
fn find<'a>(scene: &'a Scene, production: &'a Production) -> Result<Victim<'a>> {
    let args = ["find", "--repo", scene.repo.arg()?, "-D", scene.cluster.pgdata_arg()?, "-U", "postgres"];
    let command = Rehearsal::new(&scene.sandbox, "recover", &args);
    Victim::new(command, || Ok(()), || production.is_untouched(), || production.is_untouched())
}

/// The programs that leave a running cluster as it is.
#[test]
fn what_only_looks_survives_kill_9_at_random_moments() -> Result<()> {
    let scene = Scene::new()?;
    scene.backup()?.run()?.success()?;
    scene.cluster.sql("insert into t values (1001)")?;
    scene.cluster.sql("create table gone as select 1 as n; drop table gone")?;
    let production = Production::look(&scene.cluster, &[])?;
    let extraction = Extraction::of(&scene)?;
    let victims = [extract(&scene, &extraction, &production)?, find(&scene, &production)?];
    kill_in_turn("kill -9 beside a server", &victims, settings::rounds("kill -9 beside a server"))
}

#[test]
fn programs_survive_kill_9_at_random_moments() -> Result<()> {
    let scene = Scene::new()?;
    for _ in 0..2 {
        scene.backup()?.run()?.success()?;
    }
    let segment = scene.cluster.switch_wal()?;
    // Cluster and repository at one moment; later the backups of this story come and go.
    scene.cluster.stop(StopMode::Fast)?;
    let (full, original) = (Repo::new(&scene.sandbox, "full")?, scene.sandbox.path().join("original"));
    scene.sandbox.copy(scene.repo.path(), full.path())?;
    scene.sandbox.copy(scene.cluster.pgdata(), &original)?;
    scene.cluster.start()?;
    let victims = [
        archive_wal(&scene, &segment)?,
        basebackup(&scene)?,
        recover(&scene, &full, &original)?,
        retention(&scene, &full)?,
    ];

    // Twice as many kills as other stories have rounds.
    kill_in_turn("kill -9", &victims, 2 * settings::rounds("kill -9"))
}

fn kill_in_turn(story: &str, victims: &[Victim<'_>], kills: u32) -> Result<()> {
    let mut random = fastrand::Rng::with_seed(settings::seed(story));
    let mut killed = 0;
    for victim in victims.iter().cycle().take(usize::try_from(kills)?) {
        killed += u32::from(victim.kill_once(&mut random)?);
    }
    settings::tell(&format!("{story}: {killed} of {kills} runs ended by it"));
    ensure!(killed > 0, "nobody was killed");
    Ok(())
}
