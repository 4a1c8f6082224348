//! `recover rollback`: puts the preserved cluster back.
//!
//! Nothing is removed: what the recovery made is set aside in its turn. Every change of the journal is looked at in
//! the file system and undone if it was made, last first, so that a rollback that was cut short goes on when it is
//! called again.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use chrono::{DateTime, TimeDelta, Utc};
use common::app::{Context, Outcome};
use common::pg::ArchiveName;
use common::pg::TimelineId;
use common::repo::records::AbandonedRecord;
use common::report::{Advice, ExitClass};
use common::server::{self, Programs, StartOptions, StopMode};
use common::sys::durable;

use crate::ask;
use crate::cli::RollbackArgs;
use crate::facts;
use crate::journal::{Change, Journal, Stage, aside, stamp};
use crate::place::Place;
use crate::steps::{self, preserve};

/// How long the recovered server may take for a fast stop.
const STOP_WAIT: Duration = Duration::from_secs(30);

/// Undoes the recovery that the journal tells of.
pub(crate) fn run(args: &RollbackArgs, ctx: &Context) -> anyhow::Result<Outcome> {
    let place = Place::of(ctx)?;
    let pgdata = place.pgdata.display().to_string();
    let (_lock, mut journal) = Journal::lock(&place)?.ok_or_else(|| {
        Advice::refused(format!("no recovery of {pgdata} is known, so there is nothing to undo"))
            .hint("name the data directory that was recovered with -D")
    })?;
    if journal.stage == Stage::RolledBack {
        ctx.output.line("the recovery is undone already")?;
        return report(&journal, &pgdata, &[], ctx);
    }
    confirm(&journal, args, ctx)?;
    let programs = steps::programs(journal.plan.major, &place, ctx)?;
    let now = ctx.clock.now();
    let touched = journal.stage > Stage::Checked;
    if touched && place.pgdata.exists() {
        server::stop(&programs, &place.pgdata, StopMode::Fast, STOP_WAIT, &ctx.cancel)?;
    }
    let abandoned = abandoned_timeline(&journal, &place)?;
    // Once the old cluster is back, its own files would be taken for the recovered one's.
    journal.new_timeline = abandoned;
    journal.write(&place)?;
    let discarded = undo_all(&journal, now)?;
    let restarts = touched && journal.was_running && journal.plan.replaces;
    if restarts {
        start(&journal, &place, &programs, ctx)?;
    }
    // The data is back already. This alone needs the repository, which a disaster may have taken too.
    if let Some(timeline) = abandoned {
        mark_abandoned(timeline, &journal, ctx)?;
    }
    journal.reach(Stage::RolledBack, &place)?;
    let mut lines = vec![if journal.plan.replaces {
        format!("the cluster in {pgdata} is as it was")
    } else {
        format!("{pgdata} is free again")
    }];
    lines.extend(discarded.iter().map(|path| discarded_line(path)));
    if restarts {
        lines.push("its server is starting".to_owned());
    }
    for line in &lines {
        ctx.output.line(line)?;
    }
    report(&journal, &pgdata, &discarded, ctx)
}

/// Undoes a recovery that was cut short, so that the same call can begin anew; answers its journal. The old server stays
/// down. Any other recovery is left alone, and one on whose directory somebody has started a server.
pub(crate) fn clear_the_way(place: &Place, ctx: &Context) -> anyhow::Result<Option<Journal>> {
    let Some((_lock, mut journal)) = Journal::lock(place)? else { return Ok(None) };
    if !journal.is_cut_short() || server::running(&place.pgdata)?.is_some() {
        return Ok(None);
    }
    ctx.output
        .line(&format!("an earlier recovery of {} was cut short, and is undone first", place.pgdata.display()))?;
    for path in undo_all(&journal, ctx.clock.now())? {
        ctx.output.line(&discarded_line(&path))?;
    }
    journal.reach(Stage::RolledBack, place)?;
    if journal.was_running && journal.plan.replaces {
        // What comes next may be refused, and nobody would start it then.
        ctx.output
            .line("the old cluster is back; its server, which ran before that, is down until this recovery is done")?;
    }
    Ok(Some(journal))
}

/// Undoes every change that was made, last first; answers what was set aside.
fn undo_all(journal: &Journal, now: DateTime<Utc>) -> anyhow::Result<Vec<PathBuf>> {
    let now = free_moment(&journal.changes, now);
    let mut discarded = Vec::new();
    for change in journal.changes.iter().rev() {
        discarded.extend(undo(change, &journal.changes, now)?);
    }
    Ok(discarded)
}

/// The moment that names what is set aside: `now`, or the first second after it that no earlier undoing took.
fn free_moment(changes: &[Change], now: DateTime<Utc>) -> DateTime<Utc> {
    let is_taken = |moment| {
        changes.iter().any(|change| match change {
            Change::Moved { from: path, .. } | Change::Made { path } => discarded_place(path, moment).exists(),
            Change::Relinked { .. } => false,
        })
    };
    let mut moment = now;
    while is_taken(moment) {
        moment += TimeDelta::seconds(1);
    }
    moment
}

