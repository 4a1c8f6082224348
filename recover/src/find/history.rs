//! Takes in the log, event by event, and keeps the findings. Pure: memory is bounded whatever comes.

use std::collections::{HashMap, VecDeque};

use chrono::{DateTime, Utc};
use common::pg::Lsn;
use common::pg::catalog::{CatalogChange, Catalogs};
use common::pg::exclusions::Fork;
use common::pg::wal_reader::{Event, HeapRecord, Listed, Operation, Record, RecordKind, TransactionEnd};
use common::repo::chain::Route;

use super::finding::Finding;
use super::judge::{Gone, Rules, judge};
use super::work::{Open, Work};

/// Removed files of one commit that are looked at.
const FILES_MAX: usize = 100_000;

/// Which commits are told.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    /// Committed at this time or later.
    pub(crate) from_time: Option<DateTime<Utc>>,
    /// Committed at this time or before.
    pub(crate) to_time: Option<DateTime<Utc>>,
    /// Their commit records begin here or later,
    pub(crate) from_lsn: Lsn,
    /// and before this.
    pub(crate) to_lsn: Option<Lsn>,
}

impl Window {
    fn holds(&self, lsn: Lsn, time: DateTime<Utc>) -> bool {
        lsn >= self.from_lsn
            && self.to_lsn.is_none_or(|to| lsn < to)
            && self.from_time.is_none_or(|from| time >= from)
            && self.to_time.is_none_or(|to| time <= to)
    }
}

/// What the record that comes next has listed so far.
#[derive(Debug, Default)]
struct Pieces {
    gone: Gone,
    /// What its subtransactions did.
    work: Work,
    has_work: bool,
    mappings: Vec<(u32, u32)>,
    tables: Vec<u32>,
}

/// What was read so far, and found.
#[derive(Debug)]
pub(crate) struct History<'a> {
    route: &'a Route,
    window: Window,
    rules: Rules,
    count_max: usize,
    catalogs: Catalogs,
    open: Open,
    pieces: Pieces,
    /// Where databases were made inaccessible that are not dropped yet.
    invalidated: HashMap<u32, Lsn>,
    /// Oldest first.
    findings: VecDeque<Finding>,
    /// Counts.
    pub(crate) counts: Counts,
}

/// What there is to say of the whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Findings that are left out because there are newer ones enough.
    pub(crate) older: u64,
    /// Commits that only wrote relations anew.
    pub(crate) rewrites: u64,
    /// Commits in the window.
    pub(crate) commits: u64,
    /// The first and last of them by their times.
    pub(crate) times: Option<(DateTime<Utc>, DateTime<Utc>)>,
    /// The end of the last record.
    pub(crate) end: Lsn,
    /// Whether some transactions did more than could be kept in mind.
    pub(crate) is_partial: bool,
}

impl<'a> History<'a> {
    /// Nothing was read yet; at most `count_max` findings are kept, the newest.
    pub(crate) fn new(route: &'a Route, window: Window, rules: Rules, count_max: usize, catalogs: Catalogs) -> Self {
        Self {
            route,
            window,
            rules,
            count_max,
            catalogs,
            open: Open::default(),
            pieces: Pieces::default(),
            invalidated: HashMap::new(),
            findings: VecDeque::new(),
            counts: Counts::default(),
        }
    }

    /// Takes in what comes next.
    pub(crate) fn see(&mut self, event: Event) {
        match event {
            Event::Listed(item) => self.listed(item),
            Event::Record(record) => {
                let pieces = std::mem::take(&mut self.pieces);
                self.counts.end = record.end;
                self.record(&record, pieces);
            }
        }
    }

    /// The findings, newest first, and the counts.
    pub(crate) fn finish(mut self) -> (Vec<Finding>, Counts) {
        self.counts.is_partial |= self.open.forgotten > 0 || self.catalogs.is_full();
        (self.findings.into_iter().rev().collect(), self.counts)
    }

    fn listed(&mut self, item: Listed) {
        let pieces = &mut self.pieces;
        match item {
            Listed::Relation(file) if pieces.gone.files.len() < FILES_MAX => pieces.gone.files.push(file),
            Listed::Relation(_) => pieces.gone.beyond += 1,
            Listed::Subtransaction(xid) => {
                // Should this record turn out to be torn, the log ends here and nothing of them ever counts.
                if let Some(work) = self.open.take(xid) {
                    pieces.work.add(work);
                    pieces.has_work = true;
                }
            }
            Listed::Mapping { catalog, relnumber } => pieces.mappings.push((catalog, relnumber)),
            Listed::Table(oid) => pieces.tables.push(oid),
            Listed::Tablespace(_) => {}
        }
    }

