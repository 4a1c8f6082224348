//! A server that runs on the data directory and whose process is not seen: in another container, or on another host that
//! shares the disk.
//!
//! A crash leaves the same pid file. What tells them apart is what a living server does: it answers, and it writes.

use std::path::Path;
use std::time::{Duration, SystemTime};

use common::app::Context;
use common::app::context::ConnectionSources;
use common::pg::SystemIdentifier;
use common::report::{Advice, Cancel};
use common::server::{self, PidFile, Postmaster, Probe, probe};
use common::sys::clock::{Deadline, poll};

use crate::cli::Cli;

/// Files that nobody has touched for this long are not waited for.
const QUIET: Duration = Duration::from_mins(10);

/// How long a directory that was written to lately is watched.
const WATCH: Duration = Duration::from_millis(1500);

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(100);

/// Refuses when a server works on the data directory out of sight. `server` is the one that is seen. Answers what there
/// is to say of a pid file that nobody stands behind.
pub(crate) fn refuse(
    pgdata: &Path,
    system: SystemIdentifier,
    server: Option<&Postmaster>,
    cli: &Cli,
    ctx: &Context,
) -> anyhow::Result<Option<String>> {
    if server.is_some() || !pgdata.exists() {
        return Ok(None);
    }
    let orphans = server::processes(pgdata)?;
    if !orphans.is_empty() {
        let pids: Vec<String> = orphans.iter().map(ToString::to_string).collect();
        return Err(Advice::refused(format!(
            "processes of a server that is gone still work in {}: {}",
            pgdata.display(),
            pids.join(", ")
        ))
        .hint("wait until they have ended, or end them with kill -TERM")
        .into());
    }
    let text = std::fs::read_to_string(pgdata.join("postmaster.pid")).unwrap_or_default();
    let Ok(file) = PidFile::parse(&text) else { return Ok(None) };
    if answers(&file, system, cli, ctx)? || changes(ctx.clock.now().into(), || last_written(pgdata), &ctx.cancel)? {
        return Err(Advice::refused(format!(
            "a server works in {}, and its process {} is not seen here: it runs in another container or on another host",
            pgdata.display(),
            file.pid
        ))
        .hint("stop it where it runs")
        .into());
    }
    Ok(Some(format!(
        "postmaster.pid names process {}, which is not here: a crash left it; be sure that its server does not run in \
         another container or on another host",
        file.pid
    )))
}

/// Whether the very server that wrote the file answers where the file says.
fn answers(file: &PidFile, system: SystemIdentifier, cli: &Cli, ctx: &Context) -> anyhow::Result<bool> {
    for host in file.hosts() {
        let sources = ConnectionSources {
            host: Some(host),
            port: file.port.map(|port| port.to_string()),
            ..ctx.connection_sources(&cli.server)
        };
        // Whoever answers and lets nobody in cannot be told from another server, and is not taken for this one.
        let Ok(Probe::Accepting(mut session)) = ctx.resolve(sources).and_then(|conninfo| probe(&conninfo, &ctx.cancel))
        else {
            continue;
        };
        let known = session.value(
            "SELECT system_identifier || ' ' || floor(extract(epoch FROM pg_postmaster_start_time())) \
             FROM pg_control_system()",
        );
        let expected = file.start_time.map(|start| format!("{system} {start}"));
        if known.ok().flatten().is_some_and(|known| Some(known) == expected) {
            return Ok(true);
        }
    }
    ctx.cancel.check()?;
    Ok(false)
}

/// Whether somebody writes, as the looks at the time of the last writing tell. What nobody has touched for long, now being
/// this late, is not watched.
fn changes(
    now: SystemTime,
    mut last_written: impl FnMut() -> Option<SystemTime>,
    cancel: &Cancel,
) -> anyhow::Result<bool> {
    let Some(before) = last_written() else { return Ok(false) };
    // A clock that went back makes files of the future; they are watched too.
    if now.duration_since(before).is_ok_and(|age| age > QUIET) {
        return Ok(false);
    }
    let changed = poll(Deadline::after(WATCH), PAUSE, cancel, || Ok((last_written() != Some(before)).then_some(())))?;
    Ok(changed.is_some())
}

/// When something was last written that every busy server writes.
fn last_written(pgdata: &Path) -> Option<SystemTime> {
    let wal = std::fs::read_dir(pgdata.join("pg_wal")).into_iter().flatten().flatten().map(|entry| entry.path());
    let files = wal.chain(["global/pg_control", "postmaster.pid"].map(|name| pgdata.join(name)));
    files.filter_map(|path| path.metadata().ok()?.modified().ok()).max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn whoever_writes_is_seen() {
        let (now, cancel) = (SystemTime::UNIX_EPOCH + QUIET * 2, Cancel::default());
        let second = Duration::from_secs(1);
        let seen = |times: &[Option<SystemTime>]| {
            let mut times = times.iter().copied().chain(std::iter::repeat(times[times.len() - 1]));
            changes(now, || times.next().unwrap(), &cancel).unwrap()
        };
        assert!(!seen(&[None]));
        assert!(!seen(&[Some(now)]));
        assert!(!seen(&[Some(now + second)]));
        assert!(seen(&[Some(now - second), Some(now - second), Some(now)]));
        assert!(!seen(&[Some(now - QUIET - second), Some(now)]), "it was not watched");
    }

    #[test]
    fn the_last_writing_is_that_of_wal_or_control_file() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(last_written(dir.path()), None);
        for folder in ["pg_wal", "global"] {
            std::fs::create_dir(dir.path().join(folder)).unwrap();
        }
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        for (name, time) in [("pg_wal/000000010000000000000001", 5), ("global/pg_control", 7), ("PG_VERSION", 9)] {
            File::create(dir.path().join(name)).unwrap().set_modified(at(time)).unwrap();
        }
        assert_eq!(last_written(dir.path()), Some(at(7)));
    }
}
