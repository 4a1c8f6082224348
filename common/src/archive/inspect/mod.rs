//! Proves that a backup can be restored: every object is there, every byte is what was written.
//!
//! What is wrong is a value, a [`Finding`], and the inspection goes on: whoever has to repair a repository wants the
//! whole list. An error is returned only when nothing can be said at all (the repository does not answer, the work is
//! interrupted). Nothing is written.

mod contents;
mod files;
mod index_reader;
mod manifest;
mod objects;
mod wal;

#[cfg(test)]
mod tests;

use std::io;

use anyhow::Context as _;
use serde::Serialize;

use crate::repo::BackupId;
use crate::repo::envelope::RecordError;
use crate::repo::index::IndexEntry;
use crate::repo::layout::backup_object;
use crate::repo::records::BackupRecord;
use crate::report::{Advice, Cancel, Interrupted, Progress, message_of};
use crate::store::StoreError;

use super::{Repository, backups};

pub use index_reader::IndexReader;
pub use wal::{wal, wal_along};

/// How much is decompressed and checked at a time.
const CHUNK_BYTES: usize = 256 << 10;

/// How many findings one object gets; the rest of them are counted in one more.
const FINDINGS_PER_OBJECT_MAX: usize = 100;

/// How deep an inspection looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Depth {
    /// Records, names and sizes; reads no contents.
    Quick,
    /// Every byte.
    Standard,
}

/// What is wrong with an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The commit record cannot be read, or it is another backup's.
    Record,
    /// The object is not there.
    Missing,
    /// The object's stored size is not the recorded one.
    Size,
    /// The contents are not those that were written.
    Damaged,
    /// The store did not give the contents out; they may be good.
    Unreadable,
    /// Two documents of the backup contradict each other.
    Mismatch,
    /// Page checksums were wrong when the backup was taken.
    BadPages,
    /// WAL that the backup needs is not there.
    WalMissing,
    /// A WAL file is there and is not what it should be.
    WalDamaged,
}

impl Kind {
    /// As it stands in tables and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Record => "record",
            Self::Missing => "missing",
            Self::Size => "size",
            Self::Damaged => "damaged",
            Self::Unreadable => "unreadable",
            Self::Mismatch => "mismatch",
            Self::BadPages => "bad-pages",
            Self::WalMissing => "wal-missing",
            Self::WalDamaged => "wal-damaged",
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What sort of thing.
    pub kind: Kind,
    /// The object's key in the repository; for missing WAL the name of the segment, or `FIRST to LAST`.
    pub object: String,
    /// What is wrong with it, for people.
    pub what: String,
}

impl Finding {
    fn new(kind: Kind, object: &(impl ToString + ?Sized), what: impl Into<String>) -> Self {
        Self { kind, object: object.to_string(), what: what.into() }
    }

    /// What a failure to read an object says of it. An error when it says nothing of this object: the work was
    /// interrupted, or the whole repository is gone.
    fn of_reading(object: &(impl ToString + ?Sized), err: anyhow::Error) -> anyhow::Result<Self> {
        match (err.downcast_ref::<StoreError>(), err.downcast_ref::<io::Error>()) {
            _ if err.is::<Interrupted>() => Err(err),
            (Some(StoreError::NoRoot(_)), _) => Err(err),
            (Some(StoreError::NotFound(_)), _) => Ok(Self::new(Kind::Missing, object, "it is not there")),
            (_, Some(io)) if matches!(io.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) => {
                Ok(Self::new(Kind::Damaged, object, io.to_string()))
            }
            _ => Ok(Self::new(Kind::Unreadable, object, message_of(&err))),
        }
    }
}

/// The commit record of a backup, or what is wrong with it.
///
/// An error when there is no such backup, or when the repository does not answer.
pub fn record(repository: &Repository, id: BackupId) -> anyhow::Result<Result<BackupRecord, Finding>> {
    let key = repository.layout().backup_object(id, backup_object::COMMIT)?;
    repository.store().stat(&key).with_context(|| format!("look for {id}"))?;
    match backups::load(repository, id) {
        Ok(record) => Ok(Ok(record)),
        Err(err) if err.is::<RecordError>() => Ok(Err(Finding::new(Kind::Record, &key, message_of(&err)))),
        // There is no such backup.
        Err(err) if err.is::<Advice>() => Err(err),
        Err(err) if err.is::<StoreError>() || err.is::<io::Error>() => Finding::of_reading(&key, err).map(Err),
        Err(err) => Ok(Err(Finding::new(Kind::Record, &key, message_of(&err)))),
    }
}

