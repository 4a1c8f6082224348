//! The WAL that makes a backup consistent: there, and every byte checked.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context as _;

use crate::archive::segments::{self, Check, CheckError};
use crate::archive::{Identity, Repository, inventory};
use crate::codec::{Codec, decoder};
use crate::pg::{ArchiveName, TimelineHistory, WalSegmentName};
use crate::repo::chain::Route;
use crate::repo::records::BackupRecord;
use crate::report::{Cancel, Progress};
use crate::store::Key;

use super::{CHUNK_BYTES, Depth, Finding, Kind};

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
    let system = record.source.system_identifier;
    let mut present = Vec::new();
    let mut holes: Vec<(WalSegmentName, WalSegmentName)> = Vec::new();
    for name in route.segments(record.span.start_lsn, record.span.stop_lsn) {
        cancel.check()?;
        match segments::locate(repository, system, ArchiveName::Segment(name))? {
            Some((key, codec)) => present.push((name, key, codec)),
            None => match holes.last_mut() {
                Some((_, last)) if last.next(record.source.segment_size) == Some(name) => *last = name,
                _ => holes.push((name, name)),
            },
        }
    }
    findings.extend(holes.into_iter().map(|(first, last)| missing(record, first, last)));
    if depth == Depth::Standard {
        findings.extend(check_all(repository, record, &present, jobs, progress, cancel)?);
    }
    Ok(findings)
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
