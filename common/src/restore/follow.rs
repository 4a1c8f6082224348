//! Follows a recovery to its end, by what the server leaves in its files.
//!
//! Proof of arrival is in files and positions, never in log lines, which are translated: the control file's state, the
//! signal file that PostgreSQL removes when recovery ends, and the last line of the new timeline's history
//! (`StartupXLOG` in `src/backend/access/transam/xlog.c`). So no connection is needed to know how it ended.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;

use crate::archive::identity::read_control;
use crate::pg::control::ClusterState;
use crate::pg::history::TimelineHistory;
use crate::pg::{ArchiveName, Lsn, TimelineId, WalSegmentName};
use crate::report::{Advice, Cancel, Progress};
use crate::server::{self, Conninfo, Probe, probe};
use crate::sys::clock::{Deadline, poll};

use super::settings::TargetAction;

/// The file that asks for a targeted recovery (`RECOVERY_SIGNAL_FILE` in `src/include/access/xlog.h`).
pub const RECOVERY_SIGNAL: &str = "recovery.signal";

/// The file that makes a server a standby (`STANDBY_SIGNAL_FILE`).
pub const STANDBY_SIGNAL: &str = "standby.signal";

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(100);

/// How long a launched server may take to write its pid file.
const LAUNCH_WAIT_MAX: Duration = Duration::from_secs(20);

/// How much of the log's end is read for the reason of a failure, in bytes.
const LOG_TAIL_BYTES: u64 = 64 << 10;

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
    /// How a paused server is reached; asked once it runs.
    pub conninfo: &'a dyn Fn() -> anyhow::Result<Conninfo>,
    /// The size of a segment, for the progress.
    pub segment_bytes: u64,
    /// Told of every replayed byte, a segment at a time.
    pub progress: &'a dyn Progress,
    /// Asked between two looks. The server goes on without us.
    pub cancel: &'a Cancel,
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
}

impl Arrival {
    /// In words.
    pub fn describe(&self) -> String {
        match self {
            Self::Promoted { timeline, at } => format!("replayed up to {at}, promoted to timeline {timeline}"),
            Self::Paused { at } => format!("replayed up to {at}, paused there"),
            Self::ShutDown { at } => format!("replayed up to {at}, stopped there"),
        }
    }

    /// The end of what was replayed.
    pub fn position(&self) -> Lsn {
        match self {
            Self::Promoted { at, .. } | Self::Paused { at } | Self::ShutDown { at } => *at,
        }
    }
}

