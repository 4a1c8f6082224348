//! The proof: a segment that was finished just now is in every repository, and is there what it is here.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::app::{Context, RepositorySetting, exit};
use common::archive::segments::{self, Fetched};
use common::archive::{Identity, Repository};
use common::arrival::{self, Watch};
use common::pg::{ArchiveName, WalSegmentName};
use common::report::{Cancel, ExitClass, message_of};
use common::server::backup::archiver_status;
use common::sys::clock::{Deadline, Stopwatch, poll};
use serde::Serialize;

use super::gather::Server;

/// How often it is looked whether the archiver has made a new repository.
const PAUSE: Duration = Duration::from_millis(100);

/// How long the archiver may take to tell of a file: it does so when `archive_command` has ended, and its account can be
/// read a moment later (`src/backend/postmaster/pgarch.c`, and the statistics collector before 15).
const ACCOUNT_WAIT_MAX: Duration = Duration::from_secs(5);

/// What became of the proof.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Proof {
    /// The segment; none when the server has not finished any.
    pub(crate) segment: Option<String>,
    /// Whether it was ended for this; a standby ends none, there it is the newest that it received whole.
    pub(crate) switched: bool,
    /// Every configured repository, in its order.
    pub(crate) repositories: Vec<Arrival>,
}

/// What became of it in one repository.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Arrival {
    /// Where it is.
    pub(crate) repository: String,
    /// What was found.
    pub(crate) result: Outcome,
    /// How long it took to arrive and be read back.
    pub(crate) seconds: f64,
    /// Why it is not good.
    pub(crate) what: Option<String>,
    /// What to look at then.
    #[serde(skip)]
    pub(crate) hint: Option<String>,
}

/// What was found in a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    /// It arrived and has the bytes of the one in `pg_wal`.
    Same,
    /// It arrived and is a whole segment of this server's; `pg_wal` has none any more to compare it with, or is out of
    /// reach.
    Valid,
    /// It did not arrive.
    NotArrived,
    /// It arrived and has other bytes than the one in `pg_wal`.
    Different,
    /// It arrived and is not what it must be.
    Damaged,
    /// It arrived and could not be read.
    Unreadable,
}

impl Outcome {
    /// Whether it is there and is what it must be.
    fn is_good(self) -> bool {
        matches!(self, Self::Same | Self::Valid)
    }

    /// In the words of the table.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Same => "arrived, same bytes",
            Self::Valid => "arrived, valid",
            Self::NotArrived => "did not arrive",
            Self::Different => "arrived, other bytes",
            Self::Damaged => "arrived, damaged",
            Self::Unreadable => "arrived, unreadable",
        }
    }
}

/// Ends a segment and follows it into every repository; waits for each no longer than the settings say while nothing
/// happens, and once one has waited in vain, not for the others. None where the server does not archive at all.
pub(crate) fn prove(server: &mut Server, ctx: &Context) -> anyhow::Result<Option<Proof>> {
    let switched = !server.facts.in_recovery;
    let (mode, library) = (server.facts.setting("archive_mode"), server.facts.path("archive_library"));
    let archives = mode != Some("off") && (server.facts.archive_command().is_some() || library.is_some());
    if switched && !archives {
        return Ok(None);
    }
    let size = server.identity.segment_size;
    let segment = arrival::newest_finished(&mut server.session, &server.facts, size)?;
    let repositories = segment.map(|segment| follow_all(segment, server, ctx)).transpose()?.unwrap_or_default();
    if archives && repositories.iter().all(|arrival| arrival.result.is_good()) {
        hear_the_archiver(server, ctx)?;
    }
    Ok(Some(Proof { segment: segment.map(|segment| segment.to_string()), switched, repositories }))
}

/// Waits until the archiver's last word is not a failure, where that is so within a moment: what has arrived is there
/// before the archiver says so.
fn hear_the_archiver(server: &mut Server, ctx: &Context) -> anyhow::Result<()> {
    let heard = || Ok((!archiver_status(&mut server.session)?.is_failing()).then_some(()));
    poll(Deadline::after(ACCOUNT_WAIT_MAX), PAUSE, &ctx.cancel, heard).map(drop)
}

/// Follows the segment into every repository.
fn follow_all(segment: WalSegmentName, server: &mut Server, ctx: &Context) -> anyhow::Result<Vec<Arrival>> {
    let mut arrivals = Vec::new();
    let mut patience = ctx.settings.archive_timeout;
    for setting in &ctx.settings.repositories {
        let arrival = follow(segment, setting, patience, server, ctx)?;
        if arrival.result == Outcome::NotArrived {
            patience = Duration::ZERO;
        }
        arrivals.push(arrival);
    }
    Ok(arrivals)
}

