//! One cluster's place in one repository.

use std::io::{Read, Write};
use std::sync::Arc;

use anyhow::Context as _;
use chrono::{DateTime, Utc};

use crate::codec::{Codec, Compression, Digest, Encoder, HashingWriter, decoder, read_full};
use crate::pg::SystemIdentifier;
use crate::repo::envelope::{self, RECORD_BYTES_MAX, Record, RecordError};
use crate::repo::layout::REPOSITORY;
use crate::repo::records::{IdentityRecord, ObjectRecord, RepositoryRecord};
use crate::repo::{ClusterName, Layout};
use crate::report::Advice;
use crate::store::{Entry, Key, Published, Store, StoreError};

use super::Identity;

/// How many objects one listing call asks for.
const LIST_PAGE: usize = 1000;

/// How much of an object is decompressed at a time.
const CHUNK_BYTES: usize = 256 << 10;

/// One cluster's place in one repository. Cheap to clone; calls block.
#[derive(Debug, Clone)]
pub struct Repository {
    store: Arc<dyn Store>,
    layout: Layout,
    compression: Compression,
    record: RepositoryRecord,
}

impl Repository {
    /// Opens a repository that exists; writes nothing.
    ///
    /// Exit class `NoRepository` when there is none at that place.
    pub fn open(store: Arc<dyn Store>, cluster: ClusterName, compression: Compression) -> anyhow::Result<Self> {
        let place = store.describe();
        let record = match read_record::<RepositoryRecord>(&*store, &Key::new(REPOSITORY)?) {
            Ok(record) => record,
            Err(err) if matches!(err.downcast_ref(), Some(StoreError::NoRoot(_))) => None,
            Err(err) => return Err(err.context(format!("open repository {place}"))),
        };
        let record = record.ok_or_else(|| {
            Advice::no_repository(format!("there is no repository at {place}"))
                .hint("check the path and that its file system is mounted; archive-wal makes a repository on first use")
        })?;
        Ok(Self { store, layout: Layout::new(cluster), compression, record })
    }

    /// Opens a repository and makes it first where there is none. A folder that holds other things is refused.
    /// Calling it twice, or in two processes at once, makes one repository.
    pub fn open_or_create(
        store: Arc<dyn Store>,
        cluster: ClusterName,
        compression: Compression,
        now: DateTime<Utc>,
    ) -> anyhow::Result<Self> {
        let missing = match Self::open(store.clone(), cluster.clone(), compression) {
            Ok(repository) => return Ok(repository),
            Err(err) if Self::is_missing(&err) => err,
            Err(err) => return Err(err),
        };
        let place = store.describe();
        match store.list("", None, 1) {
            Ok(found) if !found.is_empty() => {
                // What lies there may be the repository that somebody else has made meanwhile.
                if let Ok(repository) = Self::open(store, cluster, compression) {
                    return Ok(repository);
                }
                return Err(missing.context(
                    Advice::refused(format!("{place} holds other things and no {REPOSITORY}"))
                        .hint("name an empty folder, or one that does not exist yet, as the repository"),
                ));
            }
            Ok(_) | Err(StoreError::NoRoot(_)) => {}
            Err(err) => return Err(err).context(format!("look into {place}")),
        }
        let record = RepositoryRecord { id: random_name(), created: now };
        create_record(&*store, &Key::new(REPOSITORY)?, &record)
            .with_context(|| format!("make a repository at {place}"))?;
        Self::open(store, cluster, compression)
    }

    /// Whether opening failed because there is no repository at that place.
    pub fn is_missing(err: &anyhow::Error) -> bool {
        err.downcast_ref::<Advice>().is_some_and(|advice| advice.class == crate::report::ExitClass::NoRepository)
    }

    /// The store that it lies in.
    pub fn store(&self) -> &dyn Store {
        &*self.store
    }

    /// The keys of the cluster's objects.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// How new objects are compressed.
    pub fn compression(&self) -> Compression {
        self.compression
    }

