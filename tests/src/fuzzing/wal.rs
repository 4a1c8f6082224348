//! The write-ahead log.

use std::ops::ControlFlow;

use common::pg::catalog::{Catalogs, Relation, is_invalid_database};
use common::pg::heap;
use common::pg::wal_reader::{
    DatabaseFolder, Event, HeapRecord, Listed, Operation, Place, Record, RecordKind, RecordReader, RelFileLocator,
    Standing, WalEnd,
};
use common::pg::{
    Expected, LongHeader, Lsn, PageHeader, SegmentCheck, SegmentError, SegmentSize, TimelineId, WalSegmentName,
    Wholeness,
};

use super::input;

const MIB: usize = 1 << 20;

/// The smallest segments: one that is checked to its end is a megabyte.
fn smallest() -> SegmentSize {
    SegmentSize::new(1 << 20).unwrap_or(SegmentSize::DEFAULT)
}

/// The check of a segment's pages: the size of pieces, options, then the beginning of the file; zeros follow it.
/// System, place and timeline are those of the first page, so that the check goes on behind it.
pub fn wal_page(bytes: &[u8]) {
    let (piece, rest) = input::piece(bytes);
    let (options, file) = input::byte(rest);
    let header = LongHeader::parse(file);
    let size = smallest();
    let expected = Expected {
        system_identifier: header.map_or(1, |header| header.system_identifier),
        segment_size: size,
        magic: header.map(|header| header.page.magic).filter(|_| options & 1 != 0),
    };
    let timeline =
        TimelineId(header.map_or(1, |header| header.page.timeline.0.saturating_add(u32::from(options >> 4))));
    let name = WalSegmentName::containing(timeline, header.map_or(Lsn(0), |header| header.page.address), size);
    let wholeness = if options & 2 != 0 { Wholeness::Partial } else { Wholeness::Whole };
    let mut segment = file.to_vec();
    if options & 4 == 0 {
        segment.resize(MIB.max(file.len()), 0);
    }
    let check = |piece: usize| {
        let mut check = SegmentCheck::new(name, expected, wholeness);
        let (begin, zeros) = segment.split_at(file.len());
        let mut pieces = begin.chunks(piece).chain(zeros.chunks(MIB));
        pieces.try_for_each(|piece| check.update(piece))?;
        check.finish()
    };
    let outcome = check(segment.len().max(1));
    match (outcome, check(piece)) {
        // Where the first byte of dirt lies is known to the piece.
        (Err(SegmentError::BytesAfterEnd { end, .. }), Err(SegmentError::BytesAfterEnd { end: again, .. })) => {
            assert_eq!(end, again);
        }
        (outcome, again) => assert_eq!(outcome, again),
    }
    if outcome.is_ok() {
        assert_eq!(segment.len(), MIB);
        if wholeness == Wholeness::Whole {
            check_pages(&segment, name, size);
        }
    }
}

/// Every page of a good segment is one of the segment, up to the first that is blank; from there all is zero.
fn check_pages(segment: &[u8], name: WalSegmentName, size: SegmentSize) {
    let block = LongHeader::parse(segment).map_or(MIB, |header| header.block_size as usize);
    let pages = segment.chunks(block).take_while(|page| page.iter().take(PageHeader::SIZE).any(|byte| *byte != 0));
    let mut address = name.start(size).unwrap_or_default();
    let mut least = TimelineId(1);
    let mut seen = 0;
    for header in pages.filter_map(PageHeader::parse) {
        assert_eq!(header.address, address);
        assert!(least <= header.timeline && header.timeline <= name.timeline);
        least = header.timeline;
        address.0 = address.0.wrapping_add(block as u64);
        seen += block;
    }
    let rest = segment.get(seen..).unwrap_or_default();
    assert!(rest == vec![0; rest.len()]);
}

/// The record reader, plainly and in depth: the size of pieces, where to begin within the segment, then the log. Its first page's own place is
/// taken for granted.
pub fn wal_reader(bytes: &[u8]) {
    let (piece, rest) = input::piece(bytes);
    let (offset, log) = input::piece(rest);
    let start = PageHeader::parse(log).map_or(0, |page| page.address.0);
    read_both_ways(Lsn(start.saturating_add(offset as u64 - 1)), log, piece);
}

