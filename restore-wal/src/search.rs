//! Asks the repositories, in their order, until one delivers.

use std::time::Duration;

use common::app::Context;
use common::app::config::RepositorySetting;
use common::archive::segments::{Fetched, Sought};
use common::pg::ArchiveName;
use common::repo::envelope::RecordError;
use common::report::{Advice, ExitClass};
use common::sys::clock::Deadline;

use crate::local;
use crate::request::Request;

/// How long a repository that does not answer is asked again.
const UNREACHABLE_WAIT_MAX: Duration = Duration::from_secs(3);

/// The pause between two such attempts, and between two looks at a hole.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// What one repository said.
#[derive(Debug)]
pub(crate) struct Finding {
    /// The repository, for messages.
    pub(crate) place: String,
    /// Its answer.
    pub(crate) fetched: Fetched,
}

/// Asks every repository, in order, until one delivers; answers what each of them said.
///
/// When none delivers all are asked again: those that do not answer may come back within seconds, and a hole may be a
/// segment that is late, since segments can arrive out of order.
pub(crate) fn everywhere(request: &Request, ctx: &Context) -> anyhow::Result<Vec<Finding>> {
    let settings = ctx.settings.require_repositories()?;
    let (patience, grace) = (Deadline::after(UNREACHABLE_WAIT_MAX), Deadline::after(request.hole_grace));
    loop {
        let mut findings = Vec::new();
        for setting in settings {
            let fetched = once(request, ctx, setting)?;
            let delivered = matches!(fetched, Fetched::Delivered);
            findings.push(Finding { place: setting.url.value.clone(), fetched });
            if delivered {
                return Ok(findings);
            }
        }
        let may_return = findings.iter().any(|finding| match &finding.fetched {
            Fetched::Unreachable(error) => is_worth_retrying(error),
            _ => false,
        });
        let has_hole = findings.iter().any(|finding| matches!(finding.fetched, Fetched::Hole(_)));
        let wait = if may_return {
            patience.remaining()
        } else if has_hole && request.is_needed() && !local::has_valid(request) {
            grace.remaining()
        } else {
            Duration::ZERO
        };
        // Whoever asked this process to end wants no answer.
        ctx.cancel.check()?;
        if wait.is_zero() {
            return Ok(findings);
        }
        std::thread::sleep(RETRY_PAUSE.min(wait));
    }
}

fn once(request: &Request, ctx: &Context, setting: &RepositorySetting) -> anyhow::Result<Fetched> {
    Ok(match seek(request, ctx, setting, request.name) {
        Ok(sought) => sought.fetch(&request.identity, &request.destination, &ctx.cancel)?,
        Err(err) => Fetched::Unreachable(err),
    })
}

/// Opens a repository that knows the server's cluster, and a file in it.
pub(crate) fn seek(
    request: &Request,
    ctx: &Context,
    setting: &RepositorySetting,
    name: ArchiveName,
) -> anyhow::Result<Sought> {
    match ctx.seek(setting, request.identity.system_identifier, name)? {
        (sought, Some(_)) => Ok(sought),
        (_, None) => Err(unknown_cluster(request, ctx, setting)),
    }
}

/// A repository without this cluster says nothing about its WAL: most often a wrong path or an empty mount point.
fn unknown_cluster(request: &Request, ctx: &Context, setting: &RepositorySetting) -> anyhow::Error {
    Advice::no_repository(format!(
        "{} has no WAL of system {} under cluster \"{}\"",
        setting.url.value, request.identity.system_identifier, ctx.settings.cluster.value
    ))
    .hint("check --repo and --cluster against the archive_command of the server that wrote the WAL")
    .into()
}

fn is_worth_retrying(err: &anyhow::Error) -> bool {
    let permanent =
        err.downcast_ref::<common::store::StoreError>().is_some_and(common::store::StoreError::is_permanent);
    let advised = err
        .downcast_ref::<Advice>()
        .is_some_and(|advice| matches!(advice.class, ExitClass::Usage | ExitClass::Refused | ExitClass::CannotDecrypt));
    // Records are written whole: what cannot be read now cannot be read in a second.
    !permanent && !advised && !err.is::<RecordError>()
}
