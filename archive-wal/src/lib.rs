//! Puts one finished WAL file into every configured repository: PostgreSQL's `archive_command`.
//!
//! Order: name → whose WAL it is → every repository at once (open, then an acknowledgement, or admit the cluster, missing
//! timeline histories, the file) → answer. The answer is 0 only when every repository holds the file whole, checked and
//! durable. Whatever happens in the middle, running the same command again gives the same answer, so PostgreSQL's own
//! retry is all the recovery that is needed. No exit code is above 125: PostgreSQL would kill its archiver over one.
//!
//! PostgreSQL hands over one file at a time and waits. When more are ready they go along in parallel, up to `--batch`, and
//! the later calls find that they are acknowledged: the speed of a daemon without one.
//!
//! Around it, for people and monitoring: `setup` tells and makes the settings that a server needs for this, `check`
//! proves that its WAL arrives and closes holes that a failover left, `stats` counts what the repositories hold.

mod alarm;
mod batch;
mod check;
mod cli;
mod deliver;
mod push;
mod report;
mod request;
mod setup;
mod stats;

pub use cli::Cli;
pub use request::data_directory;

use cli::Command;
use common::app::{Context, Outcome};
use common::report::Advice;

/// Carries out one call: a file for PostgreSQL, or one of the subcommands.
pub fn run(cli: &Cli, ctx: &Context) -> anyhow::Result<Outcome> {
    match &cli.command {
        None => push::run(cli, ctx),
        Some(_) if cli.path.is_some() || cli.after_upgrade || cli.batch.is_some() => {
            Err(Advice::usage("setup, check and stats take neither a WAL file nor --after-upgrade or --batch").into())
        }
        Some(Command::Setup(args)) => setup::run(args, ctx),
        Some(Command::Check(args)) => check::run(args, ctx),
        Some(Command::Stats) => stats::run(ctx),
    }
}
