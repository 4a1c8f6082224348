//! File operations that survive a power cut.
//!
//! A write is durable when the file's bytes *and* the directory entry that leads to them are on disk, for every
//! directory that was made on the way. Everything here answers only after that, or with an error. Nothing is ever
//! committed by a destructor: dropping a [`TemporaryFile`] removes it.
//!
//! Errors are the operating system's own; callers add what they were doing, with the path.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, RenameFlags, renameat2};

use super::faults;
use crate::codec::read_full;

const TEMPORARY_PREFIX: &str = ".holdfast-";
const TEMPORARY_SUFFIX: &str = ".tmp";
/// How many random names are tried before giving up; one is enough unless somebody plays with us.
const NAME_ATTEMPTS_MAX: u32 = 16;

/// The directory that holds `path`'s entry; `.` for a bare name.
pub(super) fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes a directory's entries durable.
///
/// File systems that cannot sync a directory say so with `EINVAL` or `EBADF`; like PostgreSQL (`fsync_fname_ext` in
/// `src/backend/storage/file/fd.c`) this takes that for done, because nothing more can be.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    faults::call("sync", dir, || sync_opened_dir(&File::open(dir)?))
}

fn sync_opened_dir(dir: &File) -> io::Result<()> {
    match dir.sync_all() {
        Err(error) if matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::EINVAL | Errno::EBADF)) => Ok(()),
        result => result,
    }
}

/// Makes a file's bytes and metadata durable, whoever wrote them. Its directory entry is [`sync_dir`]'s business.
pub fn sync_file(path: &Path) -> io::Result<()> {
    faults::call("sync", path, || File::open(path)?.sync_all())
}

/// Opens a file for reading, never through a symbolic link in the last component of its path.
pub fn open_nofollow(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(OFlag::O_NOFOLLOW.bits());
    faults::call("open", path, || options.open(path))
}

/// Makes the directory and every missing one above it, each durable before the next is made. Calling it for one
/// that exists is cheap and safe, also while others do the same; `mode` is subject to the umask. While others *remove*
/// empty directories on the way it may answer [`io::ErrorKind::NotFound`]: try again.
///
/// On success the whole path is durable even when an earlier call was cut short: only the deepest existing directory
/// can then lack a durable entry, and its parent is synced here as well.
pub fn create_dir_all(path: &Path, mode: u32) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => return sync_foreign_parent(path),
        Ok(_) => return Err(Errno::ENOTDIR.into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let parent = parent_of(path);
    if parent != path {
        create_dir_all(parent, mode)?;
    }
    match faults::call("make", path, || DirBuilder::new().mode(mode).create(path)) {
        Ok(()) => sync_dir(parent),
        // Somebody else was faster; or has removed it again, which the caller learns as `NotFound`.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            if fs::metadata(path)?.is_dir() {
                sync_dir(parent)
            } else {
                Err(Errno::ENOTDIR.into())
            }
        }
        Err(error) => Err(error),
    }
}

/// Syncs the parent of a directory that was already there. Where it cannot be opened the directory was made by
/// somebody with other rights, long before: its durability is not ours. What can be opened must also be synced.
fn sync_foreign_parent(path: &Path) -> io::Result<()> {
    let parent = parent_of(path);
    faults::call("sync", parent, || match File::open(parent) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        opened => sync_opened_dir(&opened?),
    })
}

/// Whether a file of this name is a [`TemporaryFile`] of some Holdfast process, alive or dead.
pub fn is_temporary_name(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| name.starts_with(TEMPORARY_PREFIX) && name.ends_with(TEMPORARY_SUFFIX))
}

/// A name for a [`TemporaryFile`] in `dir`, for who must note it before there is such a file.
pub fn temporary_path(dir: &Path) -> PathBuf {
    let random = fastrand::u64(..);
    dir.join(format!("{TEMPORARY_PREFIX}{}-{random:016x}{TEMPORARY_SUFFIX}", std::process::id()))
}

