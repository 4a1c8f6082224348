//! Step 7: the server starts, and its replay is followed to the end.

use anyhow::Context as _;
use common::restore::follow::{Arrival, Recovery};
use common::server::{self, Conninfo, StartOptions};
use common::sys::durable;

use super::{Site, check};
use crate::journal::{Journal, Stage};
use crate::plan::Plan;

/// Starts the server and follows it.
pub(crate) fn run(plan: &Plan, journal: &mut Journal, site: &Site<'_>) -> anyhow::Result<Arrival> {
    let log = site.place.start_log();
    durable::replace(&log, b"", 0o600).with_context(|| format!("write {}", log.display()))?;
    journal.reach(Stage::Started, &site.place)?;
    // A configuration that names a data directory would lead the server to another one.
    let settings = vec![("data_directory".to_owned(), plan.pgdata.display().to_string())];
    let options = StartOptions { config_file: plan.config_file.clone(), settings, log };
    server::start(&site.programs, &plan.pgdata, &options, &site.ctx.cancel)?;
    follow(plan, site)
}

/// Follows the server's replay to its end; at once where it has ended.
pub(crate) fn follow(plan: &Plan, site: &Site<'_>) -> anyhow::Result<Arrival> {
    let recovery = Recovery {
        pgdata: &plan.pgdata,
        log: &site.place.start_log(),
        timeline: plan.timeline,
        action: plan.action,
        conninfo: &|| conninfo(plan, site),
        segment_bytes: plan.segment_bytes,
        progress: &*site.ctx.progress,
        cancel: &site.ctx.cancel,
    };
    recovery.follow()
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
    let file = server.as_ref().map(|server| &server.file);
    check::connection(
        file.and_then(|file| file.socket_directory.as_deref()),
        file.and_then(|file| file.port),
        site.cli,
        site.ctx,
    )
}
