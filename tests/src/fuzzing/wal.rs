//! The write-ahead log.

use std::ops::ControlFlow;

use common::pg::wal_reader::{Record, RecordKind, RecordReader, WalEnd};
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

/// The record reader: the size of pieces, where to begin within the segment, then the log. Its first page's own place is
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
    let (records, end) = read_both_ways(Lsn(1 << 20), &log, piece);
    match records.first() {
        Some(record) => {
            assert_eq!(record.start, Lsn((1 << 20) + 40));
            check_contents(record, body);
        }
        None => assert!(matches!(end, Some(WalEnd::Contents { .. } | WalEnd::PreviousLink { .. })), "{end:?}"),
    }
}

/// What is said of a record stands in it.
fn check_contents(record: &Record, body: &[u8]) {
    let holds = |bytes: &[u8]| bytes.is_empty() || body.windows(bytes.len()).any(|window| window == bytes);
    match &record.kind {
        RecordKind::Commit(end) | RecordKind::Abort(end) => assert_eq!(end.xid, 9),
        RecordKind::CommitPrepared(end) | RecordKind::AbortPrepared(end) => assert!(holds(&end.xid.to_ne_bytes())),
        RecordKind::RestorePoint { name, .. } => assert!(name.chars().count() <= 64),
        RecordKind::TablespaceCreated { oid, location } => {
            assert!(holds(&oid.to_ne_bytes()) && holds(location.as_os_str().as_encoded_bytes()));
        }
        RecordKind::Other => {}
    }
}

/// Reads the log at one go and in pieces, which must agree; answers the records and why they end.
fn read_both_ways(from: Lsn, log: &[u8], piece: usize) -> (Vec<Record>, Option<WalEnd>) {
    let outcome = read(from, log, log.len().max(1));
    assert_eq!(read(from, log, piece), outcome);
    let first = from.0 - from.0 % smallest().bytes();
    let mut least = first;
    for record in &outcome.0 {
        assert!(least <= record.start.0 && record.start < record.end, "{record:?}");
        assert!(record.start.0 % 8 == 0 && record.end.0 % 8 == 0 && record.start.0 - first < log.len() as u64);
        least = record.end.0;
    }
    outcome
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
