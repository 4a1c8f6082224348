//! Calls that go wrong on purpose, at a place chosen in advance.
//!
//! For loops over every place where something can go wrong: run once and count the calls, then once for each number
//! up to that. A [`Counter`] numbers calls and says what happens at each. A test inside one process gives one to a
//! [`FaultStore`](crate::store::FaultStore). The calls that the programs themselves make of files and stores pass
//! through the process's own counters, which only the feature `faults` has: without it [`call`], [`write()`] and
//! [`read`] are the call itself and nothing else. It is for tests alone, and no release is built with it.

#[cfg(feature = "faults")]
mod process;

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[cfg(feature = "faults")]
pub use process::{PLAN_VARIABLE, PROGRAM_VARIABLE, TRACE_VARIABLE, install};

#[cfg(all(feature = "faults", not(debug_assertions)))]
compile_error!("the feature \"faults\" is for tests: a release must not be able to fail on purpose");

/// What goes wrong.
#[derive(Clone)]
pub enum FaultKind {
    /// The call fails with this error and changes nothing.
    Fail(io::ErrorKind),
    /// A write keeps half of its bytes and fails with this error. Any other call fails and changes nothing.
    FailHalfway(io::ErrorKind),
    /// The call is carried out, and then its answer is lost: it fails with this error.
    FailAfter(io::ErrorKind),
    /// The store lies: only so many bytes of this call are delivered or kept, none of the same object after them, and
    /// the call succeeds. Applies to `replace`, `get`, `get_range`, writes and reads; no other call is changed by it.
    Truncate(u64),
    /// A read delivers half of what it was asked for: the next one goes on, but for an object of a store, which ends
    /// there. Any other call fails and changes nothing.
    Short,
    /// The function runs before the call, which is then carried out; it may damage the store below.
    Run(Arc<dyn Fn() + Send + Sync>),
    /// The process is killed by SIGKILL.
    Die(Moment),
    /// Not one call but every one takes so much longer, as with a store that is far away; the reads and writes of an
    /// object do not, they stream.
    Slow(Duration),
}

/// When a process dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Before the call.
    Before,
    /// After half of the bytes of a write; before any other call.
    Halfway,
    /// After the call.
    After,
}

impl fmt::Debug for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fail(kind) => write!(f, "Fail({kind:?})"),
            Self::FailHalfway(kind) => write!(f, "FailHalfway({kind:?})"),
            Self::FailAfter(kind) => write!(f, "FailAfter({kind:?})"),
            Self::Truncate(length) => write!(f, "Truncate({length})"),
            Self::Short => f.write_str("Short"),
            Self::Run(_) => f.write_str("Run"),
            Self::Die(moment) => write!(f, "Die({moment:?})"),
            Self::Slow(time) => write!(f, "Slow({time:?})"),
        }
    }
}

/// One fault at one call.
#[derive(Debug, Clone)]
pub struct FaultPlan {
    /// Which call; the first is 1.
    pub at: u64,
    /// What happens there.
    pub kind: FaultKind,
}

/// Numbers calls, from 1 on, and says what happens at each.
#[derive(Debug)]
pub struct Counter {
    calls: AtomicU64,
    plan: Option<FaultPlan>,
    /// Which calls the plan's number counts, when not all.
    only: Option<Only>,
    /// Where a line for each call goes, and what it begins with.
    trace: Option<(File, &'static str)>,
}

/// The calls of one sort.
#[derive(Debug, Default)]
struct Only {
    /// What `WHAT NAME` of each looks like; `*` stands for anything.
    pattern: String,
    calls: AtomicU64,
}

impl Only {
    /// The number of this call among its sort; none when it is of another.
    fn number(&self, call: &str) -> Option<u64> {
        let mut pieces = self.pattern.split('*');
        let mut rest = call.strip_prefix(pieces.next()?)?;
        let last = pieces.next_back();
        for piece in pieces {
            rest = rest.get(rest.find(piece)? + piece.len()..)?;
        }
        let fits = last.map_or(rest.is_empty(), |last| rest.ends_with(last));
        fits.then(|| self.calls.fetch_add(1, Ordering::SeqCst) + 1)
    }
}

impl Counter {
    /// Carries out the plan; without one it only counts.
    pub fn new(plan: Option<FaultPlan>) -> Self {
        Self { calls: AtomicU64::new(0), plan, only: None, trace: None }
    }