impl Recovery<'_> {
    /// Waits until the recovery has ended, however long that takes, and answers how. A server that is gone before that
    /// is an error with the reason from its log. Calling it again on a recovery that has ended answers the same.
    pub fn follow(&self) -> anyhow::Result<Arrival> {
        self.progress.begin("replay", None);
        self.wait_for_launch()?;
        let mut last_segment: Option<u64> = None;
        loop {
            // Asked in this order: a server that ends between the two has written its last state before.
            let running = server::running(self.pgdata)?.is_some();
            if let Some(arrival) = self.arrival(running)? {
                self.progress.end();
                return Ok(arrival);
            }
            if !running {
                return Err(self.failure());
            }
            if let Some(segment) = self.current_segment() {
                let before = last_segment.replace(segment).unwrap_or(segment);
                self.progress.advance(segment.saturating_sub(before) * self.segment_bytes);
            }
            self.cancel.check()?;
            std::thread::sleep(PAUSE);
        }
    }

    /// Waits for the pid file. Without one after a while, or with a process that is gone, the rest is `follow`'s.
    fn wait_for_launch(&self) -> anyhow::Result<()> {
        poll(Deadline::after(LAUNCH_WAIT_MAX), PAUSE, self.cancel, || {
            let launched = self.pgdata.join("postmaster.pid").exists() || self.log_has_fatal();
            Ok(launched.then_some(()))
        })?;
        Ok(())
    }

    fn arrival(&self, running: bool) -> anyhow::Result<Option<Arrival>> {
        let signal = self.pgdata.join(RECOVERY_SIGNAL).exists();
        let control = read_control(self.pgdata)?;
        if !signal && control.state == ClusterState::InProduction && running {
            return self.promotion().map(Some);
        }
        match self.action {
            TargetAction::Shutdown if !running && control.state == ClusterState::ShutDownInRecovery => {
                Ok(Some(Arrival::ShutDown { at: control.min_recovery_point }))
            }
            TargetAction::Promote | TargetAction::Shutdown => Ok(None),
            TargetAction::Pause => self.pause(),
        }
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

    fn pause(&self) -> anyhow::Result<Option<Arrival>> {
        let Probe::Accepting(mut session) = probe(&(self.conninfo)()?, self.cancel)? else { return Ok(None) };
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

    /// The segment that the startup process names in its title.
    fn current_segment(&self) -> Option<u64> {
        let title = server::processes(self.pgdata).ok()?.into_iter().find_map(|pid| {
            let title = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let title = String::from_utf8_lossy(&title).into_owned();
            title.contains("startup").then_some(title)
        })?;
        let name = title.split(|c: char| !c.is_ascii_hexdigit()).find_map(WalSegmentName::parse)?;
        let size = u32::try_from(self.segment_bytes).ok().and_then(crate::pg::SegmentSize::new)?;
        name.number(size)
    }

    fn log_has_fatal(&self) -> bool {
        read_end(self.log).is_some_and(|lines| lines.iter().any(|line| is_fatal(line)))
    }

    /// The log that tells why the server is gone: its own, unless its last word there was not why and a collector took
    /// over.
    fn telling_log(&self) -> PathBuf {
        let collected = collected_log(self.pgdata).filter(|_| !self.log_has_fatal());
        collected.unwrap_or_else(|| self.log.to_path_buf())
    }

    /// Why the server is gone: the last words of its log.
    fn failure(&self) -> anyhow::Error {
        let log = self.telling_log();
        let lines = read_end(&log).unwrap_or_default();
        let ours = lines.iter().rev().find(|line| line.contains("restore-wal: "));
        let fatal = lines.iter().rev().find(|line| is_fatal(line)).or(lines.last());
        let words: Vec<&str> = [ours, fatal].into_iter().flatten().map(|line| line.trim()).collect();
        let reason = if words.is_empty() { "it left no word in its log".to_owned() } else { words.join("; ") };
        Advice::failed(format!("the server stopped before the target was reached: {reason}"))
            .hint(format!("its log is {}", log.display()))
            .into()
    }
}

/// Where a server with a logging collector writes its text log, once it does (`LOG_METAINFO_DATAFILE` in
/// `src/include/postmaster/syslogger.h`). A backup brings that of its original, which stays until the server has read its
/// configuration: what a server says before that is in its own log.
fn collected_log(pgdata: &Path) -> Option<PathBuf> {
    let text = std::fs::read_to_string(pgdata.join("current_logfiles")).ok()?;
    let name = text.lines().find_map(|line| line.strip_prefix("stderr "))?;
    Some(pgdata.join(name))
}

/// A line with which a server ends. Severities are translated in some installations; then the last line serves.
fn is_fatal(line: &str) -> bool {
    line.contains("FATAL: ") || line.contains("PANIC: ")
}

fn read_end(path: &Path) -> Option<Vec<String>> {
    use std::io::{Read as _, Seek as _, SeekFrom};
    let mut file = std::fs::File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES))).ok()?;
    let mut bytes = Vec::new();
    file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_collected_log() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(collected_log(dir.path()), None);
        let name = dir.path().join("current_logfiles");
        crate::sys::durable::replace(&name, b"stderr log/a.log\ncsvlog log/a.csv\n", 0o600).unwrap();
        assert_eq!(collected_log(dir.path()), Some(dir.path().join("log/a.log")));
        crate::sys::durable::replace(&name, b"csvlog log/a.csv\n", 0o600).unwrap();
        assert_eq!(collected_log(dir.path()), None);
    }
}
