//! A key for every object, and nothing else. `docs/FORMAT.md` section "Layout" is the contract.

use crate::codec::Codec;
use crate::pg::{ArchiveName, SystemIdentifier, TimelineId, WalSegmentName};
use crate::store::{Key, StoreError};

use super::{BackupId, ClusterName};

/// The record at the top of a repository.
pub const REPOSITORY: &str = "holdfast.json";

/// Makes the keys of one cluster's objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    cluster: ClusterName,
}

/// What a key under a cluster's `wal/` stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct WalObject {
    /// The file that PostgreSQL handed over.
    pub name: ArchiveName,
    /// How the object is compressed.
    pub codec: Codec,
    /// Whether it is a `.partial` file kept beside another of the same name.
    pub set_aside: bool,
}

impl Layout {
    /// The keys of this cluster.
    pub fn new(cluster: ClusterName) -> Self {
        Self { cluster }
    }

    /// The cluster whose keys these are.
    pub fn cluster(&self) -> &ClusterName {
        &self.cluster
    }

    /// The folder of everything that belongs to the cluster, with a final slash.
    pub fn root(&self) -> String {
        format!("{}/", self.cluster)
    }

    /// The folder of the records of known system identifiers, with a final slash.
    pub fn identities(&self) -> String {
        format!("{}/cluster/", self.cluster)
    }

    /// The record of one system identifier.
    pub fn identity(&self, system: SystemIdentifier) -> Result<Key, StoreError> {
        Key::new(format!("{}{system}.json", self.identities()))
    }

    /// The folder of a system identifier's WAL, with a final slash.
    pub fn wal(&self, system: SystemIdentifier) -> String {
        format!("{}/wal/{system}/", self.cluster)
    }

    /// The prefix of every segment of one timeline.
    pub fn wal_of_timeline(&self, system: SystemIdentifier, timeline: TimelineId) -> String {
        format!("{}{}", self.wal(system), timeline.hex())
    }

    /// The folder of a system identifier's timeline history files, with a final slash.
    pub fn histories(&self, system: SystemIdentifier) -> String {
        format!("{}history/", self.wal(system))
    }

    /// The key of an archived file without the codec's suffix; a listing with this prefix and a dot finds the file
    /// whatever its codec is.
    pub fn wal_stem(&self, system: SystemIdentifier, name: ArchiveName) -> String {
        match name {
            ArchiveName::History(_) => format!("{}{name}", self.histories(system)),
            ArchiveName::Segment(segment) | ArchiveName::Partial(segment) | ArchiveName::BackupHistory(segment, _) => {
                format!("{}{}/{name}", self.wal(system), segment.directory())
            }
        }
    }

    /// The key of an archived file.
    pub fn wal_file(&self, system: SystemIdentifier, name: ArchiveName, codec: Codec) -> Result<Key, StoreError> {
        Key::new(format!("{}.{}", self.wal_stem(system, name), codec.suffix()))
    }

    /// The key of a `.partial` file that is kept beside a different one of the same name; `digest` is the beginning of
    /// its plain bytes' SHA-256 in lower-case hexadecimal.
    pub fn partial_set_aside(
        &self,
        system: SystemIdentifier,
        segment: WalSegmentName,
        digest: &str,
        codec: Codec,
    ) -> Result<Key, StoreError> {
        let stem = self.wal_stem(system, ArchiveName::Partial(segment));
        Key::new(format!("{stem}.{digest}.{}", codec.suffix()))
    }

    /// The record that a timeline was given up by a rolled-back recovery.
    pub fn abandoned(&self, system: SystemIdentifier, timeline: TimelineId) -> Result<Key, StoreError> {
        Key::new(format!("{}{}.abandoned.json", self.histories(system), timeline.hex()))
    }

    /// The folder of all backups, with a final slash.
    pub fn backups(&self) -> String {
        format!("{}/backup/", self.cluster)
    }

    /// The folder of all leases, with a final slash.
    pub fn leases(&self) -> String {
        format!("{}/lease/", self.cluster)
    }

    /// The record of the lease of this owner.
    pub fn lease(&self, owner: &str) -> Result<Key, StoreError> {
        Key::new(format!("{}{owner}.json", self.leases()))
    }

    /// The folder of one backup, with a final slash.
    pub fn backup(&self, id: BackupId) -> String {
        format!("{}{id}/", self.backups())
    }

    /// The object of this name within one backup.
    pub fn backup_object(&self, id: BackupId, name: &str) -> Result<Key, StoreError> {
        Key::new(format!("{}{name}", self.backup(id)))
    }
}

/// The names of the objects within a backup.
pub mod backup_object {
    use crate::codec::Codec;

    /// The record that protects a running backup.
    pub const STARTED: &str = "started.json";
    /// The commit record, written last.
    pub const COMMIT: &str = "backup.json";

    /// A part, counted from 1: `part-00001.tar.zst`.
    pub fn part(number: u32, codec: Codec) -> String {
        format!("part-{number:05}.tar.{}", codec.suffix())
    }

    /// Configuration files from outside the data directory.
    pub fn config(codec: Codec) -> String {
        format!("config.tar.{}", codec.suffix())
    }

    /// The index.
    pub fn index(codec: Codec) -> String {
        format!("index.jsonl.{}", codec.suffix())
    }

    /// PostgreSQL's manifest.
    pub fn manifest(codec: Codec) -> String {
        format!("backup_manifest.{}", codec.suffix())
    }
}

