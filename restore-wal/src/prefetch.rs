//! The process that fetches ahead of a server in recovery.
//!
//! restore-wal starts it, detached, after the first segment that it delivers. It keeps the next segments on the shelf,
//! checked and synced, within a bounded window, and ends when the recovery does, when the server is gone, or when nobody
//! has asked for a minute; then it removes what it has fetched. It tells nobody of what it cannot fetch: the call that
//! needs such a segment finds out itself and answers PostgreSQL.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use common::app::Context;
use common::app::config::RepositorySetting;
use common::archive::segments::{Fetched, Sought};
use common::archive::{Repository, inventory};
use common::pg::{ArchiveName, TimelineHistory, TimelineId, WalSegmentName};
use common::report::Cancel;
use common::sys::clock::Stopwatch;
use common::sys::{durable, passing, space};

use crate::ahead;
use crate::answer;
use crate::request::Request;
use crate::search::{self, Finding};
use crate::shelf::{Position, Shelf};
use crate::window;

/// How many segments are fetched at the same moment: enough for a store that takes 50 ms to answer.
const WORKERS: usize = 8;

/// The pause between two looks at what the server has asked for.
const PAUSE: Duration = Duration::from_millis(10);

/// How often the recovery itself is looked at.
const RECOVERY_LOOK: Duration = Duration::from_millis(200);

/// After so long without a question the process ends; the next question starts another.
const IDLE_MAX: Duration = Duration::from_mins(1);

/// After so long a segment that could not be had is looked for again.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Runs until there is nothing more to do ahead of. At most one runs for a shelf; a second one ends at once.
pub(crate) fn run(request: &Request, ctx: &Context) -> anyhow::Result<()> {
    let Some(spool) = ctx.spool(&request.pgdata).find() else { return Ok(()) };
    let shelf = Shelf::within(&spool, request.identity, ctx);
    let Some(lock) = shelf.lock()? else { return Ok(()) };
    shelf.clear();
    let prefetcher = Prefetcher {
        request,
        ctx,
        shelf: &shelf,
        repositories: Mutex::default(),
        histories: Mutex::default(),
        cancel: Cancel::default(),
        state: Mutex::default(),
        changed: Condvar::new(),
    };
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| prefetcher.work());
        }
        prefetcher.watch();
        prefetcher.cancel.cancel();
        prefetcher.changed.notify_all();
    });
    shelf.remove(lock);
    spool.remove_if_empty();
    Ok(())
}

struct Prefetcher<'a> {
    request: &'a Request,
    ctx: &'a Context,
    shelf: &'a Shelf,
    /// Those that could be opened, by their place in the settings.
    repositories: Mutex<BTreeMap<usize, Repository>>,
    /// Those that were found.
    histories: Mutex<BTreeMap<TimelineId, TimelineHistory>>,
    cancel: Cancel,
    state: Mutex<State>,
    changed: Condvar,
}

/// What the workers have to do, and did.
#[derive(Default)]
struct State {
    /// The places in the WAL that are wanted, soonest first: for each the segments that may hold it, likeliest first.
    wanted: Vec<Vec<WalSegmentName>>,
    /// The first segments of those places that a worker has.
    taken: Vec<WalSegmentName>,
    /// The first segments of those places that could not be had, and when that was.
    missed: BTreeMap<WalSegmentName, Stopwatch>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Prefetcher<'_> {
    /// Follows the server's questions until the work is over.
    fn watch(&self) {
        let (mut asked, mut idle, mut looked): (Option<(Position, SystemTime)>, _, _) =
            (None, Stopwatch::start(), Stopwatch::start());
        while !self.ctx.cancel.is_cancelled() && idle.elapsed() < IDLE_MAX {
            if looked.elapsed() > RECOVERY_LOOK {
                if !ahead::in_recovery(self.request) {
                    return;
                }
                looked = Stopwatch::start();
            }
            let now = self.shelf.asked();
            if now != asked {
                asked = now;
                idle = Stopwatch::start();
                if let Some((Position { segment: Some(segment), timeline }, _)) = asked {
                    self.follow(segment, timeline);
                }
            }
            thread::sleep(PAUSE);
        }
    }

    /// The server has got this segment: moves the window behind it.
    fn follow(&self, segment: WalSegmentName, timeline: Option<TimelineId>) {
        let size = self.request.identity.segment_size;
        let count = (self.request.prefetch.0 / size.bytes()).max(1);
        let needed = |name: &WalSegmentName| self.request.plan.as_ref().is_none_or(|plan| plan.needs(*name, size));
        let mut wanted = window::after(segment, &self.history(segment, timeline), size, count);
        for names in &mut wanted {
            names.retain(needed);
        }
        wanted.retain(|names| !names.is_empty());
        for name in self.shelf.segments() {
            if !wanted.iter().flatten().any(|wanted| *wanted == name) {
                self.shelf.discard(name);
            }
        }
        locked(&self.state).wanted = wanted;
        self.changed.notify_all();
    }

    /// The way that the server's recovery takes, as far as it can be known: along the newest timeline whose history it
    /// got, if the segment lies on that way.
    fn history(&self, segment: WalSegmentName, timeline: Option<TimelineId>) -> TimelineHistory {
        timeline
            .filter(|newest| *newest > segment.timeline)
            .and_then(|newest| self.read_history(newest))
            .filter(|history| history.switch_of(segment.timeline).is_some())
            .or_else(|| self.read_history(segment.timeline))
            .unwrap_or_else(|| TimelineHistory::root(segment.timeline))
    }

