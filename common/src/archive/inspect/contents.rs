//! Every byte of a backup's objects: the index is streamed, and each part is decompressed once while it goes by.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use anyhow::Context as _;
use tar::{EntryType, Header};

use crate::archive::Repository;
use crate::codec::{Codec, Sha256Stream, decoder};
use crate::repo::index::{FileEntry, IndexEntry};
use crate::repo::layout::backup_object;
use crate::repo::part::{FRAME_BYTES, FrameTable, TAR_BLOCK, TAR_NAME_MAX};
use crate::repo::records::{BackupRecord, PartRecord};
use crate::report::{Cancel, Interrupted, Progress};
use crate::store::Key;

use super::files::{self, Feed, Files};
use super::manifest::{Expected, Rebuilt, check_object};
use super::{CHUNK_BYTES, Finding, IndexReader, Kind, Limited};

/// What is inspected, and how.
#[derive(Clone, Copy)]
pub(super) struct Means<'a> {
    pub(super) repository: &'a Repository,
    pub(super) record: &'a BackupRecord,
    /// Keys of objects that are not there: known already.
    pub(super) absent: &'a BTreeSet<String>,
    pub(super) jobs: usize,
    pub(super) progress: &'a dyn Progress,
    pub(super) cancel: &'a Cancel,
}

impl Means<'_> {
    fn key(&self, name: &str) -> anyhow::Result<Key> {
        Ok(self.repository.layout().backup_object(self.record.id, name)?)
    }

    fn codec(&self) -> Codec {
        self.record.compression.codec
    }

    fn is_absent(&self, key: &Key) -> bool {
        self.absent.contains(key.as_str())
    }
}

/// A part and its files.
struct Job<'a> {
    part: &'a PartRecord,
    files: Files,
}

/// Reads all there is.
pub(super) fn check(means: Means<'_>) -> anyhow::Result<Vec<Finding>> {
    let total = means.record.parts.iter().fold(0_u64, |total, part| total.saturating_add(part.plain_bytes));
    means.progress.begin(&format!("verify {}", means.record.id), Some(total));
    let mut findings = config(means)?;
    let (manifest_is_known, wrong) = manifest(means)?;
    findings.extend(wrong);
    findings.extend(index_and_parts(means, manifest_is_known)?);
    means.progress.end();
    Ok(findings)
}

fn config(means: Means<'_>) -> anyhow::Result<Vec<Finding>> {
    let Some(record) = means.record.config else { return Ok(Vec::new()) };
    let key = means.key(&backup_object::config(means.codec()))?;
    if means.is_absent(&key) {
        return Ok(Vec::new());
    }
    let wrong = check_object(means.repository, &key, means.codec(), &record, &mut std::io::sink())?;
    Ok(wrong.into_iter().collect())
}

/// Whether the manifest's bytes are those that were written: then the index can be held against them.
fn manifest(means: Means<'_>) -> anyhow::Result<(bool, Vec<Finding>)> {
    let key = means.key(&backup_object::manifest(means.codec()))?;
    if means.is_absent(&key) {
        return Ok((false, Vec::new()));
    }
    let wrong = check_object(means.repository, &key, means.codec(), &means.record.manifest, &mut std::io::sink())?;
    Ok((wrong.is_none(), wrong.into_iter().collect()))
}

/// What the manifest says otherwise than the index, both read once more.
fn differences(means: Means<'_>) -> anyhow::Result<Vec<Finding>> {
    let key = means.key(&backup_object::manifest(means.codec()))?;
    let mut findings = Limited::new(key.as_str());
    let mut bytes = Vec::new();
    if let Some(finding) = check_object(means.repository, &key, means.codec(), &means.record.manifest, &mut bytes)? {
        return Ok(vec![finding]);
    }
    let Some(mut expected) = Expected::new(&bytes, means.record.source.system_identifier, &mut findings) else {
        return Ok(findings.finish());
    };
    drop(bytes);
    for entry in IndexReader::open(means.repository, means.record)?.entries() {
        means.cancel.check()?;
        if let IndexEntry::File(file) = entry? {
            expected.compare(&file, &mut findings);
        }
    }
    expected.finish(&mut findings);
    Ok(findings.finish())
}

