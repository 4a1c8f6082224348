//! Carries an adoption out, from wherever it stands.

use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use common::archive::identity::read_control;
use common::archive::{Identity, segments};
use common::pg::control::{ClusterState, ControlFile};
use common::pg::{ArchiveName, TimelineId, WalSegmentName};
use common::report::Advice;
use common::restore::follow::{Arrival, RECOVERY_SIGNAL, Recovery};
use common::restore::salvage;
use common::restore::settings::{self, CopySite, Replay, TargetAction, appended_to};
use common::restore::target::Target;
use common::server::backup::switch_wal;
use common::server::{self, Probe, Session, StartOptions, StopMode, probe, shell_quote};
use common::sys::clock::{Deadline, poll};
use common::sys::{durable, process};

use super::plan::{Adoption, Step, without_isolation};
use super::read_if_there;
use crate::aside::stamp;
use crate::journal::Journal;
use crate::lease;
use crate::place::beside;
use crate::steps::Site;
use crate::steps::check;

/// How long a fast stop may take.
const STOP_WAIT: Duration = Duration::from_secs(30);

/// How long `pg_resetwal` may take.
const RESET_WAIT: Duration = Duration::from_mins(5);

/// How long a started server may take to answer.
const ANSWER_WAIT: Duration = Duration::from_mins(1);

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(100);

/// `wal_level` in the control file (`WalLevel` in `src/include/access/xlog.h`).
const WAL_LEVEL_MINIMAL: i32 = 0;

const AUTO_CONF: &str = "postgresql.auto.conf";

/// Goes through the steps that are left.
pub(super) fn run(mut adoption: Adoption, site: &Site<'_>) -> anyhow::Result<Adoption> {
    if adoption.step < Step::Promoted {
        stop(site)?;
        promote(&adoption, site)?;
        stop(site)?;
        adoption.step = Step::Promoted;
        adoption.write(&site.place)?;
    }
    if adoption.step < Step::Released {
        hand_over(&adoption, site)?;
        release(site)?;
        start(site)?;
        adoption.step = Step::Released;
        adoption.write(&site.place)?;
    }
    adoption.archives = Some(archives(&adoption, site)?);
    conclude(&adoption, site)?;
    Ok(adoption)
}

fn stop(site: &Site<'_>) -> anyhow::Result<()> {
    let pgdata = &site.place.pgdata;
    server::stop(&site.programs, pgdata, StopMode::Fast, STOP_WAIT, &site.ctx.cancel).map(drop)
}

fn start(site: &Site<'_>) -> anyhow::Result<()> {
    if server::running(&site.place.pgdata)?.is_some() {
        return Ok(());
    }
    // What an earlier server said last is no reason for what becomes of this one.
    let log = site.place.start_log();
    durable::replace(&log, b"", 0o600).with_context(|| format!("write {}", log.display()))?;
    let settings = vec![("data_directory".to_owned(), site.place.pgdata.display().to_string())];
    let options = StartOptions { config_file: None, settings, log };
    server::start(&site.programs, &site.place.pgdata, &options, &site.ctx.cancel)
}

/// Puts the stopped copy on its new timeline. It does nothing where that has happened.
fn promote(adoption: &Adoption, site: &Site<'_>) -> anyhow::Result<()> {
    let pgdata = &site.place.pgdata;
    let signal = pgdata.join(RECOVERY_SIGNAL);
    let control = read_control(pgdata)?;
    if control.checkpoint_timeline == adoption.new && !signal.exists() {
        return Ok(());
    }
    if let Some(bridge) = adoption.bridge {
        move_to(bridge, adoption, &control, site)?;
        settle(site)?;
        write_history(bridge, site)?;
    }
    let command = reserve(adoption, site)?;
    let replay = Replay {
        restore_command: command,
        target: Target::Latest,
        exclusive: false,
        timeline: adoption.from(),
        action: TargetAction::Promote,
    };
    let isolated = read_if_there(&pgdata.join(AUTO_CONF))?;
    if !contains(&isolated, HEADING) {
        let mut settings = settings::replay(&replay, adoption.major);
        // By its number PostgreSQL wants a history, which a fresh one has not.
        settings.push(("recovery_target_timeline", "current".to_owned()));
        let text = appended_to(&isolated, HEADING, &settings);
        durable::replace(&pgdata.join(AUTO_CONF), &text, 0o600).context("write the settings of the promotion")?;
    }
    durable::replace(&signal, b"", 0o600).with_context(|| format!("write {}", signal.display()))?;
    start(site)?;
    let recovery = Recovery {
        pgdata,
        log: &site.place.start_log(),
        timeline: adoption.from(),
        action: TargetAction::Promote,
        standby: None,
        conninfo: &|| anyhow::bail!("a promotion is not asked"),
        segment_bytes: control.segment_size.bytes(),
        from: control.redo,
        until: None,
        progress: &*site.ctx.progress,
        cancel: &site.ctx.cancel,
    };
    match recovery.follow()? {
        Arrival::Promoted { timeline, .. } if timeline == adoption.new => Ok(()),
        other => Err(Advice::failed(format!(
            "the copy was to be promoted to timeline {}: {}",
            adoption.new,
            other.describe()
        ))
        .hint("it archives nothing; take its data out with pg_dump, and look into its log")
        .into()),
    }
}

