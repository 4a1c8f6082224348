//! Takes one backup, from the claim of its name to its commit record.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use common::app::{Context, Outcome, ServerArgs};
use common::archive::backups::Claim;
use common::archive::inspect::{self, Depth, Kind};
use common::arrival::{self, Watch};
use common::pg::{BackupLabel, tablespace_map};
use common::repo::index::RelativePath;
use common::repo::records::{BackupRecord, DamagedPage, PartRecord, Source, Span, Tablespace, WalPosition};
use common::report::{Advice, Silent};
use common::server::backup::{Started, Stopped, start_backup, stop_backup};
use common::server::{self, Session};
use common::sys::clock::Stopwatch;
use common::sys::identity::host_name;

use crate::catalog::Catalog;
use crate::cli::{Checkpoint, TakeArgs};
use crate::copy::{CopiedPart, DAMAGED_PAGES_NAMED_MAX, Means, copy};
use crate::object::Target;
use crate::pages::PageRules;
use crate::preflight::{self, Subject};
use crate::scan::{LinkedTablespace, Place, Scan, scan};
use crate::server_state::Server as _;
use crate::{config_files, hole, last_part, plan, probe, server_state, summary};

/// The most workers when nobody says how many.
const JOBS_USUAL_MAX: usize = 4;

/// Takes a backup and prints its id. On an error nothing is published and what was written is removed.
pub(crate) fn take(args: &TakeArgs, server: &ServerArgs, ctx: &Context) -> anyhow::Result<Outcome> {
    let watch = Stopwatch::start();
    let mut subject = preflight::check(server, args, ctx)?;
    let repository = subject.repository.clone();
    let archive = Watch {
        repository: &repository,
        system: subject.identity.system_identifier,
        size: subject.identity.segment_size,
        standby: subject.facts.in_recovery,
        patience: args.archive_timeout.unwrap_or(ctx.settings.archive_timeout),
        cancel: &ctx.cancel,
    };
    probe::probe(&mut subject, archive)?;
    let claim = Claim::take(&repository, &ctx.clock, &host_name())?;
    let id = claim.id();
    let made = Attempt { args, ctx, claim: &claim, target: Target { repository: &repository, id } }
        .make(&mut subject, archive);
    match made {
        Ok(record) => {
            claim.publish(&record).with_context(|| format!("publish {id}"))?;
            hole::tell(&record, &repository);
            summary::report(&record, &repository.describe(), watch.elapsed(), ctx)
        }
        Err(err) => {
            ctx.progress.end();
            if let Err(left) = claim.give_up() {
                tracing::warn!("what was written of {id} could not be removed, retention will: {left:#}");
            }
            Err(err.context(format!("{id} was not made, nothing was published")))
        }
    }
}

/// One attempt at a backup.
struct Attempt<'a> {
    args: &'a TakeArgs,
    ctx: &'a Context,
    claim: &'a Claim,
    target: Target<'a>,
}

/// What is known of the parts that are written.
#[derive(Debug, Default)]
struct Copied {
    parts: Vec<PartRecord>,
    damaged: Vec<DamagedPage>,
    damaged_count: u64,
    /// Bytes of each tablespace's files.
    tablespaces: BTreeMap<u32, u64>,
}

impl Copied {
    /// Takes note of a part and puts it into the catalog.
    fn take(&mut self, part: CopiedPart, catalog: &mut Catalog<'_>) -> anyhow::Result<()> {
        for file in &part.files {
            if let Some(oid) = tablespace_of(&file.path) {
                *self.tablespaces.entry(oid).or_default() += file.size;
            }
        }
        self.parts.push(part.record);
        let room = DAMAGED_PAGES_NAMED_MAX.saturating_sub(self.damaged.len());
        self.damaged.extend(part.damaged.into_iter().take(room));
        self.damaged_count += part.damaged_count;
        catalog.add(part.files, part.frames)
    }
}

/// What the server said at the end of the backup.
struct Ending {
    label_file: Vec<u8>,
    span: Span,
}