/// Streams the index and hands its files, part by part, to the workers.
fn index_and_parts(means: Means<'_>, manifest_is_known: bool) -> anyhow::Result<Vec<Finding>> {
    let stop = Cancel::default();
    let found = Mutex::new(Vec::new());
    let (sender, receiver) = sync_channel::<Job<'_>>(1);
    let receiver = Mutex::new(receiver);
    std::thread::scope(|scope| {
        let work = || work(means, &receiver, &found, &stop);
        let threads: Vec<_> = (0..means.jobs.max(1)).map(|_| scope.spawn(work)).collect();
        let sender = Jobs { sender, stop: &stop };
        let mut outcome = read_index(means, manifest_is_known, &sender).map(|findings| {
            if let Ok(mut found) = found.lock() {
                found.extend(findings);
            }
        });
        if outcome.is_err() {
            stop.cancel();
        }
        drop(sender);
        for thread in threads {
            let ended = thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a thread of the inspection died")));
            // Whoever was only stopped has less to say than whoever made the others stop.
            outcome = match (outcome, ended) {
                (Err(first), Err(other)) if first.is::<Interrupted>() => Err(other),
                (outcome, ended) => outcome.and(ended),
            };
        }
        outcome
    })?;
    found.into_inner().map_err(|_| anyhow::anyhow!("a thread of the inspection died"))
}

/// The index on its way past everything that must agree with it.
struct Reading<'a, 'k> {
    means: Means<'a>,
    parts: BTreeMap<u32, &'a PartRecord>,
    /// The parts that no worker has got yet.
    left: BTreeSet<u32>,
    manifest: Option<Rebuilt>,
    of_index: Limited<'k>,
    files: u64,
    bytes: u64,
}

impl<'a> Reading<'a, '_> {
    /// Takes in the whole index; answers its frame tables, by part.
    fn stream(&mut self, jobs: &Jobs<'a, '_>) -> anyhow::Result<BTreeMap<u32, FrameTable>> {
        let mut index = IndexReader::open(self.means.repository, self.means.record)?;
        let mut tables = BTreeMap::new();
        let mut current = None;
        for entry in index.entries() {
            match entry? {
                IndexEntry::Directory(_) => {}
                IndexEntry::File(file) => current = self.file(file, current, jobs)?,
                IndexEntry::Frames(table) => self.table(table, &mut tables),
            }
        }
        // Every line could be read, and yet they are not the ones that were written.
        let differs = "its contents do not match the backup's record";
        index.finish().map_err(|_| std::io::Error::new(std::io::ErrorKind::InvalidData, differs))?;
        Ok(tables)
    }

    /// Keeps a frame table that can be that of a part, one for each.
    fn table(&mut self, table: FrameTable, tables: &mut BTreeMap<u32, FrameTable>) {
        let number = table.part;
        let fits = self.parts.get(&number).is_some_and(|part| {
            table.plain_bytes == part.plain_bytes
                && table.frames.len() as u64 == table.plain_bytes.div_ceil(FRAME_BYTES as u64)
                && table.stored_bytes() + tail_bytes(self.means.codec(), &table) == part.stored_bytes
        });
        if !fits {
            self.of_index.add(Kind::Mismatch, format!("the frame table of part {number} does not fit its record"));
        } else if tables.insert(number, table).is_some() {
            self.of_index.add(Kind::Mismatch, format!("it has two frame tables for part {number}"));
        }
    }

    /// Hands a file to the worker of its part; the first one of a part hands the part out.
    fn file(
        &mut self,
        file: FileEntry,
        current: Option<(u32, Feed)>,
        jobs: &Jobs<'a, '_>,
    ) -> anyhow::Result<Option<(u32, Feed)>> {
        self.means.cancel.check()?;
        self.files += 1;
        self.bytes = self.bytes.saturating_add(file.size);
        if let Some(manifest) = &mut self.manifest {
            manifest.add(&file)?;
        }
        let mut feed = match current {
            Some((part, feed)) if part == file.part => feed,
            before => {
                // Its worker has got all files, and may be the one that is waited for.
                drop(before);
                let Some(part) = self.parts.get(&file.part) else {
                    let what = format!("{} lies in part {}, which the record lacks", file.path.display(), file.part);
                    self.of_index.add(Kind::Mismatch, what);
                    return Ok(None);
                };
                self.left.remove(&file.part);
                let (feed, files) = files::ahead(self.means.jobs);
                jobs.send(Job { part, files })?;
                feed
            }
        };
        let part = file.part;
        feed.push(file);
        Ok(Some((part, feed)))
    }

    fn compare_totals(&mut self) {
        let record = self.means.record;
        if (self.files, self.bytes) != (record.files, record.plain_bytes) {
            let what = format!(
                "it names {} files of {} bytes, the backup's record {} of {}",
                self.files, self.bytes, record.files, record.plain_bytes
            );
            self.of_index.add(Kind::Mismatch, what);
        }
    }
}

