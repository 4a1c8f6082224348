//! Unpacks a backup: in parallel, every file checked against its digest, everything synced.
//!
//! Works from the index, not from tar headers. The index is read as a stream: directories first, then the files of one
//! part after another; each part is one unit of work, so memory stays bounded by the files of the parts in flight. A
//! crash leaves an incomplete directory that nobody takes for a cluster: `global/pg_control` is in the last part, and
//! the caller's journal says that the extraction did not end.

mod reuse;

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, UNIX_EPOCH};

use anyhow::Context as _;
use serde::Serialize;

use self::reuse::Reuse;
use crate::archive::Repository;
use crate::codec::{Codec, HashingWriter, decoder, read_full};
use crate::repo::BackupId;
use crate::repo::index::{FileEntry, IndexEntry, RelativePath};
use crate::repo::layout::backup_object;
use crate::repo::part::{StoredRange, skip};
use crate::repo::records::{BackupRecord, PartRecord};
use crate::report::{Advice, Cancel, Progress};
use crate::restore::own::is_no_server_file;
use crate::sys::durable::{self, TemporaryFile};
use crate::sys::faults;
use crate::sys::writeback::Writeback;
use crate::units::ByteCount;

/// How much is copied at a time.
const CHUNK_BYTES: usize = 256 << 10;

/// Where a backup is unpacked to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// The data directory; must be absent or empty, but for what is no server's.
    pub pgdata: PathBuf,
    /// Where `pg_wal` shall lie when it is a link; inside the data directory otherwise.
    pub pg_wal: Option<PathBuf>,
    /// Every tablespace's object id and place; each place must be absent or lack the backup's folders.
    pub tablespaces: Vec<(u32, PathBuf)>,
}

impl Destination {
    /// Where the file of this path goes.
    fn resolve(&self, path: &RelativePath) -> PathBuf {
        for (oid, location) in &self.tablespaces {
            if let Ok(rest) = path.as_path().strip_prefix(format!("pg_tblspc/{oid}")) {
                return location.join(rest);
            }
        }
        path.below(&self.pgdata)
    }

    /// The top folders of everything that is written.
    fn roots(&self) -> impl Iterator<Item = &Path> {
        let tablespaces = self.tablespaces.iter().map(|(_, location)| location.as_path());
        std::iter::once(self.pgdata.as_path()).chain(self.pg_wal.as_deref()).chain(tablespaces)
    }
}

/// How an extraction is done.
#[derive(Clone, Copy)]
pub struct Means<'a> {
    /// How many parts are unpacked at once; at least one.
    pub jobs: usize,
    /// Told of every plain byte.
    pub progress: &'a dyn Progress,
    /// Asked between chunks.
    pub cancel: &'a Cancel,
}

/// What was unpacked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Extracted {
    /// Files written.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Those of them that were taken from an older state.
    pub reused_files: u64,
    /// Their bytes.
    pub reused_bytes: u64,
    /// Stored bytes that were read from the repository's parts.
    pub fetched_bytes: u64,
}

impl Extracted {
    /// In words.
    pub fn describe(&self) -> String {
        let all = format!("{} files, {}, every one checked and synced", self.files, ByteCount(self.bytes));
        if self.reused_files == 0 {
            return all;
        }
        let percent = u128::from(self.reused_bytes) * 100 / u128::from(self.bytes.max(1));
        format!(
            "{all}; {} of it ({percent} %) reused from the old cluster, {} fetched",
            ByteCount(self.reused_bytes),
            ByteCount(self.fetched_bytes)
        )
    }

    fn add(&mut self, other: Self) {
        self.files += other.files;
        self.bytes += other.bytes;
        self.reused_files += other.reused_files;
        self.reused_bytes += other.reused_bytes;
        self.fetched_bytes += other.fetched_bytes;
    }
}

/// Unpacks the whole backup and syncs it.
///
/// Every file has the size and SHA-256 of the index, whose own digest is in the commit record. An error leaves an
/// incomplete directory, which the caller removes or keeps for inspection.
pub fn extract(
    repository: &Repository,
    backup: &BackupRecord,
    destination: &Destination,
    means: Means<'_>,
) -> anyhow::Result<Extracted> {
    synced(extract_unsynced(repository, backup, destination, means)?, destination)
}

