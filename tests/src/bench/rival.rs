//! pgBackRest beside Holdfast: the same cluster, codec, level and number of processes, its own repository.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::Terms;
use super::measure::{self, Cost};
use crate::{Cluster, Sandbox};

const STANZA: &str = "main";

/// pgBackRest, configured for one cluster.
#[derive(Debug)]
pub struct PgBackRest {
    sandbox: Sandbox,
    config: PathBuf,
    repository: PathBuf,
    /// What it says of itself.
    pub version: String,
}

impl PgBackRest {
    /// Sets it up; `None` when this machine has none.
    pub fn set_up(sandbox: &Sandbox, cluster: &Cluster, terms: Terms) -> Result<Option<Self>> {
        let Ok(version) = sandbox.run_other("pgbackrest", &["version"]) else { return Ok(None) };
        let repository = sandbox.folder("pgbackrest")?;
        let (log, lock) = (sandbox.folder("pgbackrest-log")?, sandbox.folder("pgbackrest-lock")?);
        let config = sandbox.path().join("pgbackrest.conf");
        let text = format!(
            "[global]\nrepo1-path={repo}\ncompress-type=zst\ncompress-level={level}\nprocess-max={jobs}\n\
             log-path={log}\nlock-path={lock}\nlog-level-console=warn\nlog-level-file=off\nstart-fast=y\n\
             [{STANZA}]\npg1-path={pgdata}\npg1-socket-path={socket}\npg1-port={port}\npg1-user=postgres\n",
            repo = repository.display(),
            level = terms.level,
            jobs = terms.jobs,
            log = log.display(),
            lock = lock.display(),
            pgdata = cluster.pgdata_arg()?,
            socket = cluster.socket_dir()?,
            port = cluster.port()?,
        );
        sandbox.write(&config, text.as_bytes())?;
        let version = version.success()?.stdout.trim().to_owned();
        let rival = Self { sandbox: sandbox.clone(), config, repository, version };
        measure::run(&mut rival.command(&["stanza-create"])?)?;
        Ok(Some(rival))
    }

    /// What an `archive_command` runs.
    pub fn archive_command(&self) -> String {
        format!("pgbackrest --config={} --stanza={STANZA} archive-push %p", self.config.display())
    }

    /// What archives asynchronously, but for the path: the first call starts a process that goes on through everything
    /// that is ready, the later ones wait for its word.
    pub fn asynchronous_push(&self) -> Result<String> {
        let spool = self.sandbox.folder("pgbackrest-spool")?;
        Ok(format!(
            "pgbackrest --config={} --stanza={STANZA} --archive-async --spool-path={} archive-push",
            self.config.display(),
            spool.display()
        ))
    }

    /// Waits until nothing is pushed any more, and empties the archive.
    pub fn forget_wal(&self) -> Result<()> {
        crate::wait::until("pgbackrest has ended", || {
            Ok(self.sandbox.run_other("pgrep", &["-f", "archive-push:async"])?.code != Some(0))
        })?;
        let archive = self.repository.join("archive").join(STANZA);
        for entry in std::fs::read_dir(&archive)?.filter_map(std::result::Result::ok) {
            if entry.path().is_dir() {
                self.sandbox.clear(&entry.path())?;
            }
        }
        self.sandbox.clear(&self.sandbox.path().join("pgbackrest-spool"))
    }

    /// Archives one segment. It must lie in the cluster's `pg_wal`.
    pub fn push(&self, segment: &Path) -> Result<Cost> {
        measure::run(self.command(&["archive-push"])?.arg(segment))
    }

    /// Brings one segment back.
    pub fn fetch(&self, name: &str, destination: &Path) -> Result<Cost> {
        measure::run(self.command(&["archive-get", name])?.arg(destination))
    }

    /// A full backup, and its repository emptied of the backups before.
    pub fn backup(&self) -> Result<Cost> {
        let cost = measure::run(&mut self.command(&["backup", "--type=full", "--repo1-retention-full=1"])?)?;
        ensure!(self.repository.join("backup").join(STANZA).exists(), "pgbackrest made no backup");
        Ok(cost)
    }

    /// The files of the last backup into an empty folder.
    pub fn restore(&self, into: &Path) -> Result<Cost> {
        let place = format!("--pg1-path={}", into.to_str().context("a path of a bench is text")?);
        measure::run(&mut self.command(&["restore", &place, "--type=immediate"])?)
    }

    fn command(&self, args: &[&str]) -> Result<Command> {
        let mut command = self.sandbox.command("pgbackrest")?;
        command.arg(format!("--config={}", self.config.display())).arg(format!("--stanza={STANZA}")).args(args);
        Ok(command)
    }
}
