//! Keeps two processes on one machine from doing the same thing at once.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};

use super::faults;

/// A lock on a file, held until it is dropped or the process ends, however it ends. Child programs do not inherit it.
#[derive(Debug)]
pub struct FileLock {
    _held: Flock<File>,
}

impl FileLock {
    /// Takes the lock, or answers `None` at once when somebody else has it, be it in this process.
    ///
    /// The file is made (mode 0600) where it is missing, and stays unless its holder removes it: see
    /// [`FileLock::remove`]. A symbolic link in its place is refused.
    pub fn try_exclusive(path: &Path) -> io::Result<Option<Self>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(OFlag::O_NOFOLLOW.bits());
        let file = faults::call("open", path, || options.open(path))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            // Its last holder has removed it between our two steps; whoever comes next makes another.
            Ok(held) if !is_at(&held, path) => Ok(None),
            Ok(held) => Ok(Some(Self { _held: held })),
            Err((_, Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, errno)) => Err(errno.into()),
        }
    }

    /// Gives the lock up and removes its file, which `path` must be. Nobody can hold it at that moment, and nobody who
    /// opened it before mistakes it for the next one.
    pub fn remove(self, path: &Path) -> io::Result<()> {
        super::passing::remove(path)
    }
}

/// Whether the open file is the one that has the name.
fn is_at(file: &File, path: &Path) -> bool {
    let identity = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
    let named = std::fs::symlink_metadata(path).map(identity).ok();
    named.is_some() && named == file.metadata().map(identity).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = FileLock::try_exclusive(&path).unwrap();
        assert!(first.is_some());
        assert!(FileLock::try_exclusive(&path).unwrap().is_none());
        drop(first);
        assert!(FileLock::try_exclusive(&path).unwrap().is_some());
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_removed_lock_is_nobodys() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let early = File::create(&path).unwrap();
        let held = FileLock::try_exclusive(&path).unwrap().unwrap();
        held.remove(&path).unwrap();
        let late = Flock::lock(early, FlockArg::LockExclusiveNonblock).unwrap();
        assert!(!is_at(&late, &path));
        assert!(FileLock::try_exclusive(&path).unwrap().is_some());
        assert!(!is_at(&late, &path), "another file has the name");
    }

    #[test]
    fn what_cannot_be_opened_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        symlink(dir.path().join("elsewhere"), &link).unwrap();
        assert!(FileLock::try_exclusive(&link).is_err());
        assert!(FileLock::try_exclusive(&dir.path().join("missing/lock")).is_err());
    }
}
