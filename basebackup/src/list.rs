//! `basebackup list`: what is in the repository. Works without a server.

use chrono::{DateTime, SecondsFormat, Utc};
use common::app::{Context, Outcome};
use common::archive::backups::{self, Found};
use common::pg::{Lsn, TimelineId};
use common::repo::BackupId;
use common::units::{ByteCount, Took};
use serde::Serialize;

/// What a backup is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    /// Whole, and no damage is known.
    Ok,
    /// Whole, with pages that were damaged in the server already.
    DamagedPages,
    /// Somebody is making it.
    Running,
    /// Whoever made it has not been heard of for long.
    Died,
    /// Its commit record cannot be read.
    RecordDamaged,
}

impl State {
    fn words(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::DamagedPages => "damaged pages",
            Self::Running => "running",
            Self::Died => "died",
            Self::RecordDamaged => "record damaged",
        }
    }
}

/// A line of the list; an element of `backups` in the document of `--json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Line {
    repository: String,
    id: BackupId,
    state: State,
    label: Option<String>,
    timeline: Option<TimelineId>,
    start_lsn: Option<Lsn>,
    stop_lsn: Option<Lsn>,
    started_at: Option<DateTime<Utc>>,
    stopped_at: Option<DateTime<Utc>>,
    files: Option<u64>,
    plain_bytes: Option<u64>,
    stored_bytes: Option<u64>,
    damaged_page_count: Option<u64>,
    /// Who is or was at work on an unfinished one.
    host: Option<String>,
    pid: Option<u32>,
    /// Why the record cannot be read.
    damage: Option<String>,
}

/// Lists the backups of the cluster in every configured repository.
pub(crate) fn list(ctx: &Context) -> anyhow::Result<Outcome> {
    let mut lines = Vec::new();
    for setting in ctx.settings.require_repositories()? {
        let repository = ctx.open(setting)?;
        let (place, now) = (repository.describe(), ctx.clock.now());
        let found = backups::list(&repository)?;
        if found.is_empty() {
            repository.require_cluster()?;
        }
        lines.extend(found.into_iter().map(|(id, found)| line(&place, id, found, now)));
    }
    if ctx.output.is_json() {
        ctx.output.json(&serde_json::json!({ "backups": lines }))?;
    } else {
        let several = ctx.settings.repositories.len() > 1;
        let mut header = vec!["ID", "STATE", "LABEL", "TIMELINE", "START", "STOP", "STARTED", "TOOK", "SIZE", "STORED"];
        if several {
            header.push("REPOSITORY");
        }
        let rows: Vec<_> = lines.iter().map(|line| row(line, several)).collect();
        ctx.output.table(&header, &rows)?;
    }
    Ok(Outcome::Done)
}

fn line(repository: &str, id: BackupId, found: Found, now: DateTime<Utc>) -> Line {
    let empty = Line {
        repository: repository.to_owned(),
        id,
        state: State::Died,
        label: None,
        timeline: None,
        start_lsn: None,
        stop_lsn: None,
        started_at: None,
        stopped_at: None,
        files: None,
        plain_bytes: None,
        stored_bytes: None,
        damaged_page_count: None,
        host: None,
        pid: None,
        damage: None,
    };
    match found {
        Found::Complete(record) => Line {
            state: if record.damaged_page_count == 0 { State::Ok } else { State::DamagedPages },
            label: Some(record.label),
            timeline: Some(record.span.timeline),
            start_lsn: Some(record.span.start_lsn),
            stop_lsn: Some(record.span.stop_lsn),
            started_at: Some(record.span.started_at),
            stopped_at: Some(record.span.stopped_at),
            files: Some(record.files),
            plain_bytes: Some(record.plain_bytes),
            stored_bytes: Some(record.stored_bytes),
            damaged_page_count: Some(record.damaged_page_count),
            ..empty
        },
        Found::Unfinished(Some(started)) => Line {
            state: if backups::is_alive(&started, now) { State::Running } else { State::Died },
            timeline: started.start_wal.map(|start| start.timeline),
            start_lsn: started.start_wal.map(|start| start.lsn),
            started_at: Some(started.started_at),
            host: Some(started.host),
            pid: Some(started.pid),
            ..empty
        },
        Found::Unfinished(None) => empty,
        Found::Damaged(reason) => Line { state: State::RecordDamaged, damage: Some(reason), ..empty },
    }
}

fn row(line: &Line, several: bool) -> Vec<String> {
    fn cell<T: ToString>(value: Option<T>) -> String {
        value.map_or_else(|| "-".to_owned(), |value| value.to_string())
    }
    let took = line.started_at.zip(line.stopped_at).and_then(|(start, stop)| (stop - start).to_std().ok());
    let mut row = vec![
        line.id.to_string(),
        line.state.words().to_owned(),
        cell(line.label.as_ref()),
        cell(line.timeline),
        cell(line.start_lsn),
        cell(line.stop_lsn),
        cell(line.started_at.map(|time| time.to_rfc3339_opts(SecondsFormat::Secs, true))),
        cell(took.map(Took)),
        cell(line.plain_bytes.map(ByteCount)),
        cell(line.stored_bytes.map(ByteCount)),
    ];
    if several {
        row.push(line.repository.clone());
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::repo::records::StartedRecord;
    use rstest::rstest;

    fn moment(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    fn started(heartbeat: i64) -> Found {
        Found::Unfinished(Some(StartedRecord {
            owner: "me".to_owned(),
            host: "here".to_owned(),
            pid: 7,
            started_at: moment(0),
            heartbeat_at: moment(heartbeat),
            start_wal: None,
        }))
    }

    #[rstest]
    #[case::alive(started(90), "running")]
    #[case::silent(started(-86_400), "died")]
    #[case::no_record(Found::Unfinished(None), "died")]
    #[case::damaged(Found::Damaged("flipped".to_owned()), "record damaged")]
    fn what_is_not_whole_is_listed_as_such(#[case] found: Found, #[case] expected: &str) {
        let line = line("/repo", BackupId::at(moment(0)), found, moment(100));
        let row = row(&line, true);
        assert_eq!((row[1].as_str(), row[10].as_str()), (expected, "/repo"));
        assert!(row[5] == "-" && row[8] == "-");
    }
}