/// Inspects the objects of one backup; its WAL is [`wal()`]'s business.
///
/// `Quick`: every object that the record names is there and has the recorded size. `Standard`: besides, the index has
/// its digest, every object its stored bytes, every file the size and digest of the index, every part its length and seek table, the manifest its
/// digest and its own checksum and exactly the files of the index, the configuration its digest. `jobs` parts are read
/// at once (at least one). Of each file eight bytes are kept; only a manifest that does not agree with the index is read
/// as a whole. The findings are in the order of the objects' keys.
pub fn backup(
    repository: &Repository,
    record: &BackupRecord,
    depth: Depth,
    jobs: usize,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> anyhow::Result<Vec<Finding>> {
    let mut findings = objects::check(repository, record)?;
    findings.extend(bad_pages(repository, record)?);
    if depth == Depth::Standard {
        let absent = objects::absent(&findings);
        let means = contents::Means { repository, record, absent: &absent, jobs, progress, cancel };
        findings.extend(contents::check(means)?);
        findings.extend(objects::stored(repository, record, &findings, cancel)?);
    }
    findings.sort_by(|a, b| a.object.cmp(&b.object));
    Ok(findings)
}

/// Reads what a restore needs besides the parts, the manifest and the index; answers the first thing for which it would
/// fail: one of them is not the one that was written, or the index names a file that lies in no part.
pub fn documents(repository: &Repository, record: &BackupRecord, cancel: &Cancel) -> anyhow::Result<Option<Finding>> {
    let codec = record.compression.codec;
    let key = repository.layout().backup_object(record.id, &backup_object::manifest(codec))?;
    match manifest::check_object(repository, &key, codec, &record.manifest, &mut io::sink())? {
        None => index(repository, record, cancel),
        Some(finding) => Ok(Some(finding)),
    }
}

fn index(repository: &Repository, record: &BackupRecord, cancel: &Cancel) -> anyhow::Result<Option<Finding>> {
    let key = repository.layout().backup_object(record.id, &backup_object::index(record.compression.codec))?;
    let read = || -> anyhow::Result<Option<String>> {
        let mut index = IndexReader::open(repository, record)?;
        let (mut files, mut misplaced) = (0_u64, None);
        for entry in index.entries() {
            let IndexEntry::File(file) = entry? else { continue };
            cancel.check()?;
            files += 1;
            let place = file.part.checked_sub(1).and_then(|place| usize::try_from(place).ok());
            // Parts are numbered from 1 on.
            let part = place.and_then(|place| record.parts.get(place)).filter(|part| part.number == file.part);
            let end = file.offset.saturating_add(file.size);
            if misplaced.is_none() && part.is_none_or(|part| end > part.plain_bytes) {
                misplaced = Some(format!("{} does not lie in part {}", file.path.display(), file.part));
            }
        }
        index.finish()?;
        let lacking = || format!("it names {files} files, the backup's record {}", record.files);
        Ok(misplaced.or_else(|| (files != record.files).then(lacking)))
    };
    match read() {
        Ok(wrong) => Ok(wrong.map(|what| Finding::new(Kind::Mismatch, &key, what))),
        Err(err) => Finding::of_reading(&key, err).map(Some),
    }
}

fn bad_pages(repository: &Repository, record: &BackupRecord) -> anyhow::Result<Option<Finding>> {
    if record.damaged_page_count == 0 {
        return Ok(None);
    }
    let key = repository.layout().backup_object(record.id, backup_object::COMMIT)?;
    let first = record.damaged_pages.first();
    let first = first.map(|page| format!(", the first is block {} of {}", page.block, page.path)).unwrap_or_default();
    let what = format!(
        "the checksums of {} pages were wrong when the backup was taken{first}; the damage is the server's",
        record.damaged_page_count
    );
    Ok(Some(Finding::new(Kind::BadPages, &key, what)))
}

/// Adds a finding unless the object has enough of them.
struct Limited<'a> {
    object: &'a str,
    findings: Vec<Finding>,
    left_out: usize,
}

impl<'a> Limited<'a> {
    fn new(object: &'a str) -> Self {
        Self { object, findings: Vec::new(), left_out: 0 }
    }

    fn add(&mut self, kind: Kind, what: impl Into<String>) {
        if self.findings.len() < FINDINGS_PER_OBJECT_MAX {
            self.findings.push(Finding::new(kind, self.object, what));
        } else {
            self.left_out += 1;
        }
    }

    fn finish(mut self) -> Vec<Finding> {
        if self.left_out > 0 {
            let what = format!("{} more of the same sort", self.left_out);
            let kind = self.findings.last().map_or(Kind::Damaged, |last| last.kind);
            self.findings.push(Finding::new(kind, self.object, what));
        }
        self.findings
    }
}