/// The same, with copies of those files of the data directory `from` whose contents are those of the backup; only what
/// else is needed is read from the repository. `from` stays as it is.
pub fn extract_reusing(
    repository: &Repository,
    backup: &BackupRecord,
    destination: &Destination,
    from: &Path,
    means: Means<'_>,
) -> anyhow::Result<Extracted> {
    let reuse = Reuse::new(repository, backup, from)?;
    synced(extract_with(repository, backup, destination, Some(&reuse), means)?, destination)
}

fn synced(extracted: Extracted, destination: &Destination) -> anyhow::Result<Extracted> {
    for root in destination.roots() {
        crate::sys::tree::sync(root, is_no_server_file).with_context(|| format!("sync {}", root.display()))?;
    }
    Ok(extracted)
}

/// The same as [`extract`] without syncing anything: for a cluster that is thrown away.
pub fn extract_unsynced(
    repository: &Repository,
    backup: &BackupRecord,
    destination: &Destination,
    means: Means<'_>,
) -> anyhow::Result<Extracted> {
    extract_with(repository, backup, destination, None, means)
}

fn extract_with(
    repository: &Repository,
    backup: &BackupRecord,
    destination: &Destination,
    reuse: Option<&Reuse>,
    means: Means<'_>,
) -> anyhow::Result<Extracted> {
    lay_out(backup, destination)?;
    means.progress.begin("extract", Some(backup.plain_bytes));
    let extracted = unpack(repository, backup, destination, reuse, means)?;
    means.progress.end();
    anyhow::ensure!(
        extracted.files == backup.files,
        "the index of {} names {} files, its record {}",
        backup.id,
        extracted.files,
        backup.files
    );
    manifest(repository, backup, &destination.pgdata)?;
    Ok(extracted)
}

/// PostgreSQL's manifest into the data directory, as it goes: it has a line for each file.
fn manifest(repository: &Repository, backup: &BackupRecord, pgdata: &Path) -> anyhow::Result<()> {
    let codec = backup.compression.codec;
    let key = repository.layout().backup_object(backup.id, &backup_object::manifest(codec))?;
    let writing = "write backup_manifest";
    let mut file = TemporaryFile::create_in(pgdata, 0o600).context(writing)?;
    let is_whole = repository.copy_object(&key, codec, &backup.manifest, &mut file)?;
    anyhow::ensure!(is_whole, "{key} is damaged: its contents do not match the backup's record");
    file.replace(&pgdata.join("backup_manifest")).context(writing)
}

/// Makes the top folders and the links from the data directory to those outside it.
fn lay_out(backup: &BackupRecord, destination: &Destination) -> anyhow::Result<()> {
    let mode = backup.source.data_directory_mode & 0o777;
    for root in destination.roots() {
        durable::create_dir_all(root, mode).with_context(|| format!("make {}", root.display()))?;
        set_mode(root, mode)?;
    }
    let tblspc = destination.pgdata.join("pg_tblspc");
    make_directory(&tblspc, mode)?;
    for tablespace in &backup.tablespaces {
        let location = destination.tablespaces.iter().find(|(oid, _)| *oid == tablespace.oid).map(|(_, place)| place);
        let location = location.with_context(|| format!("no place is known for tablespace {}", tablespace.name))?;
        link(location, &tblspc.join(tablespace.oid.to_string()))?;
    }
    if let Some(pg_wal) = &destination.pg_wal {
        link(pg_wal, &destination.pgdata.join("pg_wal"))?;
    }
    Ok(())
}

fn link(target: &Path, name: &Path) -> anyhow::Result<()> {
    faults::call("link", name, || std::os::unix::fs::symlink(target, name))
        .with_context(|| format!("link {} to {}", name.display(), target.display()))
}

