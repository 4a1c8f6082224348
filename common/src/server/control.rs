//! Stopping and starting a server with `pg_ctl`.
//!
//! Both are asked of the data directory, as its owner; root is refused, as PostgreSQL refuses it. Neither waits by
//! `pg_ctl`'s own means: its `-w` can't be interrupted and takes a server in a long recovery for a failure.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};

use super::postmaster;
use super::programs::Programs;
use crate::report::{Advice, Cancel};
use crate::sys::clock::{Deadline, poll};
use crate::sys::{identity, process};

/// How long `pg_ctl` itself may take to send a signal or to start a process.
const PG_CTL_WAIT: Duration = Duration::from_mins(1);
/// How long a server may take to end after an immediate stop; it only has to reap its children.
const IMMEDIATE_WAIT: Duration = Duration::from_mins(1);
/// How long processes may linger after the pid file is gone.
const REAP_WAIT: Duration = Duration::from_secs(10);
/// Between two looks at the pid file.
const PAUSE: Duration = Duration::from_millis(50);
/// Variables that would change which server `pg_ctl` or `postgres` acts on, or how it is set.
const VARIABLES: &[&str] = &[
    "PGDATA",
    "PGPORT",
    "PGHOST",
    "PGHOSTADDR",
    "PGUSER",
    "PGDATABASE",
    "PGPASSWORD",
    "PGPASSFILE",
    "PGSERVICE",
    "PGSERVICEFILE",
    "PGOPTIONS",
    "PGSSLMODE",
    "PGCLIENTENCODING",
    "PGDATESTYLE",
    "PGTZ",
    "PGGEQO",
    "PGCTLTIMEOUT",
    "PGSYSCONFDIR",
    "NOTIFY_SOCKET",
];

/// How a server is asked to stop (`src/bin/pg_ctl/pg_ctl.c`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMode {
    /// When the last client has left.
    Smart,
    /// Clients are disconnected, a checkpoint is written, the archiver finishes.
    Fast,
    /// At once, like a crash: the next start recovers from the WAL.
    Immediate,
}

impl StopMode {
    fn name(self) -> &'static str {
        match self {
            Self::Smart => "smart",
            Self::Fast => "fast",
            Self::Immediate => "immediate",
        }
    }

    /// What to try when this mode took too long.
    fn harder(self) -> Option<Self> {
        match self {
            Self::Smart => Some(Self::Fast),
            Self::Fast => Some(Self::Immediate),
            Self::Immediate => None,
        }
    }
}

/// How [`stop`] came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopOutcome {
    /// No server ran.
    WasDown,
    /// It stopped, in this mode; after `Immediate` it has not written its last checkpoint.
    Stopped(StopMode),
}

/// What to start a server with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StartOptions {
    /// A configuration file in place of the data directory's own `postgresql.conf`.
    pub config_file: Option<PathBuf>,
    /// Settings that override every file.
    pub settings: Vec<(String, String)>,
    /// Where the server's first words go, and all of them without a logging collector. Appended to.
    pub log: PathBuf,
}

/// Stops the server of `pgdata` and waits until it is gone. A server that does not run is stopped already.
///
/// Each mode may take `limit`; then the next harder one is tried, up to an immediate stop. (A fast stop waits for ever
/// on an archive command that can't reach its archive.) When interrupted, the server may still stop later.
/// Processes that outlived their postmaster are an error that names them: they still write.
pub fn stop(
    programs: &Programs,
    pgdata: &Path,
    mode: StopMode,
    limit: Duration,
    cancel: &Cancel,
) -> anyhow::Result<StopOutcome> {
    let Some(server) = postmaster::running(pgdata)? else {
        return no_orphans(pgdata, limit, cancel).map(|()| StopOutcome::WasDown);
    };
    if server.file.single_user {
        let message = format!("a single-user server (process {}) runs on {}", server.file.pid, pgdata.display());
        return Err(Advice::refused(message).hint("end that session first").into());
    }
    refuse_root()?;
    let mut next = Some(mode);
    while let Some(mode) = next {
        let wait = if mode == StopMode::Immediate { limit.max(IMMEDIATE_WAIT) } else { limit };
        if stop_once(programs, pgdata, mode, wait, cancel)? {
            no_orphans(pgdata, limit, cancel)?;
            return Ok(StopOutcome::Stopped(mode));
        }
        next = mode.harder();
    }
    let message = format!("the server on {} (process {}) does not stop", pgdata.display(), server.file.pid);
    Err(Advice::failed(message).hint("see its log; a process in uninterruptible I/O can't end").into())
}

