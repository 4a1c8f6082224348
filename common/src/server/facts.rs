//! What a running server says of itself: where its files lie, who it is, how far it is, how it is set.
//!
//! A role without the rights of `pg_read_all_settings` sees less; what could not be had is listed, never guessed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use chrono::{DateTime, Utc};

use super::backup::{epoch, lsn, number};
use super::session::{ServerVersion, Session, SqlError, quote_literal};
use crate::pg::{Lsn, SystemIdentifier, TimelineId};

/// The settings that are always read; [`ServerFacts::setting`] answers them.
const SETTINGS: &[&str] = &[
    "archive_cleanup_command",
    "archive_command",
    "archive_library",
    "archive_mode",
    "archive_timeout",
    "block_size",
    "cluster_name",
    "config_file",
    "data_checksums",
    "data_directory",
    "external_pid_file",
    "full_page_writes",
    "hba_file",
    "hot_standby",
    "ident_file",
    "listen_addresses",
    "log_directory",
    "max_connections",
    "max_locks_per_transaction",
    "max_prepared_transactions",
    "max_wal_senders",
    "max_worker_processes",
    "port",
    "recovery_target_timeline",
    "restore_command",
    "segment_size",
    "server_encoding",
    "shared_preload_libraries",
    "summarize_wal",
    "synchronous_standby_names",
    "track_commit_timestamp",
    "unix_socket_directories",
    "wal_block_size",
    "wal_level",
    "wal_segment_size",
];
/// Settings that servers of the supported range do not all have.
const NOT_EVERYWHERE: [(&str, u32); 2] = [("archive_library", 15), ("summarize_wal", 17)];

/// One tablespace besides `pg_default` and `pg_global`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tablespace {
    /// Its object identifier, which names its link in `pg_tblspc`.
    pub oid: u32,
    /// Its name in SQL.
    pub name: String,
    /// Its directory; one inside the data directory (an in-place tablespace) is relative to that.
    pub location: PathBuf,
}

/// What [`facts`] found.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerFacts {
    /// The server's version.
    pub version: ServerVersion,
    /// The cluster's system identifier.
    pub system_identifier: SystemIdentifier,
    /// The timeline that is written, or on a standby the newest that is replayed.
    pub timeline: TimelineId,
    /// Whether the server is in recovery: a standby, or one that has not reached its target.
    pub in_recovery: bool,
    /// Where the next record goes; in recovery the end of what was received or replayed.
    pub position: Lsn,
    /// The next transaction identifier, with its epoch.
    pub next_xid: u64,
    /// When the server was started.
    pub started: DateTime<Utc>,
    /// How many databases there are, templates included.
    pub databases: u32,
    /// The tablespaces besides the two that every cluster has, by identifier.
    pub tablespaces: Vec<Tablespace>,
    /// Every configuration file that the server reads or would read, as far as it says: `config_file`, `hba_file`,
    /// `ident_file` and what they include. Sorted.
    pub config_files: Vec<PathBuf>,
    /// What the role may not see, such as `config_file`; empty for a superuser.
    pub unreadable: Vec<String>,
    settings: BTreeMap<String, String>,
}

impl ServerFacts {
    /// A setting in its base unit, as `pg_settings` has it; none when the role may not see it or the version has none.
    pub fn setting(&self, name: &str) -> Option<&str> {
        self.settings.get(name).map(String::as_str)
    }

    /// All settings that were read.
    pub fn settings(&self) -> &BTreeMap<String, String> {
        &self.settings
    }

    /// A setting that is a path; none also when it is empty.
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        self.setting(name).filter(|path| !path.is_empty()).map(PathBuf::from)
    }

    /// The data directory, absolute; none when the role may not see it.
    pub fn data_directory(&self) -> Option<PathBuf> {
        self.path("data_directory")
    }

    /// What the server archives with; none when it is empty or the role may not see it.
    pub fn archive_command(&self) -> Option<&str> {
        self.setting("archive_command").filter(|command| !command.is_empty())
    }

    /// A setting that is on or off.
    pub fn is_on(&self, name: &str) -> bool {
        self.setting(name) == Some("on")
    }

    /// A setting that is a number.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.setting(name)?.parse().ok()
    }

    /// The port that the server listens on.
    pub fn port(&self) -> Option<u16> {
        self.setting("port")?.parse().ok()
    }

    /// The folders of its sockets; a leading `@` means an abstract one.
    pub fn socket_directories(&self) -> Vec<PathBuf> {
        let list = self.setting("unix_socket_directories").unwrap_or_default();
        list.split(',')
            .map(|one| one.trim().trim_matches('"'))
            .filter(|one| !one.is_empty())
            .map(PathBuf::from)
            .collect()
    }

    /// The configuration files that lie outside the data directory.
    pub fn config_outside(&self) -> Vec<&Path> {
        let inside = self.data_directory().unwrap_or_default();
        let known = !inside.as_os_str().is_empty();
        self.config_files.iter().map(PathBuf::as_path).filter(|file| !(known && file.starts_with(&inside))).collect()
    }
}

