//! The low-level backup interface: start, stop, and the switches of WAL that a backup waits for.
//!
//! The server ties a backup to the session that started it. The same [`Session`] must stay open until the stop: when
//! it ends before, the server aborts the backup and the copied files are worth nothing.
//! Functions of `src/backend/access/transam/xlogfuncs.c`; 14 has them under other names and arguments than 15 to 18.

use anyhow::Context;
use chrono::{DateTime, Utc};

use super::session::{Session, SqlError, quote_literal};
use crate::pg::Lsn;
use crate::report::Advice;

/// A backup has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Started {
    /// Where replay of the copied files begins (the redo position of the backup's checkpoint).
    pub start: Lsn,
}

/// A backup has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stopped {
    /// Where the copied files are consistent. The last segment that the backup needs holds the byte before it.
    pub stop: Lsn,
    /// The file `backup_label`, byte for byte.
    pub label_file: Vec<u8>,
    /// The file `tablespace_map`, byte for byte; none when there is no tablespace.
    pub tablespace_map: Option<Vec<u8>>,
}

/// What the archiver says of itself (`pg_stat_archiver`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ArchiverStatus {
    /// Files archived since the statistics were reset.
    pub archived_count: u64,
    /// The last file that was archived.
    pub last_archived: Option<String>,
    /// When that was.
    pub last_archived_time: Option<DateTime<Utc>>,
    /// Failed attempts since the statistics were reset.
    pub failed_count: u64,
    /// The file of the last failed attempt.
    pub last_failed: Option<String>,
    /// When that was.
    pub last_failed_time: Option<DateTime<Utc>>,
}

impl ArchiverStatus {
    /// Whether the last thing that the archiver did was to fail.
    pub fn is_failing(&self) -> bool {
        let (failed, archived) = (self.last_failed_time, self.last_archived_time);
        failed.is_some_and(|failed| archived.is_none_or(|archived| failed > archived))
    }
}

/// Begins a backup; from here on the files of the data directory may be copied.
///
/// The server performs a checkpoint first: at once when `fast`, spread over minutes otherwise, during which the call
/// blocks and can be interrupted. The session must stay open until [`stop_backup`].
pub fn start_backup(session: &mut Session, label: &str, fast: bool) -> anyhow::Result<Started> {
    let label = quote_literal(label);
    let sql = match session.version().major() {
        14 => format!("SELECT pg_start_backup({label}, {fast}, false)"),
        _ => format!("SELECT pg_backup_start({label}, {fast})"),
    };
    let answer = permitted(session.value(&sql), "pg_backup_start").context("start the backup")?;
    Ok(Started { start: lsn(answer.as_deref())? })
}

/// Ends the backup that this session started. It does not wait for the archive: that is for the caller to watch, who
/// knows which archive counts.
pub fn stop_backup(session: &mut Session) -> anyhow::Result<Stopped> {
    let function = match session.version().major() {
        14 => "pg_stop_backup(false, false)",
        _ => "pg_backup_stop(false)",
    };
    // As bytes: the files hold paths, which need not be text in any encoding.
    let sql = format!(
        "SELECT lsn, encode(convert_to(labelfile, getdatabaseencoding()), 'hex'), \
         encode(convert_to(spcmapfile, getdatabaseencoding()), 'hex') FROM {function}"
    );
    let rows = permitted(session.rows(&sql), "pg_backup_stop").context("stop the backup")?;
    let Some([stop, label, map]) = rows.first().map(Vec::as_slice) else {
        anyhow::bail!("stop the backup: the server gave no answer");
    };
    let bytes = |hexadecimal: &Option<String>| hex::decode(hexadecimal.as_deref().unwrap_or_default());
    let map = bytes(map).context("decode tablespace_map")?;
    Ok(Stopped {
        stop: lsn(stop.as_deref())?,
        label_file: bytes(label).context("decode backup_label")?,
        tablespace_map: Some(map).filter(|map| !map.is_empty()),
    })
}

/// Ends the current WAL segment, also of an idle server, by writing a record first. Answers the position up to which
/// WAL is in finished segments: the segment that holds the byte before it is the newest that must be archived now.
///
/// It works on a primary only.
pub fn switch_wal(session: &mut Session) -> anyhow::Result<Lsn> {
    let written = session.execute("SELECT pg_logical_emit_message(false, 'holdfast', '')");
    if written.as_ref().is_err_and(|error| SqlError::find(error).is_some()) {
        // Somebody revoked it; a restore point is a record too, and a failure of this one counts.
        create_restore_point(session, "holdfast")?;
    } else {
        written?;
    }
    let answer =
        permitted(session.value("SELECT pg_switch_wal()"), "pg_switch_wal").context("switch the WAL segment")?;
    lsn(answer.as_deref())
}

