//! Step 2: the old server goes down.

use std::time::Duration;

use common::server::{self, StopMode, StopOutcome};

use super::Site;
use crate::journal::{Journal, Stage};

/// How long a fast stop may take: it waits for the archiver, which may wait for a dead archive. Then immediate.
const FAST_STOP_WAIT: Duration = Duration::from_secs(30);

/// Stops the server on the data directory, if one runs there.
pub(crate) fn run(journal: &mut Journal, site: &Site<'_>) -> anyhow::Result<String> {
    journal.set_out(Stage::Stopped, &site.place)?;
    let outcome = if journal.plan.replaces {
        server::stop(&site.programs, &site.place.pgdata, StopMode::Fast, FAST_STOP_WAIT, &site.ctx.cancel)?
    } else {
        StopOutcome::WasDown
    };
    journal.reach(Stage::Stopped, &site.place)?;
    Ok(match outcome {
        StopOutcome::WasDown => "no server ran".to_owned(),
        StopOutcome::Stopped(StopMode::Immediate) => "the server was stopped at once, as by a crash".to_owned(),
        StopOutcome::Stopped(_) => "the server is down".to_owned(),
    })
}
