//! What is asked for, and by what kind of server.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use common::app::{Context, Settings};
use common::archive::{Identity, identity};
use common::pg::ArchiveName;
use common::report::Advice;
use common::restore::wal_plan::WalPlan;
use common::units::ByteCount;

use crate::Cli;

/// One file that a server asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    /// What the file's name stands for.
    pub(crate) name: ArchiveName,
    /// Where it belongs.
    pub(crate) destination: PathBuf,
    /// The server's data directory.
    pub(crate) pgdata: PathBuf,
    /// The cluster that it must belong to.
    pub(crate) identity: Identity,
    /// What a recovery needs, where `recover` planned it.
    pub(crate) plan: Option<WalPlan>,
    /// How long a hole is taken for a segment that is late.
    pub(crate) hole_grace: Duration,
    /// How much WAL to fetch ahead; nothing for 0.
    pub(crate) prefetch: ByteCount,
}

impl Request {
    /// Whether a server's startup process asks (`RestoreArchivedFile` in `src/backend/access/transam/xlogarchive.c`);
    /// `pg_rewind` names the file itself as the destination.
    pub(crate) fn is_for_recovery(&self) -> bool {
        let names = ["RECOVERYXLOG", "RECOVERYHISTORY"];
        self.destination.file_name().is_some_and(|found| names.iter().any(|name| found == *name))
    }

    /// Whether a recovery cannot do without the file, as far as its plan tells.
    pub(crate) fn is_needed(&self) -> bool {
        match (&self.plan, self.name) {
            (Some(plan), ArchiveName::Segment(segment)) => plan.needs(segment, self.identity.segment_size),
            _ => true,
        }
    }
}

/// Reads the control file of the data directory around the destination, and the plan; touches no repository.
pub(crate) fn gather(cli: &Cli, ctx: &Context) -> anyhow::Result<Request> {
    ctx.settings.require_repositories()?;
    let name = ArchiveName::parse(&cli.file).ok_or_else(|| {
        Advice::usage(format!("{:?} is no name of a file that PostgreSQL archives", cli.file))
            .hint("restore_command = 'restore-wal %f %p': first the name, then the destination")
    })?;
    let pgdata = ctx.data_directory.clone().context("the data directory is not known")?;
    let identity = identity::read(&pgdata)?;
    let plan = cli.plan.as_deref().map(WalPlan::read).transpose()?;
    let destination = cli.destination.clone();
    let (hole_grace, prefetch) = (ctx.settings.hole_grace, cli.prefetch_size.unwrap_or(ctx.settings.prefetch_size));
    Ok(Request { name, destination, pgdata, identity, plan, hole_grace, prefetch })
}

/// The data directory that the file belongs to, as `main` needs it.
pub fn data_directory(cli: &Cli, settings: &Settings) -> Option<PathBuf> {
    Some(identity::data_directory(&cli.destination, settings.pgdata.as_ref().map(|pgdata| pgdata.value.as_path())))
}
