//! `verify backup`: one backup after the other, each from its record to its last segment of WAL.

use common::app::{Context, Outcome};
use common::archive::Repository;
use common::archive::backups::{self, Found};
use common::archive::inspect::{self, Depth, Finding, Kind};
use common::repo::BackupId;
use common::repo::layout::backup_object;
use common::report::{Advice, ExitClass, message_of};
use common::sys::clock::Stopwatch;

use crate::cli::BackupArgs;
use crate::report::{self, Inspected};

/// More workers than this are asked for, not guessed.
const JOBS_GUESSED_MAX: usize = 4;

pub(crate) fn run(args: &BackupArgs, ctx: &Context) -> anyhow::Result<Outcome> {
    let repository = ctx.open(ctx.first_repository()?)?;
    let depth = if args.quick { Depth::Quick } else { Depth::Standard };
    let jobs = jobs(args, ctx);
    let mut results = Vec::new();
    for id in ids(args, &repository, ctx)? {
        results.extend(one(&repository, id, depth, jobs, args.all, ctx)?);
    }
    report::print(&repository, depth, &results, ctx)?;
    let clean = results.iter().all(|result| result.findings.is_empty());
    Ok(if clean { Outcome::Done } else { Outcome::Class(ExitClass::Findings) })
}

fn jobs(args: &BackupArgs, ctx: &Context) -> usize {
    let processors = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(JOBS_GUESSED_MAX);
    args.jobs.map(usize::from).or(ctx.settings.jobs).unwrap_or_else(processors)
}

/// The backups to look at, oldest first. Those that nobody finished are no backups.
fn ids(args: &BackupArgs, repository: &Repository, ctx: &Context) -> anyhow::Result<Vec<BackupId>> {
    if let Some(id) = args.id {
        repository.require_cluster()?;
        return Ok(vec![id]);
    }
    let is_backup = |found: &Found| !matches!(found, Found::Unfinished(_));
    let found = backups::list(repository)?;
    let ids: Vec<BackupId> = found.iter().filter(|(_, found)| is_backup(found)).map(|(id, _)| *id).collect();
    if ids.is_empty() {
        repository.require_cluster()?;
        // Nothing was proved, and whoever watches this must not take that for good news.
        let message = format!("there is no backup of \"{}\" in {}", ctx.settings.cluster.value, repository.describe());
        return Err(Advice::failed(message).hint("basebackup takes one").into());
    }
    Ok(ids)
}

/// Inspects one backup; `None` when it was removed meanwhile and is one of many.
fn one(
    repository: &Repository,
    id: BackupId,
    depth: Depth,
    jobs: usize,
    one_of_many: bool,
    ctx: &Context,
) -> anyhow::Result<Option<Inspected>> {
    let watch = Stopwatch::start();
    let (findings, bytes) = match inspect::record(repository, id) {
        Ok(Ok(record)) => {
            let (progress, cancel) = (&*ctx.progress, &ctx.cancel);
            let mut findings = inspect::backup(repository, &record, depth, jobs, progress, cancel)?;
            findings.extend(inspect::wal(repository, &record, depth, jobs, progress, cancel)?);
            (findings, record.stored_bytes)
        }
        Ok(Err(finding)) => (vec![finding], 0),
        Err(err) if one_of_many && is_gone(repository, id)? => {
            tracing::info!("{id} was removed before its turn came: {}", message_of(&err));
            return Ok(None);
        }
        Err(err) => return Err(err),
    };
    if is_about_objects(&findings) && is_gone(repository, id)? {
        // Retention takes the commit record first: what is missing then is no damage.
        tracing::warn!("{id} was removed while it was being inspected");
        return if one_of_many { Ok(None) } else { Err(Advice::failed(format!("{id} was removed")).into()) };
    }
    Ok(Some(Inspected { id, stored_bytes: bytes, took: watch.elapsed(), findings }))
}

fn is_about_objects(findings: &[Finding]) -> bool {
    findings.iter().any(|finding| finding.kind != Kind::BadPages)
}

fn is_gone(repository: &Repository, id: BackupId) -> anyhow::Result<bool> {
    let key = repository.layout().backup_object(id, backup_object::COMMIT)?;
    Ok(repository.store().stat(&key)?.is_none())
}
