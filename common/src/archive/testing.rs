//! A small whole backup in memory, for tests that damage it.

use std::io::{Read as _, Write as _};
use std::sync::Arc;

use chrono::DateTime;

use super::Repository;
use crate::codec::{Codec, Compression, Digest, Encoder, decoder};
use crate::pg::{ArchiveName, Lsn, SegmentSize, WalSegmentName};
use crate::repo::ClusterName;
use crate::repo::index::{FileEntry, IndexEntry, RelativePath, write_entry};
use crate::repo::layout::backup_object;
use crate::repo::listing::ManifestOfIndex;
use crate::repo::part::{Attributes, FrameTable, PartWriter};
use crate::repo::records::{BackupRecord, testing};
use crate::store::{Key, MemoryStore, Store};

pub(super) const SEGMENT_BYTES: u32 = 1 << 20;

const PAGE_BYTES: usize = 8192;

/// A repository with a backup and its WAL.
pub(crate) struct World {
    pub(super) store: Arc<MemoryStore>,
    pub(crate) repository: Repository,
    pub(crate) record: BackupRecord,
}

impl World {
    /// A backup of three parts, with configuration, and the WAL from the segment of its start to that of its stop.
    pub(crate) fn new(codec: Codec) -> Self {
        Self::with_seed(codec, 7)
    }

    /// The same with other contents of the files; all sizes are the same.
    pub(super) fn with_seed(codec: Codec, seed: u8) -> Self {
        let store = Arc::new(MemoryStore::new());
        let now = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
        let shared: Arc<dyn Store> = store.clone();
        let repository =
            Repository::open_or_create(shared, ClusterName::default(), Compression::usual(codec), now).unwrap();
        let mut record = testing::backup(1, 0x200_0000, 1000 + u64::from(seed));
        record.span.stop_lsn = Lsn(u64::from(SEGMENT_BYTES) * 5 + 0x100);
        record.span.start_lsn = Lsn(u64::from(SEGMENT_BYTES) * 3 + 0x28);
        record.source.segment_size = SegmentSize::new(SEGMENT_BYTES).unwrap();
        record.compression = repository.compression();
        let mut world = Self { store, repository, record };
        world.write_backup(seed);
        for number in 3..=5 {
            world.write_segment(number);
        }
        world
    }

    /// The key of an object of the backup.
    pub(super) fn key(&self, name: &str) -> Key {
        self.repository.layout().backup_object(self.record.id, name).unwrap()
    }

    /// The key of a segment of the backup's timeline.
    pub(super) fn segment_key(&self, number: u64) -> Key {
        let name = ArchiveName::Segment(self.segment_name(number));
        let system = self.record.source.system_identifier;
        self.repository.layout().wal_file(system, name, self.repository.compression().codec).unwrap()
    }

    pub(super) fn segment_name(&self, number: u64) -> WalSegmentName {
        WalSegmentName::numbered(self.record.span.timeline, number, self.record.source.segment_size)
    }

