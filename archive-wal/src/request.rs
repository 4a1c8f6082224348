//! What is to be archived, and whose it is.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use common::app::{Context, Settings};
use common::archive::{Identity, identity};
use common::pg::ArchiveName;
use common::report::Advice;

use crate::Cli;
use crate::batch::WalFile;

/// One file to archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    /// What the file's name stands for.
    pub(crate) name: ArchiveName,
    /// Where it lies.
    pub(crate) path: PathBuf,
    /// The data directory that it belongs to.
    pub(crate) pgdata: PathBuf,
    /// The cluster that it must belong to.
    pub(crate) identity: Identity,
    /// Whether a system identifier new to the repository is accepted.
    pub(crate) after_upgrade: bool,
    /// How many files this call may take on.
    pub(crate) batch: usize,
}

impl Request {
    /// The requested file.
    pub(crate) fn file(&self) -> WalFile {
        WalFile { name: self.name, path: self.path.clone() }
    }

    /// The folder that it lies in, where the server's other WAL is too.
    pub(crate) fn pg_wal(&self) -> PathBuf {
        self.path.parent().map(Path::to_path_buf).unwrap_or_default()
    }

    /// The file of this name beside it.
    pub(crate) fn beside(&self, name: ArchiveName) -> WalFile {
        if name == self.name { self.file() } else { WalFile { name, path: self.pg_wal().join(name.to_string()) } }
    }
}

/// Reads the name and the control file of the data directory around it; touches no repository.
pub(crate) fn gather(cli: &Cli, ctx: &Context) -> anyhow::Result<Request> {
    ctx.settings.require_repositories()?;
    let file_name = cli.path().file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let name = ArchiveName::parse(&file_name).ok_or_else(|| {
        Advice::refused(format!("{file_name:?} is no name of a file that PostgreSQL archives")).hint(
            "segments, .partial, .history and .backup files are archived, under the names that PostgreSQL gives; the \
                 subcommands are setup, check and stats",
        )
    })?;
    let pgdata = ctx.data_directory.clone().context("the data directory is not known")?;
    let identity = identity::read(&pgdata).with_context(|| format!("archive {name}"))?;
    let batch = cli.batch.map_or(ctx.settings.batch, usize::from);
    Ok(Request { name, path: cli.path().to_owned(), pgdata, identity, after_upgrade: cli.after_upgrade, batch })
}

/// The data directory that the file belongs to, as `main` needs it; a subcommand works for the configured one.
pub fn data_directory(cli: &Cli, settings: &Settings) -> Option<PathBuf> {
    let configured = settings.pgdata.as_ref().map(|pgdata| pgdata.value.as_path());
    match &cli.command {
        None => Some(identity::data_directory(cli.path(), configured)),
        Some(_) => configured.map(Path::to_owned),
    }
}