fn follow(
    segment: WalSegmentName,
    setting: &RepositorySetting,
    patience: Duration,
    server: &mut Server,
    ctx: &Context,
) -> anyhow::Result<Arrival> {
    let stopwatch = Stopwatch::start();
    let arrival = |result, what, hint| Arrival {
        repository: setting.url.value.clone(),
        result,
        seconds: stopwatch.elapsed().as_secs_f64(),
        what,
        hint,
    };
    let repository = match open(setting, patience, ctx) {
        Ok(Some(repository)) => repository,
        Ok(None) => {
            let what = format!("{segment} did not arrive: there is no repository at {}", setting.url.value);
            return Ok(arrival(
                Outcome::NotArrived,
                Some(what),
                Some("the server's log has what its archiver said".to_owned()),
            ));
        }
        Err(error) => {
            ctx.cancel.check()?;
            return Ok(arrival(Outcome::NotArrived, Some(message_of(&error)), None));
        }
    };
    let watch = Watch {
        repository: &repository,
        system: server.identity.system_identifier,
        size: server.identity.segment_size,
        standby: server.facts.in_recovery,
        patience,
        cancel: &ctx.cancel,
    };
    if let Some(missing) = arrival::wait(watch, &mut server.session, segment, segment)? {
        let advice = missing.advice(server.facts.archive_command());
        return Ok(arrival(Outcome::NotArrived, Some(advice.message), advice.hint));
    }
    let here = server.pg_wal().map(|pg_wal| pg_wal.join(segment.to_string()));
    let (result, what) = compare(&repository, &server.identity, segment, here.as_deref(), &ctx.cancel)?;
    Ok(arrival(result, what, None))
}

/// Opens the repository; one that is not there yet may be made by the file that is on its way.
fn open(setting: &RepositorySetting, patience: Duration, ctx: &Context) -> anyhow::Result<Option<Repository>> {
    poll(Deadline::after(patience), PAUSE, &ctx.cancel, || match ctx.open(setting) {
        Err(error) if exit::of_error(&error) == ExitClass::NoRepository => Ok(None),
        opened => opened.map(Some),
    })
}

/// Reads the segment back, checks it, and compares it with the one in `pg_wal`.
fn compare(
    repository: &Repository,
    identity: &Identity,
    segment: WalSegmentName,
    here: Option<&Path>,
    cancel: &Cancel,
) -> anyhow::Result<(Outcome, Option<String>)> {
    let mut twin = here.and_then(Twin::open);
    let fetched = segments::read_back(repository, identity, ArchiveName::Segment(segment), cancel, |chunk| {
        if let Some(twin) = &mut twin {
            twin.compare(chunk);
        }
        Ok(())
    })?;
    Ok(match fetched {
        Fetched::Delivered => match twin.filter(Twin::is_in_place) {
            Some(twin) if twin.same => (Outcome::Same, None),
            Some(_) => (Outcome::Different, Some(format!("{segment} differs from the one in pg_wal"))),
            None => (Outcome::Valid, None),
        },
        Fetched::Damaged(reason) => (Outcome::Damaged, Some(reason)),
        Fetched::Unreachable(error) => (Outcome::Unreadable, Some(message_of(&error))),
        Fetched::Absent | Fetched::Hole(_) => (Outcome::NotArrived, Some(format!("{segment} has vanished again"))),
    })
}

/// The segment in `pg_wal`, read beside the archived one.
struct Twin {
    path: PathBuf,
    file: File,
    same: bool,
}

impl Twin {
    /// None when it is not there: the server recycles what is archived.
    fn open(path: &Path) -> Option<Self> {
        Some(Self { path: path.to_owned(), file: File::open(path).ok()?, same: true })
    }

    fn compare(&mut self, chunk: &[u8]) {
        let mut own = vec![0; chunk.len()];
        self.same = self.same && self.file.read_exact(&mut own).is_ok() && own == chunk;
    }

    /// Whether the file still has its name: one that was recycled meanwhile was overwritten, and says nothing.
    fn is_in_place(&self) -> bool {
        let inode = self.file.metadata().map(|metadata| metadata.ino());
        let named = std::fs::metadata(&self.path).map(|metadata| metadata.ino());
        matches!((inode, named), (Ok(inode), Ok(named)) if inode == named)
    }
}
