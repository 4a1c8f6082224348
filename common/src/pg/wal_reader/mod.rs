//! Reads the records of the write-ahead log as their bytes come by: where each begins and ends, and of those that a
//! recovery can stop at (ends of transactions, restore points) what they say; in depth, also what they do to relations,
//! databases and settings.
//!
//! A recovery that stops short of its target, or that cannot say what it will lose, is found out too late when the
//! server is asked. So the log is read beforehand by the rules that the server itself reads it by
//! (`src/backend/access/transam/xlogreader.c`): what [`RecordReader`] takes for the end of the log is the end for
//! PostgreSQL 14 to 18 too. Every record's checksum and link to the one before are checked; none is kept whole, so
//! memory stays constant however large records are.

mod changes;
mod contents;
mod heap_record;
mod kinds;
mod lists;
mod record;
#[cfg(test)]
pub(crate) mod testing;

use std::ops::ControlFlow;

pub use self::heap_record::{HeapChange, HeapRecord, NewRow, Operation, PageImage, Place, Reference};
use self::kinds::Depth;
pub use self::kinds::{DatabaseFolder, Event, Listed, Parameters, Record, RecordKind, RelFileLocator, TransactionEnd};
use self::record::Assembly;
use super::bytes::all_zero;
use super::wal_page::{LongHeader, PageHeader};
use super::{Lsn, SegmentSize, SystemIdentifier, TimelineId};

/// `XLP_FIRST_IS_CONTRECORD`: the page begins with the rest of a record from the page before.
const CONTINUES: u16 = 0x0001;
/// `XLP_FIRST_IS_OVERWRITE_CONTRECORD`: the rest of that record was lost in a crash; the page begins with another.
const OVERWRITES: u16 = 0x0008;
/// `XLP_ALL_FLAGS`.
const PAGE_FLAGS: u16 = 0x000F;
/// `MAXIMUM_ALIGNOF`: every record begins at a multiple of this.
const ALIGNMENT: u64 = 8;

/// Why the log does not go on. PostgreSQL stops replay at the same place for the same reason.
///
/// At the end of the newest segment any of them is normal: the server died while it wrote, or an older use of the file
/// shows through. Where more segments follow, each means damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WalEnd {
    /// Nothing was ever written there.
    #[error("nothing is written at {at}")]
    Blank {
        /// The first position without WAL.
        at: Lsn,
    },
    /// The page does not follow those before it.
    #[error("the page at {at} has a wrong {what}: an older use of the file, or damage")]
    Page {
        /// The page's position.
        at: Lsn,
        /// What is wrong with it.
        what: &'static str,
    },
    /// No record has such a length.
    #[error("the record at {at} has an impossible length, {length}")]
    Length {
        /// The record's position.
        at: Lsn,
        /// What stands in the length's place.
        length: u32,
    },
    /// The record does not follow the one before it.
    #[error("the record at {at} follows one at {found}, which is not the one before it")]
    PreviousLink {
        /// The record's position.
        at: Lsn,
        /// Where it says that the one before it begins.
        found: Lsn,
    },
    /// The next page does not go on with the record.
    #[error("the record at {at} does not go on at {page}")]
    Continuation {
        /// The record's position.
        at: Lsn,
        /// The page's position.
        page: Lsn,
    },
    /// The record's bytes are not those that were written.
    #[error("the record at {at} has a wrong checksum")]
    Checksum {
        /// The record's position.
        at: Lsn,
    },
    /// A record that is looked into, of a form that no known version of PostgreSQL writes.
    #[error("the record at {at} is of an unknown form")]
    Contents {
        /// The record's position.
        at: Lsn,
    },
}

/// Reads records out of consecutive segments, fed in pieces of any size.
///
/// What is fed must begin at the start of the segment that holds the position to read from.
#[derive(Debug)]
pub struct RecordReader {
    size: SegmentSize,
    /// Of the next byte to come.
    position: u64,
    /// The first page tells them; all others must have the same.
    log: Option<Log>,
    timeline: TimelineId,
    header: [u8; LongHeader::SIZE],
    /// How much of the next page's header has been gathered.
    header_held: usize,
    /// Bytes still to come of the current page; 0: a page header comes next.
    page_left: u64,
    /// Bytes to pass over before anything else on this page.
    skip: u64,
    state: State,
    depth: Depth,
    record: Assembly,
    /// What the record listed on this page.
    listed: Vec<Listed>,
    /// Where the record before the next one begins; unknown before the first.
    previous: Option<Lsn>,
    end: Option<WalEnd>,
}

