//! One WAL file into one repository: checked and compressed as it is read once, created without replacing, durable.
//!
//! Whatever happens in the middle, nothing is visible before the object is whole, and the same call again gives the
//! same answer.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::Context as _;

use crate::codec::{Codec, Compression, Encoder, Sha256Stream, decoder, read_full};
use crate::pg::history::TimelineHistory;
use crate::pg::{ArchiveName, TimelineId, WalSegmentName};
use crate::report::{Advice, Cancel};
use crate::store::{Key, Published};
use crate::sys::faults;

use super::{Check, locate};
use crate::archive::{Identity, Repository};

/// How much is read and compressed at a time; a cancellation is seen this often.
const CHUNK_BYTES: usize = 256 << 10;

/// No segment of PostgreSQL's is larger. What unpacks to more is not read on.
const SEGMENT_BYTES_MAX: u64 = 1 << 30;

/// What became of a file that was put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Put {
    /// It is new in the repository.
    Stored,
    /// The same bytes were there already; they are durable.
    AlreadyThere,
    /// A `.partial` file of that name with other bytes was there; this one is kept beside it, under this key.
    SetAside(Key),
}

/// The refusal of different bytes under an archived name, with the likely cause and the way out.
fn differs(name: ArchiveName, place: &str) -> Advice {
    let cause = match name {
        ArchiveName::History(_) => "two servers were promoted onto one timeline number and archive to one place",
        _ => "two servers write one timeline, most often a copy or an old primary that archives as its original",
    };
    Advice::refused(format!("{name} is in {place} with different contents; nothing was changed")).hint(format!(
        "{cause}: stop the wrong one, or give one of them another --cluster name; \
         never remove the archived file before you know which of the two is right"
    ))
}

/// Puts the file at `path` into the repository under `name`.
///
/// Answers only when the object is whole, checked and durable (file, directory and every directory above it). The same
/// bytes again are [`Put::AlreadyThere`]; other bytes are refused and change nothing, except that a second `.partial`
/// is kept beside the first. A file that is not `identity`'s WAL at that place is refused. Stops at `cancel` with
/// [`crate::report::Interrupted`], leaving nothing visible.
pub fn put(
    repository: &Repository,
    identity: &Identity,
    name: ArchiveName,
    path: &Path,
    cancel: &Cancel,
) -> anyhow::Result<Put> {
    let mut file = faults::call("open", path, || File::open(path)).with_context(|| {
        Advice::failed(format!("read {}", path.display())).hint("archive-wal is called with the path of a WAL file, %p")
    })?;
    put_from(repository, identity, name, &mut file, &path.display().to_string(), cancel)
}

/// Puts the history of `timeline` and those of its ancestors into a repository that lacks them, from the server's
/// `pg_wal`. A repository that was added after a promotion would otherwise never lead a recovery to this timeline.
/// Histories that the server does not have any more are passed over; timeline 1 has none.
pub fn put_missing_histories(
    repository: &Repository,
    identity: &Identity,
    timeline: TimelineId,
    pg_wal: &Path,
    cancel: &Cancel,
) -> anyhow::Result<()> {
    if timeline == TimelineId(1)
        || locate(repository, identity.system_identifier, ArchiveName::History(timeline))?.is_some()
    {
        return Ok(());
    }
    let path = pg_wal.join(timeline.history_file());
    let bytes = match faults::call("read", &path, || std::fs::read(&path)) {
        Ok(bytes) => bytes,
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(err) => return Err(err).with_context(|| format!("read {}", path.display())),
    };
    // The child's comes last: once it is there, its ancestors are too, and nobody looks for them again.
    let history = TimelineHistory::parse(timeline, &bytes).with_context(|| path.display().to_string())?;
    for ancestor in &history.ancestors {
        put_missing_histories(repository, identity, ancestor.timeline, pg_wal, cancel)?;
    }
    put(repository, identity, ArchiveName::History(timeline), &path, cancel).map(drop)
}

fn put_from(
    repository: &Repository,
    identity: &Identity,
    name: ArchiveName,
    source: &mut (impl Read + Seek),
    what: &str,
    cancel: &Cancel,
) -> anyhow::Result<Put> {
    let (key, codec) = if let Some(found) = locate(repository, identity.system_identifier, name)? {
        found
    } else {
        let codec = repository.compression().codec;
        (repository.layout().wal_file(identity.system_identifier, name, codec)?, codec)
    };
    let file = Outgoing { repository, identity, name, what, cancel };
    let put = match file.create(source, &key, codec)? {
        Published::Created => Put::Stored,
        Published::Exists if file.is_same(source, &key, codec)? => Put::AlreadyThere,
        Published::Exists => {
            return match name {
                ArchiveName::Partial(segment) => file.set_aside(source, segment),
                _ => Err(differs(name, &repository.describe()).into()),
            };
        }
    };
    if file.has_rival(source, codec)? {
        if put == Put::Stored {
            repository.store().delete(&[key])?;
        }
        return Err(differs(name, &repository.describe()).into());
    }
    Ok(put)
}

