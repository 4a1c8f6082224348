//! Undoes the changes of a journal, last first, and removes nothing: what a recovery made is set aside in its turn.
//!
//! Every change is looked at in the file system and undone if it was made, so that an undoing that was cut short goes on
//! when it is called again. One moment names everything that one recovery's undoing sets aside.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use chrono::{DateTime, TimeDelta, Utc};

use crate::aside::{self, Word, is_there, is_version, move_contents, partial, place, relink};
use crate::journal::{Change, Journal};
use crate::place::{Place, is_mount_point};

/// Undoes every change that was made; answers what was set aside. The journal has the moment from then on.
pub(crate) fn all(journal: &mut Journal, now: DateTime<Utc>, at: &Place) -> anyhow::Result<Vec<PathBuf>> {
    let moment = if let Some(moment) = journal.undoing {
        moment
    } else {
        let moment = free_moment(&journal.changes, now);
        journal.undoing = Some(moment);
        journal.write(at)?;
        moment
    };
    for change in journal.changes.iter().rev() {
        undo(change, &journal.changes, moment)?;
    }
    Ok(set_aside(journal))
}

/// What the undoing of this recovery has set aside, as far as it is there.
pub(crate) fn set_aside(journal: &Journal) -> Vec<PathBuf> {
    let Some(moment) = journal.undoing else { return Vec::new() };
    let mut found: Vec<PathBuf> = Vec::new();
    for change in &journal.changes {
        let path = places(change).map(|path| place(path, Word::Undone, moment)).filter(|path| is_there(path));
        if let Some(path) = path.filter(|path| !found.contains(path)) {
            found.push(path);
        }
    }
    found
}

/// The directory of a change that the recovered cluster's files may lie in.
fn places(change: &Change) -> Option<&Path> {
    match change {
        Change::Moved { from: path, .. } | Change::Made { path } | Change::Emptied { directory: path, .. } => {
            Some(path)
        }
        Change::Relinked { .. } => None,
    }
}

/// The moment that names what is set aside: `now`, or the first second after it that nothing else took.
fn free_moment(changes: &[Change], now: DateTime<Utc>) -> DateTime<Utc> {
    let is_taken = |moment| changes.iter().filter_map(places).any(|path| is_there(&place(path, Word::Undone, moment)));
    let mut moment = now;
    while is_taken(moment) {
        moment += TimeDelta::seconds(1);
    }
    moment
}

/// Undoes one change if it was made.
fn undo(change: &Change, all: &[Change], moment: DateTime<Utc>) -> anyhow::Result<()> {
    match change {
        Change::Made { path } => {
            // Where something was set aside, that change's undoing sees to what came in its place.
            let replaced = all.iter().any(|other| match other {
                Change::Moved { from, .. } => from == path,
                Change::Emptied { directory, .. } => directory == path,
                Change::Made { .. } | Change::Relinked { .. } => false,
            });
            if replaced || !path.exists() {
                return Ok(());
            }
            discard(path, all, moment)
        }
        Change::Relinked { link, before, meanwhile } => {
            if is_there(link) {
                relink(link, before)?;
            }
            // Where somebody has put the directory back by hand, the link lies in its old place.
            if let Some(back) =
                returned(link, all).filter(|back| std::fs::read_link(back).is_ok_and(|to| to == *meanwhile))
            {
                relink(&back, before)?;
            }
            Ok(())
        }
        Change::Moved { from, to } => {
            if !to.exists() {
                return Ok(());
            }
            if from.exists() {
                discard(from, all, moment)?;
            }
            aside::rename(to, from)?;
            remove_emptied(to);
            Ok(())
        }
        Change::Emptied { directory, into } => {
            let returning = partial(into);
            if into.exists() {
                discard(directory, all, moment)?;
                aside::rename(into, &returning)?;
            }
            if returning.exists() {
                move_contents(&returning, directory)?;
                aside::remove(&returning)?;
            }
            Ok(())
        }
    }
}

