//! Writes WAL the way the server does, for tests.

use super::*;

pub(crate) const PAGE: usize = 8192;
pub(crate) const SYSTEM: u64 = 0x6B00_584F_18F6_FE81;
pub(crate) const SIZE: u32 = 1 << 20;

/// A log that begins at the start of a segment.
#[derive(Debug, Clone)]
pub(crate) struct Writer {
    pub(crate) bytes: Vec<u8>,
    base: u64,
    previous: u64,
    pub(crate) magic: u16,
    pub(crate) timeline: u32,
}

impl Writer {
    /// A log from the segment with this number on.
    pub(crate) fn new(segment: u64) -> Self {
        Self { bytes: Vec::new(), base: segment * u64::from(SIZE), previous: 0, magic: 0xD110, timeline: 1 }
    }

    pub(crate) fn position(&self) -> u64 {
        self.base.wrapping_add(self.bytes.len() as u64)
    }

    pub(crate) fn page_header(&mut self, info: u16, remaining: usize) {
        let start = self.position();
        let first = start.is_multiple_of(u64::from(SIZE));
        self.bytes.extend(self.magic.to_ne_bytes());
        self.bytes.extend((info | if first { 2 } else { 0 }).to_ne_bytes());
        self.bytes.extend(self.timeline.to_ne_bytes());
        self.bytes.extend(start.to_ne_bytes());
        self.bytes.extend(u32::try_from(remaining).unwrap().to_ne_bytes());
        self.bytes.extend([0; 4]);
        if first {
            self.bytes.extend(SYSTEM.to_ne_bytes());
            self.bytes.extend(SIZE.to_ne_bytes());
            self.bytes.extend(u32::try_from(PAGE).unwrap().to_ne_bytes());
        }
    }

    /// Appends a record; answers its start and end.
    pub(crate) fn record(&mut self, manager: u8, info: u8, xid: u32, body: &[u8]) -> (Lsn, Lsn) {
        if self.bytes.len().is_multiple_of(PAGE) {
            self.page_header(0, 0);
        }
        let start = self.position();
        let record = record_bytes(manager, info, xid, self.previous, body);
        self.previous = start;
        let mut rest = &record[..];
        while !rest.is_empty() {
            if self.bytes.len().is_multiple_of(PAGE) {
                self.page_header(1, rest.len());
            }
            let (now, later) = rest.split_at(rest.len().min(PAGE - self.bytes.len() % PAGE));
            self.bytes.extend_from_slice(now);
            rest = later;
        }
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        (Lsn(start), Lsn(self.position()))
    }

    pub(crate) fn filler(&mut self, length: usize) -> (Lsn, Lsn) {
        self.record(10, 0, 0, &vec![0xAB; length])
    }

    pub(crate) fn commit(&mut self, xid: u32, micros: i64) -> (Lsn, Lsn) {
        self.record(1, 0, xid, &main_data(&micros.to_ne_bytes()))
    }

    pub(crate) fn abort(&mut self, xid: u32, micros: i64) -> (Lsn, Lsn) {
        self.record(1, 0x20, xid, &main_data(&micros.to_ne_bytes()))
    }

    pub(crate) fn restore_point(&mut self, name: &str, micros: i64) -> (Lsn, Lsn) {
        let mut data = micros.to_ne_bytes().to_vec();
        data.extend_from_slice(name.as_bytes());
        data.resize(8 + 64, 0);
        self.record(0, 0x70, 0, &main_data(&data))
    }

    /// Appends a segment switch and the zeros behind it.
    pub(crate) fn switch(&mut self) -> (Lsn, Lsn) {
        let (start, _) = self.record(0, 0x40, 0, &[]);
        self.pad();
        (start, Lsn(self.position()))
    }

    /// Fills the segment with zeros.
    pub(crate) fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(SIZE as usize), 0);
    }
}

/// A record as it stands in the log, without page headers.
pub(crate) fn record_bytes(manager: u8, info: u8, xid: u32, previous: u64, body: &[u8]) -> Vec<u8> {
    let mut record = u32::try_from(24 + body.len()).unwrap().to_ne_bytes().to_vec();
    record.extend(xid.to_ne_bytes());
    record.extend(previous.to_ne_bytes());
    record.extend([info, manager, 0, 0]);
    let crc = crc32c::crc32c_append(crc32c::crc32c(body), &record);
    record.extend(crc.to_ne_bytes());
    record.extend_from_slice(body);
    record
}

/// Main data behind its fragment header.
pub(crate) fn main_data(data: &[u8]) -> Vec<u8> {
    let mut body = match u8::try_from(data.len()) {
        Ok(length) => vec![255, length],
        Err(_) => [vec![254], u32::try_from(data.len()).unwrap().to_ne_bytes().to_vec()].concat(),
    };
    body.extend_from_slice(data);
    body
}

/// The main data of the end of a transaction, a prepared one if it has a number, with so many subtransactions,
/// relations, statistics and invalidations; and those relations.
pub(crate) fn transaction_end(
    prepared: Option<u32>,
    counts: [u32; 4],
    stats_item: usize,
) -> (Vec<u8>, Vec<RelFileLocator>) {
    let flags = [2, 4, 0x100, 8];
    let sizes = [4, 12, stats_item, 16];
    let set = std::iter::zip(flags, counts).filter(|(_, count)| *count > 0).map(|(flag, _)| flag).sum::<u32>();
    let mut data = 5_i64.to_ne_bytes().to_vec();
    data.extend((set | 1 | if prepared.is_some() { 0x10 } else { 0 }).to_ne_bytes());
    data.extend([9; 8]);
    let relations = (0..counts[1]).map(|at| RelFileLocator { tablespace: 1663, database: 5, relnumber: 16384 + at });
    let relations: Vec<RelFileLocator> = relations.collect();
    for (flag, (count, size)) in
        std::iter::zip(flags, std::iter::zip(counts, sizes)).filter(|(_, (count, _))| *count > 0)
    {
        data.extend(count.to_ne_bytes());
        if flag == 4 {
            data.extend(relations.iter().flat_map(|relation| locator(*relation)));
        } else {
            data.resize(data.len() + count as usize * size, 0x99);
        }
    }
    if let Some(xid) = prepared {
        data.extend(xid.to_ne_bytes());
        data.extend(b"gid\0");
    }
    (data, relations)
}

/// A relation's place as records have it.
pub(crate) fn locator(relation: RelFileLocator) -> Vec<u8> {
    numbers(&[relation.tablespace, relation.database, relation.relnumber])
}

/// Numbers one behind the other.
pub(crate) fn numbers(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_ne_bytes()).collect()
}
