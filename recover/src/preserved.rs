//! What must hold before anything is removed or renamed: nobody works there, and the old cluster is where it can come
//! back from.
//!
//! Between two commands somebody may have moved, removed or started what a recovery keeps. A name in the file system
//! says nothing of that, so the journal has a mark of everything that is set aside, which stays with it through renames.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use common::report::Advice;
use common::server;
use serde::{Deserialize, Serialize};

use crate::aside::{is_there, partial};
use crate::journal::{Change, Journal, Stage};
use crate::place::Place;

/// What tells a file or a directory from every other, whatever it is called. The device is not in it: its number may
/// change with a reboot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    inode: u64,
    /// When it was made, where the file system tells: the number of what is removed is given away again.
    made: Option<DateTime<Utc>>,
}

/// The marks of what a recovery sets aside, each by the directory that it is taken from.
pub(crate) type Marks = BTreeMap<PathBuf, Mark>;

/// Files that a server keeps for life, in its data directory and in its `pg_wal`: they tell whose contents a mount point
/// has.
const LASTING: [&str; 2] = ["PG_VERSION", "archive_status"];

impl Mark {
    /// The mark of what is there under this name; none where nothing is.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let metadata = path.symlink_metadata().ok()?;
        Some(Self { inode: metadata.ino(), made: metadata.created().ok().map(DateTime::from) })
    }

    fn is_of(&self, path: &Path) -> bool {
        Self::of(path).is_some_and(|found| {
            found.inode == self.inode && (found.made.is_none() || self.made.is_none() || found.made == self.made)
        })
    }
}

/// Something that is set aside.
struct Aside<'a> {
    from: &'a Path,
    to: &'a Path,
    /// Whether its contents are moved, not itself.
    emptied: bool,
}

impl Aside<'_> {
    fn mark(&self) -> Option<Mark> {
        if !self.emptied {
            return Mark::of(self.from);
        }
        LASTING.iter().find_map(|name| Mark::of(&self.from.join(name)))
    }

    /// Whether what was there before is there, or is there again.
    fn is_back(&self, mark: &Mark) -> bool {
        if !self.emptied {
            return mark.is_of(self.from);
        }
        LASTING.iter().any(|name| mark.is_of(&self.from.join(name)))
    }

    /// The names that it may have while it is aside, or on its way.
    fn places(&self) -> Vec<PathBuf> {
        let mut places = vec![self.to.to_path_buf()];
        places.extend(self.emptied.then(|| partial(self.to)));
        places
    }
}

fn asides(changes: &[Change]) -> impl Iterator<Item = Aside<'_>> {
    changes.iter().filter_map(|change| match change {
        Change::Moved { from, to } => Some(Aside { from, to, emptied: false }),
        Change::Emptied { directory, into } => Some(Aside { from: directory, to: into, emptied: true }),
        Change::Relinked { .. } | Change::Made { .. } => None,
    })
}

/// The marks of what these changes will set aside; taken before the first of them.
pub(crate) fn marks(changes: &[Change]) -> Marks {
    asides(changes).filter_map(|aside| Some((aside.from.to_path_buf(), aside.mark()?))).collect()
}

/// Refuses where a server runs on the directory, or what is left of one works in it. A directory that is not there is
/// nobody's.
pub(crate) fn require_idle(directory: &Path) -> anyhow::Result<()> {
    if !directory.exists() {
        return Ok(());
    }
    let pid = match server::running(directory)? {
        Some(server) => Some(server.file.pid),
        None => server::processes(directory)?.first().copied(),
    };
    let Some(pid) = pid else { return Ok(()) };
    Err(Advice::refused(format!("a server (process {pid}) runs on {}", directory.display()))
        .hint("stop it first, if nobody needs it")
        .into())
}

/// Refuses to go on with a recovery in a directory that is not the recovery's any more: what is unpacked there would be
/// removed, and settings changed.
pub(crate) fn require_aside(journal: &Journal, place: &Place) -> anyhow::Result<()> {
    if journal.stage < Stage::Preserved || journal.stage >= Stage::Started {
        return Ok(());
    }
    if journal.stage < Stage::Placed {
        require_idle(&place.pgdata)?;
    }
    for aside in asides(&journal.changes).filter(|aside| !is_there(aside.to)) {
        // Once all is unpacked nothing is removed, and a preserved cluster may be missed by choice.
        let is_back = journal.marks.get(aside.from).is_some_and(|mark| aside.is_back(mark));
        if journal.stage == Stage::Preserved || is_back {
            return Err(missing(&aside, place).into());
        }
    }
    Ok(())
}

