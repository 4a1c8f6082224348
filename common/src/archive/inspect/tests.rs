//! Every kind of damage is found, and is called what it is.

use std::io;
use std::sync::Arc;

use rstest::rstest;

use super::{Depth, Finding, Kind};
use crate::archive::Repository;
use crate::archive::testing::World;
use crate::codec::{Codec, Digest};
use crate::repo::ClusterName;
use crate::repo::layout::backup_object;
use crate::repo::records::DamagedPage;
use crate::report::{Cancel, Interrupted, Silent};
use crate::store::{FaultKind, FaultPlan, FaultStore, Key, Store};

fn inspect(world: &World, depth: Depth) -> Vec<Finding> {
    let (repository, record, cancel) = (&world.repository, &world.record, Cancel::default());
    let mut findings = super::backup(repository, record, depth, 2, &Silent, &cancel).unwrap();
    findings.extend(super::wal(repository, record, depth, 2, &Silent, &cancel).unwrap());
    findings
}

fn kinds(world: &World, depth: Depth) -> Vec<(Kind, String)> {
    let short = |object: String| object.rsplit('/').next().unwrap_or_default().to_owned();
    inspect(world, depth).into_iter().map(|finding| (finding.kind, short(finding.object))).collect()
}

/// All objects that a restore reads, but for the commit record.
fn objects(world: &World) -> Vec<Key> {
    let codec = world.record.compression.codec;
    let names = (1..=3).map(|number| backup_object::part(number, codec)).chain([
        backup_object::index(codec),
        backup_object::manifest(codec),
        backup_object::config(codec),
    ]);
    names.map(|name| world.key(&name)).chain((3..=5).map(|number| world.segment_key(number))).collect()
}

#[rstest]
fn a_good_backup_has_no_findings(
    #[values(Codec::Zstd, Codec::Lz4, Codec::Gzip)] codec: Codec,
    #[values(Depth::Quick, Depth::Standard)] depth: Depth,
) {
    assert_eq!(inspect(&World::new(codec), depth), []);
}

#[rstest]
fn a_flipped_byte_anywhere_is_found(#[values(Codec::Zstd, Codec::Lz4, Codec::Gzip)] codec: Codec) {
    let world = World::new(codec);
    for key in objects(&world) {
        let good = world.stored(&key);
        // The beginning (magic), the middle (contents), the end (checksum, or seek table).
        for place in [0, good.len() / 2, good.len() - 1] {
            let mut bad = good.clone();
            bad[place] ^= 0xFF;
            world.store.replace(&key, &bad).unwrap();
            let found = inspect(&world, Depth::Standard);
            let named = found.iter().any(|finding| {
                finding.object == key.as_str() && matches!(finding.kind, Kind::Damaged | Kind::WalDamaged)
            });
            assert!(named, "{key} at {place}: {found:?}");
            assert!(found.iter().all(|finding| finding.object == key.as_str()), "{key} at {place}: {found:?}");
        }
        world.store.replace(&key, &good).unwrap();
    }
    assert_eq!(inspect(&world, Depth::Standard), []);
}

#[rstest]
fn a_truncated_object_is_found(#[values(Depth::Quick, Depth::Standard)] depth: Depth) {
    let world = World::new(Codec::Zstd);
    for key in objects(&world) {
        let good = world.stored(&key);
        world.store.replace(&key, &good[..good.len() - 1]).unwrap();
        let is_wal = key.as_str().contains("/wal/");
        let expected = match (depth, is_wal) {
            (_, false) => Some(Kind::Size),
            (Depth::Standard, true) => Some(Kind::WalDamaged),
            // Nobody wrote down how large a segment's object is.
            (Depth::Quick, true) => None,
        };
        let found = inspect(&world, depth);
        assert_eq!(found.first().map(|finding| finding.kind), expected, "{key}: {found:?}");
        world.store.replace(&key, &good).unwrap();
    }
}

#[rstest]
fn a_missing_object_is_found_once(#[values(Depth::Quick, Depth::Standard)] depth: Depth) {
    let world = World::new(Codec::Zstd);
    for key in objects(&world) {
        let good = world.stored(&key);
        world.store.delete(std::slice::from_ref(&key)).unwrap();
        let is_wal = key.as_str().contains("/wal/");
        let name = if is_wal { key.file_name().replace(".zst", "") } else { key.file_name().to_owned() };
        let kind = if is_wal { Kind::WalMissing } else { Kind::Missing };
        assert_eq!(kinds(&world, depth), [(kind, name)]);
        world.store.replace(&key, &good).unwrap();
    }
}

