//! Brings one WAL file back, or says truthfully that it does not exist: PostgreSQL's `restore_command`.
//!
//! PostgreSQL takes every exit code from 1 to 125 as "the archive ends here" and promotes. So 1 is kept for one answer:
//! no repository has the file and none has a later one of its timeline. Everything else — a hole, damage, a repository
//! that does not answer, a wrong option, a bug — is 200 and above, and PostgreSQL stops with its data intact.
//!
//! Two kinds of caller must not be stopped. A standby never promotes itself, so it gets 1 for every failure and tries
//! again or streams. And where the server's own `pg_wal` holds the segment whole, 1 lets PostgreSQL use that one.
//! A plan written by `recover` narrows what must be had to the segments up to the target.
//!
//! Order: request → repositories in their order, until one delivers → `answer::decide` → exit code.

mod answer;
mod cli;
mod local;
mod request;
mod search;

pub use cli::Cli;
pub use request::data_directory;

use common::app::{Context, Outcome};

/// Carries out one call. The log gets at most one line.
pub fn run(cli: &Cli, ctx: &Context) -> anyhow::Result<Outcome> {
    let request = request::gather(cli, ctx)?;
    let findings = search::everywhere(&request, ctx)?;
    let local = local::has_valid(&request);
    match answer::decide(&request, &findings, local) {
        answer::Answer::Delivered => Ok(Outcome::Done),
        answer::Answer::Absent { log } => {
            if let Some(log) = log {
                tracing::warn!("{log}");
            }
            Ok(Outcome::Absent)
        }
        answer::Answer::Stop(advice) => Err(advice.into()),
    }
}
