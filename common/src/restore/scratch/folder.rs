//! The private folder that a scratch cluster lives in: made under an unpredictable name, locked while somebody works in
//! it, removed at the end; and what is left of folders whose owners were killed.
//!
//! Everything of the cluster lies in it, its tablespaces too, so that removing it removes all there ever was. The lock
//! is the operating system's: a folder whose lock can be had belongs to nobody alive. It goes last, so that a removal
//! that is cut short can be gone on with.

use std::ffi::{OsStr, OsString};
use std::fs::DirBuilder;
use std::io::ErrorKind;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;

use crate::report::{Cancel, message_of};
use crate::server;
use crate::sys::clock::{Deadline, poll};
use crate::sys::lock::FileLock;
use crate::sys::process::{self, Signal};
use crate::sys::{durable, passing, private};

/// What every such folder's name begins with.
const PREFIX: &str = ".holdfast-scratch-";
const LOCK: &str = "lock";
/// Names the file that was being written elsewhere, for whoever clears up after a killed process.
const OUTPUT: &str = "output";

/// How long a server may take to end after an immediate stop, before it is killed: nobody needs its files.
const STOP_WAIT: Duration = Duration::from_secs(20);
/// How long what the server started may take to see that it is gone.
const REAP_WAIT: Duration = Duration::from_secs(10);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);
/// How often a folder is made once more, which somebody cleared away.
const MAKINGS_MAX: u32 = 3;
/// How often a folder is removed once more, in which something was made meanwhile.
const REMOVALS_MAX: u32 = 20;

/// A folder for one scratch cluster.
///
/// Dropping it leaves it where it is; [`Folder::remove`] takes it away. A process that dies leaves it, too, for
/// [`clear_leftovers`].
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    lock: FileLock,
}

/// A name for a new folder in `base`; makes nothing.
pub fn choose(base: &Path) -> PathBuf {
    base.join(format!("{PREFIX}{:016x}", fastrand::u64(..)))
}

/// The data directory of the folder at `path`.
pub fn pgdata(path: &Path) -> PathBuf {
    path.join("data")
}

/// Where the folder at `path` keeps its cluster's tablespaces.
pub fn tablespaces(path: &Path) -> PathBuf {
    path.join("tablespaces")
}

impl Folder {
    /// Makes the folder at `path`, which [`choose`] has named; nothing may be there. Nobody else can look into it.
    pub fn make(path: &Path) -> anyhow::Result<Self> {
        let mut attempts = 0;
        let lock = loop {
            match make_locked(path) {
                // Whoever clears up took it for one that a dead process has just made.
                Err(error) if error.kind() == ErrorKind::NotFound && attempts < MAKINGS_MAX => attempts += 1,
                result => break result.with_context(|| format!("make {}", path.display()))?,
            }
        };
        let lock = lock.with_context(|| format!("{} was made by somebody else", path.display()))?;
        Ok(Self { path: path.to_path_buf(), lock })
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The data directory.
    pub fn pgdata(&self) -> PathBuf {
        pgdata(&self.path)
    }

    /// What lies beside the data directory: the server's log, the recovery's plan, the authentication files, and what
    /// restore-wal fetches ahead.
    pub fn beside(&self) -> PathBuf {
        self.path.join("data.holdfast")
    }

    /// What the original's `pg_wal` had and no repository has.
    pub fn tail(&self) -> PathBuf {
        self.path.join("tail")
    }

    /// The server's log.
    pub fn log(&self) -> PathBuf {
        self.beside().join("server.log")
    }

    /// The plan that restore-wal reads.
    pub fn wal_plan(&self) -> PathBuf {
        self.beside().join("wal-plan.json")
    }

    /// Notes a temporary file elsewhere, before it is made: it goes with this folder, unless it has got its own name.
    pub fn note_output(&self, temporary: &Path) -> anyhow::Result<()> {
        durable::replace(&self.path.join(OUTPUT), temporary.as_os_str().as_bytes(), 0o600)
            .with_context(|| format!("write into {}", self.path.display()))
    }

    /// Ends the server, if one runs, and removes the folder with everything in it; goes on where an earlier call was cut
    /// short. It is not interrupted: it is what is done at an interruption.
    pub fn remove(self) -> anyhow::Result<()> {
        let removing = || format!("remove {}", self.path.display());
        end_processes(&pgdata(&self.path)).with_context(removing)?;
        self.remove_output()?;
        self.empty().with_context(removing)?;
        self.lock.remove(&self.path.join(LOCK)).with_context(removing)?;
        durable::remove_tree(&self.path).with_context(removing)
    }

    /// Removes the file that was noted, if it is there under that name.
    fn remove_output(&self) -> anyhow::Result<()> {
        let noted = std::fs::read(self.path.join(OUTPUT)).ok().map(|bytes| PathBuf::from(OsString::from_vec(bytes)));
        let Some(file) = noted.filter(|file| file.file_name().is_some_and(durable::is_temporary_name)) else {
            return Ok(());
        };
        match durable::remove_file(&file) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove {}", file.display()))
            }
            _ => Ok(()),
        }
    }

    /// Removes everything but the lock.
    fn empty(&self) -> std::io::Result<()> {
        for entry in std::fs::read_dir(&self.path)? {
            let entry = entry?;
            if entry.file_name() == LOCK {
                continue;
            }
            if entry.file_type()?.is_dir() {
                remove_tree(&entry.path())?;
            } else {
                durable::remove_file(&entry.path())?;
            }
        }
        Ok(())
    }
}

