//! One record, put together from its pieces (`src/include/access/xlogrecord.h`).

use super::contents::Contents;
use super::heap_record::{self, HeapRecord};
use super::kinds::{Depth, Listed, RecordKind};
use super::{WalEnd, at_most};
use crate::pg::Lsn;
use crate::pg::bytes::{u8_at, u32_at, u64_at};

/// `SizeOfXLogRecord`.
const HEADER_SIZE: usize = 24;
/// The header's fields before `xl_crc`, which the checksum covers.
const CHECKED_HEADER_SIZE: usize = 20;
/// `XLogRecordMaxSize` is a little less; versions before 16 could not allocate more than this either.
const LENGTH_MAX: usize = 1 << 30;
/// `RM_XLOG_ID`.
pub(super) const RM_XLOG: u8 = 0;
/// The part of `xl_info` that belongs to the resource manager.
pub(super) const RMGR_INFO_MASK: u8 = 0xF0;
/// `XLOG_SWITCH`.
const XLOG_SWITCH: u8 = 0x40;

/// A record on its way. Nothing is allocated for one that is not looked into.
#[derive(Debug)]
pub(super) struct Assembly {
    start: Lsn,
    /// The magic of the page that it begins on.
    magic: u16,
    header: [u8; HEADER_SIZE],
    /// Bytes that have come.
    got: usize,
    /// `xl_tot_len`; until that is known the least that it can be.
    total: usize,
    /// CRC-32C of what came after the header.
    crc: u32,
    depth: Depth,
    contents: Option<Contents>,
    /// What came after the header, of a record whose rows are wanted.
    body: Option<Vec<u8>>,
}

impl Assembly {
    /// A record begins at `start`, on a page with this magic.
    pub(super) fn begin(start: Lsn, magic: u16, depth: Depth) -> Self {
        let header = [0; HEADER_SIZE];
        Self { start, magic, header, got: 0, total: HEADER_SIZE, crc: 0, depth, contents: None, body: None }
    }

    pub(super) fn start(&self) -> Lsn {
        self.start
    }

    /// How many bytes are still to come, as far as is known; 0 only once the record is whole.
    pub(super) fn left(&self) -> usize {
        self.total.saturating_sub(self.got)
    }

    /// Takes what belongs to the record from the beginning of `bytes`, which is not empty; says how much. `previous` is
    /// where the record before it begins, if known. Its length is believed only after the link back was right.
    /// What it lists goes to `listed`.
    pub(super) fn take(
        &mut self,
        bytes: &[u8],
        previous: Option<Lsn>,
        listed: &mut Vec<Listed>,
    ) -> Result<usize, WalEnd> {
        let mut used = 0;
        if self.got < HEADER_SIZE {
            let room = self.header.get_mut(self.got..).unwrap_or_default();
            used = room.len().min(bytes.len());
            room.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
            let before = self.got;
            self.got += used;
            self.check_header(before, previous)?;
            if self.got < HEADER_SIZE {
                return Ok(used);
            }
        }
        let piece = at_most(bytes.get(used..).unwrap_or_default(), self.left() as u64);
        self.crc = crc32c::crc32c_append(self.crc, piece);
        if let Some(contents) = &mut self.contents {
            contents.feed(piece, listed);
        }
        if let Some(body) = &mut self.body {
            body.extend_from_slice(piece);
        }
        self.got += piece.len();
        Ok(used + piece.len())
    }

    /// Looks at the fields of the header that came with its bytes from `before` on.
    fn check_header(&mut self, before: usize, previous: Option<Lsn>) -> Result<(), WalEnd> {
        let at = self.start;
        if before < 4 && self.got >= 4 {
            let length = u32_at(&self.header, 0).unwrap_or(0);
            self.total = length as usize;
            if length == 0 {
                return Err(WalEnd::Blank { at });
            }
            if !(HEADER_SIZE..=LENGTH_MAX).contains(&self.total) {
                return Err(WalEnd::Length { at, length });
            }
        }
        if self.got == HEADER_SIZE {
            let found = Lsn(u64_at(&self.header, 8).unwrap_or(0));
            if previous.map_or(found >= at, |previous| found != previous) {
                return Err(WalEnd::PreviousLink { at, found });
            }
            self.contents = Contents::of(self.manager(), self.info(), self.magic, self.depth);
            let has_rows = self.depth == Depth::Rows && heap_record::is_one(self.manager(), self.info());
            // A larger one writes whole pages of many blocks, or no known version has written it.
            self.body = (has_rows && self.total <= heap_record::LENGTH_MAX).then(Vec::new);
        }
        Ok(())
    }

    fn info(&self) -> u8 {
        u8_at(&self.header, 16).unwrap_or(0)
    }

    fn manager(&self) -> u8 {
        u8_at(&self.header, 17).unwrap_or(0)
    }

    /// Whether the rest of the segment is left unused after this record.
    pub(super) fn is_switch(&self) -> bool {
        self.manager() == RM_XLOG && self.info() & RMGR_INFO_MASK == XLOG_SWITCH
    }

    /// The record is whole: is it what was written, and what is it? The last of what it lists goes to `listed`.
    pub(super) fn finish(&mut self, listed: &mut Vec<Listed>) -> Result<RecordKind, WalEnd> {
        let checked = self.header.get(..CHECKED_HEADER_SIZE).unwrap_or_default();
        if u32_at(&self.header, CHECKED_HEADER_SIZE) != Some(crc32c::crc32c_append(self.crc, checked)) {
            return Err(WalEnd::Checksum { at: self.start });
        }
        if let Some(contents) = self.contents.take() {
            return contents.finish(self.xid(), listed).ok_or(WalEnd::Contents { at: self.start });
        }
        let Some(body) = self.body.take() else { return Ok(RecordKind::Other) };
        Ok(RecordKind::Heap(HeapRecord { manager: self.manager(), info: self.info(), magic: self.magic, body }))
    }

    /// Who wrote it.
    pub(super) fn xid(&self) -> u32 {
        u32_at(&self.header, 4).unwrap_or(0)
    }
}
