//! Copies the planned parts with several workers.
//!
//! The thread of the session hands out the parts, takes in what was copied in the order of part numbers, and answers
//! the workers' questions to the server; meanwhile it watches that the session lives, because a backup whose session
//! has ended is lost. No worker runs far ahead of the slowest one, so that what waits for its turn stays small.

use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io;
use std::iter::Peekable;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError, Sender, SyncSender, sync_channel};
use std::time::Duration;
use std::vec;

use anyhow::Context as _;
use common::codec::Sha256Stream;
use common::pg::Lsn;
use common::repo::index::{DirectoryEntry, FileEntry, RelativePath};
use common::repo::layout::backup_object;
use common::repo::part::{Attributes, FrameTable, PartWriter};
use common::repo::records::{DamagedPage, PartRecord};
use common::report::{Cancel, Progress};
use common::sys::clock::Stopwatch;
use common::sys::{durable, faults};

use crate::object::{Object, Target};
use crate::pages::PageRules;
use crate::plan::Part;
use crate::scan::{PERMISSION_BITS, ScannedFile};
use crate::server_state::Server;

/// How much is read at a time: a multiple of every page size.
const CHUNK_BYTES: usize = 256 << 10;

/// How many parts the fastest worker may be ahead of the slowest.
const PARTS_AHEAD_MAX: u32 = 32;

/// How often the session is looked at.
const SESSION_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// How many damaged pages are named; the rest are counted.
pub(crate) const DAMAGED_PAGES_NAMED_MAX: usize = 1000;

/// What the workers share.
#[derive(Clone, Copy)]
pub(crate) struct Means<'a> {
    /// The data directory.
    pub(crate) pgdata: &'a Path,
    /// Where the parts go.
    pub(crate) target: Target<'a>,
    /// The directories, which are in the first part.
    pub(crate) directories: &'a [DirectoryEntry],
    /// The age that directories get, in seconds since 1970.
    pub(crate) started: u64,
    /// How pages are checked; none without checksums.
    pub(crate) pages: Option<&'a PageRules>,
    /// Told of every byte.
    pub(crate) progress: &'a dyn Progress,
    /// Asked between chunks.
    pub(crate) cancel: &'a Cancel,
}

/// A part that is in the repository.
#[derive(Debug)]
pub(crate) struct CopiedPart {
    /// What the commit record says of it.
    pub(crate) record: PartRecord,
    /// Where its frames lie.
    pub(crate) frames: FrameTable,
    /// Its files in the order of their offsets.
    pub(crate) files: Vec<FileEntry>,
    /// The first of its pages whose checksum is wrong.
    pub(crate) damaged: Vec<DamagedPage>,
    /// How many there are in all.
    pub(crate) damaged_count: u64,
}

/// What a worker tells or asks the thread of the session.
enum Event {
    Idle(SyncSender<Part>),
    Position(SyncSender<Lsn>),
    Copied(Box<CopiedPart>),
    Failed(anyhow::Error),
}

/// Copies all parts with `jobs` workers and gives each to `take`, in the order of their numbers. Returns when no worker
/// is left; the first error ends all.
pub(crate) fn copy(
    parts: Vec<Part>,
    jobs: usize,
    means: Means<'_>,
    server: &mut dyn Server,
    take: impl FnMut(CopiedPart) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let stop = Cancel::default();
    let workers = jobs.clamp(1, parts.len().max(1));
    std::thread::scope(|scope| {
        let (sender, events) = mpsc::channel();
        for _ in 0..workers {
            let worker = Worker { means, stop: &stop, events: sender.clone() };
            scope.spawn(move || worker.work());
        }
        drop(sender);
        let mut foreman = Foreman {
            next: parts.first().map_or(1, |part| part.number),
            parts: parts.into_iter().peekable(),
            idle: Vec::new(),
            waiting: BTreeMap::new(),
            looked: Stopwatch::start(),
            server,
            take,
        };
        let mut outcome = Ok(());
        loop {
            let event = match events.recv_timeout(SESSION_CHECK_INTERVAL) {
                Ok(event) => Some(event),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            if outcome.is_ok() {
                outcome = foreman.watch_session().and_then(|()| event.map_or(Ok(()), |event| foreman.heed(event)));
            }
            if outcome.is_err() {
                // A worker whose question stays unanswered ends; one that copies sees the flag.
                stop.cancel();
                foreman.idle.clear();
            }
        }
        outcome?;
        anyhow::ensure!(foreman.parts.next().is_none() && foreman.waiting.is_empty(), "a worker died");
        Ok(())
    })
}

/// The thread of the session at work.
struct Foreman<'a, F> {
    parts: Peekable<vec::IntoIter<Part>>,
    idle: Vec<SyncSender<Part>>,
    /// What was copied before its turn.
    waiting: BTreeMap<u32, CopiedPart>,
    /// The number of the part whose turn it is.
    next: u32,
    looked: Stopwatch,
    server: &'a mut dyn Server,
    take: F,
}

