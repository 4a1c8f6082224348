//! Puts one finished WAL file into every configured repository: PostgreSQL's `archive_command`.
//!
//! Order: name → whose WAL it is → every repository at once (open, admit the cluster, missing timeline histories, the
//! file itself) → answer. The answer is 0 only when every repository holds the file whole, checked and durable.
//! Whatever happens in the middle, running the same command again gives the same answer, so PostgreSQL's own retry is
//! all the recovery that is needed. No exit code is above 125: PostgreSQL would kill its archiver over one.
//!
//! Around it, for people and monitoring: `setup` tells and makes the settings that a server needs for this, `check`
//! proves that its WAL arrives and closes holes that a failover left, `stats` counts what the repositories hold.

mod check;
mod cli;
mod deliver;
mod request;
mod setup;
mod stats;

pub use cli::Cli;
pub use request::data_directory;

use cli::Command;
use common::app::{Context, Outcome};
use common::report::Advice;

/// Carries out one call. Of a file, data goes nowhere but into the repositories, and the log gets at most one line.
pub fn run(cli: &Cli, ctx: &Context) -> anyhow::Result<Outcome> {
    match &cli.command {
        None => archive(cli, ctx),
        Some(_) if cli.path.is_some() || cli.after_upgrade => {
            Err(Advice::usage("setup, check and stats take neither a WAL file nor --after-upgrade").into())
        }
        Some(Command::Setup(args)) => setup::run(args, ctx),
        Some(Command::Check(args)) => check::run(args, ctx),
        Some(Command::Stats) => stats::run(ctx),
    }
}

fn archive(cli: &Cli, ctx: &Context) -> anyhow::Result<Outcome> {
    let request = request::gather(cli, ctx)?;
    let delivered = deliver::to_all(&request, ctx)?;
    deliver::report(&request, &delivered);
    Ok(Outcome::Done)
}
