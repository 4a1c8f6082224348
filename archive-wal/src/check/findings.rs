//! What the state of archiving means. Pure.

use std::time::Duration;

use chrono::{DateTime, Utc};
use common::pg::{ArchiveName, SegmentSize};
use common::units::{ByteCount, Took};
use serde::Serialize;

use super::gather::{Held, State};
use super::holes::Missing;
use super::proof::{Outcome, Proof};

/// `pg_wal` needs room for so many segments more; a server whose `pg_wal` is full stops.
const SEGMENTS_FREE_MIN: u64 = 16;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Severity {
    /// WAL is lost, late or in danger.
    Problem,
    /// Worth knowing.
    Note,
}

/// What a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// The server archives nothing.
    ArchivingOff,
    /// The archiver's last attempt failed.
    ArchiverFailing,
    /// WAL waits for long.
    Backlog,
    /// The proof failed.
    NotProved,
    /// There is no repository.
    NoRepository,
    /// A repository cannot be read.
    UnreadableRepository,
    /// WAL is missing that nothing will bring by itself.
    Hole,
    /// `pg_wal` has little room left.
    LittleRoom,
    /// The history of the server's timeline is nowhere.
    UnknownHistory,
    /// A standby that would not archive what it received once its primary is dead.
    FailoverHole,
    /// The server's files are out of reach.
    NoFiles,
}

/// Something that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// What it is about.
    pub(crate) kind: Kind,
    /// How bad it is.
    pub(crate) severity: Severity,
    /// The repository, where it is about one.
    pub(crate) repository: Option<String>,
    /// What was found.
    pub(crate) what: String,
    /// What to do or to look at.
    pub(crate) hint: Option<String>,
}

impl Finding {
    fn problem(kind: Kind, what: impl Into<String>) -> Self {
        Self { kind, severity: Severity::Problem, repository: None, what: what.into(), hint: None }
    }

    fn note(kind: Kind, what: impl Into<String>) -> Self {
        Self { severity: Severity::Note, ..Self::problem(kind, what) }
    }

    fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    fn of(self, repository: &str) -> Self {
        Self { repository: Some(repository.to_owned()), ..self }
    }
}

/// Judges. WAL may wait for `patience`.
pub(crate) fn decide(state: &State, proof: Option<&Proof>, patience: Duration) -> Vec<Finding> {
    let mut findings = server(state, patience);
    findings.extend(proof.into_iter().flat_map(|proof| &proof.repositories).filter_map(|arrival| {
        let what = match arrival.result {
            Outcome::Same | Outcome::Valid => return None,
            _ => arrival.what.clone().unwrap_or_default(),
        };
        let finding = Finding::problem(Kind::NotProved, what).of(&arrival.repository);
        Some(Finding { hint: arrival.hint.clone(), ..finding })
    }));
    for seen in &state.repositories {
        let is_known = |finding: &Finding| finding.repository.as_deref() == Some(&seen.place);
        match &seen.held {
            Held::NoRepository if findings.iter().any(is_known) => {}
            Held::NoRepository => findings.push(
                Finding::problem(Kind::NoRepository, "there is no repository yet, nothing was archived into it")
                    .hint("check the path and that its file system is mounted; archive-wal setup --apply makes one")
                    .of(&seen.place),
            ),
            Held::Unreadable(reason) => {
                findings.push(Finding::problem(Kind::UnreadableRepository, reason).of(&seen.place));
            }
            Held::Wal { missing, .. } => {
                let lost: Vec<Missing> = missing.iter().copied().filter(|missing| !missing.expected).collect();
                findings.extend(holes(&lost, state).into_iter().map(|finding| finding.of(&seen.place)));
            }
        }
    }
    findings
}

/// What the server itself tells.
fn server(state: &State, patience: Duration) -> Vec<Finding> {
    let mut findings = Vec::new();
    let (facts, archiver) = (&state.facts, &state.archiver);
    let mode = facts.setting("archive_mode").unwrap_or("on");
    let nothing_to_call = facts.setting("archive_command") == Some("") && facts.path("archive_library").is_none();
    let archives = mode == "always" || (mode == "on" && !facts.in_recovery);
    if !facts.in_recovery && mode == "off" {
        findings.push(Finding::problem(Kind::ArchivingOff, "archive_mode is off: nothing is archived").hint(SETUP));
    } else if archives && nothing_to_call {
        findings
            .push(Finding::problem(Kind::ArchivingOff, "archive_command is empty: nothing is archived").hint(SETUP));
    }
    if archives && archiver.is_failing() {
        let file = archiver.last_failed.as_deref().unwrap_or("a file");
        let ago = archiver.last_failed_time.map(|time| age(state.backlog.now, time)).unwrap_or_default();
        let what = format!("the archiver fails: {} times, last on {file}{ago}", archiver.failed_count);
        findings
            .push(Finding::problem(Kind::ArchiverFailing, what).hint("the server's log has what archive_command said"));
    }
    let oldest = state.backlog.waiting.iter().min_by_key(|waiting| waiting.since);
    if let Some(oldest) = oldest.filter(|oldest| waits_too_long(state.backlog.now, oldest.since, patience)) {
        let count = files(state.backlog.waiting.len());
        let what = format!("{count} to be archived, {} since {}", oldest.name, since(state.backlog.now, oldest.since));
        findings.push(Finding::problem(Kind::Backlog, what));
    }
    if let Some(free) = state.free_bytes.filter(|free| *free < SEGMENTS_FREE_MIN * state.segment_size.bytes()) {
        let what =
            format!("the file system of pg_wal has {} left: a server whose pg_wal is full stops", ByteCount(free));
        findings
            .push(Finding::problem(Kind::LittleRoom, what).hint("never remove files from pg_wal; make room beside it"));
    }
    if !state.history_known {
        let file = facts.timeline.history_file();
        let what =
            format!("{file} is neither in pg_wal nor archived: holes before timeline {} are not seen", facts.timeline);
        findings.push(Finding::problem(Kind::UnknownHistory, what));
    }
    if facts.in_recovery && mode != "always" {
        let what = format!(
            "archive_mode is {mode} on this standby: what its primary has not archived when it dies would stay unarchived"
        );
        findings
            .push(Finding::note(Kind::FailoverHole, what).hint("set archive_mode = always: archive-wal setup --apply"));
    }
    if let Some(reason) = &state.no_files {
        let what = format!("the server's files are out of reach ({reason}): nothing was compared with pg_wal");
        findings.push(Finding::note(Kind::NoFiles, what));
    }
    findings
}