    /// The same place with another compression for new objects.
    #[must_use]
    pub fn with_compression(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// The repository's random name.
    pub fn id(&self) -> &str {
        &self.record.id
    }

    /// Where it lies, for messages.
    pub fn describe(&self) -> String {
        self.store.describe()
    }

    /// Refuses a cluster that nothing is known of here: its name was mistyped, or this is another repository. Lists all
    /// that is the cluster's: ask where nothing was found.
    pub fn require_cluster(&self) -> anyhow::Result<()> {
        if !self.list_all(&self.layout.root())?.is_empty() {
            return Ok(());
        }
        let message = format!("there is no cluster \"{}\" in {}", self.layout.cluster(), self.describe());
        Err(Advice::no_repository(message).hint("check --repo and --cluster").into())
    }

    /// The system identifiers that the cluster is known by.
    pub fn identities(&self) -> anyhow::Result<Vec<IdentityRecord>> {
        let mut records = Vec::new();
        for entry in self.list_all(&self.layout.identities())? {
            records.extend(read_identity(&*self.store, &self.layout, &entry.key)?);
        }
        Ok(records)
    }

    /// The record of this system identifier; `None` when the cluster is not known by it.
    pub fn identity(&self, system: SystemIdentifier) -> anyhow::Result<Option<IdentityRecord>> {
        Self::identity_in(&*self.store, &self.layout, system)
    }

    /// The same, of a repository that need not be open yet.
    pub(super) fn identity_in(
        store: &dyn Store,
        layout: &Layout,
        system: SystemIdentifier,
    ) -> anyhow::Result<Option<IdentityRecord>> {
        read_identity(store, layout, &layout.identity(system)?)
    }

    /// Makes sure that WAL of this identity belongs to the cluster; the first identity is written down, another one is
    /// refused unless `after_upgrade`. Calling it twice changes nothing.
    pub fn admit(&self, identity: &Identity, after_upgrade: bool, now: DateTime<Utc>) -> anyhow::Result<()> {
        let system = identity.system_identifier;
        if let Some(known) = self.identity(system)? {
            if known.segment_size == identity.segment_size {
                return Ok(());
            }
            return Err(Advice::refused(format!(
                "system {system} has WAL segments of {} bytes here and {} bytes in {}",
                identity.segment_size.bytes(),
                known.segment_size.bytes(),
                self.describe()
            ))
            .hint("after pg_resetwal --wal-segsize, archive under another --cluster name")
            .into());
        }
        if !after_upgrade {
            self.refuse_beside_others(system)?;
        }
        if identity.major.is_none() {
            tracing::warn!(
                "system {system} is of a PostgreSQL newer than this program: its WAL is checked by structure alone"
            );
        }
        let record = IdentityRecord {
            system_identifier: system,
            postgresql_major: identity.major,
            segment_size: identity.segment_size,
            first_seen: now,
        };
        let key = self.layout.identity(system)?;
        let created = self.create_record(&key, &record)? == Published::Created;
        if created && !after_upgrade {
            // Another server may have come at the same moment. Whoever looks after its own record is there sees the
            // other's, or is seen by it; so two never both stay.
            let alone = self.refuse_beside_others(system);
            if alone.is_err() {
                self.store.delete(&[key])?;
            }
            return alone;
        }
        Ok(())
    }

    /// Refuses when the cluster is known by another system identifier than this one.
    fn refuse_beside_others(&self, system: SystemIdentifier) -> anyhow::Result<()> {
        let known = self.identities()?;
        let Some(other) = known.iter().find(|other| other.system_identifier != system) else { return Ok(()) };
        Err(Advice::refused(format!(
            "system identifier {system} is not that of cluster \"{}\" in {}, which is {}",
            self.layout.cluster(),
            self.describe(),
            other.system_identifier
        ))
        .hint(
            "give another server's WAL a name of its own with --cluster NAME; \
             if this is the same cluster after pg_upgrade, run archive-wal once with --after-upgrade",
        )
        .into())
    }

    /// Every object whose key starts with `prefix`, in order.
    pub fn list_all(&self, prefix: &str) -> Result<Vec<Entry>, StoreError> {
        let mut all: Vec<Entry> = Vec::new();
        loop {
            let after = all.last().map(|entry| entry.key.as_str().to_owned());
            let page = self.store.list(prefix, after.as_deref(), LIST_PAGE)?;
            let full = page.len() == LIST_PAGE;
            all.extend(page);
            if !full {
                return Ok(all);
            }
        }
    }

    /// The record under this key; `None` when there is none. A damaged one is an error that names the key.
    pub fn read_record<R: Record>(&self, key: &Key) -> anyhow::Result<Option<R>> {
        read_record(&*self.store, key)
    }

    /// The error of a record under this key that can be read and yet not be used.
    pub fn unusable<R: Record>(&self, key: &Key, err: RecordError) -> anyhow::Error {
        unusable::<R>(&*self.store, key, err)
    }

    /// Writes a record unless one of its name exists.
    pub fn create_record<R: Record>(&self, key: &Key, record: &R) -> anyhow::Result<Published> {
        create_record(&*self.store, key, record)
    }

    /// Writes a record in place of the one that has its name.
    pub fn replace_record<R: Record>(&self, key: &Key, record: &R) -> anyhow::Result<()> {
        self.store.replace(key, &envelope::seal(record)?)?;
        Ok(())
    }

    /// Writes a small object whole, compressed. An object of that name must not exist.
    pub fn put_object(&self, key: &Key, plain: &[u8]) -> anyhow::Result<ObjectRecord> {
        let mut encoder = Encoder::with_size_hint(Vec::new(), self.compression, plain.len() as u64)?;
        encoder.write_all(plain)?;
        let stored = encoder.finish()?;
        let mut upload = self.store.begin(key)?;
        upload.write_all(&stored).with_context(|| format!("write {key}"))?;
        publish(upload, key)?;
        Ok(ObjectRecord {
            plain_bytes: plain.len() as u64,
            stored_bytes: stored.len() as u64,
            stored_sha256: Digest::of(&stored),
            sha256: Digest::of(plain),
        })
    }

    /// Writes the plain bytes of an object to `sink` and answers whether they are those of its record; when they are not,
    /// what was written is worth nothing. It is not read further than the record says that it goes.
    pub fn copy_object(
        &self,
        key: &Key,
        codec: Codec,
        record: &ObjectRecord,
        sink: &mut dyn Write,
    ) -> anyhow::Result<bool> {
        let reading = || format!("read {key}");
        let source = decoder(codec, self.store.get(key)?).with_context(reading)?;
        let mut source = source.take(record.plain_bytes.saturating_add(1));
        let mut sink = HashingWriter::new(sink);
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            let count = read_full(&mut source, &mut buffer).with_context(reading)?;
            match buffer.get(..count).unwrap_or_default() {
                [] => break,
                chunk => sink.write_all(chunk).with_context(|| format!("write what is in {key}"))?,
            }
        }
        let (_, bytes, digest) = sink.finish();
        Ok((bytes, digest) == (record.plain_bytes, record.sha256))
    }
}

