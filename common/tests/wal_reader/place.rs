//! A place for throw-away clusters, and the account that runs their servers.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};
use common::pg::ControlFile;
use tempfile::TempDir;

/// A server's programs, the account that runs them and a folder of that account.
pub(crate) struct Place {
    pub(crate) bin: PathBuf,
    account: Option<nix::unistd::User>,
    pub(crate) dir: TempDir,
}

impl Place {
    /// `None` on a machine without PostgreSQL.
    pub(crate) fn find() -> Result<Option<Self>> {
        let usual = |major: u32| PathBuf::from(format!("/usr/lib/postgresql/{major}/bin"));
        let named = std::env::var_os("HOLDFAST_TEST_PG_BIN").map(PathBuf::from);
        let found = || [15, 18, 17, 16, 14].map(usual).into_iter().find(|dir| dir.join("initdb").exists());
        let bin = named.or_else(found);
        let Some(bin) = bin else { return Ok(None) };
        let dir = tempfile::tempdir()?;
        let mut account = None;
        if nix::unistd::Uid::effective().is_root() {
            let name = std::env::var("HOLDFAST_TEST_USER").unwrap_or_else(|_| "postgres".to_owned());
            let Some(user) = nix::unistd::User::from_name(&name)? else { return Ok(None) };
            std::os::unix::fs::chown(dir.path(), Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
            account = Some(user);
        }
        Ok(Some(Self { bin, account, dir }))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = match &self.account {
            None => Command::new(program),
            Some(user) => {
                let mut command = Command::new("setpriv");
                command.args([&format!("--reuid={}", user.uid), &format!("--regid={}", user.gid)]);
                command.args(["--init-groups", "--"]);
                command.arg(program);
                command
            }
        };
        command.current_dir(self.dir.path()).env("TZ", "UTC").env("LC_ALL", "C");
        command
    }

    /// Runs one of PostgreSQL's programs to its end; answers its standard output.
    pub(crate) fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let mut command = self.command(&self.bin.join(program));
        let output = command.args(arguments).stdin(Stdio::null()).output()?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{program} {arguments:?}: {}: {error}", output.status);
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Starts the server of this data directory; it is stopped when the answer is dropped.
    pub(crate) fn start(&self, data: &str) -> Result<Running<'_>> {
        let socket = format!("-c unix_socket_directories={}", self.dir.path().display());
        let log = format!("{data}.log");
        let mut command = self.command(&self.bin.join("pg_ctl"));
        command.args(["start", "-w", "-t", "60", "-D", data, "-l", &log, "-o", &socket]);
        let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status()?;
        let running = Running { place: self, data: data.to_owned() };
        let said = || fs::read_to_string(self.path(&log)).unwrap_or_default();
        ensure!(status.success(), "{data} does not start: {}", said());
        Ok(running)
    }

    /// An empty folder of the account.
    pub(crate) fn make_folder(&self, name: &str) -> Result<()> {
        let status = self.command(Path::new("mkdir")).arg(name).status()?;
        ensure!(status.success(), "make {name}");
        Ok(())
    }

    /// A copy of the data directory `base`, with these lines more in its configuration.
    pub(crate) fn copy(&self, base: &str, name: &str, settings: &str) -> Result<()> {
        let status = self.command(Path::new("cp")).args(["-a", base, name]).status()?;
        ensure!(status.success(), "copy {base} to {name}");
        self.configure(name, settings)
    }

    /// Appends these lines to the configuration of a data directory.
    pub(crate) fn configure(&self, data: &str, settings: &str) -> Result<()> {
        let mut file = File::options().append(true).open(self.path(data).join("postgresql.conf"))?;
        Ok(file.write_all(settings.as_bytes())?)
    }

    /// Runs a script of SQL on the server that is running.
    pub(crate) fn run_script(&self, name: &str, script: &str, arguments: &[&str]) -> Result<()> {
        let path = self.path(name);
        File::create(&path)?.write_all(script.as_bytes())?;
        let (path, host) = (path.display().to_string(), self.dir.path().display().to_string());
        let server = ["-Xq", "-v", "ON_ERROR_STOP=1", "-h", &host, "-U", "tester", "-d", "postgres", "-f", &path];
        self.run("psql", &[&server[..], arguments].concat()).map(drop)
    }

    /// The control file of a data directory.
    pub(crate) fn control(&self, data: &str) -> Result<ControlFile> {
        let mut control = Vec::new();
        File::open(self.path(data).join("global/pg_control"))?.read_to_end(&mut control)?;
        Ok(ControlFile::parse(&control)?)
    }
}

pub(crate) struct Running<'a> {
    place: &'a Place,
    data: String,
}

impl Running<'_> {
    /// Stops it in good order.
    pub(crate) fn stop(self) -> Result<()> {
        self.place.run("pg_ctl", &["stop", "-m", "fast", "-D", &self.data]).map(drop)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        // A server that is not there any more needs no stopping.
        drop(self.place.run("pg_ctl", &["stop", "-m", "immediate", "-D", &self.data]));
    }
}