/// One record in a right page, with the right checksum: version, manager, info and the contents are the input's.
pub fn wal_record(bytes: &[u8]) {
    const MAGICS: [u16; 8] = [0xD10D, 0xD110, 0xD113, 0xD116, 0xD118, 0xD121, 0xD10D, 0xD110];
    let ([version, manager, info], rest) = input::array(bytes);
    let (piece, body) = input::piece(rest);
    let body = body.get(..8192 - 64).unwrap_or(body);
    let mut log = Vec::new();
    log.extend(MAGICS.get(usize::from(version % 8)).copied().unwrap_or_default().to_ne_bytes());
    log.extend([2, 0]);
    log.extend(1_u32.to_ne_bytes());
    log.extend((1_u64 << 20).to_ne_bytes());
    log.extend([0; 8]);
    log.extend(7_u64.to_ne_bytes());
    log.extend((1_u32 << 20).to_ne_bytes());
    log.extend(8192_u32.to_ne_bytes());
    let header = [
        &(u32::try_from(body.len()).unwrap_or(0) + 24).to_ne_bytes(),
        &[9, 0, 0, 0][..],
        &[0; 8],
        &[info, manager, 0, 0],
    ];
    let header = header.concat();
    let crc = crc32c::crc32c_append(crc32c::crc32c(body), &header);
    log.extend(header);
    log.extend(crc.to_ne_bytes());
    log.extend_from_slice(body);
    let (events, standing) = read_both_ways(Lsn(1 << 20), &log, piece);
    match events.iter().find_map(record_of) {
        Some(record) => {
            assert_eq!(record.start, Lsn((1 << 20) + 40));
            let items =
                events.iter().map_while(|event| if let Event::Listed(item) = event { Some(*item) } else { None });
            check_contents(record, &items.collect::<Vec<_>>(), body);
        }
        None => assert!(matches!(standing, Standing::Ended(WalEnd::Contents { .. })), "{standing:?}"),
    }
    check_rows(&log, body, &events);
}

/// With rows the same records are told, and of those that change rows what stands in them.
fn check_rows(log: &[u8], body: &[u8], in_depth: &[Event]) {
    let mut reader = RecordReader::with_rows(Lsn(1 << 20), smallest());
    let mut records = Vec::new();
    let flow = reader.feed_all(log, |event| {
        records.extend(record_of(&event).cloned());
        ControlFlow::Continue(())
    });
    assert_eq!(flow.is_break(), reader.end().is_some());
    let deep: Vec<&Record> = in_depth.iter().filter_map(record_of).collect();
    assert_eq!(records.len(), deep.len());
    for (record, deep) in std::iter::zip(&records, deep) {
        match &record.kind {
            RecordKind::Heap(heap) => {
                assert_eq!(deep.kind, RecordKind::Other);
                check_heap(heap, body);
            }
            kind => assert_eq!(*kind, deep.kind),
        }
    }
}

fn check_heap(heap: &HeapRecord, body: &[u8]) {
    let Some(change) = heap.change() else { return };
    let holds = |bytes: &[u8]| bytes.is_empty() || body.windows(bytes.len()).any(|window| window == bytes);
    let page_of = |place: Place| {
        assert!(change.references.iter().any(|page| (page.relation, page.block) == (place.relation, place.block)));
        assert!(holds(&place.offset.to_ne_bytes()));
    };
    for page in &change.references {
        assert!(holds(&page.relation.relnumber.to_ne_bytes()) && holds(&page.block.to_ne_bytes()));
        assert!(page.image.and_then(|image| image.page()).is_none_or(|page| page.len() == 8192));
    }
    match change.operation {
        Operation::Insert(place, data) | Operation::InPlace(place, data) => {
            page_of(place);
            assert!(data.is_none_or(holds));
        }
        Operation::Delete { place, .. } => page_of(place),
        Operation::Update { old, new, row } => {
            page_of(old);
            page_of(new);
            assert!(row.is_none_or(|row| holds(row.middle)));
        }
        Operation::Other => {}
    }
    // Whatever it says, a reader of the catalogs takes it in.
    let mut catalogs = Catalogs::new(15);
    for page in &change.references {
        catalogs.map(page.relation.database, 1259, page.relation.relnumber);
    }
    drop(catalogs.apply(&change));
}

/// A page of a catalog: the version, then the page, whose size and layout are taken for granted. Whatever lies on it, names
/// of relations are texts, rows lie within it, and it can be read twice.
pub fn heap_page(bytes: &[u8]) {
    let (version, rest) = input::byte(bytes);
    let major = 14 + u32::from(version % 5);
    let mut page = rest.to_vec();
    page.resize(heap::PAGE_BYTES, 0);
    if let Some(size) = page.get_mut(18..20) {
        size.copy_from_slice(&8196_u16.to_ne_bytes());
    }
    let mut last = 0;
    for row in heap::rows(&page) {
        assert!(row.offset > last && row.data.len() < page.len());
        last = row.offset;
        let relation = Relation::parse(row.data, major);
        assert!(relation.is_none_or(|relation| relation.name.chars().count() <= 64 && row.data.len() > 115));
        let _ = is_invalid_database(row.data, major);
    }
    let mut catalogs = Catalogs::new(major);
    catalogs.map(5, 1259, 1259);
    for block in [0, 1] {
        catalogs.load_page(5, 1259, block, &page);
    }
    for row in heap::rows(&page).filter(|row| !row.is_rolled_back) {
        let relation = Relation::parse(row.data, major).filter(|relation| !relation.is_transient(None));
        assert!(relation.is_none_or(|relation| catalogs.relation(5, relation.oid).is_some()));
    }
}

