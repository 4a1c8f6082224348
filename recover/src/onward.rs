//! `recover continue` and `recover promote`: what comes after a recovery whose server waits at its target, has stopped
//! there, or did not get there.
//!
//! At a target PostgreSQL can do one thing, go on by ending the recovery. A later target needs new settings, which are
//! read at the start alone: the server is stopped, set anew and started, and replays on from its last restart point.
//! Nothing goes back: a moment before the one that was reached needs a recovery of its own.

use common::app::{Context, Outcome};
use common::archive::identity::read_control;
use common::pg::Lsn;
use common::report::Advice;
use common::restore::choose::{Choice, WantedTimeline, Wish, choose};
use common::restore::demands::Demands;
use common::restore::follow::{Arrival, RECOVERY_SIGNAL};
use common::restore::settings::TargetAction;
use common::restore::target::Target;
use common::server;
use common::sys::lock::FileLock;

use crate::cli::{Cli, ContinueArgs};
use crate::facts::{self, Facts};
use crate::finish;
use crate::journal::{Journal, Stage};
use crate::lease::Hold;
use crate::place::Place;
use crate::plan::{self, Decision, Plan};
use crate::service::Service;
use crate::steps::{self, Site};

/// Ends a recovery at its target. Calling it again after it was interrupted goes on.
pub(crate) fn promote(cli: &Cli, ctx: &Context) -> anyhow::Result<Outcome> {
    let (_lock, mut journal, site) = open(cli, ctx)?;
    finish::conclude(&mut journal, &site, |journal| end(journal, &site))
}

fn end(journal: &mut Journal, site: &Site<'_>) -> anyhow::Result<Arrival> {
    let pgdata = site.place.pgdata.display();
    match steps::start::look(&journal.plan, site)? {
        Some(arrival @ Arrival::Promoted { .. }) => Ok(arrival),
        Some(arrival @ Arrival::Paused { .. }) => {
            steps::verify::reached(&arrival, &journal.plan, site)?;
            let mut session = steps::verify::connect(&journal.plan, site)?;
            end_at_target(journal, site)?;
            session.execute("SELECT pg_wal_replay_resume()")?;
            drop(session);
            steps::start::follow(&journal.plan, site)
        }
        Some(Arrival::StandsBy { .. }) => anyhow::bail!("the server on {pgdata} is a standby"),
        Some(Arrival::ShutDown { .. }) | None => {
            if server::running(&site.place.pgdata)?.is_some() {
                return Err(Advice::refused(format!("the server on {pgdata} has not reached its target yet"))
                    .hint(format!("recover continue -D {pgdata} waits for that"))
                    .into());
            }
            has_stopped_at_target(&journal.plan, site)?;
            end_at_target(journal, site)?;
            steps::configure::for_the_recovery(journal, site)?;
            steps::start::run(journal, site)
        }
    }
}

/// From here on the recovery ends at its target, however often it is tried.
fn end_at_target(journal: &mut Journal, site: &Site<'_>) -> anyhow::Result<()> {
    journal.plan.action = TargetAction::Promote;
    journal.write(&site.place)
}

/// A server that is down is promoted only where it had reached its target: nobody has seen the data otherwise.
fn has_stopped_at_target(plan: &Plan, site: &Site<'_>) -> anyhow::Result<()> {
    let at = read_control(&site.place.pgdata)?.min_recovery_point;
    let planned = plan.arrival.as_ref().map_or(at, |arrival| arrival.at);
    if at == planned {
        return Ok(());
    }
    let pgdata = site.place.pgdata.display();
    Err(Advice::refused(format!("the server on {pgdata} stopped at {at}, not at its target at {planned}"))
        .hint(format!("recover continue -D {pgdata} starts it towards the target"))
        .into())
}

/// Goes on with a recovery: to the same target where its server did not get there, or to a later one.
pub(crate) fn go_on(args: &ContinueArgs, cli: &Cli, ctx: &Context) -> anyhow::Result<Outcome> {
    let (_lock, mut journal, site) = open(cli, ctx)?;
    finish::conclude(&mut journal, &site, |journal| lead_on(args, journal, &site))
}

