//! A folder for what may be lost at any moment: acknowledgements, prefetched segments, and what was said already.
//!
//! It lies on `pg_wal`'s file system where it can, so that handing over a prefetched segment is a rename. Only this user
//! can look into it, since what lies there is believed. Removing it, at any moment, costs time and nothing else.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::codec::Digest;
use crate::sys::{passing, private, space};

/// The folder's name where it has to lie among a server's own files; backups leave it out.
pub const NAME_AMONG_OTHERS: &str = ".holdfast-spool";

/// The spool of one data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spool {
    folder: PathBuf,
}

/// Where a spool may lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// The best first.
    candidates: Vec<PathBuf>,
    pg_wal: PathBuf,
}

impl Places {
    /// The places for a data directory: a folder of its own below the `configured` one or, when none is configured,
    /// beside the data directory (`DIR.holdfast/spool`), beside `pg_wal` (`.holdfast-spool`), below `state`.
    pub fn of(pgdata: &Path, configured: Option<&Path>, state: Option<&Path>) -> Self {
        let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let (pgdata, pg_wal) = (real(pgdata), real(&pgdata.join("pg_wal")));
        let own: String = Digest::of(pgdata.as_os_str().as_encoded_bytes()).to_string().chars().take(16).collect();
        let candidates = if let Some(configured) = configured {
            vec![configured.join(own)]
        } else {
            let mut beside = pgdata.into_os_string();
            beside.push(".holdfast/spool");
            let with_wal = pg_wal.parent().map(|parent| parent.join(NAME_AMONG_OTHERS));
            let in_state = state.map(|state| state.join("spool").join(own));
            [Some(beside.into()), with_wal, in_state].into_iter().flatten().collect()
        };
        Self { candidates, pg_wal }
    }

    /// The spool that is there; `None` when there is none, or none that is private.
    pub fn find(&self) -> Option<Spool> {
        let there = |path: &&PathBuf| private::is_there(path).unwrap_or(false);
        self.candidates.iter().find(there).map(|path| Spool { folder: path.clone() })
    }

    /// The spool that is there, or a new one at the best place that can be had: on `pg_wal`'s file system before
    /// elsewhere. The error is that of the last attempt.
    pub fn find_or_make(&self) -> io::Result<Spool> {
        if let Some(spool) = self.find() {
            return Ok(spool);
        }
        let is_near = |path: &&PathBuf| space::same_file_system(path, &self.pg_wal).unwrap_or(false);
        let (near, far): (Vec<_>, Vec<_>) = self.candidates.iter().partition(is_near);
        let mut failure = io::Error::from(io::ErrorKind::NotFound);
        for path in near.into_iter().chain(far) {
            match private::make(path) {
                Ok(()) => return Ok(Spool { folder: path.clone() }),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }
}

impl Spool {
    /// The private folder `name` in it, made when absent.
    pub fn folder(&self, name: &str) -> io::Result<PathBuf> {
        let path = self.folder.join(name);
        private::make(&path)?;
        Ok(path)
    }

    /// The path of something in it.
    pub fn path(&self, name: impl AsRef<OsStr>) -> PathBuf {
        self.folder.join(Path::new(name.as_ref()))
    }

    /// Whether `what` is to be said now: it was not in the last while. Asking makes it said. Where that cannot be
    /// written down it is always to be said.
    pub fn is_news(&self, what: &str, again_after: Duration) -> bool {
        let Ok(folder) = self.folder("said") else { return true };
        let path = folder.join(Digest::of(what.as_bytes()).to_string());
        let age = fs::metadata(&path).and_then(|found| found.modified()).ok().and_then(|said| said.elapsed().ok());
        if age.is_some_and(|age| age < again_after) {
            return false;
        }
        drop(passing::replace(&path, b"", 0o600));
        true
    }

    /// Removes the spool's empty folders, up to the one that was made for it alone. What is not empty stays.
    pub fn remove_if_empty(&self) {
        let is_own = |path: &&Path| path.extension().is_some_and(|extension| extension == "holdfast");
        for path in std::iter::once(self.folder.as_path()).chain(self.folder.parent().filter(is_own)) {
            if passing::remove_empty_dir(path).is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn data_directory() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let pgdata = folder.path().join("data");
        fs::create_dir_all(pgdata.join("pg_wal")).unwrap();
        (folder, pgdata.canonicalize().unwrap())
    }

    #[test]
    fn lies_beside_the_data_directory() {
        let (folder, pgdata) = data_directory();
        let places = Places::of(&pgdata, None, None);
        assert_eq!(places.find(), None);
        let spool = places.find_or_make().unwrap();
        assert_eq!(spool.folder, pgdata.with_file_name("data.holdfast").join("spool"));
        assert_eq!(places.find(), Some(spool.clone()));
        spool.remove_if_empty();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_place_that_others_can_reach_is_passed_over() {
        let (_folder, pgdata) = data_directory();
        let places = Places::of(&pgdata, None, None);
        let open = places.find_or_make().unwrap().folder;
        fs::set_permissions(&open, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(places.find_or_make().unwrap().folder, pgdata.join(NAME_AMONG_OTHERS));
    }

    #[test]
    fn data_directories_share_a_configured_place() {
        let ((one, first), (_two, second)) = (data_directory(), data_directory());
        let shared = one.path().join("spool");
        let spool = |pgdata: &Path| Places::of(pgdata, Some(&shared), None).find_or_make().unwrap().folder;
        assert_ne!(spool(&first), spool(&second));
        assert_eq!(spool(&first).parent().unwrap(), shared);
    }

    #[test]
    fn news_is_told_once_in_a_while() {
        let (_folder, pgdata) = data_directory();
        let spool = Places::of(&pgdata, None, None).find_or_make().unwrap();
        let hour = Duration::from_hours(1);
        assert!(spool.is_news("the disk is full", hour) && !spool.is_news("the disk is full", hour));
        assert!(spool.is_news("another", hour));
        assert!(spool.is_news("the disk is full", Duration::ZERO));
    }
}
