//! Asks the repositories, in their order, until one delivers.

use std::time::Duration;

use common::app::Context;
use common::app::config::RepositorySetting;
use common::archive::segments::{self, Fetched};
use common::repo::envelope::RecordError;
use common::report::{Advice, ExitClass};
use common::sys::clock::{Deadline, poll};

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

/// Asks every repository until one delivers; answers what each of them said. When none delivers but one has a hole, all
/// are asked again for the grace period: segments may arrive out of order.
pub(crate) fn everywhere(request: &Request, ctx: &Context) -> anyhow::Result<Vec<Finding>> {
    let settings = ctx.settings.require_repositories()?;
    let grace = Deadline::after(request.hole_grace);
    loop {
        let mut findings = Vec::new();
        for setting in settings {
            let fetched = patiently(request, ctx, setting)?;
            let delivered = matches!(fetched, Fetched::Delivered);
            findings.push(Finding { place: setting.url.value.clone(), fetched });
            if delivered {
                return Ok(findings);
            }
        }
        let has_hole = findings.iter().any(|finding| matches!(finding.fetched, Fetched::Hole(_)));
        if !has_hole || grace.passed() || !request.is_needed() || local::has_valid(request) {
            return Ok(findings);
        }
        ctx.cancel.check()?;
        std::thread::sleep(RETRY_PAUSE.min(grace.remaining()));
    }
}

/// Asks one repository, again for a while when it does not answer.
fn patiently(request: &Request, ctx: &Context, setting: &RepositorySetting) -> anyhow::Result<Fetched> {
    let mut last = None;
    let answer = poll(Deadline::after(UNREACHABLE_WAIT_MAX), RETRY_PAUSE, &ctx.cancel, || {
        Ok(match once(request, ctx, setting)? {
            Fetched::Unreachable(err) if is_worth_retrying(&err) => {
                last = Some(err);
                None
            }
            fetched => Some(fetched),
        })
    })?;
    Ok(answer.unwrap_or_else(|| {
        Fetched::Unreachable(last.unwrap_or_else(|| anyhow::anyhow!("no answer from {}", setting.url.value)))
    }))
}

fn once(request: &Request, ctx: &Context, setting: &RepositorySetting) -> anyhow::Result<Fetched> {
    let repository = match ctx.open(setting) {
        Ok(repository) => repository,
        Err(err) => return Ok(Fetched::Unreachable(err)),
    };
    let system = request.identity.system_identifier;
    match repository.identity(system) {
        Ok(Some(_)) => {}
        Ok(None) => return Ok(Fetched::Unreachable(unknown_cluster(request, ctx, setting))),
        Err(err) => return Ok(Fetched::Unreachable(err)),
    }
    Ok(segments::fetch(&repository, &request.identity, request.name, &request.destination, &ctx.cancel)?)
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
