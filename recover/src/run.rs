//! `recover run`: gathers, decides, asks, and goes through the steps.

use anyhow::Context as _;
use common::app::{Context, Outcome, hint_of};
use common::report::{Advice, Interrupted};
use common::restore::target::Target;

use crate::ask;
use crate::cli::{Cli, RunArgs};
use crate::facts::{self, Facts};
use crate::journal::{Journal, Stage};
use crate::place::Place;
use crate::plan::{self, Decision, Plan};
use crate::report::{self, Reporter};
use crate::rollback;
use crate::steps::{self, Site};

/// Carries out `recover run`.
pub(crate) fn run(args: &RunArgs, cli: &Cli, ctx: &Context) -> anyhow::Result<Outcome> {
    let place = Place::of(ctx)?;
    let undone = if args.dry_run { None } else { rollback::clear_the_way(&place, ctx)? };
    let before = Journal::refuse_unfinished(&place)?;
    let repository = facts::open_repository(ctx)?;
    let port = port(cli)?;
    let mut reporter = Reporter::new(ctx);
    let mut facts = facts::gather(&place, &repository, ctx)?;
    // Up to the backup's own end all WAL is archived, and a server that archives nothing is not waited for.
    let needs_tail = args.moment.target() != Target::Immediate;
    if needs_tail && !args.dry_run && steps::check::bring_in_the_tail(&facts, &repository, cli, ctx)? {
        facts = facts::gather(&place, &repository, ctx)?;
    }
    let mut decision = plan::decide(&facts, args, port, &place)?;
    let site = Site::new(place, repository, cli, ctx, &decision)?;
    let checked = steps::check::prove(&facts, &mut decision, &site)?;
    if args.dry_run {
        return show(&decision.plan, ctx);
    }
    for line in report::describe(&decision.plan) {
        ctx.output.line(&line)?;
    }
    reporter.done(checked)?;
    confirm(&decision.plan, args, ctx)?;
    let _lock = site.place.lock()?;
    if Journal::read(&site.place)? != before {
        let message = format!("another recovery of {} was begun meanwhile", site.place.pgdata.display());
        return Err(Advice::refused(message).hint("look at what it left, and run recover again").into());
    }
    let was_running = undone.is_some_and(|journal| journal.was_running);
    let journal = act(&facts, &decision, was_running, &site, &mut reporter);
    conclude(journal, reporter, &site, ctx)
}

/// Prints the plan and changes nothing.
fn show(plan: &Plan, ctx: &Context) -> anyhow::Result<Outcome> {
    for line in report::describe(plan) {
        ctx.output.line(&line)?;
    }
    if ctx.output.is_json() {
        ctx.output.json(plan)?;
    }
    Ok(Outcome::Done)
}

/// Asks before a cluster is set aside; without a terminal `--yes` must say so.
fn confirm(plan: &Plan, args: &RunArgs, ctx: &Context) -> anyhow::Result<()> {
    if !plan.replaces || args.yes {
        return Ok(());
    }
    let question = format!("Replace the cluster in {}? It is set aside, not removed.", plan.pgdata.display());
    if ask::yes(&question, ctx)? {
        return Ok(());
    }
    Err(Advice::refused(format!("{} is not replaced without your word", plan.pgdata.display()))
        .hint("add --yes, or answer \"yes\" at a terminal; --dry-run shows the plan")
        .into())
}

/// The steps after the check. The journal says how far they got, also when one fails.
///
/// `was_running`: an earlier attempt has stopped the old server already.
fn act(
    facts: &Facts,
    decision: &Decision,
    was_running: bool,
    site: &Site<'_>,
    reporter: &mut Reporter<'_>,
) -> anyhow::Result<Journal> {
    let mut journal = steps::begin(facts, decision, was_running, site)?;
    reporter.done(steps::stop::run(&mut journal, site)?)?;
    reporter.done(steps::preserve::run(facts, &mut journal, site)?)?;
    reporter.done(steps::extract::run(&decision.backup, &mut journal, site)?)?;
    reporter.done(steps::configure::run(decision, &mut journal, site)?)?;
    reporter.done(steps::place::run(facts, &mut journal, site)?)?;
    if !decision.plan.starts {
        return Ok(journal);
    }
    let arrival = steps::start::run(&mut journal, site)
        .map_err(|err| steps::start::with_reachable(err, facts, decision, site))?;
    reporter.done(arrival.describe())?;
    reporter.done(steps::verify::run(&arrival, &mut journal, site)?)?;
    Ok(journal)
}

/// Says how it ended and what comes next.
fn conclude(
    journal: anyhow::Result<Journal>,
    reporter: Reporter<'_>,
    site: &Site<'_>,
    ctx: &Context,
) -> anyhow::Result<Outcome> {
    let pgdata = site.place.pgdata.display();
    let journal = match journal {
        Ok(journal) => journal,
        Err(err) => return Err(with_way_back(err, site)),
    };
    let ending = steps::ending(&journal, site);
    for line in &ending.lines {
        ctx.output.line(line)?;
    }
    if ctx.output.is_json() {
        ctx.output.json(&serde_json::json!({
            "pgdata": pgdata.to_string(),
            "plan": journal.plan,
            "stage": journal.stage,
            "timeline": journal.new_timeline,
            "preserved": ending.preserved,
            "steps": reporter.into_steps(),
        }))?;
    }
    Ok(Outcome::Done)
}

/// An error that happened after something was changed carries the way back.
fn with_way_back(err: anyhow::Error, site: &Site<'_>) -> anyhow::Error {
    let Some(journal) = Journal::read(&site.place).ok().flatten().filter(|journal| journal.stage > Stage::Checked)
    else {
        return err;
    };
    let pgdata = site.place.pgdata.display();
    let way_on = if journal.is_cut_short() {
        "the same command again begins anew, ".to_owned()
    } else if journal.stage == Stage::Started && err.downcast_ref::<Interrupted>().is_some() {
        format!("the server goes on: recover finish -D {pgdata} ends the recovery once it takes writes, ")
    } else {
        String::new()
    };
    let way_back = format!("{way_on}recover rollback -D {pgdata} puts everything back as it was");
    let known = err.downcast_ref::<Advice>();
    let advice = Advice {
        class: known.map_or_else(|| common::app::exit::of_error(&err), |advice| advice.class),
        message: format!("the recovery of {} did not succeed", site.place.pgdata.display()),
        hint: Some(match hint_of(&err) {
            Some(hint) => format!("{hint}; {way_back}"),
            None => way_back,
        }),
    };
    err.context(advice)
}

/// The port of `-p`, which a copy listens on.
fn port(cli: &Cli) -> anyhow::Result<Option<u16>> {
    let parse = |text: &String| {
        text.parse().ok().filter(|port| *port > 0).with_context(|| Advice::usage(format!("{text:?} is no port")))
    };
    cli.server.port.as_ref().map(parse).transpose()
}
