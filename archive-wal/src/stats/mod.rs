//! `archive-wal stats`: how much WAL each repository holds, and how much comes in a day. Needs no server.
//!
//! [`gather`] lists the repositories; [`count`] adds up, purely; [`report`] prints. Nothing but names, sizes and times of
//! writing is read, and timeline histories not even that: a hole is a number that is missing between two of a timeline.

mod count;
mod gather;
mod report;

use common::app::{Context, Outcome};

/// Carries out `archive-wal stats`; writes nothing but its report.
pub(crate) fn run(ctx: &Context) -> anyhow::Result<Outcome> {
    let asked = gather::asked_system(ctx)?;
    let now = ctx.clock.now();
    let mut repositories = Vec::new();
    for setting in ctx.settings.require_repositories()? {
        let systems = gather::systems(&ctx.open(setting)?, asked)?;
        let counted = systems.iter().map(|system| count::count(system, now)).collect();
        repositories.push((setting.url.value.as_str(), counted));
    }
    report::print(&repositories, ctx)?;
    Ok(Outcome::Done)
}