    /// How many calls there were so far.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    /// Counts the call `what` of the thing `name`, and says what is to happen at it.
    pub(crate) fn next(&self, what: &str, name: &dyn fmt::Display) -> Fault {
        let call = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        if let Some((mut file, class)) = self.trace.as_ref().map(|(file, class)| (file, class)) {
            // One write a line, so that those of several threads do not mix. A trace that is lost shows in the test.
            drop(file.write_all(format!("{class} {call} {what} {name}\n").as_bytes()));
        }
        if let Some(FaultPlan { kind: FaultKind::Slow(time), .. }) = self.plan
            && !matches!(what, "read" | "write")
        {
            std::thread::sleep(time);
        }
        let number = match &self.only {
            Some(only) => only.number(&format!("{what} {name}")),
            None => Some(call),
        };
        let kind = self.plan.as_ref().filter(|plan| number == Some(plan.at)).map(|plan| plan.kind.clone());
        if let Some(FaultKind::Run(run)) = &kind {
            run();
        }
        Fault(kind)
    }
}

/// What happens at one call.
#[derive(Debug)]
pub(crate) struct Fault(Option<FaultKind>);

fn failure(kind: io::ErrorKind) -> io::Error {
    io::Error::new(kind, format!("{kind}, on purpose"))
}

/// Ends the process like `kill -9`.
fn die() -> ! {
    // A signal that cannot be handled comes before this returns.
    let _sent = kill(Pid::this(), Signal::SIGKILL).is_ok();
    std::process::abort()
}

impl Fault {
    /// The call with the fault; `explain` makes an error of its kind of one.
    pub(crate) fn around<T, E>(
        &self,
        call: impl FnOnce() -> Result<T, E>,
        explain: impl FnOnce(io::Error) -> E,
    ) -> Result<T, E> {
        match self.0 {
            Some(FaultKind::Fail(kind) | FaultKind::FailHalfway(kind)) => Err(explain(failure(kind))),
            Some(FaultKind::FailAfter(kind)) => {
                call()?;
                Err(explain(failure(kind)))
            }
            Some(FaultKind::Short) => Err(explain(failure(io::ErrorKind::Other))),
            Some(FaultKind::Die(Moment::Before | Moment::Halfway)) => die(),
            Some(FaultKind::Die(Moment::After)) => {
                // Whatever came of it, nobody hears.
                drop(call());
                die()
            }
            Some(FaultKind::Truncate(_) | FaultKind::Run(_) | FaultKind::Slow(_)) | None => call(),
        }
    }

    /// The same for a call of the operating system.
    pub(crate) fn around_io<T>(&self, call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.around(call, std::convert::identity)
    }

    /// The same for one that writes.
    pub(crate) fn around_write<T>(&self, bytes: &[u8], mut write: impl FnMut(&[u8]) -> io::Result<T>) -> io::Result<T> {
        if matches!(self.0, Some(FaultKind::FailHalfway(_) | FaultKind::Die(Moment::Halfway))) {
            write(bytes.get(..bytes.len() / 2).unwrap_or_default())?;
        }
        self.around_io(|| write(bytes))
    }