#[test]
fn a_hole_of_several_segments_is_one_finding() {
    let world = World::new(Codec::Zstd);
    world.store.delete(&[world.segment_key(4), world.segment_key(5)]).unwrap();
    let object = format!("{} to {}", world.segment_name(4), world.segment_name(5));
    assert_eq!(kinds(&world, Depth::Quick), [(Kind::WalMissing, object)]);
}

#[test]
fn another_segments_contents_are_found() {
    let world = World::new(Codec::Zstd);
    let other = world.stored(&world.segment_key(3));
    world.store.replace(&world.segment_key(4), &other).unwrap();
    let found = inspect(&world, Depth::Standard);
    assert_eq!(found.len(), 1);
    assert!(found[0].kind == Kind::WalDamaged && found[0].what.contains("expected 0/400000"), "{found:?}");
}

#[test]
fn swapped_parts_are_found() {
    let mut world = World::new(Codec::Zstd);
    let (first, second) = (world.key("part-00001.tar.zst"), world.key("part-00003.tar.zst"));
    let (one, three) = (world.stored(&first), world.stored(&second));
    world.store.replace(&first, &three).unwrap();
    world.store.replace(&second, &one).unwrap();
    let found = kinds(&world, Depth::Quick);
    assert_eq!(found.iter().filter(|(kind, _)| *kind == Kind::Size).count(), 2, "{found:?}");
    // Even where the sizes should agree.
    let mut sizes = world.record.parts.iter_mut();
    let (Some(a), _, Some(b)) = (sizes.next(), sizes.next(), sizes.next()) else { panic!("three parts") };
    std::mem::swap(&mut a.stored_bytes, &mut b.stored_bytes);
    let found = kinds(&world, Depth::Standard);
    for part in ["part-00001.tar.zst", "part-00003.tar.zst"] {
        assert!(found.contains(&(Kind::Damaged, part.to_owned())), "{found:?}");
    }
}

/// What unpacks to more than was written may never end: it is not read further than it takes to see that.
#[test]
fn a_part_that_goes_on_behind_its_end_is_found() {
    let world = World::new(Codec::Zstd);
    let key = world.key("part-00002.tar.zst");
    let mut endless = world.plain(&key);
    endless.extend([0].repeat(32 << 20));
    world.rewrite(&key, &endless);
    let found = inspect(&world, Depth::Standard);
    let told = |finding: &Finding| finding.kind == Kind::Damaged && finding.what.contains("more than the");
    assert!(found.iter().any(|finding| finding.object == key.as_str() && told(finding)), "{found:?}");
}

#[test]
fn a_part_of_another_backup_is_found_by_its_files() {
    let (world, other) = (World::new(Codec::Lz4), World::with_seed(Codec::Lz4, 8));
    let key = world.key("part-00002.tar.lz4");
    world.store.replace(&key, &other.stored(&other.key("part-00002.tar.lz4"))).unwrap();
    let found = inspect(&world, Depth::Standard);
    assert!(found.iter().any(|finding| finding.what == "base/1/big does not have its SHA-256"), "{found:?}");
}

#[test]
fn the_index_of_another_backup_is_found() {
    let (world, other) = (World::new(Codec::Zstd), World::with_seed(Codec::Zstd, 8));
    let key = world.key("index.jsonl.zst");
    world.store.replace(&key, &other.stored(&other.key("index.jsonl.zst"))).unwrap();
    let found = inspect(&world, Depth::Standard);
    assert!(found.iter().any(|finding| finding.kind == Kind::Damaged && finding.object == key.as_str()), "{found:?}");
}

/// An object with other contents, and a record that agrees with them.
fn replace_consistently(world: &mut World, name: &str, change: impl Fn(String) -> String) {
    let key = world.key(name);
    let plain = change(String::from_utf8(world.plain(&key)).unwrap()).into_bytes();
    let stored_bytes = world.rewrite(&key, &plain);
    let object = if name.starts_with("index") { &mut world.record.index } else { &mut world.record.manifest };
    (object.plain_bytes, object.stored_bytes, object.sha256) = (plain.len() as u64, stored_bytes, Digest::of(&plain));
    world.rewrite_record();
}

#[test]
fn an_index_that_lacks_a_file_contradicts_record_and_manifest() {
    let mut world = World::new(Codec::Zstd);
    let without = |text: String| {
        text.lines().filter(|line| !line.contains("PG_VERSION")).fold(String::new(), |a, b| a + b + "\n")
    };
    replace_consistently(&mut world, "index.jsonl.zst", without);
    let expected = [(Kind::Mismatch, "backup_manifest.zst".to_owned()), (Kind::Mismatch, "index.jsonl.zst".to_owned())];
    assert_eq!(kinds(&world, Depth::Standard), expected);
}