fn discarded_line(path: &Path) -> String {
    format!("what the recovery made is in {}; remove it when you like", path.display())
}

fn report(journal: &Journal, pgdata: &str, discarded: &[PathBuf], ctx: &Context) -> anyhow::Result<Outcome> {
    if ctx.output.is_json() {
        ctx.output.json(&serde_json::json!({
            "pgdata": pgdata, "stage": journal.stage, "discarded": discarded, "abandoned_timeline": journal.new_timeline,
        }))?;
    }
    Ok(Outcome::Done)
}

/// Once the recovered server was started, users may have written to it: that goes too.
fn confirm(journal: &Journal, args: &RollbackArgs, ctx: &Context) -> anyhow::Result<()> {
    if args.yes || journal.stage < Stage::Started {
        return Ok(());
    }
    let loss = format!(
        "the server was started on the recovered data of {}: whatever was written since goes with a rollback",
        journal.plan.pgdata.display()
    );
    if ask::yes(&format!("{loss}. Roll back?"), ctx)? {
        return Ok(());
    }
    Err(Advice::refused(loss).hint("add --yes if that is what you want").into())
}

/// Undoes one change if it was made; answers the directory that was set aside for it.
fn undo(change: &Change, all: &[Change], now: DateTime<Utc>) -> anyhow::Result<Option<PathBuf>> {
    match change {
        Change::Made { path } => {
            // Where something was moved away, that change's undoing sees to what came in its place.
            let replaced = all.iter().any(|other| matches!(other, Change::Moved { from, .. } if from == path));
            if replaced || !path.exists() {
                return Ok(None);
            }
            lead_aside(path, all, now)?;
            discard(path, now).map(Some)
        }
        Change::Relinked { link, before, .. } => {
            if link.symlink_metadata().is_ok() {
                preserve::relink(link, before)?;
            }
            Ok(None)
        }
        Change::Moved { from, to } => {
            if !to.exists() {
                return Ok(None);
            }
            let discarded = if from.exists() {
                lead_aside(from, all, now)?;
                Some(discard(from, now)?)
            } else {
                None
            };
            durable::rename_exclusive(to, from)
                .with_context(|| format!("rename {} back to {}", to.display(), from.display()))?;
            remove_emptied(to);
            Ok(discarded)
        }
    }
}

/// Leads the links of a data directory that the recovery made to where their targets will be set aside. Left as they
/// are, they would lead a server that somebody starts on it into the files of the cluster that is put back.
fn lead_aside(pgdata: &Path, all: &[Change], now: DateTime<Utc>) -> anyhow::Result<()> {
    let links = match std::fs::read_dir(pgdata.join("pg_tblspc")) {
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        entries => entries
            .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect())
            .with_context(|| format!("read {}/pg_tblspc", pgdata.display()))?,
    };
    for link in links.into_iter().chain([pgdata.join("pg_wal")]) {
        let Ok(target) = std::fs::read_link(&link) else { continue };
        let outside = all.iter().find_map(|change| match change {
            Change::Made { path } | Change::Moved { from: path, .. }
                if *path == target || (is_version(path) && path.parent() == Some(&target)) =>
            {
                Some(path)
            }
            _ => None,
        });
        if let Some(path) = outside {
            let to = discarded_place(path, now);
            let to = if is_version(path) { to.parent().map(Path::to_path_buf).unwrap_or(to) } else { to };
            preserve::relink(&link, &to)?;
        }
    }
    Ok(())
}

/// Removes the folder that a tablespace's files were kept in, once it is empty.
fn remove_emptied(kept: &Path) {
    if let Some(folder) = kept.parent().filter(|_| is_version(kept)) {
        // One that holds anything else stays; it harms nobody.
        drop(std::fs::remove_dir(folder));
    }
}

/// Whether this is PostgreSQL's own folder in a tablespace.
fn is_version(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("PG_"))
}

/// Where a directory that the recovery made is set aside to. A version's folder must not lie in the tablespace under
/// another name: PostgreSQL's tools would trip over it.
fn discarded_place(path: &Path, now: DateTime<Utc>) -> PathBuf {
    match path.parent() {
        Some(location) if is_version(path) => {
            location.join(format!("holdfast-undone-{}", stamp(now))).join(path.file_name().unwrap_or_default())
        }
        _ => aside(path, "undone", now),
    }
}

/// Sets a directory that the recovery made aside.
fn discard(path: &Path, now: DateTime<Utc>) -> anyhow::Result<PathBuf> {
    let to = discarded_place(path, now);
    if let Some(folder) = to.parent() {
        durable::create_dir_all(folder, 0o700).with_context(|| format!("make {}", folder.display()))?;
    }
    durable::rename_exclusive(path, &to).with_context(|| format!("rename {} to {}", path.display(), to.display()))?;
    Ok(to)
}

