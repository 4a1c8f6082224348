//! How directories are set aside and put back.
//!
//! A directory is renamed where it can be. One that something is mounted on is emptied instead: everything that is the
//! server's moves into a folder in it, which gets its final name when it holds all. So the name alone tells whether what
//! lies beside the folder is still the old cluster's, or belongs to whoever came after it.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use common::restore::own::{BEFORE, UNDONE, is_no_server_file};
use common::sys::durable;

use crate::place::{beside, is_mount_point};

/// Why something is set aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Word {
    /// It was there before a recovery.
    Before,
    /// A recovery made it and was undone.
    Undone,
}

impl Word {
    fn beside(self) -> &'static str {
        match self {
            Self::Before => ".before-",
            Self::Undone => ".undone-",
        }
    }

    fn within(self) -> &'static str {
        match self {
            Self::Before => BEFORE,
            Self::Undone => UNDONE,
        }
    }
}

/// A moment as part of a file name, to the millisecond: two recoveries may begin within a second.
pub(crate) fn stamp(time: DateTime<Utc>) -> String {
    time.format("%Y%m%d_%H%M%S_%3f").to_string()
}

/// A folder within the directory.
pub(crate) fn within(path: &Path, word: Word, time: DateTime<Utc>) -> PathBuf {
    path.join(format!("{}{}", word.within(), stamp(time)))
}

/// Where a directory is set aside to: beside itself, a mount point within itself. PostgreSQL's own folder in a
/// tablespace must not lie there under another name, which PostgreSQL's tools would trip over: it gets a folder around
/// it.
pub(crate) fn place(path: &Path, word: Word, time: DateTime<Utc>) -> PathBuf {
    match path.parent() {
        Some(location) if is_version(path) => within(location, word, time).join(path.file_name().unwrap_or_default()),
        _ if is_mount_point(path) => within(path, word, time),
        _ => beside(path, &format!("{}{}", word.beside(), stamp(time))),
    }
}

/// Whether this is PostgreSQL's own folder in a tablespace, by its name: `PG_15_202209061`
/// (`TABLESPACE_VERSION_DIRECTORY` in `src/include/common/relpath.h`).
pub(crate) fn is_version(path: &Path) -> bool {
    const CATALOG_VERSION_DIGITS: usize = 9;
    let are_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let numbers = path.file_name().and_then(|name| name.to_str()?.strip_prefix("PG_")?.split_once('_'));
    numbers.is_some_and(|(major, catalog)| {
        are_digits(major) && are_digits(catalog) && catalog.len() == CATALOG_VERSION_DIGITS
    })
}

/// The folder that a mount point's files move into while not all of them lie in it.
pub(crate) fn partial(into: &Path) -> PathBuf {
    beside(into, ".partial")
}

/// Whether anything has this name, be it a link that leads nowhere.
pub(crate) fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// Renames a directory, durably, and makes the folder that it comes into.
pub(crate) fn rename(from: &Path, to: &Path) -> anyhow::Result<()> {
    let moving = || format!("rename {} to {}", from.display(), to.display());
    // Where there is nothing to rename, no folder is made for it either.
    from.symlink_metadata().with_context(moving)?;
    if let Some(parent) = to.parent() {
        durable::create_dir_all(parent, 0o700).with_context(moving)?;
    }
    durable::rename_exclusive(from, to).with_context(moving)
}

/// Moves everything that is the server's from one directory into another, which is made; whether there was anything. Safe
/// to repeat.
pub(crate) fn move_contents(from: &Path, to: &Path) -> anyhow::Result<bool> {
    let moving = || format!("move what is in {} to {}", from.display(), to.display());
    let mut names = Vec::new();
    for entry in std::fs::read_dir(from).with_context(moving)? {
        let name = entry.with_context(moving)?.file_name();
        if !is_no_server_file(&name) {
            names.push(name);
        }
    }
    if names.is_empty() {
        return Ok(false);
    }
    durable::create_dir_all(to, 0o700).with_context(moving)?;
    names.sort();
    for name in names {
        durable::rename_exclusive(&from.join(&name), &to.join(&name)).with_context(moving)?;
    }
    Ok(true)
}

