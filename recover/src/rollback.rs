//! `recover rollback`: puts the preserved cluster back.
//!
//! Nothing is removed: what the recovery made is set aside in its turn. First the files are put back, which needs nothing
//! but them. Then the repository is asked whether the undone recovery's timeline is in it. If so that timeline is marked
//! as given up, and the old cluster gets a newer one before it goes on: otherwise every standby, and every recovery to
//! the latest moment by other means, would follow what was undone.

use std::path::Path;

use anyhow::Context as _;
use common::app::{Context, Outcome, hint_of};
use common::archive::inventory;
use common::pg::{ArchiveName, SegmentSize, TimelineId};
use common::repo::records::AbandonedRecord;
use common::report::{Advice, ExitClass, Interrupted, message_of};
use common::restore::follow::{RECOVERY_SIGNAL, STANDBY_SIGNAL};
use common::server::{self, Programs};

use crate::ask;
use crate::cli::{Cli, RollbackArgs};
use crate::facts;
use crate::journal::{Journal, Stage};
use crate::lease;
use crate::place::Place;
use crate::preserved;
use crate::renew;
use crate::restart::{self, Standing};
use crate::service::Service;
use crate::steps;
use crate::undo;

/// Undoes the recovery that the journal tells of.
pub(crate) fn run(args: &RollbackArgs, cli: &Cli, ctx: &Context) -> anyhow::Result<Outcome> {
    let place = Place::of(ctx)?;
    let pgdata = place.pgdata.display().to_string();
    let (_lock, mut journal) = Journal::lock(&place)?.ok_or_else(|| {
        Advice::refused(format!("no recovery of {pgdata} is known, so there is nothing to undo"))
            .hint("name the data directory that was recovered with -D")
    })?;
    if journal.stage == Stage::RolledBack {
        ctx.output.line("the recovery is undone already")?;
        let server = start_left_down(&mut journal, &place, ctx)?;
        return report(&journal, server, &pgdata, ctx);
    }
    if let Some(cleaned) = journal.cleaned {
        let message = format!("the recovery of {pgdata} can no longer be undone: what it had set aside was removed");
        let when = cleaned.format("%Y-%m-%d %H:%M:%SZ");
        return Err(Advice::refused(message).hint(format!("recover cleanup removed it at {when}")).into());
    }
    confirm(&journal, args, ctx)?;
    let programs = steps::programs(journal.plan.major, &place, ctx)?;
    let touched = journal.is_touched();
    if !journal.returned {
        preserved::require_returnable(&journal, &place)?;
        if touched && place.pgdata.exists() {
            let service = Service::of(&journal.plan, ctx);
            if journal.stage >= Stage::Started {
                service.call_off(&programs, &place.pgdata, &ctx.cancel)?;
            } else {
                service.stop(&programs, &place.pgdata, &ctx.cancel)?;
            }
        }
        // Once the old cluster is back, its own files would be taken for the recovered one's.
        journal.new_timeline = abandoned_timeline(&journal, &place)?;
        undo::all(&mut journal, ctx.clock.now(), &place)?;
        journal.returned = true;
        journal.write(&place)?;
    }
    let runs = touched && journal.was_running && journal.plan.replaces;
    if let Err(err) = settle(&mut journal, runs, &place, &programs, cli, ctx) {
        ctx.cancel.check()?;
        let mut meanwhile = renew::give_up(&mut journal, &place, &programs, ctx);
        if runs && meanwhile.is_ok() {
            meanwhile = restart::launch(&journal, &place, &programs, ctx);
        }
        if let Err(down) = meanwhile {
            tracing::warn!("the old server does not run meanwhile: {}", message_of(&down));
        }
        return Err(err.context(
            Advice::new(ExitClass::PartDone, format!("settle what the recovery of {pgdata} left in the repository")).hint(
                "the data is put back already; call recover rollback again once the repository can be written and the \
                 server can start",
            ),
        ));
    }
    let server = if runs { Some(bring_up(&journal, &place, &programs, ctx)?) } else { None };
    journal.reach(Stage::RolledBack, &place)?;
    if touched {
        lease::end_configured(&place, ctx);
    }
    for line in lines(&journal, server, &place) {
        ctx.output.line(&line)?;
    }
    report(&journal, server, &pgdata, ctx)
}

