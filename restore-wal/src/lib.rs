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
//! Order: request → the shelf of what was fetched ahead → repositories in their order, until one delivers →
//! `answer::decide` → exit code. After the first delivery a detached process fetches ahead (`prefetch`).

mod ahead;
mod answer;
mod cli;
mod local;
mod prefetch;
mod request;
mod search;
mod shelf;
mod window;

pub use cli::Cli;
pub use request::data_directory;

use std::time::Duration;

use ahead::Ahead;
use common::app::{Context, Outcome};
use common::report::message_of;
use request::Request;
use shelf::Note;

/// How long nothing is said again of a repository that is passed over.
const SAID_AGAIN_AFTER: Duration = Duration::from_hours(1);

/// Carries out one call. The log gets at most one line.
pub fn run(cli: &Cli, ctx: &Context) -> anyhow::Result<Outcome> {
    let request = request::gather(cli, ctx)?;
    if cli.prefetcher {
        if let Err(error) = prefetch::run(&request, ctx) {
            tracing::debug!("{}", message_of(&error));
        }
        // Where the server is process 1 it may have to reap this one, and takes any other end for a crash of its own.
        return Ok(Outcome::Done);
    }
    let ahead = Ahead::of(&request, ctx);
    if ahead.as_ref().is_some_and(|ahead| ahead.serve(&request, ctx)) {
        return Ok(delivered(&request, ahead, None, ctx));
    }
    if let Some(ahead) = &ahead {
        ahead.begin(&request);
    }
    let findings = search::everywhere(&request, ctx)?;
    let local = local::has_valid(&request);
    match answer::decide(&request, &findings, local) {
        answer::Answer::Delivered => Ok(delivered(&request, ahead, answer::passed_over(request.name, &findings), ctx)),
        answer::Answer::Absent { log } => {
            if let Some(log) = log {
                tracing::warn!("{log}");
            }
            Ok(Outcome::Absent)
        }
        answer::Answer::Stop(advice) => Err(advice.into()),
    }
}

/// The file is in place: sees to what comes next, and tells of the repositories what was not told lately.
fn delivered(request: &Request, ahead: Option<Ahead>, passed: Option<Note>, ctx: &Context) -> Outcome {
    let noted = ahead.and_then(|ahead| ahead.delivered(request));
    if let Some(note) = passed.or(noted) {
        let spool = ctx.spool(&request.pgdata).find_or_make().ok();
        if spool.is_none_or(|spool| spool.is_news(&note.what, SAID_AGAIN_AFTER)) {
            tracing::warn!("{}", note.text);
        }
    }
    Outcome::Done
}
