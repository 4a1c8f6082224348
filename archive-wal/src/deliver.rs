//! One file into all repositories at once; every one must accept.

use anyhow::Context as _;
use common::app::Context;
use common::archive::Repository;
use common::archive::segments::{self, Put};
use common::pg::{ArchiveName, TimelineId};

use crate::request::Request;

/// What one repository did with the file.
#[derive(Debug)]
pub(crate) struct Delivery {
    /// The repository, for messages.
    pub(crate) place: String,
    /// What became of the file.
    pub(crate) put: Put,
}

/// Puts the file into every repository, in parallel. An error when any of them did not accept it; the others may hold
/// it all the same, which a repeated call finds.
pub(crate) fn to_all(request: &Request, ctx: &Context) -> anyhow::Result<Vec<Delivery>> {
    let settings = ctx.settings.require_repositories()?;
    let deliveries: Vec<anyhow::Result<Delivery>> = std::thread::scope(|scope| {
        let threads: Vec<_> = settings.iter().map(|setting| scope.spawn(|| to_one(request, ctx, setting))).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a thread of archive-wal died")))
        };
        threads.into_iter().map(join).collect()
    });
    deliveries.into_iter().collect::<anyhow::Result<_>>().with_context(|| format!("archive {}", request.name))
}

fn to_one(
    request: &Request,
    ctx: &Context,
    setting: &common::app::config::RepositorySetting,
) -> anyhow::Result<Delivery> {
    let repository = ctx.open_or_create(setting)?;
    repository.admit(&request.identity, request.after_upgrade, ctx.clock.now())?;
    put_missing_histories(request, &repository, ctx)?;
    let put = segments::put(&repository, &request.identity, request.name, &request.path, &ctx.cancel)?;
    Ok(Delivery { place: repository.describe(), put })
}

/// Puts the history of the file's timeline, and those of its ancestors, into a repository that lacks them: one that was
/// added after the promotion. Without them no recovery finds its way to this timeline.
fn put_missing_histories(request: &Request, repository: &Repository, ctx: &Context) -> anyhow::Result<()> {
    let timeline = request.name.timeline();
    if timeline == TimelineId(1) || matches!(request.name, ArchiveName::History(_)) {
        return Ok(());
    }
    let folder = request.path.parent().map(std::path::Path::to_path_buf).unwrap_or_default();
    segments::put_missing_histories(repository, &request.identity, timeline, &folder, &ctx.cancel)
}

/// At most one line for PostgreSQL's log.
pub(crate) fn report(request: &Request, deliveries: &[Delivery]) {
    let aside: Vec<String> = deliveries
        .iter()
        .filter_map(|delivery| match &delivery.put {
            Put::SetAside(key) => Some(format!("{key} in {}", delivery.place)),
            Put::Stored | Put::AlreadyThere => None,
        })
        .collect();
    if aside.is_empty() {
        tracing::debug!("archived {}", request.name);
    } else {
        tracing::warn!(
            "{} was archived before with different contents, as when two standbys are promoted; this one is kept as {}",
            request.name,
            aside.join(", ")
        );
    }
}