const HEADING: &str = "For the time of a promotion, by recover adopt:";

fn contains(text: &[u8], part: &str) -> bool {
    text.windows(part.len()).any(|window| window == part.as_bytes())
}

/// Moves the stopped copy to a timeline without a history: its own number leads elsewhere for everybody else. `pg_resetwal`
/// does that to a cluster that was shut down cleanly without losing anything.
fn move_to(bridge: TimelineId, adoption: &Adoption, control: &ControlFile, site: &Site<'_>) -> anyhow::Result<()> {
    let pgdata = &site.place.pgdata;
    let first = WalSegmentName::containing(bridge, control.checkpoint, control.segment_size);
    match control.checkpoint_timeline {
        // Without its first segment it was cut short, and is done again.
        timeline if timeline == bridge && pgdata.join("pg_wal").join(first.to_string()).exists() => return Ok(()),
        timeline if timeline == bridge || timeline == adoption.old => {}
        other => anyhow::bail!("{} is on timeline {other}, and was on {}", pgdata.display(), adoption.old),
    }
    anyhow::ensure!(
        control.state == ClusterState::ShutDown,
        Advice::refused(format!("{} was not shut down cleanly", pgdata.display()))
            .hint("start the copy and stop it with pg_ctl stop -m fast, then run recover adopt again")
    );
    let mut command = Command::new(site.programs.path("pg_resetwal"));
    command.args(["-l", &first.to_string(), "-D"]).arg(pgdata);
    let done = process::run(command, RESET_WAIT, &site.ctx.cancel).context("run pg_resetwal")?;
    anyhow::ensure!(done.status.success(), "pg_resetwal: {}", done.stderr.trim());
    Ok(())
}

/// `pg_resetwal` leaves a log that says of itself that no archive recovery can follow; one start by itself mends that.
fn settle(site: &Site<'_>) -> anyhow::Result<()> {
    if read_control(&site.place.pgdata)?.wal_level != WAL_LEVEL_MINIMAL {
        return Ok(());
    }
    start(site)?;
    connect(site)?;
    stop(site)
}

/// Gives the fresh number a history that says that nothing leads to it: it ends its parent before any backup. Without one its
/// number would be a hole among the archived histories, at which every later recovery stops.
fn write_history(bridge: TimelineId, site: &Site<'_>) -> anyhow::Result<()> {
    let file = site.place.pgdata.join("pg_wal").join(bridge.history_file());
    let text = b"1\t0/1\tadopted: no other timeline leads here\n";
    durable::replace(&file, text, 0o600).with_context(|| format!("write {}", file.display()))
}

/// Takes all numbers up to the new one, so that the server chooses that: it takes the first without a history that it can
/// find (`findNewestTimeLine` in `src/backend/access/transam/timeline.c`). Answers the command by which it finds them.
fn reserve(adoption: &Adoption, site: &Site<'_>) -> anyhow::Result<String> {
    let folder = site.place.folder().join("timelines");
    durable::create_dir_all(&folder, 0o700).with_context(|| format!("make {}", folder.display()))?;
    for number in adoption.from().0 + 1..adoption.new.0 {
        let file = folder.join(TimelineId(number).history_file());
        durable::replace(&file, b"", 0o600).with_context(|| format!("write {}", file.display()))?;
    }
    let folder = shell_quote(&folder.display().to_string()).replace('%', "%%");
    Ok(format!("test -e {folder}/%f && cp {folder}/%f %p"))
}

