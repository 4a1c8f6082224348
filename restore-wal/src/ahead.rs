//! The side of prefetching that PostgreSQL waits for: serve from the shelf, say what was asked for, see that somebody
//! fetches what comes next.
//!
//! Nothing here decides about the answer. Whatever fails, the segment is looked for in the repositories as ever.

use std::io;
use std::time::Duration;

use common::app::Context;
use common::pg::{ArchiveName, WalSegmentName};
use common::server::running;
use common::sys::clock::{Deadline, poll};
use common::sys::process;

use crate::request::Request;
use crate::shelf::{Note, Position, Shelf};

/// The pause between two looks at a segment that is coming.
const COMING_PAUSE: Duration = Duration::from_millis(2);

/// A shelf that this call may use.
#[derive(Debug)]
pub(crate) struct Ahead {
    shelf: Shelf,
    asked: Position,
}

impl Ahead {
    /// For a server in recovery that asks for its next segment, or for a history on its way there; `None` for anybody
    /// else: `pg_rewind` asks for single segments, and shows by the destination's name.
    pub(crate) fn of(request: &Request, ctx: &Context) -> Option<Self> {
        if request.prefetch.0 == 0 || !request.is_for_recovery() || !in_recovery(request) {
            return None;
        }
        let spool = ctx.spool(&request.pgdata).find_or_make().ok()?;
        let shelf = Shelf::within(&spool, request.identity, ctx);
        shelf.make().ok()?;
        let asked = shelf.asked().map(|(position, _)| position).unwrap_or_default();
        Some(Self { shelf, asked })
    }

    /// Serves the segment from the shelf, waiting for it where it is on its way; `false` when the repositories must be
    /// asked.
    pub(crate) fn serve(&self, request: &Request, ctx: &Context) -> bool {
        let ArchiveName::Segment(segment) = request.name else { return false };
        match self.take(segment, request, ctx) {
            Ok(served) => served,
            Err(error) => {
                tracing::debug!("take {segment} from the spool: {error:#}");
                false
            }
        }
    }

    fn take(&self, segment: WalSegmentName, request: &Request, ctx: &Context) -> anyhow::Result<bool> {
        let mut taken = false;
        poll(Deadline::after(Shelf::PATIENCE), COMING_PAUSE, &ctx.cancel, || {
            // Asked before it is looked for: what is no longer coming has come, or will not.
            let over = !self.shelf.is_coming(segment) || self.shelf.lock()?.is_some();
            taken = self.shelf.take(segment, &request.destination)?;
            Ok((over || taken).then_some(()))
        })?;
        if taken {
            tracing::debug!("{segment} was fetched ahead");
        }
        Ok(taken)
    }

    /// The segment is about to be looked for in the repositories: what comes after it is looked for at the same time. A
    /// standby is not helped before something was delivered: it asks every few seconds for what does not exist yet.
    pub(crate) fn begin(&self, request: &Request) {
        let recovers_once = !request.pgdata.join("standby.signal").exists();
        if recovers_once && matches!(request.name, ArchiveName::Segment(_)) {
            self.tell_of_failure(self.go_on(request.name));
        }
    }

    /// The file was delivered: what comes next is fetched from now on. Answers what there is to say of the
    /// repositories.
    pub(crate) fn delivered(self, request: &Request) -> Option<Note> {
        self.tell_of_failure(self.go_on(request.name));
        self.shelf.take_note()
    }

    fn tell_of_failure(&self, done: io::Result<()>) {
        if let Err(error) = done {
            tracing::debug!("fetch ahead into {}: {error}", self.shelf.place_of_all().display());
        }
    }

    fn go_on(&self, name: ArchiveName) -> io::Result<()> {
        match name {
            ArchiveName::Segment(segment) => {
                self.shelf.ask(Position { segment: Some(segment), ..self.asked })?;
                // Whoever holds the lock sees the new position; else there is nobody, and the lock is free again.
                match self.shelf.lock()? {
                    Some(lock) => {
                        drop(lock);
                        process::start_again_detached(&["--prefetcher"])
                    }
                    None => Ok(()),
                }
            }
            ArchiveName::History(timeline) if self.asked.timeline.is_none_or(|known| known < timeline) => {
                self.shelf.ask(Position { timeline: Some(timeline), ..self.asked })
            }
            _ => Ok(()),
        }
    }
}

/// Whether a server runs on the data directory and recovers.
pub(crate) fn in_recovery(request: &Request) -> bool {
    let signals = ["recovery.signal", "standby.signal"];
    signals.iter().any(|signal| request.pgdata.join(signal).exists())
        && running(&request.pgdata).is_ok_and(|running| running.is_some())
}