impl Attempt<'_> {
    fn make(&self, subject: &mut Subject, archive: Watch<'_>) -> anyhow::Result<BackupRecord> {
        let started_at = server_state::now(&mut subject.session)?;
        let started = self.start(subject)?;
        let found = self.scan(subject)?;
        let linked = found.tablespaces.clone();
        let (major, system) = (subject.facts.version.major(), subject.identity.system_identifier);
        let mut catalog = Catalog::begin(self.target, major, system, &found.directories)?;
        let mut copied = Copied::default();
        let next_part = self.copy(found, subject, started, started_at, |part| copied.take(part, &mut catalog))?;

        let control = last_part::control_file(&subject.pgdata)?;
        let Ending { label_file, span } = stop(subject, started, started_at, &linked)?;
        let label = last_part::label_file(&label_file, started_at);
        copied.take(last_part::write(self.target, next_part, &[label, control])?, &mut catalog)?;

        let config = config_files::store(&subject.facts, &subject.pgdata, self.target)?;
        let written = catalog.finish(&span)?;
        wait_for_wal(subject, archive, &span)?;

        let objects = [Some(written.index), Some(written.manifest), config];
        let stored = objects.iter().flatten().map(|object| object.stored_bytes);
        let stored_bytes = stored.chain(copied.parts.iter().map(|part| part.stored_bytes)).sum();
        let record = BackupRecord {
            id: self.claim.id(),
            label: self.args.label().to_owned(),
            holdfast_version: env!("CARGO_PKG_VERSION").to_owned(),
            source: source(subject),
            span,
            tablespaces: named(&linked, &copied.tablespaces, &mut subject.session)?,
            compression: self.target.compression(),
            parts: copied.parts,
            index: written.index,
            manifest: written.manifest,
            config,
            files: written.files,
            plain_bytes: written.plain_bytes,
            stored_bytes,
            damaged_pages: copied.damaged,
            damaged_page_count: copied.damaged_count,
        };
        self.require_whole(&record)?;
        Ok(record)
    }

    /// The commit record must not promise what a full disk or a careless file system has cut short.
    fn require_whole(&self, record: &BackupRecord) -> anyhow::Result<()> {
        let (progress, cancel) = (&Silent, &self.ctx.cancel);
        let findings = inspect::backup(self.target.repository, record, Depth::Quick, 1, progress, cancel)?;
        match findings.into_iter().find(|finding| finding.kind != Kind::BadPages) {
            None => Ok(()),
            Some(finding) => anyhow::bail!("{} was written and now is wrong: {}", finding.object, finding.what),
        }
    }

    /// Begins the backup on the server. From here on its session must stay open.
    fn start(&self, subject: &mut Subject) -> anyhow::Result<Started> {
        let fast = self.args.checkpoint == Checkpoint::Fast;
        if !fast {
            tracing::info!("waiting for a spread checkpoint, which can take minutes; -c fast makes one at once");
        }
        let started = start_backup(&mut subject.session, self.args.label(), fast)?;
        self.claim.note_start(WalPosition { timeline: subject.facts.timeline, lsn: started.start });
        tracing::info!(
            "{} begins at {} on timeline {}, into {}",
            self.claim.id(),
            started.start,
            subject.facts.timeline,
            self.target.repository.describe()
        );
        Ok(started)
    }

    fn scan(&self, subject: &Subject) -> anyhow::Result<Scan> {
        let place = Place {
            pgdata: &subject.pgdata,
            major: subject.facts.version.major(),
            catalog_version: subject.control.catalog_version,
        };
        let found = scan(place, &self.ctx.cancel)?;
        for path in &found.special {
            tracing::warn!("{} is neither a file nor a directory and not in the backup", path.display());
        }
        Ok(found)
    }

    /// Copies everything that was found; answers the number of the part that comes next.
    fn copy(
        &self,
        found: Scan,
        subject: &mut Subject,
        started: Started,
        started_at: DateTime<Utc>,
        take: impl FnMut(CopiedPart) -> anyhow::Result<()>,
    ) -> anyhow::Result<u32> {
        let jobs = jobs(self.args, self.ctx);
        let total = found.files.iter().map(|file| file.size).sum();
        let parts = plan::parts(found.files, jobs);
        let next_part = parts.last().map_or(1, |part| part.number + 1);
        let pages = PageRules::new(&subject.control, started.start);
        let means = Means {
            pgdata: &subject.pgdata,
            target: self.target,
            directories: &found.directories,
            started: u64::try_from(started_at.timestamp()).unwrap_or_default(),
            pages: pages.as_ref(),
            progress: &*self.ctx.progress,
            cancel: &self.ctx.cancel,
        };
        self.ctx.progress.begin("copy", Some(total));
        copy(parts, jobs, means, &mut subject.session, take)?;
        self.ctx.progress.end();
        Ok(next_part)
    }
}

/// Ends the backup on the server and makes sure that what it says fits what was copied.
fn stop(
    subject: &mut Subject,
    started: Started,
    started_at: DateTime<Utc>,
    copied: &[LinkedTablespace],
) -> anyhow::Result<Ending> {
    let session = &mut subject.session;
    session.require_open()?;
    let stopped = stop_backup(session)?;
    let stopped_at = server_state::now(session)?;
    let next_xid = server_state::next_xid(session)?;
    let timeline = server::facts(session)?.timeline;
    let label = BackupLabel::parse(&stopped.label_file).context("read the server's backup_label")?;
    anyhow::ensure!(
        label.start_wal_location == started.start,
        "the backup began at {}, its label says {}",
        started.start,
        label.start_wal_location
    );
    if label.start_timeline != timeline {
        let message =
            format!("the server changed from timeline {} to {timeline} during the backup", label.start_timeline);
        return Err(Advice::failed(message).hint("take the backup again").into());
    }
    require_all_tablespaces(&stopped, copied)?;
    let span = Span { timeline, start_lsn: started.start, stop_lsn: stopped.stop, started_at, stopped_at, next_xid };
    Ok(Ending { label_file: stopped.label_file, span })
}

