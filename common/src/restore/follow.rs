//! Follows a recovery to its end, by what the server leaves in its files.
//!
//! Proof of arrival is in files and positions, never in log lines, which are translated: the control file's state, the
//! signal file that PostgreSQL removes when recovery ends, and the last line of the new timeline's history
//! (`StartupXLOG` in `src/backend/access/transam/xlog.c`). So no connection is needed to know how it ended.

pub mod causes;
pub mod last_words;
mod replay;

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use chrono::{DateTime, Utc};

use crate::archive::identity::read_control;
use crate::pg::control::ClusterState;
use crate::pg::history::TimelineHistory;
use crate::pg::{ArchiveName, Lsn, SegmentSize, TimelineId, WalSegmentName};
use crate::report::{Advice, Cancel, Progress};
use crate::server::{self, Conninfo, Probe, Session, probe};
use crate::sys::clock::{Deadline, Stopwatch, poll};

use super::settings::TargetAction;

/// The file that asks for a targeted recovery (`RECOVERY_SIGNAL_FILE` in `src/include/access/xlog.h`).
pub const RECOVERY_SIGNAL: &str = "recovery.signal";

/// The file that makes a server a standby (`STANDBY_SIGNAL_FILE`).
pub const STANDBY_SIGNAL: &str = "standby.signal";

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(100);

/// How long a launched server may take to write its pid file.
const LAUNCH_WAIT_MAX: Duration = Duration::from_secs(20);

/// Between two looks at whether a server that should not pause has paused.
const PAUSE_LOOK: Duration = Duration::from_secs(2);

/// Between two looks for the time of a transaction in the WAL.
const TIME_LOOK: Duration = Duration::from_secs(1);

/// How long a standby may stand still before it streams.
const STREAM_WAIT_MAX: Duration = Duration::from_secs(30);

/// What is followed.
pub struct Recovery<'a> {
    /// The data directory.
    pub pgdata: &'a Path,
    /// The log that the server was started with.
    pub log: &'a Path,
    /// The timeline that is replayed along.
    pub timeline: TimelineId,
    /// What the server does at the target.
    pub action: TargetAction,
    /// Set for a server that is to stay a standby; then there is no target.
    pub standby: Option<Streaming>,
    /// How a server that takes sessions is reached; asked once it runs.
    pub conninfo: &'a dyn Fn() -> anyhow::Result<Conninfo>,
    /// The size of a segment, for the progress.
    pub segment_bytes: u64,
    /// Where replay begins, for the progress.
    pub from: Lsn,
    /// Where it ends, as far as that is known, for the progress.
    pub until: Option<Lsn>,
    /// Told of every replayed byte, a segment at a time.
    pub progress: &'a dyn Progress,
    /// Asked between two looks. The server goes on without us.
    pub cancel: &'a Cancel,
}

/// Whether a standby is expected to stream from a primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Streaming {
    /// It follows the archive alone.
    No,
    /// It has a primary.
    Expected,
}

/// How a recovery ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// The server takes writes on a new timeline, which begins at this position.
    Promoted {
        /// The new timeline.
        timeline: TimelineId,
        /// Where it begins: the end of what was replayed.
        at: Lsn,
    },
    /// Replay is paused here.
    Paused {
        /// The end of what was replayed.
        at: Lsn,
    },
    /// The server stopped at the target.
    ShutDown {
        /// The end of what was replayed.
        at: Lsn,
    },
    /// It is a standby that takes sessions.
    StandsBy {
        /// The end of what was replayed.
        at: Lsn,
        /// Whether it streams from a primary.
        streams: bool,
    },
}

/// The server was gone before its recovery was over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the server stopped before the target was reached: {reason}")]
pub struct Stopped {
    /// Its last words, in its own language.
    pub reason: String,
    /// Where the record begins that it could not replay, when its last words tell.
    pub at: Option<Lsn>,
    /// The segment that it replayed last, when it was seen at that.
    pub segment: Option<WalSegmentName>,
}

impl Arrival {
    /// In words.
    pub fn describe(&self) -> String {
        match self {
            Self::Promoted { timeline, at } => format!("replayed up to {at}, promoted to timeline {timeline}"),
            Self::Paused { at } => format!("replayed up to {at}, paused there"),
            Self::ShutDown { at } => format!("replayed up to {at}, stopped there"),
            Self::StandsBy { at, streams: true } => format!("replayed up to {at}, streams from the primary"),
            Self::StandsBy { at, streams: false } => format!("replayed up to {at}, stands by"),
        }
    }

    /// The end of what was replayed.
    pub fn position(&self) -> Lsn {
        match self {
            Self::Promoted { at, .. } | Self::Paused { at } | Self::ShutDown { at } | Self::StandsBy { at, .. } => *at,
        }
    }
}

