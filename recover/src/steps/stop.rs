//! Step 2: the old server goes down.

use common::repo::records::BackupRecord;
use common::server::{StopMode, StopOutcome};

use super::{Site, place};
use crate::journal::{Journal, Stage};
use crate::service::Service;

/// Stops the server on the data directory, if one runs there.
pub(crate) fn run(backup: &BackupRecord, journal: &mut Journal, site: &Site<'_>) -> anyhow::Result<String> {
    place::secure(backup, journal, site)?;
    journal.set_out(Stage::Stopped, &site.place)?;
    let outcome = if journal.plan.replaces {
        Service::of(&journal.plan, site.ctx).stop(&site.programs, &site.place.pgdata, &site.ctx.cancel)?
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
