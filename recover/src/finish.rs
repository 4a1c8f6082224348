//! `recover finish`: the last check of a server that somebody else started, or that waited at its target.

use common::app::{Context, Outcome};
use common::report::Advice;
use common::restore::follow::RECOVERY_SIGNAL;
use common::server;

use crate::cli::Cli;
use crate::facts;
use crate::journal::{Journal, Stage};
use crate::place::Place;
use crate::steps::{self, Site};

/// Checks the server and lets it archive again. Calling it twice changes nothing.
pub(crate) fn run(cli: &Cli, ctx: &Context) -> anyhow::Result<Outcome> {
    let place = Place::of(ctx)?;
    let pgdata = place.pgdata.display().to_string();
    let (_lock, mut journal) = Journal::lock(&place)?
        .ok_or_else(|| Advice::refused(format!("no recovery of {pgdata} is known")).hint("recover run begins one"))?;
    if journal.stage == Stage::Done {
        let seen = "the recovery is finished already";
        ctx.output.line(seen)?;
        return report(&journal, &pgdata, seen, ctx);
    }
    if journal.stage < Stage::Placed || journal.stage == Stage::RolledBack {
        return Err(Advice::refused(format!("the recovery of {pgdata} did not get as far as a start"))
            .hint(format!("recover rollback -D {pgdata} undoes it"))
            .into());
    }
    if place.pgdata.join(RECOVERY_SIGNAL).exists() {
        return Err(Advice::refused(format!("the recovery of {pgdata} still goes on, or its server was not started"))
            .hint("start the server; where it waits at its target, run SELECT pg_wal_replay_resume()")
            .into());
    }
    if server::running(&place.pgdata)?.is_none() {
        return Err(Advice::refused(format!("no server runs on {pgdata}")).hint("start it first").into());
    }
    let repository = facts::open_repository(ctx)?;
    let programs = steps::programs(journal.plan.major, &place, ctx)?;
    let site = Site { place, repository, programs, cli, ctx };
    let arrival = steps::start::follow(&journal.plan, &site)?;
    let seen = steps::verify::run(&arrival, &mut journal, &site)?;
    ctx.output.line(&seen)?;
    for line in steps::ending(&journal, &site).lines {
        ctx.output.line(&line)?;
    }
    report(&journal, &pgdata, &seen, ctx)
}

fn report(journal: &Journal, pgdata: &str, seen: &str, ctx: &Context) -> anyhow::Result<Outcome> {
    if ctx.output.is_json() {
        ctx.output.json(&serde_json::json!({ "pgdata": pgdata, "stage": journal.stage, "seen": seen }))?;
    }
    Ok(Outcome::Done)
}
