//! Where one WAL file lies in one repository, in as few questions as possible, most of them put at once.
//!
//! A store that is far away takes its time for each question, and a server in recovery waits for the answer. So a
//! repository is opened while its file is opened already, and where the likeliest name does not exist, one listing tells
//! both whether the file lies there under another codec and whether anything comes after it.

use std::io::Read;
use std::sync::Arc;
use std::thread::{self, ScopedJoinHandle};

use crate::codec::{Codec, Compression};
use crate::pg::{ArchiveName, SegmentSize, SystemIdentifier};
use crate::repo::layout::parse_wal_object;
use crate::repo::records::IdentityRecord;
use crate::repo::{ClusterName, Layout};
use crate::store::{Key, Store, StoreError};

use super::Fetched;
use crate::archive::{Identity, Repository};

/// How many objects one listing looks at.
const LOOKAHEAD_PAGE: usize = 64;

/// A repository, and what it said of one WAL file under the likeliest name.
pub struct Sought {
    /// The repository.
    pub repository: Repository,
    pub(super) name: ArchiveName,
    likeliest: Result<Option<Object>, StoreError>,
}

/// An archived WAL file that is about to be read.
pub(super) struct Object {
    pub(super) key: Key,
    pub(super) codec: Codec,
    pub(super) source: Box<dyn Read + Send>,
}

/// The end of a search.
pub(super) enum Found {
    /// Here it is.
    Object(Object),
    /// It is not to be had, for this reason.
    Not(Fetched),
}

/// Opens a repository that exists, reads its record of this system, and opens the WAL file, all at once. The record is
/// `None` where the repository does not know the system; then nothing that it says of the file counts.
pub fn seek(
    store: &Arc<dyn Store>,
    cluster: ClusterName,
    compression: Compression,
    system: SystemIdentifier,
    name: ArchiveName,
) -> anyhow::Result<(Sought, Option<IdentityRecord>)> {
    let layout = Layout::new(cluster.clone());
    let (repository, known, likeliest) = thread::scope(|scope| {
        let repository = scope.spawn(|| Repository::open(Arc::clone(store), cluster, compression));
        let known = scope.spawn(|| Repository::identity_in(&**store, &layout, system));
        let likeliest = open_likeliest(&**store, &layout, compression.codec, system, name);
        (joined(repository), joined(known), likeliest)
    });
    Ok((Sought { repository: repository?, name, likeliest }, known?))
}

/// A panic goes on where the thread is waited for.
fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

impl Sought {
    /// Looks for the file in a repository that is open.
    pub fn within(repository: &Repository, system: SystemIdentifier, name: ArchiveName) -> Self {
        let (store, layout, usual) = (repository.store(), repository.layout(), repository.compression().codec);
        let likeliest = open_likeliest(store, layout, usual, system, name);
        Self { repository: repository.clone(), name, likeliest }
    }

    /// The object that holds the file, or the truth about it: the end of an archive, a hole in it, or no answer.
    pub(super) fn find(self, identity: &Identity) -> Found {
        let found = match self.likeliest {
            Ok(Some(object)) => return Found::Object(object),
            Ok(None) => look_further(&self.repository, identity, self.name),
            Err(err) => Err(err),
        };
        found.unwrap_or_else(|err| Found::Not(Fetched::Unreachable(err.into())))
    }
}

fn open_likeliest(
    store: &dyn Store,
    layout: &Layout,
    usual: Codec,
    system: SystemIdentifier,
    name: ArchiveName,
) -> Result<Option<Object>, StoreError> {
    open(store, layout.wal_file(system, name, usual)?, usual)
}

fn open(store: &dyn Store, key: Key, codec: Codec) -> Result<Option<Object>, StoreError> {
    match store.get(&key) {
        Ok(source) => Ok(Some(Object { key, codec, source })),
        Err(StoreError::NotFound(_)) => Ok(None),
        Err(err) => Err(err),
    }
}

