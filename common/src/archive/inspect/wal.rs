//! The WAL that makes a backup consistent: there, and every byte checked.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context as _;

use crate::archive::segments::{Check, CheckError};
use crate::archive::{Identity, Repository, inventory};
use crate::codec::{Codec, decoder};
use crate::pg::{ArchiveName, Lsn, TimelineHistory, WalSegmentName};
use crate::repo::chain::Route;
use crate::repo::layout::parse_wal_object;
use crate::repo::records::BackupRecord;
use crate::report::{Cancel, Progress};
use crate::store::Key;

use super::{CHUNK_BYTES, Depth, Finding, Kind};

/// How many objects one listing asks for.
const PAGE_ENTRIES_MIN: usize = 16;
const PAGE_ENTRIES_MAX: usize = 1000;

/// Inspects the WAL from a backup's start to its stop, without which it cannot be restored.
///
/// `Quick`: every segment has its object. `Standard`: besides, each is this cluster's WAL at its place in every byte, as
/// `restore-wal` would check it. `jobs` segments are read at once (at least one). Missing segments that follow each
/// other are one finding. Along which timelines the way goes is read from the archived history; when that is damaged,
/// that is a finding and the backup's own timeline is taken.
pub fn wal(
    repository: &Repository,
    record: &BackupRecord,
    depth: Depth,
    jobs: usize,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> anyhow::Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let route = route(repository, record, &mut findings)?;
    let present = archived(repository, record, &route, needed(record), cancel)?;
    findings.extend(holes(record, &route, present.keys()).map(|(first, last)| missing(record, first, last)));
    if depth == Depth::Standard {
        let present: Vec<Located> = present.into_values().collect();
        findings.extend(check_all(repository, record, &present, jobs, progress, cancel)?);
    }
    Ok(findings)
}

/// Checks every byte of the archived segments that a recovery from this backup reads on its way up to `end`. Those that
/// are not there are passed over: they may lie in a server's own `pg_wal`.
pub fn wal_along(
    repository: &Repository,
    record: &BackupRecord,
    way: &Route,
    end: Lsn,
    jobs: usize,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> anyhow::Result<Vec<Finding>> {
    let (first, last) = needed(record);
    let numbers = (first, end.0.div_ceil(record.source.segment_size.bytes()).max(last));
    let present: Vec<Located> = archived(repository, record, way, numbers, cancel)?.into_values().collect();
    check_all(repository, record, &present, jobs, progress, cancel)
}

/// The numbers of the segments that the backup needs: of the first one, and of the one after the last.
fn needed(record: &BackupRecord) -> (u64, u64) {
    let bytes = record.source.segment_size.bytes();
    (record.span.start_lsn.0 / bytes, record.span.stop_lsn.0.div_ceil(bytes))
}

/// Those segments from `first` to before `end` that are there, by number. Asks for lists, not for each name: a record can claim any
/// number of segments.
fn archived(
    repository: &Repository,
    record: &BackupRecord,
    route: &Route,
    (first, end): (u64, u64),
    cancel: &Cancel,
) -> anyhow::Result<BTreeMap<u64, Located>> {
    let (system, size) = (record.source.system_identifier, record.source.segment_size);
    let usual = repository.compression().codec;
    let mut found: BTreeMap<u64, Located> = BTreeMap::new();
    let page_entries =
        usize::try_from(end - first).unwrap_or(PAGE_ENTRIES_MAX).clamp(PAGE_ENTRIES_MIN, PAGE_ENTRIES_MAX);
    let history = route.history();
    let timelines = history.ancestors.iter().map(|ancestor| ancestor.timeline).chain([history.timeline]);
    let (oldest, newest) = (route.segment(first).timeline, route.segment(end.saturating_sub(1)).timeline);
    for timeline in timelines.filter(|timeline| (oldest..=newest).contains(timeline)) {
        let prefix = repository.layout().wal_of_timeline(system, timeline);
        let begin = ArchiveName::Segment(WalSegmentName::numbered(timeline, first, size));
        // The codec's suffix follows: the first segment's own object comes after this.
        let mut after = repository.layout().wal_stem(system, begin);
        loop {
            cancel.check()?;
            let page = repository.store().list(&prefix, Some(&after), page_entries)?;
            let is_last = page.len() < page_entries;
            let mut passed = false;
            for entry in page {
                entry.key.as_str().clone_into(&mut after);
                let Some(object) = parse_wal_object(entry.key.file_name()) else { continue };
                let ArchiveName::Segment(name) = object.name else { continue };
                let Some(number) = name.number(size) else { continue };
                passed |= number >= end;
                let preferred = object.codec == usual || !found.contains_key(&number);
                if (first..end).contains(&number) && route.segment(number) == name && preferred {
                    found.insert(number, (name, entry.key, object.codec));
                }
            }
            if is_last || passed {
                break;
            }
        }
    }
    Ok(found)
}

/// The first and last segment of each stretch that is not among the ones `present`.
fn holes<'a>(
    record: &BackupRecord,
    route: &'a Route,
    present: impl Iterator<Item = &'a u64>,
) -> impl Iterator<Item = (WalSegmentName, WalSegmentName)> {
    let (mut next, end) = needed(record);
    present.copied().chain([end]).filter_map(move |number| {
        let hole = (next < number).then(|| (route.segment(next), route.segment(number - 1)));
        next = number + 1;
        hole
    })
}

