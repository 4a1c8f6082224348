//! Where files lie, and how much room there is.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::statvfs::statvfs;

/// The path itself or, where that is not there yet, the deepest of its ancestors that is.
fn nearest_existing(path: &Path) -> io::Result<(PathBuf, fs::Metadata)> {
    for ancestor in path.ancestors() {
        let ancestor = if ancestor.as_os_str().is_empty() { Path::new(".") } else { ancestor };
        match fs::metadata(ancestor) {
            Ok(metadata) => return Ok((ancestor.to_owned(), metadata)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

/// The room in a file system, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// What this user can still write.
    pub available: u64,
    /// All there is.
    pub total: u64,
}

/// The room under `path`, which need not be there yet.
pub fn room(path: &Path) -> io::Result<Room> {
    let (existing, _) = nearest_existing(path)?;
    let answer = statvfs(&existing)?;
    let bytes = |blocks: u64| blocks.saturating_mul(answer.fragment_size());
    Ok(Room { available: bytes(answer.blocks_available()), total: bytes(answer.blocks()) })
}

/// How many bytes this user can still write under `path`, which need not be there yet.
pub fn available(path: &Path) -> io::Result<u64> {
    room(path).map(|room| room.available)
}

/// Whether a file can be renamed from one path to the other as far as the file system goes; neither need be there yet.
pub fn same_file_system(a: &Path, b: &Path) -> io::Result<bool> {
    Ok(nearest_existing(a)?.1.dev() == nearest_existing(b)?.1.dev())
}

/// Whether something is mounted at `path`, bind mounts included; such a directory cannot be renamed or removed.
pub fn is_mount_point(path: &Path) -> io::Result<bool> {
    let path = path.canonicalize()?;
    let Some(parent) = path.parent() else { return Ok(true) };
    if fs::metadata(&path)?.dev() != fs::metadata(parent)?.dev() {
        return Ok(true);
    }
    // A bind mount from the same file system shows only in the kernel's table. Without the table there is no more to
    // learn; renaming such a directory then fails with "device or resource busy" and changes nothing.
    let table = fs::read("/proc/self/mountinfo").unwrap_or_default();
    Ok(mount_points(&table).any(|mounted| mounted == path))
}

/// Whether both are the same file or directory, by whatever ways; nothing is the same as what is not there.
pub fn is_same(one: &Path, other: &Path) -> bool {
    let identity = |path| fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino()));
    matches!((identity(one), identity(other)), (Ok(one), Ok(other)) if one == other)
}

/// What is mounted below `path`, at any depth.
pub fn mount_points_below(path: &Path) -> io::Result<Vec<PathBuf>> {
    let path = path.canonicalize()?;
    let table = fs::read("/proc/self/mountinfo").unwrap_or_default();
    Ok(mount_points(&table).filter(|mounted| mounted.starts_with(&path) && *mounted != path).collect())
}

/// Where the file system is mounted that `path` lies on, or would lie on: it need not be there yet.
pub fn mount_point_of(path: &Path) -> io::Result<PathBuf> {
    let (existing, _) = nearest_existing(path)?;
    let existing = existing.canonicalize()?;
    for ancestor in existing.ancestors() {
        if is_mount_point(ancestor)? {
            return Ok(ancestor.to_owned());
        }
    }
    Ok(PathBuf::from("/"))
}

/// The mount points of a `mountinfo` table (proc(5)): the fifth field of each line.
fn mount_points(table: &[u8]) -> impl Iterator<Item = PathBuf> {
    table
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.split(|byte| *byte == b' ').nth(4))
        .map(|field| PathBuf::from(OsStr::from_bytes(&unescape(field))))
}

/// Undoes the kernel's escapes: `\040` for a space.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        rest = tail;
        let octal = tail.get(..3).and_then(|digits| u8::from_str_radix(str::from_utf8(digits).ok()?, 8).ok());
        match octal.filter(|_| *first == b'\\') {
            Some(byte) => {
                plain.push(byte);
                rest = tail.get(3..).unwrap_or_default();
            }
            None => plain.push(*first),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measures_where_nothing_is_yet() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("a/b/c");
        assert!(available(&missing).unwrap() > 0);
        assert!(available(Path::new("not/here")).unwrap() > 0);
        assert!(same_file_system(&missing, dir.path()).unwrap());
        assert!(!same_file_system(&missing, Path::new("/proc/self")).unwrap());
        fs::File::create(dir.path().join("file")).unwrap();
        assert!(available(&dir.path().join("file/below")).is_err());
    }

    #[test]
    fn knows_mount_points() {
        let dir = tempfile::tempdir().unwrap();
        assert!(is_mount_point(Path::new("/")).unwrap());
        assert!(is_mount_point(Path::new("/proc")).unwrap());
        assert!(!is_mount_point(dir.path()).unwrap());
        assert!(is_mount_point(&dir.path().join("missing")).is_err());
        assert!(mount_points_below(Path::new("/")).unwrap().contains(&"/proc".into()));
        assert!(mount_points_below(dir.path()).unwrap().is_empty());
        assert_eq!(mount_point_of(Path::new("/proc/self/missing/x")).unwrap(), Path::new("/proc"));
        let around = mount_point_of(&dir.path().join("missing")).unwrap();
        assert!(is_mount_point(&around).unwrap() && dir.path().canonicalize().unwrap().starts_with(around));
    }

    #[test]
    fn reads_the_kernel_s_table() {
        let table = b"25 1 0:21 / /proc rw,nosuid - proc proc rw\n\
            91 1 8:1 /data /srv/pg\\040data rw shared:7 - ext4 /dev/sda1 rw\n\nshort line\n\
            92 1 8:1 /x /end\\ rw - ext4 /dev/sda1 rw\n";
        let points: Vec<_> = mount_points(table).collect();
        assert_eq!(points, ["/proc", "/srv/pg data", "/end\\"].map(PathBuf::from));
    }
}
