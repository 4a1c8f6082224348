//! Child processes with deadlines, and processes found by number.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
pub use nix::sys::signal::Signal;
use nix::sys::signal::{kill, killpg};
use nix::unistd::Pid;

use crate::wait;

/// How long any program may run before a story calls it stuck.
pub const DEADLINE: Duration = Duration::from_mins(3);

/// What a finished program left.
#[derive(Debug, Clone)]
pub struct Ran {
    /// The command line, for messages.
    pub command: String,
    /// The exit status' code; `None` when a signal ended the program.
    pub code: Option<i32>,
    /// The signal that ended the program.
    pub signal: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// How long it ran.
    pub took: Duration,
}

impl Ran {
    /// Fails unless the program exited with `code`, showing what it said.
    pub fn expect_code(self, code: i32) -> Result<Self> {
        ensure!(self.code == Some(code), "wanted exit {code}, got {self}");
        Ok(self)
    }

    /// Fails unless the program exited with 0.
    pub fn success(self) -> Result<Self> {
        self.expect_code(0)
    }

    /// Fails unless the program exited with 200 to 255: what makes PostgreSQL stop instead of promoting.
    pub fn stops_recovery(self) -> Result<Self> {
        ensure!(self.code.is_some_and(|code| code >= 200), "wanted exit 200 or above, got {self}");
        Ok(self)
    }

    /// Fails unless standard output holds every one of `words`.
    pub fn prints(self, words: &[&str]) -> Result<Self> {
        for word in words {
            ensure!(self.stdout.contains(word), "{word:?} is not printed: {self}");
        }
        Ok(self)
    }

    /// Fails unless standard error holds every one of `words`, whatever their case.
    pub fn says(self, words: &[&str]) -> Result<Self> {
        let said = self.stderr.to_lowercase();
        for word in words {
            ensure!(said.contains(&word.to_lowercase()), "nothing about {word:?} in {self}");
        }
        Ok(self)
    }

    /// Standard output as one JSON document.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_str(&self.stdout).with_context(|| format!("read as JSON the output of {self}"))
    }
}

impl std::fmt::Display for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ended = match (self.code, self.signal) {
            (Some(code), _) => format!("exit {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => "no status".to_owned(),
        };
        write!(f, "{ended} of `{}`\n  stdout: {}\n  stderr: {}", self.command, self.stdout.trim(), self.stderr.trim())
    }
}

/// Runs the command to its end, feeding it `input`; kills it and fails after [`DEADLINE`].
///
/// Output goes through files, so that a server or helper that the program leaves running cannot hold it open.
pub fn run(command: &mut Command, input: &str) -> Result<Ran> {
    ended(run_until(command, input, wait_for)?)
}

/// The same at a terminal, where somebody has typed `typed`: what is asked there finds its answers.
pub fn run_at_terminal(command: &mut Command, typed: &str) -> Result<Ran> {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let mut keyboard = posix_openpt(flags).context("make a terminal")?;
    grantpt(&keyboard)?;
    unlockpt(&keyboard)?;
    let name = ptsname_r(&keyboard)?;
    let terminal = OpenOptions::new().read(true).write(true).custom_flags(OFlag::O_NOCTTY.bits()).open(name)?;
    keyboard.write_all(typed.as_bytes())?;
    ended(run_with(command, Stdio::from(terminal), wait_for)?)
}

fn ended(ran: Ran) -> Result<Ran> {
    ensure!(ran.code.is_some() || ran.signal.is_some(), "still running after {DEADLINE:?}, killed: {ran}");
    Ok(ran)
}

/// Runs the command and kills it, with all that it started, when it has not ended by itself after `delay`.
pub fn run_and_kill(command: &mut Command, delay: Duration) -> Result<Ran> {
    run_until(command.process_group(0), "", |child| {
        // Not a wait for a condition: where the program is when it dies is what is tried out.
        thread::sleep(delay);
        let group = i32::try_from(child.id())?;
        match killpg(Pid::from_raw(group), Signal::SIGKILL) {
            Ok(()) | Err(Errno::ESRCH) => Ok(Some(child.wait()?)),
            Err(error) => bail!("kill the processes of group {group}: {error}"),
        }
    })
}

/// Runs the command; `end` sees to it that it ends, and answers how, or `None` when it had to be killed.
pub(crate) fn run_until(
    command: &mut Command,
    input: &str,
    end: impl FnOnce(&mut Child) -> Result<Option<ExitStatus>>,
) -> Result<Ran> {
    run_with(command, Stdio::from(scratch_file(input)?), end)
}

