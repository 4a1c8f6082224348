//! One WAL file back from one repository, and the truth when it is not there.

use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use crate::codec::{Codec, decoder};
use crate::pg::{ArchiveName, SegmentSize, SystemIdentifier, TimelineId, WalSegmentName};
use crate::repo::layout::parse_wal_object;
use crate::report::{Cancel, Interrupted};
use crate::store::{Key, StoreError};
use crate::sys::durable::{self, TemporaryFile};

use super::{Check, CheckError, archived_histories};
use crate::archive::{Identity, Repository};

/// How much is decompressed and checked at a time.
const CHUNK_BYTES: usize = 256 << 10;

/// How many objects a search for a later segment looks at per call.
const LOOKAHEAD_PAGE: usize = 64;

/// A temporary file beside the destination that nobody has written to for this long is a killed call's.
const LEFTOVER_AGE_MIN: Duration = Duration::from_hours(1);

/// The truth about one WAL file in one repository.
#[derive(Debug)]
pub enum Fetched {
    /// It is whole and valid at the destination.
    Delivered,
    /// The repository answers, does not have it, and has nothing after it.
    Absent,
    /// The repository does not have it, but has this, which comes after it.
    Hole(ArchiveName),
    /// It is there and cannot be what it should be.
    Damaged(String),
    /// The repository did not answer.
    Unreachable(anyhow::Error),
}

/// Brings one WAL file to `destination`, replacing what is there.
///
/// The file is checked while it is written under a temporary name beside the destination and renamed only when it is
/// whole and valid; it is not synced, since PostgreSQL does that itself. Nothing is left behind unless delivered.
pub fn fetch(
    repository: &Repository,
    identity: &Identity,
    name: ArchiveName,
    destination: &Path,
    cancel: &Cancel,
) -> Result<Fetched, Interrupted> {
    let object = match open(repository, identity.system_identifier, name) {
        Ok(Some(object)) => object,
        Ok(None) => return Ok(nothing_there(repository, identity, name)),
        Err(err) => return Ok(Fetched::Unreachable(err.into())),
    };
    Failure::answer(copy(object, Check::new(name, *identity), destination, cancel))
}

/// An archived WAL file that is about to be read.
struct Object {
    key: Key,
    codec: Codec,
    source: Box<dyn Read + Send>,
}

/// Opens the object that holds a WAL file, whatever its codec; `None` when there is none. Each look is a call of the store,
/// which may be far away: the likeliest name comes first, and nothing is looked at before it is opened.
fn open(repository: &Repository, system: SystemIdentifier, name: ArchiveName) -> Result<Option<Object>, StoreError> {
    for (key, codec) in super::candidates(repository, system, name)? {
        match repository.store().get(&key) {
            Ok(source) => return Ok(Some(Object { key, codec, source })),
            Err(StoreError::NotFound(_)) => {}
            Err(err) => return Err(err),
        }
    }
    Ok(None)
}

/// Reads one archived WAL file to its end and gives its plain bytes to `take`, piece by piece, checked as by [`fetch`]:
/// what [`Fetched::Delivered`] says of them holds only then. An error of `take` ends the reading and is answered as
/// [`Fetched::Unreachable`].
pub fn read_back(
    repository: &Repository,
    identity: &Identity,
    name: ArchiveName,
    cancel: &Cancel,
    mut take: impl FnMut(&[u8]) -> std::io::Result<()>,
) -> Result<Fetched, Interrupted> {
    let object = match open(repository, identity.system_identifier, name) {
        Ok(Some(object)) => object,
        Ok(None) => return Ok(nothing_there(repository, identity, name)),
        Err(err) => return Ok(Fetched::Unreachable(err.into())),
    };
    let taken = |chunk: &[u8]| take(chunk).map_err(|err| Failure::Unreachable(err.into()));
    Failure::answer(stream(object, Check::new(name, *identity), cancel, taken))
}

fn copy(object: Object, check: Check, destination: &Path, cancel: &Cancel) -> Result<(), Failure> {
    let directory = destination.parent().filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new("."));
    durable::sweep_temporaries(directory, LEFTOVER_AGE_MIN);
    let mut file = TemporaryFile::create_in(directory, 0o600).map_err(|err| Failure::here(directory, err))?;
    let write = |chunk: &[u8]| file.write_all(chunk).map_err(|err| Failure::here(destination, err));
    stream(object, check, cancel, write)?;
    file.rename_unsynced(destination).map_err(|err| Failure::here(destination, err))
}