    /// The same for one that reads into `buffer`.
    pub(crate) fn around_read(
        &self,
        buffer: &mut [u8],
        read: impl FnOnce(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        match self.0 {
            Some(FaultKind::Short) => {
                let half = buffer.len().div_ceil(2);
                read(buffer.get_mut(..half).unwrap_or_default())
            }
            _ => self.around_io(|| read(buffer)),
        }
    }

    /// Whether an object of a store ends in the middle of this read.
    pub(crate) fn is_short(&self) -> bool {
        matches!(self.0, Some(FaultKind::Short))
    }

    /// How many bytes a store that lies keeps or delivers.
    pub(crate) fn truncated(&self) -> Option<u64> {
        match self.0 {
            Some(FaultKind::Truncate(length)) => Some(length),
            _ => None,
        }
    }
}

/// The process's counter of calls of files.
#[cfg(not(feature = "faults"))]
const fn files() -> Option<&'static Counter> {
    None
}

#[cfg(feature = "faults")]
use process::files;

/// The process's counter of calls of stores.
#[cfg(not(feature = "faults"))]
pub(crate) const fn stores() -> Option<Arc<Counter>> {
    None
}

#[cfg(feature = "faults")]
pub(crate) use process::stores;

/// A call of the operating system that does `what` to `path`.
#[inline]
pub fn call<T>(what: &str, path: &Path, call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    match files() {
        Some(counter) => counter.next(what, &path.display()).around_io(call),
        None => call(),
    }
}

/// A write of `bytes` to the file at `path`.
#[inline]
pub fn write<T>(path: &Path, bytes: &[u8], mut write: impl FnMut(&[u8]) -> io::Result<T>) -> io::Result<T> {
    match files() {
        Some(counter) => counter.next("write", &path.display()).around_write(bytes, write),
        None => write(bytes),
    }
}

/// A read of the file at `path` into `buffer`.
#[inline]
pub fn read(path: &Path, buffer: &mut [u8], read: impl FnOnce(&mut [u8]) -> io::Result<usize>) -> io::Result<usize> {
    match files() {
        Some(counter) => counter.next("read", &path.display()).around_read(buffer, read),
        None => read(buffer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn fault(kind: FaultKind) -> Fault {
        Counter::new(Some(FaultPlan { at: 1, kind })).next("test", &"x")
    }

    const FULL: io::ErrorKind = io::ErrorKind::StorageFull;

    #[test]
    fn one_call_alone_goes_wrong() {
        let counter = Counter::new(Some(FaultPlan { at: 2, kind: FaultKind::Fail(FULL) }));
        let answers: Vec<bool> = (0..3).map(|_| counter.next("test", &"x").around_io(|| Ok(())).is_ok()).collect();
        assert_eq!((answers, counter.calls()), (vec![true, false, true], 3));
    }

    #[rstest]
    #[case("rename to *journal.json", &[None, Some(1), None, Some(2)])]
    #[case("rename to *", &[None, Some(1), Some(2), Some(3)])]
    #[case("sync /a", &[Some(1), None, None, None])]
    #[case("*b*.json*", &[None, None, Some(1), Some(2)])]
    fn calls_of_one_sort(#[case] pattern: &str, #[case] expected: &[Option<u64>]) {
        let only = Only { pattern: pattern.to_owned(), ..Only::default() };
        let calls =
            ["sync /a", "rename to /a/journal.json", "rename to /b/journal.json.2026", "rename to /b/journal.json"];
        assert_eq!(calls.map(|call| only.number(call)), expected);
    }

    #[rstest]
    #[case(FaultKind::Fail(FULL), Err(FULL), b"")]
    #[case(FaultKind::FailHalfway(FULL), Err(FULL), b"01")]
    #[case(FaultKind::FailAfter(FULL), Err(FULL), b"0123")]
    #[case(FaultKind::Truncate(1), Ok(()), b"0123")]
    fn a_write(#[case] kind: FaultKind, #[case] answer: Result<(), io::ErrorKind>, #[case] kept: &[u8]) {
        let mut file = Vec::new();
        let written = fault(kind).around_write(b"0123", |bytes| file.write_all(bytes));
        assert_eq!((written.map_err(|error| error.kind()), &file[..]), (answer, kept));
    }

    #[test]
    fn a_slow_store_takes_its_time_at_every_call() {
        let time = Duration::from_millis(5);
        let counter = Counter::new(Some(FaultPlan { at: 0, kind: FaultKind::Slow(time) }));
        let watch = crate::sys::clock::Stopwatch::start();
        let answers: Vec<bool> = (0..3).map(|_| counter.next("stat", &"x").around_io(|| Ok(())).is_ok()).collect();
        assert!(watch.elapsed() >= 3 * time);
        assert_eq!(answers, [true; 3]);
    }

    #[rstest]
    #[case(FaultKind::Short, 3)]
    #[case(FaultKind::Truncate(1), 5)]
    fn a_read(#[case] kind: FaultKind, #[case] count: usize) {
        let mut buffer = [0; 5];
        let read = fault(kind).around_read(&mut buffer, |buffer| io::Read::read(&mut &b"0123456"[..], buffer));
        assert_eq!(read.unwrap(), count);
    }

    #[rstest]
    #[case(FaultKind::Fail(FULL))]
    #[case(FaultKind::FailHalfway(FULL))]
    #[case(FaultKind::Short)]
    fn what_neither_reads_nor_writes_is_not_done(#[case] kind: FaultKind) {
        let mut done = false;
        let answer = fault(kind).around_io(|| {
            done = true;
            Ok(())
        });
        assert!(answer.is_err() && !done);
    }
}
