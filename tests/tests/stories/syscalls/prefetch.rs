//! What is fetched ahead: every error and a death at every system call of the process that fetches, and of the call that
//! takes a segment from the shelf. No answer changes for it, and no half segment is ever served.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use common::sys::lock::FileLock;
use e2e::faults::Rehearsal;
use e2e::process::{self, Signal};
use e2e::sandbox::{find_files, walk};
use e2e::syscalls::{self, Fault, Traced};
use e2e::{Cluster, Ran, Repo, wait};

use crate::fault_loops::archive_wal::Scene;

/// What lies at the destination before.
const OLD: &[u8] = b"an older file";

/// How long the process that fetches ahead may try again after a fault before its recovery is over.
const RECOVERY: Duration = Duration::from_millis(1500);

/// A server that seems to recover: it runs, and has a signal file that it does not look at.
struct Recovering {
    scene: Scene,
    repo: Repo,
    /// The last segment that it got.
    first: String,
    /// The one that it will ask for.
    next: String,
    shelf: PathBuf,
}

impl Recovering {
    fn new() -> Result<Self> {
        let scene = Scene::new()?;
        let repo = Repo::new(&scene.sandbox, "repo")?;
        for file in [0, 1] {
            scene.archive(file, &[&repo])?.run()?.success()?;
        }
        let (first, next) = (scene.name(0)?, scene.name(1)?);
        scene.cluster.start()?;
        let mut this = Self { scene, repo, first, next, shelf: PathBuf::new() };
        this.recover()?;
        this.asks_for(&this.first)?.run()?.success()?;
        let spool = this.server().pgdata().with_extension("holdfast").join("spool");
        let fetched = wait::for_some("the next segment is there", || Ok(find_files(&spool, &this.next).pop()))?;
        fetched.parent().context("a file lies in a folder")?.clone_into(&mut this.shelf);
        // It shall not come between: the shelf stays, and its lock with it.
        drop(this.keeps_others_away()?);
        Ok(this)
    }

    /// Ends whoever fetches ahead, one who has only just been started too, and holds the lock in their place.
    fn keeps_others_away(&self) -> Result<FileLock> {
        wait::for_some("nobody fetches ahead", || {
            if let Some(fetching) = process::find(self.server().pgdata(), "--prefetcher")? {
                process::signal(fetching, Signal::SIGKILL)?;
                process::wait_gone(&[fetching])?;
            }
            Ok(FileLock::try_exclusive(&self.shelf.join("lock"))?)
        })
    }

    fn server(&self) -> &Cluster {
        &self.scene.cluster
    }

    fn signal_file(&self) -> PathBuf {
        self.server().pgdata().join("recovery.signal")
    }

    fn recover(&self) -> Result<()> {
        self.scene.sandbox.write(&self.signal_file(), b"")
    }

    fn destination(&self) -> PathBuf {
        self.server().pgdata().join("pg_stat/RECOVERYXLOG")
    }

    fn command(&self, options: &[&str], name: &str) -> Result<Rehearsal> {
        let mut args = options.to_vec();
        args.extend(["--repo", self.repo.arg()?, name, "pg_stat/RECOVERYXLOG"]);
        Ok(Rehearsal::new(&self.scene.sandbox, "restore-wal", &args).within(self.server().pgdata()))
    }

    fn asks_for(&self, name: &str) -> Result<Rehearsal> {
        self.command(&[], name)
    }

    /// The shelf with these files on it and nothing else.
    fn lay_out(&self, files: &[(&str, &[u8])]) -> Result<()> {
        let sandbox = &self.scene.sandbox;
        let lock = self.shelf.join("lock");
        let name = self.shelf.strip_prefix(sandbox.path())?.to_str().context("text")?;
        for folder in name.match_indices('/').map(|(end, _)| &name[..end]).chain([name]) {
            sandbox.folder(folder)?;
        }
        for path in walk(&self.shelf).iter().filter(|path| **path != lock) {
            sandbox.clear(path)?;
        }
        files.iter().try_for_each(|(name, bytes)| sandbox.write(&self.shelf.join(name), bytes))?;
        sandbox.write(&self.destination(), OLD)
    }

    fn bytes(&self) -> Result<&[u8]> {
        self.scene.files.get(&self.next).map(Vec::as_slice).context("a segment of the scene")
    }

