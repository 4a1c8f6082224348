//! Where a repository's bytes lie.
//!
//! A [`Store`] keeps immutable objects under [`Key`]s. Every implementation passes one conformance suite
//! (`store::conformance`). Nothing here knows what the objects mean.

#[cfg(test)]
mod conformance;
mod fault;
mod local;
mod memory;
mod open;

use std::fmt;
use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};

pub use fault::FaultStore;
pub use local::LocalStore;
pub use memory::MemoryStore;
pub use open::open;

pub use crate::sys::faults::{FaultKind, FaultPlan};

/// The name of an object: relative, components separated by `/`, none empty, `.`, `..` or hidden.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

impl Key {
    /// The longest key in bytes.
    pub const LENGTH_MAX: usize = 1024;

    /// The key with this text.
    pub fn new(text: impl Into<String>) -> Result<Self, StoreError> {
        let text = text.into();
        let good = |part: &str| {
            !part.is_empty()
                && part.len() <= 255
                && !part.starts_with('.')
                && part.bytes().all(|b| b.is_ascii_graphic())
        };
        if text.len() <= Self::LENGTH_MAX && text.split('/').all(good) {
            Ok(Self(text))
        } else {
            Err(StoreError::BadKey(text.chars().take(80).collect()))
        }
    }

    /// The key's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What stands after the last slash.
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a store says of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The object's key.
    pub key: Key,
    /// Its size in bytes.
    pub size: u64,
    /// When it was written, by the store's clock.
    pub modified: DateTime<Utc>,
}

/// Whether a conditional create made the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// The object is new, whole and durable.
    Created,
    /// An object of that name was there; it is unchanged and durable.
    Exists,
}

/// Why a store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No object has this key.
    #[error("{0}: no such object")]
    NotFound(String),
    /// The folder (bucket, …) that should hold the store is not there.
    #[error("{0}: no such repository folder")]
    NoRoot(String),
    /// A symbolic link, which could lead anywhere, lies where an object or a folder should be.
    #[error("{0}: a symbolic link inside a repository is not followed")]
    Link(String),
    /// The text cannot be a key.
    #[error("{0:?} cannot be the name of an object")]
    BadKey(String),
    /// Anything else; trying again may help unless [`StoreError::is_permanent`].
    #[error("{what}")]
    Io {
        /// What was being done, in the present tense, with the key or path.
        what: String,
        /// The operating system's answer.
        source: std::io::Error,
    },
}

impl StoreError {
    /// What helps against it, where that does not depend on what was being done.
    pub fn cure(&self) -> Option<&'static str> {
        match self {
            Self::NoRoot(_) => Some("check the path and that its file system is mounted"),
            Self::Link(_) => Some("put what it leads to in its place; only the repository's own folder may be a link"),
            Self::NotFound(_) | Self::BadKey(_) | Self::Io { .. } => None,
        }
    }

    /// Whether the same call will fail the same way until somebody changes something.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::NotFound(_) | Self::NoRoot(_) | Self::Link(_) | Self::BadKey(_) => true,
            Self::Io { source, .. } => matches!(
                source.kind(),
                std::io::ErrorKind::PermissionDenied
                    | std::io::ErrorKind::ReadOnlyFilesystem
                    | std::io::ErrorKind::NotADirectory
                    | std::io::ErrorKind::IsADirectory
            ),
        }
    }
}

/// An object on its way into a store. Dropping it without [`Upload::publish_new`] leaves nothing visible.
pub trait Upload: Write + Send {
    /// Makes the object visible and durable unless one of its name exists, which then stays as it is and is made
    /// durable too (file, directory and every directory above it up to the store's root). Never replaces.
    fn publish_new(self: Box<Self>) -> Result<Published, StoreError>;

    /// Gives the object up and removes what was written. Safe to skip: dropping does the same as far as it can.
    fn abort(self: Box<Self>);
}

/// A place for immutable objects. Calls block; every method may be called from several threads at once.
pub trait Store: Send + Sync + fmt::Debug {
    /// The place in the words of the user's configuration, without secrets.
    fn describe(&self) -> String;

    /// Starts a new object. Nothing is visible before [`Upload::publish_new`].
    fn begin(&self, key: &Key) -> Result<Box<dyn Upload>, StoreError>;

    /// Writes a small object whole, durably, in place of any that has its name. Readers see the old or the new bytes.
    fn replace(&self, key: &Key, bytes: &[u8]) -> Result<(), StoreError>;

    /// The object's bytes from the first to the last. [`StoreError::NotFound`] when there is none.
    fn get(&self, key: &Key) -> Result<Box<dyn Read + Send>, StoreError>;

    /// `length` bytes from `offset` on, fewer where the object ends before.
    fn get_range(&self, key: &Key, offset: u64, length: u64) -> Result<Box<dyn Read + Send>, StoreError>;

    /// Up to `limit` objects whose keys start with `prefix` and come after `start_after`, in the byte order of their
    /// keys. Uploads that are not published never appear. An empty answer when nothing matches.
    /// [`StoreError::NoRoot`] when the store itself is not there.
    fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Vec<Entry>, StoreError>;

    /// Removes objects, durably. Those that are not there are passed over. Empty folders left behind may go.
    fn delete(&self, keys: &[Key]) -> Result<(), StoreError>;

    /// What the store knows of the object; `None` when there is none.
    fn stat(&self, key: &Key) -> Result<Option<Entry>, StoreError>;

    /// Removes what uploads that died left behind, where it is older than `age`; answers how many.
    fn sweep_unpublished(&self, age: Duration) -> Result<u64, StoreError>;
}

impl<S: Store + ?Sized> Store for Arc<S> {
    fn describe(&self) -> String {
        (**self).describe()
    }

    fn begin(&self, key: &Key) -> Result<Box<dyn Upload>, StoreError> {
        (**self).begin(key)
    }

    fn replace(&self, key: &Key, bytes: &[u8]) -> Result<(), StoreError> {
        (**self).replace(key, bytes)
    }

    fn get(&self, key: &Key) -> Result<Box<dyn Read + Send>, StoreError> {
        (**self).get(key)
    }

    fn get_range(&self, key: &Key, offset: u64, length: u64) -> Result<Box<dyn Read + Send>, StoreError> {
        (**self).get_range(key, offset, length)
    }

    fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Vec<Entry>, StoreError> {
        (**self).list(prefix, start_after, limit)
    }

    fn delete(&self, keys: &[Key]) -> Result<(), StoreError> {
        (**self).delete(keys)
    }

    fn stat(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        (**self).stat(key)
    }

    fn sweep_unpublished(&self, age: Duration) -> Result<u64, StoreError> {
        (**self).sweep_unpublished(age)
    }
}
