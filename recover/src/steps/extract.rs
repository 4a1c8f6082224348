//! Step 4: the backup is unpacked, checked and synced.

use common::repo::records::BackupRecord;
use common::restore::extract::{Destination, Extracted, Means, extract, extract_reusing};

use super::Site;
use crate::aside;
use crate::cli::Command;
use crate::journal::{Change, Journal, Stage};

/// The most parts that are unpacked at once when nobody says.
const JOBS_MAX: usize = 4;

/// Unpacks the backup.
pub(crate) fn run(backup: &BackupRecord, journal: &mut Journal, site: &Site<'_>) -> anyhow::Result<Extracted> {
    if journal.is_repeated(Stage::Extracted) {
        clear(journal)?;
    }
    journal.set_out(Stage::Extracted, &site.place)?;
    let destination = Destination {
        pgdata: site.place.pgdata.clone(),
        pg_wal: journal.plan.pg_wal.clone(),
        tablespaces: journal.plan.tablespaces.clone(),
    };
    let means = Means { jobs: jobs(site), progress: &*site.ctx.progress, cancel: &site.ctx.cancel };
    let old = journal.preserved();
    let extracted = match old.filter(|_| journal.plan.delta) {
        Some(old) => extract_reusing(&site.repository, backup, &destination, old, means)?,
        None => extract(&site.repository, backup, &destination, means)?,
    };
    journal.reach(Stage::Extracted, &site.place)?;
    Ok(extracted)
}

/// Removes what an extraction that was cut short has made: no server has run on it, and the old cluster is aside.
fn clear(journal: &Journal) -> anyhow::Result<()> {
    for change in &journal.changes {
        // What only replay makes is nobody's yet.
        if let Change::Made { path } = change
            && !journal.plan.grows.contains(path)
        {
            aside::empty(path)?;
        }
    }
    Ok(())
}

/// How many parts are unpacked at once.
pub(crate) fn jobs(site: &Site<'_>) -> usize {
    let asked = match &site.cli.command {
        Command::Run(args) => args.moment.jobs.map(usize::from),
        Command::Check(args) => args.run.moment.jobs.map(usize::from),
        Command::Extract(args) => args.moment.jobs.map(usize::from),
        _ => None,
    };
    let processors = || std::thread::available_parallelism().map_or(1, |count| count.get().min(JOBS_MAX));
    asked.or(site.ctx.settings.jobs).unwrap_or_else(processors)
}
