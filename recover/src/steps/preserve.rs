//! Step 3: the old cluster is set aside, whole and startable.
//!
//! Renaming the data directory alone would leave the links of the preserved cluster leading into what the new one
//! writes. So every directory outside moves too, and the preserved links are led after it.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use common::pg::exclusions::tablespace_version_directory;
use common::sys::durable;

use super::Site;
use crate::facts::{Facts, OldCluster};
use crate::journal::{Change, Journal, Stage, aside, stamp};
use crate::plan::Plan;

/// Lists every change in the journal, then makes them.
pub(crate) fn run(facts: &Facts, journal: &mut Journal, site: &Site<'_>) -> anyhow::Result<String> {
    let catalog = facts
        .backups
        .iter()
        .find(|backup| backup.id == journal.plan.backup)
        .map_or(0, |backup| backup.source.catalog_version);
    journal.changes = changes(facts.directory.cluster(), &journal.plan, catalog);
    journal.write(&site.place)?;
    for change in &journal.changes {
        make(change)?;
    }
    journal.reach(Stage::Preserved, &site.place)?;
    let moved = journal.changes.iter().find_map(|change| match change {
        Change::Moved { from, to } if *from == site.place.pgdata => Some(to),
        _ => None,
    });
    Ok(moved.map_or_else(|| "nothing was there".to_owned(), |to| format!("the old cluster is in {}", to.display())))
}

/// What must be done so that the recovered cluster finds its places free.
fn changes(old: Option<&OldCluster>, plan: &Plan, catalog_version: u32) -> Vec<Change> {
    let mut changes = Vec::new();
    let preserved = aside(&plan.pgdata, "before", plan.decided);
    let version = tablespace_version_directory(plan.major, catalog_version);
    if let Some(old) = old {
        let mut links = Vec::new();
        for (oid, location) in &old.tablespace_links {
            let meanwhile = location.join(format!("holdfast-before-{}", stamp(plan.decided)));
            if move_version(&mut changes, location, &meanwhile, &version) {
                let link = preserved.join("pg_tblspc").join(oid.to_string());
                links.push(Change::Relinked { link, before: location.clone(), meanwhile });
            }
        }
        // Places that the backup wants and the old cluster does not know: left over from a dropped tablespace.
        for (_, location) in &plan.tablespaces {
            if !old.tablespace_links.iter().any(|(_, known)| known == location) {
                let meanwhile = location.join(format!("holdfast-before-{}", stamp(plan.decided)));
                move_version(&mut changes, location, &meanwhile, &version);
            }
        }
        if let Some(pg_wal) = &old.pg_wal_link {
            let meanwhile = aside(pg_wal, "before", plan.decided);
            changes.push(Change::Moved { from: pg_wal.clone(), to: meanwhile.clone() });
            links.push(Change::Relinked { link: preserved.join("pg_wal"), before: pg_wal.clone(), meanwhile });
        }
        changes.push(Change::Moved { from: plan.pgdata.clone(), to: preserved });
        changes.extend(links);
    }
    let made = |path: &PathBuf| Change::Made { path: path.clone() };
    changes.push(made(&plan.pgdata));
    changes.extend(plan.pg_wal.iter().map(made));
    changes.extend(plan.tablespaces.iter().map(|(_, location)| made(&location.join(&version))));
    changes
}

/// Plans to move the version's folder of a tablespace, when it is there.
fn move_version(changes: &mut Vec<Change>, location: &Path, meanwhile: &Path, version: &str) -> bool {
    let from = location.join(version);
    if !from.exists() {
        return false;
    }
    changes.push(Change::Moved { from, to: meanwhile.join(version) });
    true
}

/// Makes one change.
fn make(change: &Change) -> anyhow::Result<()> {
    match change {
        Change::Moved { from, to } => {
            let moving = || format!("rename {} to {}", from.display(), to.display());
            if let Some(parent) = to.parent() {
                durable::create_dir_all(parent, 0o700).with_context(moving)?;
            }
            durable::rename_exclusive(from, to).with_context(moving)
        }
        Change::Relinked { link, meanwhile, .. } => relink(link, meanwhile),
        Change::Made { .. } => Ok(()),
    }
}

/// Leads a link elsewhere, durably; never leaves it missing.
pub(crate) fn relink(link: &Path, target: &Path) -> anyhow::Result<()> {
    let leading = || format!("lead the link {} to {}", link.display(), target.display());
    if std::fs::read_link(link).is_ok_and(|found| found == target) {
        return Ok(());
    }
    let fresh = crate::place::beside(link, ".holdfast-new");
    match durable::remove_file(&fresh) {
        Err(err) if err.kind() != std::io::ErrorKind::NotFound => return Err(err).with_context(leading),
        _ => {}
    }
    std::os::unix::fs::symlink(target, &fresh).with_context(leading)?;
    durable::rename(&fresh, link).with_context(leading)
}