/// The likeliest name does not exist: looks at what lies behind it, which is the file under another codec and whatever
/// comes after it.
fn look_further(repository: &Repository, identity: &Identity, name: ArchiveName) -> Result<Found, StoreError> {
    let (store, layout, system) = (repository.store(), repository.layout(), identity.system_identifier);
    let stem = layout.wal_stem(system, name);
    let prefix = match name {
        ArchiveName::Segment(segment) => layout.wal_of_timeline(system, segment.timeline),
        ArchiveName::History(_) => layout.histories(system),
        ArchiveName::Partial(_) | ArchiveName::BackupHistory(..) => format!("{stem}."),
    };
    let mut after = stem;
    loop {
        let page = store.list(&prefix, Some(&after), LOOKAHEAD_PAGE)?;
        for entry in &page {
            let Some(object) = parse_wal_object(entry.key.file_name()).filter(|object| !object.set_aside) else {
                continue;
            };
            if object.name == name {
                // Listed and gone a moment later: somebody removes it, and what comes after it decides.
                if let Some(object) = open(store, entry.key.clone(), object.codec)? {
                    return Ok(Found::Object(object));
                }
            } else if comes_after(object.name, name, identity.segment_size) {
                return Ok(Found::Not(hole_before(object.name, repository, system, name)?));
            }
        }
        match page.last() {
            Some(last) if page.len() == LOOKAHEAD_PAGE => last.key.as_str().clone_into(&mut after),
            _ => return Ok(Found::Not(Fetched::Absent)),
        }
    }
}

/// Whether an archive that has the one file should have had the other before it.
fn comes_after(later: ArchiveName, name: ArchiveName, size: SegmentSize) -> bool {
    match (later, name) {
        (ArchiveName::Segment(later), ArchiveName::Segment(segment)) => later.number(size) > segment.number(size),
        (ArchiveName::History(later), ArchiveName::History(timeline)) => later > timeline,
        _ => false,
    }
}

