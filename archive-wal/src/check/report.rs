//! What was found: tables for people, one document for programs.

use chrono::{DateTime, SecondsFormat, Utc};
use common::app::Context;
use common::pg::{Lsn, TimelineId};
use common::units::{ByteCount, Took};
use serde::Serialize;

use super::backfill::Item;
use super::findings::{Finding, Lag, Severity, Since, lag, lag_bytes};
use super::gather::{Held, Seen as Repository, State};
use super::proof::Proof;
use crate::cli::CheckArgs;

/// Everything that is told.
pub(crate) struct Seen<'a> {
    /// The state of archiving.
    pub(crate) state: &'a State,
    /// The proof, where there was one.
    pub(crate) proof: Option<&'a Proof>,
    /// What was put, or would be.
    pub(crate) backfilled: &'a [Item],
    /// What it means.
    pub(crate) findings: &'a [Finding],
}

#[derive(Serialize)]
struct Document<'a> {
    cluster: &'a str,
    ok: bool,
    server: ServerOf<'a>,
    archiver: Archiver<'a>,
    backlog: Backlog,
    lag: Lag,
    pg_wal_free_bytes: Option<u64>,
    proof: Option<&'a Proof>,
    repositories: Vec<OfRepository<'a>>,
    dry_run: bool,
    backfilled: &'a [Item],
    findings: &'a [Finding],
}

#[derive(Serialize)]
struct ServerOf<'a> {
    postgresql_version: u32,
    standby: bool,
    timeline: TimelineId,
    lsn: Lsn,
    archive_mode: Option<&'a str>,
    archive_command: Option<&'a str>,
}

#[derive(Serialize)]
struct Archiver<'a> {
    archived_count: u64,
    last_archived: Option<&'a str>,
    last_archived_at: Option<DateTime<Utc>>,
    failed_count: u64,
    last_failed: Option<&'a str>,
    last_failed_at: Option<DateTime<Utc>>,
}

#[derive(Serialize)]
struct Backlog {
    files: usize,
    bytes: u64,
    oldest: Option<String>,
    oldest_since: Option<DateTime<Utc>>,
}

#[derive(Serialize)]
struct OfRepository<'a> {
    repository: &'a str,
    exists: Option<bool>,
    archived_to: Option<Lsn>,
    lag_bytes: Option<u64>,
    missing: Vec<OfMissing>,
}

#[derive(Serialize)]
struct OfMissing {
    file: String,
    in_pg_wal: bool,
    expected: bool,
}

/// Prints everything.
pub(crate) fn print(seen: &Seen<'_>, args: &CheckArgs, ctx: &Context) -> anyhow::Result<()> {
    if ctx.output.is_json() { ctx.output.json(&document(seen, args, ctx)) } else { text(seen, args, ctx) }
}

fn document<'a>(seen: &Seen<'a>, args: &CheckArgs, ctx: &'a Context) -> Document<'a> {
    let Seen { state, proof, backfilled, findings } = *seen;
    let (facts, archiver) = (&state.facts, &state.archiver);
    Document {
        cluster: ctx.settings.cluster.value.as_str(),
        ok: findings.iter().all(|finding| finding.severity != Severity::Problem),
        server: ServerOf {
            postgresql_version: facts.version.number,
            standby: facts.in_recovery,
            timeline: facts.timeline,
            lsn: facts.position,
            archive_mode: facts.setting("archive_mode"),
            archive_command: facts.archive_command(),
        },
        archiver: Archiver {
            archived_count: archiver.archived_count,
            last_archived: archiver.last_archived.as_deref(),
            last_archived_at: archiver.last_archived_time,
            failed_count: archiver.failed_count,
            last_failed: archiver.last_failed.as_deref(),
            last_failed_at: archiver.last_failed_time,
        },
        backlog: backlog(state),
        lag: lag(state),
        pg_wal_free_bytes: state.free_bytes,
        proof,
        repositories: state.repositories.iter().map(|repository| of_repository(repository, state)).collect(),
        dry_run: args.dry_run,
        backfilled,
        findings,
    }
}

fn backlog(state: &State) -> Backlog {
    let waiting = &state.backlog.waiting;
    let oldest = waiting.iter().min_by_key(|waiting| waiting.since);
    Backlog {
        files: waiting.len(),
        bytes: waiting.iter().map(|waiting| waiting.bytes).sum(),
        oldest: oldest.map(|oldest| oldest.name.to_string()),
        oldest_since: oldest.map(|oldest| oldest.since),
    }
}

fn of_repository<'a>(repository: &'a Repository, state: &State) -> OfRepository<'a> {
    let (exists, archived_to, missing) = match &repository.held {
        Held::NoRepository => (Some(false), None, Vec::new()),
        Held::Unreadable(_) => (None, None, Vec::new()),
        Held::Wal { end, missing } => {
            let one = |missing: &super::holes::Missing| OfMissing {
                file: missing.name.to_string(),
                in_pg_wal: missing.here,
                expected: missing.expected,
            };
            (Some(true), *end, missing.iter().map(one).collect())
        }
    };
    OfRepository {
        repository: &repository.place,
        exists,
        archived_to,
        lag_bytes: lag_bytes(&repository.held, state),
        missing,
    }
}