fn lead_on(args: &ContinueArgs, journal: &mut Journal, site: &Site<'_>) -> anyhow::Result<Arrival> {
    let (pgdata, ctx) = (site.place.pgdata.display(), site.ctx);
    let now = steps::start::look(&journal.plan, site)?;
    if let Some(Arrival::Promoted { timeline, .. }) = now {
        return Err(Advice::refused(format!(
            "the recovery of {pgdata} has ended: its server writes on timeline {timeline}"
        ))
        .hint(format!("recover finish -D {pgdata} checks it"))
        .into());
    }
    let facts = facts::gather(&site.place, &site.repository, ctx)?;
    let mut decision = decide(args, &journal.plan, &facts)?;
    let _lease = Hold::take(&site.repository, &decision.backup, &site.place, "recover continue", ctx);
    let found = steps::target::locate(&facts, &decision, site)?;
    decision.plan.demands = decision.plan.demands.and(found.demands);
    decision.plan.wal_ends = found.wal_ends;
    if let Some(arrival) = found.arrival {
        decision.plan.arrive(arrival);
    }
    let running = server::running(&site.place.pgdata)?.is_some();
    let at = now.map_or(read_control(&site.place.pgdata)?.min_recovery_point, |arrival| arrival.position());
    let paused = now.map(|arrival| arrival.position());
    match onward(running, paused, at, &journal.plan, &decision.plan)? {
        Way::Wait => steps::start::follow(&journal.plan, site),
        Way::Restart => {
            Service::of(&journal.plan, ctx).stop(&site.programs, &site.place.pgdata, &ctx.cancel)?;
            needs_signal(&site.place)?;
            decision.plan.demands = decision.plan.demands.and(Demands::of_control(&read_control(&site.place.pgdata)?));
            journal.plan = Plan { starts: true, ..decision.plan.clone() };
            journal.write(&site.place)?;
            steps::configure::for_the_recovery(journal, site)?;
            ctx.output.line(&format!("the server starts anew, towards {}", journal.plan.target))?;
            steps::start::run(journal, site)
        }
    }
}

/// How to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// The server is on its way there.
    Wait,
    /// With new settings.
    Restart,
}

/// Decides how to go on from where replay stands. `paused`: where it waits or has stopped as it was asked to.
fn onward(running: bool, paused: Option<Lsn>, at: Lsn, before: &Plan, wanted: &Plan) -> Result<Way, Advice> {
    let pgdata = before.pgdata.display();
    let is_same = before.target == wanted.target && before.exclusive == wanted.exclusive;
    if let Some(planned) = wanted.arrival.as_ref().filter(|planned| planned.at < at) {
        return Err(Advice::refused(format!(
            "replay has come to {at} already, behind {} at {}",
            wanted.target, planned.at
        ))
        .hint(format!("nothing goes back: recover rollback -D {pgdata}, then recover run to that moment")));
    }
    let waits_there =
        running && paused.is_some_and(|paused| wanted.arrival.as_ref().is_none_or(|planned| planned.at == paused));
    if is_same && waits_there && before.action == wanted.action {
        return Err(Advice::refused(format!("the server waits at {} already", wanted.target))
            .hint(format!("recover promote -D {pgdata} ends the recovery there; name a later target to go on")));
    }
    let goes_there = running && paused.is_none() && is_same && before.action == wanted.action;
    Ok(if goes_there { Way::Wait } else { Way::Restart })
}

