//! `archive-wal check`: whether a server's WAL arrives in the repositories, whether all of it has, and how far it is behind.
//!
//! [`proof`] ends a segment and waits until it is in every repository, reads it back and compares it with the one in
//! `pg_wal`; [`gather`] asks the server and lists the repositories; [`holes`] finds, purely, what is missing on the
//! server's own timeline and its ancestors; [`backfill`] puts of that what this server still has; [`findings`] judges,
//! purely; [`report`] prints. Nothing on the server or in a repository is changed but the ended segment and what
//! `--backfill` puts.

mod backfill;
mod findings;
mod gather;
mod holes;
mod proof;
mod report;

use common::app::{Context, Outcome};
use common::report::ExitClass;

use crate::cli::CheckArgs;
use findings::Severity;

/// Carries out `archive-wal check`.
pub(crate) fn run(args: &CheckArgs, ctx: &Context) -> anyhow::Result<Outcome> {
    ctx.settings.require_repositories()?;
    let mut server = gather::Server::reach(args, ctx)?;
    let proof = if args.no_switch || args.dry_run { None } else { proof::prove(&mut server, ctx)? };
    let mut state = gather::state(&mut server, ctx)?;
    let mut backfilled = Vec::new();
    if args.backfill {
        backfilled = backfill::plan(&state);
        if !args.dry_run {
            backfill::put(&mut backfilled, &server, ctx)?;
            state = gather::state(&mut server, ctx)?;
        }
    }
    let findings = findings::decide(&state, proof.as_ref(), ctx.settings.archive_timeout);
    report::print(
        &report::Seen { state: &state, proof: proof.as_ref(), backfilled: &backfilled, findings: &findings },
        args,
        ctx,
    )?;
    let has_problem = findings.iter().any(|finding| finding.severity == Severity::Problem);
    Ok(if has_problem { Outcome::Class(ExitClass::Findings) } else { Outcome::Done })
}