/// The timeline that the recovered server went on to, as its own files tell.
fn abandoned_timeline(journal: &Journal, place: &Place) -> anyhow::Result<Option<TimelineId>> {
    if journal.new_timeline.is_some() || journal.stage < Stage::Started || journal.is_copy() {
        return Ok(journal.new_timeline.filter(|_| !journal.is_copy()));
    }
    let preserved =
        |change: &Change| matches!(change, Change::Moved { from, to } if *from == place.pgdata && to.exists());
    if journal.plan.replaces && !journal.changes.iter().any(preserved) {
        // The old cluster is back already: nothing of the recovered one is there to be read.
        return Ok(None);
    }
    let pg_wal = place.pgdata.join("pg_wal");
    let mut newest = None;
    let entries = match std::fs::read_dir(&pg_wal) {
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        entries => entries.with_context(|| format!("read {}", pg_wal.display()))?,
    };
    for entry in entries {
        let entry = entry.with_context(|| format!("read {}", pg_wal.display()))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // Histories that came from the old cluster's own pg_wal are its timelines, and go on.
        if let Some(ArchiveName::History(timeline)) = ArchiveName::parse(&name)
            && !journal.plan.salvage.contains(&name)
        {
            newest = newest.max(Some(timeline));
        }
    }
    Ok(newest.filter(|timeline| *timeline > journal.plan.timeline))
}

/// Marks the timeline in the repository, so that no later recovery follows it.
fn mark_abandoned(timeline: TimelineId, journal: &Journal, ctx: &Context) -> anyhow::Result<()> {
    let mark = || {
        let repository = facts::open_repository(ctx)?;
        let key = repository.layout().abandoned(journal.plan.wal.system_identifier, timeline)?;
        let record = AbandonedRecord { timeline, at: ctx.clock.now() };
        repository.create_record(&key, &record).map(drop)
    };
    mark().with_context(|| {
        Advice::new(ExitClass::PartDone, format!("mark timeline {timeline} as given up in the repository"))
            .hint("the data is put back already; call recover rollback again once the repository can be written")
    })
}

fn start(journal: &Journal, place: &Place, programs: &Programs, ctx: &Context) -> anyhow::Result<()> {
    if server::running(&place.pgdata)?.is_some() {
        return Ok(());
    }
    let options =
        StartOptions { config_file: journal.plan.config_file.clone(), settings: Vec::new(), log: place.start_log() };
    server::start(programs, &place.pgdata, &options, &ctx.cancel)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// Where the link leads.
    fn leads(link: &Path) -> PathBuf {
        std::fs::read_link(link).unwrap()
    }

    #[test]
    fn what_is_undone_twice_in_a_second_has_two_places() {
        let dir = tempfile::tempdir().unwrap();
        let made = dir.path().join("data");
        let changes = [Change::Made { path: made.clone() }];
        let now = DateTime::UNIX_EPOCH;
        assert_eq!(free_moment(&changes, now), now);
        std::fs::create_dir(aside(&made, "undone", now)).unwrap();
        assert_eq!(free_moment(&changes, now), now + TimeDelta::seconds(1));
    }

    #[test]
    fn neither_cluster_leads_into_the_other_after_a_rollback() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let (data, before, space) = (root.join("data"), root.join("data.before-x"), root.join("ts"));
        let (version, kept) = (space.join("PG_15_1"), space.join("holdfast-before-x"));
        for made in
            [&data.join("pg_tblspc"), &before.join("pg_tblspc"), &version.join("new"), &kept.join("PG_15_1/old")]
        {
            std::fs::create_dir_all(made).unwrap();
        }
        symlink(&space, data.join("pg_tblspc/16384")).unwrap();
        symlink(&kept, before.join("pg_tblspc/16384")).unwrap();
        let link = before.join("pg_tblspc/16384");
        let changes = [
            Change::Moved { from: version.clone(), to: kept.join("PG_15_1") },
            Change::Moved { from: data.clone(), to: before },
            Change::Relinked { link, before: space.clone(), meanwhile: kept.clone() },
            Change::Made { path: data.clone() },
            Change::Made { path: version.clone() },
        ];
        let now = DateTime::UNIX_EPOCH;
        // A second time changes nothing.
        for _ in 0..2 {
            for change in changes.iter().rev() {
                undo(change, &changes, now).unwrap();
            }
            let undone = aside(&data, "undone", now);
            assert!(version.join("old").exists());
            assert_eq!(leads(&data.join("pg_tblspc/16384")), space);
            assert!(leads(&undone.join("pg_tblspc/16384")).join("PG_15_1/new").exists());
            assert!(!kept.exists());
        }
    }
}
