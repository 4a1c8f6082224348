//! Records that change rows or whole pages of a relation: who deletes what, and what a catalog says after it
//! (`src/include/access/heapam_xlog.h`, `src/include/access/xlogrecord.h`, `src/backend/access/transam/xlogreader.c`).
//!
//! These records are the bulk of a log and are looked into only by who asks for them.

use super::kinds::RelFileLocator;
use super::record::{RM_XLOG, RMGR_INFO_MASK};
use crate::codec::raw;
use crate::pg::bytes::{u8_at, u16_at, u32_at};
use crate::pg::heap::PAGE_BYTES;
use crate::pg::wal_page::major_of_magic;

/// The longest record that is kept: one that writes 32 whole pages, the most that a record can have (`XLR_MAX_BLOCK_ID`).
pub(super) const LENGTH_MAX: usize = 33 * 32 * 1024;

/// `RM_HEAP2_ID`, `RM_HEAP_ID`.
const RM_HEAP2: u8 = 9;
const RM_HEAP: u8 = 10;
/// `XLOG_FPI_FOR_HINT`, `XLOG_FPI`.
const FULL_PAGE_FOR_HINT: u8 = 0xA0;
const FULL_PAGE: u8 = 0xB0;

/// `XLOG_HEAP_OPMASK` and the operations.
const OPERATION_MASK: u8 = 0x70;
const INSERT: u8 = 0x00;
const DELETE: u8 = 0x10;
const UPDATE: u8 = 0x20;
const HOT_UPDATE: u8 = 0x40;
const IN_PLACE: u8 = 0x70;

/// `XLH_DELETE_IS_SUPER`: a row that was never there for anybody; `XLH_DELETE_IS_PARTITION_MOVE`: it lives on elsewhere.
const DELETE_IS_SUPER: u8 = 1 << 3;
const DELETE_IS_PARTITION_MOVE: u8 = 1 << 4;
/// `XLH_UPDATE_PREFIX_FROM_OLD`, `XLH_UPDATE_SUFFIX_FROM_OLD`.
const PREFIX_FROM_OLD: u8 = 1 << 5;
const SUFFIX_FROM_OLD: u8 = 1 << 6;

/// `SizeOfHeapHeader`, and where in it `t_hoff` stands.
const ROW_HEADER_SIZE: usize = 5;
const ROW_HOFF_OFFSET: usize = 4;
/// `SizeofHeapTupleHeader`, which the log leaves out.
const TUPLE_HEADER_SIZE: usize = 23;

/// `XLR_BLOCK_ID_…`.
const BLOCK_ID_MAX: u8 = 32;
const DATA_SHORT: u8 = 255;
const DATA_LONG: u8 = 254;
const ORIGIN: u8 = 253;
const TOPLEVEL_XID: u8 = 252;

/// `BKPBLOCK_…`.
const FORK_MASK: u8 = 0x0F;
const HAS_IMAGE: u8 = 0x10;
const HAS_DATA: u8 = 0x20;
const SAME_RELATION: u8 = 0x80;

/// `BKPIMAGE_HAS_HOLE`; the kinds of compression, of which version 14 has one, under another number.
const HAS_HOLE: u8 = 0x01;
const COMPRESSED_14: u8 = 0x02;
const COMPRESSED_PGLZ: u8 = 0x04;
const COMPRESSED_LZ4: u8 = 0x08;
const COMPRESSED_ZSTD: u8 = 0x10;

/// Whether it is a record of this kind.
pub(super) fn is_one(manager: u8, info: u8) -> bool {
    match manager {
        RM_HEAP | RM_HEAP2 => true,
        RM_XLOG => matches!(info & RMGR_INFO_MASK, FULL_PAGE | FULL_PAGE_FOR_HINT),
        _ => false,
    }
}

/// A record that changes rows or whole pages, with all of its contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeapRecord {
    pub(super) manager: u8,
    pub(super) info: u8,
    pub(super) magic: u16,
    pub(super) body: Vec<u8>,
}

/// What such a record does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeapChange<'a> {
    /// To which row.
    pub operation: Operation<'a>,
    /// Every page that it names, with the page's image after the change where it has one.
    pub references: Vec<Reference<'a>>,
}