/// A file on its way, and all that the steps need to know of it.
struct Outgoing<'a> {
    repository: &'a Repository,
    identity: &'a Identity,
    name: ArchiveName,
    what: &'a str,
    cancel: &'a Cancel,
}

impl Outgoing<'_> {
    /// Streams the file through check and compression into a new object.
    fn create(&self, source: &mut (impl Read + Seek), key: &Key, codec: Codec) -> anyhow::Result<Published> {
        source.seek(SeekFrom::Start(0)).with_context(|| format!("read {}", self.what))?;
        let usual = self.repository.compression();
        let compression = if codec == usual.codec { usual } else { Compression::usual(codec) };
        let mut check = Check::new(self.name, *self.identity);
        let writing = || format!("write {key} in {}", self.repository.describe());
        let upload = self.repository.store().begin(key).with_context(writing)?;
        let mut encoder = Encoder::new(upload, compression).with_context(writing)?;
        self.for_each_chunk(source, |chunk| {
            check.update(chunk).map_err(|err| self.refuse(&err))?;
            encoder.write_all(chunk).with_context(writing)
        })?;
        check.finish().map_err(|err| self.refuse(&err))?;
        let upload = encoder.finish().with_context(writing)?;
        upload.publish_new().with_context(writing)
    }

    fn for_each_chunk(
        &self,
        source: &mut impl Read,
        mut act: impl FnMut(&[u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            self.cancel.check()?;
            let count = match faults::read(Path::new(self.what), &mut buffer, |buffer| source.read(buffer)) {
                Err(err) if err.kind() == std::io::ErrorKind::Interrupted => continue,
                result => result.with_context(|| format!("read {}", self.what))?,
            };
            match buffer.get(..count) {
                None | Some([]) => return Ok(()),
                Some(chunk) => act(chunk)?,
            }
        }
    }

    fn refuse(&self, reason: &super::CheckError) -> anyhow::Error {
        Advice::refused(format!("{} is not WAL of this cluster: {reason}", self.what))
            .hint(
                "archive only what PostgreSQL hands over as %p; pg_waldump shows what the file holds; \
                 -D names the data directory that it should belong to",
            )
            .into()
    }

    /// Whether the object holds exactly the file's bytes.
    fn is_same(&self, source: &mut (impl Read + Seek), key: &Key, codec: Codec) -> anyhow::Result<bool> {
        source.seek(SeekFrom::Start(0)).with_context(|| format!("read {}", self.what))?;
        let damaged = || {
            Advice::failed(format!("the archived {key} in {} cannot be read back", self.repository.describe()))
                .hint("if it is damaged for good, move that object away: the next attempt stores the file anew")
        };
        let mut archived = decoder(codec, self.repository.store().get(key)?).with_context(damaged)?;
        let mut theirs = vec![0; CHUNK_BYTES];
        let mut same = true;
        self.for_each_chunk(source, |ours| {
            let place = theirs.get_mut(..ours.len()).unwrap_or_default();
            if same {
                let count = read_full(&mut archived, place).with_context(damaged)?;
                same = place.get(..count) == Some(ours);
            }
            Ok(())
        })?;
        if !same {
            // Only what can be read to its end is another file; else it is this one, damaged.
            std::io::copy(&mut archived.take(SEGMENT_BYTES_MAX), &mut std::io::sink()).with_context(damaged)?;
            return Ok(false);
        }
        let mut rest = [0];
        Ok(archived.read(&mut rest).with_context(damaged)? == 0)
    }

    /// Whether other bytes lie under the same name in another codec. Only a writer with another `compression` that
    /// comes at the same moment can bring that about: the store tells keys apart, not names. Whoever looks after its
    /// own object is there sees the other's, or is seen by it; so two never both succeed. Two `.partial` files may
    /// both stay.
    fn has_rival(&self, source: &mut (impl Read + Seek), own: Codec) -> anyhow::Result<bool> {
        if matches!(self.name, ArchiveName::Partial(_)) {
            return Ok(false);
        }
        for codec in Codec::ALL.into_iter().filter(|codec| *codec != own) {
            let key = self.repository.layout().wal_file(self.identity.system_identifier, self.name, codec)?;
            if self.repository.store().stat(&key)?.is_some() && !self.is_same(source, &key, codec)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Keeps a second, different `.partial` under a name with its digest.
    fn set_aside(&self, source: &mut (impl Read + Seek), segment: WalSegmentName) -> anyhow::Result<Put> {
        source.seek(SeekFrom::Start(0)).with_context(|| format!("read {}", self.what))?;
        let mut digest = Sha256Stream::new();
        self.for_each_chunk(source, |chunk| {
            digest.update(chunk);
            Ok(())
        })?;
        let digest: String = digest.finish().to_string().chars().take(16).collect();
        let codec = self.repository.compression().codec;
        let system = self.identity.system_identifier;
        let key = self.repository.layout().partial_set_aside(system, segment, &digest, codec)?;
        match self.create(source, &key, codec)? {
            Published::Exists if !self.is_same(source, &key, codec)? => {
                Err(differs(self.name, &self.repository.describe()).into())
            }
            Published::Created | Published::Exists => Ok(Put::SetAside(key)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;
    use std::sync::{Arc, Mutex};

    use chrono::DateTime;

    use super::*;
    use crate::archive::testing::{SEGMENT_BYTES, segment};
    use crate::pg::SegmentSize;
    use crate::repo::ClusterName;
    use crate::store::{FaultKind, FaultPlan, FaultStore, MemoryStore, Store};

    const SYSTEM: u64 = 7;

    fn put_into(store: Arc<dyn Store>, codec: Codec, bytes: &[u8]) -> anyhow::Result<Put> {
        let now = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
        let compression = Compression::usual(codec);
        let repository = Repository::open_or_create(store, ClusterName::default(), compression, now)?;
        let size = SegmentSize::new(SEGMENT_BYTES).unwrap();
        let identity = Identity { system_identifier: SYSTEM, segment_size: size, major: Some(15) };
        let name = ArchiveName::Segment(WalSegmentName::numbered(TimelineId(1), 3, size));
        put_from(&repository, &identity, name, &mut Cursor::new(bytes), "the file", &Cancel::default())
    }

    /// One writer comes in the middle of another's work, at each of its calls in turn.
    #[test]
    fn two_writers_with_other_codecs_never_both_succeed() {
        let (ours, mut theirs) = (segment(3, SYSTEM), segment(3, SYSTEM));
        theirs[500_000] ^= 1;
        let counting = Arc::new(FaultStore::new(MemoryStore::new()));
        put_into(counting.clone(), Codec::Zstd, &ours).unwrap();
        for at in 1..=counting.calls() {
            let store = Arc::new(MemoryStore::new());
            let rival = Arc::new(Mutex::new(None));
            let (seen, below, bytes) = (rival.clone(), store.clone(), theirs.clone());
            let comes = move || *seen.lock().unwrap() = Some(put_into(below.clone(), Codec::Lz4, &bytes).is_ok());
            let plan = FaultPlan { at, kind: FaultKind::Run(Arc::new(comes)) };
            let first = put_into(Arc::new(FaultStore::with_plan(store.clone(), plan)), Codec::Zstd, &ours).is_ok();
            let second = rival.lock().unwrap().unwrap();
            assert!(first != second, "at call {at}: {first}, {second}");
            let (good, bad, codec) = if first { (&ours, &theirs, Codec::Zstd) } else { (&theirs, &ours, Codec::Lz4) };
            assert_eq!(put_into(store.clone(), codec, good).unwrap(), Put::AlreadyThere, "at call {at}");
            assert!(put_into(store, codec, bad).is_err(), "at call {at}");
        }
    }

    #[test]
    fn the_same_file_in_two_codecs_is_one_file() {
        let bytes = segment(3, SYSTEM);
        let store = Arc::new(MemoryStore::new());
        assert_eq!(put_into(store.clone(), Codec::Zstd, &bytes).unwrap(), Put::Stored);
        assert_eq!(put_into(store, Codec::Gzip, &bytes).unwrap(), Put::AlreadyThere);
    }

    #[test]
    fn a_file_without_end_is_refused_before_it_fills_the_repository() {
        let mut bytes = segment(3, SYSTEM);
        bytes.resize(64 << 20, 0);
        let store = Arc::new(FaultStore::new(MemoryStore::new()));
        let refusal = put_into(store, Codec::Zstd, &bytes).unwrap_err();
        assert!(format!("{refusal:#}").contains("more than the 1048576 bytes"), "{refusal:#}");
    }
}