    /// A timeline's history, from the server's `pg_wal` or a repository; it never changes, so it is looked for until it
    /// was found once. The first timeline has none.
    fn read_history(&self, timeline: TimelineId) -> Option<TimelineHistory> {
        if timeline == TimelineId(1) {
            return None;
        }
        if let Some(known) = locked(&self.histories).get(&timeline) {
            return Some(known.clone());
        }
        let path = self.request.pgdata.join("pg_wal").join(timeline.history_file());
        let here = std::fs::read(path).ok().and_then(|bytes| TimelineHistory::parse(timeline, &bytes).ok());
        let found = here.or_else(|| {
            // Copied, since the workers want the list while a far repository takes its time.
            let repositories: Vec<Repository> = locked(&self.repositories).values().cloned().collect();
            let system = self.request.identity.system_identifier;
            repositories.iter().find_map(|repository| inventory::read_history(repository, system, timeline).ok()?)
        })?;
        locked(&self.histories).insert(timeline, found.clone());
        Some(found)
    }

    /// One worker: fetches what is wanted, soonest first, until the work is over.
    fn work(&self) {
        while !self.cancel.is_cancelled() {
            let Some(names) = self.next() else { continue };
            let delivered = names.iter().any(|name| self.bring(*name));
            let Some(first) = names.first() else { continue };
            let mut state = locked(&self.state);
            state.taken.retain(|taken| taken != first);
            if delivered {
                state.missed.remove(first);
            } else {
                state.missed.insert(*first, Stopwatch::start());
            }
        }
    }

    /// The next place to fetch; waits a moment for one.
    fn next(&self) -> Option<Vec<WalSegmentName>> {
        let mut state = locked(&self.state);
        let missed = |state: &State, name| {
            let missed: Option<&Stopwatch> = state.missed.get(name);
            missed.is_some_and(|missed| missed.elapsed() < AGAIN_AFTER)
        };
        let open = state.wanted.iter().find(|names| {
            let is_open = |first| !state.taken.contains(first) && !missed(&state, first);
            names.first().is_some_and(is_open) && !names.iter().any(|name| self.shelf.has(*name))
        });
        let Some(names) = open.cloned().filter(|_| self.has_room()) else {
            drop(self.changed.wait_timeout(state, RECOVERY_LOOK));
            return None;
        };
        state.taken.extend(names.first());
        Some(names)
    }

    /// Whether prefetching leaves the server the room that it needs.
    fn has_room(&self) -> bool {
        let size = self.request.identity.segment_size.bytes();
        let spare = |room: space::Room| {
            room.available / 2 > size && room.available > self.ctx.settings.low_space.of(room.total)
        };
        space::room(&self.request.pgdata.join("pg_wal")).is_ok_and(spare)
    }

    /// Brings one segment to the shelf; `false` when no repository has it whole.
    fn bring(&self, name: WalSegmentName) -> bool {
        let fetched = self.shelf.fetched(name);
        if self.shelf.announce(name).is_err() {
            return false;
        }
        // Synced here, so that the server finds nothing left to do when it syncs the file itself.
        let place = || durable::sync_file(&fetched).and_then(|()| passing::rename(&fetched, &self.shelf.place(name)));
        let brought = self.fetch(name) && place().is_ok();
        if !brought {
            // Also where the server took it before it was synced.
            drop(passing::remove(&fetched));
        }
        drop(passing::remove(&self.shelf.coming(name)));
        brought
    }

    /// Fetches the segment from the first repository that has it whole; leaves word of those before.
    fn fetch(&self, name: WalSegmentName) -> bool {
        let mut passed = Vec::new();
        for (index, setting) in self.ctx.settings.repositories.iter().enumerate() {
            let destination = self.shelf.fetched(name);
            let fetch = |sought: Sought| sought.fetch(&self.request.identity, &destination, &self.cancel);
            let fetched = match self.seek(index, setting, name).map(fetch) {
                Ok(Ok(fetched)) => fetched,
                Ok(Err(_interrupted)) => return false,
                Err(error) => Fetched::Unreachable(error),
            };
            if matches!(fetched, Fetched::Delivered) {
                if let Some(note) = answer::passed_over(ArchiveName::Segment(name), &passed) {
                    self.shelf.leave_note(&note);
                }
                return true;
            }
            passed.push(Finding { place: setting.url.value.clone(), fetched });
        }
        false
    }

    /// Looks for the segment in a repository, which is opened once; one that cannot be opened is tried again for the
    /// next segment.
    fn seek(&self, index: usize, setting: &RepositorySetting, name: WalSegmentName) -> anyhow::Result<Sought> {
        let name = ArchiveName::Segment(name);
        let open = locked(&self.repositories).get(&index).cloned();
        if let Some(open) = open {
            return Ok(Sought::within(&open, self.request.identity.system_identifier, name));
        }
        let sought = search::seek(self.request, self.ctx, setting, name)?;
        locked(&self.repositories).insert(index, sought.repository.clone());
        Ok(sought)
    }
}
