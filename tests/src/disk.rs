//! File systems of a story's own: small, short of inodes, read-only, or able to share blocks.
//!
//! They are mounted in a mount namespace that one thread and its children alone see. It goes with them, so that no
//! mount can outlive its story, whatever becomes of it. Needs root.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, anyhow};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use crate::{Sandbox, process, settings};

const NO_PATH: Option<&Path> = None;
const NO_TEXT: Option<&str> = None;

/// Tells a story where what it mounts is seen by nobody else.
pub fn in_private(story: impl FnOnce() -> Result<()> + Send) -> Result<()> {
    let told = || {
        unshare(CloneFlags::CLONE_NEWNS).context("leave the common mount namespace")?;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(NO_PATH, "/", NO_TEXT, private, NO_TEXT).context("keep mounts private")?;
        story()
    };
    thread::scope(|scope| scope.spawn(told).join()).map_err(|_| anyhow!("the story panicked"))?
}

/// A mounted file system, taken away when dropped.
#[derive(Debug)]
pub struct Disk {
    path: PathBuf,
}

impl Disk {
    /// A file system in memory on a new folder `name` of the sandbox, for the account; `options` are tmpfs' own:
    /// `size=20m`, `nr_inodes=40`.
    pub fn new(sandbox: &Sandbox, name: &str, options: &str) -> Result<Self> {
        let path = sandbox.folder(name)?;
        mount(Some("tmpfs"), &path, Some("tmpfs"), MsFlags::empty(), Some(options))
            .with_context(|| format!("mount a file system on {}", path.display()))?;
        let disk = Self { path };
        sandbox.account().own(&disk.path)?;
        Ok(disk)
    }

    /// A file system whose files can share blocks (XFS with reflinks, in a file of the sandbox), on a new folder `name`, for
    /// the account.
    pub fn sharing(sandbox: &Sandbox, name: &str, megabytes: u64) -> Result<Self> {
        let path = sandbox.folder(name)?;
        let image = path.with_extension("img");
        std::fs::File::create(&image)?.set_len(megabytes << 20)?;
        process::run(Command::new("mkfs.xfs").args(["-q", "-m", "reflink=1"]).arg(&image), "")?.success()?;
        process::run(Command::new("mount").args(["-t", "xfs", "-o", "loop"]).arg(&image).arg(&path), "")?.success()?;
        let disk = Self { path };
        sandbox.account().own(&disk.path)?;
        Ok(disk)
    }

    /// What lies at `path` cannot be written to as long as the answer lives.
    pub fn read_only(path: &Path) -> Result<Self> {
        let mounting = || format!("make {} read-only", path.display());
        mount(Some(path), path, NO_TEXT, MsFlags::MS_BIND, NO_TEXT).with_context(mounting)?;
        let disk = Self { path: path.to_owned() };
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
        mount(NO_PATH, path, NO_TEXT, flags, NO_TEXT).with_context(mounting)?;
        Ok(disk)
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives it another size, or other limits.
    pub fn resize(&self, options: &str) -> Result<()> {
        mount(NO_PATH, &self.path, NO_TEXT, MsFlags::MS_REMOUNT, Some(options))
            .with_context(|| format!("resize {}", self.path.display()))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Err(error) = umount2(&self.path, MntFlags::MNT_DETACH) {
            // The namespace takes it away at the latest.
            settings::tell(&format!("unmount {}: {error}", self.path.display()));
        }
    }
}