    fn record(&mut self, record: &Record, pieces: Pieces) {
        let (xid, start) = (record.xid, record.start);
        match &record.kind {
            RecordKind::Heap(heap) => self.heap(record, heap),
            RecordKind::RelationCreated { relation, fork: Fork::Main } => {
                self.open.note(xid, start, |work| work.created.extend([*relation]));
            }
            RecordKind::TablesTruncated { database, .. } => {
                let tables = pieces.tables.into_iter().map(|oid| (*database, oid));
                self.open.note(xid, start, |work| work.truncated.extend(tables));
            }
            RecordKind::DatabaseDropped { database, .. } => {
                let begins = self.invalidated.remove(database).unwrap_or(start);
                self.open.note(xid, start, |work| {
                    work.dropped_databases.insert(*database);
                    work.begins = Some(work.begins.map_or(begins, |known| known.min(begins)));
                });
            }
            RecordKind::DatabaseCreated { folder, copied: Some(from) } if folder.database != from.database => {
                self.catalogs.copy_database(from.database, folder.database);
            }
            RecordKind::MapUpdated(folder) => {
                for (catalog, relnumber) in pieces.mappings {
                    self.catalogs.map(folder.database, catalog, relnumber);
                }
            }
            RecordKind::Commit(end) | RecordKind::CommitPrepared(end) => self.commit(record, *end, pieces),
            RecordKind::Abort(end) | RecordKind::AbortPrepared(end) => drop(self.open.take(end.xid)),
            _ => {}
        }
    }

    fn heap(&mut self, record: &Record, heap: &HeapRecord) {
        let Some(change) = heap.change() else { return };
        let (xid, start) = (record.xid, record.start);
        if let Operation::Delete { place, is_loss: true } = change.operation {
            self.open.count_row(xid, start, place.relation);
        }
        match self.catalogs.apply(&change) {
            Some(CatalogChange::Relation(change)) => {
                self.open.note(xid, start, |work| work.changes.push((start, change)));
            }
            Some(CatalogChange::DatabaseDeleted(_)) => {
                self.open.note(xid, start, |work| work.begins = Some(work.begins.unwrap_or(start)));
            }
            Some(CatalogChange::DatabaseInvalidated(oid)) => {
                self.invalidated.entry(oid).or_insert(start);
            }
            None => {}
        }
    }

    fn commit(&mut self, record: &Record, end: TransactionEnd, pieces: Pieces) {
        let own = self.open.take(end.xid);
        let in_window = self.window.holds(record.start, end.time);
        if in_window {
            self.counts.commits += 1;
            let (first, last) = self.counts.times.unwrap_or((end.time, end.time));
            self.counts.times = Some((first.min(end.time), last.max(end.time)));
        }
        if own.is_none() && !pieces.has_work && pieces.gone.files.is_empty() {
            return;
        }
        let mut work = own.unwrap_or_default();
        if pieces.has_work {
            work.add(pieces.work);
        }
        if in_window {
            self.judge(record, end, &work, &pieces.gone);
        }
        self.catalogs.commit(work.changes.iter().map(|(_, change)| change));
    }

    fn judge(&mut self, record: &Record, end: TransactionEnd, work: &Work, gone: &Gone) {
        let verdict = judge(work, gone, &self.catalogs, &self.rules);
        self.counts.rewrites += u64::from(verdict.is_rewrite && verdict.actions.is_empty());
        if verdict.actions.is_empty() {
            return;
        }
        self.counts.is_partial |= work.is_partial;
        // A dropped database is gone before the commit: its folder goes at once.
        let begins = work.begins.filter(|_| !work.dropped_databases.is_empty());
        if self.findings.len() >= self.count_max {
            self.findings.pop_front();
            self.counts.older += 1;
        }
        self.findings.push_back(Finding {
            xid: end.xid,
            time: end.time,
            lsn: record.start,
            timeline: timeline_at(self.route, record.start),
            prepared: matches!(record.kind, RecordKind::CommitPrepared(_)),
            actions: verdict.actions,
            actions_left_out: verdict.left_out,
            companions: verdict.companions,
            target_lsn: begins.unwrap_or(record.start),
            recover_run: None,
            recover_extract: None,
            unreachable: None,
        });
    }
}

