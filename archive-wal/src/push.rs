//! One call of PostgreSQL's: the file that it names, and what else is ready.

use anyhow::Context as _;
use common::app::{Context, Outcome};
use common::archive::Repository;
use common::archive::acknowledgement::{Acknowledgements, Proof};

use crate::batch::{self, WalFile};
use crate::request::{self, Request};
use crate::{Cli, alarm, deliver, report};

/// Carries it out. Data goes nowhere but into the repositories; the log gets at most one line, and the alarm.
pub(crate) fn run(cli: &Cli, ctx: &Context) -> anyhow::Result<Outcome> {
    let request = request::gather(cli, ctx)?;
    let answer = archive(&request, ctx);
    let alarm = alarm::due(&request, ctx);
    match (&answer, alarm) {
        (_, None) => answer,
        (Ok(_), Some(alarm)) => {
            tracing::warn!("{alarm}");
            answer
        }
        (Err(_), Some(alarm)) => answer.context(alarm),
    }
}

fn archive(request: &Request, ctx: &Context) -> anyhow::Result<Outcome> {
    let repositories = deliver::open_all(ctx).with_context(|| format!("archive {}", request.name))?;
    let acknowledged = ctx.spool(&request.pgdata).find().map(|spool| Acknowledgements::within(&spool));
    if acknowledged.as_ref().is_some_and(|all| is_acknowledged(all, request, &repositories, ctx)) {
        tracing::debug!("{} was archived by an earlier call", request.name);
        return Ok(Outcome::Done);
    }
    let files = if request.batch > 1 { along(request, acknowledged.as_ref()) } else { vec![request.file()] };
    let deliveries = deliver::to_all(request, &files, &repositories, ctx)?;
    report::say(request, &deliveries);
    Ok(Outcome::Done)
}

/// Whether an earlier call has archived this very file into these very repositories.
fn is_acknowledged(all: &Acknowledgements, request: &Request, repositories: &[Repository], ctx: &Context) -> bool {
    all.take(request.name).is_some_and(|taken| {
        taken.system_identifier == request.identity.system_identifier
            && taken.cluster == ctx.settings.cluster.value
            && taken.repositories == deliver::repository_ids(repositories)
            && Proof::of(&request.path).is_ok_and(|proof| proof.is_some_and(|proof| proof == taken.file))
    })
}

/// The files that go along with the requested one. Acknowledgements of files that wait no longer are forgotten.
fn along(request: &Request, acknowledged: Option<&Acknowledgements>) -> Vec<WalFile> {
    let ready = batch::ready(&request.pg_wal());
    let names = acknowledged.map(Acknowledgements::names).unwrap_or_default();
    if let Some(all) = acknowledged {
        for name in names.iter().filter(|name| !ready.contains(name)) {
            all.forget(*name);
        }
    }
    batch::choose(request.name, ready, &names, request.batch).into_iter().map(|name| request.beside(name)).collect()
}
