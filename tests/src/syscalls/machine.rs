//! What a system call is on this processor: its number, its arguments, its answer.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::libc::{self, user_regs_struct};
use nix::sys::ptrace;
use nix::unistd::Pid;

/// The longest path that the kernel takes.
const PATH_BYTES_MAX: usize = 4096;

/// Where a call says which file it is about.
#[derive(Debug, Clone, Copy)]
enum About {
    /// The argument of this number, from 0 on, is a descriptor.
    Descriptor,
    /// The argument of this number is a path; an empty one means the descriptor before it.
    Path(usize),
}

use About::{Descriptor, Path as At};

/// The calls that are looked at: number, the word for all spellings of one deed, the file.
const CALLS: [(libc::c_long, &str, About); 38] = [
    (libc::SYS_write, "write", Descriptor),
    (libc::SYS_pwrite64, "write", Descriptor),
    (libc::SYS_writev, "write", Descriptor),
    (libc::SYS_pwritev, "write", Descriptor),
    (libc::SYS_pwritev2, "write", Descriptor),
    (libc::SYS_ftruncate, "write", Descriptor),
    (libc::SYS_copy_file_range, "write", Descriptor),
    (libc::SYS_fsync, "fsync", Descriptor),
    (libc::SYS_fdatasync, "fsync", Descriptor),
    (libc::SYS_syncfs, "fsync", Descriptor),
    (libc::SYS_rename, "rename", At(1)),
    (libc::SYS_renameat, "rename", At(3)),
    (libc::SYS_renameat2, "rename", At(3)),
    (libc::SYS_link, "link", At(1)),
    (libc::SYS_linkat, "link", At(3)),
    (libc::SYS_mkdir, "mkdir", At(0)),
    (libc::SYS_mkdirat, "mkdir", At(1)),
    (libc::SYS_open, "open", At(0)),
    (libc::SYS_openat, "open", At(1)),
    (libc::SYS_openat2, "open", At(1)),
    (libc::SYS_close, "close", Descriptor),
    (libc::SYS_unlink, "unlink", At(0)),
    (libc::SYS_unlinkat, "unlink", At(1)),
    (libc::SYS_rmdir, "unlink", At(0)),
    (libc::SYS_read, "read", Descriptor),
    (libc::SYS_pread64, "read", Descriptor),
    (libc::SYS_readv, "read", Descriptor),
    (libc::SYS_lseek, "read", Descriptor),
    (libc::SYS_getdents64, "list", Descriptor),
    (libc::SYS_stat, "stat", At(0)),
    (libc::SYS_lstat, "stat", At(0)),
    (libc::SYS_fstat, "stat", Descriptor),
    (libc::SYS_newfstatat, "stat", At(1)),
    (libc::SYS_statx, "stat", At(1)),
    (libc::SYS_access, "stat", At(0)),
    (libc::SYS_faccessat, "stat", At(1)),
    (libc::SYS_faccessat2, "stat", At(1)),
    (libc::SYS_readlink, "stat", At(0)),
];

/// A call that is about to be made, or that was made just now.
pub(super) struct Entered {
    thread: Pid,
    registers: user_regs_struct,
}

impl Entered {
    /// The thread is stopped at a call.
    pub(super) fn of(thread: Pid) -> nix::Result<Self> {
        Ok(Self { thread, registers: ptrace::getregs(thread)? })
    }

    /// Whether this is the first thing that the runtime of a Rust program does, when the loader has done its work: it
    /// ignores SIGPIPE. Neither the loader nor the C library touches signals before.
    pub(super) fn begins_the_program(&self) -> bool {
        self.registers.orig_rax == number(libc::SYS_rt_sigaction)
    }

    /// Whether the thread asks for a byte from a socket, as one does that is told of signals this way.
    pub(super) fn listens(&self) -> bool {
        self.registers.orig_rax == number(libc::SYS_recvfrom)
    }

    /// Whether it then waits until there is one.
    pub(super) fn waits(&self) -> bool {
        self.listens() && self.registers.r10 & u64::from(DONT_WAIT) == 0
    }

    /// What is done to which file; `None` for a call that nobody looks at.
    pub(super) fn deed(&self) -> Result<Option<(&'static str, PathBuf)>> {
        let Some((_, what, about)) = CALLS.iter().find(|call| number(call.0) == self.registers.orig_rax) else {
            return Ok(None);
        };
        let path = match *about {
            Descriptor => self.descriptor(0),
            At(place) => match self.text(self.argument(place))? {
                Some(path) => self.absolute(&path)?,
                None => self.descriptor(place.saturating_sub(1)),
            },
        };
        Ok(Some((what, path)))
    }

    /// Leaves the call out: it will answer that there is no such call.
    pub(super) fn skip(mut self) -> nix::Result<()> {
        self.registers.orig_rax = u64::MAX;
        ptrace::setregs(self.thread, self.registers)
    }

    /// Whether the call that was made just now has failed.
    pub(super) fn failed(&self) -> bool {
        // The kernel's answers are errors from -4095 on.
        self.registers.rax > u64::MAX - 4095
    }

    /// Gives the call that was made just now another answer.
    pub(super) fn answer(mut self, error: Errno) -> nix::Result<()> {
        self.registers.rax = u64::MAX - u64::from((error as i32).unsigned_abs()) + 1;
        ptrace::setregs(self.thread, self.registers)
    }

    fn argument(&self, place: usize) -> u64 {
        let registers = &self.registers;
        match place {
            0 => registers.rdi,
            1 => registers.rsi,
            2 => registers.rdx,
            _ => registers.r10,
        }
    }

    /// The file behind the descriptor in this argument; its number, where it is none.
    fn descriptor(&self, place: usize) -> PathBuf {
        // Descriptors are 32 bits wide; what stands above them is not theirs.
        let descriptor = self.argument(place) & u64::from(u32::MAX);
        let link = format!("/proc/{}/fd/{descriptor}", self.thread);
        std::fs::read_link(link).unwrap_or_else(|_| PathBuf::from(format!("descriptor {descriptor}")))
    }

    /// The text at this address; `None` when it is empty or there is none.
    fn text(&self, address: u64) -> Result<Option<PathBuf>> {
        let memory = File::open(format!("/proc/{}/mem", self.thread)).context("look into a program's memory")?;
        let mut bytes = [0; PATH_BYTES_MAX];
        // A path may end with the last page that there is: then less than asked for comes, or nothing at all.
        let count = memory.read_at(&mut bytes, address).unwrap_or(0);
        let read = bytes.get(..count).unwrap_or_default();
        let text = read.split(|&byte| byte == 0).next().unwrap_or_default();
        let path = PathBuf::from(String::from_utf8_lossy(text).into_owned());
        Ok((!text.is_empty()).then_some(path))
    }

    fn absolute(&self, path: &Path) -> Result<PathBuf> {
        let dir = std::fs::read_link(format!("/proc/{}/cwd", self.thread)).context("find a program's folder")?;
        Ok(dir.join(path).components().collect())
    }
}

/// `MSG_DONTWAIT`, as an argument has it.
const DONT_WAIT: u32 = libc::MSG_DONTWAIT.unsigned_abs();

fn number(call: libc::c_long) -> u64 {
    call.unsigned_abs()
}