/// A page that a record names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reference<'a> {
    /// The page's relation.
    pub relation: RelFileLocator,
    /// Whether it is a page of the main fork.
    pub is_main_fork: bool,
    /// Its number in the relation.
    pub block: u32,
    /// What the page is after the change.
    pub image: Option<PageImage<'a>>,
    data: &'a [u8],
}

/// A row's place: nothing else is ever there until the row is gone for everybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place {
    /// The relation.
    pub relation: RelFileLocator,
    /// The page.
    pub block: u32,
    /// The line pointer, from 1.
    pub offset: u16,
}

/// What happens to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation<'a> {
    /// It is new; its columns from the first on, unless the page's image has them.
    Insert(Place, Option<&'a [u8]>),
    /// It is deleted; `is_loss` unless it goes on elsewhere or never was.
    Delete {
        /// Where it lies.
        place: Place,
        /// Whether anybody misses it.
        is_loss: bool,
    },
    /// It has a new version.
    Update {
        /// Where the old version lies.
        old: Place,
        /// Where the new one lies.
        new: Place,
        /// What it says, unless the page's image has it.
        row: Option<NewRow<'a>>,
    },
    /// Columns are written over, at once and for everybody; all columns, unless the page's image has them.
    InPlace(Place, Option<&'a [u8]>),
    /// Something else.
    Other,
}

/// The columns of a new version, as far as the log repeats them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewRow<'a> {
    /// So many bytes at the beginning are those of the old version.
    pub prefix: usize,
    /// What stands between.
    pub middle: &'a [u8],
    /// So many bytes at the end are those of the old version.
    pub suffix: usize,
}

/// A whole page in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageImage<'a> {
    bytes: &'a [u8],
    packing: Packing,
    hole_offset: usize,
    hole_length: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Packing {
    Plain,
    Pglz,
    Lz4,
    Zstd,
}

impl PageImage<'_> {
    /// The page; `None` when the image is damaged or of a page of another size than usual.
    pub fn page(&self) -> Option<Vec<u8>> {
        let length = PAGE_BYTES.checked_sub(self.hole_length)?;
        let mut page = match self.packing {
            Packing::Plain => self.bytes.to_vec(),
            Packing::Pglz => raw::pglz(self.bytes, length)?,
            Packing::Lz4 => raw::lz4(self.bytes, length)?,
            Packing::Zstd => raw::zstd(self.bytes, length)?,
        };
        if page.len() != length || self.hole_offset > length {
            return None;
        }
        let hole = std::iter::repeat_n(0, self.hole_length);
        page.splice(self.hole_offset..self.hole_offset, hole);
        Some(page)
    }
}