#[test]
fn a_manifest_with_a_wrong_checksum_is_found_whatever_the_record_says() {
    let mut world = World::new(Codec::Zstd);
    replace_consistently(&mut world, "backup_manifest.zst", |text| text.replace("base/1/1259", "base/1/1260"));
    let found = inspect(&world, Depth::Standard);
    assert!(found.len() == 1 && found[0].what.contains("checksum"), "{found:?}");
}

#[test]
fn a_record_of_another_backup_is_found() {
    let (world, other) = (World::new(Codec::Zstd), World::with_seed(Codec::Zstd, 8));
    let key = world.key(backup_object::COMMIT);
    world.store.replace(&key, &other.stored(&other.key(backup_object::COMMIT))).unwrap();
    let finding = super::record(&world.repository, world.record.id).unwrap().unwrap_err();
    assert_eq!(finding.kind, Kind::Record);
    world.store.delete(&[key]).unwrap();
    assert!(super::record(&world.repository, world.record.id).is_err());
}

#[test]
fn a_flipped_byte_in_the_record_is_found() {
    let world = World::new(Codec::Zstd);
    let key = world.key(backup_object::COMMIT);
    let good = world.stored(&key);
    // The digest covers the record, the format is read before anything else: a 0 there is as good as a 1.
    let format = br#"{"format":"#.len();
    for place in (0..good.len() - 1).filter(|place| *place != format) {
        let mut bad = good.clone();
        bad[place] ^= 0x01;
        world.store.replace(&key, &bad).unwrap();
        let finding = super::record(&world.repository, world.record.id).unwrap();
        assert!(finding.is_err_and(|finding| finding.kind == Kind::Record), "{place}");
    }
}

#[rstest]
fn bad_pages_are_told(#[values(Depth::Quick, Depth::Standard)] depth: Depth) {
    let mut world = World::new(Codec::Zstd);
    world.record.damaged_pages = vec![DamagedPage { path: "base/1/1259".to_owned(), block: 3 }];
    world.record.damaged_page_count = 2;
    let found = inspect(&world, depth);
    assert!(found.len() == 1 && found[0].kind == Kind::BadPages, "{found:?}");
    assert!(found[0].what.contains("2 pages") && found[0].what.contains("block 3 of base/1/1259"), "{found:?}");
}

#[test]
fn a_damaged_history_is_a_finding() {
    let mut world = World::new(Codec::Zstd);
    world.record.span.timeline = crate::pg::TimelineId(2);
    let key = world.repository.layout().wal_file(
        world.record.source.system_identifier,
        crate::pg::ArchiveName::History(world.record.span.timeline),
        Codec::Zstd,
    );
    world.rewrite(&key.unwrap(), b"no history");
    let found = kinds(&world, Depth::Quick);
    assert_eq!(found.first(), Some(&(Kind::WalDamaged, "00000002.history".to_owned())));
}

#[test]
fn a_cancelled_inspection_ends_as_interrupted() {
    let world = World::new(Codec::Zstd);
    let cancel = Cancel::default();
    cancel.cancel();
    let err = super::backup(&world.repository, &world.record, Depth::Standard, 1, &Silent, &cancel).unwrap_err();
    assert!(err.is::<Interrupted>(), "{err:#}");
    let err = super::wal(&world.repository, &world.record, Depth::Standard, 1, &Silent, &cancel).unwrap_err();
    assert!(err.is::<Interrupted>(), "{err:#}");
}

/// Whatever call fails, the inspection ends, and never says that all is well.
#[test]
fn a_store_that_fails_is_never_taken_for_a_good_backup() {
    let world = World::new(Codec::Zstd);
    let calls = {
        let store = Arc::new(FaultStore::new(world.store.clone()));
        assert!(through(&world, store.clone()).unwrap().is_empty());
        store.calls()
    };
    // Reads of large objects are many and alike: the first and last hundred calls, and some between.
    let interesting = (1..=calls).filter(|at| *at <= 100 || *at + 100 > calls || at % 17 == 0);
    for at in interesting {
        let plan = FaultPlan { at, kind: FaultKind::Fail(io::ErrorKind::TimedOut) };
        let found = through(&world, Arc::new(FaultStore::with_plan(world.store.clone(), plan)));
        assert!(found.is_err() || found.is_ok_and(|found| !found.is_empty()), "call {at} of {calls}");
    }
}

fn through(world: &World, store: Arc<dyn Store>) -> anyhow::Result<Vec<Finding>> {
    let cancel = Cancel::default();
    let repository = Repository::open(store, ClusterName::default(), world.record.compression)?;
    let record = match super::record(&repository, world.record.id)? {
        Ok(record) => record,
        Err(finding) => return Ok(vec![finding]),
    };
    let mut findings = super::backup(&repository, &record, Depth::Standard, 1, &Silent, &cancel)?;
    findings.extend(super::wal(&repository, &record, Depth::Standard, 1, &Silent, &cancel)?);
    Ok(findings)
}
