//! Lets `pg_dump` write what was found.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use common::app::Context;
use common::report::Advice;
use common::server::{Conninfo, Session, quote_literal};
use common::sys::durable::TemporaryFile;
use common::sys::process;

use crate::cli::Format;

/// The longest that a dump may take.
const DUMP_WAIT_MAX: Duration = Duration::from_hours(30 * 24);

/// How long `pg_dump` waits for a lock that somebody holds; nobody should.
const LOCK_WAIT_MAX: Duration = Duration::from_mins(1);

/// How many lines of what `pg_dump` says are passed on.
const LINES_SHOWN_MAX: usize = 20;

/// The arguments of `pg_dump`: the database by its parameters, and one pattern for each relation; none means all.
fn arguments(conninfo: &Conninfo, patterns: &[Vec<u8>], format: Format) -> Vec<OsString> {
    let letter = match format {
        Format::Plain => "p",
        Format::Custom => "c",
    };
    let lock_wait = format!("--lock-wait-timeout={}", LOCK_WAIT_MAX.as_millis());
    let mut arguments: Vec<OsString> = ["-w", "-F", letter, "--strict-names", &lock_wait].map(OsString::from).to_vec();
    for pattern in patterns {
        arguments.push("-t".into());
        arguments.push(OsString::from_vec(pattern.clone()));
    }
    arguments.push("-d".into());
    arguments.push(conninfo.to_string().into());
    arguments
}

/// Writes the dump into `file`; answers its size. Nothing of the environment changes which server is asked, or how.
pub(super) fn write(
    pg_dump: &Path,
    conninfo: &Conninfo,
    patterns: &[Vec<u8>],
    format: Format,
    file: &TemporaryFile,
    ctx: &Context,
) -> anyhow::Result<u64> {
    let writing = || format!("write {}", file.path().display());
    let mut command = Command::new(pg_dump);
    command.args(arguments(conninfo, patterns, format));
    for name in ctx.environment.variables().keys().filter(|name| is_of_libpq(name)) {
        command.env_remove(name);
    }
    let out = Stdio::from(file.file().try_clone().with_context(writing)?);
    let size = || file.file().metadata().map(|metadata| metadata.len());
    ctx.progress.begin("dump", None);
    let mut seen = 0;
    let mut look = || {
        let now = size().unwrap_or(seen);
        ctx.progress.advance(now.saturating_sub(seen));
        seen = now;
    };
    let finished = process::run_into(command, out, DUMP_WAIT_MAX, &ctx.cancel, &mut look)?;
    ctx.progress.end();
    let said: Vec<&str> =
        finished.stderr.lines().filter(|line| !line.trim().is_empty()).take(LINES_SHOWN_MAX).collect();
    anyhow::ensure!(finished.status.success(), Advice::failed(format!("pg_dump did not succeed: {}", said.join("; "))));
    for line in said {
        tracing::warn!("{line}");
    }
    size().with_context(writing)
}

fn is_of_libpq(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b"PG")
}

/// Rolls back what was prepared in this database and neither committed nor rolled back at the moment: its changes are not
/// part of that, and its locks would hold the dump up. Answers their names.
pub(super) fn roll_back_prepared(session: &mut Session) -> anyhow::Result<Vec<String>> {
    let rows =
        session.rows("SELECT gid FROM pg_prepared_xacts WHERE database = current_database() ORDER BY prepared")?;
    let names: Vec<String> = rows.into_iter().flatten().flatten().collect();
    for name in &names {
        session
            .execute(&format!("ROLLBACK PREPARED {}", quote_literal(name)))
            .with_context(|| format!("roll back the prepared transaction {name:?}"))?;
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_literal() {
        let conninfo = Conninfo::local(Path::new("/tmp/a b"), 5432, "postgres", "dbname=x");
        let arguments = arguments(&conninfo, &[b"\"s\".\"x*\"".to_vec()], Format::Custom);
        let text: Vec<_> = arguments.iter().map(|word| word.to_str().unwrap()).collect();
        assert_eq!(text[1..3], ["-F", "c"]);
        assert_eq!(text[5..8], ["-t", "\"s\".\"x*\"", "-d"]);
        assert_eq!(Conninfo::parse(text[8]).unwrap().dbname(), Some("dbname=x"));
    }

    #[test]
    fn libpq_hears_nothing_of_the_environment() {
        assert!(is_of_libpq(OsStr::new("PGHOST")) && is_of_libpq(OsStr::new("PGTARGETSESSIONATTRS")));
        assert!(!is_of_libpq(OsStr::new("PATH")));
    }
}