fn run_with(
    command: &mut Command,
    stdin: Stdio,
    end: impl FnOnce(&mut Child) -> Result<Option<ExitStatus>>,
) -> Result<Ran> {
    let text = format!("{command:?}");
    let (stdout, stderr) = (scratch_file("")?, scratch_file("")?);
    command.stdin(stdin).stdout(stdout.try_clone()?).stderr(stderr.try_clone()?);
    let started = Instant::now();
    let mut child = command.spawn().with_context(|| format!("start {text}"))?;
    let status = end(&mut child)?;
    Ok(Ran {
        command: text,
        code: status.and_then(|status| status.code()),
        signal: status.and_then(|status| status.signal()),
        stdout: read_back(stdout)?,
        stderr: read_back(stderr)?,
        took: started.elapsed(),
    })
}

/// The child's status; `None` when it had to be killed after [`DEADLINE`].
pub fn wait_for(child: &mut Child) -> Result<Option<ExitStatus>> {
    let until = Instant::now() + DEADLINE;
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() > until {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

fn scratch_file(content: &str) -> Result<File> {
    let mut file = tempfile::tempfile().context("create a scratch file")?;
    file.write_all(content.as_bytes())?;
    file.seek(SeekFrom::Start(0))?;
    Ok(file)
}

fn read_back(mut file: File) -> Result<String> {
    file.seek(SeekFrom::Start(0))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Whether the process still does something; one that only waits to be reaped does not.
pub fn alive(pid: i32) -> bool {
    stat(pid).is_some_and(|(state, _)| !matches!(state, 'Z' | 'X'))
}

/// The processes whose parent is `pid`.
pub fn children(pid: i32) -> Result<Vec<i32>> {
    let entries = std::fs::read_dir("/proc").context("read /proc")?;
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    Ok(pids.filter(|&child| stat(child).is_some_and(|(_, parent)| parent == pid)).collect())
}

/// A process that works in this folder and was started with this argument, when there is one.
pub fn find(dir: &Path, argument: &str) -> Result<Option<i32>> {
    let entries = std::fs::read_dir("/proc").context("read /proc")?;
    let mut pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    Ok(pids.find(|pid| {
        let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        arguments.split(|byte| *byte == 0).any(|found| found == argument.as_bytes())
            && std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == dir)
            && alive(*pid)
    }))
}

/// Sends a signal; a process that is gone already is no failure.
pub fn signal(pid: i32, signal: Signal) -> Result<()> {
    match kill(Pid::from_raw(pid), signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => bail!("send {signal} to process {pid}: {error}"),
    }
}

/// The largest resident set that the process has had so far, in bytes; `None` when it is gone.
pub fn peak_memory(pid: i32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kilobytes| kilobytes << 10)
}

/// Waits until every one of the processes is gone.
pub fn wait_gone(pids: &[i32]) -> Result<()> {
    wait::until("the processes end", || Ok(!pids.iter().any(|&pid| alive(pid))))
}

/// State and parent from `/proc/PID/stat`; the command's name before them may hold anything, parentheses too.
fn stat(pid: i32) -> Option<(char, i32)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_and_status_come_back() {
        let ran = run(Command::new("sh").args(["-c", "cat; echo oops >&2; exit 7"]), "in").unwrap();
        assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (Some(7), "in", "oops\n"));
        assert!(ran.clone().says(&["OOPS"]).is_ok());
        assert!(ran.success().is_err());
    }

    #[test]
    fn a_terminal_is_one_and_answers() {
        let script = "test -t 0 && read one && read two && echo $two $one";
        let ran = run_at_terminal(Command::new("sh").args(["-c", script]), "yes\nno\n").unwrap();
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "no yes\n"));
    }

    #[test]
    fn a_signal_is_no_exit_code() {
        let ran = run(Command::new("sh").args(["-c", "kill -9 $$"]), "").unwrap();
        assert_eq!((ran.code, ran.signal), (None, Some(9)));
    }

    #[test]
    fn a_program_is_killed_with_its_children() {
        let script = ["-c", "tail -f /dev/null & echo $!; wait"];
        // A busy machine may take its time before the script has said anything, or before it has ended.
        let delays = || [100, 1_000, 10_000].map(Duration::from_millis).into_iter();
        let mut runs = delays().map(|delay| run_and_kill(Command::new("sh").args(script), delay).unwrap());
        let killed = runs.find(|ran| !ran.stdout.is_empty()).unwrap();
        assert_eq!(killed.signal, Some(9));
        wait_gone(&[killed.stdout.trim().parse().unwrap()]).unwrap();
        let mut runs = delays().map(|delay| run_and_kill(&mut Command::new("true"), delay).unwrap());
        assert!(runs.any(|ran| ran.code == Some(0)));
    }

    #[test]
    fn this_process_lives_and_has_a_parent() {
        let me = i32::try_from(std::process::id()).unwrap();
        assert!(alive(me));
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        assert!(children(me).unwrap().contains(&pid));
        signal(pid, Signal::SIGKILL).unwrap();
        wait_gone(&[pid]).unwrap();
        child.wait().unwrap();
    }
}