/// Writes a named restore point and answers its position. Names need not be unique. It works on a primary only.
pub fn create_restore_point(session: &mut Session, name: &str) -> anyhow::Result<Lsn> {
    let sql = format!("SELECT pg_create_restore_point({})", quote_literal(name));
    let answer = permitted(session.value(&sql), "pg_create_restore_point").context("create a restore point")?;
    lsn(answer.as_deref())
}

/// What the archiver did last.
pub fn archiver_status(session: &mut Session) -> anyhow::Result<ArchiverStatus> {
    let rows = session.rows(
        "SELECT archived_count, last_archived_wal, extract(epoch FROM last_archived_time)::numeric(20, 6), \
         failed_count, last_failed_wal, extract(epoch FROM last_failed_time)::numeric(20, 6) FROM pg_stat_archiver",
    )?;
    let Some([archived, wal, time, failed, failed_wal, failed_time]) = rows.first().map(Vec::as_slice) else {
        anyhow::bail!("read pg_stat_archiver: the server gave no answer");
    };
    Ok(ArchiverStatus {
        archived_count: number(archived.as_deref())?,
        last_archived: wal.clone(),
        last_archived_time: time.as_deref().map(epoch).transpose()?,
        failed_count: number(failed.as_deref())?,
        last_failed: failed_wal.clone(),
        last_failed_time: failed_time.as_deref().map(epoch).transpose()?,
    })
}

/// Adds what to grant when the server said that a permission is missing.
fn permitted<T>(result: anyhow::Result<T>, function: &str) -> anyhow::Result<T> {
    result.map_err(|error| match SqlError::find(&error) {
        Some(refusal) if refusal.state == SqlError::INSUFFICIENT_PRIVILEGE => {
            let message = format!("the role may not call {function}");
            let hint = "connect as a superuser, or grant EXECUTE on that function to the role";
            error.context(Advice::failed(message).hint(hint))
        }
        _ => error,
    })
}

/// A position as the server prints it.
pub(super) fn lsn(text: Option<&str>) -> anyhow::Result<Lsn> {
    let text = text.context("the server gave no WAL position")?;
    Ok(text.parse()?)
}

/// A whole number as the server prints it.
pub(super) fn number<T: std::str::FromStr>(text: Option<&str>) -> anyhow::Result<T> {
    let text = text.context("the server gave no number")?;
    text.parse().ok().with_context(|| format!("the server gave {text:?} for a number"))
}

/// Seconds since 1970 with microseconds, as the server prints them.
pub(super) fn epoch(text: &str) -> anyhow::Result<DateTime<Utc>> {
    let moment = text.split_once('.').and_then(|(seconds, fraction)| {
        let micros: i64 = format!("{fraction:0<6}").get(..6)?.parse().ok()?;
        DateTime::from_timestamp_micros(seconds.parse::<i64>().ok()?.checked_mul(1_000_000)?.checked_add(micros)?)
    });
    moment.with_context(|| format!("the server gave {text:?} for a time"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    #[rstest]
    #[case("0.000000", "1970-01-01T00:00:00Z")]
    #[case("1700000000.250000", "2023-11-14T22:13:20.250Z")]
    #[case("1700000000.5", "2023-11-14T22:13:20.500Z")]
    fn reads_times(#[case] text: &str, #[case] expected: &str) {
        assert_eq!(epoch(text).unwrap(), expected.parse::<DateTime<Utc>>().unwrap());
    }

    #[rstest]
    #[case(None, None, false)]
    #[case(None, Some(1), false)]
    #[case(Some(1), None, true)]
    #[case(Some(1), Some(2), false)]
    #[case(Some(2), Some(1), true)]
    fn an_archiver_fails_when_that_was_its_last_deed(
        #[case] failed: Option<i64>,
        #[case] archived: Option<i64>,
        #[case] expected: bool,
    ) {
        let moment = |seconds| DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap();
        let status = ArchiverStatus {
            last_failed_time: failed.map(moment),
            last_archived_time: archived.map(moment),
            ..ArchiverStatus::default()
        };
        assert_eq!(status.is_failing(), expected);
    }

    proptest! {
        #[test]
        fn never_panics(text in ".*", likely in "-?[0-9]{0,20}\\.[0-9\u{e4}]{0,8}") {
            drop(epoch(&text));
            drop(epoch(&likely));
        }
    }
}
