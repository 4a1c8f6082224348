//! Whole directory trees.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::Path;

use super::durable::sync_dir;
use super::faults;

/// Makes every file and directory of a tree durable, but for what `leave_out` says of the names at its top. Symbolic
/// links are not followed.
///
/// The file system writes everything out at once first; syncing each file after that costs little and brings up every
/// write error.
pub fn sync(root: &Path, leave_out: impl Fn(&OsStr) -> bool) -> io::Result<()> {
    faults::call("sync all of", root, || Ok(nix::unistd::syncfs(&File::open(root)?)?))?;
    sync_each(root, &leave_out)
}

fn sync_each(directory: &Path, leave_out: &dyn Fn(&OsStr) -> bool) -> io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if leave_out(&entry.file_name()) {
            continue;
        }
        let kind = entry.file_type()?;
        if kind.is_dir() {
            sync_each(&entry.path(), &|_| false)?;
        } else if kind.is_file() {
            super::durable::sync_file(&entry.path())?;
        }
    }
    sync_dir(directory)
}

/// Bytes of all files of a tree, as their sizes say; links count nothing. Files that vanish meanwhile are passed over.
pub fn size(directory: &Path) -> io::Result<u64> {
    let mut total = 0;
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let metadata = match entry.metadata() {
            Err(err) if err.kind() == io::ErrorKind::NotFound => continue,
            result => result?,
        };
        if metadata.is_dir() {
            total += match size(&entry.path()) {
                Err(err) if err.kind() == io::ErrorKind::NotFound => 0,
                result => result?,
            };
        } else if metadata.is_file() {
            total += metadata.len();
        }
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syncs_and_measures_a_tree() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("a")).unwrap();
        File::create(dir.path().join("a/b")).unwrap().set_len(1000).unwrap();
        std::os::unix::fs::symlink("/nowhere", dir.path().join("link")).unwrap();
        sync(dir.path(), |_| false).unwrap();
        assert_eq!(size(dir.path()).unwrap(), 1000);
        assert!(sync(&dir.path().join("missing"), |_| false).is_err());
    }
}