fn jobs(args: &TakeArgs, ctx: &Context) -> usize {
    let usual = || std::thread::available_parallelism().map_or(1, usize::from).min(JOBS_USUAL_MAX);
    args.jobs.map(usize::from).or(ctx.settings.jobs).unwrap_or_else(usual)
}

/// The tablespace that a file belongs to, by its path.
fn tablespace_of(path: &RelativePath) -> Option<u32> {
    let mut names = path.as_path().components().map(|name| name.as_os_str().to_str());
    (names.next()? == Some("pg_tblspc")).then(|| names.next()??.parse().ok()).flatten()
}

/// Every tablespace that the server had when the backup began must be in it. More can be: those made meanwhile.
fn require_all_tablespaces(stopped: &Stopped, copied: &[LinkedTablespace]) -> anyhow::Result<()> {
    let map = stopped.tablespace_map.as_deref().unwrap_or_default();
    for (oid, location) in tablespace_map::parse(map).context("read the server's tablespace_map")? {
        if !copied.iter().any(|tablespace| tablespace.oid == oid) {
            let message = format!("tablespace {oid} at {} was dropped during the backup", location.display());
            return Err(Advice::failed(message).hint("take the backup again").into());
        }
    }
    Ok(())
}

/// The tablespaces as the commit record has them.
fn named(
    linked: &[LinkedTablespace],
    bytes: &BTreeMap<u32, u64>,
    session: &mut Session,
) -> anyhow::Result<Vec<Tablespace>> {
    let names = server_state::tablespace_names(session)?;
    let name =
        |oid| names.iter().find(|(known, _)| *known == oid).map_or_else(|| format!("{oid}"), |(_, name)| name.clone());
    let record = |tablespace: &LinkedTablespace| Tablespace {
        oid: tablespace.oid,
        name: name(tablespace.oid),
        location: tablespace.location.clone(),
        bytes: bytes.get(&tablespace.oid).copied().unwrap_or_default(),
    };
    Ok(linked.iter().map(record).collect())
}

fn source(subject: &Subject) -> Source {
    let facts = &subject.facts;
    Source {
        system_identifier: subject.identity.system_identifier,
        version_number: facts.version.number,
        catalog_version: subject.control.catalog_version,
        segment_size: subject.identity.segment_size,
        data_checksums: subject.control.data_checksum_version != 0,
        standby: facts.in_recovery,
        host: host_name(),
        data_directory: subject.pgdata.clone(),
        data_directory_mode: mode_of(&subject.pgdata),
        config_file: facts.path("config_file").unwrap_or_default(),
        hba_file: facts.path("hba_file").unwrap_or_default(),
        ident_file: facts.path("ident_file").unwrap_or_default(),
        port: facts.port().unwrap_or_default(),
    }
}

/// The permission bits of the data directory. PostgreSQL checks them at every start and knows no others than these two.
fn mode_of(pgdata: &Path) -> u32 {
    let group_may_read = std::fs::metadata(pgdata).is_ok_and(|metadata| metadata.permissions().mode() & 0o050 == 0o050);
    if group_may_read { 0o750 } else { 0o700 }
}

/// Every segment that a restore to the end of this backup replays must be in the repository.
fn wait_for_wal(subject: &mut Subject, archive: Watch<'_>, span: &Span) -> anyhow::Result<()> {
    let (first, last) = (span.first_segment(archive.size), span.last_segment(archive.size));
    tracing::debug!("waiting for WAL segments {first} to {last}");
    match arrival::wait(archive, &mut subject.session, first, last)? {
        None => Ok(()),
        Some(missing) => Err(missing.advice(subject.facts.archive_command()).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::pg::Lsn;
    use rstest::rstest;

    #[rstest]
    #[case("base/5/1259", None)]
    #[case("pg_tblspc/16385/PG_15_202209061/5/16390", Some(16385))]
    #[case("pg_tblspc/x/16390", None)]
    fn files_belong_to_tablespaces(#[case] path: &str, #[case] expected: Option<u32>) {
        assert_eq!(tablespace_of(&RelativePath::new(path).unwrap()), expected);
    }

    #[test]
    fn a_tablespace_that_the_copy_lacks_is_noticed() {
        let stopped = |map: Option<&str>| Stopped {
            stop: Lsn(1),
            label_file: Vec::new(),
            tablespace_map: map.map(|map| map.as_bytes().to_vec()),
        };
        let copied = [LinkedTablespace { oid: 16385, location: "/space".into() }];
        assert!(require_all_tablespaces(&stopped(None), &copied).is_ok());
        assert!(require_all_tablespaces(&stopped(Some("16385 /space\n")), &copied).is_ok());
        assert!(require_all_tablespaces(&stopped(Some("16385 /space\n16386 /other\n")), &copied).is_err());
    }
}
