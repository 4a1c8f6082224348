//! Where in the WAL a moment lies: the record at which a recovery would stop, what it would still bring back and what
//! it would lose.
//!
//! Answers come from the records themselves, in the order of the WAL: commit times are not ordered, so a clock can tell
//! neither where a recovery stops nor which transactions it brings back. The rules of stopping are PostgreSQL's own
//! (`recoveryStopsBefore` and `recoveryStopsAfter` in `src/backend/access/transam/xlogrecovery.c`).

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use chrono::{DateTime, Utc};

use crate::codec::decoder;
use crate::pg::wal_page::{LongHeader, first_page_matches};
use crate::pg::wal_reader::{Event, Parameters, Record, RecordKind, RecordReader, WalEnd};
use crate::pg::{ArchiveName, Lsn, WalSegmentName};
use crate::repo::chain::Route;
use crate::report::{Cancel, Interrupted, Progress};

use super::walk::{self, Ending, Source, Stretch};
use super::{Identity, Repository, segments};

/// A moment that a recovery can go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Moment {
    /// Before the first transaction, in the order of the WAL, that ended later (`recovery_target_time`); looked at to
    /// the microsecond.
    Time(DateTime<Utc>),
    /// After the first record that begins there or later (`recovery_target_lsn`).
    Lsn(Lsn),
    /// After the end of this transaction (`recovery_target_xid`); an epoch above the lower 32 bits is dropped, as
    /// PostgreSQL does. The number of a subtransaction is found nowhere.
    Xid(u64),
    /// After the first restore point of this name (`recovery_target_name`).
    Name(String),
    /// The end of all WAL.
    End,
}

/// What is looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The moment.
    pub moment: Moment,
    /// Stop just before it (`recovery_target_inclusive = off`); means nothing for a restore point and for the end.
    pub exclusive: bool,
}

impl Question {
    /// Whether a recovery to this moment stops before it replays the record (`recoveryStopsBefore`).
    pub fn stops_before(&self, record: &Record) -> bool {
        let ended = record.kind.transaction();
        match &self.moment {
            Moment::Time(time) => ended.is_some_and(|end| {
                let (end, target) = (end.time.timestamp_micros(), time.timestamp_micros());
                end > target || (self.exclusive && end == target)
            }),
            Moment::Lsn(position) => self.exclusive && record.start >= *position,
            Moment::Xid(xid) => self.exclusive && ended.is_some_and(|end| is_same_xid(end.xid, *xid)),
            Moment::Name(_) | Moment::End => false,
        }
    }

    /// Whether a recovery to this moment stops once it has replayed the record (`recoveryStopsAfter`).
    pub fn stops_after(&self, record: &Record) -> bool {
        match &self.moment {
            Moment::Lsn(position) => !self.exclusive && record.start >= *position,
            Moment::Xid(xid) => {
                !self.exclusive && record.kind.transaction().is_some_and(|end| is_same_xid(end.xid, *xid))
            }
            Moment::Name(_) => self.is_named(record),
            Moment::Time(_) | Moment::End => false,
        }
    }

    fn is_named(&self, record: &Record) -> bool {
        matches!((&self.moment, &record.kind), (Moment::Name(wanted), RecordKind::RestorePoint { name, .. }) if wanted == name)
    }
}

fn is_same_xid(found: u32, wanted: u64) -> bool {
    u64::from(found) == wanted & u64::from(u32::MAX)
}

/// A committed transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transaction {
    /// Its number, without an epoch.
    pub xid: u32,
    /// When it was committed.
    pub time: DateTime<Utc>,
    /// Where its commit record begins: as an exclusive position target this is the moment just before it, as an
    /// inclusive one the moment just after.
    pub lsn: Lsn,
}

impl Transaction {
    fn of(record: &Record) -> Option<Self> {
        let end = record.kind.transaction().filter(|_| record.kind.is_commit())?;
        Some(Self { xid: end.xid, time: end.time, lsn: record.start })
    }
}

/// The record at which a recovery stops.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    /// Where the record begins.
    pub record_start: Lsn,
    /// What it is; for the end of a transaction with its number and time.
    pub kind: RecordKind,
    /// Whether it is replayed itself.
    pub included: bool,
    /// Where replay then stands: the end of the last record replayed. A promoted server's timeline forks off here.
    pub replay_end: Lsn,
}