impl Recovery<'_> {
    /// Waits until the recovery has ended, however long that takes, and answers how. A server that is gone before that
    /// is an error with the reason from its log and a [`Stopped`] in it. Calling it again on a recovery that has ended
    /// answers the same.
    ///
    /// A server that pauses where it was not asked to (a setting below that of the WAL does it) has ended too:
    /// whether it is at its target, positions tell.
    pub fn follow(&self) -> anyhow::Result<Arrival> {
        self.progress.begin("replay", self.until.map(|until| until.0.saturating_sub(self.from.0)));
        let arrival = self.wait();
        self.progress.end();
        arrival
    }

    /// How the recovery ended, if it has; does not wait.
    pub fn ended(&self) -> anyhow::Result<Option<Arrival>> {
        let running = server::running(self.pgdata)?.is_some();
        match self.arrival(running, &mut Watched::default())? {
            None if running => self.pause(),
            arrival => Ok(arrival),
        }
    }

    fn wait(&self) -> anyhow::Result<Arrival> {
        self.wait_for_launch()?;
        let mut watched = Watched::default();
        loop {
            // Asked in this order: a server that ends between the two has written its last state before.
            let running = server::running(self.pgdata)?.is_some();
            if let Some(arrival) = self.arrival(running, &mut watched)? {
                self.advance(&mut watched, arrival.position());
                return Ok(arrival);
            }
            if !running {
                return Err(self.failure(watched.segment));
            }
            self.look(&mut watched);
            self.cancel.check()?;
            std::thread::sleep(PAUSE);
        }
    }

    /// Tells how far the replay is.
    fn look(&self, watched: &mut Watched) {
        let size = u32::try_from(self.segment_bytes).ok().and_then(SegmentSize::new);
        let (Some(segment), Some(size)) = (replay::current_segment(self.pgdata), size) else { return };
        if watched.segment == Some(segment) {
            return self.progress.advance(0);
        }
        watched.segment = Some(segment);
        if watched.time_look.as_ref().is_none_or(|watch| watch.elapsed() >= TIME_LOOK) {
            watched.time_look = Some(Stopwatch::start());
            watched.time = replay::time_in(self.pgdata, segment, size).or(watched.time);
        }
        self.progress.note(&replay::describe(segment, size, self.from, self.until, watched.time));
        self.advance(watched, segment.start(size).unwrap_or(self.from));
    }

    /// Tells of the bytes up to `to`.
    fn advance(&self, watched: &mut Watched, to: Lsn) {
        let done = to.0.saturating_sub(self.from.0);
        self.progress.advance(done.saturating_sub(watched.told));
        watched.told = watched.told.max(done);
    }

    /// Waits for the pid file. Without one after a while, or with a process that is gone, the rest is `follow`'s.
    fn wait_for_launch(&self) -> anyhow::Result<()> {
        poll(Deadline::after(LAUNCH_WAIT_MAX), PAUSE, self.cancel, || {
            let launched = self.pgdata.join("postmaster.pid").exists() || last_words::tell_of_an_end(self.log);
            Ok(launched.then_some(()))
        })?;
        Ok(())
    }

    fn arrival(&self, running: bool, watched: &mut Watched) -> anyhow::Result<Option<Arrival>> {
        let signal = [RECOVERY_SIGNAL, STANDBY_SIGNAL].iter().any(|name| self.pgdata.join(name).exists());
        let control = read_control(self.pgdata)?;
        if !signal && control.state == ClusterState::InProduction && running {
            return self.promotion().map(Some);
        }
        if let Some(streaming) = self.standby {
            return self.standing_by(streaming, watched);
        }
        match self.action {
            TargetAction::Shutdown if !running && control.state == ClusterState::ShutDownInRecovery => {
                Ok(Some(Arrival::ShutDown { at: control.min_recovery_point }))
            }
            TargetAction::Promote | TargetAction::Shutdown => Ok(self.unasked_pause(watched)),
            TargetAction::Pause => self.pause(),
        }
    }

    /// A pause that nobody asked for, looked for now and then. Most recoveries take no sessions, and then there is none.
    fn unasked_pause(&self, watched: &mut Watched) -> Option<Arrival> {
        if watched.pause_look.elapsed() < PAUSE_LOOK {
            return None;
        }
        watched.pause_look = Stopwatch::start();
        // That it cannot be asked says nothing of the recovery.
        self.pause().ok().flatten()
    }

    /// The newest timeline history in `pg_wal` that forks off the followed timeline is the promotion's.
    fn promotion(&self) -> anyhow::Result<Arrival> {
        let pg_wal = self.pgdata.join("pg_wal");
        let mut newest: Option<TimelineHistory> = None;
        for entry in std::fs::read_dir(&pg_wal).with_context(|| format!("read {}", pg_wal.display()))? {
            let entry = entry.with_context(|| format!("read {}", pg_wal.display()))?;
            let Some(ArchiveName::History(timeline)) = entry.file_name().to_str().and_then(ArchiveName::parse) else {
                continue;
            };
            let history = std::fs::read(entry.path())
                .map_err(anyhow::Error::from)
                .and_then(|bytes| Ok(TimelineHistory::parse(timeline, &bytes)?))
                .with_context(|| format!("read {}", entry.path().display()))?;
            if newest.as_ref().is_none_or(|known| known.timeline < timeline) {
                newest = Some(history);
            }
        }
        let parent = newest.as_ref().and_then(|history| history.ancestors.last());
        match (&newest, parent) {
            (Some(history), Some(parent)) if parent.timeline == self.timeline => {
                Ok(Arrival::Promoted { timeline: history.timeline, at: parent.switch })
            }
            _ => anyhow::bail!(
                "the server takes writes, but not on a timeline that forks off timeline {}: this is not the planned recovery",
                self.timeline
            ),
        }
    }

    /// A session with a server that takes them. One that does not is not asked: it would log each attempt as a failure.
    fn session(&self) -> anyhow::Result<Option<Box<Session>>> {
        let ready = server::running(self.pgdata)?.is_some_and(|server| server.file.status.as_deref() == Some("ready"));
        if !ready {
            return Ok(None);
        }
        Ok(match probe(&(self.conninfo)()?, self.cancel)? {
            Probe::Accepting(session) => Some(session),
            Probe::NotReady(_) | Probe::NoServer(_) => None,
        })
    }

    fn pause(&self) -> anyhow::Result<Option<Arrival>> {
        let Some(mut session) = self.session()? else { return Ok(None) };
        let rows = session.rows(
            "SELECT pg_is_in_recovery(), CASE WHEN pg_is_in_recovery() THEN pg_get_wal_replay_pause_state() END, \
             pg_last_wal_replay_lsn()",
        )?;
        let row: Vec<&str> =
            rows.first().into_iter().flatten().map(|cell| cell.as_deref().unwrap_or_default()).collect();
        match row[..] {
            ["t", "paused", lsn] => Ok(Some(Arrival::Paused { at: lsn.parse()? })),
            _ => Ok(None),
        }
    }

    /// A standby has arrived when it takes sessions and, where it has a primary, streams; or has long stood still without.
    fn standing_by(&self, streaming: Streaming, watched: &mut Watched) -> anyhow::Result<Option<Arrival>> {
        let Some(mut session) = self.session()? else { return Ok(None) };
        let rows = session.rows(
            "SELECT pg_is_in_recovery(), pg_last_wal_replay_lsn(), \
             coalesce((SELECT status FROM pg_stat_wal_receiver), '')",
        )?;
        let row: Vec<&str> =
            rows.first().into_iter().flatten().map(|cell| cell.as_deref().unwrap_or_default()).collect();
        let ["t", lsn, status] = row[..] else { return Ok(None) };
        let at: Lsn = lsn.parse()?;
        let streams = status == "streaming";
        if watched.stood.as_ref().is_none_or(|(before, _)| *before != at) {
            watched.stood = Some((at, Stopwatch::start()));
        }
        let waited = watched.stood.as_ref().is_some_and(|(_, watch)| watch.elapsed() >= STREAM_WAIT_MAX);
        let arrived = streams || streaming == Streaming::No || waited;
        Ok(arrived.then_some(Arrival::StandsBy { at, streams }))
    }

    /// Why the server is gone: the last words of its log, and what helps.
    fn failure(&self, segment: Option<WalSegmentName>) -> anyhow::Error {
        let log = last_words::telling_log(self.pgdata, self.log);
        let words = last_words::of(&log);
        let told = format!("its log is {}", log.display());
        let hint = match causes::help(&words) {
            Some(help) => format!("{help}; {told}"),
            None => told,
        };
        let reason = if words.is_empty() { "it left no word in its log".to_owned() } else { words };
        let stopped = Stopped { at: record_in(&reason), reason, segment };
        let message = stopped.to_string();
        anyhow::Error::new(stopped).context(Advice::failed(message).hint(hint))
    }
}

