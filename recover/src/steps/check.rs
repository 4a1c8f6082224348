//! Step 1: proves the plan; touches nothing.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use common::app::Context;
use common::app::context::ConnectionSources;
use common::archive::{Repository, inspect, segments};
use common::pg::exclusions::tablespace_version_directory;
use common::pg::{ArchiveName, WalSegmentName};
use common::report::{Advice, message_of};
use common::restore::target::Target;
use common::server::backup::switch_wal;
use common::server::{Conninfo, PidFile, Postmaster, Session, refuse_path};
use common::sys::clock::{Deadline, poll};
use common::sys::space;
use common::units::ByteCount;

use super::{Site, config_files, configure, surroundings, target};
use crate::cli::{Cli, Role, RunArgs};
use crate::facts::{Facts, OldCluster};
use crate::place::is_mount_point;
use crate::plan::Decision;

/// Variables of libpq that say which port a server has.
const PORT_VARIABLES: [&str; 2] = ["PGPORT", "PGSERVICE"];

/// Between two looks at the repository.
const ARRIVAL_PAUSE: Duration = Duration::from_millis(100);

/// Room that replay needs beside the backup itself, in segments.
const SPARE_SEGMENTS: u64 = 16;

/// Asks a running server to close its current WAL segment and waits, bounded, until it has arrived in the repository.
/// `false` when no server runs, or one that archives nothing. What does not arrive is taken from its `pg_wal` after the
/// stop.
pub(crate) fn bring_in_the_tail(
    facts: &Facts,
    repository: &Repository,
    cli: &Cli,
    ctx: &Context,
) -> anyhow::Result<bool> {
    let Some(origin) = &facts.origin else { return Ok(false) };
    let Some(server) = &origin.server else { return Ok(false) };
    let control = &origin.control;
    let told = |err: &anyhow::Error| {
        tracing::warn!("the running server's last WAL is not archived first: {}", message_of(err));
    };
    let switched = own_connection(server, cli, ctx)
        .and_then(|conninfo| Session::connect(&conninfo, &ctx.cancel))
        .and_then(|mut session| archives(&mut session)?.then(|| switch_wal(&mut session)).transpose());
    ctx.cancel.check()?;
    let end = match switched {
        Ok(Some(end)) => end,
        Ok(None) => return Ok(false),
        Err(err) => {
            told(&err);
            return Ok(false);
        }
    };
    let last = WalSegmentName::before(control.checkpoint_timeline, end, control.segment_size);
    let arrived = poll(Deadline::after(ctx.settings.archive_timeout), ARRIVAL_PAUSE, &ctx.cancel, || {
        Ok(segments::locate(repository, facts.system, ArchiveName::Segment(last))?)
    })?;
    if arrived.is_none() {
        tracing::warn!("{last} did not arrive in {}; it is taken from the server's pg_wal", repository.describe());
    }
    Ok(true)
}

/// Whether the server hands its WAL to anybody. A copy does not.
fn archives(session: &mut Session) -> anyhow::Result<bool> {
    let answer = session.value(
        "SELECT current_setting('archive_mode') <> 'off' AND (current_setting('archive_command') NOT IN ('', '(disabled)') \
         OR coalesce(current_setting('archive_library', true), '') <> '')",
    )?;
    Ok(answer.as_deref() == Some("t"))
}

/// How the server that runs now is reached: where it says itself that it listens. A port on the command line is the
/// recovered server's, which is another one's where a copy is made.
pub(crate) fn own_connection(server: &Postmaster, cli: &Cli, ctx: &Context) -> anyhow::Result<Conninfo> {
    let given = ctx.connection_sources(&cli.server);
    let host = server.file.hosts().next();
    // A server that has only begun to start has not written all of its file.
    if host.is_none() && given.host.is_none() && server.file.status.is_some() {
        return Err(listens_nowhere(&server.file));
    }
    ctx.resolve(ConnectionSources {
        port: server.file.port.map(|port| port.to_string()),
        host: host.or_else(|| given.host.clone()),
        ..given
    })
}

/// How the server with this pid file is reached: by what the user said, else where it says itself that it listens. Its
/// port is known, so nobody must name that.
pub(crate) fn connection(file: Option<&PidFile>, cli: &Cli, ctx: &Context) -> anyhow::Result<Conninfo> {
    let mut sources = ctx.connection_sources(&cli.server);
    let is_told = sources.configured.is_some() || sources.dbname.as_deref().is_some_and(Conninfo::is_connection_string);
    if let Some(file) = file.filter(|_| !is_told) {
        let hosts: Vec<String> = file.hosts().collect();
        // Who names one of the server's own hosts means this server, whatever port a variable names.
        let is_own = sources.host.as_ref().is_none_or(|host| hosts.contains(host));
        if is_own || PORT_VARIABLES.iter().all(|name| ctx.environment.get(name).is_none()) {
            sources.port = sources.port.or_else(|| file.port.map(|port| port.to_string()));
        }
        if sources.host.is_none() {
            sources.host = hosts.into_iter().next();
            if sources.host.is_none() && file.status.is_some() {
                return Err(listens_nowhere(file));
            }
        }
    }
    ctx.resolve(sources)
}