/// A restore point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestorePoint {
    /// Where its record begins; as an inclusive position target it means this one and no other of its name.
    pub lsn: Lsn,
    /// When it was made.
    pub time: DateTime<Utc>,
}

/// A tablespace that replay creates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTablespace {
    /// Where its record begins: as an exclusive position target this is the moment just before it.
    pub lsn: Lsn,
    /// Its object id.
    pub oid: u32,
    /// Where replay creates it; empty for one within the data directory.
    pub location: PathBuf,
}

/// Why the reading ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// All that was asked is known.
    Answered,
    /// At the position up to which it was to read.
    Until,
    /// This segment is nowhere to be had.
    Missing(WalSegmentName),
    /// In this segment the WAL does not go on.
    Invalid(WalSegmentName, WalEnd),
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// Where a recovery stops; `None` when it would come to the end of the WAL without reaching its target.
    pub stop: Option<Stop>,
    /// The last commit that it brings back, if any of those read.
    pub last_before: Option<Transaction>,
    /// The first commit, in the order of the WAL, that it does not bring back.
    pub first_after: Option<Transaction>,
    /// The last commit that was read, before or after.
    pub last_transaction: Option<Transaction>,
    /// The end of the last record that was read; the position to read from when there was none.
    pub end_of_wal: Lsn,
    /// All restore points of the wanted name, in order; with more than one the name alone is ambiguous.
    pub occurrences: Vec<RestorePoint>,
    /// The tablespaces that a recovery creates on the way, in order.
    pub tablespaces: Vec<NewTablespace>,
    /// The settings that it meets on the way; of those that were changed several times the highest values.
    pub parameters: Option<Parameters>,
    /// Why the reading ended.
    pub ended: Ended,
}

impl Located {
    /// The segment that could not be had, when that is what ended the reading.
    pub fn missing(&self) -> Option<WalSegmentName> {
        match self.ended {
            Ended::Missing(segment) => Some(segment),
            Ended::Answered | Ended::Until | Ended::Invalid(..) => None,
        }
    }
}

/// Reads the WAL along `route` from the record that begins at `from` (a backup's start) and finds the moment asked for.
///
/// `source` gives the plain bytes of a segment, or `None` when it is nowhere. Records that begin at `until` or later
/// are not looked at. Reading ends as soon as the stop and the first commit after it are known; for a restore point it
/// goes on to the end, since the name may come again. What goes wrong behind the stop ends the reading and is no error:
/// no recovery to this moment needs that WAL. Segments are streamed; memory is constant. The first segment of a
/// timeline that forked off is the child's copy, so nothing that the parent wrote behind the fork is seen.
pub fn locate(
    route: &Route,
    source: &mut Source<'_>,
    from: Lsn,
    until: Option<Lsn>,
    question: &Question,
    cancel: &Cancel,
    progress: &dyn Progress,
) -> anyhow::Result<Located> {
    let mut search = Search::new(question, from, until);
    progress.begin("read WAL", until.map(|until| until.0.saturating_sub(from.0)));
    let ended = search.read_along(route, source, cancel, progress);
    progress.end();
    Ok(Located { ended: ended?, ..search.located })
}

/// The last commit before `until`, as far as the WAL can be read: what is missing or damaged ends the reading and is no
/// error. Otherwise as [`locate`].
pub fn last_commit(
    route: &Route,
    source: &mut Source<'_>,
    from: Lsn,
    until: Lsn,
    cancel: &Cancel,
    progress: &dyn Progress,
) -> anyhow::Result<Option<Transaction>> {
    let question = Question { moment: Moment::End, exclusive: false };
    let mut search = Search::new(&question, from, Some(until));
    progress.begin("read WAL", Some(until.0.saturating_sub(from.0)));
    let ended = search.read_along(route, source, cancel, progress);
    progress.end();
    match ended {
        Err(err) if err.downcast_ref::<Interrupted>().is_some() => Err(err),
        _ => Ok(search.located.last_transaction),
    }
}