impl<F: FnMut(CopiedPart) -> anyhow::Result<()>> Foreman<'_, F> {
    fn heed(&mut self, event: Event) -> anyhow::Result<()> {
        match event {
            Event::Idle(worker) => self.idle.push(worker),
            Event::Position(worker) => {
                // A worker that does not wait for the answer any more has failed, and says so.
                let _sent = worker.send(self.server.position()?).is_ok();
            }
            Event::Copied(part) => {
                self.waiting.insert(part.record.number, *part);
                while let Some(part) = self.waiting.remove(&self.next) {
                    (self.take)(part)?;
                    self.next += 1;
                }
            }
            Event::Failed(err) => return Err(err),
        }
        self.hand_out();
        Ok(())
    }

    /// Gives the idle workers something to do, or lets them end when nothing is left.
    fn hand_out(&mut self) {
        let limit = self.next.saturating_add(PARTS_AHEAD_MAX);
        while !self.idle.is_empty() {
            match self.parts.peek() {
                None => self.idle.clear(),
                Some(part) if part.number >= limit => return,
                Some(_) => {
                    if let (Some(worker), Some(part)) = (self.idle.pop(), self.parts.next()) {
                        // An idle worker waits for exactly this.
                        let _sent = worker.send(part).is_ok();
                    }
                }
            }
        }
    }

    /// A backup whose session has ended is lost: better to hear it now than after hours of copying.
    fn watch_session(&mut self) -> anyhow::Result<()> {
        if self.looked.elapsed() >= SESSION_CHECK_INTERVAL {
            self.looked = Stopwatch::start();
            self.server.require_open()?;
        }
        Ok(())
    }
}

struct Worker<'a> {
    means: Means<'a>,
    stop: &'a Cancel,
    events: Sender<Event>,
}

