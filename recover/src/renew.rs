//! A newer timeline for the cluster that a rollback has put back.
//!
//! The recovery that was undone has archived a timeline of its own, and PostgreSQL's `latest` follows the newest one that
//! it finds: a new standby of the old cluster would look for its primary there and refuse to start. So the old cluster
//! goes through a recovery of its own to the end of its own timeline, and comes out on one that is newer than all. It
//! loses nothing: what it replays is what it wrote.

use anyhow::Context as _;
use common::app::Context;
use common::archive::identity::read_control;
use common::restore::follow::{Arrival, RECOVERY_SIGNAL, Recovery};
use common::restore::settings::{self, Replay, TargetAction, appended_to};
use common::restore::target::Target;
use common::server::backup::switch_wal;
use common::server::{self, Programs, Session};
use common::sys::{durable, process};

use crate::cli::Cli;
use crate::journal::{Journal, Renewal};
use crate::place::Place;
use crate::restart;
use crate::service::Service;
use crate::steps::check::connection;
use crate::steps::configure::{AUTO_CONF, read_if_there, restore_command, write};
use crate::verbatim::Verbatim;

/// Brings the cluster onto a newer timeline; its server runs afterwards if `runs`. Safe to repeat.
pub(crate) fn run(
    journal: &mut Journal,
    runs: bool,
    place: &Place,
    programs: &Programs,
    cli: &Cli,
    ctx: &Context,
) -> anyhow::Result<()> {
    let renewal = prepare(journal, place, programs, ctx)?;
    if server::running(&place.pgdata)?.is_none() {
        restart::launch(journal, place, programs, ctx)?;
    }
    let recovery = Recovery {
        pgdata: &place.pgdata,
        log: &place.rollback_log(),
        timeline: renewal.from,
        action: TargetAction::Promote,
        standby: None,
        conninfo: &|| anyhow::bail!("it does not pause"),
        segment_bytes: journal.plan.segment_bytes,
        from: read_control(&place.pgdata)?.redo,
        until: None,
        progress: &*ctx.progress,
        cancel: &ctx.cancel,
    };
    let arrival = recovery.follow()?;
    let Arrival::Promoted { timeline, .. } = arrival else {
        anyhow::bail!("the old cluster was to be promoted: {}", arrival.describe());
    };
    write(&place.pgdata.join(AUTO_CONF), &renewal.auto_conf.0)?;
    journal.renewal = Some(Renewal { to: Some(timeline), ..renewal });
    journal.write(place)?;
    if !runs {
        Service::of(&journal.plan, ctx).stop(programs, &place.pgdata, &ctx.cancel)?;
        return Ok(());
    }
    if let Some(server) = server::running(&place.pgdata)? {
        process::signal(server.file.pid, process::Signal::SIGHUP).context("let the server read its settings again")?;
    }
    end_segment(place, cli, ctx);
    Ok(())
}

/// Writes the settings and the signal of the recovery, unless the server was started with them already.
fn prepare(journal: &mut Journal, place: &Place, programs: &Programs, ctx: &Context) -> anyhow::Result<Renewal> {
    if let Some(renewal) = journal.renewal.clone().filter(|renewal| renewal.launched) {
        return Ok(renewal);
    }
    Service::of(&journal.plan, ctx).stop(programs, &place.pgdata, &ctx.cancel)?;
    let auto_conf = place.pgdata.join(AUTO_CONF);
    let mut renewal = match journal.renewal.clone() {
        Some(renewal) => renewal,
        None => Renewal {
            auto_conf: Verbatim(read_if_there(&auto_conf)?),
            from: read_control(&place.pgdata)?.checkpoint_timeline,
            launched: false,
            to: None,
        },
    };
    journal.renewal = Some(renewal.clone());
    journal.write(place)?;
    let replay = Replay {
        restore_command: restore_command(None, ctx)?,
        target: Target::Latest,
        exclusive: false,
        timeline: renewal.from,
        action: TargetAction::Promote,
    };
    let mut settings = settings::replay(&replay, journal.plan.major);
    // By number it would need the timeline's history, which a repository may lack.
    settings.push(("recovery_target_timeline", "current".to_owned()));
    let original = settings::without_targets(&renewal.auto_conf.0);
    let text = appended_to(&original, "For a newer timeline, by recover rollback:", &settings);
    write(&auto_conf, &text)?;
    write(&place.pgdata.join(RECOVERY_SIGNAL), b"")?;
    renewal.launched = true;
    journal.renewal = Some(renewal.clone());
    journal.write(place)?;
    Ok(renewal)
}

/// After a renewal that failed: the cluster has its own settings again, so that its server archives meanwhile. One that
/// has got its timeline is left alone. Safe to repeat; a later renewal begins anew.
pub(crate) fn give_up(journal: &mut Journal, place: &Place, programs: &Programs, ctx: &Context) -> anyhow::Result<()> {
    let signal = place.pgdata.join(RECOVERY_SIGNAL);
    let Some(renewal) = journal.renewal.clone().filter(|renewal| renewal.to.is_none()) else { return Ok(()) };
    if renewal.launched && !signal.exists() {
        return Ok(());
    }
    Service::of(&journal.plan, ctx).stop(programs, &place.pgdata, &ctx.cancel)?;
    journal.renewal = Some(Renewal { launched: false, ..renewal.clone() });
    journal.write(place)?;
    write(&place.pgdata.join(AUTO_CONF), &renewal.auto_conf.0)?;
    if signal.exists() {
        durable::remove_file(&signal).with_context(|| format!("remove {}", signal.display()))?;
    }
    journal.renewal = None;
    journal.write(place)
}

/// The first segment of the new timeline goes into the archive: without it nobody else could follow there. A server that
/// cannot be asked archives it later.
fn end_segment(place: &Place, cli: &Cli, ctx: &Context) {
    let ended = server::running(&place.pgdata).and_then(|server| {
        let conninfo = connection(server.as_ref().map(|server| &server.file), cli, ctx)?;
        switch_wal(&mut Session::connect(&conninfo, &ctx.cancel)?)
    });
    if let Err(err) = ended {
        tracing::warn!("the server's first segment on its new timeline is not ended: {err:#}");
    }
}