/// Makes one directory with exactly this mode; one that is there keeps its contents.
fn make_directory(path: &Path, mode: u32) -> anyhow::Result<()> {
    match faults::call("make", path, || DirBuilder::new().mode(mode).recursive(true).create(path)) {
        Ok(()) => {}
        Err(err) if err.kind() == ErrorKind::AlreadyExists => {}
        Err(err) => return Err(err).with_context(|| format!("make {}", path.display())),
    }
    set_mode(path, mode)
}

fn set_mode(path: &Path, mode: u32) -> anyhow::Result<()> {
    faults::call("set the mode of", path, || std::fs::set_permissions(path, Permissions::from_mode(mode)))
        .with_context(|| format!("set the mode of {}", path.display()))
}

/// The files of one part, in the order of their offsets.
struct Job {
    part: u32,
    files: Vec<FileEntry>,
}

fn unpack(
    repository: &Repository,
    backup: &BackupRecord,
    destination: &Destination,
    reuse: Option<&Reuse>,
    means: Means<'_>,
) -> anyhow::Result<Extracted> {
    let workers = means.jobs.max(1);
    let stop = Cancel::default();
    let total = Mutex::new(Extracted::default());
    let (sender, receiver) = sync_channel::<Job>(1);
    let receiver = Mutex::new(receiver);
    let worker = Worker {
        repository,
        id: backup.id,
        codec: backup.compression.codec,
        parts: &backup.parts,
        destination,
        reuse,
        means,
        stop: &stop,
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(|| worker.work(&receiver, &total))).collect();
        let read = read_jobs(repository, backup, destination, |job| {
            // Sending fails only when every worker has ended, which only an error makes them do.
            sender.send(job).is_ok() && !stop.is_cancelled()
        });
        drop(sender);
        let died = |_| Err(anyhow::anyhow!("an extraction thread died"));
        let ended = threads.into_iter().map(|thread| thread.join().unwrap_or_else(died));
        cause(std::iter::once(read.map(|_finished| ())).chain(ended.collect::<Vec<_>>()))
    })?;
    total.into_inner().map_err(|_| anyhow::anyhow!("an extraction thread died"))
}

/// A worker ends because of what another one met.
#[derive(Debug, thiserror::Error)]
#[error("another part failed")]
struct AnotherFailed;

/// The first failure that is no mere consequence of another.
fn cause(outcomes: impl Iterator<Item = anyhow::Result<()>>) -> anyhow::Result<()> {
    let mut failures: Vec<anyhow::Error> = outcomes.filter_map(Result::err).collect();
    let first = failures.iter().position(|failure| !failure.is::<AnotherFailed>()).unwrap_or_default();
    if failures.is_empty() { Ok(()) } else { Err(failures.swap_remove(first)) }
}

/// Reads the index, makes its directories, and hands over the files part by part; `false` from `hand_over` ends it
/// early. The digest of the whole index is checked before the last part is handed over.
fn read_jobs(
    repository: &Repository,
    backup: &BackupRecord,
    destination: &Destination,
    mut hand_over: impl FnMut(Job) -> bool,
) -> anyhow::Result<()> {
    let mut index = crate::archive::inspect::IndexReader::open(repository, backup)?;
    let mut current: Option<Job> = None;
    for entry in index.entries() {
        match entry? {
            IndexEntry::Directory(directory) => {
                let path = destination.resolve(&directory.path);
                let is_wal_link = destination.pg_wal.is_some() && directory.path.as_bytes() == b"pg_wal";
                if !is_wal_link {
                    make_directory(&path, directory.mode)?;
                }
            }
            IndexEntry::File(file) => match &mut current {
                Some(job) if job.part == file.part => job.files.push(file),
                _ => {
                    let next = Job { part: file.part, files: vec![file] };
                    if current.replace(next).is_some_and(|done| !hand_over(done)) {
                        return Ok(());
                    }
                }
            },
            IndexEntry::Frames(_) => {}
        }
    }
    index.finish()?;
    if let Some(last) = current {
        hand_over(last);
    }
    Ok(())
}

struct Worker<'a> {
    repository: &'a Repository,
    id: BackupId,
    codec: Codec,
    parts: &'a [PartRecord],
    destination: &'a Destination,
    reuse: Option<&'a Reuse>,
    means: Means<'a>,
    stop: &'a Cancel,
}