/// What there is to say of a server that nobody can reach.
fn listens_nowhere(file: &PidFile) -> anyhow::Error {
    let pgdata = file.data_directory.display();
    Advice::failed(format!("the server on {pgdata} has neither a socket nor a TCP address"))
        .hint("set unix_socket_directories or listen_addresses and restart it")
        .into()
}

/// Proves that the plan can be carried out; answers what was proved, in words. What the plan shall tell the user besides
/// is added to it.
pub(crate) fn prove(facts: &Facts, decision: &mut Decision, args: &RunArgs, site: &Site<'_>) -> anyhow::Result<String> {
    surroundings::look(facts, &mut decision.plan, args, site)?;
    let Decision { plan, backup, .. } = &*decision;
    objects_are_there(decision, site)?;
    let found = target::locate(facts, decision, site)?;
    if plan.replaces {
        can_be_set_aside(&plan.pgdata)?;
    }
    if let Some(pg_wal) = plan.pg_wal.as_deref().filter(|pg_wal| pg_wal.exists()) {
        can_be_set_aside(pg_wal)?;
    }
    if plan.starts {
        refuse_path(&plan.pgdata)?;
    }
    configure::restore_command(Some(&site.place.wal_plan()), site.ctx)?;
    if let Some(port) = plan.port {
        socket_path_fits(&plan.pgdata, port, site.place_option())?;
    }
    if plan.role == Role::Copy && facts.directory.cluster().is_some() {
        return Err(Advice::refused("a copy would replace a cluster").into());
    }
    if let Some(file) = plan.config_file.as_ref().filter(|file| !file.exists()) {
        return Err(Advice::refused(format!("the server's configuration file {} is not there", file.display()))
            .hint(format!(
                "the backup holds it: {}/{}config.tar.{}; unpack it with tar first",
                site.repository.describe(),
                site.repository.layout().backup(backup.id),
                backup.compression.codec.suffix()
            ))
            .into());
    }
    tablespace_places_are_free(decision, facts.directory.cluster())?;
    room(decision, site)?;
    let wal = format!("WAL {} to {} along timeline {}", plan.wal_from, plan.wal_reaches, plan.timeline);
    let text = format!("{} is whole, {wal}", plan.backup);
    decision.plan.demands = decision.plan.demands.and(found.demands);
    decision.plan.wal_ends = found.wal_ends;
    decision.plan.grows = found.grows;
    if let Some(arrival) = found.arrival {
        decision.plan.arrive(arrival);
    }
    if decision.plan.replaces {
        decision.plan.config_differs = config_files::differing(&site.repository, &decision.backup, &site.place.pgdata)?;
    }
    Ok(text)
}

/// Reads every byte of the backup, and of the archived WAL up to the target; answers what was proved, in words.
pub(crate) fn prove_deeply(decision: &Decision, jobs: usize, site: &Site<'_>) -> anyhow::Result<String> {
    let Decision { plan, backup, route, .. } = decision;
    let (progress, cancel) = (&*site.ctx.progress, &site.ctx.cancel);
    let end = match (&plan.arrival, &plan.target) {
        (Some(arrival), _) => arrival.at,
        (None, Target::Immediate) => backup.span.stop_lsn,
        (None, _) => plan.archive_reaches,
    };
    let mut findings = inspect::backup(&site.repository, backup, inspect::Depth::Standard, jobs, progress, cancel)?;
    findings.extend(inspect::wal_along(&site.repository, backup, route, end, jobs, progress, cancel)?);
    // Pages that were bad on the server already are in the plan's warnings.
    findings.retain(|finding| finding.kind != inspect::Kind::BadPages);
    let Some(first) = findings.first() else {
        return Ok(format!("every byte of {} and of the archived WAL up to {end} is right", backup.id));
    };
    let others = match findings.len() - 1 {
        0 => String::new(),
        count => format!(", and {count} more findings"),
    };
    Err(Advice::refused(format!("{}: {}{others}", first.object, first.what))
        .hint("verify backup lists everything; choose another backup with --backup ID, or an earlier target")
        .into())
}

/// Every object of the backup is there with the size of its record; manifest and index are those that were written.
fn objects_are_there(decision: &Decision, site: &Site<'_>) -> anyhow::Result<()> {
    let (progress, cancel) = (&*site.ctx.progress, &site.ctx.cancel);
    let findings = inspect::backup(&site.repository, &decision.backup, inspect::Depth::Quick, 1, progress, cancel)?;
    // Pages that were bad on the server already are in the plan's warnings; they can be restored as they were.
    let mut first = findings.into_iter().find(|finding| finding.kind != inspect::Kind::BadPages);
    if first.is_none() {
        first = inspect::documents(&site.repository, &decision.backup, cancel)?;
    }
    match first {
        None => Ok(()),
        Some(first) => {
            Err(Advice::refused(format!("{} is damaged: {}: {}", decision.backup.id, first.object, first.what))
                .hint("choose another backup with --backup ID; recover list shows them")
                .into())
        }
    }
}

