//! Runs a program under ptrace: every system call of every thread and child passes by here first.
//!
//! `strace` could inject the same faults, but it counts calls for each thread apart: of a program with several threads
//! it cannot be told at which one call something is to go wrong.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::machine::Entered;
use super::{Call, Decide, Deed};
use crate::{Ran, process};

/// Runs the command, which begins by stopping itself and then becomes the program ([`super::STOP_THEN_RUN`]), and asks
/// `decide` at every call of the program.
pub(super) fn run(command: &mut Command, decide: &mut Decide<'_>) -> Result<(Ran, Vec<Call>)> {
    // In a thread of its own, whose only children are the traced ones: a story may have started servers.
    let told = || {
        let mut calls = Vec::new();
        let ran = process::run_until(command, "", |child| {
            let mut tracer = Tracer::attach(child, decide)?;
            let status = tracer.follow()?;
            calls = tracer.calls;
            Ok(Some(status))
        })?;
        Ok((ran, calls))
    };
    thread::scope(|scope| scope.spawn(told).join()).map_err(|_| anyhow!("the tracer panicked"))?
}

/// How far a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Another program still.
    Before,
    /// The loader and the C library are at work.
    Loading,
    /// The program itself.
    Running,
}

/// One thread.
#[derive(Debug, Clone, Copy)]
struct Thread {
    stage: Stage,
    /// The call that it is in.
    inside: Option<Inside>,
}

#[derive(Debug, Clone, Copy)]
enum Inside {
    Other,
    /// It asks whether there was a signal.
    Listening,
    /// The call of this number, and the error that it answers on purpose.
    Call(usize, Option<Errno>),
}

/// A thread is kept at its call until the program has taken note of the signal that was sent to it there.
#[derive(Debug)]
struct Hold {
    thread: Pid,
    /// The thread that is told of signals was told; when it waits for the next one it has dealt with this one.
    heard: bool,
}

struct Tracer<'a> {
    program: Pid,
    threads: BTreeMap<Pid, Thread>,
    calls: Vec<Call>,
    hold: Option<Hold>,
    decide: &'a mut Decide<'a>,
}

impl<'a> Tracer<'a> {
    fn attach(child: &Child, decide: &'a mut Decide<'_>) -> Result<Self> {
        let program = Pid::from_raw(i32::try_from(child.id())?);
        let stopped = waitpid(program, Some(WaitPidFlag::WUNTRACED)).context("wait for the program to stop itself")?;
        ensure!(stopped == WaitStatus::Stopped(program, Signal::SIGSTOP), "the program did not start: {stopped:?}");
        let options = Options::PTRACE_O_EXITKILL
            | Options::PTRACE_O_TRACESYSGOOD
            | Options::PTRACE_O_TRACEEXEC
            | Options::PTRACE_O_TRACECLONE
            | Options::PTRACE_O_TRACEFORK
            | Options::PTRACE_O_TRACEVFORK;
        ptrace::seize(program, options)
            .or_else(|errno| {
                // Nobody would ever wake it up.
                kill(program, Signal::SIGKILL)?;
                Err(errno)
            })
            .context(
                "ptrace is not permitted here, and the stories of system calls cannot do without: \
             root needs CAP_SYS_PTRACE (docker run --cap-add SYS_PTRACE), others a kernel.yama.ptrace_scope of 0 or 1",
            )?;
        kill(program, Signal::SIGCONT)?;
        let threads = BTreeMap::from([(program, Thread { stage: Stage::Before, inside: None })]);
        Ok(Self { program, threads, calls: Vec::new(), hold: None, decide })
    }

    /// Lets everything run to its end; how the program ended.
    fn follow(&mut self) -> Result<ExitStatus> {
        let (done, watched) = channel::<()>();
        let program = self.program;
        let watch = thread::spawn(move || {
            let late = watched.recv_timeout(process::DEADLINE) == Err(RecvTimeoutError::Timeout);
            // Whoever is traced dies with the program's threads; the loop then ends.
            late && kill(program, Signal::SIGKILL).is_ok()
        });
        let ended = self.follow_all();
        drop(done);
        let late = watch.join().map_err(|_| anyhow!("the watch panicked"))?;
        ensure!(!late, "still running after {:?}, killed", process::DEADLINE);
        ended?.context("the program's end was not seen")
    }