impl HeapRecord {
    /// What the record does; `None` for contents that no known version writes.
    pub fn change(&self) -> Option<HeapChange<'_>> {
        let (references, main) = self.take_apart()?;
        let operation = self.operation(&references, main)?;
        Some(HeapChange { operation, references })
    }

    fn operation<'a>(&self, references: &[Reference<'a>], main: &'a [u8]) -> Option<Operation<'a>> {
        if self.manager != RM_HEAP {
            return Some(Operation::Other);
        }
        let operation = self.info & OPERATION_MASK;
        if !matches!(operation, INSERT | DELETE | UPDATE | HOT_UPDATE | IN_PLACE) {
            return Some(Operation::Other);
        }
        let page = references.first()?;
        let place = |page: &Reference<'_>, at| {
            Some(Place { relation: page.relation, block: page.block, offset: u16_at(main, at)? })
        };
        Some(match operation {
            INSERT => Operation::Insert(place(page, 0)?, page.written().and_then(row_data)),
            DELETE => {
                let is_loss = u8_at(main, 7)? & (DELETE_IS_SUPER | DELETE_IS_PARTITION_MOVE) == 0;
                Operation::Delete { place: place(page, 4)?, is_loss }
            }
            IN_PLACE => Operation::InPlace(place(page, 0)?, page.written()),
            _ => {
                let old_page = references.get(1).unwrap_or(page);
                let flags = u8_at(main, 7)?;
                let row = page.written().and_then(|data| new_row(data, flags));
                Operation::Update { old: place(old_page, 4)?, new: place(page, 12)?, row }
            }
        })
    }

    /// The pages that it names, and its main data.
    fn take_apart(&self) -> Option<(Vec<Reference<'_>>, &[u8])> {
        let mut heads: Vec<Head> = Vec::new();
        let (mut at, body) = (0, &self.body[..]);
        let main_length = loop {
            if at == body.len() {
                break 0;
            }
            match u8_at(body, at)? {
                ORIGIN => at += 3,
                TOPLEVEL_XID => at += 5,
                DATA_SHORT => {
                    at += 2;
                    break usize::from(u8_at(body, at - 1)?);
                }
                DATA_LONG => {
                    at += 5;
                    break usize::try_from(u32_at(body, at - 4)?).ok()?;
                }
                0..=BLOCK_ID_MAX => {
                    let (head, end) = self.head(at, heads.last().map(|head| head.relation))?;
                    heads.push(head);
                    at = end;
                }
                _ => return None,
            }
            // What follows is data.
            let announced: usize = heads.iter().map(Head::length).sum();
            if body.len().checked_sub(at)? == announced {
                break 0;
            }
        };
        let mut references = Vec::with_capacity(heads.len());
        for head in heads {
            let image_bytes = body.get(at..)?.get(..head.image_length)?;
            let data = body.get(at + head.image_length..)?.get(..head.data_length)?;
            at += head.length();
            let image = head.packing.map(|packing| PageImage {
                bytes: image_bytes,
                packing,
                hole_offset: head.hole_offset,
                hole_length: head.hole_length,
            });
            let (relation, is_main_fork, block) = (head.relation, head.is_main_fork, head.block);
            references.push(Reference { relation, is_main_fork, block, image, data });
        }
        let main = body.get(at..)?;
        (main.len() == main_length).then_some((references, main))
    }

    /// The header of a page's part that begins at `at`, and where it ends.
    fn head(&self, at: usize, previous: Option<RelFileLocator>) -> Option<(Head, usize)> {
        let body = &self.body[..];
        let flags = u8_at(body, at + 1)?;
        let data_length = usize::from(u16_at(body, at + 2)?);
        let mut end = at + 4;
        let (mut image_length, mut hole_offset, mut hole_length, mut packing) = (0, 0, 0, None);
        if flags & HAS_IMAGE != 0 {
            image_length = usize::from(u16_at(body, end)?);
            hole_offset = usize::from(u16_at(body, end + 2)?);
            let image = u8_at(body, end + 4)?;
            end += 5;
            let found = self.packing(image);
            if image & HAS_HOLE != 0 && found != Packing::Plain {
                hole_length = usize::from(u16_at(body, end)?);
                end += 2;
            } else if image & HAS_HOLE != 0 {
                hole_length = PAGE_BYTES.checked_sub(image_length)?;
            }
            packing = Some(found);
        }
        let relation = if flags & SAME_RELATION == 0 {
            end += 12;
            super::changes::locator(body, end - 12)?
        } else {
            previous?
        };
        let block = u32_at(body, end)?;
        if (flags & HAS_DATA != 0) != (data_length > 0) {
            return None;
        }
        let is_main_fork = flags & FORK_MASK == 0;
        let head = Head { relation, is_main_fork, block, image_length, hole_offset, hole_length, packing, data_length };
        Some((head, end + 4))
    }

    fn packing(&self, image: u8) -> Packing {
        if major_of_magic(self.magic) == Some(14) {
            return if image & COMPRESSED_14 != 0 { Packing::Pglz } else { Packing::Plain };
        }
        match image & (COMPRESSED_PGLZ | COMPRESSED_LZ4 | COMPRESSED_ZSTD) {
            COMPRESSED_PGLZ => Packing::Pglz,
            COMPRESSED_LZ4 => Packing::Lz4,
            COMPRESSED_ZSTD => Packing::Zstd,
            _ => Packing::Plain,
        }
    }
}

/// What stands before the data of a page.
struct Head {
    relation: RelFileLocator,
    is_main_fork: bool,
    block: u32,
    image_length: usize,
    hole_offset: usize,
    hole_length: usize,
    packing: Option<Packing>,
    data_length: usize,
}

impl Head {
    fn length(&self) -> usize {
        self.image_length + self.data_length
    }
}

impl<'a> Reference<'a> {
    /// What the log has of the page besides an image.
    fn written(&self) -> Option<&'a [u8]> {
        Some(self.data).filter(|data| !data.is_empty())
    }
}

