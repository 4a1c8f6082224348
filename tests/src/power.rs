//! A disk whose power can be cut, at native speed.
//!
//! It is an ext4 in a file of the sandbox. The cut is ext4's own shutdown without a flush of the journal
//! (`EXT4_IOC_SHUTDOWN`, `fs/ext4/ioctl.c`): from that moment on nothing reaches the file any more, and after the next
//! mount and the journal's replay there is what had been synced. `kit::a_power_cut_loses_what_was_not_synced` looks
//! that it is so. Needs root, and a mount namespace of the story's own ([`crate::disk::in_private`]).

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use nix::mount::{MntFlags, umount2};

use crate::{Sandbox, process, settings, wait};

/// Nothing but what somebody syncs is written before a story ends: ext4 would do so every 5 seconds.
const OPTIONS: &str = "loop,commit=300,noatime";

/// `_IOR('X', 125, __u32)` with `EXT4_GOING_FLAGS_NOLOGFLUSH`.
const CUT: &str = "open my $dir, '<', $ARGV[0] or die \"open: $!\"; my $flags = pack('L', 2);\
                   ioctl($dir, 0x8004587D, $flags) or die \"ioctl: $!\"";

/// A mounted ext4 in a file, unmounted when dropped.
#[derive(Debug)]
pub struct PowerDisk {
    sandbox: Sandbox,
    image: PathBuf,
    path: PathBuf,
}

impl PowerDisk {
    /// A disk of this size on a new folder `name` of the sandbox, for the account.
    pub fn new(sandbox: &Sandbox, name: &str, megabytes: u64) -> Result<Self> {
        let path = sandbox.folder(name)?;
        let disk = Self { sandbox: sandbox.clone(), image: path.with_extension("img"), path };
        std::fs::File::create(&disk.image)?.set_len(megabytes << 20)?;
        tool(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&disk.image))?;
        disk.mount()?;
        disk.sandbox.account().own(&disk.path)?;
        tool(Command::new("sync").arg(&disk.path))?;
        Ok(disk)
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The power goes: every call to the disk fails from now on.
    pub fn cut(&self) -> Result<()> {
        tool(Command::new("perl").args(["-e", CUT]).arg(&self.path)).context("cut the power")
    }

    /// The power is back, and what the disk has kept is there again. Waits for those who still hold files.
    pub fn power_up(&self) -> Result<()> {
        wait::until("nobody holds a file of the disk", || Ok(umount2(&self.path, MntFlags::empty()).is_ok()))?;
        self.mount()
    }

    fn mount(&self) -> Result<()> {
        tool(Command::new("mount").args(["-t", "ext4", "-o", OPTIONS]).arg(&self.image).arg(&self.path))
    }
}

impl Drop for PowerDisk {
    fn drop(&mut self) {
        if let Err(error) = umount2(&self.path, MntFlags::MNT_DETACH) {
            // The namespace takes it away at the latest.
            settings::tell(&format!("unmount {}: {error}", self.path.display()));
        }
    }
}

fn tool(command: &mut Command) -> Result<()> {
    process::run(command, "")?.success().map(drop)
}