/// What is known so far.
struct Search<'a> {
    question: &'a Question,
    from: Lsn,
    until: Option<Lsn>,
    located: Located,
    /// Why it broke the reading off.
    ended: Ended,
}

impl<'a> Search<'a> {
    fn new(question: &'a Question, from: Lsn, until: Option<Lsn>) -> Self {
        let located = Located {
            stop: None,
            last_before: None,
            first_after: None,
            last_transaction: None,
            end_of_wal: from,
            occurrences: Vec::new(),
            tablespaces: Vec::new(),
            parameters: None,
            ended: Ended::Until,
        };
        Self { question, from, until, located, ended: Ended::Answered }
    }

    fn read_along(
        &mut self,
        route: &Route,
        source: &mut Source<'_>,
        cancel: &Cancel,
        progress: &dyn Progress,
    ) -> anyhow::Result<Ended> {
        let mut reader = RecordReader::new(self.from, route.segment_size());
        let stretch = Stretch { route, from: self.from, until: self.until };
        let mut each = |event| match event {
            Event::Record(record) => self.see(record),
            Event::Listed(_) => ControlFlow::Continue(()),
        };
        match walk::along(stretch, source, &mut reader, cancel, progress, &mut each) {
            Ok(Ending::Until) => Ok(Ended::Until),
            Ok(Ending::Missing(name)) => Ok(Ended::Missing(name)),
            Ok(Ending::Invalid(name, end)) => Ok(Ended::Invalid(name, end)),
            Ok(Ending::Broken) => Ok(self.ended),
            Err(err) if self.located.stop.is_none() || err.downcast_ref::<Interrupted>().is_some() => Err(err),
            // Nothing behind the stop is needed for it.
            Err(_) => Ok(Ended::Answered),
        }
    }

