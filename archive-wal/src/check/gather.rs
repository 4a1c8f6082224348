//! What there is: the server, its `pg_wal`, and what each repository holds of its WAL.

use std::path::PathBuf;

use anyhow::Context as _;
use common::app::{Context, RepositorySetting, exit, server_files};
use common::archive::{Identity, Repository, inventory};
use common::pg::{Lsn, SegmentSize, TimelineHistory};
use common::repo::chain::{Inventory, Route};
use common::report::{ExitClass, message_of};
use common::restore::salvage::{self, Tail};
use common::server::backup::{ArchiverStatus, archiver_status};
use common::server::{self, Backlog, ServerFacts, Session};
use common::sys::space;

use super::holes::{self, Missing};
use crate::cli::CheckArgs;

/// The server and how it is reached.
pub(crate) struct Server {
    /// An open session.
    pub(crate) session: Session,
    /// What it says of itself.
    pub(crate) facts: ServerFacts,
    /// Whose WAL it writes.
    pub(crate) identity: Identity,
    /// Its data directory where that is within reach, else why it is not.
    pub(crate) files: Result<PathBuf, String>,
}

impl Server {
    /// Connects. Where its files are to be put, or another server's directory was named, it is an error when they are out of
    /// reach.
    pub(crate) fn reach(args: &CheckArgs, ctx: &Context) -> anyhow::Result<Self> {
        let mut session = ctx.connect(&args.server)?;
        let facts = server::facts(&mut session)?;
        let named = ctx.settings.pgdata.is_some();
        let files = match server_files::reach(&facts, ctx) {
            Ok((pgdata, _)) => Ok(pgdata),
            Err(error) if args.backfill => return Err(error),
            // The wrong server, or the wrong directory. Not to be let in is no mistake: whoever watches need not own it.
            Err(error) if named && exit::of_error(&error) == ExitClass::Refused => return Err(error),
            Err(error) => Err(message_of(&error)),
        };
        let identity = identity(&facts)?;
        Ok(Self { session, facts, identity, files })
    }

    /// Where its WAL lies, when that is within reach.
    pub(crate) fn pg_wal(&self) -> Option<PathBuf> {
        self.files.as_ref().ok().map(|pgdata| pgdata.join("pg_wal"))
    }
}

fn identity(facts: &ServerFacts) -> anyhow::Result<Identity> {
    let size = facts.number("wal_segment_size").and_then(|bytes| SegmentSize::new(u32::try_from(bytes).ok()?));
    let segment_size = size.context("the server does not say how large its WAL segments are")?;
    let major = facts.version.major();
    let known = common::pg::wal_page::magic_of_major(major).is_some();
    Ok(Identity { system_identifier: facts.system_identifier, segment_size, major: known.then_some(major) })
}

/// The state of archiving at one moment.
pub(crate) struct State {
    /// What the server says of itself.
    pub(crate) facts: ServerFacts,
    /// What its archiver says.
    pub(crate) archiver: ArchiverStatus,
    /// What waits for its archiver.
    pub(crate) backlog: Backlog,
    /// Why the server's files are out of reach, when they are.
    pub(crate) no_files: Option<String>,
    /// How many bytes are free where `pg_wal` is; none when that is out of reach.
    pub(crate) free_bytes: Option<u64>,
    /// The size of its segments.
    pub(crate) segment_size: SegmentSize,
    /// Whether the history of the server's timeline is known; without it holes on its ancestors are not seen.
    pub(crate) history_known: bool,
    /// Every configured repository, in its order.
    pub(crate) repositories: Vec<Seen>,
}

/// One repository.
pub(crate) struct Seen {
    /// Where it is.
    pub(crate) place: String,
    /// What it holds of this server's WAL.
    pub(crate) held: Held,
}

/// What a repository holds of one server's WAL.
pub(crate) enum Held {
    /// It is not there yet.
    NoRepository,
    /// It cannot be read: why.
    Unreadable(String),
    /// Its WAL.
    Wal {
        /// The position after the newest segment on the server's way; none when there is no segment.
        end: Option<Lsn>,
        /// What is missing on the way, in its order.
        missing: Vec<Missing>,
    },
}

/// Gathers everything. The server is asked before the repositories are listed, so that what it had archived by then is in
/// their lists.
pub(crate) fn state(server: &mut Server, ctx: &Context) -> anyhow::Result<State> {
    let backlog = server::backlog(&mut server.session)?;
    let archiver = archiver_status(&mut server.session)?;
    let facts = server::facts(&mut server.session)?;
    let tail = match server.pg_wal() {
        Some(pg_wal) => salvage::survey(&pg_wal, &server.identity)?,
        None => Tail::default(),
    };
    let listed: Vec<(String, Result<Option<Inventory>, String>)> =
        ctx.settings.require_repositories()?.iter().map(|setting| listed(setting, &server.identity, ctx)).collect();
    let (history, history_known) =
        history(&facts, &tail, listed.iter().filter_map(|(_, it)| it.as_ref().ok()?.as_ref()));
    let size = server.identity.segment_size;
    let view = holes::View {
        route: Route::new(history, size),
        finished: backlog.flushed.0 / size.bytes(),
        standby: facts.in_recovery,
        waiting: backlog.waiting.iter().map(|waiting| waiting.name).collect(),
        tail: &tail,
    };
    let repositories = listed.into_iter().map(|(place, inventory)| seen(place, inventory, &view)).collect();
    Ok(State {
        free_bytes: server.pg_wal().and_then(|pg_wal| space::available(&pg_wal).ok()),
        no_files: server.files.as_ref().err().cloned(),
        segment_size: size,
        facts,
        archiver,
        backlog,
        history_known,
        repositories,
    })
}

fn seen(place: String, inventory: Result<Option<Inventory>, String>, view: &holes::View<'_>) -> Seen {
    let held = match inventory {
        Err(reason) => Held::Unreadable(reason),
        Ok(None) => Held::NoRepository,
        Ok(Some(inventory)) => Held::Wal { end: view.end(&inventory), missing: view.missing(&inventory) },
    };
    Seen { place, held }
}

/// What a repository holds of the server's WAL; none where there is no repository.
fn listed(
    setting: &RepositorySetting,
    identity: &Identity,
    ctx: &Context,
) -> (String, Result<Option<Inventory>, String>) {
    let read = |repository: Repository| inventory::read(&repository, identity.system_identifier, identity.segment_size);
    let inventory = match ctx.open(setting).and_then(read) {
        Ok(inventory) => Ok(Some(inventory)),
        Err(error) if exit::of_error(&error) == ExitClass::NoRepository => Ok(None),
        Err(error) => Err(message_of(&error)),
    };
    (setting.url.value.clone(), inventory)
}

/// The history of the server's timeline: its own file, else an archived one. Timeline 1 has none and needs none.
fn history<'a>(
    facts: &ServerFacts,
    tail: &Tail,
    mut inventories: impl Iterator<Item = &'a Inventory>,
) -> (TimelineHistory, bool) {
    let timeline = facts.timeline;
    let own = tail.histories.iter().find(|history| history.timeline == timeline).cloned();
    let archived = || inventories.find(|inventory| inventory.has_history(timeline)).map(|it| it.history(timeline));
    match own.or_else(archived) {
        Some(history) => (history, true),
        None => (TimelineHistory::root(timeline), timeline.0 == 1),
    }
}
