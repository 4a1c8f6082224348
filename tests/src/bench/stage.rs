//! What every row works with, and each program run once.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::Terms;
use super::dense::Dense;
use super::measure::{self, Cost};
use super::rival::PgBackRest;
use crate::{Repo, Sandbox, wait};

/// The cluster, its segments, and who is compared.
#[derive(Debug, Clone, Copy)]
pub struct Stage<'a> {
    /// Where everything lies.
    pub sandbox: &'a Sandbox,
    /// The cluster and dense segments of it.
    pub dense: &'a Dense,
    /// pgBackRest, where there is one.
    pub rival: Option<&'a PgBackRest>,
    /// How it is done.
    pub terms: Terms,
}

impl Stage<'_> {
    /// The segment of that turn; every turn has its own.
    pub fn segment(&self, turn: usize) -> Result<PathBuf> {
        self.dense.segments.get(turn).cloned().context("too few segments")
    }

    /// Its name.
    pub fn name(&self, turn: usize) -> Result<String> {
        let path = self.segment(turn)?;
        Ok(path.file_name().context("a segment has a name")?.to_string_lossy().into_owned())
    }

    /// Runs a line of shell.
    pub fn shell(&self, line: &str) -> Result<Cost> {
        measure::run(self.sandbox.command("sh")?.args(["-c", line]))
    }

    /// One of Holdfast's programs, to be run as the server runs it: from the data directory.
    pub fn program(&self, name: &str) -> Result<Command> {
        let mut command = self.sandbox.command(self.sandbox.program(name))?;
        command.current_dir(self.dense.cluster.pgdata());
        Ok(command)
    }

    /// `archive-wal` on the segment of that turn.
    pub fn push(&self, repo: &Repo, turn: usize) -> Result<Cost> {
        self.as_the_server(turn, |path| {
            let mut command = self.program("archive-wal")?;
            measure::run(command.args(["--config", &config(repo)?]).arg(path))
        })
    }

    /// `restore-wal` of the segment of that turn; what comes back is compared.
    pub fn fetch(&self, repo: &Repo, turn: usize) -> Result<Cost> {
        self.fetched(turn, |place| {
            let mut command = self.program("restore-wal")?;
            measure::run(command.args(["--config", &config(repo)?, &self.name(turn)?]).arg(place))
        })
    }

    /// `basebackup` of the cluster, which must archive into `repo`.
    pub fn backup(&self, repo: &Repo, level: u32) -> Result<Cost> {
        let cluster = &self.dense.cluster;
        let mut command = self.program("basebackup")?;
        command.args(["--config", &config(repo)?, "-D", cluster.pgdata_arg()?, "-d", "postgres", "-c", "fast"]);
        command.args(["-j", &self.terms.jobs.to_string(), "-Z", &format!("zstd:{level}")]);
        measure::run(command.args(cluster.connection()?))
    }

    /// `recover run --no-start` of the last backup into an empty folder.
    pub fn restore(&self, repo: &Repo, place: &Path) -> Result<Cost> {
        let mut command = self.program("recover")?;
        command.args(["run", "--config", &config(repo)?, "--as", "copy", "--target-immediate", "--no-start", "--yes"]);
        command.args(["-j", &self.terms.jobs.to_string(), "-U", "postgres", "-D"]).arg(place);
        measure::run(&mut command)
    }

    /// `recover check` of the newest moment, beside the server that runs.
    pub fn prove(&self, repo: &Repo) -> Result<Cost> {
        let cluster = &self.dense.cluster;
        let mut command = self.program("recover")?;
        command.args(["check", "--config", &config(repo)?, "-D", cluster.pgdata_arg()?, "--target-latest"]);
        measure::run(command.args(cluster.connection()?))
    }

    /// `verify` or `retention` with these arguments.
    pub fn look_after(&self, repo: &Repo, program: &str, args: &[&str]) -> Result<Cost> {
        measure::run(self.program(program)?.args(args).args(["--config", &config(repo)?]))
    }

    /// What an `archive_command` runs.
    pub fn archive_command(&self, repo: &Repo) -> Result<String> {
        Ok(format!("{} --config {} %p", self.sandbox.program("archive-wal").display(), config(repo)?))
    }

    /// Hands the server's WAL to this command from now on, with nothing left over from the one before.
    pub fn archive_with(&self, command: &str) -> Result<()> {
        let cluster = &self.dense.cluster;
        cluster.set("archive_command", command)?;
        let done = cluster.pgdata().join(format!("pg_wal/archive_status/{}.done", cluster.end_segment()?));
        wait::until("the archiver has caught up", || Ok(done.exists()))
    }

    /// Removes every backup, not its WAL.
    pub fn forget_backups(&self, repo: &Repo) -> Result<()> {
        repo.backups().iter().try_for_each(|id| {
            let record = repo.backup_object(id, "backup.json")?;
            self.sandbox.clear(record.parent().context("a record lies in a folder")?)
        })
    }

    /// An empty folder for a restore; what an earlier one left in it and beside it is gone.
    pub fn empty_place(&self) -> Result<PathBuf> {
        self.sandbox.clear(&self.sandbox.path().join("restored"))?;
        self.sandbox.clear(&self.sandbox.path().join("restored.holdfast"))?;
        self.sandbox.folder("restored")
    }

    /// Puts the turn's segment into the cluster's `pg_wal`, where archivers look for it, for as long as `act` takes.
    pub fn as_the_server(&self, turn: usize, act: impl FnOnce(&Path) -> Result<Cost>) -> Result<Cost> {
        let (segment, path) = (self.segment(turn)?, self.dense.cluster.pgdata().join("pg_wal").join(self.name(turn)?));
        let borrowed = !path.exists();
        if borrowed {
            std::fs::copy(&segment, &path).with_context(|| format!("copy {}", segment.display()))?;
        }
        same(&segment, &path)?;
        let cost = act(&path)?;
        if borrowed {
            self.sandbox.clear(&path)?;
        }
        Ok(cost)
    }

    /// Lets `act` bring the turn's segment to a place, and compares what came.
    pub fn fetched(&self, turn: usize, act: impl FnOnce(&Path) -> Result<Cost>) -> Result<Cost> {
        let place = self.sandbox.path().join("fetched");
        self.sandbox.clear(&place)?;
        let cost = act(&place)?;
        same(&self.segment(turn)?, &place)?;
        Ok(cost)
    }
}

/// The configuration file of a repository, made by [`configure`].
fn config(repo: &Repo) -> Result<String> {
    Ok(format!("{}.toml", repo.arg()?))
}

/// A repository called `name` that is compressed at this level, and its configuration file.
pub fn configure(sandbox: &Sandbox, name: &str, level: u32) -> Result<Repo> {
    let repo = Repo::new(sandbox, name)?;
    let text = format!("[[repository]]\nurl = \"{}\"\ncompression = \"zstd:{level}\"\n", repo.arg()?);
    sandbox.write(Path::new(&config(&repo)?), text.as_bytes())?;
    Ok(repo)
}

fn same(one: &Path, other: &Path) -> Result<()> {
    let compared = Command::new("cmp").arg("-s").args([one, other]).status().context("run cmp")?;
    ensure!(compared.success(), "{} and {} differ", one.display(), other.display());
    Ok(())
}