/// The plan with another target: the same backup along the same timeline.
fn decide(args: &ContinueArgs, before: &Plan, facts: &Facts) -> Result<Decision, Advice> {
    let given = args.target.given();
    let exclusive = if given.is_some() { args.target.target_exclusive } else { before.exclusive };
    let target = given.unwrap_or_else(|| before.target.clone());
    let action = args.action().unwrap_or(if target == Target::Latest { TargetAction::Promote } else { before.action });
    if target == Target::Latest && action != TargetAction::Promote {
        return Err(Advice::usage(format!("--target-action {} needs a target", action.name()))
            .hint("at the end of all WAL a server is always promoted"));
    }
    let mut known = facts.archive.clone();
    facts.tail.add_to(&mut known);
    let timeline = WantedTimeline::Number(before.timeline);
    let wish = Wish { target, timeline, backup: Some(before.backup) };
    let Choice { backup, route, missing_fork } = choose(&facts.backups, &known, &wish)?;
    let wal_reaches = plan::prove_wal(&known, &backup, &route, &wish.target)?;
    let plan = Plan {
        wal: plan::wal_plan(&route, &backup, &wish.target, facts.system),
        target: wish.target,
        exclusive,
        action,
        wal_reaches,
        archive_reaches: route.reaches(&facts.archive, backup.span.start_lsn),
        arrival: None,
        wal_ends: None,
        ..before.clone()
    };
    Ok(Decision { plan, backup, route, missing_fork })
}

fn needs_signal(place: &Place) -> Result<(), Advice> {
    if place.pgdata.join(RECOVERY_SIGNAL).exists() {
        return Ok(());
    }
    Err(Advice::refused(format!("{} is not in recovery any more", place.pgdata.display()))
        .hint(format!("start its server, then recover finish -D {} checks it", place.pgdata.display())))
}

/// The journal of a recovery whose server was started, or may be.
fn open<'a>(cli: &'a Cli, ctx: &'a Context) -> anyhow::Result<(FileLock, Journal, Site<'a>)> {
    steps::verify::prepare(&cli.verify())?;
    let place = Place::of(ctx)?;
    let pgdata = place.pgdata.display().to_string();
    let (lock, journal) = Journal::lock(&place)?
        .ok_or_else(|| Advice::refused(format!("no recovery of {pgdata} is known")).hint("recover run begins one"))?;
    if journal.plan.standby.is_some() {
        return Err(Advice::refused(format!("{pgdata} is a standby, which has no target"))
            .hint("pg_ctl promote makes it a primary; recover finish checks it")
            .into());
    }
    if !matches!(journal.stage, Stage::Placed | Stage::Started) {
        let what = if journal.is_over() { "is over" } else { "did not get as far as a start" };
        return Err(Advice::refused(format!("the recovery of {pgdata} {what}")).hint("recover run begins one").into());
    }
    let repository = facts::open_repository(ctx)?;
    let programs = steps::programs(journal.plan.major, &place, ctx)?;
    Ok((lock, journal, Site { place, repository, programs, cli, ctx }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::tests::journal;
    use rstest::rstest;

    #[rstest]
    #[case::a_later_one(true, Some(50), 50, (50, 90), Ok(Way::Restart))]
    #[case::the_same_where_it_stopped_short(true, Some(40), 40, (50, 50), Ok(Way::Restart))]
    #[case::the_same_where_it_is_down(false, None, 40, (50, 50), Ok(Way::Restart))]
    #[case::on_its_way(true, None, 40, (50, 50), Ok(Way::Wait))]
    #[case::the_same_where_it_waits(true, Some(50), 50, (50, 50), Err("waits at"))]
    #[case::an_earlier_one(true, Some(50), 50, (50, 30), Err("nothing goes back"))]
    #[case::an_earlier_one_that_is_not_reached(false, None, 30, (50, 40), Ok(Way::Restart))]
    fn goes_on_and_never_back(
        #[case] running: bool,
        #[case] paused: Option<u64>,
        #[case] at: u64,
        #[case] (before, wanted): (u64, u64),
        #[case] expected: Result<Way, &str>,
    ) {
        let plan = |at| journal("/data", at, Target::Lsn(Lsn(at))).plan;
        let (before, wanted) = (plan(before), plan(wanted));
        match (onward(running, paused.map(Lsn), Lsn(at), &before, &wanted), expected) {
            (Ok(way), Ok(expected)) => assert_eq!(way, expected),
            (Err(refusal), Err(text)) => {
                assert!(format!("{refusal} {:?}", refusal.hint).contains(text), "{refusal}");
            }
            (decided, expected) => panic!("{decided:?}, not {expected:?}"),
        }
    }
}