/// The old server is up again, or on its way.
fn bring_up(journal: &Journal, place: &Place, programs: &Programs, ctx: &Context) -> anyhow::Result<Standing> {
    let up = restart::launch(journal, place, programs, ctx).and_then(|()| restart::await_ready(place, ctx));
    up.map_err(|err| {
        if err.downcast_ref::<Interrupted>().is_some() {
            return err.context("wait for the old server, which goes on by itself");
        }
        let message = format!("the cluster in {} is as it was, and its server does not run", place.pgdata.display());
        let hint = match hint_of(&err) {
            Some(hint) => format!("{hint}; see to that, then call recover rollback again"),
            None => "see to that, then call recover rollback again".to_owned(),
        };
        err.context(Advice::new(ExitClass::PartDone, message).hint(hint))
    })
}

/// Starts the old server where a new recovery has undone this one, left it down, and did not come about. Anybody else who
/// stopped it wants it down.
fn start_left_down(journal: &mut Journal, place: &Place, ctx: &Context) -> anyhow::Result<Option<Standing>> {
    if !journal.is_left_down() {
        return Ok(None);
    }
    let programs = steps::programs(journal.plan.major, place, ctx)?;
    let standing = bring_up(journal, place, &programs, ctx)?;
    journal.left_down = None;
    journal.write(place)?;
    ctx.output.line(&standing_line(standing, place))?;
    Ok(Some(standing))
}

/// Undoes a recovery that was cut short, so that the same call can begin anew. The old server stays down, which the
/// journal notes. Any other recovery is left alone, and one on whose directory somebody has started a server.
pub(crate) fn clear_the_way(place: &Place, ctx: &Context) -> anyhow::Result<()> {
    let Some((_lock, mut journal)) = Journal::lock(place)? else { return Ok(()) };
    if !journal.is_cut_short() || server::running(&place.pgdata)?.is_some() {
        return Ok(());
    }
    preserved::require_returnable(&journal, place)?;
    preserved::require_idle(&place.pgdata)?;
    ctx.output
        .line(&format!("an earlier recovery of {} was cut short, and is undone first", place.pgdata.display()))?;
    for path in undo::all(&mut journal, ctx.clock.now(), place)? {
        ctx.output.line(&discarded_line(&path))?;
    }
    journal.returned = true;
    let leaves_down = journal.was_running && journal.plan.replaces;
    if leaves_down {
        journal.left_down = Some(journal.stands_at());
    }
    journal.reach(Stage::RolledBack, place)?;
    if leaves_down {
        // What comes next may be refused, and only a rollback would start it then.
        ctx.output.line(
            "the old cluster is back; its server, which ran before that, is down until this recovery is done: recover \
             rollback starts it as it is",
        )?;
    }
    Ok(())
}

/// What is left once the files are back: the repository learns which timeline is given up, and the old cluster gets a
/// newer one if it is there.
fn settle(
    journal: &mut Journal,
    runs: bool,
    place: &Place,
    programs: &Programs,
    cli: &Cli,
    ctx: &Context,
) -> anyhow::Result<()> {
    let archived = match journal.new_timeline {
        Some(timeline) => mark_abandoned(timeline, journal, ctx)?,
        None => false,
    };
    // One that follows another server, or is itself in the middle of a recovery, is not ours to promote.
    let follows = [STANDBY_SIGNAL, RECOVERY_SIGNAL].iter().any(|signal| place.pgdata.join(signal).exists());
    if archived && journal.plan.replaces && (journal.renewal.is_some() || !follows) {
        return renew::run(journal, runs, place, programs, cli, ctx);
    }
    Ok(())
}

/// Where the timeline is in the repository, marks it there, so that no later recovery follows it; whether it is. One that
/// is not there is nobody's: the next recovery takes the same number.
fn mark_abandoned(timeline: TimelineId, journal: &Journal, ctx: &Context) -> anyhow::Result<bool> {
    let repository = facts::open_repository(ctx)?;
    let system = journal.plan.wal.system_identifier;
    let size = u32::try_from(journal.plan.segment_bytes).ok().and_then(SegmentSize::new);
    let known = inventory::read(&repository, system, size.context("read the plan's segment size")?)?;
    if !known.timelines().contains(&timeline) {
        return Ok(false);
    }
    let key = repository.layout().abandoned(system, timeline)?;
    let record = AbandonedRecord { timeline, at: ctx.clock.now() };
    repository.create_record(&key, &record)?;
    Ok(true)
}

