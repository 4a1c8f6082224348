//! A PostgreSQL cluster: made by initdb, started, stopped, killed, and asked.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use crate::{Ran, Repo, Sandbox, postgres, process, wait};

/// How to stop a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMode {
    /// Disconnects everybody and writes a checkpoint. Waits for the archiver.
    Fast,
    /// As if the power went: the next start recovers.
    Immediate,
}

/// A cluster and the server that may run on it, whoever started that server.
#[derive(Debug, Clone)]
pub struct Cluster {
    sandbox: Sandbox,
    pgdata: PathBuf,
    repo: Option<Repo>,
}

/// What a new cluster is to be like.
#[derive(Debug)]
pub struct Recipe {
    name: String,
    checksums: bool,
    segment_mb: u32,
    settings: Vec<(String, String)>,
    wal_dir: Option<PathBuf>,
    repo: Option<Repo>,
}

impl Recipe {
    /// A cluster with data checksums, 16 MB segments and no archive.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), checksums: true, segment_mb: 16, settings: Vec::new(), wal_dir: None, repo: None }
    }

    /// Without data checksums.
    #[must_use]
    pub fn no_checksums(mut self) -> Self {
        self.checksums = false;
        self
    }

    /// WAL segments of this size: 1 to 1024, a power of two.
    #[must_use]
    pub fn segment_mb(mut self, megabytes: u32) -> Self {
        self.segment_mb = megabytes;
        self
    }

    /// A line of `postgresql.conf`; it wins over the kit's own.
    #[must_use]
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With its `pg_wal` in this folder, which is empty, and a link to it.
    #[must_use]
    pub fn wal_dir(mut self, folder: &Path) -> Self {
        self.wal_dir = Some(folder.to_owned());
        self
    }

    /// Archived into `repo` by `archive-wal` from its first segment on.
    #[must_use]
    pub fn archived_to(mut self, repo: &Repo) -> Self {
        self.repo = Some(repo.clone());
        self
    }

    /// Makes the cluster and starts it.
    pub fn start(self, sandbox: &Sandbox) -> Result<Cluster> {
        let cluster =
            Cluster { sandbox: sandbox.clone(), pgdata: sandbox.path().join(&self.name), repo: self.repo.clone() };
        let pgdata = cluster.pgdata_arg()?;
        let segment = format!("--wal-segsize={}", self.segment_mb);
        let mut args =
            vec!["-D", pgdata, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync", "--no-instructions"];
        args.extend(["--locale=C.UTF-8", &segment]);
        // Since 18 checksums are the default, and only newer servers know how to say no.
        match (self.checksums, postgres::major()?) {
            (true, _) => args.push("--data-checksums"),
            (false, 18..) => args.push("--no-data-checksums"),
            (false, _) => {}
        }
        let wal_dir = self.wal_dir.as_ref().map(|folder| format!("--waldir={}", folder.display()));
        args.extend(wal_dir.as_deref());
        sandbox.run_other("initdb", &args)?.success()?;
        cluster.configure(&self.lines(sandbox)?)?;
        cluster.start()?;
        Ok(cluster)
    }

    /// The settings: small and quick, no autovacuum so that nothing but the story writes, nothing on the network.
    pub(crate) fn lines(&self, sandbox: &Sandbox) -> Result<Vec<(String, String)>> {
        let mut lines: Vec<(String, String)> = [
            ("listen_addresses", ""),
            ("fsync", "off"),
            ("autovacuum", "off"),
            ("shared_buffers", "16MB"),
            ("max_connections", "30"),
            ("dynamic_shared_memory_type", "mmap"),
            ("track_commit_timestamp", "on"),
            ("wal_level", "replica"),
            ("log_timezone", "UTC"),
            ("timezone", "UTC"),
            ("log_min_messages", "info"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec();
        lines.push(("port".to_owned(), sandbox.new_port().to_string()));
        lines.push(("unix_socket_directories".to_owned(), sandbox.sockets().display().to_string()));
        if let Some(repo) = &self.repo {
            lines.push(("archive_mode".to_owned(), "on".to_owned()));
            lines.push(("archive_command".to_owned(), archive_command(sandbox, repo)?));
            if postgres::major()? >= 17 {
                // As archive-wal setup wants it.
                lines.push(("summarize_wal".to_owned(), "on".to_owned()));
            }
        }
        lines.extend(self.settings.iter().cloned());
        Ok(lines)
    }
}

/// The `archive_command` that puts WAL into `repo`.
pub fn archive_command(sandbox: &Sandbox, repo: &Repo) -> Result<String> {
    Ok(format!("{} --repo {} %p", sandbox.program("archive-wal").display(), repo.arg()?))
}

/// The `restore_command` that takes WAL from `repo`.
pub fn restore_command(sandbox: &Sandbox, repo: &Repo) -> Result<String> {
    Ok(format!("{} --repo {} %f %p", sandbox.program("restore-wal").display(), repo.arg()?))
}

impl Cluster {
    /// The cluster in a data directory that something else made, a recovered copy say.
    pub fn at(sandbox: &Sandbox, pgdata: &Path, repo: Option<&Repo>) -> Self {
        Self { sandbox: sandbox.clone(), pgdata: pgdata.to_owned(), repo: repo.cloned() }
    }

    /// A data directory `name` as a server has it that is about to recover this cluster: its control file, and a
    /// `pg_wal` with nothing in it. Enough for `restore-wal`.
    pub fn bare_node(&self, name: &str) -> Result<Self> {
        let pgdata = self.sandbox.folder(name)?;
        for folder in ["global", "pg_wal"] {
            self.sandbox.folder(&format!("{name}/{folder}"))?;
        }
        for file in ["global/pg_control", "PG_VERSION"] {
            self.sandbox.write(&pgdata.join(file), &fs::read(self.pgdata.join(file))?)?;
        }
        Ok(Self { pgdata, ..self.clone() })
    }

    /// The data directory.
    pub fn pgdata(&self) -> &Path {
        &self.pgdata
    }

    /// The data directory as an argument of a program.
    pub fn pgdata_arg(&self) -> Result<&str> {
        self.pgdata.to_str().context("a path of a test is text")
    }

    /// The repository that it archives to.
    pub fn repo(&self) -> Result<&Repo> {
        self.repo.as_ref().context("this cluster has no archive")
    }

    /// Where it is.
    pub fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    /// Appends lines to `postgresql.conf`.
    pub fn configure(&self, lines: &[(String, String)]) -> Result<()> {
        let path = self.pgdata.join("postgresql.conf");
        let mut text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        for (name, value) in lines {
            writeln!(text, "{name} = '{}'", value.replace('\'', "''"))?;
        }
        self.sandbox.write(&path, text.as_bytes())
    }

    /// Changes one setting of the running server, lastingly.
    pub fn set(&self, name: &str, value: &str) -> Result<()> {
        self.configure(&[(name.to_owned(), value.to_owned())])?;
        process::signal(self.pid()?, Signal::SIGHUP)?;
        wait::until("the server reads its settings", || Ok(self.sql(&format!("show {name}"))? == value))
    }

    /// Starts the server and waits until it answers, or stands by.
    pub fn start(&self) -> Result<()> {
        ensure!(self.start_or_end()?, "the server on {} ended:\n{}", self.pgdata.display(), self.log_tail());
        Ok(())
    }

    /// Starts a server that may end by itself; answers whether it came up.
    pub fn start_or_end(&self) -> Result<bool> {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log_path())?;
        let mut command = self.sandbox.command(postgres::bin_dir()?.join("postgres"))?;
        command.arg("-D").arg(&self.pgdata).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut child = command.spawn().context("start postgres")?;
        let pid = i32::try_from(child.id())?;
        // Somebody has to reap it, whoever stops it.
        thread::spawn(move || child.wait());
        wait::for_some("the server starts or ends", || {
            if !process::alive(pid) {
                return Ok(Some(false));
            }
            let status = self.pid_file_line(8).unwrap_or_default();
            Ok((self.pid().is_ok_and(|found| found == pid) && status.trim() == "ready").then_some(true))
        })
    }

    /// Stops the server.
    pub fn stop(&self, mode: StopMode) -> Result<()> {
        let pid = self.pid()?;
        process::signal(pid, if mode == StopMode::Fast { Signal::SIGINT } else { Signal::SIGQUIT })?;
        process::wait_gone(&[pid])
    }

    /// Stops and starts.
    pub fn restart(&self) -> Result<()> {
        self.stop(StopMode::Fast)?;
        self.start()
    }

    /// Kills the server and all that belongs to it with SIGKILL.
    pub fn kill9(&self) -> Result<()> {
        let pid = self.pid()?;
        let mut pids = process::children(pid)?;
        pids.push(pid);
        for &pid in pids.iter().rev() {
            process::signal(pid, Signal::SIGKILL)?;
        }
        process::wait_gone(&pids)
    }

    /// Whether a server runs on this data directory.
    pub fn is_running(&self) -> bool {
        self.pid().is_ok_and(process::alive)
    }

    /// The process id of the postmaster, from its pid file.
    pub fn pid(&self) -> Result<i32> {
        Ok(self.pid_file_line(1)?.trim().parse()?)
    }

    /// The port, from the pid file.
    pub fn port(&self) -> Result<u16> {
        Ok(self.pid_file_line(4)?.trim().parse()?)
    }

    /// The folder of the socket, from the pid file.
    pub fn socket_dir(&self) -> Result<String> {
        Ok(self.pid_file_line(5)?.trim().to_owned())
    }

    fn pid_file_line(&self, number: usize) -> Result<String> {
        let path = self.pgdata.join("postmaster.pid");
        let text = fs::read_to_string(&path).with_context(|| format!("read {}: no server runs", path.display()))?;
        Ok(text.lines().nth(number - 1).context("the pid file is not complete yet")?.to_owned())
    }

    /// The options `-h -p -U` that reach this server.
    pub fn connection(&self) -> Result<Vec<String>> {
        let host = match self.socket_dir()? {
            none if none.is_empty() => self.pid_file_line(6)?.trim().to_owned(),
            folder => folder,
        };
        Ok(["-h".to_owned(), host, "-p".to_owned(), self.port()?.to_string(), "-U".to_owned(), "postgres".to_owned()]
            .into())
    }

    /// A psql that reads statements from its input, prints bare values, and stops at the first error.
    pub fn psql(&self) -> Result<std::process::Command> {
        let mut command = self.sandbox.command("psql")?;
        command.args(["-qAtX", "-v", "ON_ERROR_STOP=1", "-d", "postgres"]).args(self.connection()?);
        Ok(command)
    }

    /// Runs SQL, each statement a transaction of its own; answers what psql printed, whatever the exit status.
    pub fn try_sql(&self, sql: &str) -> Result<Ran> {
        process::run(&mut self.psql()?, sql)
    }

    /// Runs SQL and answers its output without the last line end.
    pub fn sql(&self, sql: &str) -> Result<String> {
        let ran = self.try_sql(sql)?.success().with_context(|| sql.to_owned())?;
        Ok(ran.stdout.trim_end_matches('\n').to_owned())
    }

    /// Runs SQL that answers one value of this type.
    pub fn ask<T>(&self, sql: &str) -> Result<T>
    where
        T: std::str::FromStr<Err: std::error::Error + Send + Sync + 'static>,
    {
        self.sql(sql)?.parse().with_context(|| sql.to_owned())
    }

    /// Ends the current WAL segment; answers its name.
    pub fn end_segment(&self) -> Result<String> {
        // Nothing is switched when nothing was written; this message belongs to no transaction.
        self.sql("select pg_logical_emit_message(false, 'kit', 'end of segment')")?;
        self.sql("select pg_walfile_name(pg_switch_wal())")
    }

    /// Ends the current WAL segment and waits until the repository has it; answers its name.
    pub fn switch_wal(&self) -> Result<String> {
        let name = self.end_segment()?;
        self.wait_archived(&name)?;
        Ok(name)
    }

    /// Waits until the repository holds this WAL file, and the server knows.
    pub fn wait_archived(&self, name: &str) -> Result<()> {
        let (repo, failures) = (self.repo()?, self.archive_failures());
        let ready = self.pgdata.join("pg_wal/archive_status").join(format!("{name}.ready"));
        wait::until("the segment is archived", || {
            ensure!(self.archive_failures() == failures, "the server gave up archiving for a while");
            Ok(repo.find_wal(name).is_some() && !ready.exists())
        })
        .with_context(|| format!("{name} on {}:\n{}", self.pgdata.display(), self.log_tail()))
    }

    /// The WAL files that the server holds for archived, as `pg_wal/archive_status` says.
    pub fn archived_by_its_own_account(&self) -> Result<BTreeSet<String>> {
        self.archive_status(".done")
    }

    /// The WAL files that the server has still to archive.
    pub fn waiting_to_be_archived(&self) -> Result<BTreeSet<String>> {
        self.archive_status(".ready")
    }

    fn archive_status(&self, end: &str) -> Result<BTreeSet<String>> {
        let entries = fs::read_dir(self.pgdata.join("pg_wal/archive_status"))?;
        let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        let names = names.collect::<Result<Vec<String>>>()?;
        Ok(names.iter().filter_map(|name| name.strip_suffix(end)).map(str::to_owned).collect())
    }

    /// Fails unless the repository holds this file of the server's `pg_wal`, byte for byte.
    pub fn require_archived(&self, name: &str) -> Result<()> {
        let repo = self.repo()?;
        let ours = fs::read(self.pgdata.join("pg_wal").join(name)).with_context(|| format!("read {name}"))?;
        ensure!(repo.unpack(&repo.wal(name)?)? == ours, "the archived {name} is not the server's");
        Ok(())
    }

    /// How often the archiver gave up after three attempts; it rests for a minute then.
    fn archive_failures(&self) -> usize {
        self.log().matches("failed too many times").count()
    }

    /// Waits until the server accepts writes.
    pub fn wait_promoted(&self) -> Result<()> {
        wait::until("the server is promoted", || {
            ensure!(self.is_running(), "the server ended:\n{}", self.log_tail());
            Ok(self.try_sql("select pg_is_in_recovery()")?.stdout.trim() == "f")
        })
    }

    /// The timeline of the last checkpoint.
    pub fn timeline(&self) -> Result<u32> {
        self.sql("checkpoint")?;
        self.ask("select timeline_id from pg_control_checkpoint()")
    }

    /// Runs `archive-wal` as the server would: from the data directory, on this path. It takes nothing else along.
    pub fn archive_wal(&self, path: &str) -> Result<Ran> {
        self.sandbox.run_in(&self.pgdata, "archive-wal", &["--repo", self.repo()?.arg()?, "--batch", "1", path])
    }

    /// Runs `restore-wal` as the server would: from the data directory, to this path.
    pub fn restore_wal(&self, file: &str, dest: &str) -> Result<Ran> {
        self.sandbox.run_in(&self.pgdata, "restore-wal", &["--repo", self.repo()?.arg()?, file, dest])
    }

    /// Takes a base backup; answers its id.
    pub fn backup(&self, options: &[&str]) -> Result<String> {
        let ran = self.try_backup(options)?.success()?;
        Ok(ran.stdout.trim().to_owned())
    }

    /// Takes a base backup with a fast checkpoint.
    pub fn try_backup(&self, options: &[&str]) -> Result<Ran> {
        let connection = self.connection()?;
        let mut args = vec!["--repo", self.repo()?.arg()?, "-D", self.pgdata_arg()?, "-d", "postgres", "-c", "fast"];
        args.extend(connection.iter().map(String::as_str));
        args.extend(options);
        self.sandbox.run("basebackup", &args)
    }

    /// Runs `recover run` on this data directory, without questions.
    pub fn try_recover(&self, options: &[&str]) -> Result<Ran> {
        let mut args = vec!["run", "--repo", self.repo()?.arg()?, "-D", self.pgdata_arg()?, "-U", "postgres", "--yes"];
        args.extend(options);
        self.sandbox.run("recover", &args)
    }

    /// Recovers this cluster in place and waits until it accepts writes.
    pub fn recover(&self, options: &[&str]) -> Result<()> {
        self.try_recover(options)?.success().with_context(|| self.log_tail())?;
        self.wait_promoted()
    }

    /// Recovers a copy into a new folder `name`, and waits until it accepts writes.
    pub fn recover_copy(&self, name: &str, options: &[&str]) -> Result<Self> {
        let copy = Self { pgdata: self.sandbox.path().join(name), ..self.clone() };
        let port = self.sandbox.new_port().to_string();
        let mut args = vec!["--as", "copy", "--port", &port];
        args.extend(options);
        copy.try_recover(&args)?.success()?;
        copy.wait_promoted()?;
        Ok(copy)
    }

    /// A new standby of this running server, in a folder `name`: it follows the archive, and streams when asked to.
    pub fn standby(&self, name: &str, streams: bool) -> Result<Self> {
        let standby = Self { pgdata: self.sandbox.path().join(name), ..self.clone() };
        let connection = self.connection()?;
        let mut args = vec!["-D", standby.pgdata_arg()?, "-X", "none", "-c", "fast", "--no-sync"];
        args.extend(connection.iter().map(String::as_str));
        self.sandbox.run_other("pg_basebackup", &args)?.success()?;
        let mut lines = vec![
            ("port".to_owned(), self.sandbox.new_port().to_string()),
            ("restore_command".to_owned(), restore_command(&self.sandbox, self.repo()?)?),
            ("wal_retrieve_retry_interval".to_owned(), "100ms".to_owned()),
        ];
        if streams {
            let conninfo = format!("host={} port={} user=postgres", self.socket_dir()?, self.port()?);
            lines.push(("primary_conninfo".to_owned(), conninfo));
        }
        standby.configure(&lines)?;
        self.sandbox.write(&standby.pgdata.join("standby.signal"), b"")?;
        standby.start()?;
        Ok(standby)
    }

    /// What the server that this kit started has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.pgdata.with_extension("log")
    }

    fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines.get(lines.len().saturating_sub(30)..).unwrap_or_default().join("\n")
    }
}