const SETUP: &str = "archive-wal setup shows what the server needs, and --apply changes it";

fn waits_too_long(now: DateTime<Utc>, since: DateTime<Utc>, patience: Duration) -> bool {
    (now - since).to_std().is_ok_and(|waited| waited > patience)
}

/// A finding for each stretch of missing files that are alike.
fn holes(lost: &[Missing], state: &State) -> Vec<Finding> {
    let mut findings = Vec::new();
    let follows =
        |one: &Missing, next: &Missing| one.here == next.here && is_next(one.name, next.name, state.segment_size);
    for stretch in lost.chunk_by(follows) {
        let (Some(first), Some(last)) = (stretch.first(), stretch.last()) else { continue };
        let which = match stretch.len() {
            1 => first.name.to_string(),
            count => format!("{} to {} ({count} segments)", first.name, last.name),
        };
        let (what, hint) = if first.here {
            (
                format!("{which} was never archived; this server's pg_wal has it"),
                "archive-wal check --backfill puts it into the repository",
            )
        } else if state.no_files.is_some() {
            (
                format!("{which} was never archived, or is lost"),
                "run archive-wal check on the server's host: it tells whether pg_wal has it",
            )
        } else {
            (
                format!("{which} was never archived, or is lost; this server's pg_wal does not have it"),
                "no backup from before it can be recovered past it: take a base backup now; look for the file on other \
                 servers and put it with archive-wal PATH",
            )
        };
        findings.push(Finding::problem(Kind::Hole, what).hint(hint));
    }
    findings
}

fn is_next(one: ArchiveName, next: ArchiveName, size: SegmentSize) -> bool {
    match (one, next) {
        (ArchiveName::Segment(one), ArchiveName::Segment(next)) => {
            one.number(size).zip(next.number(size)).is_some_and(|(one, next)| one.checked_add(1) == Some(next))
        }
        _ => false,
    }
}

fn files(count: usize) -> String {
    if count == 1 { "1 file waits".to_owned() } else { format!("{count} files wait") }
}

fn since(now: DateTime<Utc>, then: DateTime<Utc>) -> Took {
    Took((now - then).to_std().unwrap_or_default())
}

fn age(now: DateTime<Utc>, then: DateTime<Utc>) -> String {
    format!(", {} ago", since(now, then))
}

/// How far the archive is behind the server.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Lag {
    /// What would be lost with the server, in bytes of WAL: from the end of the newest segment in the repository that is
    /// furthest behind to where the next record goes. None when a repository has no segment.
    pub(crate) bytes: Option<u64>,
    /// How long the oldest waiting file waits; where none does, how long ago the last one was archived.
    pub(crate) seconds: Option<f64>,
    /// Which of the two that is.
    pub(crate) since: Option<Since>,
}

/// What a lag's seconds are counted from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Since {
    /// The oldest waiting file.
    OldestWaiting,
    /// The last one that was archived.
    LastArchived,
}

/// Measures the lag.
pub(crate) fn lag(state: &State) -> Lag {
    let ends: Option<Vec<u64>> = state.repositories.iter().map(|seen| lag_bytes(&seen.held, state)).collect();
    let oldest =
        state.backlog.waiting.iter().map(|waiting| (waiting.since, Since::OldestWaiting)).min_by_key(|it| it.0);
    let archived = state.archiver.last_archived_time.map(|time| (time, Since::LastArchived));
    let from = oldest.or(archived);
    Lag {
        bytes: ends.and_then(|ends| ends.into_iter().max()),
        seconds: from.map(|(time, _)| (state.backlog.now - time).to_std().unwrap_or_default().as_secs_f64()),
        since: from.map(|(_, since)| since),
    }
}

/// How many bytes of WAL one repository lacks at the end; none when it has no segment.
pub(crate) fn lag_bytes(held: &Held, state: &State) -> Option<u64> {
    match held {
        Held::Wal { end, .. } => end.map(|end| state.facts.position.0.saturating_sub(end.0)),
        Held::NoRepository | Held::Unreadable(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::pg::{TimelineId, WalSegmentName};
    use rstest::rstest;

    fn moment(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    #[rstest]
    #[case(60, false)]
    #[case(61, true)]
    #[case(-5, false)]
    fn waiting_is_measured_by_the_servers_clock(#[case] waited: i64, #[case] expected: bool) {
        assert_eq!(waits_too_long(moment(waited), moment(0), Duration::from_mins(1)), expected);
    }

    #[rstest]
    #[case((1, 5), (1, 6), true)]
    #[case((1, 6), (2, 7), true)]
    #[case((1, 5), (1, 7), false)]
    fn stretches_go_over_a_fork(#[case] one: (u32, u64), #[case] next: (u32, u64), #[case] expected: bool) {
        let size = SegmentSize::DEFAULT;
        let name =
            |(timeline, number)| ArchiveName::Segment(WalSegmentName::numbered(TimelineId(timeline), number, size));
        assert_eq!(is_next(name(one), name(next), size), expected);
    }
}