/// Removes everything that is the server's from a directory, which stays; one that is not there has nothing in it.
pub(crate) fn empty(directory: &Path) -> anyhow::Result<()> {
    let emptying = || format!("empty {}", directory.display());
    let entries = match std::fs::read_dir(directory) {
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.with_context(emptying)?,
    };
    for entry in entries {
        let entry = entry.with_context(emptying)?;
        if !is_no_server_file(&entry.file_name()) {
            remove(&entry.path()).with_context(emptying)?;
        }
    }
    Ok(())
}

/// Removes a file, a link or a tree, durably; what is not there is removed already.
pub(crate) fn remove(path: &Path) -> anyhow::Result<()> {
    let removed = match path.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => durable::remove_tree(path),
        Ok(_) => durable::remove_file(path),
        Err(err) => Err(err),
    };
    match removed {
        Err(err) if err.kind() != std::io::ErrorKind::NotFound => {
            Err(err).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Leads a link elsewhere, durably; never leaves it missing.
pub(crate) fn relink(link: &Path, target: &Path) -> anyhow::Result<()> {
    let leading = || format!("lead the link {} to {}", link.display(), target.display());
    if std::fs::read_link(link).is_ok_and(|found| found == target) {
        return Ok(());
    }
    let fresh = beside(link, ".holdfast-new");
    match durable::remove_file(&fresh) {
        Err(err) if err.kind() != std::io::ErrorKind::NotFound => return Err(err).with_context(leading),
        _ => {}
    }
    std::os::unix::fs::symlink(target, &fresh).with_context(leading)?;
    durable::rename(&fresh, link).with_context(leading)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(dir).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn contents_move_and_what_is_no_servers_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("data"), dir.path().join("data/holdfast-before-x.partial"));
        for made in ["base/1", "lost+found", ".holdfast", "holdfast-undone-y"] {
            std::fs::create_dir_all(from.join(made)).unwrap();
        }
        assert!(move_contents(&from, &to).unwrap());
        assert!(!move_contents(&from, &to).unwrap());
        assert_eq!(names(&to), ["base"]);
        assert!(move_contents(&to, &from).unwrap());
        empty(&from).unwrap();
        assert_eq!(names(&from), [".holdfast", "holdfast-before-x.partial", "holdfast-undone-y", "lost+found"]);
        assert!(empty(&dir.path().join("missing")).is_ok() && remove(&dir.path().join("missing")).is_ok());
    }

    #[test]
    fn nothing_is_made_for_what_is_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("data/from"), dir.path().join("data/to"));
        assert!(rename(&from, &to).is_err());
        assert!(!dir.path().join("data").exists());
        std::fs::create_dir_all(&from).unwrap();
        assert!(rename(&from, &dir.path().join("new/to")).is_ok());
    }

    #[test]
    fn each_kind_of_directory_has_its_place() {
        let time = DateTime::UNIX_EPOCH;
        let at = |path: &str| place(Path::new(path), Word::Before, time).display().to_string();
        assert_eq!(at("/srv/none/data"), "/srv/none/data.before-19700101_000000_000");
        assert_eq!(at("/ts/PG_15_202209061"), "/ts/holdfast-before-19700101_000000_000/PG_15_202209061");
        for name in
            ["PG_WAL", "PG_15", "PG_15_1", "PG_15_2022090611", "PG__202209061", "PG_a_202209061", "xPG_15_202209061"]
        {
            let path = format!("/ts/{name}");
            assert_eq!(at(&path), format!("{path}.before-19700101_000000_000"));
        }
        assert_eq!(at("/proc"), "/proc/holdfast-before-19700101_000000_000");
    }
}