impl Worker<'_> {
    fn work(&self) {
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            let (sender, order) = sync_channel(1);
            if self.events.send(Event::Idle(sender)).is_err() {
                return;
            }
            let Ok(part) = order.recv() else { return };
            let copied = self.part(part, &mut buffer);
            let failed = copied.is_err();
            let event = copied.map_or_else(Event::Failed, |part| Event::Copied(Box::new(part)));
            if self.events.send(event).is_err() || failed {
                return;
            }
        }
    }

    fn part(&self, part: Part, buffer: &mut [u8]) -> anyhow::Result<CopiedPart> {
        let target = self.means.target;
        let object = target.begin(&backup_object::part(part.number, target.codec()))?;
        let what = object.describe();
        let mut writer = PartWriter::new(part.number, object, target.compression());
        if part.number == 1 {
            for directory in self.means.directories {
                let attributes = Attributes { mode: directory.mode, modified: self.means.started };
                writer.directory(directory.path.as_bytes(), attributes).with_context(|| format!("write {what}"))?;
            }
        }
        let mut files = Vec::with_capacity(part.files.len());
        let mut open = OpenPart { number: part.number, writer, damage: Damage::default() };
        for file in part.files {
            let entry = self.file(&file, &mut open, buffer);
            files.extend(entry.with_context(|| format!("copy {}", file.path.display()))?);
        }
        let OpenPart { writer, damage, .. } = open;
        let (object, frames, record) = writer.finish().with_context(|| format!("write {what}"))?;
        object.publish()?;
        Ok(CopiedPart { record, frames, files, damaged: damage.pages, damaged_count: damage.count })
    }

    /// Copies one file; none when it has vanished, which the WAL knows of.
    fn file(
        &self,
        scanned: &ScannedFile,
        part: &mut OpenPart<'_>,
        buffer: &mut [u8],
    ) -> anyhow::Result<Option<FileEntry>> {
        let file = match durable::open_nofollow(&scanned.path.below(self.means.pgdata)) {
            Ok(file) => file,
            Err(err) if err.kind() == io::ErrorKind::NotFound => {
                self.means.progress.advance(scanned.size);
                return Ok(None);
            }
            Err(err) => return Err(err).context("open it"),
        };
        let metadata = file.metadata().context("look at it")?;
        anyhow::ensure!(metadata.is_file(), "it is no file any more");
        let attributes = attributes(&metadata);
        let size = metadata.len();
        let offset = part.writer.file(scanned.path.as_bytes(), size, attributes).context("write its header")?;
        let check = self.means.pages.and_then(|rules| rules.check_of(scanned.path.as_path()));
        let path = scanned.path.as_path();
        let mut contents = Contents { path, file: &file, size, position: 0, ended: false };
        let mut digest = Sha256Stream::new();
        loop {
            self.means.cancel.check()?;
            self.stop.check()?;
            let position = contents.position;
            let (chunk, real) = contents.next(buffer).context("read it")?;
            if chunk.is_empty() {
                break;
            }
            if let (Some(check), Some(pages)) = (&check, chunk.get_mut(..real)) {
                let ask = || self.ask_position();
                let bad = check.check(&file, position, pages, &ask, self.means.cancel)?;
                part.damage.note(&scanned.path, &bad);
            }
            digest.update(chunk);
            part.writer.contents(chunk).context("write it")?;
            self.means.progress.advance(chunk.len() as u64);
        }
        let Attributes { mode, modified } = attributes;
        let (path, part) = (scanned.path.clone(), part.number);
        Ok(Some(FileEntry { path, part, offset, size, mode, modified, sha256: digest.finish() }))
    }

    fn ask_position(&self) -> anyhow::Result<Lsn> {
        let (sender, answer) = sync_channel(1);
        let asked = self.events.send(Event::Position(sender)).is_ok();
        // Without an answer the whole copy has failed, and for another reason.
        answer.recv().ok().filter(|_| asked).context("the server's position is not known")
    }
}

/// A part that is being written.
struct OpenPart<'a> {
    number: u32,
    writer: PartWriter<Object<'a>>,
    damage: Damage,
}

/// A file's bytes in chunks: exactly as many as it had when it was opened. Growth is passed over; what was cut off
/// meanwhile reads as zeros. Replay puts either right.
struct Contents<'a> {
    /// The name of what is read.
    path: &'a Path,
    file: &'a File,
    size: u64,
    position: u64,
    ended: bool,
}

impl Contents<'_> {
    /// The next chunk, empty at the end, and how much of it was really read.
    fn next<'b>(&mut self, buffer: &'b mut [u8]) -> io::Result<(&'b mut [u8], usize)> {
        let left = usize::try_from(self.size - self.position).unwrap_or(usize::MAX);
        let length = buffer.len().min(left);
        let chunk = buffer.get_mut(..length).unwrap_or_default();
        let mut real = 0;
        while !self.ended && real < length {
            let place = chunk.get_mut(real..).unwrap_or_default();
            match faults::read(self.path, place, |place| self.file.read_at(place, self.position + real as u64)) {
                Ok(0) => self.ended = true,
                Ok(count) => real += count,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return Err(err),
            }
        }
        chunk.get_mut(real..).unwrap_or_default().fill(0);
        self.position += length as u64;
        Ok((chunk, real))
    }
}

/// Pages whose checksum is wrong.
#[derive(Debug, Default)]
struct Damage {
    pages: Vec<DamagedPage>,
    count: u64,
}

impl Damage {
    fn note(&mut self, path: &RelativePath, blocks: &[u64]) {
        let room = DAMAGED_PAGES_NAMED_MAX.saturating_sub(self.pages.len());
        let named = blocks.iter().take(room).map(|block| DamagedPage { path: path.display(), block: *block });
        self.pages.extend(named);
        self.count += blocks.len() as u64;
    }
}

