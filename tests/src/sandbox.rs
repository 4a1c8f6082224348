//! A temporary folder that leaves neither files nor servers behind, however its story ends.

use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::{fs, io};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use nix::sys::statvfs::{FsFlags, statvfs};

use crate::account::Account;
use crate::{Ran, postgres, process, settings, wait};

/// Holdfast's programs.
const PROGRAMS: [&str; 6] = ["archive-wal", "restore-wal", "basebackup", "recover", "retention", "verify"];

/// What every program finds configured: a short patience with holes. It also keeps the machine's own file out.
const CONFIG: &[u8] = b"[restore]\nhole-grace = \"1s\"\n";

/// A file system in memory, on most machines.
const MEMORY: &str = "/dev/shm";
/// What must be free there.
const MEMORY_BYTES_MIN: u64 = 1 << 30;

/// Where one story's clusters, repositories and sockets lie. Clones are the same place; the last one cleans up.
#[derive(Debug, Clone)]
pub struct Sandbox {
    place: Arc<Place>,
}

#[derive(Debug)]
struct Place {
    dir: PathBuf,
    programs: PathBuf,
    account: Account,
    port: AtomicU16,
}

impl Sandbox {
    /// A new, empty place that the servers' account can reach.
    pub fn new() -> Result<Self> {
        Self::below(&[std::env::temp_dir(), PathBuf::from("/tmp")])
    }

    /// The same in memory, where that has room: for stories that do one thing thousands of times, or of which there are
    /// many. What they try out is no disk, and a sync there costs nothing.
    pub fn in_memory() -> Result<Self> {
        if has_room(Path::new(MEMORY)) { Self::below(&[PathBuf::from(MEMORY)]) } else { Self::new() }
    }

    fn below(bases: &[PathBuf]) -> Result<Self> {
        let account = Account::for_tests()?;
        let dir = make_reachable_dir(&account, bases)?;
        let mut place = Place { programs: PathBuf::new(), port: AtomicU16::new(5500), dir, account };
        place.programs = stage_programs(&place)?;
        let sandbox = Self { place: Arc::new(place) };
        sandbox.folder("home")?;
        sandbox.folder("s")?;
        sandbox.write(&sandbox.config(), CONFIG)?;
        Ok(sandbox)
    }

    /// The place itself.
    pub fn path(&self) -> &Path {
        &self.place.dir
    }

    /// The account that everything here runs as.
    pub fn account(&self) -> &Account {
        &self.place.account
    }

    /// The folder of the servers' sockets; its path is short enough for a socket address.
    pub fn sockets(&self) -> PathBuf {
        self.place.dir.join("s")
    }

    fn config(&self) -> PathBuf {
        self.place.dir.join("home/holdfast.toml")
    }

    /// A port that no server here has. Ports only tell sockets apart: nothing listens on the network.
    pub fn new_port(&self) -> u16 {
        self.place.port.fetch_add(1, Ordering::Relaxed)
    }

    /// Ports that nobody has on the local network, each another one.
    pub fn tcp_ports<const COUNT: usize>() -> Result<[u16; COUNT]> {
        let free = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        let held = (0..COUNT).map(|_| free()).collect::<io::Result<Vec<_>>>()?;
        let ports = held.iter().map(|socket| Ok(socket.local_addr()?.port())).collect::<Result<Vec<_>>>()?;
        ports.try_into().map_err(|_| anyhow::anyhow!("as many ports as sockets"))
    }

    /// The path of one of Holdfast's programs, for an `archive_command` and the like.
    pub fn program(&self, name: &str) -> PathBuf {
        self.place.programs.join(name)
    }