/// A later timeline's history makes a missing one a hole only when the archive began before that timeline did: one that
/// began on it, or on a later one, never had it. A later segment always does.
fn hole_before(
    later: ArchiveName,
    repository: &Repository,
    system: SystemIdentifier,
    name: ArchiveName,
) -> Result<Fetched, StoreError> {
    if let ArchiveName::History(timeline) = name {
        // Timelines are the first eight digits of the folders, so the first object is of the oldest timeline.
        let oldest = repository.store().list(&repository.layout().wal(system), None, 1)?.into_iter().next();
        let began_before = oldest
            .and_then(|entry| parse_wal_object(entry.key.file_name()))
            .is_some_and(|object| object.name.timeline() < timeline);
        if !began_before {
            return Ok(Fetched::Absent);
        }
    }
    Ok(Fetched::Hole(later))
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use rstest::rstest;

    use super::*;
    use crate::archive::testing::SEGMENT_BYTES;
    use crate::store::{FaultStore, MemoryStore};

    const SYSTEM: u64 = 7;
    const ASKED: &str = "000000010000000000000005";

    fn identity() -> Identity {
        let size = SegmentSize::new(SEGMENT_BYTES).unwrap();
        Identity { system_identifier: SYSTEM, segment_size: size, major: Some(15) }
    }

    /// What is found of `asked` in a repository with these objects under `main/wal/7/`, and in how many calls of the store.
    fn look(asked: &str, objects: &[&str]) -> (String, u64) {
        let store = Arc::new(MemoryStore::new());
        let (shared, now): (Arc<dyn Store>, _) = (store.clone(), DateTime::UNIX_EPOCH);
        let repository =
            Repository::open_or_create(shared, ClusterName::default(), Compression::default(), now).unwrap();
        repository.admit(&identity(), false, now).unwrap();
        for name in objects {
            store.replace(&Key::new(format!("main/wal/7/{name}")).unwrap(), b"x").unwrap();
        }
        let counted = Arc::new(FaultStore::new(store));
        let shared: Arc<dyn Store> = counted.clone();
        let name = ArchiveName::parse(asked).unwrap();
        let (sought, known) = seek(&shared, ClusterName::default(), Compression::default(), SYSTEM, name).unwrap();
        assert!(known.is_some());
        let opened = counted.calls();
        let found = match sought.find(&identity()) {
            Found::Object(object) => object.key.file_name().to_owned(),
            Found::Not(Fetched::Hole(later)) => format!("hole before {later}"),
            Found::Not(Fetched::Absent) => "absent".to_owned(),
            Found::Not(other) => format!("{other:?}"),
        };
        (found, counted.calls() - opened)
    }

    #[rstest]
    #[case::it_is_there("zst", &["0000000100000000/000000010000000000000005.zst"], 0)]
    #[case::under_another_codec("gz", &["0000000100000000/000000010000000000000005.gz"], 1)]
    fn a_segment_is_found(#[case] suffix: &str, #[case] objects: &[&str], #[case] lists: u64) {
        let (found, calls) = look(ASKED, objects);
        assert_eq!(found, format!("{ASKED}.{suffix}"));
        // The object itself is opened once more where it was not the likeliest.
        assert_eq!(calls, lists * 2);
    }

    #[rstest]
    #[case::nothing(&[], "absent", 1)]
    #[case::earlier_ones(&["0000000100000000/000000010000000000000004.zst"], "absent", 1)]
    #[case::another_timeline(&["0000000200000000/000000020000000000000006.zst"], "absent", 1)]
    #[case::its_own_partial(
        &["0000000100000000/000000010000000000000005.partial.zst",
          "0000000100000000/000000010000000000000005.partial.0123456789abcdef.zst",
          "0000000100000000/000000010000000000000005.00000028.backup.zst"],
        "absent", 1
    )]
    #[case::a_later_one(
        &["0000000100000000/000000010000000000000005.partial.zst", "0000000100000000/000000010000000000000007.lz4"],
        "hole before 000000010000000000000007", 1
    )]
    #[case::one_in_the_next_folder(
        &["0000000100000001/000000010000000100000000.zst"], "hole before 000000010000000100000000", 1
    )]
    fn one_listing_tells_the_end_from_a_hole(#[case] objects: &[&str], #[case] expected: &str, #[case] calls: u64) {
        assert_eq!(look(ASKED, objects), (expected.to_owned(), calls));
    }

    #[test]
    fn many_names_before_a_later_one_hide_nothing() {
        let backups: Vec<_> = (0..200).map(|n| format!("0000000100000000/{ASKED}.{n:08X}.backup.zst")).collect();
        let mut objects: Vec<&str> = backups.iter().map(String::as_str).collect();
        assert_eq!(look(ASKED, &objects).0, "absent");
        objects.push("0000000100000000/000000010000000000000009.zst");
        assert_eq!(look(ASKED, &objects).0, "hole before 000000010000000000000009");
    }

    #[rstest]
    #[case::nothing(&[], "absent")]
    #[case::under_another_codec(&["history/00000003.history.gz"], "00000003.history.gz")]
    #[case::an_earlier_one(&["history/00000002.history.zst"], "absent")]
    #[case::given_up(&["history/00000003.abandoned.json"], "absent")]
    #[case::a_later_one(
        &["0000000200000000/000000020000000000000004.zst", "history/00000004.history.zst"], "hole before 00000004.history"
    )]
    #[case::a_later_one_of_an_archive_that_began_there(
        &["0000000300000000/000000030000000000000004.zst", "history/00000004.history.zst"], "absent"
    )]
    fn a_history_is_missed_only_where_it_must_have_been(#[case] objects: &[&str], #[case] expected: &str) {
        assert_eq!(look("00000003.history", objects).0, expected);
    }

    #[test]
    fn what_is_asked_at_once_is_asked_of_a_repository() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let name = ArchiveName::parse(ASKED).unwrap();
        let nothing = seek(&store, ClusterName::default(), Compression::default(), SYSTEM, name);
        assert!(nothing.is_err_and(|error| Repository::is_missing(&error)));
        let now = DateTime::UNIX_EPOCH;
        Repository::open_or_create(store.clone(), ClusterName::default(), Compression::default(), now).unwrap();
        let (_, known) = seek(&store, ClusterName::default(), Compression::default(), SYSTEM, name).unwrap();
        assert!(known.is_none());
    }
}