impl Worker<'_> {
    /// Works until the last job; after an error it takes the rest without a look, so that nobody waits for it.
    fn work(&self, jobs: &Mutex<Receiver<Job>>, total: &Mutex<Extracted>) -> anyhow::Result<()> {
        let mut outcome = Ok(());
        loop {
            let next = jobs.lock().map_err(|_| anyhow::anyhow!("an extraction thread died"))?.recv();
            let Ok(job) = next else { return outcome };
            if self.stop.is_cancelled() {
                continue;
            }
            match self.part(&job) {
                Ok(done) => {
                    let mut total = total.lock().map_err(|_| anyhow::anyhow!("an extraction thread died"))?;
                    total.add(done);
                }
                Err(err) => {
                    self.stop.cancel();
                    outcome = Err(err);
                }
            }
        }
    }

    fn part(&self, job: &Job) -> anyhow::Result<Extracted> {
        let mut buffer = vec![0; CHUNK_BYTES];
        let mut done = Extracted::default();
        let Some(reuse) = self.reuse else {
            let files: Vec<_> = job.files.iter().collect();
            let stored = self.parts.iter().find(|part| part.number == job.part).map_or(0, |part| part.stored_bytes);
            self.fetch(job.part, None, &files, &mut buffer, &mut done)?;
            done.fetched_bytes += stored;
            return Ok(done);
        };
        let mut needed = Vec::new();
        for file in &job.files {
            if self.reuse_file(reuse, file, &mut buffer)? {
                done.files += 1;
                done.bytes += file.size;
                done.reused_files += 1;
                done.reused_bytes += file.size;
            } else {
                needed.push(file);
            }
        }
        for run in reuse::runs(&needed) {
            let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
            let length = last.offset.saturating_add(last.size).saturating_sub(first.offset);
            let range = reuse.frames(job.part).and_then(|table| table.range(first.offset, length));
            let range = range.with_context(|| format!("the index does not say where {} lies", first.path.display()))?;
            self.fetch(job.part, Some((first.offset, range)), &run, &mut buffer, &mut done)?;
            done.fetched_bytes += range.length;
        }
        Ok(done)
    }

    /// Takes a file from the older state, where that has it; otherwise nothing is there.
    fn reuse_file(&self, reuse: &Reuse, entry: &FileEntry, buffer: &mut [u8]) -> anyhow::Result<bool> {
        self.means.cancel.check()?;
        if self.stop.is_cancelled() {
            return Err(AnotherFailed.into());
        }
        let path = self.destination.resolve(&entry.path);
        let Some(file) = reuse.take(entry, &path, buffer, self.means.cancel)? else { return Ok(false) };
        finish_file(&file, &path, entry).with_context(|| format!("write {}", path.display()))?;
        self.means.progress.advance(entry.size);
        Ok(true)
    }

    /// Unpacks these files of a part, in their order: from the whole part, or from a range of its frames in which the
    /// first of them lies at this plain offset.
    fn fetch(
        &self,
        part: u32,
        range: Option<(u64, StoredRange)>,
        files: &[&FileEntry],
        buffer: &mut [u8],
        done: &mut Extracted,
    ) -> anyhow::Result<()> {
        let name = backup_object::part(part, self.codec);
        let key = self.repository.layout().backup_object(self.id, &name)?;
        let damaged = |path: &RelativePath| {
            Advice::failed(format!("{key} is damaged at {}", path.display()))
                .hint(format!("verify backup {} names all damage; recover list shows the other backups", self.id))
        };
        let failed = |path: &RelativePath, failure: Failure| match failure {
            Failure::OfPart(err) => err.context(damaged(path)),
            Failure::Here(err) => err,
        };
        let store = self.repository.store();
        let (stored, mut position) = match range {
            None => (store.get(&key), 0),
            Some((offset, range)) => {
                (store.get_range(&key, range.offset, range.length), offset.saturating_sub(range.skip))
            }
        };
        let mut source = decoder(self.codec, stored?).with_context(|| format!("read {key}"))?;
        for file in files {
            let ahead = file.offset.checked_sub(position).with_context(|| damaged(&file.path))?;
            skip(&mut source, ahead).with_context(|| damaged(&file.path))?;
            self.file(file, &mut source, buffer).map_err(|failure| failed(&file.path, failure))?;
            position = file.offset.saturating_add(file.size);
            done.files += 1;
            done.bytes += file.size;
        }
        Ok(())
    }

    fn file(&self, entry: &FileEntry, source: &mut impl Read, buffer: &mut [u8]) -> Result<(), Failure> {
        let path = self.destination.resolve(&entry.path);
        let here =
            |err: std::io::Error| Failure::Here(anyhow::Error::new(err).context(format!("write {}", path.display())));
        let damaged = |what: &str| Failure::OfPart(anyhow::anyhow!("{what}"));
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(entry.mode);
        let file = match faults::call("make", &path, || options.open(&path)) {
            // Nothing was there: it is the index that names it twice, or names a file below a file.
            Err(err) if err.kind() == ErrorKind::AlreadyExists => return Err(damaged("the index names it twice")),
            Err(err) if err.kind() == ErrorKind::NotADirectory => return Err(damaged("it lies below a file")),
            opened => opened.map_err(here)?,
        };
        let mut sink = HashingWriter::new(&file);
        let mut writeback = Writeback::default();
        let mut left = entry.size;
        while left > 0 {
            self.means.cancel.check().map_err(|err| Failure::Here(err.into()))?;
            if self.stop.is_cancelled() {
                return Err(Failure::Here(AnotherFailed.into()));
            }
            let limit = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let count = read_full(source, buffer.get_mut(..limit).unwrap_or_default())
                .map_err(|err| Failure::OfPart(err.into()))?;
            let chunk = buffer.get(..count).unwrap_or_default();
            if chunk.is_empty() {
                return Err(damaged("the part ends in the middle of a file"));
            }
            faults::write(&path, chunk, |bytes| sink.write_all(bytes)).map_err(here)?;
            writeback.advance(&file, count as u64);
            left -= count as u64;
            self.means.progress.advance(count as u64);
        }
        let (_, _, digest) = sink.finish();
        if digest != entry.sha256 {
            return Err(damaged("the contents do not match their digest"));
        }
        match finish_file(&file, &path, entry) {
            Err(err) if err.kind() == ErrorKind::InvalidData => Err(damaged("no clock shows its time")),
            finished => finished.map_err(here),
        }
    }
}