/// Where this path of a directory that was set aside lies once that is back.
fn returned(path: &Path, all: &[Change]) -> Option<PathBuf> {
    all.iter().find_map(|change| match change {
        Change::Moved { from, to } | Change::Emptied { directory: from, into: to } => {
            path.strip_prefix(to).ok().map(|rest| from.join(rest))
        }
        Change::Made { .. } | Change::Relinked { .. } => None,
    })
}

/// Sets a directory that the recovery made aside, or what it put into one that was there.
fn discard(path: &Path, all: &[Change], moment: DateTime<Utc>) -> anyhow::Result<()> {
    lead_aside(path, all, moment)?;
    let to = place(path, Word::Undone, moment);
    if is_mount_point(path) && !is_version(path) {
        move_contents(path, &to).map(drop)
    } else {
        aside::rename(path, &to)
    }
}

/// Leads the links of a data directory that the recovery made to where their targets will be set aside. Left as they
/// are, they would lead a server that somebody starts on it into the files of the cluster that is put back.
fn lead_aside(pgdata: &Path, all: &[Change], moment: DateTime<Utc>) -> anyhow::Result<()> {
    let links = match std::fs::read_dir(pgdata.join("pg_tblspc")) {
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        entries => entries
            .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect())
            .with_context(|| format!("read {}/pg_tblspc", pgdata.display()))?,
    };
    for link in links.into_iter().chain([pgdata.join("pg_wal")]) {
        let Ok(target) = std::fs::read_link(&link) else { continue };
        let leads_to = |path: &&Path| *path == target || (is_version(path) && path.parent() == Some(&target));
        let Some(outside) = all.iter().filter_map(places).find(leads_to) else { continue };
        let to = place(outside, Word::Undone, moment);
        let to = if is_version(outside) { to.parent().map(Path::to_path_buf).unwrap_or(to) } else { to };
        relink(&link, &to)?;
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
        std::fs::create_dir(place(&made, Word::Undone, now)).unwrap();
        assert_eq!(free_moment(&changes, now), now + TimeDelta::seconds(1));
    }

    #[test]
    fn neither_cluster_leads_into_the_other_after_a_rollback() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let (data, before, space) = (root.join("data"), root.join("data.before-x"), root.join("ts"));
        let (version, kept) = (space.join("PG_15_202209061"), space.join("holdfast-before-x"));
        for made in [
            &data.join("pg_tblspc"),
            &before.join("pg_tblspc"),
            &version.join("new"),
            &kept.join("PG_15_202209061/old"),
        ] {
            std::fs::create_dir_all(made).unwrap();
        }
        symlink(&space, data.join("pg_tblspc/16384")).unwrap();
        symlink(&kept, before.join("pg_tblspc/16384")).unwrap();
        let link = before.join("pg_tblspc/16384");
        let changes = [
            Change::Moved { from: version.clone(), to: kept.join("PG_15_202209061") },
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
            let undone = place(&data, Word::Undone, now);
            assert!(version.join("old").exists());
            assert_eq!(leads(&data.join("pg_tblspc/16384")), space);
            assert!(leads(&undone.join("pg_tblspc/16384")).join("PG_15_202209061/new").exists());
            assert!(!kept.exists());
        }
    }

    #[test]
    fn a_cluster_that_somebody_put_back_leads_to_its_own_tablespaces() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let (data, before, space) = (root.join("data"), root.join("data.before-x"), root.join("ts"));
        let (version, kept) = (space.join("PG_15_1"), space.join("holdfast-before-x"));
        for made in [&data.join("pg_tblspc"), &kept.join("PG_15_1/old")] {
            std::fs::create_dir_all(made).unwrap();
        }
        symlink(&kept, data.join("pg_tblspc/16384")).unwrap();
        let link = before.join("pg_tblspc/16384");
        let changes = [
            Change::Moved { from: version.clone(), to: kept.join("PG_15_1") },
            Change::Moved { from: data.clone(), to: before },
            Change::Relinked { link, before: space.clone(), meanwhile: kept },
            Change::Made { path: data.clone() },
            Change::Made { path: version.clone() },
        ];
        for change in changes.iter().rev() {
            undo(change, &changes, DateTime::UNIX_EPOCH).unwrap();
        }
        assert!(version.join("old").exists() && leads(&data.join("pg_tblspc/16384")) == space);
    }
}