/// How the log stands, as far as it was fed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Every record that begins is whole.
    Whole,
    /// A record goes on behind the last byte: it is torn if no more bytes follow.
    Unfinished {
        /// Where it begins.
        at: Lsn,
    },
    /// It ended before.
    Ended(WalEnd),
}

/// What is the same on all pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Log {
    magic: u16,
    system_identifier: SystemIdentifier,
    block_size: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Looking for the first record, which begins here or, when that is a page's start, is the first to begin after.
    Approach(u64),
    /// A record may begin.
    Between,
    /// In the middle of a record.
    Inside,
    /// After a segment switch: what comes before the next segment's start means nothing.
    Switched,
}

impl RecordReader {
    /// A reader of the records from `from` on: a position where a record begins (such as a backup's start), or the
    /// start of a page or segment: then the first record that begins there or later is the first. The bytes fed must
    /// begin with those of `from`'s segment.
    pub fn new(from: Lsn, size: SegmentSize) -> Self {
        Self {
            size,
            position: from.0 - from.0 % size.bytes(),
            log: None,
            timeline: TimelineId(0),
            header: [0; LongHeader::SIZE],
            header_held: 0,
            page_left: 0,
            skip: 0,
            state: State::Approach(from.0),
            depth: Depth::Stops,
            record: Assembly::begin(from, 0, Depth::Stops),
            listed: Vec::new(),
            previous: None,
            end: None,
        }
    }

    /// The same, and it also tells which relations, databases and settings the records change, and holds a record of
    /// these that is of an unknown form for the end of the log, which PostgreSQL would only meet when it applies it.
    ///
    /// This is the whole check of a log's records: feed it the segments, then ask for [`RecordReader::standing`].
    pub fn in_depth(from: Lsn, size: SegmentSize) -> Self {
        Self { depth: Depth::Changes, ..Self::new(from, size) }
    }

    /// The same as in depth, and every record that changes rows or whole pages of a relation is told with its contents, up
    /// to about a megabyte of each: what a reader of catalogs, and of who deleted what, needs.
    pub fn with_rows(from: Lsn, size: SegmentSize) -> Self {
        Self { depth: Depth::Rows, ..Self::new(from, size) }
    }

    /// The position of the byte to be fed next.
    pub fn position(&self) -> Lsn {
        Lsn(self.position)
    }

    /// Why the log ended; `None` while it may go on.
    pub fn end(&self) -> Option<WalEnd> {
        self.end
    }

    /// How the log stands behind the last byte that was fed.
    pub fn standing(&self) -> Standing {
        match self.end {
            Some(end) => Standing::Ended(end),
            None if self.state == State::Inside => Standing::Unfinished { at: self.record.start() },
            None => Standing::Whole,
        }
    }

    /// Takes the next bytes and calls `each` with every record that is whole with them.
    ///
    /// Breaks when the log has ended ([`RecordReader::end`] says why) or as soon as `each` breaks; after that it must
    /// not be called again, since what was left of `bytes` is lost.
    pub fn feed(&mut self, bytes: &[u8], mut each: impl FnMut(Record) -> ControlFlow<()>) -> ControlFlow<()> {
        self.feed_all(bytes, |event| match event {
            Event::Record(record) => each(record),
            Event::Listed(_) => ControlFlow::Continue(()),
        })
    }