/// Makes an upload visible under a key that nobody else may have taken.
pub(super) fn publish(upload: Box<dyn crate::store::Upload>, key: &Key) -> anyhow::Result<()> {
    match upload.publish_new()? {
        Published::Created => Ok(()),
        Published::Exists => anyhow::bail!("{key} exists already, written by somebody else"),
    }
}

/// A name that nobody else has: 128 random bits.
pub(super) fn random_name() -> String {
    format!("{:032x}", fastrand::u128(..))
}

fn read_record<R: Record>(store: &dyn Store, key: &Key) -> anyhow::Result<Option<R>> {
    let mut bytes = Vec::new();
    match store.get(key) {
        // One byte more than a record may have tells that it has too many.
        Ok(source) => source
            .take(RECORD_BYTES_MAX + 1)
            .read_to_end(&mut bytes)
            .with_context(|| format!("read {key} in {}", store.describe()))?,
        Err(StoreError::NotFound(_)) => return Ok(None),
        Err(err) => return Err(err.into()),
    };
    envelope::open(&bytes).map(Some).map_err(|err| unusable::<R>(store, key, err))
}

/// A record that lies under another system's name would speak for the wrong one.
fn read_identity(store: &dyn Store, layout: &Layout, key: &Key) -> anyhow::Result<Option<IdentityRecord>> {
    let Some(record) = read_record::<IdentityRecord>(store, key)? else { return Ok(None) };
    if layout.identity(record.system_identifier)? == *key {
        return Ok(Some(record));
    }
    let what = format!("it is the record of system {}", record.system_identifier);
    Err(unusable::<IdentityRecord>(store, key, RecordError::Damaged(what)))
}

