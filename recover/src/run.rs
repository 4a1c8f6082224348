//! `recover run`: gathers, decides, asks, and goes through the steps.

use anyhow::Context as _;
use common::app::{Context, Outcome, hint_of};
use common::repo::records::BackupRecord;
use common::report::{Advice, Interrupted, message_of};
use common::restore::target::Target;
use common::server;

use crate::ask;
use crate::cli::{Cli, RunArgs};
use crate::facts;
use crate::finish;
use crate::journal::{Journal, Stage};
use crate::lease::Hold;
use crate::place::Place;
use crate::plan::{self, Plan};
use crate::report::{self, Reporter};
use crate::resume;
use crate::rollback;
use crate::standby;
use crate::steps::{self, Site};

/// Carries out `recover run`.
pub(crate) fn run(args: &RunArgs, cli: &Cli, ctx: &Context) -> anyhow::Result<Outcome> {
    steps::verify::prepare(&args.verify)?;
    args.primary_conninfo.as_deref().map_or(Ok(()), standby::check_primary)?;
    if args.resume {
        return resume::run(cli, ctx);
    }
    let place = Place::of(ctx)?;
    if !args.dry_run {
        rollback::clear_the_way(&place, ctx)?;
    }
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
    facts.aim = steps::target::aim(&facts, &args.moment, &repository, ctx)?;
    let mut decision = plan::decide(&facts, args, port, &place)?;
    let site = Site::new(place, repository, cli, ctx, &decision)?;
    // Before the proof: what is proved to be there must stay there.
    let _lease =
        (!args.dry_run).then(|| Hold::take(&site.repository, &decision.backup, &site.place, "recover run", ctx));
    let checked = steps::check::prove(&facts, &mut decision, args, &site)?;
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
    let was_running = before.as_ref().is_some_and(Journal::is_left_down);
    let journal = steps::begin(&facts, &decision, was_running, &site)
        .and_then(|journal| act(&decision.backup, journal, &site, &mut reporter));
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

/// The steps after the one that the journal has reached. It says how far they got, also when one fails.
pub(crate) fn act(
    backup: &BackupRecord,
    mut journal: Journal,
    site: &Site<'_>,
    reporter: &mut Reporter<'_>,
) -> anyhow::Result<Journal> {
    if journal.stage < Stage::Preserved {
        // Also where it was stopped before: a reboot may have started it.
        reporter.done(steps::stop::run(backup, &mut journal, site)?)?;
        reporter.done(steps::preserve::run(backup, &mut journal, site)?)?;
    }
    if journal.stage < Stage::Extracted {
        let extracted = steps::extract::run(backup, &mut journal, site)?;
        reporter.extracted = Some(extracted);
        reporter.done(extracted.describe())?;
    }
    if journal.stage < Stage::Configured {
        reporter.done(steps::configure::run(&mut journal, site)?)?;
    }
    if journal.stage < Stage::Placed {
        reporter.done(steps::place::run(backup, &mut journal, site)?)?;
    }
    if !journal.plan.starts {
        return Ok(journal);
    }
    let arrival = if server::running(&journal.plan.pgdata)?.is_some() {
        journal.reach(Stage::Started, &site.place)?;
        steps::start::follow(&journal.plan, site)?
    } else {
        steps::start::run(&mut journal, site)?
    };
    let replay = steps::start::replay(&journal.plan, &arrival, reporter.elapsed());
    reporter.replay = Some(replay);
    reporter.done(format!("{}: {}", arrival.describe(), replay.describe()))?;
    journal.set_out(Stage::Done, &site.place)?;
    let verified = steps::verify::run(&arrival, &mut journal, site)?;
    reporter.done(verified.seen.clone())?;
    reporter.verified = Some(verified);
    if !journal.is_over() {
        // It waits at its target, and `recover finish` does the rest.
        journal.reach(journal.stage, &site.place)?;
    }
    Ok(journal)
}

/// Says how it ended and what comes next.
pub(crate) fn conclude(
    journal: anyhow::Result<Journal>,
    reporter: Reporter<'_>,
    site: &Site<'_>,
    ctx: &Context,
) -> anyhow::Result<Outcome> {
    let pgdata = site.place.pgdata.display();
    let journal = match journal {
        Ok(journal) => journal,
        Err(err) => {
            let err = with_way_back(err, site);
            tell_failure(&err, &reporter, site)?;
            return Err(err);
        }
    };
    let ending = steps::ending(&journal, site);
    let verified = reporter.verified.clone().unwrap_or_default();
    let mut lines = steps::withheld(&verified, site);
    if !verified.withheld {
        lines.extend(ending.lines);
    }
    for line in &lines {
        ctx.output.line(line)?;
    }
    if let Some(path) = &site.cli.verify().report {
        let mut report = reporter.report(&site.place);
        report.journal(&journal, ending.preserved.as_deref());
        reporter.verified.iter().for_each(|verified| report.verified(verified));
        report.write(path)?;
    }
    if ctx.output.is_json() {
        ctx.output.json(&serde_json::json!({
            "pgdata": pgdata.to_string(),
            "plan": journal.plan,
            "stage": journal.stage,
            "timeline": journal.new_timeline,
            "preserved": ending.preserved,
            "extracted": reporter.extracted,
            "replay": reporter.replay,
            "verified": reporter.verified,
            "steps": reporter.into_steps(),
        }))?;
    }
    Ok(finish::outcome(&verified, site))
}

/// The report of a recovery that failed. That it cannot be written is said, and changes nothing of the failure.
pub(crate) fn tell_failure(err: &anyhow::Error, reporter: &Reporter<'_>, site: &Site<'_>) -> anyhow::Result<()> {
    let Some(path) = &site.cli.verify().report else { return Ok(()) };
    let mut report = reporter.report(&site.place);
    if let Some(journal) = Journal::read(&site.place)? {
        report.journal(&journal, None);
    }
    report.failed(message_of(err), hint_of(err));
    if let Err(unwritten) = report.write(path) {
        tracing::warn!("{}", message_of(&unwritten));
    }
    Ok(())
}

/// An error that happened after something was changed carries the way back.
fn with_way_back(err: anyhow::Error, site: &Site<'_>) -> anyhow::Error {
    let Some(journal) = Journal::read(&site.place).ok().flatten().filter(Journal::is_touched) else {
        return err;
    };
    let pgdata = site.place.pgdata.display();
    let way_on = if journal.is_cut_short() {
        format!("recover run --resume -D {pgdata} goes on, the same command again begins anew, ")
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
pub(crate) fn port(cli: &Cli) -> anyhow::Result<Option<u16>> {
    let parse = |text: &String| {
        text.parse().ok().filter(|port| *port > 0).with_context(|| Advice::usage(format!("{text:?} is no port")))
    };
    cli.server.port.as_ref().map(parse).transpose()
}