    fn follow_all(&mut self) -> Result<Option<ExitStatus>> {
        let mut ended = None;
        loop {
            let all = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
            match waitpid(None, Some(all)) {
                Ok(WaitStatus::Exited(thread, code)) => {
                    self.ended(thread, &mut ended, ExitStatus::from_raw(code << 8))?;
                }
                Ok(WaitStatus::Signaled(thread, signal, _)) => {
                    self.ended(thread, &mut ended, ExitStatus::from_raw(signal as i32))?;
                }
                Ok(WaitStatus::PtraceSyscall(thread)) => self.at_call(thread)?,
                Ok(WaitStatus::PtraceEvent(thread, _, event)) => self.at_event(thread, event)?,
                Ok(WaitStatus::Stopped(thread, signal)) => resume(thread, Some(signal))?,
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::ECHILD) => return Ok(ended),
                Err(errno) => bail!("wait for the traced: {errno}"),
            }
        }
    }

    fn ended(&mut self, thread: Pid, ended: &mut Option<ExitStatus>, status: ExitStatus) -> Result<()> {
        self.threads.remove(&thread);
        if thread == self.program {
            *ended = Some(status);
        }
        // Who is gone hears nothing any more.
        if self.threads.len() <= 1 { self.release() } else { Ok(()) }
    }

    fn at_event(&mut self, thread: Pid, event: i32) -> Result<()> {
        let stage = self.threads.get(&thread).map_or(Stage::Running, |thread| thread.stage);
        match event {
            libc::PTRACE_EVENT_EXEC => {
                self.threads.insert(thread, Thread { stage: Stage::Loading, inside: Some(Inside::Other) });
            }
            libc::PTRACE_EVENT_CLONE | libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK => {
                if let Ok(number) = ptrace::getevent(thread) {
                    let new = Pid::from_raw(i32::try_from(number)?);
                    self.threads.entry(new).or_insert(Thread { stage, inside: None });
                }
            }
            _ => {}
        }
        resume(thread, None)
    }

    /// The thread is about to make a call, or has just made it.
    fn at_call(&mut self, thread: Pid) -> Result<()> {
        let known = *self.threads.entry(thread).or_insert(Thread { stage: Stage::Running, inside: None });
        let Some(entered) = gone(Entered::of(thread))? else { return Ok(()) };
        let (next, held) = match known.inside {
            Some(inside) => {
                self.leave(inside, entered)?;
                (Thread { inside: None, ..known }, false)
            }
            None => self.enter(known.stage, thread, entered)?,
        };
        self.threads.insert(thread, next);
        if held { Ok(()) } else { resume(thread, None) }
    }

    /// What the thread is in now, and whether it is kept there.
    fn enter(&mut self, stage: Stage, thread: Pid, entered: Entered) -> Result<(Thread, bool)> {
        let inside = |inside| Thread { stage, inside: Some(inside) };
        if stage != Stage::Running {
            let begins = stage == Stage::Loading && entered.begins_the_program();
            let stage = if begins { Stage::Running } else { stage };
            return Ok((Thread { stage, inside: Some(Inside::Other) }, false));
        }
        if entered.waits() && self.hold.as_ref().is_some_and(|hold| hold.heard) {
            self.release()?;
        }
        if entered.listens() {
            return Ok((inside(Inside::Listening), false));
        }
        let Some((what, path)) = entered.deed()? else { return Ok((inside(Inside::Other), false)) };
        let call = Call::new(what, &path, thread, &self.calls);
        let (deed, number) = ((self.decide)(&call), self.calls.len());
        self.calls.push(call);
        match deed {
            Deed::Pass => Ok((inside(Inside::Call(number, None)), false)),
            Deed::Fail(errno) => {
                // The descriptor is gone even when closing it fails.
                if what != "close" {
                    gone(entered.skip())?;
                }
                Ok((inside(Inside::Call(number, Some(errno))), false))
            }
            Deed::Signal(signal) => {
                gone(kill(thread, signal))?;
                // Where nobody else is, the signal is for this one, which must go on to get it.
                let held = signal != Signal::SIGKILL && self.threads.len() > 1;
                self.hold = held.then_some(Hold { thread, heard: false });
                Ok((inside(Inside::Call(number, None)), held))
            }
        }
    }

    fn leave(&mut self, inside: Inside, left: Entered) -> Result<()> {
        match inside {
            Inside::Other => {}
            Inside::Listening => {
                if let Some(hold) = self.hold.as_mut().filter(|_| !left.failed()) {
                    hold.heard = true;
                }
            }
            Inside::Call(number, error) => {
                if let Some(call) = self.calls.get_mut(number) {
                    call.failed = error.is_some() || left.failed();
                }
                if let Some(error) = error {
                    gone(left.answer(error))?;
                }
            }
        }
        Ok(())
    }

    fn release(&mut self) -> Result<()> {
        self.hold.take().map_or(Ok(()), |hold| resume(hold.thread, None))
    }
}

/// To its next call, with the signal that was to be delivered.
fn resume(thread: Pid, signal: Option<Signal>) -> Result<()> {
    gone(ptrace::syscall(thread, signal)).map(drop)
}

/// A thread that was killed meanwhile is no failure: its end is heard of next.
fn gone<T>(answer: nix::Result<T>) -> Result<Option<T>> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(Errno::ESRCH) => Ok(None),
        Err(errno) => bail!("trace a program: {errno}"),
    }
}