/// Permissions and age as they go into a backup.
pub(crate) fn attributes(metadata: &Metadata) -> Attributes {
    Attributes {
        mode: metadata.permissions().mode() & PERMISSION_BITS,
        // A file from before 1970 is as old as can be said.
        modified: u64::try_from(metadata.mtime()).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::sync::Arc;

    use common::archive::Repository;
    use common::codec::{Compression, Digest, decoder};
    use common::repo::{BackupId, ClusterName};
    use common::report::Silent;
    use common::store::{FaultKind, FaultPlan, FaultStore, MemoryStore, Store};
    use common::sys::clock::{Clock as _, SystemClock};
    use tempfile::TempDir;

    /// A server that lives.
    struct Steady;

    impl Server for Steady {
        fn position(&mut self) -> anyhow::Result<Lsn> {
            Ok(Lsn(u64::MAX))
        }

        fn require_open(&self) -> anyhow::Result<()> {
            Ok(())
        }
    }

    fn repository(store: Arc<dyn Store>) -> Repository {
        let compression = Compression::default();
        Repository::open_or_create(store, ClusterName::default(), compression, SystemClock.now()).unwrap()
    }

    /// A tree of files `0`, `1`, … of these sizes, and their parts, one a file.
    fn tree(sizes: &[usize]) -> (TempDir, Vec<Part>) {
        let directory = tempfile::tempdir().unwrap();
        let mut parts = Vec::new();
        for (number, size) in (0_u8..).zip(sizes) {
            let name = number.to_string();
            File::create(directory.path().join(&name)).unwrap().write_all(&vec![number; *size]).unwrap();
            let path = RelativePath::new(name).unwrap();
            parts.push(Part { number: u32::from(number) + 1, files: vec![ScannedFile { path, size: *size as u64 }] });
        }
        (directory, parts)
    }

    fn copy_all(
        pgdata: &Path,
        parts: Vec<Part>,
        repository: &Repository,
        server: &mut dyn Server,
        cancel: &Cancel,
    ) -> anyhow::Result<Vec<CopiedPart>> {
        let directory = DirectoryEntry { path: RelativePath::new("base").unwrap(), mode: 0o700 };
        let means = Means {
            pgdata,
            target: Target { repository, id: BackupId::at(SystemClock.now()) },
            directories: &[directory],
            started: 0,
            pages: None,
            progress: &Silent,
            cancel,
        };
        let mut copied = Vec::new();
        copy(parts, 3, means, server, |part| {
            copied.push(part);
            Ok(())
        })?;
        Ok(copied)
    }

    #[test]
    fn parts_arrive_in_order_and_read_back() {
        let sizes: Vec<usize> = (0..60).map(|index| (60 - index) * 10_007).collect();
        let (directory, parts) = tree(&sizes);
        let repository = repository(Arc::new(MemoryStore::new()));
        let copied = copy_all(directory.path(), parts, &repository, &mut Steady, &Cancel::default()).unwrap();
        let numbers: Vec<u32> = copied.iter().map(|part| part.record.number).collect();
        assert_eq!(numbers, (1..=60).collect::<Vec<_>>());
        let folder = repository.layout().backups();
        let keys: Vec<_> = repository.list_all(&folder).unwrap().into_iter().map(|entry| entry.key).collect();
        for (((part, key), size), number) in copied.iter().zip(keys).zip(sizes).zip(0_u8..) {
            let [file] = &part.files[..] else { panic!("one file a part") };
            assert_eq!((file.size, file.part), (size as u64, part.record.number));
            assert_eq!(file.sha256, Digest::of(&vec![number; size]));
            let mut plain = Vec::new();
            decoder(repository.compression().codec, repository.store().get(&key).unwrap())
                .unwrap()
                .read_to_end(&mut plain)
                .unwrap();
            let begin = usize::try_from(file.offset).unwrap();
            assert_eq!(plain[begin..begin + size], vec![number; size]);
            assert_eq!(plain.starts_with(b"base/"), number == 0, "directories are in the first part");
        }
    }

    #[test]
    fn a_file_that_vanished_is_passed_over() {
        let (directory, parts) = tree(&[10, 20, 30]);
        std::fs::remove_file(directory.path().join("1")).unwrap();
        let repository = repository(Arc::new(MemoryStore::new()));
        let copied = copy_all(directory.path(), parts, &repository, &mut Steady, &Cancel::default()).unwrap();
        assert_eq!(copied.iter().map(|part| part.files.len()).collect::<Vec<_>>(), [1, 0, 1]);
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let (directory, parts) = tree(&[10, 20, 30]);
        std::fs::remove_file(directory.path().join("1")).unwrap();
        std::os::unix::fs::symlink("/dev/null", directory.path().join("1")).unwrap();
        let repository = repository(Arc::new(MemoryStore::new()));
        let err = copy_all(directory.path(), parts, &repository, &mut Steady, &Cancel::default()).unwrap_err();
        assert_eq!(err.to_string(), "copy 1");
    }

    #[test]
    fn a_cancelled_copy_ends() {
        let (directory, parts) = tree(&[10; 50]);
        let repository = repository(Arc::new(MemoryStore::new()));
        let cancel = Cancel::default();
        cancel.cancel();
        let err = copy_all(directory.path(), parts, &repository, &mut Steady, &cancel).unwrap_err();
        assert!(err.is::<common::report::Interrupted>() || err.root_cause().is::<common::report::Interrupted>());
    }

    #[test]
    fn an_error_of_the_taker_ends_all_workers() {
        let (directory, parts) = tree(&[10; 100]);
        let repository = repository(Arc::new(MemoryStore::new()));
        let means = Means {
            pgdata: directory.path(),
            target: Target { repository: &repository, id: BackupId::at(SystemClock.now()) },
            directories: &[],
            started: 0,
            pages: None,
            progress: &Silent,
            cancel: &Cancel::default(),
        };
        let mut taken = 0;
        let ended = copy(parts, 3, means, &mut Steady, |_| {
            taken += 1;
            anyhow::ensure!(taken < 5, "the catalog is full");
            Ok(())
        });
        assert_eq!(ended.unwrap_err().to_string(), "the catalog is full");
        assert_eq!(taken, 5);
    }

    #[test]
    fn an_error_of_the_store_at_any_call_ends_all_workers() {
        let (directory, parts) = tree(&[10, 5_000_000, 20]);
        let calls = |plan: Option<u64>| {
            let inner = Arc::new(MemoryStore::new());
            repository(inner.clone());
            let store = match plan {
                Some(at) => FaultStore::with_plan(inner, FaultPlan { at, kind: FaultKind::Fail(io::ErrorKind::Other) }),
                None => FaultStore::new(inner),
            };
            let store = Arc::new(store);
            let repository = repository(store.clone());
            let before = store.calls();
            let copied = copy_all(directory.path(), parts.clone(), &repository, &mut Steady, &Cancel::default());
            (before, store.calls(), copied.map(|copied| copied.len()))
        };
        let (before, after, copied) = calls(None);
        assert_eq!(copied.unwrap(), 3);
        assert!(after > before + 6, "three uploads begin, write and are published");
        for at in before + 1..=after {
            assert!(calls(Some(at)).2.is_err(), "call {at} fails");
        }
    }

    fn read(written: &[u8], size: u64, chunk: usize) -> (Vec<u8>, usize) {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(written).unwrap();
        let mut contents = Contents { path: Path::new("x"), file: &file, size, position: 0, ended: false };
        let mut buffer = vec![9; chunk];
        let (mut bytes, mut total) = (Vec::new(), 0);
        loop {
            let (chunk, real) = contents.next(&mut buffer).unwrap();
            if chunk.is_empty() {
                return (bytes, total);
            }
            bytes.extend_from_slice(chunk);
            total += real;
        }
    }

    #[test]
    fn a_file_has_the_size_that_it_had_when_it_was_opened() {
        assert_eq!(read(b"abcdefg", 7, 3), (b"abcdefg".to_vec(), 7));
        assert_eq!(read(b"abcdefg", 5, 3), (b"abcde".to_vec(), 5), "it grew");
        assert_eq!(read(b"abcd", 8, 3), (b"abcd\0\0\0\0".to_vec(), 4), "it shrank");
        assert_eq!(read(b"", 0, 3), (Vec::new(), 0));
    }

    #[test]
    fn damage_is_counted_beyond_what_is_named() {
        let mut damage = Damage::default();
        let path = RelativePath::new("base/5/1259").unwrap();
        for _ in 0..3 {
            damage.note(&path, &(0..400).collect::<Vec<_>>());
        }
        assert_eq!((damage.pages.len(), damage.count), (DAMAGED_PAGES_NAMED_MAX, 1200));
    }
}