/// What the last component of a key under `wal/` stands for; `None` for records and for names of nobody's making.
pub fn parse_wal_object(file_name: &str) -> Option<WalObject> {
    let (stem, suffix) = file_name.rsplit_once('.')?;
    let codec = Codec::from_suffix(suffix)?;
    if let Some(name) = ArchiveName::parse(stem) {
        return Some(WalObject { name, codec, set_aside: false });
    }
    let (partial, digest) = stem.rsplit_once('.')?;
    let name = ArchiveName::parse(partial).filter(|name| matches!(name, ArchiveName::Partial(_)))?;
    let is_digest = digest.len() == 16 && digest.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    is_digest.then_some(WalObject { name, codec, set_aside: true })
}

/// The timeline of an abandonment record's name (`00000002.abandoned.json`).
pub fn parse_abandoned(file_name: &str) -> Option<TimelineId> {
    let hex = file_name.strip_suffix(".abandoned.json")?;
    match ArchiveName::parse(&format!("{hex}.history"))? {
        ArchiveName::History(timeline) => Some(timeline),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::SegmentSize;
    use proptest::prelude::*;
    use rstest::rstest;

    #[rstest]
    #[case("000000010000000000000007", "main/wal/42/0000000100000000/000000010000000000000007.zst")]
    #[case("000000010000000000000007.partial", "main/wal/42/0000000100000000/000000010000000000000007.partial.zst")]
    #[case("00000002.history", "main/wal/42/history/00000002.history.zst")]
    #[case(
        "000000010000000000000007.00000028.backup",
        "main/wal/42/0000000100000000/000000010000000000000007.00000028.backup.zst"
    )]
    fn every_archived_file_has_its_place(#[case] name: &str, #[case] key: &str) {
        let layout = Layout::new(ClusterName::default());
        let name = ArchiveName::parse(name).unwrap();
        let made = layout.wal_file(42, name, Codec::Zstd).unwrap();
        assert_eq!(made.as_str(), key);
        assert_eq!(parse_wal_object(made.file_name()), Some(WalObject { name, codec: Codec::Zstd, set_aside: false }));
    }

    #[test]
    fn a_partial_set_aside_is_recognised() {
        let layout = Layout::new(ClusterName::default());
        let segment = WalSegmentName::parse("000000010000000000000007").unwrap();
        let key = layout.partial_set_aside(42, segment, "0123456789abcdef", Codec::Lz4).unwrap();
        let object = parse_wal_object(key.file_name()).unwrap();
        assert_eq!(object, WalObject { name: ArchiveName::Partial(segment), codec: Codec::Lz4, set_aside: true });
    }

    #[rstest]
    #[case("000000010000000000000007")]
    #[case("000000010000000000000007.xz")]
    #[case("00000002.abandoned.json")]
    #[case("000000010000000000000007.0123456789abcdef.zst")]
    fn other_names_are_nothing(#[case] name: &str) {
        assert_eq!(parse_wal_object(name), None);
    }

    #[test]
    fn abandoned_timelines_are_recognised() {
        assert_eq!(parse_abandoned("00000002.abandoned.json"), Some(TimelineId(2)));
        assert_eq!(parse_abandoned("2.abandoned.json"), None);
    }

    proptest! {
        #[test]
        fn keys_lead_back_to_names(
            system: u64,
            timeline: u32,
            number in 0_u64..1 << 40,
            offset: u32,
            digest in "[0-9a-f]{16}",
            codec in proptest::sample::select(Codec::ALL.to_vec()),
        ) {
            let layout = Layout::new(ClusterName::default());
            let timeline = TimelineId(timeline);
            let segment = WalSegmentName::numbered(timeline, number, SegmentSize::DEFAULT);
            let names = [
                ArchiveName::Segment(segment),
                ArchiveName::Partial(segment),
                ArchiveName::History(timeline),
                ArchiveName::BackupHistory(segment, offset),
            ];
            for name in names {
                let key = layout.wal_file(system, name, codec).unwrap();
                prop_assert!(key.as_str().starts_with(&layout.wal(system)));
                prop_assert_eq!(parse_wal_object(key.file_name()), Some(WalObject { name, codec, set_aside: false }));
            }
            let aside = layout.partial_set_aside(system, segment, &digest, codec).unwrap();
            let object = WalObject { name: ArchiveName::Partial(segment), codec, set_aside: true };
            prop_assert_eq!(parse_wal_object(aside.file_name()), Some(object));
            let abandoned = layout.abandoned(system, timeline).unwrap();
            prop_assert_eq!(parse_abandoned(abandoned.file_name()), Some(timeline));
        }

        #[test]
        fn keys_of_segments_have_the_order_of_positions(numbers in proptest::array::uniform2(0_u64..1 << 40)) {
            let layout = Layout::new(ClusterName::default());
            let [one, other] = numbers.map(|number| {
                let name = ArchiveName::Segment(WalSegmentName::numbered(TimelineId(1), number, SegmentSize::DEFAULT));
                layout.wal_file(7, name, Codec::Zstd).unwrap()
            });
            prop_assert_eq!(one.cmp(&other), numbers[0].cmp(&numbers[1]));
        }

        #[test]
        fn never_panics(text in ".*", likely in "[0-9A-F]{8}([0-9A-F]{16})?(\\.[a-z0-9]{0,16}){0,4}") {
            for text in [text, likely] {
                parse_wal_object(&text);
                if let Some(timeline) = parse_abandoned(&text) {
                    prop_assert_eq!(format!("{}.abandoned.json", timeline.hex()), text);
                }
            }
        }
    }
}
