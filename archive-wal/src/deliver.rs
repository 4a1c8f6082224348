//! Files into all repositories at once; every one must accept.
//!
//! The requested file decides the answer. What else was ready goes along: PostgreSQL will ask for it next, and finds
//! an acknowledgement then.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::Context as _;
use common::app::Context;
use common::archive::acknowledgement::{Acknowledgement, Acknowledgements, Proof};
use common::archive::segments::{self, Put};
use common::archive::spool::Places;
use common::archive::{Identity, Repository};
use common::pg::{ArchiveName, TimelineId};
use common::report::message_of;

use crate::batch::WalFile;
use crate::request::Request;

/// How many files are read and compressed at the same moment: what bounds the memory.
const WORKERS_MAX: usize = 8;

/// What one repository did with the requested file.
#[derive(Debug)]
pub(crate) struct Delivery {
    /// The repository, for messages.
    pub(crate) place: String,
    /// What became of the file.
    pub(crate) put: Put,
}

/// Opens every repository, in parallel. An error when any of them cannot be opened.
pub(crate) fn open_all(ctx: &Context) -> anyhow::Result<Vec<Repository>> {
    let settings = ctx.settings.require_repositories()?;
    in_parallel(settings, |setting| ctx.open_or_create(setting)).into_iter().collect()
}

/// Carries `act` out on everything, each in a thread of its own; the answers in the same order.
fn in_parallel<T: Sync, R: Send>(things: &[T], act: impl Fn(&T) -> anyhow::Result<R> + Sync) -> Vec<anyhow::Result<R>> {
    if let [only] = things {
        return vec![act(only)];
    }
    thread::scope(|scope| {
        let act = &act;
        let threads: Vec<_> = things.iter().map(|thing| scope.spawn(move || act(thing))).collect();
        let died = || anyhow::anyhow!("a thread of archive-wal died");
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err(died()))).collect()
    })
}

/// Puts the files into every repository, in parallel, the requested one first among them. An error when any repository
/// did not accept that one; the others may hold it all the same, which a repeated call finds. Acknowledges what all
/// have accepted besides.
pub(crate) fn to_all(
    request: &Request,
    files: &[WalFile],
    repositories: &[Repository],
    ctx: &Context,
) -> anyhow::Result<Vec<Delivery>> {
    in_parallel(repositories, |repository| repository.admit(&request.identity, request.after_upgrade, ctx.clock.now()))
        .into_iter()
        .collect::<anyhow::Result<()>>()?;
    let work = Work {
        identity: &request.identity,
        ctx,
        places: ctx.spool(&request.pgdata),
        ids: repository_ids(repositories),
        waiting: files.iter().map(|file| Waiting::new(file, request.name)).collect(),
    };
    let mut deliveries = work.carry_out(repositories);
    if deliveries.iter().any(Result::is_err) && files.len() > 1 && !ctx.cancel.is_cancelled() {
        // Where room is short, the files may have stood in each other's way; this one alone may still fit.
        deliveries = in_parallel(repositories, |repository| work.put(repository, &request.file()));
    }
    deliveries
        .into_iter()
        .zip(repositories)
        .map(|(put, repository)| Ok(Delivery { place: repository.describe(), put: put? }))
        .collect::<anyhow::Result<_>>()
        .with_context(|| format!("archive {}", request.name))
}

/// What an acknowledgement must name: the ids of all of them, in order.
pub(crate) fn repository_ids(repositories: &[Repository]) -> Vec<String> {
    let mut ids: Vec<String> = repositories.iter().map(|repository| repository.id().to_owned()).collect();
    ids.sort_unstable();
    ids
}

/// A file on its way.
struct Waiting<'a> {
    file: &'a WalFile,
    /// Which file it was, before anybody read it; `None` for the requested one, which is answered at once, and for one
    /// that proves nothing.
    proof: Option<Proof>,
    /// How many repositories have accepted it.
    accepted: AtomicUsize,
}

impl<'a> Waiting<'a> {
    fn new(file: &'a WalFile, requested: ArchiveName) -> Self {
        // One that cannot be looked at goes along for nothing; its own call tells why.
        let proof = if file.name == requested { None } else { Proof::of(&file.path).ok().flatten() };
        Self { file, proof, accepted: AtomicUsize::new(0) }
    }
}

/// All that the workers share.
struct Work<'a> {
    identity: &'a Identity,
    ctx: &'a Context,
    places: Places,
    ids: Vec<String>,
    waiting: Vec<Waiting<'a>>,
}

impl Work<'_> {
    /// Each repository has workers of its own, so that a slow one delays nobody else's. Answers what each of them did
    /// with the first file.
    fn carry_out(&self, repositories: &[Repository]) -> Vec<anyhow::Result<Put>> {
        let workers = (WORKERS_MAX / repositories.len().max(1)).clamp(1, self.waiting.len());
        in_parallel(repositories, |repository| {
            let (next, first) = (AtomicUsize::new(0), Mutex::new(None));
            let work = || {
                while let Some(waiting) = self.waiting.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let put = self.put(repository, waiting.file);
                    let is_first = self.waiting.first().is_some_and(|first| std::ptr::eq(first, waiting));
                    match put {
                        put if is_first => {
                            if let Ok(mut first) = first.lock() {
                                *first = Some(put);
                            }
                        }
                        Ok(_) => self.accept(waiting),
                        Err(error) => tracing::debug!("archive {}, ahead: {}", waiting.file.name, message_of(&error)),
                    }
                }
            };
            thread::scope(|scope| {
                for _ in 1..workers {
                    scope.spawn(work);
                }
                work();
            });
            let first = first.into_inner().ok().flatten();
            first.unwrap_or_else(|| Err(anyhow::anyhow!("a thread of archive-wal died")))
        })
    }

    fn put(&self, repository: &Repository, file: &WalFile) -> anyhow::Result<Put> {
        self.ctx.cancel.check()?;
        let cancel = &self.ctx.cancel;
        put_missing_histories(file, self.identity, repository, cancel)?;
        segments::put(repository, self.identity, file.name, &file.path, cancel)
    }

    /// One more repository has the file. After the last one it is acknowledged; where that cannot be written down,
    /// its own call looks into the repositories again.
    fn accept(&self, waiting: &Waiting<'_>) {
        let accepted = waiting.accepted.fetch_add(1, Ordering::SeqCst) + 1;
        let Some(proof) = waiting.proof.as_ref().filter(|_| accepted == self.ids.len()) else { return };
        let given = self.places.find_or_make().and_then(|spool| {
            let acknowledgement = Acknowledgement {
                system_identifier: self.identity.system_identifier,
                cluster: self.ctx.settings.cluster.value.clone(),
                repositories: self.ids.clone(),
                file: proof.clone(),
            };
            Acknowledgements::give(&spool, waiting.file.name, &acknowledgement)
        });
        if let Err(error) = given {
            tracing::debug!("acknowledge {}: {error}", waiting.file.name);
        }
    }
}

/// Puts the history of the file's timeline, and those of its ancestors, into a repository that lacks them: one that was
/// added after the promotion. Without them no recovery finds its way to this timeline.
fn put_missing_histories(
    file: &WalFile,
    identity: &Identity,
    repository: &Repository,
    cancel: &common::report::Cancel,
) -> anyhow::Result<()> {
    let timeline = file.name.timeline();
    if timeline == TimelineId(1) || matches!(file.name, ArchiveName::History(_)) {
        return Ok(());
    }
    let folder = file.path.parent().map(std::path::Path::to_path_buf).unwrap_or_default();
    segments::put_missing_histories(repository, identity, timeline, &folder, cancel)
}
