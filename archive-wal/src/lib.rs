//! Puts one finished WAL file into every configured repository: PostgreSQL's `archive_command`.
//!
//! Order: name → whose WAL it is → every repository at once (open, admit the cluster, missing timeline histories, the
//! file itself) → answer. The answer is 0 only when every repository holds the file whole, checked and durable.
//! Whatever happens in the middle, running the same command again gives the same answer, so PostgreSQL's own retry is
//! all the recovery that is needed. No exit code is above 125: PostgreSQL would kill its archiver over one.

mod cli;
mod deliver;
mod request;

pub use cli::Cli;
pub use request::data_directory;

use common::app::{Context, Outcome};

/// Carries out one call. Data goes nowhere but into the repositories; the log gets at most one line.
pub fn run(cli: &Cli, ctx: &Context) -> anyhow::Result<Outcome> {
    let request = request::gather(cli, ctx)?;
    let delivered = deliver::to_all(&request, ctx)?;
    deliver::report(&request, &delivered);
    Ok(Outcome::Done)
}
