//! PostgreSQL's manifest against the index: the same files, sizes and digests.

use std::collections::HashMap;
use std::io::Write;

use crate::archive::Repository;
use crate::codec::{Codec, Digest};
use crate::pg::SystemIdentifier;
use crate::pg::manifest::{ChecksumAlgorithm, Manifest, ManifestEntry};
use crate::repo::index::FileEntry;
use crate::repo::records::ObjectRecord;
use crate::store::Key;

use super::{Finding, Kind, Limited};

/// What stock `pg_verifybackup` does not ask a manifest about either (`src/bin/pg_verifybackup/pg_verifybackup.c`).
const UNLISTED: [&[u8]; 4] = [b"backup_manifest", b"postgresql.auto.conf", b"recovery.signal", b"standby.signal"];

/// The manifest's files that the index has not named yet.
pub(super) struct Expected(HashMap<Vec<u8>, Said>);

struct Said {
    size: u64,
    sha256: Option<Digest>,
}

impl Expected {
    /// The files of this manifest. A finding when it belongs to another cluster, or when a file has no SHA-256.
    pub(super) fn new(bytes: &[u8], system: SystemIdentifier, findings: &mut Limited<'_>) -> Option<Self> {
        let manifest = match Manifest::parse(bytes) {
            Ok(manifest) => manifest,
            Err(err) => {
                findings.add(Kind::Damaged, format!("{:#}", anyhow::Error::new(err)));
                return None;
            }
        };
        if let Some(other) = manifest.system_identifier.filter(|found| *found != system) {
            findings.add(Kind::Mismatch, format!("it is of system {other}, the backup of system {system}"));
        }
        let said = |entry: ManifestEntry| {
            let sha256 = sha256_of(&entry);
            if sha256.is_none() {
                findings.add(Kind::Mismatch, format!("{} has no SHA-256 in it", display(&entry.path)));
            }
            (entry.path, Said { size: entry.size, sha256 })
        };
        Some(Self(manifest.files.into_iter().map(said).collect()))
    }

    /// Compares a file of the index, once.
    pub(super) fn compare(&mut self, file: &FileEntry, findings: &mut Limited<'_>) {
        let path = file.path.as_bytes();
        match self.0.remove(path) {
            None if UNLISTED.contains(&path) || path.starts_with(b"pg_wal/") => {}
            None => findings.add(Kind::Mismatch, format!("{} is in the index alone", file.path.display())),
            Some(said) if said.size != file.size => {
                let what = format!("{} has {} bytes in it, {} in the index", file.path.display(), said.size, file.size);
                findings.add(Kind::Mismatch, what);
            }
            Some(said) if said.sha256.is_some_and(|digest| digest != file.sha256) => {
                findings.add(Kind::Mismatch, format!("{} has another SHA-256 in the index", file.path.display()));
            }
            Some(_) => {}
        }
    }

    /// What the whole index did not name.
    pub(super) fn finish(self, findings: &mut Limited<'_>) {
        let mut left: Vec<Vec<u8>> = self.0.into_keys().collect();
        left.sort_unstable();
        for path in left {
            findings.add(Kind::Mismatch, format!("{} is in it and not in the index", display(&path)));
        }
    }
}

fn sha256_of(entry: &ManifestEntry) -> Option<Digest> {
    let (algorithm, bytes) = &entry.checksum;
    if *algorithm == ChecksumAlgorithm::Sha256 { hex::encode(bytes).parse().ok() } else { None }
}

fn display(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

/// Writes a small object's plain bytes to `sink` and compares them with its record; what is wrong is a finding.
pub(super) fn check_object(
    repository: &Repository,
    key: &Key,
    codec: Codec,
    record: &ObjectRecord,
    sink: &mut dyn Write,
) -> anyhow::Result<Option<Finding>> {
    match repository.copy_object(key, codec, record, sink) {
        Err(err) => Finding::of_reading(key, err).map(Some),
        Ok(true) => Ok(None),
        Ok(false) => Ok(Some(Finding::new(Kind::Damaged, key, "its contents do not match the backup's record"))),
    }
}