/// Once the recovered server was started, users may have written to it: that goes too.
fn confirm(journal: &Journal, args: &RollbackArgs, ctx: &Context) -> anyhow::Result<()> {
    if args.yes || journal.stage < Stage::Started || journal.returned {
        return Ok(());
    }
    let loss = format!(
        "the server was started on the recovered data of {}: whatever was written since goes with a rollback{}",
        journal.plan.pgdata.display(),
        journal.new_timeline.map_or_else(String::new, |timeline| format!(", all of timeline {timeline}"))
    );
    if ask::yes(&format!("{loss}. It is set aside, not removed. Roll back?"), ctx)? {
        return Ok(());
    }
    Err(Advice::refused(loss).hint("add --yes if that is what you want; it is set aside, not removed").into())
}

/// The timeline that the recovered server went on to, as its own files tell.
fn abandoned_timeline(journal: &Journal, place: &Place) -> anyhow::Result<Option<TimelineId>> {
    if journal.new_timeline.is_some() || journal.stage < Stage::Started || journal.is_copy() {
        return Ok(journal.new_timeline.filter(|_| !journal.is_copy()));
    }
    if journal.plan.replaces && !journal.preserved().is_some_and(Path::exists) {
        // The old cluster is back already: nothing of the recovered one is there to be read.
        return Ok(None);
    }
    let pg_wal = place.pgdata.join("pg_wal");
    let mut newest = None;
    let entries = match std::fs::read_dir(&pg_wal) {
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        entries => entries.with_context(|| format!("read {}", pg_wal.display()))?,
    };
    for entry in entries {
        let entry = entry.with_context(|| format!("read {}", pg_wal.display()))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // Histories that came from the old cluster's own pg_wal are its timelines, and go on.
        if let Some(ArchiveName::History(timeline)) = ArchiveName::parse(&name)
            && !journal.plan.salvage.contains(&name)
        {
            newest = newest.max(Some(timeline));
        }
    }
    Ok(newest.filter(|timeline| *timeline > journal.plan.timeline))
}

fn discarded_line(path: &Path) -> String {
    format!("what the recovery made is in {}; recover cleanup removes it", path.display())
}

fn lines(journal: &Journal, server: Option<Standing>, place: &Place) -> Vec<String> {
    let pgdata = journal.plan.pgdata.display();
    let mut lines = vec![if journal.plan.replaces {
        format!("the cluster in {pgdata} is as it was")
    } else {
        format!("{pgdata} is free again")
    }];
    lines.extend(undo::set_aside(journal).iter().map(|path| discarded_line(path)));
    if let Some((renewal, to)) = journal.renewal.as_ref().and_then(|renewal| Some((renewal, renewal.to?))) {
        lines.push(format!(
            "it went on from timeline {} to timeline {to}, so that nothing follows the recovery's own, which was archived",
            renewal.from
        ));
        lines.push("take a new base backup soon; standbys that followed the recovery must be made anew".to_owned());
    }
    lines.extend(server.map(|standing| standing_line(standing, place)));
    lines
}

fn standing_line(standing: Standing, place: &Place) -> String {
    match standing {
        Standing::Ready => "its server runs".to_owned(),
        Standing::Starting => {
            format!("its server is still starting: {} tells how far it is", place.rollback_log().display())
        }
    }
}

fn report(journal: &Journal, server: Option<Standing>, pgdata: &str, ctx: &Context) -> anyhow::Result<Outcome> {
    if ctx.output.is_json() {
        ctx.output.json(&serde_json::json!({
            "pgdata": pgdata, "stage": journal.stage, "discarded": undo::set_aside(journal),
            "abandoned_timeline": journal.new_timeline,
            "timeline": journal.renewal.as_ref().and_then(|renewal| renewal.to), "server": server,
        }))?;
    }
    Ok(Outcome::Done)
}
