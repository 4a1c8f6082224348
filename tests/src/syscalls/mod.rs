//! The programs' own system calls, and faults at each of them: an error, a signal, the end.
//!
//! The faults of [`crate::faults`] stand at calls that the programs make through one module; those here at what the
//! kernel is asked for, whoever asks: the standard library and the C library too. A call is known by what it does to
//! which file for the how-manieth time, not by its place in a sequence, so that it is the same one however the
//! program's threads follow each other. What the loader does before the program begins is not counted. For x86-64.

mod machine;
mod tracer;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use anyhow::{Result, ensure};
use common::sys::durable;
use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::faults::{Rehearsal, in_turn};
use crate::{Ran, settings};

/// A shell's script that stops, and when it goes on becomes the program in its arguments.
const STOP_THEN_RUN: &str = "kill -STOP $$; exec \"$0\" \"$@\"";

/// What any call of a file may answer on a bad day.
pub const ERRORS: [Errno; 4] = [Errno::EIO, Errno::ENOSPC, Errno::EACCES, Errno::EINTR];

/// How every temporary file is called here: its real name is random.
const TEMPORARY_NAME: &str = ".holdfast-*.tmp";

/// One call.
#[derive(Debug, Clone)]
pub struct Call {
    /// What it does: `write` is said of every spelling of a write.
    pub what: &'static str,
    /// To which file. Of a temporary one only the folder counts.
    pub name: String,
    /// The how-manieth of those that do this to this file.
    nth: usize,
    /// Whether it answered with an error.
    pub failed: bool,
}

impl Call {
    fn new(what: &'static str, path: &Path, thread: Pid, before: &[Self]) -> Self {
        let name = lasting_name(path, thread);
        let nth = 1 + before.iter().filter(|call| call.what == what && call.name == name).count();
        Self { what, name, nth, failed: false }
    }

    /// Whether it changes what is on a disk, or what a descriptor stands for; others only look.
    pub fn changes(&self) -> bool {
        !matches!(self.what, "read" | "list" | "stat")
    }

    fn names_a_file(&self) -> bool {
        matches!(self.what, "link" | "rename") && !self.failed
    }

    fn syncs(&self, path: &Path) -> bool {
        self.what == "fsync" && !self.failed && Path::new(&self.name) == path
    }

    fn folder(&self) -> Option<&Path> {
        Path::new(&self.name).parent()
    }

    fn is(&self, other: &Self) -> bool {
        (self.what, &self.name, self.nth) == (other.what, &other.name, other.nth)
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} (number {})", self.what, self.name, self.nth)
    }
}

/// The path without what is another in every run: random names, numbers of processes, of pipes, of inodes.
fn lasting_name(path: &Path, thread: Pid) -> String {
    let text = path.to_string_lossy();
    let text = text.strip_suffix(" (deleted)").unwrap_or(&text);
    let path = Path::new(text);
    if let Ok(inside) = path.strip_prefix(format!("/proc/{thread}")) {
        return format!("/proc/self/{}", inside.display());
    }
    match path.file_name() {
        Some(name) if durable::is_temporary_name(name) => path.with_file_name(TEMPORARY_NAME).display().to_string(),
        // How a file without a name is called.
        Some(name) if name.to_string_lossy().starts_with('#') => path.with_file_name("#").display().to_string(),
        _ => text.split_once(":[").map_or(text, |(kind, _)| kind).to_owned(),
    }
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// It is made.
    Pass,
    /// It is not made and answers this error; `close` is made all the same, as the kernel does.
    Fail(Errno),
    /// The process gets this signal before the call. Where a thread of it waits for signals, the call is made after that
    /// thread has dealt with this one.
    Signal(Signal),
}

type Decide<'a> = dyn FnMut(&Call) -> Deed + Send + 'a;

/// A fault at one call.
#[derive(Debug, Clone)]
pub struct Fault {
    /// Where.
    pub call: Call,
    /// What happens there.
    pub deed: Deed,
}

impl Fault {
    /// The error that the call answers.
    pub fn errno(&self) -> Option<Errno> {
        if let Deed::Fail(errno) = self.deed { Some(errno) } else { None }
    }

    /// The signal that the program gets.
    pub fn signal(&self) -> Option<Signal> {
        if let Deed::Signal(signal) = self.deed { Some(signal) } else { None }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at: {}", self.deed, self.call)
    }
}

