//! A throw-away cluster, and the change to an unprivileged user.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::report::Cancel;
use common::server::{
    Conninfo, Probe, Programs, Search, Session, StartOptions, StopMode, major_of, probe, start, stop,
};
use common::sys::clock::{Deadline, poll};
use tempfile::TempDir;

pub(crate) const WAIT: Duration = Duration::from_mins(1);

/// The directory of the server's programs, if there is one.
fn bin() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("HOLDFAST_TEST_PG_BIN") {
        return Some(named.into());
    }
    let mut found: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .ok()?
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            Some((path.file_name()?.to_str()?.parse().ok()?, path.join("bin")))
        })
        .filter(|(_, bin)| bin.join("initdb").is_file())
        .collect();
    found.sort();
    found.pop().map(|(_, bin)| bin)
}

/// Whether the test `name` has to run here. Started by root, it is run in another process instead.
pub(crate) fn runs_here(name: &str) -> bool {
    if bin().is_none() {
        println!("skipped: no PostgreSQL server is installed");
        return false;
    }
    if !common::sys::identity::is_root() {
        return true;
    }
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let user = ["postgres", "nobody"]
        .into_iter()
        .find(|user| passwd.lines().any(|line| line.starts_with(&format!("{user}:"))));
    let Some(user) = user else {
        println!("skipped: there is no unprivileged user to run as");
        return false;
    };
    // The build directory may be closed to that user.
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let copy = directory.path().join("test");
    fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
    let status = Command::new("runuser")
        .args(["-u", user, "--"])
        .arg(&copy)
        .args(["--exact", name, "--nocapture"])
        .current_dir(directory.path())
        .status()
        .unwrap();
    assert!(status.success(), "{name} failed as user {user}");
    false
}

pub(crate) fn put(path: &Path, text: &str, mode: u32) {
    File::create(path).unwrap().write_all(text.as_bytes()).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Waits until the server takes sessions.
pub(crate) fn wait_for(conninfo: &Conninfo) {
    let ready = poll(Deadline::after(WAIT), Duration::from_millis(20), &Cancel::default(), || {
        match probe(conninfo, &Cancel::default())? {
            Probe::Accepting(_) => Ok(Some(())),
            _ => Ok(None),
        }
    });
    assert!(ready.unwrap().is_some(), "the server does not come up");
}

/// A cluster whose superuser is `boss`; its socket directory is the folder that holds everything.
pub(crate) struct Cluster {
    pub(crate) directory: TempDir,
    pub(crate) programs: Programs,
    pub(crate) settings: Vec<(String, String)>,
}

impl Cluster {
    /// A cluster that does not run yet.
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let bin = bin().unwrap();
        let output = Command::new(bin.join("initdb"))
            .args(["-U", "boss", "-A", "trust", "-E", "UTF8", "--locale=C", "-N", "-k", "-D"])
            .arg(directory.path().join("data"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let major = major_of(&directory.path().join("data")).unwrap();
        let search = Search { configured: Some(&bin), ..Search::default() };
        let programs = Programs::find(major, &search, &Cancel::default()).unwrap();
        let socket = directory.path().to_str().unwrap().to_owned();
        let settings = [("unix_socket_directories", socket.as_str()), ("listen_addresses", ""), ("fsync", "off")];
        let settings = settings.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Self { directory, programs, settings }
    }

    pub(crate) fn running() -> Self {
        let cluster = Self::new();
        cluster.start();
        cluster
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.path().join("data")
    }

    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.settings.push((name.to_owned(), value.to_owned()));
    }

    pub(crate) fn options(&self) -> StartOptions {
        StartOptions { config_file: None, settings: self.settings.clone(), log: self.path().join("log") }
    }

    /// Starts the server and waits until it takes sessions.
    pub(crate) fn start(&self) {
        start(&self.programs, &self.data(), &self.options(), &Cancel::default()).unwrap();
        wait_for(&self.conninfo(""));
    }

    /// As the superuser by the socket, with more parameters, which win.
    pub(crate) fn conninfo(&self, more: &str) -> Conninfo {
        let base = format!("host={} port=5432 user=boss dbname=postgres {more}", self.path().display());
        Conninfo::parse(&base).unwrap()
    }

    pub(crate) fn session(&self) -> Session {
        Session::connect(&self.conninfo(""), &Cancel::default()).unwrap()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let stopped = stop(&self.programs, &self.data(), StopMode::Immediate, WAIT, &Cancel::default());
        if let Err(error) = stopped
            && !std::thread::panicking()
        {
            panic!("{error:#}");
        }
    }
}