/// A copy's socket lies in its data directory, and the system takes no path longer than this for one (`sun_path`).
fn socket_path_fits(pgdata: &Path, port: u16, option: &str) -> anyhow::Result<()> {
    const SOCKET_PATH_BYTES_MAX: usize = 107;
    let socket = pgdata.join(format!(".s.PGSQL.{port}"));
    let length = socket.as_os_str().len();
    anyhow::ensure!(
        length <= SOCKET_PATH_BYTES_MAX,
        Advice::refused(format!(
            "{} is too long for a copy: its socket's path would have {length} bytes, {SOCKET_PATH_BYTES_MAX} are possible",
            pgdata.display()
        ))
        .hint(format!("name a directory with a shorter path with {option}"))
    );
    Ok(())
}

const RENAMED_WITHIN: &str = "a directory is renamed within it: run recover as a user that may";

pub(crate) fn writable(directory: &Path, hint: &str) -> anyhow::Result<()> {
    common::sys::durable::TemporaryFile::create_in(directory, 0o600)
        .map(drop)
        .with_context(|| Advice::refused(format!("nothing can be written into {}", directory.display())).hint(hint))
}

/// The backup's folders of each tablespace must not be there yet, except where they are the old cluster's, which is set
/// aside with them: anything else there may be the files of a server that runs.
fn tablespace_places_are_free(decision: &Decision, old: Option<&OldCluster>) -> anyhow::Result<()> {
    let Decision { plan, backup, .. } = decision;
    let version = tablespace_version_directory(plan.major, backup.source.catalog_version);
    for (_, place) in &plan.tablespaces {
        let occupied = std::fs::read_dir(place).is_ok_and(|mut entries| entries.next().is_some());
        if occupied && plan.role == Role::Copy {
            return Err(Advice::refused(format!("{} is not empty", place.display()))
                .hint("a copy's tablespace needs a directory that is empty or does not exist")
                .into());
        }
        writable(
            existing(place),
            "a tablespace goes there: make its directory for the user that runs PostgreSQL, or name another with -T OLD=NEW",
        )?;
        let moves_aside = old.is_some_and(|old| old.tablespace_links.iter().any(|(_, known)| known == place));
        let folder = place.join(&version);
        if !moves_aside && folder.exists() {
            return Err(Advice::refused(format!(
                "{} is there and is not a tablespace of the cluster in {}",
                folder.display(),
                plan.pgdata.display()
            ))
            .hint(format!(
                "if no server uses it, move it away; else name another place with -T {}=NEW",
                place.display()
            ))
            .into());
        }
    }
    Ok(())
}

/// A directory is renamed within the one that it lies in; a mount point is emptied into a folder of its own.
fn can_be_set_aside(path: &Path) -> anyhow::Result<()> {
    let parent = path.parent().filter(|_| !is_mount_point(path));
    writable(parent.unwrap_or(path), RENAMED_WITHIN)
}

/// Room for the whole backup, and for some WAL: what is there already stays until the user removes it.
fn room(decision: &Decision, site: &Site<'_>) -> anyhow::Result<()> {
    let backup = &decision.backup;
    let sum = |sum: u64, bytes: u64| sum.saturating_add(bytes);
    let outside = backup.tablespaces.iter().map(|tablespace| tablespace.bytes).fold(0, sum);
    let spare = SPARE_SEGMENTS * backup.source.segment_size.bytes();
    let pg_wal = decision.plan.pg_wal.clone().unwrap_or_else(|| site.place.pgdata.clone());
    let mut needs = vec![(site.place.pgdata.clone(), backup.plain_bytes.saturating_sub(outside)), (pg_wal, spare)];
    for (oid, location) in &decision.plan.tablespaces {
        let bytes = backup.tablespaces.iter().find(|tablespace| tablespace.oid == *oid).map_or(0, |found| found.bytes);
        needs.push((location.clone(), bytes));
    }
    for index in 0..needs.len() {
        let Some((path, _)) = needs.get(index) else { break };
        let shares = |other: &Path| space::same_file_system(existing(path), existing(other)).unwrap_or(false);
        let needed = needs.iter().filter(|(other, _)| shares(other)).map(|(_, bytes)| *bytes).fold(0, sum);
        let free = space::available(path).with_context(|| format!("measure the room at {}", path.display()))?;
        if free < needed {
            return Err(Advice::refused(format!(
                "{} has room for {}, and the backup needs {} there",
                path.display(),
                ByteCount(free),
                ByteCount(needed)
            ))
            .hint(if site.is_scratch() {
                "make room, or name a directory on another file system with --scratch DIR"
            } else {
                "the old cluster is kept until you remove it: make room, or recover to another file system with -D"
            })
            .into());
        }
    }
    Ok(())
}

fn existing(path: &Path) -> &Path {
    path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_needs_a_short_path() {
        let directory = |length: usize| std::path::PathBuf::from(format!("/{}", "x".repeat(length - 1)));
        // "/.s.PGSQL.5432" takes 14 bytes.
        assert!(socket_path_fits(&directory(93), 5432, "-D").is_ok());
        assert!(socket_path_fits(&directory(94), 5432, "-D").is_err());
    }
}