    /// A folder of this name, made when absent, private to the account.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.place.dir.join(name);
        if !path.exists() {
            fs::create_dir(&path).with_context(|| format!("create {}", path.display()))?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o700))?;
            self.account().own(&path)?;
        }
        Ok(path)
    }

    /// A file of the account with this content at `path`; its folder must exist.
    #[expect(clippy::disallowed_methods, reason = "a file of a test needs no durability")]
    pub fn write(&self, path: &Path, content: &[u8]) -> Result<()> {
        fs::write(path, content).with_context(|| format!("write {}", path.display()))?;
        self.account().own(path)
    }

    /// A command run by the account in this place, with an environment that holds nothing of the caller's.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Result<Command> {
        let mut command = self.account().command(program);
        let path =
            format!("{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", postgres::bin_dir()?.display());
        command.env_clear().env("PATH", path).env("HOME", self.place.dir.join("home"));
        command.env("LC_ALL", "C.UTF-8").env("TZ", "UTC").env("HOLDFAST_CONFIG", self.config());
        command.current_dir(&self.place.dir);
        Ok(command)
    }

    /// Runs one of Holdfast's programs to its end.
    pub fn run(&self, program: &str, args: &[&str]) -> Result<Ran> {
        self.run_in(&self.place.dir, program, args)
    }

    /// The same with `dir` as the working directory.
    pub fn run_in(&self, dir: &Path, program: &str, args: &[&str]) -> Result<Ran> {
        process::run(self.command(self.program(program))?.args(args).current_dir(dir), "")
    }

    /// Runs one of Holdfast's programs with no more than so much memory of its own; one that asks for more dies of it.
    pub fn run_within(&self, megabytes: u64, program: &str, args: &[&str]) -> Result<Ran> {
        let limit = format!("--data={}", megabytes << 20);
        process::run(self.command("prlimit")?.arg(limit).arg(self.program(program)).args(args), "")
    }

    /// A copy of the folder or file `from` at `to`, in place of whatever is there.
    pub fn copy(&self, from: &Path, to: &Path) -> Result<()> {
        self.clear(to)?;
        process::run(Command::new("cp").arg("-a").arg(from).arg(to), "")?.success().map(drop)
    }

    /// Removes the file or folder at `path`, if there is one.
    pub fn clear(&self, path: &Path) -> Result<()> {
        let removed = if path.is_dir() { remove_tree(path) } else { fs::remove_file(path) };
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// Runs any other program, such as PostgreSQL's, to its end.
    pub fn run_other(&self, program: &str, args: &[&str]) -> Result<Ran> {
        process::run(self.command(program)?.args(args), "")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = stop_everything(&self.dir) {
            settings::tell(&format!("clean up {}: {error:#}", self.dir.display()));
        }
        if settings::keep() {
            settings::tell(&format!("kept: {}", self.dir.display()));
        } else if let Err(error) = remove_tree(&self.dir) {
            settings::tell(&format!("remove {}: {error}", self.dir.display()));
        }
    }
}

/// Whether programs can be staged there, and a cluster with its copies fits.
fn has_room(dir: &Path) -> bool {
    statvfs(dir).is_ok_and(|found| {
        let free = found.blocks_available() * found.fragment_size();
        !found.flags().contains(FsFlags::ST_NOEXEC) && free >= MEMORY_BYTES_MIN
    })
}

fn make_reachable_dir(account: &Account, bases: &[PathBuf]) -> Result<PathBuf> {
    for base in bases {
        let dir =
            tempfile::Builder::new().prefix("holdfast-").tempdir_in(base).context("create a folder for a test")?;
        account.own(dir.path())?;
        // A socket's address holds 107 bytes, and ".s.PGSQL.NNNNN" follows.
        if dir.path().as_os_str().len() < 80 && account.can_execute(dir.path()) {
            return Ok(dir.keep());
        }
    }
    bail!("the servers' account can reach none of {bases:?}")
}