/// Makes the folder and takes its lock; leaves nothing after an error.
fn make_locked(path: &Path) -> std::io::Result<Option<FileLock>> {
    DirBuilder::new().mode(0o700).create(path)?;
    let lock = path.join(LOCK);
    let locked = private::is_there(path).and_then(|_| FileLock::try_exclusive(&lock));
    if locked.is_err() {
        // Whoever clears up may have been here before.
        drop(passing::remove(&lock));
        drop(passing::remove_empty_dir(path));
    }
    locked
}

/// A process that has not yet seen that its work is over may make another file in a folder that is being removed.
fn remove_tree(path: &Path) -> std::io::Result<()> {
    let mut attempts = 0;
    loop {
        match durable::remove_tree(path) {
            Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty && attempts < REMOVALS_MAX => attempts += 1,
            result => return result,
        }
    }
}

/// Ends the server of a data directory that nobody needs any more, and waits for all that works there.
fn end_processes(pgdata: &Path) -> anyhow::Result<()> {
    // Nothing may cut this short.
    let cancel = Cancel::default();
    if !pgdata.exists() {
        return Ok(());
    }
    if let Some(server) = server::running(pgdata)? {
        // One that ends by itself meanwhile is gone just the same.
        drop(process::signal(server.file.pid, Signal::SIGQUIT));
    }
    let gone = |wait, of: &dyn Fn() -> anyhow::Result<Vec<i32>>| {
        let nobody = || Ok(of()?.is_empty().then_some(()));
        Ok::<_, anyhow::Error>(poll(Deadline::after(wait), PAUSE, &cancel, nobody)?.is_some())
    };
    let servers = || server::processes(pgdata);
    if !gone(STOP_WAIT, &servers)? {
        servers()?.into_iter().for_each(|pid| drop(process::signal(pid, Signal::SIGKILL)));
        let killed = gone(REAP_WAIT, &servers)?;
        anyhow::ensure!(killed, "processes of the scratch server do not end: {:?}", servers()?);
    }
    // What its commands left to work ahead sees by itself that the server is gone.
    gone(REAP_WAIT, &|| Ok(process::working_in(pgdata)?)).map(drop)
}

/// Clears away what killed processes of this user left in `base`: their servers, their folders, and the unfinished files
/// that they had noted. Folders in which somebody is at work are passed over, and so is everything that is not private to
/// this user. Answers the folders that are gone; one that cannot be removed is told in the log and stays.
pub fn clear_leftovers(base: &Path) -> Vec<PathBuf> {
    let mut cleared = Vec::new();
    for entry in std::fs::read_dir(base).into_iter().flatten().filter_map(Result::ok) {
        let path = entry.path();
        if !is_scratch_name(&entry.file_name()) || !private::is_there(&path).unwrap_or(false) {
            continue;
        }
        match clear(&path) {
            Ok(true) => cleared.push(path),
            Ok(false) => {}
            Err(error) => {
                tracing::warn!("what a killed process left in {} stays: {}", path.display(), message_of(&error));
            }
        }
    }
    cleared
}