/// Asks the server for everything above. It takes a few small queries and changes nothing.
pub fn facts(session: &mut Session) -> anyhow::Result<ServerFacts> {
    let version = session.version();
    let settings = settings(session).context("read the server's settings")?;
    let expected = SETTINGS
        .iter()
        .filter(|name| NOT_EVERYWHERE.iter().all(|(newer, since)| newer != *name || version.major() >= *since));
    let mut unreadable: Vec<String> =
        expected.filter(|name| !settings.contains_key(**name)).map(|name| (*name).to_owned()).collect();
    let config_files = config_files(session, &settings, &mut unreadable)?;
    let state = state(session).context("read the server's state")?;
    Ok(ServerFacts {
        version,
        system_identifier: state.system_identifier,
        timeline: state.timeline,
        in_recovery: state.in_recovery,
        position: state.position,
        next_xid: state.next_xid,
        started: state.started,
        databases: state.databases,
        tablespaces: tablespaces(session).context("list the tablespaces")?,
        config_files,
        unreadable,
        settings,
    })
}

/// Settings that the role may not see are left out by the view.
fn settings(session: &mut Session) -> anyhow::Result<BTreeMap<String, String>> {
    let names: Vec<String> = SETTINGS.iter().map(|name| quote_literal(name)).collect();
    let sql = format!("SELECT name, setting FROM pg_settings WHERE name IN ({})", names.join(", "));
    let rows = session.rows(&sql)?;
    Ok(rows
        .into_iter()
        .filter_map(|row| <[Option<String>; 2]>::try_from(row).ok())
        .filter_map(|[n, v]| Some((n?, v?)))
        .collect())
}

fn config_files(
    session: &mut Session,
    settings: &BTreeMap<String, String>,
    unreadable: &mut Vec<String>,
) -> anyhow::Result<Vec<PathBuf>> {
    let named = ["config_file", "hba_file", "ident_file"].into_iter().filter_map(|name| settings.get(name));
    let mut files: Vec<PathBuf> = named.filter(|path| !path.is_empty()).map(PathBuf::from).collect();
    // The views of included files came with 16; before, only the main file could include others.
    let mut views = vec![("pg_file_settings", "sourcefile")];
    if session.version().major() >= 16 {
        views.extend([("pg_hba_file_rules", "file_name"), ("pg_ident_file_mappings", "file_name")]);
    }
    for (view, column) in views {
        match session.rows(&format!("SELECT DISTINCT {column} FROM {view} WHERE {column} IS NOT NULL")) {
            Ok(rows) => files.extend(rows.into_iter().flatten().flatten().map(PathBuf::from)),
            Err(error) if is_denied(&error) => unreadable.push(view.to_owned()),
            Err(error) => return Err(error.context("list the configuration files")),
        }
    }
    files.sort();
    files.dedup();
    Ok(files)
}

fn is_denied(error: &anyhow::Error) -> bool {
    SqlError::find(error).is_some_and(|refusal| refusal.state == SqlError::INSUFFICIENT_PRIVILEGE)
}

struct State {
    system_identifier: SystemIdentifier,
    timeline: TimelineId,
    in_recovery: bool,
    position: Lsn,
    next_xid: u64,
    started: DateTime<Utc>,
    databases: u32,
}

fn state(session: &mut Session) -> anyhow::Result<State> {
    // On a primary the last checkpoint may be of the timeline before, so the current segment's name is asked.
    let rows = session.rows(
        "SELECT pg_is_in_recovery(), (SELECT system_identifier FROM pg_control_system()), \
         CASE WHEN pg_is_in_recovery() \
           THEN greatest((SELECT timeline_id FROM pg_control_checkpoint()), \
                         (SELECT min_recovery_end_timeline FROM pg_control_recovery()))::text \
           ELSE substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) END, \
         CASE WHEN pg_is_in_recovery() \
           THEN greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) \
           ELSE pg_current_wal_insert_lsn() END, \
         pg_snapshot_xmax(pg_current_snapshot()), \
         extract(epoch FROM pg_postmaster_start_time())::numeric(20, 6), (SELECT count(*) FROM pg_database)",
    )?;
    let Some([recovery, identifier, timeline, position, xid, started, databases]) = rows.first().map(Vec::as_slice)
    else {
        anyhow::bail!("the server gave no answer");
    };
    let in_recovery = recovery.as_deref() == Some("t");
    let text = timeline.as_deref().unwrap_or_default();
    let timeline = u32::from_str_radix(text, if in_recovery { 10 } else { 16 });
    // The server prints the identifier as a signed number.
    let identifier: i64 = number(identifier.as_deref())?;
    Ok(State {
        system_identifier: identifier.cast_unsigned(),
        timeline: TimelineId(timeline.with_context(|| format!("the server gave {text:?} for a timeline"))?),
        in_recovery,
        position: lsn(position.as_deref())?,
        next_xid: number(xid.as_deref())?,
        started: epoch(started.as_deref().unwrap_or_default())?,
        databases: number(databases.as_deref())?,
    })
}

fn tablespaces(session: &mut Session) -> anyhow::Result<Vec<Tablespace>> {
    let rows = session.rows(
        "SELECT oid, spcname, pg_tablespace_location(oid) FROM pg_tablespace \
         WHERE spcname NOT IN ('pg_default', 'pg_global') ORDER BY oid",
    )?;
    let tablespace = |row: Vec<Option<String>>| {
        let [oid, name, location] = <[Option<String>; 3]>::try_from(row).ok().context("a row has three columns")?;
        Ok(Tablespace {
            oid: number(oid.as_deref())?,
            name: name.unwrap_or_default(),
            location: location.unwrap_or_default().into(),
        })
    };
    rows.into_iter().map(tablespace).collect()
}