    /// The stored bytes of an object.
    pub(super) fn stored(&self, key: &Key) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.store.get(key).unwrap().read_to_end(&mut bytes).unwrap();
        bytes
    }

    /// The plain bytes of an object.
    pub(super) fn plain(&self, key: &Key) -> Vec<u8> {
        let mut bytes = Vec::new();
        decoder(self.record.compression.codec, &self.stored(key)[..]).unwrap().read_to_end(&mut bytes).unwrap();
        bytes
    }

    /// Writes the record anew, whatever it says.
    pub(super) fn rewrite_record(&self) {
        self.repository.replace_record(&self.key(backup_object::COMMIT), &self.record).unwrap();
    }

    /// Writes an object anew, well compressed; answers its stored size.
    pub(super) fn rewrite(&self, key: &Key, plain: &[u8]) -> u64 {
        let mut encoder = Encoder::new(Vec::new(), self.record.compression).unwrap();
        encoder.write_all(plain).unwrap();
        let stored = encoder.finish().unwrap();
        self.store.replace(key, &stored).unwrap();
        stored.len() as u64
    }

    fn write_backup(&mut self, seed: u8) {
        let codec = self.record.compression.codec;
        let layout: [&[(&str, usize)]; 3] = [
            &[("PG_VERSION", 3), ("base/1/1259", 50_000), ("empty", 0)],
            &[("base/1/big", 5 << 20)],
            &[("backup_label", 200), ("global/pg_control", 8192)],
        ];
        let (mut index, mut tables) = (Vec::new(), Vec::new());
        let source = &self.record.source;
        let mut manifest =
            ManifestOfIndex::begin(Vec::new(), source.version_number / 10_000, source.system_identifier).unwrap();
        self.record.parts.clear();
        (self.record.files, self.record.plain_bytes) = (0, 0);
        for (number, files) in (1..).zip(layout) {
            let (entries, table) = self.write_part(number, files, seed);
            for file in entries {
                manifest.add(&file).unwrap();
                self.record.files += 1;
                self.record.plain_bytes += file.size;
                write_entry(&mut index, &IndexEntry::File(file)).unwrap();
            }
            tables.push(table);
        }
        for table in tables {
            write_entry(&mut index, &IndexEntry::Frames(table)).unwrap();
        }
        let manifest = manifest.finish(&self.record.span).unwrap();
        let put = |name: String, plain: &[u8]| self.repository.put_object(&self.key(&name), plain).unwrap();
        let index = put(backup_object::index(codec), &index);
        let manifest = put(backup_object::manifest(codec), &manifest);
        let config = put(backup_object::config(codec), &vec![seed; 3000]);
        (self.record.index, self.record.manifest, self.record.config) = (index, manifest, Some(config));
        self.rewrite_record();
    }

    fn write_part(&mut self, number: u32, files: &[(&str, usize)], seed: u8) -> (Vec<FileEntry>, FrameTable) {
        let attributes = Attributes { mode: 0o600, modified: 1_700_000_000 };
        let mut part = PartWriter::new(number, Vec::new(), self.record.compression);
        let mut entries = Vec::new();
        for (path, size) in files {
            let contents = noise(*size, seed);
            let offset = part.file(path.as_bytes(), *size as u64, attributes).unwrap();
            part.contents(&contents).unwrap();
            entries.push(FileEntry {
                path: RelativePath::new(*path).unwrap(),
                part: number,
                offset,
                size: *size as u64,
                mode: attributes.mode,
                modified: attributes.modified,
                sha256: Digest::of(&contents),
            });
        }
        let (stored, table, record) = part.finish().unwrap();
        self.store.replace(&self.key(&backup_object::part(number, self.record.compression.codec)), &stored).unwrap();
        self.record.parts.push(record);
        (entries, table)
    }

    /// Archives a valid segment.
    pub(super) fn write_segment(&self, number: u64) {
        let bytes = segment(number, self.record.source.system_identifier);
        self.rewrite(&self.segment_key(number), &bytes);
    }
}

/// Bytes that hardly compress, the same for the same seed.
fn noise(size: usize, seed: u8) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(u64::from(seed));
    let mut bytes = vec![0; size];
    random.fill(&mut bytes);
    bytes
}

/// A segment of timeline 1 as PostgreSQL 15 could have written it.
pub(super) fn segment(number: u64, system: u64) -> Vec<u8> {
    let mut bytes = vec![0xEE; SEGMENT_BYTES as usize];
    let start = number * u64::from(SEGMENT_BYTES);
    for (page, first) in bytes.chunks_mut(PAGE_BYTES).zip((start..).step_by(PAGE_BYTES)) {
        let info: u16 = if first == start { 6 } else { 5 };
        page[0..2].copy_from_slice(&0xD110_u16.to_ne_bytes());
        page[2..4].copy_from_slice(&info.to_ne_bytes());
        page[4..8].copy_from_slice(&1_u32.to_ne_bytes());
        page[8..16].copy_from_slice(&first.to_ne_bytes());
    }
    bytes[24..32].copy_from_slice(&system.to_ne_bytes());
    bytes[32..36].copy_from_slice(&SEGMENT_BYTES.to_ne_bytes());
    bytes[36..40].copy_from_slice(&8192_u32.to_ne_bytes());
    bytes
}