/// Reads the index: its files make a manifest and go to the workers, its frame tables are kept. Parts
/// that it does not name, or all of them when it cannot be read, are read without knowing their files.
fn read_index<'a>(means: Means<'a>, manifest_is_known: bool, jobs: &Jobs<'a, '_>) -> anyhow::Result<Vec<Finding>> {
    let key = means.key(&backup_object::index(means.codec()))?;
    let parts: BTreeMap<u32, &PartRecord> = means.record.parts.iter().map(|part| (part.number, part)).collect();
    let left = parts.keys().copied().collect();
    let manifest = if manifest_is_known { Some(Rebuilt::begin(means.record)?) } else { None };
    let mut reading =
        Reading { means, parts, left, manifest, of_index: Limited::new(key.as_str()), files: 0, bytes: 0 };
    let mut findings = Vec::new();
    if !means.is_absent(&key) {
        match reading.stream(jobs) {
            Ok(tables) => {
                reading.compare_totals();
                findings.extend(check_tables(means, &tables, &mut reading.of_index)?);
                if let Some(manifest) = reading.manifest.take()
                    && !manifest.matches(means.record)?
                {
                    findings.extend(differences(means)?);
                }
            }
            Err(err) => {
                // What the manifest lists beyond the damage is no news.
                let finding = Finding::of_reading(&key, err)?;
                reading.of_index.add(finding.kind, finding.what);
            }
        }
    }
    for number in std::mem::take(&mut reading.left) {
        if let Some(part) = reading.parts.get(&number) {
            jobs.send(Job { part, files: files::none() })?;
        }
    }
    findings.extend(reading.of_index.finish());
    Ok(findings)
}

/// The way to the workers.
struct Jobs<'a, 's> {
    sender: SyncSender<Job<'a>>,
    stop: &'s Cancel,
}

impl<'a> Jobs<'a, '_> {
    /// Hands a job over; waits while all workers are busy. [`Interrupted`] once one of them has failed.
    fn send(&self, job: Job<'a>) -> Result<(), Interrupted> {
        self.stop.check()?;
        self.sender.send(job).map_err(|_| Interrupted)
    }
}

/// The length of the seek table that follows a part's frames.
fn tail_bytes(codec: Codec, table: &FrameTable) -> u64 {
    if codec == Codec::Zstd { table.frames.len() as u64 * 8 + 17 } else { 0 }
}

/// Whether each part has a frame table, and each Zstandard part's own seek table, for stock tools, says the same.
fn check_tables(
    means: Means<'_>,
    tables: &BTreeMap<u32, FrameTable>,
    of_index: &mut Limited<'_>,
) -> anyhow::Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for part in &means.record.parts {
        let Some(table) = tables.get(&part.number) else {
            of_index.add(Kind::Mismatch, format!("it has no frame table for part {} that fits it", part.number));
            continue;
        };
        let tail = tail_bytes(means.codec(), table);
        let key = means.key(&backup_object::part(part.number, means.codec()))?;
        if tail > 0 && !means.is_absent(&key) {
            let mut bytes = Vec::new();
            let read = means.repository.store().get_range(&key, table.stored_bytes(), tail);
            match read.map_err(anyhow::Error::from).and_then(|mut source| Ok(source.read_to_end(&mut bytes)?)) {
                Ok(_) if is_seek_table(&bytes, table) => {}
                Ok(_) => findings.push(Finding::new(Kind::Damaged, &key, "its seek table is not that of its frames")),
                Err(err) => findings.push(Finding::of_reading(&key, err)?),
            }
        }
    }
    Ok(findings)
}

