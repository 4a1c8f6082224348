//! Step 7: the server starts, and its replay is followed to the end.

use std::time::Duration;

use anyhow::Context as _;
use common::restore::follow::{Arrival, Recovery, Streaming};
use common::server::{self, Conninfo, StartOptions};
use common::sys::durable;

use super::{Site, check, reachable};
use crate::journal::{Journal, Stage};
use crate::plan::Plan;
use crate::report_file::Replay;
use crate::service::Service;

/// Starts the server and follows it.
pub(crate) fn run(journal: &mut Journal, site: &Site<'_>) -> anyhow::Result<Arrival> {
    let log = site.place.start_log();
    durable::replace(&log, b"", 0o600).with_context(|| format!("write {}", log.display()))?;
    journal.reach(Stage::Started, &site.place)?;
    let plan = &journal.plan;
    // A configuration that names a data directory would lead the server to another one.
    let settings = vec![("data_directory".to_owned(), plan.pgdata.display().to_string())];
    let options = StartOptions { config_file: plan.config_file.clone(), settings, log };
    Service::of(plan, site.ctx).start(&site.programs, &plan.pgdata, &options, &site.ctx.cancel)?;
    follow(plan, site)
}

/// Follows the server's replay to its end; at once where it has ended. The failure of one that stops on its way tells
/// what can be reached all the same.
pub(crate) fn follow(plan: &Plan, site: &Site<'_>) -> anyhow::Result<Arrival> {
    with_recovery(plan, site, &|recovery| recovery.follow()).map_err(|err| reachable::told(err, plan, site))
}

/// What replay did until it arrived.
pub(crate) fn replay(plan: &Plan, arrival: &Arrival, took: Duration) -> Replay {
    let (from, to) = (plan.wal_from.0, arrival.position().0.max(plan.wal_from.0));
    let size = plan.segment_bytes.max(1);
    let segments = to.div_ceil(size).saturating_sub(from / size);
    Replay { bytes: to - from, segments, seconds: took.as_secs_f64() }
}

/// How the recovery ended, if it has; does not wait.
pub(crate) fn look(plan: &Plan, site: &Site<'_>) -> anyhow::Result<Option<Arrival>> {
    with_recovery(plan, site, &|recovery| recovery.ended())
}

fn with_recovery<T>(plan: &Plan, site: &Site<'_>, act: &dyn Fn(&Recovery<'_>) -> T) -> T {
    act(&Recovery {
        pgdata: &plan.pgdata,
        log: &site.place.start_log(),
        timeline: plan.timeline,
        action: plan.action,
        standby: plan.standby.as_ref().map(|standby| match standby.primary_conninfo {
            Some(_) => Streaming::Expected,
            None => Streaming::No,
        }),
        conninfo: &|| conninfo(plan, site),
        segment_bytes: plan.segment_bytes,
        from: plan.wal_from,
        until: Some(plan.arrival.as_ref().map_or(plan.wal_reaches, |arrival| arrival.at)),
        progress: &*site.ctx.progress,
        cancel: &site.ctx.cancel,
    })
}

/// How the recovered server is reached.
pub(crate) fn conninfo(plan: &Plan, site: &Site<'_>) -> anyhow::Result<Conninfo> {
    if let Some(port) = plan.port {
        let mut sources = site.ctx.connection_sources(&site.cli.server);
        sources.host = Some(plan.pgdata.display().to_string());
        sources.port = Some(port.to_string());
        sources.configured = None;
        return site.ctx.resolve(sources);
    }
    let server = server::running(&plan.pgdata)?;
    check::connection(server.as_ref().map(|server| &server.file), site.cli, site.ctx)
}