/// Sets the permissions and the time of a file that is whole; [`ErrorKind::InvalidData`] for a time that no clock shows.
fn finish_file(file: &File, path: &Path, entry: &FileEntry) -> std::io::Result<()> {
    let modified = UNIX_EPOCH.checked_add(Duration::from_secs(entry.modified)).ok_or(ErrorKind::InvalidData)?;
    faults::call("set the mode of", path, || {
        file.set_permissions(Permissions::from_mode(entry.mode)).and_then(|()| file.set_modified(modified))
    })
}

/// Why a file could not be unpacked.
enum Failure {
    /// What was read is wrong, or could not be read.
    OfPart(anyhow::Error),
    /// What was read could not be written, or there was a reason to stop. Says nothing about the part.
    Here(anyhow::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_that_follows_another_hides_it_never() {
        let followed = || Err(AnotherFailed.into());
        let damaged = || Err(anyhow::anyhow!("contents").context(Advice::failed("part-00001 is damaged")));
        let told = |outcomes: Vec<anyhow::Result<()>>| cause(outcomes.into_iter()).map_err(|err| err.to_string());
        let is_told = Err("part-00001 is damaged".to_owned());
        assert_eq!(told(vec![Ok(()), followed(), damaged()]), is_told);
        assert_eq!(told(vec![Ok(()), damaged(), followed()]), is_told);
        assert_eq!(told(vec![followed(), Ok(())]), Err("another part failed".to_owned()));
        assert_eq!(told(vec![Ok(()), Ok(())]), Ok(()));
    }
}
