//! What no commit record can say of a real backup. Digests find what has changed since it was written; this finds what
//! was wrong from the beginning, before a reader relies on it: for memory, for loops, for where it writes.

use std::collections::BTreeSet;
use std::path::{Component, Path};

use super::records::{BackupRecord, Tablespace};

/// The most WAL between a backup's start and its stop: a pebibyte.
const SPAN_BYTES_MAX: u64 = 1 << 50;

/// A tar entry has at least its header.
const TAR_ENTRY_BYTES_MIN: u64 = 512;

/// A path has at most 4096 bytes, twice as many in hexadecimal; the rest of a line has some 300.
const LINE_BYTES_MAX: u64 = 10_000;

/// What the manifest and the index hold besides a line for each file or directory, frame tables aside.
const FRAME_BYTES_MAX: u64 = 64 << 10;

/// What the record says that cannot be; `None` when nothing speaks against it.
pub fn contradiction(record: &BackupRecord) -> Option<String> {
    parts(record).or_else(|| span(record)).or_else(|| tablespaces(&record.tablespaces)).or_else(|| sizes(record))
}

fn parts(record: &BackupRecord) -> Option<String> {
    let numbered = (1..).zip(&record.parts).all(|(number, part)| part.number == number);
    (record.parts.is_empty() || !numbered).then(|| "its parts are not numbered from 1 on".to_owned())
}

fn span(record: &BackupRecord) -> Option<String> {
    let (start, stop) = (record.span.start_lsn, record.span.stop_lsn);
    match stop.0.checked_sub(start.0) {
        None | Some(0) => Some(format!("it begins at {start} and stops at {stop}")),
        Some(bytes) if bytes > SPAN_BYTES_MAX => {
            Some(format!("from {start} to {stop} is more WAL than any backup has"))
        }
        Some(_) => None,
    }
}

/// A restore writes where these lay.
fn tablespaces(tablespaces: &[Tablespace]) -> Option<String> {
    let mut seen = BTreeSet::new();
    tablespaces.iter().find_map(|Tablespace { oid, location, .. }| {
        if !seen.insert(*oid) || *oid == 0 {
            return Some(format!("tablespace {oid} is named twice, or is none"));
        }
        (!is_plain(location))
            .then(|| format!("tablespace {oid} lay at \"{}\", which is no absolute path", location.display()))
    })
}

fn is_plain(path: &Path) -> bool {
    let plain = |part| matches!(part, Component::RootDir | Component::Normal(_));
    path.is_absolute() && path.parent().is_some() && path.components().all(plain)
}

fn sizes(record: &BackupRecord) -> Option<String> {
    let parts = record.parts.iter().fold(0_u64, |sum, part| sum.saturating_add(part.plain_bytes));
    let entries = parts / TAR_ENTRY_BYTES_MIN;
    if record.files > entries || record.plain_bytes > parts {
        let (files, bytes) = (record.files, record.plain_bytes);
        return Some(format!("{files} files of {bytes} bytes are not in parts of {parts}"));
    }
    // Ten digits and a comma for each frame of 4 MiB, and more than that for each part.
    let frames = (parts >> 18).saturating_add(record.parts.len() as u64 * 100);
    let index_max = entries.saturating_mul(LINE_BYTES_MAX).saturating_add(frames).saturating_add(FRAME_BYTES_MAX);
    if record.index.plain_bytes > index_max {
        return Some(format!("an index of {} bytes is too large for its parts", record.index.plain_bytes));
    }
    let manifest_max = record.files.saturating_mul(LINE_BYTES_MAX).saturating_add(FRAME_BYTES_MAX);
    if record.manifest.plain_bytes > manifest_max {
        return Some(format!("a manifest of {} bytes is too large for its files", record.manifest.plain_bytes));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::Lsn;
    use crate::repo::records::testing;
    use rstest::rstest;

    fn sound() -> BackupRecord {
        testing::backup(1, 0x200_0000, 700)
    }

    fn tablespace(oid: u32, location: &str) -> Tablespace {
        Tablespace { oid, name: "t".to_owned(), location: location.into(), bytes: 0 }
    }

    #[test]
    fn a_real_record_contradicts_nothing() {
        let mut record = sound();
        record.tablespaces = vec![tablespace(16_385, "/srv/a b"), tablespace(16_386, "/srv/c")];
        assert_eq!(contradiction(&record), None);
    }

    #[rstest]
    #[case::no_parts(|record: &mut BackupRecord| record.parts.clear())]
    #[case::part_0(|record: &mut BackupRecord| record.parts[0].number = 0)]
    #[case::a_part_twice(|record: &mut BackupRecord| record.parts.push(record.parts[0].clone()))]
    #[case::stops_before_its_start(|record: &mut BackupRecord| record.span.stop_lsn = Lsn(1))]
    #[case::stops_at_its_start(|record: &mut BackupRecord| record.span.stop_lsn = record.span.start_lsn)]
    #[case::never_stops(|record: &mut BackupRecord| record.span.stop_lsn = Lsn(u64::MAX))]
    #[case::relative(|record: &mut BackupRecord| record.tablespaces = vec![tablespace(16_385, "srv")])]
    #[case::nowhere(|record: &mut BackupRecord| record.tablespaces = vec![tablespace(16_385, "")])]
    #[case::the_root(|record: &mut BackupRecord| record.tablespaces = vec![tablespace(16_385, "/")])]
    #[case::upwards(|record: &mut BackupRecord| record.tablespaces = vec![tablespace(16_385, "/srv/../etc")])]
    #[case::twice(|record: &mut BackupRecord| record.tablespaces = vec![tablespace(1, "/a"), tablespace(1, "/b")])]
    #[case::oid_0(|record: &mut BackupRecord| record.tablespaces = vec![tablespace(0, "/a")])]
    #[case::many_files(|record: &mut BackupRecord| record.files = u64::MAX)]
    #[case::large_files(|record: &mut BackupRecord| record.plain_bytes = u64::MAX)]
    #[case::a_large_index(|record: &mut BackupRecord| record.index.plain_bytes = 1 << 30)]
    #[case::a_large_manifest(|record: &mut BackupRecord| record.manifest.plain_bytes = 1 << 30)]
    fn what_cannot_be_is_noticed(#[case] change: fn(&mut BackupRecord)) {
        let mut record = sound();
        change(&mut record);
        assert!(contradiction(&record).is_some());
    }
}