/// Refuses to undo a recovery where something that it has set aside is neither there nor back, or where somebody works
/// in it. A journal without marks does not tell whether it is back.
pub(crate) fn require_returnable(journal: &Journal, place: &Place) -> anyhow::Result<()> {
    for aside in asides(&journal.changes) {
        let places = aside.places();
        let is_lost = || journal.marks.get(aside.from).is_some_and(|mark| !aside.is_back(mark));
        if !places.iter().any(|path| is_there(path)) && is_lost() {
            return Err(missing(&aside, place).into());
        }
        places.iter().try_for_each(|path| require_idle(path))?;
    }
    Ok(())
}

fn missing(aside: &Aside<'_>, place: &Place) -> Advice {
    let what = if aside.from == place.pgdata { "the old cluster" } else { "what the old cluster had there" };
    let (from, to) = (aside.from.display(), aside.to.display());
    Advice::refused(format!("{what} is not in {to} any more")).hint(format!(
        "if it was moved, move it back; if it lies in {from} again, recover rollback -D {0} finds that out; if it is lost, \
         nothing can be undone: move {1} away, and recover into an empty {0}",
        place.pgdata.display(),
        place.folder().display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::tests::journal;
    use common::restore::target::Target;
    use common::sys::{durable, passing};
    use rstest::rstest;

    /// A journal of a directory with a server's files that is about to be set aside.
    fn scene(root: &Path, emptied: bool) -> (Journal, Place, PathBuf) {
        let data = root.join("data");
        std::fs::create_dir(&data).unwrap();
        durable::replace(&data.join("PG_VERSION"), b"15\n", 0o600).unwrap();
        let to = if emptied { data.join("holdfast-before-x") } else { root.join("data.before-x") };
        let mut journal = journal(data.to_str().unwrap(), 7, Target::Latest);
        journal.changes = vec![if emptied {
            Change::Emptied { directory: data.clone(), into: to.clone() }
        } else {
            Change::Moved { from: data.clone(), to: to.clone() }
        }];
        journal.marks = marks(&journal.changes);
        assert_eq!(journal.marks.len(), 1);
        (journal, Place { pgdata: data }, to)
    }

    fn set_aside(journal: &Journal) {
        for change in &journal.changes {
            match change {
                Change::Moved { from, to } => {
                    passing::rename(from, to).unwrap();
                    std::fs::create_dir(from).unwrap();
                }
                Change::Emptied { directory, into } => {
                    std::fs::create_dir(into).unwrap();
                    passing::rename(&directory.join("PG_VERSION"), &into.join("PG_VERSION")).unwrap();
                }
                Change::Relinked { .. } | Change::Made { .. } => {}
            }
        }
        durable::replace(&journal.plan.pgdata.join("PG_VERSION"), b"15\n", 0o600).unwrap();
    }

    #[rstest]
    #[case::renamed(false)]
    #[case::emptied(true)]
    fn what_is_lost_is_told_from_what_is_back(#[case] emptied: bool) {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, place, to) = scene(dir.path(), emptied);
        journal.stage = Stage::Preserved;
        // Not yet moved.
        assert!(require_returnable(&journal, &place).is_ok() && require_aside(&journal, &place).is_err());
        set_aside(&journal);
        assert!(require_returnable(&journal, &place).is_ok() && require_aside(&journal, &place).is_ok());
        let lost = dir.path().join("lost");
        passing::rename(&to, &lost).unwrap();
        assert!(require_returnable(&journal, &place).is_err() && require_aside(&journal, &place).is_err());
        // All is unpacked: what is preserved may be missed, unless it lies where the recovery goes on.
        journal.stage = Stage::Configured;
        assert!(require_aside(&journal, &place).is_ok());
        let file = place.pgdata.join("PG_VERSION");
        durable::remove_file(&file).unwrap();
        if emptied {
            passing::rename(&lost.join("PG_VERSION"), &file).unwrap();
        } else {
            durable::remove_tree(&place.pgdata).unwrap();
            passing::rename(&lost, &place.pgdata).unwrap();
        }
        assert!(require_returnable(&journal, &place).is_ok() && require_aside(&journal, &place).is_err());
    }

    #[test]
    fn an_old_journal_tells_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, place, to) = scene(dir.path(), false);
        set_aside(&journal);
        durable::remove_tree(&to).unwrap();
        journal.marks = Marks::new();
        assert!(require_returnable(&journal, &place).is_ok());
    }
}