/// The timeline that a record at this position was written on.
fn timeline_at(route: &Route, lsn: Lsn) -> common::pg::TimelineId {
    let history = route.history();
    let later = history.ancestors.iter().rev().take_while(|ancestor| lsn < ancestor.switch);
    later.last().map_or(history.timeline, |ancestor| ancestor.timeline)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::find::finding::What;
    use common::pg::wal_reader::RelFileLocator;
    use common::pg::{SegmentSize, TimelineHistory, TimelineId};

    const EVER: Window = Window { from_time: None, to_time: None, from_lsn: Lsn(0), to_lsn: None };

    fn route() -> Route {
        let history = TimelineHistory::parse(TimelineId(2), b"1\t0/1000\tx\n").unwrap();
        Route::new(history, SegmentSize::DEFAULT)
    }

    fn history(route: &Route, window: Window, count_max: usize) -> History<'_> {
        let rules = Rules { rows_min: 10, rewrites: false, version_directory: String::new() };
        History::new(route, window, rules, count_max, Catalogs::new(15))
    }

    fn file(relnumber: u32) -> RelFileLocator {
        RelFileLocator { tablespace: 1663, database: 5, relnumber }
    }

    fn record(start: u64, xid: u32, kind: RecordKind) -> Event {
        Event::Record(Record { start: Lsn(start), end: Lsn(start + 8), xid, kind })
    }

    fn end(xid: u32, seconds: i64) -> TransactionEnd {
        TransactionEnd { xid, time: DateTime::from_timestamp(seconds, 0).unwrap() }
    }

    fn commit(start: u64, xid: u32) -> Event {
        record(start, xid, RecordKind::Commit(end(xid, i64::try_from(start).unwrap())))
    }

    fn gone(relnumber: u32) -> Event {
        Event::Listed(Listed::Relation(file(relnumber)))
    }

    fn created(start: u64, xid: u32, relnumber: u32) -> Event {
        record(start, xid, RecordKind::RelationCreated { relation: file(relnumber), fork: Fork::Main })
    }

    fn findings(window: Window, count_max: usize, events: Vec<Event>) -> (Vec<Finding>, Counts) {
        let route = route();
        let mut history = history(&route, window, count_max);
        for event in events {
            history.see(event);
        }
        history.finish()
    }

    #[test]
    fn the_newest_come_first_and_the_others_are_counted() {
        let events = (1..=5).flat_map(|at| [gone(16_384 + at), commit(u64::from(at) * 0x600, at)]).collect();
        let (found, counts) = findings(EVER, 2, events);
        assert_eq!(found.iter().map(|finding| finding.xid).collect::<Vec<_>>(), [5, 4]);
        assert_eq!((counts.older, counts.commits, counts.end), (3, 5, Lsn(5 * 0x600 + 8)));
    }

    #[test]
    fn every_commit_has_its_own_timeline() {
        let (found, _) = findings(EVER, 9, vec![gone(1), commit(0xFF8, 7), gone(2), commit(0x1000, 8)]);
        assert_eq!(found.iter().map(|finding| finding.timeline.0).collect::<Vec<_>>(), [2, 1]);
    }

    #[test]
    fn subtransactions_count_with_their_transaction() {
        let sub = |xid| Event::Listed(Listed::Subtransaction(xid));
        let (found, _) =
            findings(EVER, 9, vec![created(1, 8, 16_400), sub(8), gone(16_400), gone(16_401), commit(2, 7)]);
        let [finding] = &found[..] else { panic!("{found:?}") };
        assert_eq!((finding.xid, finding.target_lsn, finding.actions.len()), (7, Lsn(2), 1));
        assert_eq!(finding.actions[0].what, What::DroppedOrRewritten);
    }

    #[test]
    fn what_is_rolled_back_is_no_loss() {
        let abort = |start, xid| record(start, xid, RecordKind::Abort(end(xid, 1)));
        let dropped = record(1, 7, RecordKind::DatabaseDropped { database: 16_384, tablespaces: 1 });
        let (found, counts) = findings(EVER, 9, vec![dropped, gone(16_400), abort(2, 7), commit(3, 7)]);
        assert_eq!((found, counts.commits), (vec![], 1));
    }

    #[test]
    fn the_moment_before_a_dropped_database_is_before_its_folder_goes() {
        let dropped = record(0x40, 7, RecordKind::DatabaseDropped { database: 16_384, tablespaces: 1 });
        let (found, _) = findings(EVER, 9, vec![dropped, commit(0x80, 7)]);
        let [finding] = &found[..] else { panic!("{found:?}") };
        assert_eq!(
            (finding.lsn, finding.target_lsn, finding.actions[0].what),
            (Lsn(0x80), Lsn(0x40), What::DatabaseDropped)
        );
        // A database that moves to another tablespace has no transaction there.
        let moved = record(0x40, 0, RecordKind::DatabaseDropped { database: 16_384, tablespaces: 1 });
        assert_eq!(findings(EVER, 9, vec![moved, commit(0x80, 7)]).0, []);
    }

    #[test]
    fn a_prepared_transaction_has_its_own_number() {
        let kind = RecordKind::CommitPrepared(end(7, 1));
        let (found, _) = findings(EVER, 9, vec![created(1, 7, 16_400), gone(16_385), record(2, 0, kind)]);
        assert_eq!(found.iter().map(|finding| (finding.xid, finding.prepared)).collect::<Vec<_>>(), [(7, true)]);
    }

    #[test]
    fn the_window_is_of_commits() {
        let events = || (1..=5).flat_map(|at| [gone(16_384 + at), commit(u64::from(at), at)]).collect();
        let time = |seconds| DateTime::from_timestamp(seconds, 0);
        let xids = |window| findings(window, 9, events()).0.iter().map(|finding| finding.xid).collect::<Vec<_>>();
        assert_eq!(xids(Window { from_time: time(4), ..EVER }), [5, 4]);
        assert_eq!(xids(Window { to_time: time(2), ..EVER }), [2, 1]);
        assert_eq!(xids(Window { from_lsn: Lsn(2), to_lsn: Some(Lsn(4)), ..EVER }), [3, 2]);
    }
}