/// Whether these bytes are the seek table of exactly these frames: Zstandard Seekable Format 0.1.0
/// (`contrib/seekable_format` of Zstandard), without checksums.
fn is_seek_table(bytes: &[u8], table: &FrameTable) -> bool {
    let count = table.frames.len() as u64;
    let mut left = table.plain_bytes;
    let entries = table.frames.iter().flat_map(|&stored| {
        let plain = left.min(FRAME_BYTES as u64);
        left -= plain;
        [u64::from(stored), plain]
    });
    let words = [0x184D_2A5E, count * 8 + 9].into_iter().chain(entries).chain([count]);
    let word = |word: u64| u32::try_from(word).unwrap_or(u32::MAX).to_le_bytes();
    let end = std::iter::once(0).chain(0x8F92_EAB1_u32.to_le_bytes());
    words.flat_map(word).chain(end).eq(bytes.iter().copied())
}

/// A worker. After an error, its own or another's, it takes the jobs that still come and lets them be: the thread that
/// reads the index must never wait for a worker that has ended.
fn work(
    means: Means<'_>,
    jobs: &Mutex<Receiver<Job<'_>>>,
    found: &Mutex<Vec<Finding>>,
    stop: &Cancel,
) -> anyhow::Result<()> {
    let died = || anyhow::anyhow!("a thread of the inspection died");
    let mut outcome = Ok(());
    loop {
        let next = jobs.lock().map_err(|_| died())?.recv();
        let Ok(job) = next else { return outcome };
        if stop.is_cancelled() {
            continue;
        }
        match check_part(means, job, stop) {
            Ok(findings) => found.lock().map_err(|_| died())?.extend(findings),
            Err(err) => {
                stop.cancel();
                outcome = Err(err);
            }
        }
    }
}

fn check_part(means: Means<'_>, job: Job<'_>, stop: &Cancel) -> anyhow::Result<Vec<Finding>> {
    let Job { part, mut files } = job;
    let key = means.key(&backup_object::part(part.number, means.codec()))?;
    if means.is_absent(&key) {
        return Ok(Vec::new());
    }
    let mut findings = Limited::new(key.as_str());
    if let Err(err) = read_part(means, &key, part, &mut files, stop, &mut findings) {
        let finding = Finding::of_reading(&key, err)?;
        let unread = files.rest().map_or_else(String::new, |rest| {
            format!("; {} of its {} files could not be checked, from {} on", rest.count, rest.all, rest.first)
        });
        findings.add(finding.kind, format!("{}{unread}", finding.what));
    }
    Ok(findings.finish())
}

/// Decompresses a part from its first byte to its last. After an error the files that could not be read are left.
fn read_part(
    means: Means<'_>,
    key: &Key,
    record: &PartRecord,
    files: &mut Files,
    stop: &Cancel,
    findings: &mut Limited<'_>,
) -> anyhow::Result<()> {
    let reading = || format!("read {key}");
    let stored = means.repository.store().get(key)?;
    let source = decoder(means.codec(), stored).with_context(reading)?;
    let mut part = Plain { source, buffer: vec![0; CHUNK_BYTES], position: 0, means, stop };
    while let Some(file) = files.current() {
        check_file(&mut part, file, record, findings).with_context(reading)?;
        files.advance();
    }
    part.pass_all(record.plain_bytes).with_context(reading)?;
    match part.position.cmp(&record.plain_bytes) {
        Ordering::Equal => {}
        Ordering::Less => {
            let what = format!("it unpacks to {} bytes, the record says {}", part.position, record.plain_bytes);
            findings.add(Kind::Damaged, what);
        }
        Ordering::Greater => {
            let what = format!("it unpacks to more than the {} bytes that the record says", record.plain_bytes);
            findings.add(Kind::Damaged, what);
        }
    }
    Ok(())
}