/// The folder with Holdfast's programs: where cargo built them, or links to them when the account cannot go there.
fn stage_programs(place: &Place) -> Result<PathBuf> {
    let built = built_programs()?;
    if place.account.can_execute(&built.join(PROGRAMS[0])) {
        return Ok(built);
    }
    let staged = place.dir.join("bin");
    fs::create_dir(&staged)?;
    place.account.own(&staged)?;
    for program in PROGRAMS {
        let (from, to) = (built.join(program), staged.join(program));
        if fs::hard_link(&from, &to).is_err() {
            fs::copy(&from, &to).with_context(|| format!("copy {}", from.display()))?;
        }
    }
    Ok(staged)
}

fn built_programs() -> Result<PathBuf> {
    let dir = match std::env::var_os("HOLDFAST_TEST_BIN") {
        Some(dir) => PathBuf::from(dir),
        // A test is target/debug/deps/NAME-HASH, the demonstration target/release/NAME.
        None => std::env::current_exe()?
            .ancestors()
            .skip(1)
            .find(|dir| !dir.ends_with("deps"))
            .map(Path::to_owned)
            .context("find the folder of this program")?,
    };
    for program in PROGRAMS {
        ensure!(dir.join(program).exists(), "no program {} in {}: run make build", program, dir.display());
    }
    Ok(dir)
}

/// Ends every process that works in `dir`: servers first by an immediate shutdown, then whatever is left.
fn stop_everything(dir: &Path) -> Result<()> {
    let pid_files = find_files(dir, "postmaster.pid");
    let pids: Vec<i32> = pid_files.iter().filter_map(|path| pid_in(path)).filter(|&pid| works_in(pid, dir)).collect();
    for &pid in &pids {
        process::signal(pid, Signal::SIGQUIT)?;
    }
    process::wait_gone(&pids)?;
    wait::until("every process of the test is gone", || {
        let left = processes_in(dir)?;
        for &pid in &left {
            process::signal(pid, Signal::SIGKILL)?;
        }
        Ok(left.is_empty())
    })?;
    for path in pid_files.iter().filter(|path| path.exists()) {
        remove_shared_memory(path);
    }
    Ok(())
}

fn processes_in(dir: &Path) -> Result<Vec<i32>> {
    let entries = fs::read_dir("/proc").context("read /proc")?;
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    Ok(pids.filter(|&pid| works_in(pid, dir) && process::alive(pid)).collect())
}

fn works_in(pid: i32, dir: &Path) -> bool {
    fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(dir))
}

/// A killed server leaves a few bytes of System V shared memory; the seventh line of its pid file holds key and id.
fn remove_shared_memory(pid_file: &Path) {
    let text = fs::read_to_string(pid_file).unwrap_or_default();
    if let Some(id) = text.lines().nth(6).and_then(|line| line.split_whitespace().nth(1)) {
        // The id may be gone already; nothing depends on it.
        drop(Command::new("ipcrm").args(["-m", id]).output());
    }
}

fn pid_in(pid_file: &Path) -> Option<i32> {
    fs::read_to_string(pid_file).ok()?.lines().next()?.trim().parse().ok()
}

/// Every file of this name below `dir`, symbolic links not followed; folders that vanish meanwhile are no failure.
pub fn find_files(dir: &Path, name: &str) -> Vec<PathBuf> {
    walk(dir).into_iter().filter(|path| path.file_name().is_some_and(|found| found == name)).collect()
}

/// Every file below `dir`, symbolic links not followed.
pub fn walk(dir: &Path) -> Vec<PathBuf> {
    let (mut files, mut folders) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                Ok(_) => files.push(entry.path()),
                Err(_) => {}
            }
        }
    }
    files.sort();
    files
}

#[expect(clippy::disallowed_methods, reason = "a test's own folder")]
fn remove_tree(dir: &Path) -> io::Result<()> {
    fs::remove_dir_all(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn walking_finds_files_at_every_depth() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        fs::File::create(dir.path().join("a/b/x")).unwrap();
        fs::File::create(dir.path().join("y")).unwrap();
        assert_eq!(walk(dir.path()).len(), 2);
        assert_eq!(find_files(dir.path(), "x"), [dir.path().join("a/b/x")]);
    }
}
