//! `recover finish`: the last check of a server that somebody else started, or that waited at its target.

use common::app::{Context, Outcome};
use common::report::{Advice, ExitClass};
use common::restore::follow::{Arrival, RECOVERY_SIGNAL};
use common::server;

use crate::cli::Cli;
use crate::facts;
use crate::journal::{Journal, Stage};
use crate::lease;
use crate::place::Place;
use crate::report::Reporter;
use crate::resume;
use crate::run::tell_failure;
use crate::steps::verify::Verified;
use crate::steps::{self, Site};

/// Checks the server and lets it archive again. Calling it twice changes nothing.
pub(crate) fn run(cli: &Cli, ctx: &Context) -> anyhow::Result<Outcome> {
    steps::verify::prepare(&cli.verify())?;
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
    let running = server::running(&place.pgdata)?.is_some();
    let in_recovery = place.pgdata.join(RECOVERY_SIGNAL).exists();
    let repository = facts::open_repository(ctx)?;
    let programs = steps::programs(journal.plan.major, &place, ctx)?;
    let site = Site { place, repository, programs, cli, ctx };
    conclude(&mut journal, &site, |journal| {
        if in_recovery {
            let paused = steps::start::look(&journal.plan, &site)?;
            return paused.filter(|arrival| matches!(arrival, Arrival::Paused { .. })).ok_or_else(|| {
                Advice::refused(format!("the recovery of {pgdata} still goes on, or its server was not started"))
                    .hint(format!("start the server, or let recover continue -D {pgdata} do it"))
                    .into()
            });
        }
        anyhow::ensure!(running, Advice::refused(format!("no server runs on {pgdata}")).hint("start it first"));
        steps::start::follow(&journal.plan, &site)
    })
}

/// Lets the server get to its end by `arrive`, checks it, and says what there is to say. A failure is in the report as well.
pub(crate) fn conclude(
    journal: &mut Journal,
    site: &Site<'_>,
    arrive: impl FnOnce(&mut Journal) -> anyhow::Result<Arrival>,
) -> anyhow::Result<Outcome> {
    let mut reporter = Reporter::after(site.ctx, resume::steps_done(Stage::Placed));
    let verified = match check(journal, &mut reporter, site, arrive) {
        Ok(verified) => verified,
        Err(err) => {
            tell_failure(&err, &reporter, site)?;
            return Err(err);
        }
    };
    let ctx = site.ctx;
    let mut lines = steps::withheld(&verified, site);
    let ending = steps::ending(journal, site);
    if !verified.withheld {
        lines.extend(ending.lines);
    }
    for line in lines {
        ctx.output.line(&line)?;
    }
    if let Some(path) = &site.cli.verify().report {
        let mut report = reporter.report(&site.place);
        report.journal(journal, ending.preserved.as_deref());
        report.verified(&verified);
        report.write(path)?;
    }
    if ctx.output.is_json() {
        let pgdata = site.place.pgdata.display().to_string();
        ctx.output.json(&serde_json::json!({
            "pgdata": pgdata, "stage": journal.stage, "seen": verified.seen, "verified": verified,
            "steps": reporter.into_steps(),
        }))?;
    }
    Ok(outcome(&verified, site))
}

/// The last two steps.
fn check(
    journal: &mut Journal,
    reporter: &mut Reporter<'_>,
    site: &Site<'_>,
    arrive: impl FnOnce(&mut Journal) -> anyhow::Result<Arrival>,
) -> anyhow::Result<Verified> {
    let arrival = arrive(journal)?;
    reporter.done(arrival.describe())?;
    let verified = steps::verify::run(&arrival, journal, site)?;
    if journal.stage == Stage::Done {
        lease::end_left(&site.repository, &site.place);
    }
    reporter.done(verified.seen.clone())?;
    Ok(verified)
}

/// Findings that were not accepted are told by the exit code.
pub(crate) fn outcome(verified: &Verified, site: &Site<'_>) -> Outcome {
    if verified.findings.is_empty() || site.cli.accepts_findings() {
        Outcome::Done
    } else {
        Outcome::Class(ExitClass::Findings)
    }
}

fn report(journal: &Journal, pgdata: &str, seen: &str, ctx: &Context) -> anyhow::Result<Outcome> {
    if ctx.output.is_json() {
        ctx.output.json(&serde_json::json!({ "pgdata": pgdata, "stage": journal.stage, "seen": seen }))?;
    }
    Ok(Outcome::Done)
}