/// Whether the server was gone within the time.
fn stop_once(
    programs: &Programs,
    pgdata: &Path,
    mode: StopMode,
    wait: Duration,
    cancel: &Cancel,
) -> anyhow::Result<bool> {
    let deadline = Deadline::after(wait);
    let mut command = pg_ctl(programs);
    command.args(["stop", "-s", "-W", "-m", mode.name(), "-D"]).arg(pgdata);
    let sent = process::run(command, PG_CTL_WAIT, cancel).context("run pg_ctl stop")?;
    let gone = || Ok(postmaster::running(pgdata)?.is_none().then_some(()));
    // It may have ended by itself before the signal came.
    ensure!(
        sent.status.success() || gone()?.is_some(),
        "pg_ctl stop -m {}: {}",
        mode.name(),
        first_words(&sent.stderr, &sent.stdout)
    );
    Ok(poll(deadline, PAUSE, cancel, gone)?.is_some())
}

/// A postmaster removes its pid file shortly before it ends; and when it was killed alone, its children may be at work
/// still.
fn no_orphans(pgdata: &Path, limit: Duration, cancel: &Cancel) -> anyhow::Result<()> {
    if !pgdata.exists() {
        return Ok(());
    }
    let mut left = Vec::new();
    let gone = poll(Deadline::after(limit.min(REAP_WAIT)), PAUSE, cancel, || {
        left = postmaster::processes(pgdata)?;
        Ok(left.is_empty().then_some(()))
    })?;
    if gone.is_some() {
        return Ok(());
    }
    let pids: Vec<String> = left.iter().map(ToString::to_string).collect();
    let message = format!("processes of a server that is gone still work in {}: {}", pgdata.display(), pids.join(", "));
    Err(Advice::refused(message).hint("wait until they have ended, or end them with kill -TERM").into())
}

/// Refuses a path that `pg_ctl` cannot start a server with: it puts paths between double quotes into a shell command.
pub fn refuse_path(path: &Path) -> Result<(), Advice> {
    if !path.to_string_lossy().contains(['"', '$', '`', '\\', '\n']) {
        return Ok(());
    }
    Err(Advice::usage(format!("pg_ctl can't handle the path {}", path.display()))
        .hint("choose a path without double quotes, dollar signs, backticks, backslashes and line breaks"))
}

/// Starts a server on `pgdata` and returns as soon as it is launched, not when it takes sessions: a recovery may take
/// hours. Whether it came up is asked with [`probe()`](super::probe()) and [`running`](postmaster::running); its log says
/// why not. A server that runs there already is an error.
pub fn start(programs: &Programs, pgdata: &Path, options: &StartOptions, cancel: &Cancel) -> anyhow::Result<()> {
    refuse_root()?;
    if let Some(server) = postmaster::running(pgdata)? {
        let message = format!("a server runs on {} already (process {})", pgdata.display(), server.file.pid);
        return Err(Advice::refused(message).into());
    }
    for path in [programs.bin(), pgdata, &options.log] {
        refuse_path(path)?;
    }
    let mut command = pg_ctl(programs);
    command.args(["start", "-s", "-W", "-D"]).arg(pgdata).arg("-l").arg(&options.log);
    let arguments = server_arguments(options)?;
    if !arguments.is_empty() {
        command.arg("-o").arg(arguments);
    }
    let finished = process::run(command, PG_CTL_WAIT, cancel).context("run pg_ctl start")?;
    ensure!(
        finished.status.success(),
        "pg_ctl start -D {}: {}",
        pgdata.display(),
        first_words(&finished.stderr, &finished.stdout)
    );
    Ok(())
}