/// Reads a file of a part, and what lies before it.
fn check_file(
    part: &mut Plain<'_>,
    file: &FileEntry,
    record: &PartRecord,
    findings: &mut Limited<'_>,
) -> anyhow::Result<()> {
    if file.offset.checked_add(file.size).is_none_or(|end| end > record.plain_bytes) {
        findings.add(Kind::Mismatch, format!("{} ends beyond it, as the index says", file.path.display()));
        return Ok(());
    }
    let Some(ahead) = file.offset.checked_sub(part.position) else {
        findings.add(Kind::Mismatch, format!("{} begins within another file of the index", file.path.display()));
        return Ok(());
    };
    let mut header = Vec::new();
    part.pass(ahead, |chunk| keep_last_block(&mut header, chunk))?;
    if !is_header_of(&header, file) {
        findings.add(Kind::Mismatch, format!("its tar header is not that of {}", file.path.display()));
    }
    let mut digest = Sha256Stream::new();
    part.pass(file.size, |chunk| digest.update(chunk))?;
    if digest.finish() != file.sha256 {
        findings.add(Kind::Damaged, format!("{} does not have its SHA-256", file.path.display()));
    }
    Ok(())
}

/// Keeps the last tar block of what went by.
fn keep_last_block(block: &mut Vec<u8>, chunk: &[u8]) {
    let rest = chunk.len().saturating_sub(TAR_BLOCK);
    block.extend_from_slice(chunk.get(rest..).unwrap_or_default());
    block.drain(..block.len().saturating_sub(TAR_BLOCK));
}

/// Whether stock tools would unpack this file from these bytes as the index does. Of a long name only the beginning is
/// here.
fn is_header_of(block: &[u8], file: &FileEntry) -> bool {
    let Ok(block) = <&[u8; TAR_BLOCK]>::try_from(block) else { return false };
    let header = Header::from_byte_slice(block);
    let mut summed = header.clone();
    summed.set_cksum();
    let path = file.path.as_bytes();
    header.entry_type() == EntryType::Regular
        && header.cksum().ok() == summed.cksum().ok()
        && header.entry_size().is_ok_and(|size| size == file.size)
        && Some(&*header.path_bytes()) == path.get(..path.len().min(TAR_NAME_MAX))
}

/// The plain bytes of a part.
struct Plain<'a> {
    source: Box<dyn Read + Send>,
    buffer: Vec<u8>,
    position: u64,
    means: Means<'a>,
    stop: &'a Cancel,
}

impl Plain<'_> {
    /// Shows the next `count` bytes to `see`; an error when there are fewer.
    fn pass(&mut self, count: u64, mut see: impl FnMut(&[u8])) -> anyhow::Result<()> {
        let mut left = count;
        while left > 0 {
            let read = self.read(left, &mut see)?;
            if read == 0 {
                return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
            }
            left -= read;
        }
        Ok(())
    }

    /// Reads to the end, which proves that the stored bytes are whole, or just beyond `size_max` bytes of the part:
    /// what comes then may have no end.
    fn pass_all(&mut self, size_max: u64) -> anyhow::Result<()> {
        while self.position <= size_max && self.read(u64::MAX, &mut |_| {})? > 0 {}
        Ok(())
    }

    fn read(&mut self, count_max: u64, see: &mut impl FnMut(&[u8])) -> anyhow::Result<u64> {
        self.means.cancel.check()?;
        self.stop.check()?;
        let limit = self.buffer.len().min(usize::try_from(count_max).unwrap_or(usize::MAX));
        let place = self.buffer.get_mut(..limit).unwrap_or_default();
        let count = loop {
            match self.source.read(place) {
                Err(err) if err.kind() == std::io::ErrorKind::Interrupted => {}
                result => break result?,
            }
        };
        see(self.buffer.get(..count).unwrap_or_default());
        self.position += count as u64;
        self.means.progress.advance(count as u64);
        Ok(count as u64)
    }
}