/// Removes the [`TemporaryFile`]s in `dir` that nobody has written to for `age`: a killed process left them. Best effort:
/// what cannot be looked at or removed stays.
pub fn sweep_temporaries(dir: &Path, age: Duration) {
    let is_stale = |entry: &fs::DirEntry| {
        let unwritten =
            entry.metadata().and_then(|metadata| metadata.modified()).ok().and_then(|time| time.elapsed().ok());
        is_temporary_name(&entry.file_name()) && unwritten.is_some_and(|unwritten| unwritten > age)
    };
    for entry in fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok).filter(is_stale) {
        // Somebody else may have swept it meanwhile.
        drop(faults::call("remove", &entry.path(), || fs::remove_file(entry.path())));
    }
}

/// A file under a temporary, hidden name (`.holdfast-<pid>-<random>.tmp`) in the directory of its destination.
///
/// Dropping it removes it. A crash leaves it behind under its temporary name ([`is_temporary_name`]).
#[derive(Debug)]
pub struct TemporaryFile {
    file: File,
    path: PathBuf,
    /// Whether `path` is still ours to remove.
    pending: bool,
}

impl TemporaryFile {
    /// A new, empty file in `dir`, open for reading and writing, never one that was there before (`O_EXCL`).
    pub fn create_in(dir: &Path, mode: u32) -> io::Result<Self> {
        let mut attempts = 0;
        loop {
            match Self::create(&temporary_path(dir), mode) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && attempts < NAME_ATTEMPTS_MAX => {
                    attempts += 1;
                }
                result => return result,
            }
        }
    }

    /// The same under a name that [`temporary_path`] has given.
    pub fn create(path: &Path, mode: u32) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(mode);
        let file = faults::call("make", path, || options.open(path))?;
        Ok(Self { file, path: path.to_owned(), pending: true })
    }

    /// Where the file lies for now.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Gives the file the name `dest`, on the same file system, unless something has it; `false` when something does,
    /// which then stays as it is (and is *not* synced here). `true` means whole and durable.
    ///
    /// After an error the file may or may not be at `dest`; it is whole if it is, except on file systems that know
    /// neither links nor an exclusive rename, where a crash can leave a shorter file.
    pub fn publish_new(mut self, dest: &Path) -> io::Result<bool> {
        self.sync()?;
        if !self.name_exclusively(dest)? {
            return Ok(false);
        }
        // The temporary name goes first, so that one sync covers both entries.
        drop(self);
        sync_dir(parent_of(dest))?;
        Ok(true)
    }

    /// Link, else exclusive rename, else exclusive create and copy: what network and FAT file systems lack differs.
    fn name_exclusively(&mut self, dest: &Path) -> io::Result<bool> {
        match faults::call("link", dest, || fs::hard_link(&self.path, dest)) {
            // The second name stays a little longer if it cannot be removed now: drop tries again, then a sweep.
            Ok(()) => return Ok(true),
            // NFS may have done it and lost the answer: the retry then finds our own file.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return self.is_same_file(dest),
            Err(error) if !link_is_unsupported(&error) => return Err(error),
            Err(_) => {}
        }
        match rename_noreplace(&self.path, dest) {
            Ok(()) => {
                self.pending = false;
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) if noreplace_is_unsupported(&error) => self.copy_exclusively(dest),
            Err(error) => Err(error),
        }
    }

    fn sync(&self) -> io::Result<()> {
        faults::call("sync", &self.path, || self.file.sync_all())
    }

    fn is_same_file(&self, dest: &Path) -> io::Result<bool> {
        let (ours, theirs) = (self.file.metadata()?, fs::symlink_metadata(dest)?);
        Ok((ours.dev(), ours.ino()) == (theirs.dev(), theirs.ino()))
    }

    fn copy_exclusively(&mut self, dest: &Path) -> io::Result<bool> {
        let mode = self.file.metadata()?.permissions().mode() & 0o7777;
        let mut copy = match OpenOptions::new().read(true).write(true).create_new(true).mode(mode).open(dest) {
            Ok(copy) => copy,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
            Err(error) => return Err(error),
        };
        let copied = copy_and_read_back(&mut self.file, &mut copy);
        if copied.is_err() {
            // The first error is the one to tell; what cannot be removed is found damaged by every reader.
            drop(fs::remove_file(dest));
        }
        copied.map(|()| true)
    }

    /// Gives the file the name `dest` in place of any file that has it, and syncs nothing: for callers who sync the
    /// file themselves. Readers see the old or the new bytes; a power cut may leave anything.
    pub fn rename_unsynced(mut self, dest: &Path) -> io::Result<()> {
        rename_over(&self.path, dest)?;
        self.pending = false;
        Ok(())
    }

    /// Gives the file the name `dest`, on the same file system, in place of any file that has it. Readers see the
    /// old or the new bytes, also after a crash; after success the new ones, also after a power cut.
    pub fn replace(mut self, dest: &Path) -> io::Result<()> {
        self.sync()?;
        rename_over(&self.path, dest)?;
        self.pending = false;
        sync_dir(parent_of(dest))
    }
}