    /// Takes the next record; breaks when no more are wanted.
    fn see(&mut self, record: Record) -> ControlFlow<()> {
        if self.until.is_some_and(|until| record.start >= until) {
            self.ended = Ended::Until;
            return ControlFlow::Break(());
        }
        let found = &mut self.located;
        let commit = Transaction::of(&record);
        let stops_before = found.stop.is_none() && self.question.stops_before(&record);
        let replayed = found.stop.is_none() && !stops_before;
        let stops_after = replayed && self.question.stops_after(&record);
        if replayed {
            found.last_before = commit.or(found.last_before);
            if let RecordKind::TablespaceCreated { oid, location } = &record.kind {
                let (lsn, location) = (record.start, location.clone());
                found.tablespaces.push(NewTablespace { lsn, oid: *oid, location });
            }
            if let RecordKind::ParametersChanged(parameters) = &record.kind {
                found.parameters = Some(found.parameters.map_or(*parameters, |known| known.highest(parameters)));
            }
        } else {
            found.first_after = found.first_after.or(commit);
        }
        if let (true, RecordKind::RestorePoint { time, .. }) = (self.question.is_named(&record), &record.kind) {
            found.occurrences.push(RestorePoint { lsn: record.start, time: *time });
        }
        if stops_before || stops_after {
            let replay_end = if stops_after { record.end } else { found.end_of_wal };
            let (record_start, kind) = (record.start, record.kind);
            found.stop = Some(Stop { record_start, kind, included: stops_after, replay_end });
        }
        found.last_transaction = commit.or(found.last_transaction);
        found.end_of_wal = record.end;
        let answered = found.stop.is_some() && found.first_after.is_some();
        if answered && !matches!(self.question.moment, Moment::Name(_)) {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }
}

/// Gives segments from a repository, else from the first of these folders that has it, a server's own `pg_wal` say: a file
/// whose first page is what its name says; recycled ones, which wait under a future name, count as absent.
pub fn reader<'a>(
    repository: &'a Repository,
    identity: Identity,
    folders: &'a [PathBuf],
) -> impl FnMut(WalSegmentName) -> anyhow::Result<Option<Box<dyn Read + Send>>> + 'a {
    move |name| {
        let archived = segments::locate(repository, identity.system_identifier, ArchiveName::Segment(name))
            .with_context(|| format!("look for {name} in {}", repository.describe()))?;
        if let Some((key, codec)) = archived {
            let reading = || format!("read {key} in {}", repository.describe());
            let stored = repository.store().get(&key).with_context(reading)?;
            return Ok(Some(decoder(codec, stored).with_context(reading)?));
        }
        for folder in folders {
            if let Some(found) = live_segment(&folder.join(name.to_string()), name, &identity)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}

fn live_segment(
    path: &Path,
    name: WalSegmentName,
    identity: &Identity,
) -> anyhow::Result<Option<Box<dyn Read + Send>>> {
    let reading = || format!("read {}", path.display());
    let mut file = match File::open(path) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.with_context(reading)?,
    };
    let mut first = Vec::new();
    file.by_ref().take(LongHeader::SIZE as u64).read_to_end(&mut first).with_context(reading)?;
    file.seek(SeekFrom::Start(0)).with_context(reading)?;
    let size = file.metadata().with_context(reading)?.len();
    let genuine =
        size == identity.segment_size.bytes() && first_page_matches(&first, name, &identity.expected()).is_ok();
    Ok(genuine.then(|| Box::new(file) as Box<dyn Read + Send>))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Compression;
    use crate::pg::wal_reader::testing::{SIZE, SYSTEM, Writer};
    use crate::pg::{SegmentSize, TimelineHistory, TimelineId};
    use crate::report::Silent;
    use crate::store::MemoryStore;
    use rstest::rstest;
    use std::collections::BTreeMap;
    use std::io::Write as _;
    use std::sync::Arc;

    const FIRST: u64 = 3;

    fn size() -> SegmentSize {
        SegmentSize::new(SIZE).unwrap()
    }

    fn at(micros: i64) -> DateTime<Utc> {
        DateTime::from_timestamp_micros(946_684_800_000_000 + micros).unwrap()
    }

    fn name(timeline: u32, number: u64) -> WalSegmentName {
        WalSegmentName::numbered(TimelineId(timeline), number, size())
    }

    type Segments = BTreeMap<WalSegmentName, Vec<u8>>;

    fn segments(log: &Writer, timeline: u32) -> Segments {
        let chunks = log.bytes.chunks(SIZE as usize);
        std::iter::zip(FIRST.., chunks).map(|(number, bytes)| (name(timeline, number), bytes.to_vec())).collect()
    }

    fn ask(segments: &Segments, route: &Route, moment: Moment, exclusive: bool) -> Located {
        let mut source = |name| {
            let bytes: Option<Vec<u8>> = segments.get(&name).cloned();
            Ok(bytes.map(|bytes| Box::new(io::Cursor::new(bytes)) as Box<dyn Read + Send>))
        };
        let question = Question { moment, exclusive };
        let from = Lsn(FIRST << 20);
        locate(route, &mut source, from, None, &question, &Cancel::default(), &Silent).unwrap()
    }

    fn straight() -> Route {
        Route::new(TimelineHistory::root(TimelineId(1)), size())
    }

    /// Three segments. Commit times go back once: 10, 30, 20, 40; an abort at 25; "here" twice.
    fn world() -> (Segments, BTreeMap<&'static str, (Lsn, Lsn)>) {
        let mut log = Writer::new(FIRST);
        let mut spans = BTreeMap::new();
        spans.insert("first", log.filler(100));
        spans.insert("commit 10", log.commit(100, 10));
        spans.insert("commit 30", log.commit(101, 30));
        spans.insert("here", log.restore_point("here", 31));
        spans.insert("switch", log.switch());
        spans.insert("commit 20", log.commit(102, 20));
        spans.insert("abort", log.abort(103, 25));
        log.filler(1 << 20);
        spans.insert("commit 40", log.commit(104, 40));
        spans.insert("here again", log.restore_point("here", 41));
        log.restore_point("elsewhere", 42);
        spans.insert("last", log.commit(105, 50));
        log.pad();
        (segments(&log, 1), spans)
    }

    fn xids(located: &Located) -> (Option<u32>, Option<u32>) {
        (located.last_before.map(|found| found.xid), located.first_after.map(|found| found.xid))
    }

    #[rstest]
    #[case::before_all(9, false, "commit 10", "first", None, 100)]
    #[case::exactly(10, false, "commit 30", "commit 10", Some(100), 101)]
    #[case::exactly_exclusive(10, true, "commit 10", "first", None, 100)]
    #[case::the_later_time_comes_first(29, false, "commit 30", "commit 10", Some(100), 101)]
    #[case::behind_the_disorder(35, false, "commit 40", "filler", Some(102), 104)]
    fn a_time_stops_before_the_first_later_record(
        #[case] micros: i64,
        #[case] exclusive: bool,
        #[case] stop: &str,
        #[case] before: &str,
        #[case] last: Option<u32>,
        #[case] next: u32,
    ) {
        let (segments, spans) = world();
        let located = ask(&segments, &straight(), Moment::Time(at(micros)), exclusive);
        let found = located.stop.clone().unwrap();
        assert_eq!(found.record_start, spans[stop].0);
        assert!(!found.included);
        assert_eq!(found.replay_end, spans.get(before).map_or(spans[stop].0, |(_, end)| *end));
        assert_eq!(xids(&located), (last, Some(next)));
        assert_eq!(located.ended, Ended::Answered);
    }

    #[test]
    fn an_abort_stops_a_time_too() {
        let mut log = Writer::new(FIRST);
        log.commit(1, 10);
        let abort = log.abort(2, 20);
        log.commit(3, 5);
        let located = ask(&segments(&log, 1), &straight(), Moment::Time(at(15)), false);
        assert_eq!(located.stop.as_ref().unwrap().record_start, abort.0);
        assert_eq!(xids(&located), (Some(1), Some(3)));
    }

    #[test]
    fn a_time_after_the_end_is_not_reached() {
        let (segments, spans) = world();
        let located = ask(&segments, &straight(), Moment::Time(at(50)), false);
        assert_eq!(located.stop, None);
        assert_eq!(located.end_of_wal, spans["last"].1);
        assert_eq!(located.last_transaction, located.last_before);
        assert_eq!(located.last_before.unwrap().lsn, spans["last"].0);
        let last = *segments.keys().next_back().unwrap();
        assert_eq!(located.ended, Ended::Invalid(last, WalEnd::Blank { at: spans["last"].1 }));
        assert_eq!(located.missing(), None);
    }

    #[rstest]
    #[case::inclusive(101, false, "commit 30", "commit 30", Some(101), 102)]
    #[case::exclusive(101, true, "commit 30", "commit 10", Some(100), 102)]
    #[case::with_an_epoch((7 << 32) + 101, false, "commit 30", "commit 30", Some(101), 102)]
    #[case::rolled_back(103, false, "abort", "abort", Some(102), 104)]
    fn a_transaction_stops_at_its_end(
        #[case] xid: u64,
        #[case] exclusive: bool,
        #[case] stop: &str,
        #[case] replayed: &str,
        #[case] last: Option<u32>,
        #[case] next: u32,
    ) {
        let (segments, spans) = world();
        let located = ask(&segments, &straight(), Moment::Xid(xid), exclusive);
        let found = located.stop.clone().unwrap();
        assert_eq!((found.record_start, found.included), (spans[stop].0, !exclusive));
        assert_eq!(found.replay_end, spans[replayed].1);
        let next = if exclusive { u32::try_from(xid).unwrap() } else { next };
        assert_eq!(xids(&located), (last, Some(next)));
        assert_eq!(found.kind.transaction().map(|end| u64::from(end.xid)), Some(xid & 0xFFFF_FFFF));
    }

    #[rstest]
    #[case::on_a_record("commit 30", 0, false, "commit 30", Some(101), 102)]
    #[case::within_a_record("commit 10", 8, false, "commit 30", Some(101), 102)]
    #[case::just_before("commit 30", 0, true, "commit 10", Some(100), 101)]
    #[case::over_a_switch("switch", 8, true, "switch", Some(101), 102)]
    #[case::the_start("first", 0, false, "first", None, 100)]
    fn a_position_is_compared_with_the_starts_of_records(
        #[case] record: &str,
        #[case] plus: u64,
        #[case] exclusive: bool,
        #[case] replayed: &str,
        #[case] last: Option<u32>,
        #[case] next: u32,
    ) {
        let (segments, spans) = world();
        let target = Lsn(spans[record].0.0 + plus);
        let located = ask(&segments, &straight(), Moment::Lsn(target), exclusive);
        assert_eq!(located.stop.as_ref().unwrap().replay_end, spans[replayed].1);
        assert_eq!(xids(&located), (last, Some(next)));
    }

    #[test]
    fn all_restore_points_of_the_name_are_told() {
        let (segments, spans) = world();
        let located = ask(&segments, &straight(), Moment::Name("here".to_owned()), true);
        let stop = located.stop.clone().unwrap();
        assert_eq!((stop.record_start, stop.included, stop.replay_end), (spans["here"].0, true, spans["here"].1));
        let places: Vec<Lsn> = located.occurrences.iter().map(|found| found.lsn).collect();
        assert_eq!(places, [spans["here"].0, spans["here again"].0]);
        assert_eq!(located.occurrences[1].time, at(41));
        assert_eq!(xids(&located), (Some(101), Some(102)));
        let nowhere = ask(&segments, &straight(), Moment::Name("nowhere".to_owned()), false);
        assert_eq!((nowhere.stop, nowhere.occurrences), (None, vec![]));
    }

    #[test]
    fn a_missing_segment_matters_only_before_the_stop() {
        let (mut segments, spans) = world();
        segments.remove(&name(1, FIRST + 1));
        let located = ask(&segments, &straight(), Moment::End, false);
        assert_eq!(located.missing(), Some(name(1, FIRST + 1)));
        assert_eq!(located.end_of_wal, spans["switch"].1);
        let located = ask(&segments, &straight(), Moment::Xid(101), false);
        assert!(located.stop.is_some());
        assert_eq!(xids(&located), (Some(101), None));
    }

    #[test]
    fn an_unreadable_segment_matters_only_before_the_stop() {
        let (segments, _) = world();
        let route = straight();
        let read = |xid| {
            let mut source = |wanted| {
                anyhow::ensure!(wanted == name(1, FIRST), "the disk is broken");
                Ok(segments.get(&wanted).cloned().map(|bytes| Box::new(io::Cursor::new(bytes)) as Box<dyn Read + Send>))
            };
            let question = Question { moment: Moment::Xid(xid), exclusive: false };
            locate(&route, &mut source, Lsn(FIRST << 20), None, &question, &Cancel::default(), &Silent)
        };
        assert_eq!(read(101).unwrap().ended, Ended::Answered);
        let error = format!("{:#}", read(102).unwrap_err());
        assert_eq!(error, "read WAL segment 000000010000000000000004: the disk is broken");
    }

    #[test]
    fn the_last_commit_is_found_before_damage_and_before_a_position() {
        let (mut segments, spans) = world();
        let find = |segments: &Segments, until| {
            let mut source = |wanted| {
                let plain = segments.get(&wanted).cloned();
                Ok(plain.map(|bytes| Box::new(io::Cursor::new(bytes)) as Box<dyn Read + Send>))
            };
            let found = last_commit(&straight(), &mut source, Lsn(FIRST << 20), until, &Cancel::default(), &Silent);
            found.unwrap().map(|last| last.xid)
        };
        let end = Lsn(u64::MAX);
        assert_eq!(find(&segments, spans["commit 20"].0), Some(101));
        assert_eq!(find(&segments, spans["commit 20"].1), Some(102));
        segments.get_mut(&name(1, FIRST + 1)).unwrap().truncate(50);
        assert_eq!(find(&segments, end), Some(101));
        segments.clear();
        assert_eq!(find(&segments, end), None);
    }

    #[test]
    fn a_cut_off_segment_is_an_error() {
        let (mut segments, _) = world();
        segments.get_mut(&name(1, FIRST + 1)).unwrap().truncate(500_000);
        let mut source = |wanted| {
            Ok(segments.get(&wanted).cloned().map(|bytes| Box::new(io::Cursor::new(bytes)) as Box<dyn Read + Send>))
        };
        let question = Question { moment: Moment::End, exclusive: false };
        let error = locate(&straight(), &mut source, Lsn(FIRST << 20), None, &question, &Cancel::default(), &Silent);
        let message = format!("{:#}", error.unwrap_err());
        assert!(message.ends_with("it has 500000 bytes, a segment of this cluster has 1048576"), "{message}");
    }

    #[test]
    fn nothing_at_or_behind_until_is_looked_at() {
        let (segments, spans) = world();
        let mut asked = Vec::new();
        let mut source = |wanted| {
            asked.push(wanted);
            Ok(segments.get(&wanted).cloned().map(|bytes| Box::new(io::Cursor::new(bytes)) as Box<dyn Read + Send>))
        };
        let question = Question { moment: Moment::End, exclusive: false };
        let until = Some(spans["abort"].0);
        let from = spans["commit 30"].0;
        let located = locate(&straight(), &mut source, from, until, &question, &Cancel::default(), &Silent).unwrap();
        assert_eq!((located.ended, located.end_of_wal), (Ended::Until, spans["commit 20"].1));
        assert_eq!(located.last_before.map(|found| found.xid), Some(102));
        assert_eq!(asked, [name(1, FIRST), name(1, FIRST + 1)]);
    }

    #[test]
    fn a_cancellation_is_heard() {
        let (segments, _) = world();
        let cancel = Cancel::default();
        cancel.cancel();
        let mut source = |wanted| {
            Ok(segments.get(&wanted).cloned().map(|bytes| Box::new(io::Cursor::new(bytes)) as Box<dyn Read + Send>))
        };
        let question = Question { moment: Moment::End, exclusive: false };
        let error = locate(&straight(), &mut source, Lsn(FIRST << 20), None, &question, &cancel, &Silent).unwrap_err();
        assert!(error.downcast_ref::<Interrupted>().is_some());
    }

    #[test]
    fn what_the_parent_wrote_behind_the_fork_is_not_seen() {
        let mut parent = Writer::new(FIRST);
        parent.filler(1_200_000);
        let fork = parent.commit(1, 10).1;
        let mut child = parent.clone();
        parent.commit(2, 20);
        child.timeline = 2;
        child.commit(12, 15);
        child.filler(20_000);
        child.commit(13, 30);
        let mut all = segments(&parent, 1);
        all.extend(segments(&child, 2));
        let history = format!("1\t{fork}\tno reason\n");
        let route = Route::new(TimelineHistory::parse(TimelineId(2), history.as_bytes()).unwrap(), size());
        all.remove(&name(2, FIRST));
        let located = ask(&all, &route, Moment::Time(at(18)), false);
        assert_eq!(xids(&located), (Some(12), Some(13)));
        let stay = ask(&all, &straight(), Moment::Time(at(18)), false);
        assert_eq!(xids(&stay), (Some(1), Some(2)));
    }

    #[test]
    fn the_archive_comes_first_then_genuine_files_of_the_server() {
        let (segments, _) = world();
        let identity = Identity { system_identifier: SYSTEM, segment_size: size(), major: Some(15) };
        let now = at(0);
        let cluster = crate::repo::ClusterName::default();
        let compression = Compression::usual(crate::codec::Codec::Zstd);
        let repository = Repository::open_or_create(Arc::new(MemoryStore::new()), cluster, compression, now).unwrap();
        let live = tempfile::tempdir().unwrap();
        let write = |name: WalSegmentName, bytes: &[u8]| {
            File::create(live.path().join(name.to_string())).unwrap().write_all(bytes).unwrap();
        };
        let [first, second, third] = [0, 1, 2].map(|number| name(1, FIRST + number));
        write(first, &segments[&first]);
        let path = live.path().join(first.to_string());
        segments::put(&repository, &identity, ArchiveName::Segment(first), &path, &Cancel::default()).unwrap();
        write(first, b"something else");
        write(second, &segments[&second]);
        // A recycled file: an older segment under the name of one to come.
        write(third, &segments[&first]);
        let places = [live.path().to_path_buf()];
        let mut source = reader(&repository, identity, &places);
        let mut plain = |name| {
            let mut bytes = Vec::new();
            source(name).unwrap().map(|mut segment| segment.read_to_end(&mut bytes).map(|_| bytes).unwrap())
        };
        assert_eq!(plain(first).as_ref(), Some(&segments[&first]));
        assert_eq!(plain(second).as_ref(), Some(&segments[&second]));
        assert_eq!(plain(third), None);
        assert_eq!(plain(name(1, 99)), None);
        let mut archived_only = reader(&repository, identity, &[]);
        assert!(archived_only(second).unwrap().is_none());
    }
}
