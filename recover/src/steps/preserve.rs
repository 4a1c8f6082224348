//! Step 3: the old cluster is set aside, whole and startable.
//!
//! Moving the data directory alone would leave the links of the preserved cluster leading into what the new one writes.
//! So every directory outside moves too, and the preserved links are led after it: the union of what the old cluster's
//! own links say, read once its server is down, and of what the backup wants.

use std::path::{Path, PathBuf};

use common::pg::exclusions::tablespace_version_directory;
use common::repo::records::BackupRecord;
use common::report::Advice;

use super::Site;
use crate::aside::{self, Word, is_there, move_contents, partial, relink, within};
use crate::facts::{self, Directory, OldCluster};
use crate::journal::{Change, Journal, Stage};
use crate::place::is_mount_point;
use crate::plan::Plan;
use crate::preserved;

/// Lists every change in the journal, then makes them; where they are listed already, makes the rest of them.
pub(crate) fn run(backup: &BackupRecord, journal: &mut Journal, site: &Site<'_>) -> anyhow::Result<String> {
    journal.set_out(Stage::Preserved, &site.place)?;
    if journal.changes.is_empty() {
        let directory = facts::look_at(&site.place.pgdata)?;
        if matches!(directory, Directory::Foreign) || directory.cluster().is_some() != journal.plan.replaces {
            let message = format!("what lies in {} is not what it was before", site.place.pgdata.display());
            return Err(Advice::refused(message).hint("look at it, and run recover again").into());
        }
        if let Some(server) = directory.cluster().and_then(|cluster| cluster.server.as_ref()) {
            let message = format!(
                "a server (process {}) was started on {} after the old one was stopped",
                server.file.pid,
                site.place.pgdata.display()
            );
            let hint = "find out who starts it and keep that from doing so, then recover run --resume goes on";
            return Err(Advice::refused(message).hint(hint).into());
        }
        journal.changes = changes(directory.cluster(), &journal.plan, backup.source.catalog_version);
        journal.marks = preserved::marks(&journal.changes);
        journal.write(&site.place)?;
    }
    for change in &journal.changes {
        make(change)?;
    }
    journal.reach(Stage::Preserved, &site.place)?;
    let preserved = journal.preserved();
    Ok(preserved.map_or_else(|| "nothing was there".to_owned(), |to| format!("the old cluster is in {}", to.display())))
}

/// What must be done so that the recovered cluster finds its places free.
fn changes(old: Option<&OldCluster>, plan: &Plan, catalog_version: u32) -> Vec<Change> {
    let mut changes = Vec::new();
    let (pgdata, now) = (&plan.pgdata, plan.decided);
    let preserved = aside::place(pgdata, Word::Before, now);
    let version = tablespace_version_directory(plan.major, catalog_version);
    if let Some(old) = old {
        let mut links = Vec::new();
        for (oid, location) in &old.tablespace_links {
            let link = preserved.join("pg_tblspc").join(oid.to_string());
            if let Ok(inside) = location.strip_prefix(pgdata) {
                // It moves with the data directory.
                links.push(Change::Relinked { link, before: location.clone(), meanwhile: preserved.join(inside) });
            } else if move_version(&mut changes, plan, location, &version) {
                let meanwhile = within(location, Word::Before, now);
                links.push(Change::Relinked { link, before: location.clone(), meanwhile });
            }
        }
        // Places that the backup wants and the old cluster does not know: left over from a dropped tablespace.
        for (_, location) in &plan.tablespaces {
            if !old.tablespace_links.iter().any(|(_, known)| known == location) {
                move_version(&mut changes, plan, location, &version);
            }
        }
        if let Some(pg_wal) = old.pg_wal_link.as_ref().filter(|pg_wal| pg_wal.exists()) {
            let meanwhile = aside::place(pg_wal, Word::Before, now);
            changes.push(set_aside(pg_wal, meanwhile.clone()));
            links.push(Change::Relinked { link: preserved.join("pg_wal"), before: pg_wal.clone(), meanwhile });
        }
        changes.push(set_aside(pgdata, preserved));
        changes.extend(links);
    }
    let made = |path: &PathBuf| Change::Made { path: path.clone() };
    changes.push(made(pgdata));
    changes.extend(plan.pg_wal.iter().map(made));
    changes.extend(plan.tablespaces.iter().map(|(_, location)| made(&location.join(&version))));
    let known = changes.clone();
    changes.extend(plan.grows.iter().map(made).filter(|grown| !known.contains(grown)));
    changes
}

