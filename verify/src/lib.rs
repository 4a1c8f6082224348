//! Proves that backups restore, and says truthfully what is wrong with those that do not.
//!
//! `verify backup` reads what it is asked to ([`common::archive::inspect`] does the work), goes on after every finding,
//! and ends with 0 only when each inspected backup is whole: its record, every byte of its objects, and the WAL from its
//! start to its stop. Findings are 3. Not being able to look is neither: 1, or 10 without a repository or cluster there.
//! It looks into the first repository, which is where backups go to and come from.

mod backup;
mod cli;
mod report;

pub use cli::Cli;

use common::app::{Context, Outcome};

/// Carries out one call; writes nothing but its report.
pub fn run(cli: &Cli, ctx: &Context) -> anyhow::Result<Outcome> {
    match &cli.command {
        cli::Command::Backup(args) => backup::run(args, ctx),
    }
}
