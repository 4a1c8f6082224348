//! What a server remembers of the repositories that it has written to.
//!
//! An empty folder where a repository used to be is most often a disk that is not mounted. Nothing in the folder can
//! tell it from one that is yet to be used; so what was there is written down where it outlasts both the disk and the
//! data directory: in the state directory, `repositories/<digest of the place>.json`, one small record a repository.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::codec::Digest;
use crate::repo::envelope::{self, Record};
use crate::report::Advice;
use crate::sys::{durable, faults, private};

/// The memory in one state directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Memory {
    folder: PathBuf,
}

/// A repository that was written to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Where it lies, as [`crate::store::Store::describe`] says it.
    pub place: String,
    /// Its random name, [`super::Repository::id`].
    pub id: String,
    /// When it was first written to.
    pub since: DateTime<Utc>,
}

impl Record for Known {
    const KIND: &'static str = "known-repository";
    const MENDING: &'static str = "remove it, once the repository is where it belongs";
}

impl Memory {
    /// That in this state directory, which need not exist.
    pub fn in_directory(state: &Path) -> Self {
        Self { folder: state.join("repositories") }
    }

    /// The repository that was written to at this place; `None` when there was none. A record that cannot be read is
    /// an error: it stands for a repository.
    pub fn recall(&self, place: &str) -> anyhow::Result<Option<Known>> {
        let path = self.path(place);
        let bytes = match faults::call("read", &path, || std::fs::read(&path)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        };
        let unreadable = || Advice::failed(format!("read {}", path.display())).hint(Known::MENDING);
        envelope::open(&bytes).map(Some).with_context(unreadable)
    }

    /// Writes down, durably, what lies at the place, in place of what was known of it.
    pub fn note(&self, known: &Known) -> anyhow::Result<()> {
        let path = self.path(&known.place);
        private::make(&self.folder)
            .and_then(|()| durable::replace(&path, &envelope::seal(known).map_err(io::Error::other)?, 0o600))
            .with_context(|| format!("write {}", path.display()))
    }

    fn path(&self, place: &str) -> PathBuf {
        self.folder.join(format!("{}.json", Digest::of(place.as_bytes())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_the_last_one_at_each_place() {
        let state = tempfile::tempdir().unwrap();
        let memory = Memory::in_directory(&state.path().join("holdfast"));
        let known = |place: &str, id: &str| Known {
            place: place.to_owned(),
            id: id.to_owned(),
            since: DateTime::from_timestamp(1_700_000_000, 0).unwrap(),
        };
        assert_eq!(memory.recall("/a").unwrap(), None);
        for known in [known("/a", "1"), known("/b", "2"), known("/a", "3")] {
            memory.note(&known).unwrap();
        }
        assert_eq!(memory.recall("/a").unwrap(), Some(known("/a", "3")));
        assert_eq!(memory.recall("/b").unwrap(), Some(known("/b", "2")));
        assert_eq!(memory.recall("/a/").unwrap(), None);
    }

    #[test]
    fn what_cannot_be_read_is_not_forgotten() {
        let state = tempfile::tempdir().unwrap();
        let memory = Memory::in_directory(state.path());
        private::make(&state.path().join("repositories")).unwrap();
        durable::replace(&memory.path("/a"), b"{}", 0o600).unwrap();
        assert!(memory.recall("/a").is_err());
    }
}