/// What a traced run left.
#[derive(Debug)]
pub struct Traced {
    /// How it ended, and what it said.
    pub ran: Ran,
    /// Its calls, in the order in which they began.
    pub calls: Vec<Call>,
}

/// Runs the command line and asks at every call what is to become of it.
pub fn watch(rehearsal: &Rehearsal, mut decide: impl FnMut(&Call) -> Deed + Send) -> Result<Traced> {
    let mut command = rehearsal.command_by("sh", &["-c", STOP_THEN_RUN])?;
    let (ran, calls) = tracer::run(&mut command, &mut decide)?;
    Ok(Traced { ran, calls })
}

/// Runs it undisturbed to an end with this code; answers its calls.
pub fn calls(rehearsal: &Rehearsal, code: i32) -> Result<Vec<Call>> {
    calls_while(rehearsal, code, || ())
}

/// The same, with something else that is done at every call: what a program waits for comes from outside.
pub fn calls_while(rehearsal: &Rehearsal, code: i32, mut meanwhile: impl FnMut() + Send) -> Result<Vec<Call>> {
    let traced = watch(rehearsal, |_| {
        meanwhile();
        Deed::Pass
    })?;
    traced.ran.expect_code(code)?;
    ensure!(!traced.calls.is_empty(), "a program that calls nothing");
    Ok(traced.calls)
}

/// Runs it with the fault; `None` when the call was not reached, since other threads were faster.
pub fn suffer(rehearsal: &Rehearsal, fault: &Fault) -> Result<Option<Traced>> {
    suffer_while(rehearsal, fault, || ())
}

/// The same, with something else that is done at every call.
pub fn suffer_while(
    rehearsal: &Rehearsal,
    fault: &Fault,
    mut meanwhile: impl FnMut() + Send,
) -> Result<Option<Traced>> {
    let mut reached = false;
    let traced = watch(rehearsal, |call| {
        meanwhile();
        if reached || !call.is(&fault.call) {
            return Deed::Pass;
        }
        reached = true;
        fault.deed
    })?;
    ensure!(!traced.ran.stderr.contains("panicked"), "{}", traced.ran);
    Ok(reached.then_some(traced))
}

/// Every fault of a loop: each of the four errors and SIGKILL at each call, but SIGKILL only at calls that change
/// something, since dying at one that looks is dying at the next that does not.
pub fn every(calls: &[Call]) -> Vec<Fault> {
    let errors = || ERRORS.map(Deed::Fail).into_iter();
    let deeds = |call: &Call| errors().chain(call.changes().then_some(Deed::Signal(Signal::SIGKILL)));
    calls.iter().flat_map(|call| deeds(call).map(|deed| Fault { call: call.clone(), deed })).collect()
}

/// The same signal at each call.
pub fn signals(calls: &[Call], signal: Signal) -> Vec<Fault> {
    calls.iter().map(|call| Fault { call: call.clone(), deed: Deed::Signal(signal) }).collect()
}

/// Where a power cut may take what it wants: the spool, and what a server remembers of its repositories.
const MAY_BE_LOST: [&str; 2] = ["/spool", "/.local"];

/// What the program changed and did not make durable: a power cut now may take it. After an error of a sync other than
/// an interruption nothing helps, since the kernel has forgotten what it could not write.
pub fn unsynced(traced: &Traced, fault: &Fault) -> Option<String> {
    let may_be_lost = |call: &Call| MAY_BE_LOST.iter().any(|place| call.name.contains(place));
    if may_be_lost(&fault.call) {
        return None;
    }
    if fault.call.what == "fsync" && fault.errno().is_some_and(|errno| errno != Errno::EINTR) {
        return Some(fault.call.to_string());
    }
    let lost = |(number, call): (usize, &Call)| {
        let later = traced.calls.get(number + 1..).unwrap_or_default();
        let is_lost = match call.what {
            _ if call.failed || may_be_lost(call) => false,
            "mkdir" | "link" | "rename" => {
                !call.folder().is_some_and(|folder| later.iter().any(|next| next.syncs(folder)))
            }
            // Before the file gets its name; one that is removed again gets none.
            "write" if call.name.ends_with(TEMPORARY_NAME) => !later
                .iter()
                .take_while(|next| !next.names_a_file() || next.folder() != call.folder())
                .any(|next| next.syncs(Path::new(&call.name)) || (next.what == "unlink" && next.name == call.name)),
            _ => false,
        };
        is_lost.then(|| call.to_string())
    };
    traced.calls.iter().enumerate().find_map(lost)
}