    /// At the destination is what was there before or the segment, and on the shelf under the segment's name nothing else
    /// than the segment.
    fn is_sound(&self) -> Result<()> {
        for path in find_files(&self.shelf, &self.next) {
            ensure!(fs::read(path)? == self.bytes()?, "something else lies on the shelf under the segment's name");
        }
        let found = fs::read(self.destination())?;
        ensure!(found == OLD || found == self.bytes()?, "neither the old file nor the segment: {} bytes", found.len());
        Ok(())
    }

    /// Whatever was before, the server gets its segment.
    fn gets_its_segment(&self) -> Result<()> {
        self.asks_for(&self.next)?.run()?.success()?;
        ensure!(fs::read(self.destination())? == self.bytes()?, "not what was asked for");
        Ok(())
    }
}

fn is_killed(ran: &Ran) -> bool {
    ran.signal == Some(Signal::SIGKILL as i32)
}

#[test]
fn a_segment_is_taken_from_the_shelf_whatever_the_kernel_answers() -> Result<()> {
    let story = "system calls of restore-wal, from the shelf";
    let server = Recovering::new()?;
    // Somebody fetches ahead already, as far as anybody can see.
    let _held = server.keeps_others_away()?;
    let command = server.asks_for(&server.next)?;
    let reset = || server.lay_out(&[(&server.next, server.bytes()?)]);
    reset()?;
    let calls = syscalls::calls(&command, 0)?;
    ensure!(calls.iter().any(|call| call.what == "rename"), "it was not taken from the shelf");
    let faults = syscalls::sample(story, syscalls::every(&calls), 30);
    syscalls::try_each(story, &calls, &faults, |fault| {
        reset()?;
        if let Some(Traced { ran, .. }) = syscalls::suffer(&command, fault)? {
            let judge = || {
                let right_end = match ran.code {
                    Some(code) => fault.signal().is_none() && (code == 0 || code >= 200),
                    None => fault.signal().is_some() && is_killed(&ran),
                };
                ensure!(right_end, "a wrong end");
                let delivered = fs::read(server.destination())? == server.bytes()?;
                ensure!(delivered || ran.code != Some(0), "answered 0 and brought nothing");
                server.is_sound()
            };
            judge().with_context(|| ran.to_string())?;
        }
        server.gets_its_segment()
    })
}

#[test]
fn fetching_ahead_survives_every_answer_of_the_kernel() -> Result<()> {
    let story = "system calls of restore-wal, fetching ahead";
    let server = Recovering::new()?;
    let command = server.command(&["--prefetcher", "--prefetch-size", "1MiB"], &server.first)?;
    let position = format!("{} 0\n", server.first);
    let reset = || {
        server.lay_out(&[("position", position.as_bytes())])?;
        server.recover()
    };
    // The recovery is over when the segment is there, or after a while.
    let ending = || {
        let (began, place, signal) = (Instant::now(), server.shelf.join(&server.next), server.signal_file());
        move || {
            if place.exists() || began.elapsed() > RECOVERY {
                drop(fs::remove_file(&signal));
            }
        }
    };
    reset()?;
    let calls = syscalls::calls_while(&command, 0, ending())?;
    ensure!(calls.iter().any(|call| call.what == "rename" && call.name.ends_with(&server.next)), "nothing was fetched");
    let faults = syscalls::sample(story, syscalls::every(&calls), 30);
    syscalls::try_each(story, &calls, &faults, |fault| {
        reset()?;
        if let Some(traced) = syscalls::suffer_while(&command, fault, ending())? {
            judge(&server, fault, &traced).with_context(|| traced.ran.to_string())?;
        }
        server.recover()?;
        server.gets_its_segment()?;
        server.is_over()
    })
}

/// The process that fetches ahead tells nobody of what it could not do, and leaves nothing but what it could not remove.
fn judge(server: &Recovering, fault: &Fault, traced: &Traced) -> Result<()> {
    let ran = &traced.ran;
    let right_end = if fault.signal().is_some() { is_killed(ran) } else { ran.code.is_some() };
    ensure!(right_end, "a wrong end");
    let may_leave = is_killed(ran) || matches!(fault.call.what, "unlink" | "open" | "list" | "stat" | "close");
    let left = walk(&server.shelf);
    ensure!(may_leave || left.iter().all(|path| path.ends_with("position")), "left behind: {left:?}");
    server.is_sound()
}

impl Recovering {
    /// Ends the recovery, and waits until nobody fetches ahead any more.
    fn is_over(&self) -> Result<()> {
        self.scene.sandbox.clear(&self.signal_file())?;
        wait::until("nobody fetches ahead", || Ok(process::find(self.server().pgdata(), "--prefetcher")?.is_none()))
    }
}