/// The change that frees a directory.
fn set_aside(path: &Path, to: PathBuf) -> Change {
    if is_mount_point(path) {
        Change::Emptied { directory: path.to_path_buf(), into: to }
    } else {
        Change::Moved { from: path.to_path_buf(), to }
    }
}

/// Plans to move the version's folder of a tablespace, when it is there.
fn move_version(changes: &mut Vec<Change>, plan: &Plan, location: &Path, version: &str) -> bool {
    let from = location.join(version);
    if !from.exists() {
        return false;
    }
    let to = aside::place(&from, Word::Before, plan.decided);
    changes.push(Change::Moved { from, to });
    true
}

/// Makes one change, unless it is made.
fn make(change: &Change) -> anyhow::Result<()> {
    match change {
        Change::Moved { from, to } if is_there(to) && !is_there(from) => Ok(()),
        Change::Moved { from, to } => aside::rename(from, to),
        Change::Emptied { into, .. } if is_there(into) => Ok(()),
        Change::Emptied { directory, into } => {
            let leaving = partial(into);
            move_contents(directory, &leaving)?;
            aside::rename(&leaving, into)
        }
        Change::Relinked { link, meanwhile, .. } => relink(link, meanwhile),
        Change::Made { .. } => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::tests::journal;
    use common::restore::target::Target;
    use common::sys::durable;
    use std::os::unix::fs::symlink;

    /// A cluster with a `pg_wal` and a tablespace outside and a tablespace inside, and a place that only the backup knows.
    #[test]
    fn what_is_preserved_is_whole_and_leads_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let (data, wal, space, other) = (root.join("data"), root.join("wal"), root.join("ts"), root.join("other"));
        for made in [
            &data.join("pg_tblspc"),
            &data.join("in/PG_15_202209061/x"),
            &wal,
            &space.join("PG_15_202209061/x"),
            &other.join("PG_15_202209061"),
        ] {
            std::fs::create_dir_all(made).unwrap();
        }
        durable::replace(&data.join("PG_VERSION"), b"15\n", 0o600).unwrap();
        symlink(&wal, data.join("pg_wal")).unwrap();
        symlink(&space, data.join("pg_tblspc/16384")).unwrap();
        symlink(data.join("in"), data.join("pg_tblspc/16385")).unwrap();
        let mut plan = journal(data.to_str().unwrap(), 7, Target::Latest).plan;
        plan.tablespaces = vec![(16_384, space.clone()), (16_386, other.clone())];
        plan.pg_wal = Some(wal.clone());
        let found = facts::look_at(&data).unwrap();
        let changes = changes(found.cluster(), &plan, 202_209_061);
        // A second time changes nothing.
        for _ in 0..2 {
            changes.iter().try_for_each(make).unwrap();
        }
        let before = aside::place(&data, Word::Before, plan.decided);
        for place in [&data, &wal, &space.join("PG_15_202209061"), &other.join("PG_15_202209061")] {
            assert!(!is_there(place), "{}", place.display());
        }
        for oid in ["16384", "16385"] {
            assert!(before.join("pg_tblspc").join(oid).join("PG_15_202209061/x").is_dir(), "{oid}");
        }
        let links: Vec<_> = ["pg_wal", "pg_tblspc/16384", "pg_tblspc/16385"]
            .map(|link| std::fs::read_link(before.join(link)).unwrap())
            .into();
        assert!(links.iter().all(|target| target.is_dir() && ![&wal, &space].contains(&target)), "{links:?}");
    }
}
