//! Runs other programs: never for ever, never with more output than fits, never leaving a zombie.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{kill, killpg};
use nix::unistd::Pid;

use super::clock::Deadline;
use crate::report::{Advice, Cancel, Interrupted};
use crate::units::Took;

pub use nix::sys::signal::Signal;

/// How many bytes of each of a program's two outputs are kept.
pub const OUTPUT_BYTES_MAX: usize = 64 * 1024;
/// How long a program that is told to stop may take to clean up.
const GRACE: Duration = Duration::from_secs(2);
const PAUSE_MIN: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(20);

/// A program that ended by itself, well or not.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// The first [`OUTPUT_BYTES_MAX`] bytes of its standard output; what is no UTF-8 is replaced.
    pub stdout: String,
    /// The same of its standard error.
    pub stderr: String,
}

/// Runs the program to its end, with nothing on its standard input.
///
/// Answers when the program itself has ended, also when a server that it started lives on and holds its outputs open.
/// After `deadline`, or when the work is cancelled, the program and its process group get SIGTERM, and SIGKILL when the
/// program is still there a little later; the answer is then an error that names the program, with [`Interrupted`] as
/// its cause when cancelled.
pub fn run(command: Command, deadline: Duration, cancel: &Cancel) -> anyhow::Result<Finished> {
    run_into(command, Stdio::piped(), deadline, cancel, &mut || {})
}

/// The same with the standard output where the caller wants it; [`Finished::stdout`] is empty unless that is a pipe.
/// `look` is called again and again while the program runs.
pub fn run_into(
    mut command: Command,
    stdout: Stdio,
    deadline: Duration,
    cancel: &Cancel,
    look: &mut dyn FnMut(),
) -> anyhow::Result<Finished> {
    cancel.check()?;
    let program = command.get_program().to_owned();
    command.stdin(Stdio::null()).stdout(stdout).stderr(Stdio::piped());
    // A group of its own: Ctrl-C at the keyboard is ours to pass on, and what a shell started is reached too.
    command.process_group(0);
    let mut child = command.spawn().with_context(|| format!("start {}", program.display()))?;
    let watched = watch(&mut child, Deadline::after(deadline), cancel, look);
    if !matches!(watched, Ok(End::Exited(_))) {
        stop(&mut child);
    }
    conclude(watched, &program, deadline)
}

/// Why the watch ended.
enum End {
    Exited(Finished),
    Cancelled,
    TimedOut,
}

fn conclude(watched: io::Result<End>, program: &OsString, deadline: Duration) -> anyhow::Result<Finished> {
    let program = program.display();
    match watched.with_context(|| format!("wait for {program}"))? {
        End::Exited(finished) => Ok(finished),
        End::Cancelled => Err(anyhow::Error::new(Interrupted).context(format!("run {program}"))),
        End::TimedOut => {
            Err(Advice::failed(format!("{program} was not done after {} and was stopped", Took(deadline))).into())
        }
    }
}

fn watch(child: &mut Child, deadline: Deadline, cancel: &Cancel, look: &mut dyn FnMut()) -> io::Result<End> {
    let mut stdout = Capture::of(child.stdout.take())?;
    let mut stderr = Capture::of(child.stderr.take())?;
    let mut pause = PAUSE_MIN;
    loop {
        // Asked before reading: what an ended program wrote is then all in the pipes.
        let status = child.try_wait()?;
        let moved = stdout.drain()? | stderr.drain()?;
        look();
        if let Some(status) = status {
            return Ok(End::Exited(Finished { status, stdout: stdout.text(), stderr: stderr.text() }));
        }
        if cancel.is_cancelled() {
            return Ok(End::Cancelled);
        }
        if deadline.passed() {
            return Ok(End::TimedOut);
        }
        pause = if moved { PAUSE_MIN } else { (pause * 2).min(PAUSE_MAX) };
        thread::sleep(pause.min(deadline.remaining()));
    }
}

/// Ends the program and its group, and waits for the program so that no zombie stays.
fn stop(child: &mut Child) {
    let Ok(group) = i32::try_from(child.id()).map(Pid::from_raw) else { return };
    signal_group(group, Signal::SIGTERM);
    let grace = Deadline::after(GRACE);
    while !grace.passed() {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        thread::sleep(PAUSE_MAX);
    }
    signal_group(group, Signal::SIGKILL);
    drop(child.wait());
}

/// To be called only while the group's leader is not waited for: its number may belong to others afterwards.
fn signal_group(group: Pid, signal: Signal) {
    if let Err(errno) = killpg(group, signal) {
        // A group of which every member now runs as another user; the deadline's own error tells what matters.
        tracing::debug!(%group, %signal, %errno, "signal a group of processes");
    }
}

/// One output of a program, read without ever waiting for it.
struct Capture<R> {
    source: Option<R>,
    kept: Vec<u8>,
}

