//! Small questions to the server while a backup is taken.

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use common::pg::Lsn;
use common::report::Advice;
use common::server::Session;

/// The server while its files are copied.
pub(crate) trait Server {
    /// How far it has written or, in recovery, replayed.
    fn position(&mut self) -> anyhow::Result<Lsn>;

    /// An error once the session has ended: the server has then given up the backup.
    fn require_open(&self) -> anyhow::Result<()>;
}

impl Server for Session {
    fn position(&mut self) -> anyhow::Result<Lsn> {
        let sql =
            "SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END";
        let answer = self.value(sql)?.context("the server gave no WAL position")?;
        Ok(answer.parse()?)
    }

    fn require_open(&self) -> anyhow::Result<()> {
        if self.is_closed() {
            return Err(Advice::failed("the server ended the session, and with it the backup")
                .hint("look into the server's log for the reason, then take the backup again")
                .into());
        }
        Ok(())
    }
}

/// The server's clock.
pub(crate) fn now(session: &mut Session) -> anyhow::Result<DateTime<Utc>> {
    let sql = r#"SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"#;
    let answer = session.value(sql)?.context("the server gave no time")?;
    let time =
        DateTime::parse_from_rfc3339(&answer).with_context(|| format!("the server gave {answer:?} for a time"))?;
    Ok(time.to_utc())
}

/// The first transaction id such that it and all later ones had not ended yet.
pub(crate) fn next_xid(session: &mut Session) -> anyhow::Result<u64> {
    let answer = session.value("SELECT pg_snapshot_xmax(pg_current_snapshot())")?;
    let answer = answer.context("the server gave no transaction id")?;
    answer.parse().with_context(|| format!("the server gave {answer:?} for a transaction id"))
}

/// The SQL names of all tablespaces, by object id.
pub(crate) fn tablespace_names(session: &mut Session) -> anyhow::Result<Vec<(u32, String)>> {
    let rows = session.stored(&["oid", "spcname"], "pg_tablespace").context("list the tablespaces")?;
    let named = |row: Vec<Vec<u8>>| match row.as_slice() {
        [oid, name] => Some((std::str::from_utf8(oid).ok()?.parse().ok()?, String::from_utf8_lossy(name).into_owned())),
        _ => None,
    };
    Ok(rows.into_iter().filter_map(named).collect())
}