impl Write for TemporaryFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        faults::write(&self.path, bytes, |bytes| self.file.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        if self.pending {
            // A file that cannot be removed stays under its temporary name, where a later sweep finds it.
            drop(faults::call("remove", &self.path, || fs::remove_file(&self.path)));
        }
    }
}

/// Gives a file a second name on the same file system, durably. [`io::ErrorKind::AlreadyExists`] when something has it.
pub fn link_new(file: &Path, name: &Path) -> io::Result<()> {
    faults::call("link", name, || fs::hard_link(file, name))?;
    sync_dir(parent_of(name))
}

/// Whether this file system has no hard links (or none left for this file), as its answer shows.
fn link_is_unsupported(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error().map(Errno::from_raw),
        Some(Errno::EPERM | Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EMLINK | Errno::EINVAL)
    )
}

fn noreplace_is_unsupported(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP))
}

fn rename_noreplace(from: &Path, to: &Path) -> io::Result<()> {
    let rename = || Ok(renameat2(AT_FDCWD, from, AT_FDCWD, to, RenameFlags::RENAME_NOREPLACE)?);
    faults::call("rename to", to, rename)
}

#[expect(clippy::disallowed_methods, reason = "this module is where renaming is allowed")]
pub(super) fn rename_over(from: &Path, to: &Path) -> io::Result<()> {
    faults::call("rename to", to, || fs::rename(from, to))
}

fn copy_and_read_back(source: &mut File, copy: &mut File) -> io::Result<()> {
    source.seek(SeekFrom::Start(0))?;
    io::copy(source, copy)?;
    copy.sync_all()?;
    source.seek(SeekFrom::Start(0))?;
    copy.seek(SeekFrom::Start(0))?;
    let (mut written, mut found) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    loop {
        let expected = read_full(source, &mut written)?;
        let got = read_full(copy, &mut found)?;
        if written.get(..expected) != found.get(..got) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the bytes read back are not those written"));
        }
        if expected == 0 {
            return Ok(());
        }
    }
}

/// A new file with these bytes, whole and durable; `false` when something has the name, which stays as it is.
pub fn write_new(dest: &Path, bytes: &[u8], mode: u32) -> io::Result<bool> {
    let mut file = TemporaryFile::create_in(parent_of(dest), mode)?;
    file.write_all(bytes)?;
    file.publish_new(dest)
}

/// The file with these bytes, in place of any that has the name. See [`TemporaryFile::replace`].
pub fn replace(dest: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = TemporaryFile::create_in(parent_of(dest), mode)?;
    file.write_all(bytes)?;
    file.replace(dest)
}

