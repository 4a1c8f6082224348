//! How far a server's archiver is behind: the WAL files that wait for it.
//!
//! A file waits as long as `pg_wal/archive_status` has a `.ready` for it (`src/backend/access/transam/xlogarchive.c`).

use anyhow::Context as _;
use chrono::{DateTime, Utc};

use super::backup::{epoch, lsn, number};
use super::session::{Session, SqlError};
use crate::pg::{ArchiveName, Lsn};
use crate::report::Advice;

/// What waits for the archiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backlog {
    /// The server's clock at the question.
    pub now: DateTime<Utc>,
    /// Up to here WAL was flushed or, in recovery, received or replayed, before the files were listed: every segment that
    /// ends at or before it is finished, and on a server that archives it waits or has waited.
    pub flushed: Lsn,
    /// The waiting files, in the order of their names.
    pub waiting: Vec<Waiting>,
}

/// A file that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Which one.
    pub name: ArchiveName,
    /// Its size in bytes; 0 when it is not in `pg_wal` any more.
    pub bytes: u64,
    /// Since when it waits.
    pub since: DateTime<Utc>,
}

/// Lists what waits. It needs the rights of `pg_monitor`.
pub fn backlog(session: &mut Session) -> anyhow::Result<Backlog> {
    let state = session.rows(
        "SELECT extract(epoch FROM clock_timestamp())::numeric(20, 6), \
         CASE WHEN pg_is_in_recovery() THEN greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) \
         ELSE pg_current_wal_flush_lsn() END",
    )?;
    let Some([now, flushed]) = state.first().map(Vec::as_slice) else {
        anyhow::bail!("ask the server how far it is: it gave no answer");
    };
    let rows = session
        .rows(
            "SELECT s.file, coalesce(w.size, 0), extract(epoch FROM s.modification)::numeric(20, 6) FROM \
             (SELECT regexp_replace(name, '\\.ready$', '') AS file, modification FROM pg_ls_archive_statusdir() \
              WHERE name ~ '\\.ready$') s \
             LEFT JOIN pg_ls_waldir() w ON w.name = s.file ORDER BY s.file",
        )
        .map_err(|error| match SqlError::find(&error) {
            Some(refusal) if refusal.state == SqlError::INSUFFICIENT_PRIVILEGE => error.context(
                Advice::failed("the role may not see what waits to be archived")
                    .hint("connect as a superuser, or GRANT pg_monitor to the role"),
            ),
            _ => error.context("list what waits to be archived"),
        })?;
    let waiting = |row: Vec<Option<String>>| {
        let [file, bytes, since] = <[Option<String>; 3]>::try_from(row).ok().context("a row has three columns")?;
        // The server archives nothing whose name is not one of these.
        let Some(name) = ArchiveName::parse(&file.unwrap_or_default()) else { return Ok(None) };
        Ok(Some(Waiting { name, bytes: number(bytes.as_deref())?, since: epoch(&since.unwrap_or_default())? }))
    };
    let waiting: Vec<Option<Waiting>> = rows.into_iter().map(waiting).collect::<anyhow::Result<_>>()?;
    Ok(Backlog {
        now: epoch(now.as_deref().unwrap_or_default())?,
        flushed: lsn(flushed.as_deref())?,
        waiting: waiting.into_iter().flatten().collect(),
    })
}