/// A record that cannot be used, with what to do about it.
fn unusable<R: Record>(store: &dyn Store, key: &Key, err: RecordError) -> anyhow::Error {
    let hint = match err {
        RecordError::Newer(_) => "a newer Holdfast wrote it: install that version here",
        _ => R::MENDING,
    };
    anyhow::Error::new(err).context(Advice::failed(format!("{key} in {}", store.describe())).hint(hint))
}

fn create_record<R: Record>(store: &dyn Store, key: &Key, record: &R) -> anyhow::Result<Published> {
    let mut upload = store.begin(key)?;
    upload.write_all(&envelope::seal(record)?).with_context(|| format!("write {key}"))?;
    Ok(upload.publish_new()?)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::pg::SegmentSize;
    use crate::store::{FaultKind, FaultPlan, FaultStore, MemoryStore};

    fn enter(store: Arc<dyn Store>, system: SystemIdentifier) -> anyhow::Result<Repository> {
        let now = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
        let repository = Repository::open_or_create(store, ClusterName::default(), Compression::default(), now)?;
        let identity = Identity { system_identifier: system, segment_size: SegmentSize::DEFAULT, major: Some(15) };
        repository.admit(&identity, false, now)?;
        Ok(repository)
    }

    /// Lets `second` enter a new repository in the middle of `first`'s entrance, at each call in turn; tells who did.
    fn each_interleaving(first: SystemIdentifier, second: SystemIdentifier, check: impl Fn(bool, bool, &Repository)) {
        let counting = Arc::new(FaultStore::new(MemoryStore::new()));
        enter(counting.clone(), first).unwrap();
        for at in 1..=counting.calls() {
            let store = Arc::new(MemoryStore::new());
            let other = Arc::new(Mutex::new(None));
            let (seen, below) = (other.clone(), store.clone());
            let comes = move || *seen.lock().unwrap() = Some(enter(below.clone(), second));
            let plan = FaultPlan { at, kind: FaultKind::Run(Arc::new(comes)) };
            let ours = enter(Arc::new(FaultStore::with_plan(store, plan)), first);
            let theirs = other.lock().unwrap().take().unwrap();
            let repository = ours.as_ref().or(theirs.as_ref()).unwrap();
            check(ours.is_ok(), theirs.is_ok(), repository);
        }
    }

    #[test]
    fn one_server_that_comes_twice_at_once_is_let_in_twice() {
        each_interleaving(7, 7, |first, second, repository| {
            assert!(first && second);
            assert_eq!(repository.identities().unwrap().len(), 1);
        });
    }

    #[test]
    fn of_two_servers_that_come_at_once_one_is_let_in() {
        each_interleaving(7, 8, |first, second, repository| {
            assert!(first != second);
            assert_eq!(repository.identities().unwrap().len(), 1);
        });
    }
}