fn is_scratch_name(name: &OsStr) -> bool {
    let random = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
    random.is_some_and(|random| random.len() == 16 && random.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// Whether the folder was a dead process's, and is gone now.
fn clear(path: &Path) -> anyhow::Result<bool> {
    let lock = path.join(LOCK);
    if !lock.exists() {
        // Its owner died before anything was in it, or when nothing was left. One that is just being made is made again.
        return Ok(passing::remove_empty_dir(path).is_ok());
    }
    let Some(lock) = FileLock::try_exclusive(&lock).with_context(|| format!("lock {}", lock.display()))? else {
        return Ok(false);
    };
    Folder { path: path.to_path_buf(), lock }.remove()?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    fn folder(base: &Path) -> Folder {
        Folder::make(&choose(base)).unwrap()
    }

    fn fill(folder: &Folder) {
        fs::create_dir_all(folder.pgdata().join("base/5")).unwrap();
        fs::create_dir_all(folder.beside()).unwrap();
        fs::File::create(folder.pgdata().join("base/5/1")).unwrap();
        symlink("/etc", folder.pgdata().join("link")).unwrap();
    }

    #[test]
    fn a_folder_is_private_and_goes_whole() {
        let base = tempfile::tempdir().unwrap();
        let folder = folder(base.path());
        let path = folder.path().to_path_buf();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        assert!(Folder::make(&path).is_err(), "made twice");
        fill(&folder);
        folder.remove().unwrap();
        assert_eq!(fs::read_dir(base.path()).unwrap().count(), 0);
        assert!(Path::new("/etc/passwd").exists());
    }

    #[test]
    fn only_what_nobody_works_in_is_cleared() {
        let base = tempfile::tempdir().unwrap();
        let (alive, dead) = (folder(base.path()), folder(base.path()));
        fill(&alive);
        fill(&dead);
        let half = durable::TemporaryFile::create_in(base.path(), 0o600).unwrap();
        dead.note_output(half.path()).unwrap();
        let path = dead.path().to_path_buf();
        // Its process dies: the lock is free.
        drop(dead);
        // Somebody else's, by name or by mode.
        for (name, mode) in [("0000000000000001", 0o755), ("x", 0o700)] {
            let other = base.path().join(format!("{PREFIX}{name}"));
            fs::create_dir(&other).unwrap();
            fs::File::create(other.join(LOCK)).unwrap();
            fs::set_permissions(&other, fs::Permissions::from_mode(mode)).unwrap();
        }
        assert_eq!(clear_leftovers(base.path()), [path]);
        assert!(!half.path().exists());
        assert!(alive.pgdata().join("base/5/1").exists());
        assert_eq!(fs::read_dir(base.path()).unwrap().count(), 3);
    }

    #[test]
    fn a_noted_file_that_is_not_temporary_stays() {
        let base = tempfile::tempdir().unwrap();
        let precious = base.path().join("dump.sql");
        fs::File::create(&precious).unwrap();
        let dead = folder(base.path());
        dead.note_output(&precious).unwrap();
        drop(dead);
        assert_eq!(clear_leftovers(base.path()).len(), 1);
        assert!(precious.exists());
    }

    #[test]
    fn a_removal_that_was_cut_short_goes_on() {
        let base = tempfile::tempdir().unwrap();
        let dead = folder(base.path());
        fill(&dead);
        fs::remove_file(dead.pgdata().join("base/5/1")).unwrap();
        drop(dead);
        assert_eq!(clear_leftovers(base.path()).len(), 1);
        assert_eq!(fs::read_dir(base.path()).unwrap().count(), 0);
    }

    #[test]
    fn one_without_a_lock_goes_if_nothing_is_in_it() {
        let base = tempfile::tempdir().unwrap();
        let [empty, full] = [choose(base.path()), choose(base.path())];
        for path in [&empty, &full] {
            DirBuilder::new().mode(0o700).create(path).unwrap();
        }
        fs::File::create(full.join("something")).unwrap();
        assert_eq!(clear_leftovers(base.path()), [empty]);
        assert!(full.join("something").exists());
    }
}