/// In a soak all of them; otherwise those at calls that change something, and of these so many, chosen at random.
pub fn sample(story: &str, mut faults: Vec<Fault>, count: usize) -> Vec<Fault> {
    if settings::is_soak() {
        return faults;
    }
    faults.retain(|fault| fault.call.changes());
    if count < faults.len() {
        fastrand::Rng::with_seed(settings::seed(story)).shuffle(&mut faults);
        faults.truncate(count);
    }
    faults
}

/// Tries the faults one after the other, and says how many there were at how many calls of each sort.
pub fn try_each(
    story: &str,
    calls: &[Call],
    faults: &[Fault],
    attempt: impl FnMut(&Fault) -> Result<()>,
) -> Result<()> {
    in_turn(story, faults, attempt)?;
    let mut sorts: BTreeMap<&str, usize> = BTreeMap::new();
    for fault in faults {
        *sorts.entry(fault.call.what).or_default() += 1;
    }
    settings::tell(&format!("{story}: {} faults, {} system calls, {sorts:?}", faults.len(), calls.len()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(line: &str) -> Call {
        let (what, name) = line.split_once(' ').unwrap();
        let what = ["write", "fsync", "link", "mkdir", "unlink", "open"].into_iter().find(|known| *known == what);
        Call { what: what.unwrap(), name: name.to_owned(), nth: 1, failed: false }
    }

    fn traced(lines: &[&str]) -> Traced {
        let ran = Ran {
            command: String::new(),
            code: Some(0),
            signal: None,
            stdout: String::new(),
            stderr: String::new(),
            took: std::time::Duration::ZERO,
        };
        Traced { ran, calls: lines.iter().map(|line| call(line)).collect() }
    }

    fn fault(line: &str, errno: Errno) -> Fault {
        Fault { call: call(line), deed: Deed::Fail(errno) }
    }

    #[test]
    fn names_are_the_same_in_every_run() {
        let name = |path: &str| lasting_name(Path::new(path), Pid::from_raw(17));
        for path in ["/r/.holdfast-17-0123456789abcdef.tmp", "/r/.holdfast-9-00.tmp (deleted)", "/r/.holdfast-*.tmp"] {
            assert_eq!(name(path), "/r/.holdfast-*.tmp");
        }
        assert_eq!(name("/proc/17/maps"), "/proc/self/maps");
        assert_eq!(name("/tmp/#4711 (deleted)"), "/tmp/#");
        assert_eq!(name("socket:[4711]"), "socket");
        assert_eq!(name("/r/main"), "/r/main");
    }

    #[test]
    fn a_write_is_safe_when_the_file_and_the_folder_are_synced() {
        let all = ["write /r/.holdfast-*.tmp", "fsync /r/.holdfast-*.tmp", "link /r/a", "fsync /r"];
        let elsewhere = fault("open /x", Errno::EIO);
        assert_eq!(unsynced(&traced(&all), &elsewhere), None);
        for left_out in [1, 3] {
            let mut some = all.to_vec();
            some.remove(left_out);
            assert!(unsynced(&traced(&some), &elsewhere).is_some(), "without {}", all[left_out]);
        }
        // Too late, and in the wrong place.
        for order in [[0, 2, 1, 3], [1, 0, 2, 3], [0, 1, 3, 2]] {
            let some = order.map(|n| all[n]);
            assert!(unsynced(&traced(&some), &elsewhere).is_some(), "{some:?}");
        }
        assert!(unsynced(&traced(&["mkdir /r/a", "fsync /r/a"]), &elsewhere).is_some());
        assert_eq!(unsynced(&traced(&["write /r/.holdfast-*.tmp", "unlink /r/.holdfast-*.tmp"]), &elsewhere), None);
    }

    #[test]
    fn a_sync_that_failed_is_made_good_only_after_an_interruption() {
        let calls = ["fsync /r", "fsync /r"];
        assert!(unsynced(&traced(&calls), &fault("fsync /r", Errno::EIO)).is_some());
        assert_eq!(unsynced(&traced(&calls), &fault("fsync /r", Errno::EINTR)), None);
    }

    #[test]
    fn deaths_stand_only_at_calls_that_change_something() {
        let look = Call { what: "stat", ..call("open /x") };
        assert_eq!(every(&[look, call("open /x")]).len(), 4 + 5);
    }
}