/// What a server that is started on `pgdata` would have this setting at, as its configuration says, in the setting's base
/// unit; `None` where the configuration cannot be read, which a start will tell of.
pub fn configured(
    programs: &Programs,
    pgdata: &Path,
    config_file: Option<&Path>,
    name: &str,
    cancel: &Cancel,
) -> anyhow::Result<Option<String>> {
    let mut command = Command::new(programs.postgres());
    for variable in VARIABLES {
        command.env_remove(variable);
    }
    command.arg("-D").arg(pgdata).args(["-C", name]);
    if let Some(file) = config_file {
        let mut argument = std::ffi::OsString::from("config_file=");
        argument.push(file);
        command.arg("-c").arg(argument);
    }
    let finished = process::run(command, PG_CTL_WAIT, cancel).with_context(|| format!("run postgres -C {name}"))?;
    Ok(finished.status.success().then(|| finished.stdout.trim_end_matches('\n').to_owned()))
}

/// The text for `pg_ctl -o`, which a shell takes apart.
fn server_arguments(options: &StartOptions) -> anyhow::Result<String> {
    let mut words = Vec::new();
    if let Some(file) = &options.config_file {
        let file = file.to_str().with_context(|| format!("the path {} is not UTF-8", file.display()))?;
        words.push(format!("-c {}", shell_quote(&format!("config_file={file}"))));
    }
    for (name, value) in &options.settings {
        let good = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.');
        ensure!(good, Advice::usage(format!("{name:?} is no setting's name")));
        words.push(format!("-c {}", shell_quote(&format!("{name}={value}"))));
    }
    Ok(words.join(" "))
}

/// The text as one word of a POSIX shell, whatever is in it.
pub fn shell_quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn pg_ctl(programs: &Programs) -> Command {
    let mut command = Command::new(programs.pg_ctl());
    for variable in VARIABLES {
        command.env_remove(variable);
    }
    command
}

fn refuse_root() -> anyhow::Result<()> {
    ensure!(
        !identity::is_root(),
        Advice::refused("PostgreSQL can't be started or stopped as root").hint("run as the data directory's owner")
    );
    Ok(())
}

/// What a program said, on one line.
fn first_words(stderr: &str, stdout: &str) -> String {
    let said = if stderr.trim().is_empty() { stdout } else { stderr };
    let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).take(5).collect();
    if lines.is_empty() { "it failed without a word".to_owned() } else { lines.join("; ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn options(settings: &[(&str, &str)]) -> StartOptions {
        let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        StartOptions { settings, ..StartOptions::default() }
    }

    #[test]
    fn quotes_for_the_shell() {
        let mut options = options(&[("restore_command", "it's \"%f\" $HOME"), ("a.b", "")]);
        options.config_file = Some("/etc/x y.conf".into());
        let expected = r#"-c 'config_file=/etc/x y.conf' -c 'restore_command=it'\''s "%f" $HOME' -c 'a.b='"#;
        assert_eq!(server_arguments(&options).unwrap(), expected);
    }

    #[test]
    fn refuses_names_that_are_none() {
        assert!(server_arguments(&options(&[("a b", "c")])).is_err());
        assert!(server_arguments(&options(&[("", "c")])).is_err());
    }

    proptest! {
        #[test]
        fn the_shell_gives_it_back(value in "[^\\x00]{0,20}") {
            let command = format!("printf %s {}", shell_quote(&value));
            let output = Command::new("sh").arg("-c").arg(command).output().unwrap();
            prop_assert_eq!(String::from_utf8(output.stdout).unwrap(), value);
        }
    }
}
