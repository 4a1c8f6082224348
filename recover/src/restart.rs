//! Starts the server of a cluster that a rollback has put back, and sees it come up.

use std::time::Duration;

use anyhow::Context as _;
use common::app::Context;
use common::report::Advice;
use common::restore::follow::last_words;
use common::server::{self, Programs, StartOptions};
use common::sys::clock::{Deadline, poll};
use common::sys::durable;
use serde::Serialize;

use crate::journal::Journal;
use crate::place::Place;
use crate::service::Service;

/// How long a launched server may take to show itself.
const LAUNCH_WAIT_MAX: Duration = Duration::from_secs(20);

/// How long a server is waited for until it takes sessions, as `pg_ctl` does. One that was stopped hard replays its WAL
/// first, which may take longer.
const READY_WAIT_MAX: Duration = Duration::from_mins(1);

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(50);

/// How a server stands when it is waited for no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Standing {
    /// It takes sessions, or is a standby that takes none.
    Ready,
    /// It still starts, and goes on with that.
    Starting,
}

/// Starts the server as it was started before, as far as its files tell, and returns once it runs. One that runs is left
/// alone.
pub(crate) fn launch(journal: &Journal, place: &Place, programs: &Programs, ctx: &Context) -> anyhow::Result<()> {
    if server::running(&place.pgdata)?.is_some() {
        return Ok(());
    }
    let log = place.rollback_log();
    durable::replace(&log, b"", 0o600).with_context(|| format!("write {}", log.display()))?;
    let options =
        StartOptions { config_file: journal.plan.config_file.clone(), settings: Vec::new(), log: log.clone() };
    Service::of(&journal.plan, ctx).start(programs, &place.pgdata, &options, &ctx.cancel)?;
    // A server that was killed has left its pid file, which says nothing of the new one. What does not come up is told by
    // whoever waits for it.
    let shown = || Ok((server::running(&place.pgdata)?.is_some() || last_words::tell_of_an_end(&log)).then_some(()));
    poll(Deadline::after(LAUNCH_WAIT_MAX), PAUSE, &ctx.cancel, shown).map(drop)
}

/// Waits until the launched server is up. One that is gone is an error with its last words.
pub(crate) fn await_ready(place: &Place, ctx: &Context) -> anyhow::Result<Standing> {
    let ready = || {
        let Some(server) = server::running(&place.pgdata)? else { return Err(gone(place).into()) };
        // As postmaster.pid has it for whoever waits (`src/include/utils/pidfile.h`).
        Ok(matches!(server.file.status.as_deref(), Some("ready" | "standby")).then_some(()))
    };
    ctx.progress.begin("start of the old server", None);
    let found = poll(Deadline::after(READY_WAIT_MAX), PAUSE, &ctx.cancel, ready);
    ctx.progress.end();
    Ok(found?.map_or(Standing::Starting, |()| Standing::Ready))
}

fn gone(place: &Place) -> Advice {
    let log = last_words::telling_log(&place.pgdata, &place.rollback_log());
    let words = last_words::of(&log);
    let said = if words.is_empty() { "it left no word in its log" } else { &words };
    Advice::failed(format!("the server of {} has ended: {said}", place.pgdata.display()))
        .hint(format!("its log is {}", log.display()))
}