/// What has been seen while a recovery is followed.
struct Watched {
    /// The segment that was replayed last.
    segment: Option<WalSegmentName>,
    /// The time of a transaction in it, or in one before.
    time: Option<DateTime<Utc>>,
    time_look: Option<Stopwatch>,
    pause_look: Stopwatch,
    /// Bytes that the progress was told of.
    told: u64,
    /// Where a standby stands, and since when.
    stood: Option<(Lsn, Stopwatch)>,
}

impl Default for Watched {
    fn default() -> Self {
        Self { segment: None, time: None, time_look: None, pause_look: Stopwatch::start(), told: 0, stood: None }
    }
}

/// The record that a server was replaying when it said this (`rm_redo_error_callback` in
/// `src/backend/access/transam/xlogrecovery.c`). Where these words are translated, or left out, there is none.
fn record_in(words: &str) -> Option<Lsn> {
    let (_, rest) = words.rsplit_once("WAL redo at ")?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_the_record_that_a_server_ended_at() {
        let words =
            "FATAL:  directory \"/ts\" does not exist; CONTEXT:  WAL redo at 0/4A3F0C8 for Tablespace/CREATE: 7";
        assert_eq!(record_in(words), Some(Lsn(0x04A3_F0C8)));
        assert_eq!(record_in("CONTEXT:  WAL redo at some place"), None);
        assert_eq!(record_in("FATAL:  could not restore file"), None);
    }
}
