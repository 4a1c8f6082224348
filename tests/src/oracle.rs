//! Which transactions a moment holds, read from the WAL by PostgreSQL's own `pg_waldump`.
//!
//! Time stamps are not ordered in the WAL, and recovery to a time stops at the first commit or abort *record* later
//! than the target. So the truth about a moment is: the workload's transactions whose commit record lies before the
//! first such record later than the moment. The oracle unpacks every archived segment with stock tools, adds those
//! of a live `pg_wal`, and reads the records of a timeline and its ancestors in order.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, NaiveDateTime, Utc};
use common::pg::{ArchiveName, Lsn, SegmentSize, TimelineId, WalSegmentName};

use crate::workload::MARK;
use crate::{Repo, Sandbox, process};

/// The end of one of the workload's transactions, or of another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending {
    /// Where its record begins.
    pub lsn: Lsn,
    /// Whose end it is.
    pub xid: u64,
    /// The time in the record.
    pub time: DateTime<Utc>,
    /// Committed, or rolled back.
    pub committed: bool,
    /// Whether the workload did it.
    pub load: bool,
}

/// The transactions' ends on one timeline and its ancestors, in WAL order.
#[derive(Debug, Clone)]
pub struct Oracle {
    endings: Vec<Ending>,
}

impl Oracle {
    /// Reads the WAL of `timeline` and its ancestors from the repository and, where given, from a server's `pg_wal`.
    pub fn read(sandbox: &Sandbox, repo: &Repo, pg_wal: Option<&Path>, timeline: u32) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("oracle-").tempdir_in(sandbox.path())?;
        sandbox.account().own(dir.path())?;
        gather(sandbox, repo, pg_wal, dir.path())?;
        let mut endings = Vec::new();
        for (timeline, end) in ancestry(dir.path(), timeline)? {
            let records = waldump(sandbox, dir.path(), timeline)?;
            endings.extend(read_endings(&records).into_iter().filter(|ending| end.is_none_or(|end| ending.lsn < end)));
            // A switch in mid-segment: the child's first segment repeats the parent's records.
            endings.sort_by_key(|ending| ending.lsn);
            endings.dedup_by_key(|ending| ending.lsn);
        }
        Ok(Self { endings })
    }

    /// Every transaction's end, in WAL order.
    pub fn endings(&self) -> &[Ending] {
        &self.endings
    }

    /// The workload's commits, in WAL order.
    pub fn commits(&self) -> Vec<Ending> {
        self.endings.iter().copied().filter(|ending| ending.load && ending.committed).collect()
    }

    /// The workload's transactions that a recovery to this time brings back.
    pub fn at_time(&self, target: DateTime<Utc>) -> BTreeSet<u64> {
        self.before(|ending| ending.time > target)
    }

    /// The workload's transactions whose commit record begins before `target`, or at it when `inclusive`.
    pub fn at_lsn(&self, target: Lsn, inclusive: bool) -> BTreeSet<u64> {
        self.before(|ending| if inclusive { ending.lsn > target } else { ending.lsn >= target })
    }

    /// All of the workload's transactions.
    pub fn all(&self) -> BTreeSet<u64> {
        self.before(|_| false)
    }

    fn before(&self, stop: impl Fn(&Ending) -> bool) -> BTreeSet<u64> {
        let kept = self.endings.iter().take_while(|ending| !stop(ending));
        kept.filter(|ending| ending.load && ending.committed).map(|ending| ending.xid).collect()
    }
}

/// Puts every segment and history file, unpacked, into `dir`. A live file wins over the archived one.
fn gather(sandbox: &Sandbox, repo: &Repo, pg_wal: Option<&Path>, dir: &Path) -> Result<()> {
    for (name, object) in repo.wal_objects() {
        sandbox.write(&dir.join(name), &repo.unpack(&object)?)?;
    }
    for entry in pg_wal.map(fs::read_dir).transpose()?.into_iter().flatten() {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let wanted = matches!(ArchiveName::parse(&name), Some(ArchiveName::Segment(_) | ArchiveName::History(_)));
        // A segment may be recycled between the listing and the copy: then it was archived, and is here already.
        if wanted && let Ok(content) = fs::read(entry.path()) {
            sandbox.write(&dir.join(name), &content)?;
        }
    }
    Ok(())
}

/// The timeline and its ancestors, oldest first, each with the position where the next one begins.
fn ancestry(dir: &Path, timeline: u32) -> Result<Vec<(TimelineId, Option<Lsn>)>> {
    let timeline = TimelineId(timeline);
    let mut path = Vec::new();
    if timeline.0 > 1 {
        let file = dir.join(timeline.history_file());
        let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        path = parse_history(&text).with_context(|| format!("read the history {text:?}"))?;
    }
    path.push((timeline, None));
    // A recovery to before its own timeline began leaves that one's parent there, too: the last line alone says it.
    for older in (1..path.len().saturating_sub(1)).rev() {
        let (newer, end) = (path.get(older).and_then(|entry| entry.1), path.get_mut(older - 1));
        if let Some((_, end)) = end {
            *end = (*end).min(newer);
        }
    }
    Ok(path)
}

fn parse_history(text: &str) -> Option<Vec<(TimelineId, Option<Lsn>)>> {
    let lines = text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let mut fields = line.split_whitespace();
            Some((TimelineId(fields.next()?.parse().ok()?), Some(fields.next()?.parse().ok()?)))
        })
        .collect()
}