/// What is said of a record stands in it.
fn check_contents(record: &Record, listed: &[Listed], body: &[u8]) {
    let holds = |bytes: &[u8]| bytes.is_empty() || body.windows(bytes.len()).any(|window| window == bytes);
    let number = |number: u32| holds(&number.to_ne_bytes());
    let relation = |at: RelFileLocator| number(at.tablespace) && number(at.database) && number(at.relnumber);
    let folder = |at: DatabaseFolder| number(at.database) && number(at.tablespace);
    let items =
        |item| listed.iter().filter(|found| std::mem::discriminant(*found) == std::mem::discriminant(&item)).count();
    assert!(listed.iter().all(|item| match item {
        Listed::Relation(at) => relation(*at),
        Listed::Tablespace(oid) | Listed::Table(oid) => number(*oid),
        Listed::Subtransaction(_) | Listed::Mapping { .. } => false,
    }));
    assert!(listed.len() * 4 <= body.len(), "{} items", listed.len());
    match &record.kind {
        RecordKind::Commit(end) | RecordKind::Abort(end) => assert_eq!(end.xid, 9),
        RecordKind::CommitPrepared(end) | RecordKind::AbortPrepared(end) => assert!(number(end.xid)),
        RecordKind::RestorePoint { name, .. } => assert!(name.chars().count() <= 64),
        RecordKind::TablespaceCreated { oid, location } => {
            assert!(number(*oid) && holds(location.as_os_str().as_encoded_bytes()));
        }
        RecordKind::ParametersChanged(to) => {
            assert!(holds(&to.max_connections.to_ne_bytes()) && holds(&to.wal_level.to_ne_bytes()));
        }
        RecordKind::FullPageWritesChanged(on) => assert!(*on || holds(&[0])),
        RecordKind::RelationCreated { relation: at, .. } => assert!(relation(*at)),
        RecordKind::RelationTruncated { relation: at, blocks, forks } => {
            assert!(relation(*at) && number(*blocks) && number(*forks));
        }
        RecordKind::TablesTruncated { database, tables, .. } => {
            assert!(number(*database) && items(Listed::Table(0)) == *tables as usize);
        }
        RecordKind::DatabaseCreated { folder: made, copied } => assert!(folder(*made) && copied.is_none_or(folder)),
        RecordKind::DatabaseDropped { database, tablespaces } => {
            assert!(number(*database) && items(Listed::Tablespace(0)) == *tablespaces as usize);
        }
        RecordKind::MapUpdated(of) => assert!(folder(*of)),
        RecordKind::Heap(_) | RecordKind::Other => assert!(listed.is_empty()),
    }
}

/// Reads the log at one go and in pieces, plainly and in depth, which must agree; answers the events in depth and why
/// they end.
fn read_both_ways(from: Lsn, log: &[u8], piece: usize) -> (Vec<Event>, Standing) {
    let outcome = read_in_depth(from, log, log.len().max(1));
    assert_eq!(read_in_depth(from, log, piece), outcome);
    let first = from.0 - from.0 % smallest().bytes();
    let mut least = first;
    let in_depth: Vec<&Record> = outcome.0.iter().filter_map(record_of).collect();
    for record in &in_depth {
        assert!(least <= record.start.0 && record.start < record.end, "{record:?}");
        // The first begins where it was said to.
        assert!((record.start == from || record.start.0 % 8 == 0) && record.end.0 % 8 == 0);
        assert!(record.start.0 - first < log.len() as u64);
        least = record.end.0;
    }
    let (plain, end) = read(from, log, log.len().max(1));
    assert_eq!(read(from, log, piece), (plain.clone(), end));
    assert!(std::iter::zip(&plain, &in_depth).all(|(plain, deep)| {
        (plain.start, plain.end) == (deep.start, deep.end)
            && (plain.kind == deep.kind || plain.kind == RecordKind::Other)
    }));
    match outcome.1 {
        // What nobody looks at plainly.
        Standing::Ended(WalEnd::Contents { .. }) => assert!(plain.len() >= in_depth.len()),
        Standing::Ended(found) => assert_eq!((plain.len(), end), (in_depth.len(), Some(found))),
        Standing::Whole | Standing::Unfinished { .. } => assert_eq!((plain.len(), end), (in_depth.len(), None)),
    }
    outcome
}

fn record_of(event: &Event) -> Option<&Record> {
    if let Event::Record(record) = event { Some(record) } else { None }
}

fn read(from: Lsn, log: &[u8], piece: usize) -> (Vec<Record>, Option<WalEnd>) {
    let mut reader = RecordReader::new(from, smallest());
    let mut records = Vec::new();
    for piece in log.chunks(piece) {
        let keep = |record| {
            records.push(record);
            ControlFlow::Continue(())
        };
        if reader.feed(piece, keep).is_break() {
            break;
        }
    }
    (records, reader.end())
}

fn read_in_depth(from: Lsn, log: &[u8], piece: usize) -> (Vec<Event>, Standing) {
    let mut reader = RecordReader::in_depth(from, smallest());
    let mut events = Vec::new();
    for piece in log.chunks(piece) {
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