fn missing(record: &BackupRecord, first: WalSegmentName, last: WalSegmentName) -> Finding {
    let object = if first == last { first.to_string() } else { format!("{first} to {last}") };
    let what = format!("{} cannot be restored without this WAL, and it is not in the repository", record.id);
    Finding::new(Kind::WalMissing, &object, what)
}

fn route(repository: &Repository, record: &BackupRecord, findings: &mut Vec<Finding>) -> anyhow::Result<Route> {
    let timeline = record.span.timeline;
    let history = match inventory::read_history(repository, record.source.system_identifier, timeline) {
        Ok(history) => history,
        Err(err) => {
            let finding = Finding::of_reading(&timeline.history_file(), err)?;
            findings.push(Finding { kind: Kind::WalDamaged, ..finding });
            None
        }
    };
    Ok(Route::new(history.unwrap_or_else(|| TimelineHistory::root(timeline)), record.source.segment_size))
}

/// A segment, its object, and how that is compressed.
type Located = (WalSegmentName, Key, Codec);

fn check_all(
    repository: &Repository,
    record: &BackupRecord,
    present: &[Located],
    jobs: usize,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> anyhow::Result<Vec<Finding>> {
    let total = record.source.segment_size.bytes().saturating_mul(present.len() as u64);
    progress.begin(&format!("verify the WAL of {}", record.id), Some(total));
    let (next, found) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let identity = identity_of(record);
    let work = || -> anyhow::Result<()> {
        while let Some(located) = present.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Some(finding) = check_one(repository, identity, located, progress, cancel)? {
                found.lock().map_err(|_| anyhow::anyhow!("a thread of the inspection died"))?.push(finding);
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..jobs.clamp(1, present.len().max(1))).map(|_| scope.spawn(work)).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a thread of the inspection died")))
        };
        threads.into_iter().map(join).fold(Ok(()), Result::and)
    })?;
    progress.end();
    let mut findings = found.into_inner().map_err(|_| anyhow::anyhow!("a thread of the inspection died"))?;
    findings.sort_by(|a, b| a.object.cmp(&b.object));
    Ok(findings)
}

fn identity_of(record: &BackupRecord) -> Identity {
    Identity {
        system_identifier: record.source.system_identifier,
        segment_size: record.source.segment_size,
        major: Some(record.source.version_number / 10_000),
    }
}

fn check_one(
    repository: &Repository,
    identity: Identity,
    (name, key, codec): &Located,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> anyhow::Result<Option<Finding>> {
    let read = || -> anyhow::Result<()> {
        let stored = repository.store().get(key)?;
        let reading = || format!("read {key}");
        let mut plain = decoder(*codec, stored).with_context(reading)?;
        let mut check = Check::new(ArchiveName::Segment(*name), identity);
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            cancel.check()?;
            let count = match plain.read(&mut buffer) {
                Err(err) if err.kind() == std::io::ErrorKind::Interrupted => continue,
                result => result.with_context(reading)?,
            };
            match buffer.get(..count).unwrap_or_default() {
                [] => return Ok(check.finish()?),
                chunk => check.update(chunk)?,
            }
            progress.advance(count as u64);
        }
    };
    let Err(err) = read() else { return Ok(None) };
    if let Some(invalid) = err.downcast_ref::<CheckError>() {
        return Ok(Some(Finding::new(Kind::WalDamaged, key, invalid.to_string())));
    }
    let finding = Finding::of_reading(key, err)?;
    let kind = match finding.kind {
        Kind::Damaged => Kind::WalDamaged,
        Kind::Missing => Kind::WalMissing,
        other => other,
    };
    Ok(Some(Finding { kind, ..finding }))
}