/// Gives the object's plain bytes to `take`; they are good once this has succeeded.
fn stream(
    object: Object,
    mut check: Check,
    cancel: &Cancel,
    mut take: impl FnMut(&[u8]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let Object { key, codec, source } = object;
    let invalid = |err: CheckError| Failure::Damaged(format!("{key}: {err}"));
    let mut plain = decoder(codec, source).map_err(|err| Failure::of_object(&key, &err))?;
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        cancel.check().map_err(|_| Failure::Interrupted)?;
        let count = plain.read(&mut buffer).map_err(|err| Failure::of_object(&key, &err))?;
        match buffer.get(..count).unwrap_or_default() {
            [] => break,
            chunk => {
                check.update(chunk).map_err(invalid)?;
                take(chunk)?;
            }
        }
    }
    check.finish().map_err(invalid)
}

enum Failure {
    Damaged(String),
    Unreachable(anyhow::Error),
    Interrupted,
}

impl Failure {
    /// What is told of a reading that ended like this.
    fn answer(result: Result<(), Self>) -> Result<Fetched, Interrupted> {
        match result {
            Ok(()) => Ok(Fetched::Delivered),
            Err(Self::Damaged(reason)) => Ok(Fetched::Damaged(reason)),
            Err(Self::Unreachable(err)) => Ok(Fetched::Unreachable(err)),
            Err(Self::Interrupted) => Err(Interrupted),
        }
    }

    /// The destination's side failed; nothing is known of the object.
    fn here(path: &Path, err: std::io::Error) -> Self {
        Self::Unreachable(anyhow::Error::new(err).context(format!("write {}", path.display())))
    }

    /// Reading the object failed: its bytes are wrong, or they did not come.
    fn of_object(key: &Key, err: &std::io::Error) -> Self {
        use std::io::ErrorKind::{InvalidData, InvalidInput, Other, UnexpectedEof};
        match err.kind() {
            InvalidData | InvalidInput | UnexpectedEof | Other => Self::Damaged(format!("{key}: {err}")),
            _ => Self::Unreachable(anyhow::anyhow!("read {key}: {err}")),
        }
    }
}

/// Tells the end of an archive from a hole in it.
fn nothing_there(repository: &Repository, identity: &Identity, name: ArchiveName) -> Fetched {
    let system = identity.system_identifier;
    let later = match name {
        ArchiveName::Segment(segment) => later_segment(repository, system, segment, identity.segment_size)
            .map(|found| found.map(ArchiveName::Segment)),
        ArchiveName::History(timeline) => later_history(repository, system, timeline),
        ArchiveName::Partial(_) | ArchiveName::BackupHistory(..) => Ok(None),
    };
    match later {
        Ok(None) => Fetched::Absent,
        Ok(Some(later)) => Fetched::Hole(later),
        Err(err) => Fetched::Unreachable(err.into()),
    }
}

/// The first archived segment of the same timeline that comes after this one.
pub fn later_segment(
    repository: &Repository,
    system: SystemIdentifier,
    segment: WalSegmentName,
    size: SegmentSize,
) -> Result<Option<WalSegmentName>, StoreError> {
    let prefix = repository.layout().wal_of_timeline(system, segment.timeline);
    // "~" sorts behind every character of a suffix: the segment's own .partial and .backup files are passed over.
    let mut after = format!("{}~", repository.layout().wal_stem(system, ArchiveName::Segment(segment)));
    loop {
        let page = repository.store().list(&prefix, Some(&after), LOOKAHEAD_PAGE)?;
        let later = page.iter().find_map(|entry| match parse_wal_object(entry.key.file_name())?.name {
            ArchiveName::Segment(found) if found.number(size) > segment.number(size) => Some(found),
            _ => None,
        });
        match page.last() {
            Some(last) if later.is_none() && page.len() == LOOKAHEAD_PAGE => last.key.as_str().clone_into(&mut after),
            _ => return Ok(later),
        }
    }
}

/// A later timeline's history, when the archive began before this timeline did: then this one's is missing. An archive
/// that began on this timeline, or on a later one, never had it.
fn later_history(
    repository: &Repository,
    system: SystemIdentifier,
    timeline: TimelineId,
) -> Result<Option<ArchiveName>, StoreError> {
    let (store, layout) = (repository.store(), repository.layout());
    let Some(later) = archived_histories(store, layout, system)?.into_iter().find(|found| *found > timeline) else {
        return Ok(None);
    };
    // Timelines are the first eight digits of the folders, so the first object is of the oldest timeline.
    let oldest = store.list(&layout.wal(system), None, 1)?.into_iter().next();
    let began_before = oldest
        .and_then(|entry| parse_wal_object(entry.key.file_name()))
        .is_some_and(|object| object.name.timeline() < timeline);
    Ok(began_before.then_some(ArchiveName::History(later)))
}
