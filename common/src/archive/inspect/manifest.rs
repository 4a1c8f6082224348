//! PostgreSQL's manifest against the index: the same files, sizes and digests.
//!
//! A manifest that is, byte for byte, the one that the index makes is right, and nobody has to keep a list of files for
//! that. Where it is another one, both are read once more, the manifest as a whole, to say what differs.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{self, BufWriter, Sink, Write};

use crate::archive::Repository;
use crate::codec::{Codec, Digest, HashingWriter};
use crate::pg::SystemIdentifier;
use crate::pg::manifest::{ChecksumAlgorithm, Manifest, ManifestEntry};
use crate::repo::index::FileEntry;
use crate::repo::listing::ManifestOfIndex;
use crate::repo::records::{BackupRecord, ObjectRecord};
use crate::store::Key;

use super::{Finding, Kind, Limited};

/// The manifest that the index makes, on its way.
pub(super) struct Rebuilt {
    manifest: ManifestOfIndex<BufWriter<HashingWriter<Sink>>>,
    /// Of each path; a path that is there twice is in the manifest twice, which PostgreSQL refuses.
    paths: Vec<u64>,
}

impl Rebuilt {
    /// Of this backup.
    pub(super) fn begin(record: &BackupRecord) -> io::Result<Self> {
        let out = BufWriter::new(HashingWriter::new(io::sink()));
        let source = &record.source;
        let manifest = ManifestOfIndex::begin(out, source.version_number / 10_000, source.system_identifier)?;
        Ok(Self { manifest, paths: Vec::new() })
    }

    /// Adds a file of the index.
    pub(super) fn add(&mut self, file: &FileEntry) -> io::Result<()> {
        let mut hasher = DefaultHasher::new();
        file.path.as_bytes().hash(&mut hasher);
        self.paths.push(hasher.finish());
        self.manifest.add(file)
    }

    /// Whether it is surely the one that was written. Two paths may look alike by chance, and then it is not sure.
    pub(super) fn matches(mut self, record: &BackupRecord) -> io::Result<bool> {
        self.paths.sort_unstable();
        let (_, bytes, digest) = self.manifest.finish(&record.span)?.into_inner()?.finish();
        let is_same = (bytes, digest) == (record.manifest.plain_bytes, record.manifest.sha256);
        Ok(is_same && self.paths.is_sorted_by(|one, next| one < next))
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::inspect::IndexReader;
    use crate::archive::testing::World;
    use crate::repo::index::IndexEntry;

    fn files(world: &World) -> Vec<FileEntry> {
        let mut index = IndexReader::open(&world.repository, &world.record).unwrap();
        let file = |entry| if let IndexEntry::File(file) = entry { Some(file) } else { None };
        index.entries().filter_map(|entry| file(entry.unwrap())).collect()
    }

    #[test]
    fn the_index_makes_the_manifest_that_was_written() {
        let (world, other) = (World::new(Codec::Zstd), World::with_seed(Codec::Zstd, 8));
        let agrees = |files: &[FileEntry]| {
            let mut rebuilt = Rebuilt::begin(&world.record).unwrap();
            for file in files {
                rebuilt.add(file).unwrap();
            }
            rebuilt.matches(&world.record).unwrap()
        };
        let own = files(&world);
        assert!(agrees(&own));
        assert!(!agrees(&own[1..]) && !agrees(&files(&other)));
    }

    /// PostgreSQL refuses such a manifest, whether or not the index agrees.
    #[test]
    fn a_path_that_is_there_twice_is_looked_at() {
        let mut world = World::new(Codec::Zstd);
        let file = files(&world).remove(0);
        let mut rebuilt = Rebuilt::begin(&world.record).unwrap();
        let mut written = ManifestOfIndex::begin(Vec::new(), 15, world.record.source.system_identifier).unwrap();
        for _ in 0..2 {
            rebuilt.add(&file).unwrap();
            written.add(&file).unwrap();
        }
        let bytes = written.finish(&world.record.span).unwrap();
        (world.record.manifest.plain_bytes, world.record.manifest.sha256) = (bytes.len() as u64, Digest::of(&bytes));
        assert!(!rebuilt.matches(&world.record).unwrap());
    }
}
