//! How a server is stopped and started: by `pg_ctl`, or as the configuration says, by a systemd unit or by commands of the
//! user's own.
//!
//! Whatever is configured, the data directory tells whether it worked. A start is over as soon as a server runs there: one
//! that recovers takes no sessions for hours, and whoever waits for that gives up meanwhile. What stopped badly is stopped
//! by `pg_ctl`, up to an immediate stop.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use common::app::Context;
use common::app::config::ServiceSettings;
use common::report::{Advice, Cancel, message_of};
use common::server::{self, Programs, StartOptions, StopMode, StopOutcome, shell_quote};
use common::sys::clock::Deadline;
use common::sys::process::{self, Launched};

use crate::cli::Role;
use crate::plan::Plan;

/// How long a fast stop may take: it waits for the archiver, which may wait for a dead archive. Then immediate.
const STOP_WAIT: Duration = Duration::from_secs(30);

/// How long a command that starts a server may take until a server runs.
const START_WAIT: Duration = Duration::from_mins(2);

/// The commands that stop and start a server; `pg_ctl` does what is not there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Service {
    stop: Option<String>,
    start: Option<String>,
}

impl Service {
    /// The service of a plan's cluster. What is configured is the production server's: a copy has none.
    pub(crate) fn of(plan: &Plan, ctx: &Context) -> Self {
        if plan.role == Role::Copy { Self::default() } else { Self::configured(&ctx.settings.service) }
    }

    fn configured(settings: &ServiceSettings) -> Self {
        let unit =
            |verb: &str| settings.systemd_unit.as_ref().map(|unit| format!("systemctl {verb} {}", shell_quote(unit)));
        Self {
            stop: settings.stop_command.clone().or_else(|| unit("stop")),
            // Without waiting: a unit of type "notify" has started when the recovery is over.
            start: settings.start_command.clone().or_else(|| unit("--no-block start")),
        }
    }

    /// Stops the server on the data directory, if one runs there, and waits until it is gone.
    pub(crate) fn stop(&self, programs: &Programs, pgdata: &Path, cancel: &Cancel) -> anyhow::Result<StopOutcome> {
        let mut by_command = false;
        if let Some(stop) = &self.stop
            && server::running(pgdata)?.is_some()
        {
            by_command = true;
            if let Some(failure) = failure(stop, pgdata, cancel)? {
                tracing::warn!("{failure}; the server is stopped by pg_ctl");
            }
        }
        let outcome = server::stop(programs, pgdata, StopMode::Fast, STOP_WAIT, cancel)?;
        Ok(if by_command && outcome == StopOutcome::WasDown { StopOutcome::Stopped(StopMode::Fast) } else { outcome })
    }

    /// As [`stop`](Self::stop), for a server that was told to start and may not show itself yet: the configured command
    /// calls that off.
    pub(crate) fn call_off(&self, programs: &Programs, pgdata: &Path, cancel: &Cancel) -> anyhow::Result<StopOutcome> {
        if let Some(stop) = &self.stop
            && server::running(pgdata)?.is_none()
            && let Some(failure) = failure(stop, pgdata, cancel)?
        {
            // Most often nothing was on its way, which some commands take for a failure.
            tracing::debug!("{failure}");
        }
        self.stop(programs, pgdata, cancel)
    }

    /// Starts a server and returns as soon as it runs. Commands of the user's own know its configuration.
    pub(crate) fn start(
        &self,
        programs: &Programs,
        pgdata: &Path,
        options: &StartOptions,
        cancel: &Cancel,
    ) -> anyhow::Result<()> {
        let Some(start) = &self.start else { return server::start(programs, pgdata, options, cancel) };
        let runs = || server::running(pgdata).map(|server| server.map(drop));
        let launched = process::launch(shell(start, pgdata), &options.log, Deadline::after(START_WAIT), cancel, runs);
        match launched.with_context(|| format!("start the server on {} with {start}", pgdata.display()))? {
            Launched::Up(()) => Ok(()),
            Launched::Ended(how) => {
                Err(Advice::failed(format!("{start}: {how}, and no server runs on {}", pgdata.display()))
                    .hint(format!("what it said is in {}; recover run --resume goes on", options.log.display()))
                    .into())
            }
        }
    }
}

/// Runs a command that stops a server; what went wrong, if anything did.
fn failure(stop: &str, pgdata: &Path, cancel: &Cancel) -> anyhow::Result<Option<String>> {
    match process::run(shell(stop, pgdata), STOP_WAIT, cancel) {
        Ok(finished) if finished.status.success() => Ok(None),
        Ok(finished) => Ok(Some(format!("{stop}: {}", finished.stderr.trim()))),
        Err(err) => {
            cancel.check()?;
            Ok(Some(message_of(&err)))
        }
    }
}

/// The command, which finds its data directory in the environment.
fn shell(text: &str, pgdata: &Path) -> Command {
    let mut command = Command::new("sh");
    command.arg("-c").arg(text).env("PGDATA", pgdata);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_stands_for_two_commands() {
        let unit =
            ServiceSettings { systemd_unit: Some("postgresql@15-main".to_owned()), ..ServiceSettings::default() };
        let found = Service::configured(&unit);
        assert_eq!(found.stop.as_deref(), Some("systemctl stop 'postgresql@15-main'"));
        assert_eq!(found.start.as_deref(), Some("systemctl --no-block start 'postgresql@15-main'"));
        assert_eq!(Service::configured(&ServiceSettings::default()), Service::default());
    }
}