/// `pg_waldump`'s lines for a whole timeline; it ends with an error where the WAL ends in mid-segment, as it must.
fn waldump(sandbox: &Sandbox, dir: &Path, timeline: TimelineId) -> Result<String> {
    let Some((start, end)) = extent(dir, timeline)? else { return Ok(String::new()) };
    let mut command = sandbox.command("pg_waldump")?;
    command.arg("-p").arg(dir).args(["-t", &timeline.to_string(), "-s", &start.to_string()]);
    // Without an end it waits five seconds for a segment after the last one.
    let ran = process::run(command.args(["-e", &end.to_string()]), "")?;
    ensure!(!ran.stdout.is_empty(), "nothing read by {ran}");
    Ok(ran.stdout)
}

/// Where the timeline's first segment begins, and where the unbroken row of segments from there on ends.
fn extent(dir: &Path, timeline: TimelineId) -> Result<Option<(Lsn, Lsn)>> {
    let mut found: Vec<(WalSegmentName, PathBuf)> = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = WalSegmentName::parse(&entry.file_name().to_string_lossy());
        found.extend(name.filter(|name| name.timeline == timeline).map(|name| (name, entry.path())));
    }
    found.sort();
    let Some((first, path)) = found.first() else { return Ok(None) };
    let bytes = u32::try_from(fs::metadata(path)?.len())?;
    let size = SegmentSize::new(bytes).with_context(|| format!("{} has {bytes} bytes", path.display()))?;
    let start = first.start(size).with_context(|| format!("{first} has no position"))?;
    let row =
        found.iter().zip(0..).take_while(|((name, _), i)| name.start(size) == Some(Lsn(start.0 + i * size.bytes())));
    Ok(Some((start, Lsn(start.0 + row.count() as u64 * size.bytes()))))
}

fn read_endings(records: &str) -> Vec<Ending> {
    let mut load = HashSet::new();
    let mut endings = Vec::new();
    for line in records.lines() {
        if line.starts_with("rmgr: LogicalMessage") && line.contains(MARK) {
            load.extend(field(line, "tx:").and_then(|xid| xid.parse::<u64>().ok()));
        } else if let Some(ending) = parse_ending(line) {
            endings.push(Ending { load: load.contains(&ending.xid), ..ending });
        }
    }
    endings
}

/// A line such as `rmgr: Transaction len (rec/tot): 34/ 34, tx: 735, lsn: 0/0151D2F0, prev 0/0151D2B0, desc: COMMIT
/// 2026-11-20 14:25:00.123456 UTC; …`.
fn parse_ending(line: &str) -> Option<Ending> {
    let (head, desc) = line.strip_prefix("rmgr: Transaction")?.split_once("desc: ")?;
    let mut words = desc.split([' ', ';']);
    let committed = match words.next()? {
        "COMMIT" => true,
        "ABORT" => false,
        _ => return None,
    };
    let time = format!("{} {}", words.next()?, words.next()?);
    Some(Ending {
        lsn: field(head, "lsn:")?.parse().ok()?,
        xid: field(head, "tx:")?.parse().ok()?,
        time: NaiveDateTime::parse_from_str(&time, "%Y-%m-%d %H:%M:%S%.f").ok()?.and_utc(),
        committed,
        load: false,
    })
}

fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.split_once(name)?.1.split_whitespace().next().map(|word| word.trim_end_matches(','))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DUMP: &str = "\
rmgr: LogicalMessage len (rec/tot):     66/    66, tx:        740, lsn: 0/01A4D0E8, prev 0/01A4D0B0, desc: MESSAGE transactional, prefix \"holdfast-load\"; payload (0 bytes): 
rmgr: Transaction len (rec/tot):     46/    46, tx:        740, lsn: 0/01A4D500, prev 0/01A4D4C8, desc: COMMIT 2026-11-20 14:25:00.300000 UTC
rmgr: Transaction len (rec/tot):     82/    82, tx:        739, lsn: 0/01A4D600, prev 0/01A4D500, desc: COMMIT 2026-11-20 14:25:00.100000 UTC; inval msgs: catcache 21
rmgr: Transaction len (rec/tot):     34/    34, tx:        741, lsn: 0/01A4D700, prev 0/01A4D600, desc: ABORT 2026-11-20 14:25:00.200000 UTC
rmgr: Heap        len (rec/tot):     59/   123, tx:        742, lsn: 0/01A4D800, prev 0/01A4D700, desc: LOCK off 1";

    #[test]
    fn a_moment_ends_at_the_first_later_record() {
        let oracle = Oracle { endings: read_endings(DUMP) };
        assert_eq!(oracle.endings().len(), 3);
        assert_eq!(oracle.all(), BTreeSet::from([740]));
        let at = |text: &str| DateTime::parse_from_rfc3339(text).unwrap().to_utc();
        assert_eq!(oracle.at_time(at("2026-11-20T14:25:00.25Z")), BTreeSet::new());
        assert_eq!(oracle.at_time(at("2026-11-20T14:25:00.30Z")), BTreeSet::from([740]));
        let lsn = "0/1A4D500".parse().unwrap();
        assert_eq!(oracle.at_lsn(lsn, false), BTreeSet::new());
        assert_eq!(oracle.at_lsn(lsn, true), BTreeSet::from([740]));
    }

    #[test]
    fn a_history_is_a_path() {
        let path = parse_history("1\t0/3000000\tno recovery target specified\n\n2\t0/5000100\tbefore x\n").unwrap();
        assert_eq!(path, [(TimelineId(1), Some(Lsn(0x0300_0000))), (TimelineId(2), Some(Lsn(0x0500_0100)))]);
    }
}