/// Brings into the repository what the copy has and nobody archived: its histories, and the whole segments on its way.
/// What it is about to write itself, its archiver brings.
fn hand_over(adoption: &Adoption, site: &Site<'_>) -> anyhow::Result<()> {
    let pgdata = &site.place.pgdata;
    let control = read_control(pgdata)?;
    let (identity, pg_wal, cancel) = (Identity::of(&control), pgdata.join("pg_wal"), &site.ctx.cancel);
    segments::put_missing_histories(&site.repository, &identity, adoption.new, &pg_wal, cancel)?;
    if adoption.bridge.is_some() {
        return Ok(());
    }
    let current = WalSegmentName::containing(adoption.new, control.checkpoint, control.segment_size);
    let tail = salvage::survey(&pg_wal, &identity)?;
    for segment in tail.segments.into_iter().filter(|segment| segment.timeline == adoption.old) {
        // The one in which the timeline ends is not whole; the new timeline's copy of it is.
        if segment.number(control.segment_size) < current.number(control.segment_size) {
            let name = ArchiveName::Segment(segment);
            segments::put(&site.repository, &identity, name, &pg_wal.join(segment.to_string()), cancel)?;
        }
    }
    Ok(())
}

/// The settings that made it a copy go.
fn release(site: &Site<'_>) -> anyhow::Result<()> {
    let place = &site.place;
    let control = read_control(&place.pgdata)?;
    let port = Journal::read(place)?.and_then(|journal| journal.plan.port).unwrap_or_default();
    let copy = CopySite { pgdata: place.pgdata.clone(), folder: place.folder(), port };
    let major = control.major().context("the server is newer than this program")?;
    let mut known = settings::copy(&copy, &control, major);
    known.push(("shared_preload_libraries", String::new()));
    let known: Vec<(String, String)> = known.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let path = place.pgdata.join(AUTO_CONF);
    let text = read_if_there(&path)?;
    // What the promotion needed stands at the end, under its own heading.
    let heading = format!("# {HEADING}");
    let end = text.windows(heading.len()).position(|window| window == heading.as_bytes()).unwrap_or(text.len());
    let text = without_isolation(text.get(..end).unwrap_or_default(), &known);
    durable::replace(&path, &text, 0o600).with_context(|| format!("write {}", path.display()))
}

/// Whether its WAL arrives in the repository; proved by a segment that is ended for it.
fn archives(adoption: &Adoption, site: &Site<'_>) -> anyhow::Result<bool> {
    let mut session = connect(site)?;
    anyhow::ensure!(
        session.value("SELECT pg_is_in_recovery()")?.as_deref() == Some("f"),
        "the adopted server is still in recovery"
    );
    let mode = session.value("SHOW archive_mode")?;
    if mode.as_deref() == Some("off") {
        return Ok(false);
    }
    let control = read_control(&site.place.pgdata)?;
    let end = switch_wal(&mut session)?;
    let last = WalSegmentName::before(adoption.new, end, control.segment_size);
    let arrived = poll(Deadline::after(site.ctx.settings.archive_timeout), PAUSE, &site.ctx.cancel, || {
        let (system, name) = (control.system_identifier, ArchiveName::Segment(last));
        Ok(segments::locate(&site.repository, system, name)?)
    })?;
    if arrived.is_none() {
        tracing::warn!("{last} did not arrive in {}: see archive-wal check", site.repository.describe());
    }
    Ok(arrived.is_some())
}

fn connect(site: &Site<'_>) -> anyhow::Result<Session> {
    let mut reason = String::new();
    let session = poll(Deadline::after(ANSWER_WAIT), PAUSE, &site.ctx.cancel, || {
        let Some(server) = server::running(&site.place.pgdata)? else {
            reason =
                format!("no server runs on {}: see {}", site.place.pgdata.display(), site.place.start_log().display());
            return Ok(None);
        };
        Ok(match probe(&check::own_connection(&server, site.cli, site.ctx)?, &site.ctx.cancel)? {
            Probe::Accepting(session) => Some(session),
            Probe::NotReady(why) | Probe::NoServer(why) => {
                reason = why;
                None
            }
        })
    })?;
    session.map(|session| *session).with_context(|| {
        Advice::failed(format!("the adopted server cannot be asked: {reason}"))
            .hint("mend what its log names, start it, and run recover adopt again")
    })
}

/// The directory is a copy no more: nothing is to undo it as one. The last change, so that a crash before it repeats the rest.
fn conclude(adoption: &Adoption, site: &Site<'_>) -> anyhow::Result<()> {
    let place = &site.place;
    lease::end_left(&site.repository, place);
    if place.journal().exists() {
        let kept = beside(&place.journal(), &format!(".adopted-{}", stamp(adoption.began)));
        durable::rename(&place.journal(), &kept).with_context(|| format!("keep {}", kept.display()))?;
    }
    Adoption::forget(place)
}