/// A row's columns behind its short header and the map of its nulls.
fn row_data(data: &[u8]) -> Option<&[u8]> {
    data.get(ROW_HEADER_SIZE + usize::from(u8_at(data, ROW_HOFF_OFFSET)?).checked_sub(TUPLE_HEADER_SIZE)?..)
}

fn new_row(data: &[u8], flags: u8) -> Option<NewRow<'_>> {
    let mut at = 0;
    let mut length = |is_there| {
        let length = if is_there { usize::from(u16_at(data, at)?) } else { 0 };
        at += if is_there { 2 } else { 0 };
        Some(length)
    };
    let prefix = length(flags & PREFIX_FROM_OLD != 0)?;
    let suffix = length(flags & SUFFIX_FROM_OLD != 0)?;
    Some(NewRow { prefix, middle: row_data(data.get(at..)?)?, suffix })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{locator, main_data};
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    const V14: u16 = 0xD10D;
    const V15: u16 = 0xD110;
    const TABLE: RelFileLocator = RelFileLocator { tablespace: 1663, database: 5, relnumber: 16_385 };

    fn record(info: u8, body: Vec<u8>) -> HeapRecord {
        HeapRecord { manager: RM_HEAP, info, magic: V15, body }
    }

    /// The header of a page's part: flags, the length of its data, an image's header, the relation unless it is the same.
    fn head(id: u8, flags: u8, data: usize, image: &[u8], block: u32) -> Vec<u8> {
        let relation = if flags & SAME_RELATION == 0 { locator(TABLE) } else { Vec::new() };
        let length = u16::try_from(data).unwrap().to_ne_bytes();
        [&[id, flags][..], &length, image, &relation, &block.to_ne_bytes()].concat()
    }

    /// A body of these page headers, this data of theirs and this main data, all short.
    fn body(heads: &[Vec<u8>], data: &[u8], main: &[u8]) -> Vec<u8> {
        let main_head = main_data(main)[..2].to_vec();
        [&heads.concat()[..], &main_head, data, main].concat()
    }

    fn place(block: u32, offset: u16) -> Place {
        Place { relation: TABLE, block, offset }
    }

    #[rstest]
    #[case(0, true)]
    #[case(DELETE_IS_SUPER, false)]
    #[case(DELETE_IS_PARTITION_MOVE, false)]
    fn a_deletion_has_a_place(#[case] flags: u8, #[case] is_loss: bool) {
        let main = [9, 0, 0, 0, 7, 0, 0, flags];
        let record = record(DELETE, body(&[head(0, 0, 0, &[], 3)], &[], &main));
        let change = record.change().unwrap();
        assert_eq!(change.operation, Operation::Delete { place: place(3, 7), is_loss });
        assert_eq!(change.references.len(), 1);
    }

    #[test]
    fn a_new_row_stands_in_the_record() {
        let row = [&[0, 0, 0, 0, 24][..], &[0], b"columns"].concat();
        let insert = record(INSERT | 0x80, body(&[head(0, HAS_DATA, row.len(), &[], 3)], &row, &[2, 0, 0]));
        assert_eq!(insert.change().unwrap().operation, Operation::Insert(place(3, 2), Some(&b"columns"[..])));
        let in_place = record(IN_PLACE, body(&[head(0, HAS_DATA, 7, &[], 3)], b"columns", &[2, 0]));
        assert_eq!(in_place.change().unwrap().operation, Operation::InPlace(place(3, 2), Some(&b"columns"[..])));
    }

    #[test]
    fn a_new_version_repeats_only_what_is_new() {
        let main = [9, 0, 0, 0, 7, 0, 0, PREFIX_FROM_OLD | SUFFIX_FROM_OLD, 0, 0, 0, 0, 8, 0];
        let row = [&[10, 0, 20, 0][..], &[0, 0, 0, 0, 24], &[0], b"new"].concat();
        let hot = record(HOT_UPDATE, body(&[head(0, HAS_DATA, row.len(), &[], 3)], &row, &main));
        let expected = Some(NewRow { prefix: 10, middle: &b"new"[..], suffix: 20 });
        let operation = Operation::Update { old: place(3, 7), new: place(3, 8), row: expected };
        assert_eq!(hot.change().unwrap().operation, operation);
        // On another page the whole row is new.
        let (main, row) = ([9, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 8, 0], [&[0, 0, 0, 0, 23][..], b"new"].concat());
        let heads = [head(0, HAS_DATA, row.len(), &[], 4), head(1, SAME_RELATION, 0, &[], 3)];
        let update = record(UPDATE, body(&heads, &row, &main));
        let row = Some(NewRow { prefix: 0, middle: &b"new"[..], suffix: 0 });
        let operation = Operation::Update { old: place(3, 7), new: place(4, 8), row };
        assert_eq!(update.change().unwrap().operation, operation);
    }

    /// A page of zeros but for `around` the hole from 100 to 8100.
    fn image(magic: u16, kind: u8, packed: &[u8]) -> Option<Vec<u8>> {
        let mut header = u16::try_from(packed.len()).unwrap().to_ne_bytes().to_vec();
        header.extend([100, 0, kind | HAS_HOLE]);
        if kind != 0 {
            header.extend(8000_u16.to_ne_bytes());
        }
        let body = [&head(0, HAS_IMAGE, 0, &header, 3)[..], packed].concat();
        let record = HeapRecord { manager: RM_XLOG, info: FULL_PAGE, magic, body };
        record.change()?.references[0].image?.page()
    }

    #[test]
    fn a_page_has_its_hole_again() {
        let around = [[7; 100], [8; 100]].concat();
        let around = &around[..192];
        let expected = [&[7; 100][..], &[0; 8000], &[8; 92]].concat();
        let pglz = [&[0b10, 7, 0x0F, 1, 81, 8, 0x0F][..]].concat();
        assert_eq!(image(V15, 0, around), Some(expected.clone()));
        assert_eq!(image(V14, 0, around), Some(expected.clone()));
        assert_eq!(image(V15, COMPRESSED_LZ4, &lz4_flex::block::compress(around)), Some(expected.clone()));
        assert_eq!(image(V15, COMPRESSED_ZSTD, &zstd::bulk::compress(around, 1).unwrap()), Some(expected));
        assert_eq!(image(V15, COMPRESSED_LZ4, &pglz), None);
        let run = [0b10, 7, 0x0F, 1, 173];
        let expected = [&[7; 100][..], &[0; 8000], &[7; 92]].concat();
        assert_eq!(image(V14, COMPRESSED_14, &run), Some(expected.clone()));
        assert_eq!(image(V15, COMPRESSED_PGLZ, &run), Some(expected));
    }

    #[test]
    fn other_records_change_no_row() {
        let lock = record(0x60, body(&[head(0, 0, 0, &[], 3)], &[], &[0; 8]));
        assert_eq!(lock.change().unwrap().operation, Operation::Other);
        assert!(is_one(RM_XLOG, 0xB1) && is_one(RM_HEAP2, 0) && !is_one(RM_XLOG, 0x10) && !is_one(1, 0));
    }

    #[rstest]
    #[case::cut_off(&[0, 0, 0])]
    #[case::no_main_data(&[255, 9])]
    #[case::no_block(&[40, 0, 0, 0])]
    #[case::of_no_relation(&[0, 0x80, 0, 0, 0, 0, 0, 0, 255, 8, 0, 0, 0, 0, 0, 0, 0, 0])]
    fn strange_contents_are_refused(#[case] body: &[u8]) {
        assert_eq!(record(DELETE, body.to_vec()).change(), None);
    }

    proptest! {
        #[test]
        fn never_panics(manager in prop_oneof![Just(RM_HEAP), Just(RM_HEAP2), Just(RM_XLOG)], info: u8, is_14: bool,
                        flags: u8, image in proptest::collection::vec(any::<u8>(), 0..9), rest in proptest::collection::vec(any::<u8>(), 0..300), lead: bool) {
            let mut body = if lead { head(0, flags, rest.len() / 2, &image, 3) } else { Vec::new() };
            body.extend(rest);
            let record = HeapRecord { manager, info, magic: if is_14 { V14 } else { V15 }, body };
            if let Some(change) = record.change() {
                for image in change.references.iter().filter_map(|page| page.image) {
                    prop_assert!(image.page().is_none_or(|page| page.len() == PAGE_BYTES));
                }
            }
        }
    }
}
