//! Names, positions, sizes and times: short texts, and the order among them.

use std::cmp::Ordering;

use chrono::{DateTime, FixedOffset};
use common::codec::{Codec, Compression, Digest};
use common::pg::{ArchiveName, Lsn, SegmentSize, WalSegmentName};
use common::repo::layout::{parse_abandoned, parse_wal_object};
use common::repo::{BackupId, ClusterName, Layout};
use common::restore::target::{Target, for_postgresql, parse_time};
use common::store::Key;
use common::units::{ByteCount, parse_duration};

/// Names of WAL files, of objects, of backups, of clusters; positions. The input's first two lines are compared.
pub fn segment_name(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.split('\n');
    let (first, second) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    if let Some(name) = ArchiveName::parse(first) {
        assert_eq!(name.to_string(), first);
        check_keys(name);
    }
    if let Some(name) = WalSegmentName::parse(first) {
        check_arithmetic(name);
        if let Some(other) = WalSegmentName::parse(second) {
            assert_eq!(name.cmp(&other), first.cmp(second));
        }
    }
    if let Ok(id) = first.parse::<BackupId>() {
        assert_eq!((id.to_string().as_str(), BackupId::at(id.time())), (first, id));
        if let Ok(other) = second.parse::<BackupId>() {
            assert_eq!(id.cmp(&other), first.cmp(second));
        }
    }
    if let Ok(lsn) = first.parse::<Lsn>() {
        assert_eq!(lsn.to_string().parse(), Ok(lsn));
    }
    if let Ok(key) = Key::new(first) {
        assert!(key.as_str() == first && !first.starts_with('/') && first.split('/').all(|part| part != ".."));
        if let Ok(other) = Key::new(second) {
            assert_eq!(key.cmp(&other), first.cmp(second));
        }
    }
    if let Ok(name) = first.parse::<ClusterName>() {
        assert!(name.as_str() == first && Key::new(first).is_ok());
    }
    if let Some(object) = parse_wal_object(first) {
        assert_eq!(first.starts_with(&format!("{}.", object.name)), first.ends_with(object.codec.suffix()));
    }
    if let Some(timeline) = parse_abandoned(first) {
        assert_eq!(format!("{}.abandoned.json", timeline.hex()), first);
    }
}

/// The keys of an archived file lead back to it.
fn check_keys(name: ArchiveName) {
    let layout = Layout::new(ClusterName::default());
    for codec in Codec::ALL {
        let key = layout.wal_file(7, name, codec).ok();
        let object = key.as_ref().and_then(|key| parse_wal_object(key.file_name()));
        assert!(object.is_some_and(|object| (object.name, object.codec, object.set_aside) == (name, codec, false)));
    }
}

/// Numbers, positions and neighbours of a segment, whatever the size of segments is.
fn check_arithmetic(name: WalSegmentName) {
    for size in (20..=30).filter_map(|shift| SegmentSize::new(1 << shift)) {
        let Some(start) = name.start(size) else {
            assert_eq!((name.number(size), name.next(size)), (None, None));
            continue;
        };
        assert_eq!(name.number(size).map(|number| WalSegmentName::numbered(name.timeline, number, size)), Some(name));
        let last = Lsn(start.0 + (size.bytes() - 1));
        assert_eq!(WalSegmentName::containing(name.timeline, start, size), name);
        assert_eq!(WalSegmentName::containing(name.timeline, last, size), name);
        match name.next(size) {
            Some(next) => {
                assert_eq!(name.cmp(&next), Ordering::Less);
                assert_eq!(next.start(size), Some(Lsn(last.0 + 1)));
                assert_eq!(WalSegmentName::before(name.timeline, Lsn(last.0 + 1), size), name);
            }
            None => assert_eq!(last, Lsn(u64::MAX)),
        }
    }
}

/// Times, durations, sizes, digests, compressions.
pub fn time(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(time) = parse_time(&text) {
        check_time(time);
    }
    if let Ok(size) = text.parse::<ByteCount>() {
        assert_eq!(size.0.to_string().parse(), Ok(size));
    }
    drop(parse_duration(&text));
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string(), text.to_lowercase());
    }
    if let Ok(compression) = text.parse::<Compression>() {
        assert_eq!(compression.to_string().parse(), Ok(compression));
    }
}

fn check_time(time: DateTime<FixedOffset>) {
    let written = for_postgresql(&time);
    // PostgreSQL reads years of four digits; anything else would stop a recovery after the data directory is gone.
    let shape: String = written.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    assert_eq!(shape, "0000-00-00 00:00:00.000000+00", "{written}");
    assert_eq!(parse_time(&written), Ok(time));
    let target = Target::Time(time);
    let json = serde_json::to_string(&target).unwrap_or_default();
    assert_eq!(serde_json::from_str::<Target>(&json).ok(), Some(target.clone()), "{json}");
    let shown = target.to_string();
    assert_eq!(shown.strip_prefix("time ").map(parse_time), Some(Ok(time)), "{shown}");
}
