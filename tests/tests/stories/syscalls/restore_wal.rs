//! `restore-wal`: every error and a death at every system call. An answer of 1 to 125 would be the end of the archive.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use common::sys::durable::is_temporary_name;
use e2e::faults::Rehearsal;
use e2e::sandbox::walk;
use e2e::syscalls::{self, Call, Fault, Traced};
use e2e::{Cluster, Ran, Repo, settings};
use nix::sys::signal::Signal;
use rstest::rstest;

use crate::fault_loops::archive_wal::Scene;

/// What lies at the destination before: PostgreSQL removes it, but nobody promises that.
const OLD: &[u8] = b"an older file";

/// A way in which a server asks for a file.
struct Shape {
    scene: Scene,
    node: Cluster,
    /// The bytes that it must get; none where no repository has the file.
    expected: Option<Vec<u8>>,
    /// The code of an undisturbed call.
    usual: i32,
    command: Rehearsal,
}

/// Where the file is that the server asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    First,
    /// In the second repository; the first knows the cluster, and nothing of the file.
    Second,
    /// In none, and none has a later one.
    Nowhere,
    /// In none, but both have a later one.
    Hole,
}

impl Shape {
    fn new(file: usize, place: Place) -> Result<Self> {
        let scene = Scene::new()?;
        let repos = [Repo::new(&scene.sandbox, "one")?, Repo::new(&scene.sandbox, "two")?];
        let [one, two] = &repos;
        // Both know the cluster, and have something of it.
        let known = if place == Place::Hole { file + 1 } else { 0 };
        for repo in &repos {
            scene.archive(known, &[repo])?.run()?.success()?;
        }
        let (usual, repo) = match place {
            Place::First => (0, Some(one)),
            Place::Second => (0, Some(two)),
            Place::Nowhere => (1, None),
            Place::Hole => (201, None),
        };
        let (name, node) = (scene.name(file)?, scene.cluster.bare_node("node")?);
        let expected = repo.and_then(|_| scene.files.get(&name).cloned());
        if let Some(repo) = repo {
            scene.archive(file, &[repo])?.run()?.success()?;
        }
        let config = scene.sandbox.path().join("impatient.toml");
        scene.sandbox.write(&config, b"[restore]\nhole-grace = \"1ms\"\n")?;
        let mut args = vec!["--config", config.to_str().context("text")?, "--repo", one.arg()?];
        if place != Place::First {
            args.extend(["--repo", two.arg()?]);
        }
        args.extend([name.as_str(), "pg_wal/RECOVERYXLOG"]);
        let command = Rehearsal::new(&scene.sandbox, "restore-wal", &args).within(node.pgdata());
        Ok(Self { scene, node, expected, usual, command })
    }

    fn destination(&self) -> PathBuf {
        self.node.pgdata().join("pg_wal/RECOVERYXLOG")
    }

    /// As it was before the server asked.
    fn reset(&self) -> Result<()> {
        for path in walk(&self.node.pgdata().join("pg_wal")) {
            self.scene.sandbox.clear(&path)?;
        }
        self.scene.sandbox.write(&self.destination(), OLD)
    }

    fn calls(&self) -> Result<Vec<Call>> {
        self.reset()?;
        syscalls::calls(&self.command, self.usual)
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
        self.command.run()?.expect_code(self.usual)?;
        let found = fs::read(self.destination())?;
        ensure!(found == self.expected.as_deref().unwrap_or(OLD), "not what was asked for");
        Ok(())
    }

    /// At the destination is what was there before, or what was asked for, and nothing else anywhere.
    fn judge(&self, fault: &Fault, traced: &Traced) -> Result<()> {
        let found = fs::read(self.destination())?;
        let delivered = self.expected.as_ref() == Some(&found);
        ensure!(delivered || found == OLD, "neither the old file nor the right one: {} bytes", found.len());
        ensure!(delivered || traced.ran.code != Some(0), "answered 0 and brought nothing");
        let may_stay = traced.ran.signal == Some(9) || fault.call.what == "unlink";
        for path in walk(&self.node.pgdata().join("pg_wal")).iter().filter(|path| **path != self.destination()) {
            let hidden = path.file_name().is_some_and(is_temporary_name);
            ensure!(hidden && may_stay, "left behind: {}", path.display());
        }
        Ok(())
    }
}

#[rstest]
#[case::a_segment("a segment", 1, Place::First, usize::MAX)]
#[case::a_segment_of_the_second_repository("second repository", 1, Place::Second, 20)]
#[case::a_history("history", 3, Place::First, 20)]
#[case::a_segment_that_is_nowhere("absent", 1, Place::Nowhere, 20)]
#[case::a_history_that_is_nowhere("absent history", 3, Place::Nowhere, 20)]
#[case::a_hole("hole", 0, Place::Hole, 20)]
fn restore_wal_survives_every_answer_of_the_kernel(
    #[case] story: &str,
    #[case] file: usize,
    #[case] place: Place,
    #[case] count: usize,
) -> Result<()> {
    let story = format!("system calls of restore-wal, {story}");
    let shape = Shape::new(file, place)?;
    let calls = shape.calls()?;
    let faults = syscalls::sample(&story, syscalls::every(&calls), count);
    syscalls::try_each(&story, &calls, &faults, |fault| {
        let killed = fault.signal().is_some();
        shape.attempt(fault, |ran| match ran.code {
            // That a file exists nowhere may be said when it is true.
            Some(code) => !killed && (code == shape.usual || code >= 200),
            None => killed && ran.signal == Some(Signal::SIGKILL as i32),
        })
    })
}

/// It cleans up and dies of the signal, which PostgreSQL takes for its own shutdown. Once the file has its name it may as
/// well answer.
#[rstest]
#[case::a_segment("a segment", 1, Place::First)]
#[case::a_segment_that_is_nowhere("absent", 1, Place::Nowhere)]
fn restore_wal_dies_of_the_signal_and_cleans_up(
    #[case] story: &str,
    #[case] file: usize,
    #[case] place: Place,
) -> Result<()> {
    let story = format!("SIGTERM to restore-wal, {story}");
    let shape = Shape::new(file, place)?;
    let calls = shape.calls()?;
    let faults = syscalls::sample(&story, syscalls::signals(&calls, Signal::SIGTERM), usize::MAX);
    let (mut finished, mut died) = (0, 0);
    syscalls::try_each(&story, &calls, &faults, |fault| {
        shape.attempt(fault, |ran| match (ran.code, ran.signal) {
            (Some(code), _) => {
                finished += 1;
                code == shape.usual
            }
            (None, signal) => {
                died += 1;
                signal == Some(Signal::SIGTERM as i32)
            }
        })
    })?;
    settings::tell(&format!("{story}: {died} died, {finished} finished"));
    ensure!(died > faults.len() / 2, "hardly any died");
    Ok(())
}