/// Renames within a file system, in place of a file (or empty directory) that has the name; durable in both
/// directories. The file's own bytes are not synced.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    rename_over(from, to)?;
    sync_parents(from, to)
}

/// Renames a file or directory within a file system, durably, and refuses ([`io::ErrorKind::AlreadyExists`]) when
/// something has the name.
///
/// Where the file system knows no exclusive rename, the name is looked up first: then two processes that rename to
/// one name at the same moment are not kept apart.
pub fn rename_exclusive(from: &Path, to: &Path) -> io::Result<()> {
    match rename_noreplace(from, to) {
        Ok(()) => {}
        Err(error) if noreplace_is_unsupported(&error) => match fs::symlink_metadata(to) {
            Ok(_) => return Err(Errno::EEXIST.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => rename_over(from, to)?,
            Err(error) => return Err(error),
        },
        Err(error) => return Err(error),
    }
    sync_parents(from, to)
}

/// The new name first: a cut between the two leaves both names rather than none.
fn sync_parents(from: &Path, to: &Path) -> io::Result<()> {
    let (old, new) = (parent_of(from), parent_of(to));
    sync_dir(new)?;
    if old == new { Ok(()) } else { sync_dir(old) }
}

/// Removes a file or a symbolic link, durably. [`io::ErrorKind::NotFound`] when there is none.
pub fn remove_file(path: &Path) -> io::Result<()> {
    faults::call("remove", path, || fs::remove_file(path))?;
    sync_dir(parent_of(path))
}

/// Removes a directory with everything in it, durably. Symbolic links are removed, never followed, `path` itself
/// included. A crash leaves part of it; calling again goes on.
#[expect(clippy::disallowed_methods, reason = "this module is where removing a tree is allowed")]
pub fn remove_tree(path: &Path) -> io::Result<()> {
    faults::call("remove", path, || fs::remove_dir_all(path))?;
    sync_dir(parent_of(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn publishes_once_and_never_replaces() {
        let dir = folder();
        let dest = dir.path().join("object");
        assert!(write_new(&dest, b"first", 0o640).unwrap());
        assert!(!write_new(&dest, b"second", 0o640).unwrap());
        assert_eq!(fs::read(&dest).unwrap(), b"first");
        assert_eq!(names(dir.path()), ["object"]);
        assert_eq!(fs::metadata(&dest).unwrap().nlink(), 1);
    }

    #[test]
    fn finding_its_own_file_under_the_name_is_success() {
        let dir = folder();
        let dest = dir.path().join("object");
        let mut file = TemporaryFile::create_in(dir.path(), 0o600).unwrap();
        file.write_all(b"bytes").unwrap();
        fs::hard_link(file.path(), &dest).unwrap();
        assert!(file.publish_new(&dest).unwrap());
        assert_eq!(names(dir.path()), ["object"]);
    }

    #[test]
    fn does_not_publish_through_a_symbolic_link() {
        let dir = folder();
        let dest = dir.path().join("object");
        symlink(dir.path().join("elsewhere"), &dest).unwrap();
        assert!(!write_new(&dest, b"bytes", 0o600).unwrap());
        assert_eq!(names(dir.path()), ["object"]);
    }

    #[test]
    fn copies_exclusively_where_nothing_better_works() {
        let dir = folder();
        let dest = dir.path().join("object");
        let bytes: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
        let mut file = TemporaryFile::create_in(dir.path(), 0o640).unwrap();
        file.write_all(&bytes).unwrap();
        assert!(file.copy_exclusively(&dest).unwrap());
        assert!(!file.copy_exclusively(&dest).unwrap());
        drop(file);
        assert_eq!(fs::read(&dest).unwrap(), bytes);
        assert_eq!(names(dir.path()), ["object"]);
    }

    #[test]
    fn sweeps_only_what_is_temporary_and_old() {
        let dir = folder();
        let left = TemporaryFile::create_in(dir.path(), 0o600).unwrap();
        File::create(dir.path().join("other")).unwrap();
        sweep_temporaries(dir.path(), Duration::from_hours(1));
        assert_eq!(names(dir.path()).len(), 2);
        left.file().set_modified(std::time::UNIX_EPOCH).unwrap();
        sweep_temporaries(dir.path(), Duration::from_hours(1));
        assert_eq!(names(dir.path()), ["other"]);
        sweep_temporaries(&dir.path().join("missing"), Duration::ZERO);
    }

    #[test]
    fn dropping_leaves_nothing() {
        let dir = folder();
        let mut file = TemporaryFile::create_in(dir.path(), 0o600).unwrap();
        file.write_all(b"half").unwrap();
        assert!(is_temporary_name(file.path().file_name().unwrap()));
        drop(file);
        assert_eq!(names(dir.path()), [""; 0]);
    }

    #[test]
    fn an_unwritable_destination_is_an_error_and_leaves_nothing() {
        let dir = folder();
        let file = TemporaryFile::create_in(dir.path(), 0o600).unwrap();
        assert!(file.publish_new(&dir.path().join("missing/object")).is_err());
        let file = TemporaryFile::create_in(dir.path(), 0o600).unwrap();
        assert!(file.replace(&dir.path().join("missing/object")).is_err());
        assert_eq!(names(dir.path()), [""; 0]);
    }

    #[test]
    fn replaces() {
        let dir = folder();
        let dest = dir.path().join("record");
        replace(&dest, b"one", 0o600).unwrap();
        replace(&dest, b"two", 0o600).unwrap();
        assert_eq!(fs::read(&dest).unwrap(), b"two");
        assert_eq!(names(dir.path()), ["record"]);
    }

    #[test]
    fn makes_directories_with_their_mode() {
        let dir = folder();
        let deep = dir.path().join("a/b/c");
        create_dir_all(&deep, 0o700).unwrap();
        create_dir_all(&deep, 0o700).unwrap();
        assert_eq!(fs::metadata(dir.path().join("a")).unwrap().permissions().mode() & 0o777, 0o700);
        File::create(dir.path().join("file")).unwrap();
        let error = create_dir_all(&dir.path().join("file"), 0o700).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotADirectory);
        assert!(create_dir_all(&dir.path().join("file/below"), 0o700).is_err());
    }

    #[test]
    fn renames_exclusively_files_and_directories() {
        let dir = folder();
        let at = |name: &str| dir.path().join(name);
        create_dir_all(&at("old/inside"), 0o700).unwrap();
        fs::create_dir(at("taken")).unwrap();
        let error = rename_exclusive(&at("old"), &at("taken")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        rename_exclusive(&at("old"), &at("new")).unwrap();
        assert_eq!(names(dir.path()), ["new", "taken"]);
        rename(&at("new/inside"), &at("moved")).unwrap();
        assert_eq!(names(dir.path()), ["moved", "new", "taken"]);
    }

    #[test]
    fn removing_a_tree_spares_what_its_links_point_to() {
        let dir = folder();
        let at = |name: &str| dir.path().join(name);
        create_dir_all(&at("kept"), 0o700).unwrap();
        write_new(&at("kept/file"), b"precious", 0o600).unwrap();
        create_dir_all(&at("tree/deep"), 0o700).unwrap();
        symlink(at("kept"), at("tree/deep/link")).unwrap();
        symlink(at("kept"), at("link")).unwrap();
        remove_tree(&at("tree")).unwrap();
        remove_tree(&at("link")).unwrap();
        assert_eq!(fs::read(at("kept/file")).unwrap(), b"precious");
        assert_eq!(names(dir.path()), ["kept"]);
        remove_file(&at("kept/file")).unwrap();
        assert_eq!(remove_file(&at("kept/file")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