    /// The same, with the items that the records list, which are told in depth only: one by one, however many a record
    /// has, as they come by. No more than a page of the log is ever held.
    pub fn feed_all(&mut self, bytes: &[u8], mut each: impl FnMut(Event) -> ControlFlow<()>) -> ControlFlow<()> {
        // Behind the last position of all there is none to count on to.
        let mut rest = at_most(bytes, u64::MAX - self.position);
        while !rest.is_empty() && self.end.is_none() {
            let step = self.step(rest);
            if !self.listed.is_empty() {
                self.listed.drain(..).try_for_each(|item| each(Event::Listed(item)))?;
            }
            match step {
                Ok((used, record)) => {
                    self.position += used as u64;
                    rest = rest.get(used..).unwrap_or_default();
                    if let Some(record) = record {
                        each(Event::Record(record))?;
                    }
                }
                Err(end) => self.end = Some(end),
            }
        }
        if self.end.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// Deals with some of `rest`, which is not empty: how much, and the record that ends there.
    fn step(&mut self, rest: &[u8]) -> Result<(usize, Option<Record>), WalEnd> {
        if self.state == State::Switched {
            return Ok((self.pass_over_segment(rest), None));
        }
        if self.page_left == 0 {
            return self.page_header(rest).map(|used| (used, None));
        }
        let piece = at_most(rest, self.page_left);
        let (used, record) = if self.skip > 0 {
            let used = at_most(piece, self.skip).len();
            self.skip -= used as u64;
            (used, None)
        } else {
            self.record_bytes(piece)?
        };
        self.page_left = self.page_left.saturating_sub(used as u64);
        Ok((used, record))
    }

    fn pass_over_segment(&mut self, rest: &[u8]) -> usize {
        let left = self.size.bytes() - self.position % self.size.bytes();
        let used = at_most(rest, left).len();
        if used as u64 == left {
            (self.state, self.page_left, self.skip) = (State::Between, 0, 0);
        }
        used
    }

    /// Gathers a page's header and looks at it once it is whole.
    fn page_header(&mut self, rest: &[u8]) -> Result<usize, WalEnd> {
        let wanted = if self.header_held < PageHeader::SIZE { PageHeader::SIZE } else { LongHeader::SIZE };
        let room = self.header.get_mut(self.header_held..wanted).unwrap_or_default();
        let taken = room.len().min(rest.len());
        room.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
        self.header_held += taken;
        if self.header_held < wanted {
            return Ok(taken);
        }
        let start = self.position + taken as u64 - wanted as u64;
        let page = self.check_page(start)?;
        if wanted == PageHeader::SIZE && page.is_long() {
            return Ok(taken);
        }
        let block_size = self.check_log(start, &page)?;
        self.header_held = 0;
        self.page_left = block_size.saturating_sub(wanted as u64);
        self.enter_page(start, start + wanted as u64, &page)?;
        Ok(taken)
    }

    /// What every page's header must be (`XLogReaderValidatePageHeader`).
    fn check_page(&mut self, start: u64) -> Result<PageHeader, WalEnd> {
        let at = Lsn(start);
        let short = self.header.get(..PageHeader::SIZE).unwrap_or_default();
        if all_zero(short) {
            return Err(WalEnd::Blank { at });
        }
        let page = PageHeader::parse(short).ok_or(WalEnd::Blank { at })?;
        let what = if self.log.is_some_and(|log| log.magic != page.magic) {
            "magic"
        } else if page.info & !PAGE_FLAGS != 0 || (start.is_multiple_of(self.size.bytes()) && !page.is_long()) {
            "kind of header"
        } else if page.address != at {
            "address"
        } else if page.timeline < self.timeline {
            "timeline"
        } else {
            self.timeline = page.timeline;
            return Ok(page);
        };
        Err(WalEnd::Page { at, what })
    }

    /// What a long header must be; answers the size of pages.
    fn check_log(&mut self, start: u64, page: &PageHeader) -> Result<u64, WalEnd> {
        let at = Lsn(start);
        let Some(header) = LongHeader::parse(&self.header).filter(|_| page.is_long()) else {
            return self.log.map(|log| log.block_size).ok_or(WalEnd::Page { at, what: "kind of header" });
        };
        let found = Log {
            magic: page.magic,
            system_identifier: header.system_identifier,
            block_size: u64::from(header.block_size),
        };
        let what = if u64::from(header.segment_size) != self.size.bytes() {
            "segment size"
        } else if !header.block_size.is_power_of_two() || !(1024..=65536).contains(&header.block_size) {
            "page size"
        } else if self.log.is_some_and(|log| log != found) {
            "system identifier or page size"
        } else {
            self.log = Some(found);
            return Ok(found.block_size);
        };
        Err(WalEnd::Page { at, what })
    }

    /// A page with a good header begins: does it go on as the pages before it made expect?
    fn enter_page(&mut self, start: u64, body: u64, page: &PageHeader) -> Result<(), WalEnd> {
        let continues = page.info & CONTINUES != 0;
        let page_end = body.saturating_add(self.page_left);
        match self.state {
            State::Approach(from) if from > start => {
                self.skip = from.clamp(body, page_end) - body;
                if from < page_end {
                    self.state = State::Between;
                }
            }
            State::Approach(_) => {
                let remaining = if continues { next_multiple(page.remaining.into(), ALIGNMENT) } else { 0 };
                self.skip = remaining.min(self.page_left);
                if remaining < self.page_left {
                    self.state = State::Between;
                }
            }
            State::Inside if page.info & OVERWRITES != 0 => self.state = State::Between,
            State::Inside => {
                if !continues || page.remaining == 0 || page.remaining as usize != self.record.left() {
                    return Err(WalEnd::Continuation { at: self.record.start(), page: Lsn(start) });
                }
            }
            State::Between | State::Switched => {
                if continues {
                    return Err(WalEnd::Page { at: Lsn(start), what: "rest of a record" });
                }
            }
        }
        Ok(())
    }

    /// Takes the bytes of a record, all on one page.
    fn record_bytes(&mut self, piece: &[u8]) -> Result<(usize, Option<Record>), WalEnd> {
        if self.state != State::Inside {
            self.record = Assembly::begin(Lsn(self.position), self.log.map_or(0, |log| log.magic), self.depth);
            self.state = State::Inside;
        }
        let used = self.record.take(piece, self.previous, &mut self.listed)?;
        if self.record.left() > 0 {
            return Ok((used, None));
        }
        let start = self.record.start();
        let bytes_end = self.position + used as u64;
        let mut end = next_multiple(bytes_end, ALIGNMENT);
        self.skip = end - bytes_end;
        let kind = self.record.finish(&mut self.listed)?;
        let xid = self.record.xid();
        self.previous = Some(start);
        self.state = State::Between;
        // A switch that happens to end its segment leaves nothing to pass over.
        if self.record.is_switch() && !end.is_multiple_of(self.size.bytes()) {
            end = next_multiple(end, self.size.bytes());
            self.state = State::Switched;
        }
        Ok((used, Some(Record { start, end: Lsn(end), xid, kind })))
    }
}

/// The next position of this alignment; the last of all where there is none.
fn next_multiple(position: u64, alignment: u64) -> u64 {
    position.checked_next_multiple_of(alignment).unwrap_or(u64::MAX)
}

/// The first `limit` of these bytes, or all.
fn at_most(bytes: &[u8], limit: u64) -> &[u8] {
    usize::try_from(limit).ok().and_then(|limit| bytes.get(..limit)).unwrap_or(bytes)
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::testing::{PAGE, SIZE, Writer, main_data};
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    fn size() -> SegmentSize {
        SegmentSize::new(SIZE).unwrap()
    }

    fn read_from(from: Lsn, bytes: &[u8], piece: usize) -> (Vec<Record>, Option<WalEnd>) {
        let mut reader = RecordReader::new(from, size());
        let mut records = Vec::new();
        for piece in bytes.chunks(piece) {
            let mut keep = |record| {
                records.push(record);
                ControlFlow::Continue(())
            };
            if reader.feed(piece, &mut keep).is_break() {
                break;
            }
        }
        (records, reader.end())
    }

    fn spans(records: &[Record]) -> Vec<(Lsn, Lsn)> {
        records.iter().map(|record| (record.start, record.end)).collect()
    }

    /// Segment 3 on: records of all sizes, over page and segment ends, with the spans that they have.
    fn log() -> (Writer, Vec<(Lsn, Lsn)>) {
        let mut log = Writer::new(3);
        let mut spans = Vec::new();
        for length in [0, 1, 8, 100, 8000, 8120, 8128, 8136, 8144, 8152, 20_000, 3, 1_100_000, 17] {
            spans.push(log.filler(length));
            spans.push(log.commit(7, 1));
        }
        // Up to eight bytes before the page's end, so that the next header is split after the length and the xid.
        let left = PAGE - log.bytes.len() % PAGE;
        spans.push(log.filler(left - 24 - 8));
        spans.push(log.filler(5));
        (log, spans)
    }

    #[rstest]
    #[case(1)]
    #[case(7)]
    #[case(24)]
    #[case(8192)]
    #[case(100_000)]
    #[case(10 << 20)]
    fn records_over_pages_and_segments_are_put_together(#[case] piece: usize) {
        let (mut log, expected) = log();
        let end = log.position();
        log.pad();
        let (records, stop) = read_from(Lsn(3 << 20), &log.bytes, piece);
        assert_eq!(spans(&records), expected);
        assert_eq!(stop, Some(WalEnd::Blank { at: Lsn(end) }));
    }

    #[test]
    fn reading_begins_at_the_record_that_is_named() {
        let (log, expected) = log();
        let in_first_segment = expected.iter().filter(|(start, _)| start.0 < 4 << 20).count();
        for at in 0..in_first_segment {
            let (records, _) = read_from(expected[at].0, &log.bytes, 65_536);
            assert_eq!(spans(&records), expected[at..]);
        }
        let between = Lsn(expected[3].0.0 + 8);
        assert_eq!(read_from(between, &log.bytes, 65_536).0, []);
    }

    #[test]
    fn the_rest_of_an_earlier_record_is_passed_over() {
        let (log, expected) = log();
        for segment in 1..log.bytes.len() / SIZE as usize {
            let from = segment * SIZE as usize;
            let position = Lsn((3 << 20) + from as u64);
            let (records, _) = read_from(position, &log.bytes[from..], 10_000);
            let later: Vec<_> = expected.iter().copied().filter(|(start, _)| *start > position).collect();
            assert_eq!(spans(&records), later);
        }
    }

    #[test]
    fn after_a_switch_the_next_segment_follows() {
        let mut log = Writer::new(9);
        let before = log.commit(5, 1);
        let switch = log.switch();
        let after = log.commit(6, 2);
        // A switch that ends its segment to the byte.
        let left = SIZE as usize - log.bytes.len() % SIZE as usize;
        let pages = left.div_ceil(PAGE) - 1;
        let filler = log.filler(left - pages * 24 - 24 - 24);
        let full = log.switch();
        let last = log.commit(7, 3);
        assert_eq!(full.1.0 % u64::from(SIZE), 0);
        for piece in [999, 1 << 21] {
            let (records, stop) = read_from(Lsn(9 << 20), &log.bytes, piece);
            assert_eq!(spans(&records), [before, switch, after, filler, full, last]);
            assert_eq!(stop, None);
        }
    }

    #[test]
    fn a_record_that_a_crash_cut_off_is_overwritten() {
        let mut log = Writer::new(2);
        let first = log.commit(5, 1);
        let previous = first.0.0;
        log.filler(30_000);
        // The crash: the record's last pages never came, the log goes on at the second page.
        log.bytes.truncate(2 * PAGE);
        log.page_header(8, 0);
        let start = log.position();
        let record = testing::record_bytes(0, 0xD0, 0, previous, &main_data(&[0; 16]));
        log.bytes.extend_from_slice(&record);
        log.bytes.resize(log.bytes.len().next_multiple_of(8), 0);
        let end = log.position();
        let (records, stop) = read_from(Lsn(2 << 20), &log.bytes, 4000);
        assert_eq!(spans(&records), [first, (Lsn(start), Lsn(end))]);
        assert_eq!(stop, None);
    }

    #[test]
    fn what_a_recovery_can_stop_at_is_told() {
        let mut log = Writer::new(1);
        log.commit(100, 0);
        log.abort(101, 1_000_000);
        log.restore_point("before the upgrade", 2_000_000);
        log.record(1, 0x90 | 0x20, 0, &main_data(&testing::transaction_end(Some(55), [2, 700, 3, 4000], 12).0));
        log.record(1, 0x10, 102, &main_data(&[0; 200]));
        let (records, _) = read_from(Lsn(1 << 20), &log.bytes, 77);
        let at = |seconds: i64| DateTime::from_timestamp(946_684_800 + seconds, 0).unwrap();
        let prepared_at = DateTime::from_timestamp_micros(946_684_800_000_005).unwrap();
        let kinds: Vec<_> = records.into_iter().map(|record| record.kind).collect();
        let expected = [
            RecordKind::Commit(TransactionEnd { xid: 100, time: at(0) }),
            RecordKind::Abort(TransactionEnd { xid: 101, time: at(1) }),
            RecordKind::RestorePoint { name: "before the upgrade".to_owned(), time: at(2) },
            RecordKind::CommitPrepared(TransactionEnd { xid: 55, time: prepared_at }),
            RecordKind::Other,
        ];
        assert_eq!(kinds, expected);
        assert_eq!(expected[3].transaction().map(|end| end.xid), Some(55));
        let commits: Vec<bool> = expected.iter().map(RecordKind::is_commit).collect();
        assert_eq!(commits, [true, false, false, true, false]);
    }

    /// All that a log tells, read in depth, and how it stands.
    fn read_in_depth(bytes: &[u8], from: u64, piece: usize) -> (Vec<Event>, Standing) {
        let mut reader = RecordReader::in_depth(Lsn(from), size());
        let mut events = Vec::new();
        for piece in bytes.chunks(piece) {
            let keep = |event| {
                events.push(event);
                ControlFlow::Continue(())
            };
            if reader.feed_all(piece, keep).is_break() {
                break;
            }
        }
        (events, reader.standing())
    }

    #[test]
    fn items_come_before_their_record() {
        let mut log = Writer::new(1);
        let (data, relations) = testing::transaction_end(None, [3, 5000, 0, 7], 12);
        log.filler(10);
        let (start, end) = log.record(1, 0x80, 42, &main_data(&data));
        log.record(4, 0x20, 43, &main_data(&testing::numbers(&[16_400, 2, 1663, 16_385])));
        for piece in [1, 999, 8192, 1 << 20] {
            let (events, standing) = read_in_depth(&log.bytes, 1 << 20, piece);
            assert_eq!(standing, Standing::Whole);
            let [_, items @ .., commit, first, second, dropped] = &events[..] else { panic!("{events:?}") };
            let expected: Vec<_> =
                relations.iter().map(|relation| Event::Listed(Listed::Relation(*relation))).collect();
            assert_eq!(items, expected);
            let time = DateTime::from_timestamp_micros(946_684_800_000_005).unwrap();
            let kind = RecordKind::Commit(TransactionEnd { xid: 42, time });
            assert_eq!(*commit, Event::Record(Record { start, end, xid: 42, kind }));
            assert_eq!(
                [first, second].map(Clone::clone),
                [1663, 16_385].map(|oid| Event::Listed(Listed::Tablespace(oid)))
            );
            let is_drop = |kind: &RecordKind| *kind == RecordKind::DatabaseDropped { database: 16_400, tablespaces: 2 };
            assert!(matches!(dropped, Event::Record(record) if is_drop(&record.kind)), "{dropped:?}");
        }
        // Who does not ask for them gets the records alone.
        let (records, _) = read_from(Lsn(1 << 20), &log.bytes, 5000);
        let kinds: Vec<_> = records.iter().map(|record| record.kind.is_commit()).collect();
        assert_eq!(kinds, [false, true, false]);
        assert_eq!(records[2].kind, RecordKind::Other);
    }

    #[test]
    fn the_consumer_of_items_can_stop_it() {
        let mut log = Writer::new(1);
        log.record(1, 0x80, 42, &main_data(&testing::transaction_end(None, [0, 5000, 0, 0], 12).0));
        let mut reader = RecordReader::in_depth(Lsn(1 << 20), size());
        let mut seen = 0;
        let flow = reader.feed_all(&log.bytes, |_| {
            seen += 1;
            if seen == 10 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert_eq!((flow, seen), (ControlFlow::Break(()), 10));
    }

    #[test]
    fn a_log_that_ends_in_a_record_is_unfinished() {
        let mut log = Writer::new(1);
        let (_, first_end) = log.filler(100);
        let (second, second_end) = log.filler(20_000);
        let cut = |at: Lsn, less: u64| {
            read_in_depth(&log.bytes[..usize::try_from(at.0 - less).unwrap() - (1 << 20)], 1 << 20, 4000)
        };
        assert_eq!(cut(first_end, 0).1, Standing::Whole);
        for length in [second.0 + 1, second.0 + 30, second.0 + 8192, second.0 + 12_000] {
            assert_eq!(cut(Lsn(length), 0).1, Standing::Unfinished { at: second });
        }
        assert_eq!(cut(second_end, 0).1, Standing::Whole);
        log.pad();
        let (_, standing) = read_in_depth(&log.bytes, 1 << 20, 4000);
        assert_eq!(standing, Standing::Ended(WalEnd::Blank { at: second_end }));
    }

    #[test]
    fn an_unknown_form_ends_a_log_that_is_read_in_depth_alone() {
        let mut log = Writer::new(1);
        let (at, _) = log.record(2, 0x10, 7, &main_data(&[0; 15]));
        log.commit(8, 8);
        assert_eq!(read_in_depth(&log.bytes, 1 << 20, 100), (vec![], Standing::Ended(WalEnd::Contents { at })));
        assert_eq!(read_from(Lsn(1 << 20), &log.bytes, 100).0.len(), 2);
    }

    /// A log whose second record begins on the first page and ends on the third.
    fn three_pages() -> (Writer, Lsn, Lsn) {
        let mut log = Writer::new(1);
        log.commit(1, 1);
        let (start, _) = log.filler(10_000);
        let (next, _) = log.commit(2, 2);
        log.pad();
        (log, start, next)
    }

    #[rstest]
    #[case::magic(PAGE, &[0x13], "the page at 0/102000 has a wrong magic: an older use of the file, or damage")]
    #[case::flags(PAGE + 2, &[0x11], "the page at 0/102000 has a wrong kind of header: an older use of the file, or damage")]
    #[case::recycled(PAGE + 10, &[7], "the page at 0/102000 has a wrong address: an older use of the file, or damage")]
    #[case::timeline(PAGE + 4, &[0], "the page at 0/102000 has a wrong timeline: an older use of the file, or damage")]
    #[case::short_first(2, &[0], "the page at 0/100000 has a wrong kind of header: an older use of the file, or damage")]
    #[case::segment_size(32, &[0, 0, 0, 1], "the page at 0/100000 has a wrong segment size: an older use of the file, or damage")]
    #[case::page_size(36, &[1], "the page at 0/100000 has a wrong page size: an older use of the file, or damage")]
    #[case::lost_rest(PAGE + 2, &[0], "the record at 0/100050 does not go on at 0/102000")]
    #[case::other_rest(PAGE + 16, &[0], "the record at 0/100050 does not go on at 0/102000")]
    #[case::blank_page(PAGE, &[0; 24], "nothing is written at 0/102000")]
    #[case::no_length(0x50, &[0; 4], "nothing is written at 0/100050")]
    #[case::short_length(0x50, &[23, 0], "the record at 0/100050 has an impossible length, 23")]
    #[case::long_length(0x50, &[0, 0, 0, 0x50], "the record at 0/100050 has an impossible length, 1342177280")]
    #[case::link(0x58, &[0], "the record at 0/100050 follows one at 0/100000, which is not the one before it")]
    #[case::contents(PAGE + 100, &[0], "the record at 0/100050 has a wrong checksum")]
    #[case::own_header(0x54, &[9], "the record at 0/100050 has a wrong checksum")]
    fn the_log_ends_at_damage(#[case] offset: usize, #[case] bytes: &[u8], #[case] message: &str) {
        let (mut log, start, _) = three_pages();
        assert_eq!(start, Lsn(0x10_0050));
        log.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
        for piece in [1, 8192, 1 << 20] {
            let (records, end) = read_from(Lsn(1 << 20), &log.bytes, piece);
            assert_eq!(end.unwrap().to_string(), message);
            assert!(records.len() <= 1);
        }
    }

    #[test]
    fn the_rest_of_a_record_that_never_began_ends_the_log() {
        let mut log = Writer::new(1);
        let (_, end) = log.filler(PAGE - 40 - 24);
        assert_eq!(end.0 % PAGE as u64, 0);
        log.page_header(1, 100);
        let (records, stop) = read_from(Lsn(1 << 20), &log.bytes, 512);
        assert_eq!(records.len(), 1);
        assert_eq!(stop, Some(WalEnd::Page { at: end, what: "rest of a record" }));
    }

    #[test]
    fn the_last_segment_of_all_is_read_to_its_end() {
        let mut log = Writer::new((1 << 44) - 1);
        let first = log.commit(1, 1);
        let left = SIZE as usize - log.bytes.len();
        log.filler(left - (SIZE as usize / PAGE - 1) * 24 - 24);
        assert_eq!(log.bytes.len(), SIZE as usize);
        for piece in [1, 8192, 1 << 21] {
            let (records, stop) = read_from(first.0, &log.bytes, piece);
            assert_eq!((spans(&records), stop), (vec![first], None));
        }
    }

    #[test]
    fn another_clusters_segment_ends_the_log() {
        let mut log = Writer::new(1);
        log.commit(1, 1);
        let (_, end) = log.switch();
        log.commit(2, 2);
        log.bytes[SIZE as usize + 24] ^= 1;
        let (records, stop) = read_from(Lsn(1 << 20), &log.bytes, 1 << 20);
        assert_eq!(records.len(), 2);
        assert_eq!(stop, Some(WalEnd::Page { at: end, what: "system identifier or page size" }));
    }

    #[test]
    fn the_consumer_can_stop_it() {
        let (log, expected) = log();
        let mut reader = RecordReader::new(Lsn(3 << 20), size());
        let mut seen = 0;
        let flow = reader.feed(&log.bytes, |_| {
            seen += 1;
            if seen == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert!(flow.is_break());
        assert_eq!((seen, reader.end()), (3, None));
        assert!(reader.position() <= expected[2].1);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_records_read_back(lengths in proptest::collection::vec(prop_oneof![0_usize..200, 7000_usize..9000, 0_usize..40_000], 1..60),
                                 piece in 1_usize..30_000) {
            let mut log = Writer::new(5);
            let expected: Vec<_> = lengths.iter().map(|length| log.filler(*length)).collect();
            let (records, _) = read_from(Lsn(5 << 20), &log.bytes, piece);
            prop_assert_eq!(spans(&records), expected);
        }

        #[test]
        fn any_lists_read_back(counts in proptest::array::uniform4(prop_oneof![0_u32..4, 0_u32..3000]), prepared: Option<u32>,
                               before in 0_usize..9000, piece in 1_usize..30_000) {
            let mut log = Writer::new(5);
            log.filler(before);
            let (data, relations) = testing::transaction_end(prepared, counts, 12);
            log.record(1, if prepared.is_some() { 0xB0 } else { 0x80 }, 7, &main_data(&data));
            let (events, standing) = read_in_depth(&log.bytes, 5 << 20, piece);
            prop_assert_eq!(standing, Standing::Whole);
            let listed: Vec<_> = events[1..events.len() - 1].to_vec();
            let expected: Vec<_> = relations.into_iter().map(|relation| Event::Listed(Listed::Relation(relation))).collect();
            prop_assert_eq!(listed, expected);
            let last = match events.last() {
                Some(Event::Record(record)) => record.kind.transaction(),
                _ => None,
            };
            prop_assert_eq!(last.map(|end| end.xid), Some(prepared.unwrap_or(7)));
        }

        #[test]
        fn damage_ends_the_log_and_changes_nothing_before(at in 0_usize..60_000, bit in 0_u8..8, piece in 1_usize..9000) {
            let mut log = Writer::new(5);
            let mut expected: Vec<_> = (0..40).map(|number| log.filler(number * 83)).collect();
            expected.push(log.commit(3, 3));
            let at = at % log.bytes.len();
            log.bytes[at] ^= 1 << bit;
            let (records, _) = read_from(Lsn(5 << 20), &log.bytes, piece);
            let spans = spans(&records);
            prop_assert_eq!(&spans[..], &expected[..spans.len()]);
            let whole = expected.iter().filter(|(_, end)| end.0 <= (5 << 20) + at as u64).count();
            prop_assert!(spans.len() >= whole);
        }

        #[test]
        fn never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..20_000), from in 0_u64..20_000, lead: bool, piece in 1_usize..9000) {
            if lead {
                let mut log = Writer::new(1);
                log.commit(1, 1);
                log.bytes.append(&mut bytes);
                bytes = log.bytes;
            }
            drop(read_from(Lsn((1 << 20) + from), &bytes, piece));
            drop(read_in_depth(&bytes, (1 << 20) + from, piece));
            drop(read_from(Lsn(1 << 20), &bytes, piece));
        }
    }
}