fn text(seen: &Seen<'_>, args: &CheckArgs, ctx: &Context) -> anyhow::Result<()> {
    let Seen { state, proof, backfilled, findings } = *seen;
    let rows: Vec<Vec<String>> = summary(state).into_iter().map(|(what, value)| vec![what.to_owned(), value]).collect();
    ctx.output.table(&["WHAT", "NOW"], &rows)?;
    ctx.output.line("")?;
    let rows: Vec<Vec<String>> = state.repositories.iter().map(|repository| row(repository, proof, state)).collect();
    ctx.output.table(&["REPOSITORY", "ARCHIVED UP TO", "BEHIND", "NOT THERE", "PROOF"], &rows)?;
    if args.backfill {
        ctx.output.line("")?;
        let row = |item: &Item| vec![item.repository.clone(), item.file.to_string(), item.result.words().to_owned()];
        let rows: Vec<Vec<String>> = backfilled.iter().map(row).collect();
        if rows.is_empty() {
            ctx.output.line("pg_wal has nothing that a repository lacks")?;
        } else {
            ctx.output.table(&["REPOSITORY", "FILE", "BACKFILL"], &rows)?;
        }
    }
    if findings.is_empty() {
        return Ok(());
    }
    ctx.output.line("")?;
    let rows: Vec<Vec<String>> = findings.iter().map(finding).collect();
    ctx.output.table(&["FINDING", "REPOSITORY", "WHAT", "TO DO"], &rows)
}

fn finding(finding: &Finding) -> Vec<String> {
    let severity = match finding.severity {
        Severity::Problem => "problem",
        Severity::Note => "note",
    };
    let repository = finding.repository.clone().unwrap_or_else(|| "-".to_owned());
    vec![severity.to_owned(), repository, finding.what.clone(), finding.hint.clone().unwrap_or_default()]
}

fn row(repository: &Repository, proof: Option<&Proof>, state: &State) -> Vec<String> {
    let none = || "-".to_owned();
    let (end, lost) = match &repository.held {
        Held::NoRepository => ("no repository yet".to_owned(), none()),
        Held::Unreadable(_) => ("unreadable".to_owned(), none()),
        Held::Wal { end, missing } => {
            let lost = missing.iter().filter(|missing| !missing.expected).count();
            (end.map_or_else(|| "nothing archived yet".to_owned(), |end| end.to_string()), lost.to_string())
        }
    };
    let behind = lag_bytes(&repository.held, state).map_or_else(none, |bytes| ByteCount(bytes).to_string());
    let arrival = proof.and_then(|proof| proof.repositories.iter().find(|it| it.repository == repository.place));
    let proved = arrival.map_or_else(none, |arrival| arrival.result.words().to_owned());
    vec![repository.place.clone(), end, behind, lost, proved]
}

fn summary(state: &State) -> Vec<(&'static str, String)> {
    let (facts, archiver, now) = (&state.facts, &state.archiver, state.backlog.now);
    let role = if facts.in_recovery { "standby" } else { "primary" };
    let setting = |name: &str| facts.setting(name).unwrap_or("-").to_owned();
    let file = |name: &Option<String>, time: Option<DateTime<Utc>>| match (name, time) {
        (Some(name), Some(time)) => {
            let ago = Took((now - time).to_std().unwrap_or_default());
            format!("{name}, {ago} ago ({})", time.to_rfc3339_opts(SecondsFormat::Secs, true))
        }
        _ => "nothing yet".to_owned(),
    };
    let backlog = backlog(state);
    let waiting = match &backlog.oldest {
        None => "nothing waits".to_owned(),
        Some(oldest) => format!("{} waiting, {}, the oldest {oldest}", backlog.files, ByteCount(backlog.bytes)),
    };
    let lag = lag(state);
    let seconds = lag.seconds.map(|seconds| Took(std::time::Duration::try_from_secs_f64(seconds).unwrap_or_default()));
    let behind = match (seconds, lag.since) {
        (Some(took), Some(Since::OldestWaiting)) => format!("{took} since the oldest waits"),
        (Some(took), _) => format!("nothing waits; {took} since the last was archived"),
        (None, _) => "nothing archived yet".to_owned(),
    };
    let mut rows = vec![
        ("server", format!("PostgreSQL {}, {role}, timeline {}, at {}", facts.version, facts.timeline, facts.position)),
        ("archive_mode", setting("archive_mode")),
        ("archive_command", setting("archive_command")),
        ("archived", archiver.archived_count.to_string()),
        ("last archived", file(&archiver.last_archived, archiver.last_archived_time)),
        ("failed", archiver.failed_count.to_string()),
        ("last failed", file(&archiver.last_failed, archiver.last_failed_time)),
        ("backlog", waiting),
        ("lag", behind),
    ];
    if let Some(free) = state.free_bytes {
        rows.push(("free beside pg_wal", ByteCount(free).to_string()));
    }
    rows
}
