//! `recover check`: all that the first step of `recover run` proves, and nothing after it.
//!
//! It writes nothing: no lease, no restore point, no segment is ended. WAL that the running server has not archived yet
//! is read in its `pg_wal`.

use common::app::{Context, Outcome};

use crate::cli::{CheckArgs, Cli};
use crate::facts;
use crate::journal::Journal;
use crate::place::Place;
use crate::plan;
use crate::report;
use crate::run::port;
use crate::steps::{self, Site};

/// Proves; a refusal is the error that `recover run` would end with.
pub(crate) fn run(args: &CheckArgs, cli: &Cli, ctx: &Context) -> anyhow::Result<Outcome> {
    steps::verify::prepare(&args.run.verify)?;
    let place = Place::of(ctx)?;
    Journal::refuse_unfinished(&place)?;
    let repository = facts::open_repository(ctx)?;
    let mut facts = facts::gather(&place, &repository, ctx)?;
    facts.aim = steps::target::aim(&facts, &args.run.moment, &repository, ctx)?;
    let mut decision = plan::decide(&facts, &args.run, port(cli)?, &place)?;
    let site = Site::new(place, repository, cli, ctx, &decision)?;
    let mut proved = vec![steps::check::prove(&facts, &mut decision, &args.run, &site)?];
    if args.deep {
        proved.push(steps::check::prove_deeply(&decision, steps::extract::jobs(&site), &site)?);
    }
    for line in report::describe(&decision.plan) {
        ctx.output.line(&line)?;
    }
    for line in &proved {
        ctx.output.line(&format!("proved          {line}"))?;
    }
    if ctx.output.is_json() {
        ctx.output.json(&serde_json::json!({ "deep": args.deep, "proved": proved, "plan": decision.plan }))?;
    }
    Ok(Outcome::Done)
}
