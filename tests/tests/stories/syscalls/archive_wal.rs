//! `archive-wal`: every error and a death at every system call.

use anyhow::{Context, Result, ensure};
use common::sys::durable::is_temporary_name;
use e2e::faults::Rehearsal;
use e2e::sandbox::walk;
use e2e::syscalls::{self, Call, Fault, Traced};
use e2e::{Ran, Repo, settings};
use nix::sys::signal::Signal;
use rstest::rstest;

use crate::fault_loops::archive_wal::Scene;

/// A way in which a file finds its repositories.
struct Shape {
    scene: Scene,
    /// Where it goes.
    repos: Vec<Repo>,
    /// As the first of them is before.
    start: Repo,
    name: String,
    /// Whether it takes no other files along, whose faults are their own affair.
    alone: bool,
    command: Rehearsal,
}

impl Shape {
    /// The file of this number goes into so many repositories, the first of which holds the files `before`; without
    /// any, not even its folder is there.
    fn new(before: &[usize], file: usize, count: usize) -> Result<Self> {
        let scene = Scene::new()?;
        let start = Repo::new(&scene.sandbox, "start")?;
        let repos = (0..count).map(|n| Repo::new(&scene.sandbox, &format!("repo{n}"))).collect::<Result<Vec<_>>>()?;
        let command = scene.archive(file, &repos.iter().collect::<Vec<_>>())?;
        let name = scene.name(file)?;
        for &number in before {
            scene.archive(number, &[&start])?.run()?.success()?;
        }
        Ok(Self { scene, repos, start, name, alone: true, command })
    }

    /// The first file, with all others of the scene along, into a repository that is not there yet.
    fn batch() -> Result<Self> {
        let shape = Self::new(&[], 0, 1)?;
        shape.scene.mark_ready()?;
        let command = shape.scene.archive_with(0, &shape.repos.iter().collect::<Vec<_>>(), "4")?;
        Ok(Self { command, alone: false, ..shape })
    }

    /// Everything as it was before the file came.
    fn reset(&self) -> Result<()> {
        self.scene.forget_acknowledgements()?;
        for repo in &self.repos {
            repo.forget()?;
        }
        match self.repos.first() {
            Some(repo) if self.start.path().join("main").exists() => {
                self.scene.sandbox.copy(self.start.path(), repo.path())
            }
            _ => Ok(()),
        }
    }

    fn calls(&self) -> Result<Vec<Call>> {
        self.reset()?;
        syscalls::calls(&self.command, 0)
    }

    fn attempt(&self, fault: &Fault, mut end: impl FnMut(&Ran) -> bool) -> Result<()> {
        self.reset()?;
        if let Some(traced) = syscalls::suffer(&self.command, fault)? {
            let mut judge = || {
                ensure!(end(&traced.ran), "a wrong end");
                self.judge(fault, &traced)
            };
            judge().with_context(|| traced.ran.to_string())?;
        }
        self.command.run()?.success()?;
        self.repos.iter().try_for_each(|repo| {
            self.scene.require_true(repo)?;
            repo.wal(&self.name).map(drop)
        })
    }

    /// What is visible is true, and 0 was answered for a file that is there for good.
    fn judge(&self, fault: &Fault, traced: &Traced) -> Result<()> {
        if traced.ran.code == Some(0) && self.alone {
            let unsynced = syscalls::unsynced(traced, fault);
            ensure!(unsynced.is_none(), "archived, and a power cut may take it: {unsynced:?}");
        }
        for repo in &self.repos {
            self.scene.require_true(repo)?;
            self.scene.require_acknowledged(repo)?;
            let done = traced.ran.code == Some(0);
            ensure!(!done || repo.find_wal(&self.name).is_some(), "archived, and not there");
            // A temporary file that cannot be removed stays, and so does what a killed process was writing. So does another
            // thread's where the standard library panics: it does when a folder that was listed cannot be closed.
            let is_cut_short = traced.ran.signal == Some(9) || traced.ran.code == Some(125);
            if !is_cut_short && fault.call.what != "unlink" {
                let left = walk(repo.path());
                let left = left.iter().find(|path| path.file_name().is_some_and(is_temporary_name));
                ensure!(left.is_none(), "left behind: {left:?}");
            }
        }
        Ok(())
    }
}

#[rstest]
#[case::the_first_file("first", &[], 0, 1, usize::MAX)]
#[case::a_second_file("second", &[0], 1, 1, 20)]
#[case::the_same_file_again("again", &[0], 0, 1, 20)]
#[case::a_history("history", &[0], 3, 1, 20)]
#[case::a_segment_whose_history_is_missing("child", &[0], 2, 1, 20)]
#[case::two_repositories("two", &[], 0, 2, 20)]
fn archive_wal_survives_every_answer_of_the_kernel(
    #[case] story: &str,
    #[case] before: &[usize],
    #[case] file: usize,
    #[case] repos: usize,
    #[case] count: usize,
) -> Result<()> {
    survives(story, &Shape::new(before, file, repos)?, count)
}

#[test]
fn a_batch_survives_every_answer_of_the_kernel() -> Result<()> {
    survives("batch", &Shape::batch()?, 60)
}

/// Tries so many of the faults; all of them in a soak.
fn survives(story: &str, shape: &Shape, count: usize) -> Result<()> {
    let story = format!("system calls of archive-wal, {story}");
    let calls = shape.calls()?;
    let faults = syscalls::sample(&story, syscalls::every(&calls), count);
    syscalls::try_each(&story, &calls, &faults, |fault| {
        let killed = fault.signal().is_some();
        shape.attempt(fault, |ran| match ran.code {
            Some(125) => fault.call.what == "close",
            Some(code) => !killed && code < 125,
            None => killed && ran.signal == Some(Signal::SIGKILL as i32),
        })
    })
}

/// It cleans up and ends with 1; before it listens to signals it dies of them, and has done nothing yet. Once the file has
/// its name, it may as well finish.
#[rstest]
#[case::the_first_file("first", &[], 0, 1)]
#[case::the_same_file_again("again", &[0], 0, 1)]
#[case::two_repositories("two", &[], 0, 2)]
fn archive_wal_cleans_up_when_it_is_told_to_end(
    #[case] story: &str,
    #[case] before: &[usize],
    #[case] file: usize,
    #[case] repos: usize,
) -> Result<()> {
    let story = format!("SIGTERM to archive-wal, {story}");
    let shape = Shape::new(before, file, repos)?;
    let calls = shape.calls()?;
    let faults = syscalls::sample(&story, syscalls::signals(&calls, Signal::SIGTERM), usize::MAX);
    let (mut stopped, mut finished, mut died) = (0, 0, 0);
    syscalls::try_each(&story, &calls, &faults, |fault| {
        shape.attempt(fault, |ran| match (ran.code, ran.signal) {
            (Some(1), _) => {
                stopped += 1;
                ran.stderr.contains("interrupted")
            }
            (Some(0), _) => {
                finished += 1;
                true
            }
            (None, Some(15)) => {
                died += 1;
                true
            }
            _ => false,
        })
    })?;
    settings::tell(&format!("{story}: {stopped} stopped, {finished} finished, {died} died"));
    ensure!(stopped > faults.len() / 4, "hardly any was stopped");
    Ok(())
}