impl<R: Read + AsFd> Capture<R> {
    fn of(source: Option<R>) -> io::Result<Self> {
        if let Some(source) = &source {
            fcntl(source, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        }
        Ok(Self { source, kept: Vec::new() })
    }

    /// Reads what is there, at most one pipe full; whether there was any.
    fn drain(&mut self) -> io::Result<bool> {
        let mut buffer = [0; 8192];
        let mut moved = 0;
        while let Some(source) = self.source.as_mut().filter(|_| moved < OUTPUT_BYTES_MAX) {
            match source.read(&mut buffer) {
                Ok(0) => self.source = None,
                Ok(count) => {
                    moved += count;
                    let room = OUTPUT_BYTES_MAX - self.kept.len();
                    self.kept.extend_from_slice(buffer.get(..count.min(room)).unwrap_or_default());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(moved > 0)
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.kept).into_owned()
    }
}

/// How a launch came about.
#[derive(Debug)]
pub enum Launched<T> {
    /// What was waited for is there; the program may still run.
    Up(T),
    /// The program has failed, or nothing came of it in time: how it ended.
    Ended(String),
}

/// Starts a program that brings something up, and returns as soon as `up` has an answer, not when the program ends. Its
/// output goes to the end of the file `log`. At the deadline it is left alone: what it started may still be on its way.
pub fn launch<T>(
    mut command: Command,
    log: &Path,
    deadline: Deadline,
    cancel: &Cancel,
    mut up: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<Launched<T>> {
    cancel.check()?;
    let program = command.get_program().to_owned();
    let opening = || format!("open {}", log.display());
    let output = fs::OpenOptions::new().create(true).append(true).open(log).with_context(opening)?;
    command.stdin(Stdio::null()).stdout(output.try_clone().with_context(opening)?).stderr(output);
    command.process_group(0);
    let mut child = command.spawn().with_context(|| format!("start {}", program.display()))?;
    loop {
        // Asked before looking: what an ended program brought up is then there.
        let status = child.try_wait().with_context(|| format!("wait for {}", program.display()))?;
        if let Some(found) = up()? {
            return Ok(Launched::Up(found));
        }
        match status {
            Some(status) if !status.success() => return Ok(Launched::Ended(status.to_string())),
            _ if deadline.passed() => return Ok(Launched::Ended("nothing came of it in time".to_owned())),
            _ => cancel.check()?,
        }
        thread::sleep(PAUSE_MAX.min(deadline.remaining()));
    }
}

/// Starts this very program again, with `options` before the arguments that it was started with, and goes on without it:
/// it reads and writes nothing here, and gets none of the signals meant for our process group.
pub fn start_again_detached(options: &[&str]) -> io::Result<()> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(options).args(std::env::args_os().skip(1));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    // Whoever reaps our own process reaps that one too.
    command.spawn().map(drop)
}

/// Whether a process of this number is running, whoever owns it. One that has ended and only waits for its parent
/// to notice is not.
pub fn alive(pid: i32) -> bool {
    // 0 and negative numbers mean groups of processes.
    pid > 0 && !matches!(kill(Pid::from_raw(pid), None), Err(Errno::ESRCH)) && !is_zombie(pid)
}

/// Where the system has no `/proc`, a zombie counts as running until its parent looks.
fn is_zombie(pid: i32) -> bool {
    let stat = fs::read(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The state stands behind the program's name, which is in parentheses and may hold any.
    let after_name = stat.rsplit(|byte| *byte == b')').next().unwrap_or_default();
    after_name.starts_with(b" Z")
}

/// The processes whose working directory is this one, as far as the caller may look at them.
pub fn working_in(directory: &Path) -> io::Result<Vec<i32>> {
    let directory = directory.canonicalize()?;
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry.ok().and_then(|entry| entry.file_name().to_str()?.parse().ok()) else { continue };
        // A process that ends meanwhile, or that is another user's, is not ours to see.
        if fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|own| own == directory) {
            found.push(pid);
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Sends the signal to one process.
pub fn signal(pid: i32, signal: Signal) -> io::Result<()> {
    if pid <= 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{pid} is no process")));
    }
    Ok(kill(Pid::from_raw(pid), signal)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::clock::{Stopwatch, poll};

    const LONG: Duration = Duration::from_mins(1);

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    fn run_shell(script: &str) -> Finished {
        run(shell(script), LONG, &Cancel::default()).unwrap()
    }

    #[test]
    fn a_launch_is_over_when_something_is_up() {
        let dir = tempfile::tempdir().unwrap();
        let (log, flag) = (dir.path().join("log"), dir.path().join("flag"));
        let up = || Ok(flag.exists().then_some(7));
        let shell = |text: &str| {
            let mut command = Command::new("sh");
            command.arg("-c").arg(text).current_dir(dir.path());
            command
        };
        let launch =
            |text: &str, wait| launch(shell(text), &log, Deadline::after(wait), &Cancel::default(), up).unwrap();
        let long = Duration::from_mins(1);
        assert!(matches!(launch("echo so; exit 3", long), Launched::Ended(how) if how.contains('3')));
        assert!(matches!(launch("true", Duration::ZERO), Launched::Ended(_)));
        // It goes on for as long as its input is open, which nobody waits for.
        assert!(matches!(launch(": > flag; exec cat > /dev/null", long), Launched::Up(7)));
        assert_eq!(fs::read_to_string(&log).unwrap(), "so\n");
    }

    #[test]
    fn both_outputs_and_the_status_come_back() {
        let finished = run_shell("echo out; echo err >&2; exit 3");
        assert_eq!((finished.stdout.as_str(), finished.stderr.as_str()), ("out\n", "err\n"));
        assert_eq!(finished.status.code(), Some(3));
        assert_eq!(run_shell("cat").stdout, "");
    }

    #[test]
    fn output_without_end_neither_blocks_nor_is_kept() {
        let finished = run_shell("head -c 3000000 /dev/zero >&2; head -c 3000000 /dev/zero; echo done >&2");
        assert!(finished.status.success());
        assert_eq!((finished.stdout.len(), finished.stderr.len()), (OUTPUT_BYTES_MAX, OUTPUT_BYTES_MAX));
    }

    #[test]
    fn a_server_that_stays_behind_is_not_waited_for() {
        let watch = Stopwatch::start();
        let finished = run_shell("sleep 100 & echo $!");
        assert!(watch.elapsed() < LONG);
        let pid = finished.stdout.trim().parse().unwrap();
        assert!(alive(pid));
        signal(pid, Signal::SIGKILL).unwrap();
    }

    #[test]
    fn after_the_deadline_everything_it_started_is_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let pid_file = dir.path().join("pid");
        let script = format!("sleep 1000 & echo $! >{}; wait", pid_file.display());
        // On a busy machine the shell may need longer to get that far.
        let pid = [300, 3_000, 30_000].into_iter().find_map(|millis| {
            let deadline = Duration::from_millis(millis);
            let error = run(shell(&script), deadline, &Cancel::default()).unwrap_err();
            assert_eq!(error.to_string(), format!("sh was not done after {} and was stopped", Took(deadline)));
            fs::read_to_string(&pid_file).ok()?.trim().parse().ok()
        });
        let pid = pid.unwrap();
        let gone = poll(Deadline::after(LONG), PAUSE_MIN, &Cancel::default(), || Ok((!alive(pid)).then_some(())));
        assert_eq!(gone.unwrap(), Some(()));
    }

    #[test]
    fn a_program_that_ignores_the_request_is_killed() {
        let watch = Stopwatch::start();
        let script = "trap '' TERM; while :; do sleep 0.01; done";
        assert!(run(shell(script), Duration::from_millis(200), &Cancel::default()).is_err());
        assert!(watch.elapsed() < LONG);
    }

    #[test]
    fn a_cancellation_stops_it() {
        let dir = tempfile::tempdir().unwrap();
        let started = dir.path().join("started");
        let cancel = Cancel::default();
        let script = format!(": >{}; sleep 100", started.display());
        let error = thread::scope(|scope| {
            let running = scope.spawn(|| run(shell(&script), LONG, &cancel));
            let seen =
                poll(Deadline::after(LONG), PAUSE_MIN, &Cancel::default(), || Ok(started.exists().then_some(())));
            assert_eq!(seen.unwrap(), Some(()));
            cancel.cancel();
            running.join().unwrap().unwrap_err()
        });
        assert_eq!(format!("{error:#}"), "run sh: interrupted");
        assert!(error.root_cause().is::<Interrupted>());
        assert!(run(shell("true"), LONG, &cancel).unwrap_err().is::<Interrupted>());
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = run(Command::new("/no/such/program"), LONG, &Cancel::default()).unwrap_err();
        assert_eq!(error.to_string(), "start /no/such/program");
    }

    #[test]
    fn knows_who_is_alive() {
        assert!(alive(i32::try_from(std::process::id()).unwrap()));
        assert!(alive(1));
        let mut child = shell("exit 0").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let ended = poll(Deadline::after(LONG), PAUSE_MIN, &Cancel::default(), || Ok((!alive(pid)).then_some(())));
        assert_eq!(ended.unwrap(), Some(()), "a zombie is not alive");
        child.wait().unwrap();
        for nobody in [pid, 0, -1, i32::MAX] {
            assert!(!alive(nobody), "{nobody}");
        }
        assert!(signal(0, Signal::SIGTERM).is_err() && signal(-1, Signal::SIGTERM).is_err());
    }
}
