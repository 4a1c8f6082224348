//! Pages of a table: which rows lie on one (`src/include/storage/bufpage.h`, `src/include/storage/itemid.h`,
//! `src/include/access/htup_details.h`). Enough to read the fixed columns of catalogs, which come first in their rows and
//! are never null.

use super::bytes::{u8_at, u16_at, u32_at};

/// The size of a page, as every packaged server has it.
pub const PAGE_BYTES: usize = 8192;

/// `SizeOfPageHeaderData`: the line pointers follow.
const PAGE_HEADER_SIZE: usize = 24;
/// `pd_lower`, `pd_pagesize_version`.
const LOWER_OFFSET: usize = 12;
const SIZE_VERSION_OFFSET: usize = 18;
/// `PG_PAGE_LAYOUT_VERSION`.
const LAYOUT_VERSION: u16 = 4;
/// `sizeof(ItemIdData)`.
const LINE_POINTER_SIZE: usize = 4;
/// `LP_NORMAL`.
const LP_NORMAL: u32 = 1;

/// `t_infomask`, `t_hoff`, `SizeofHeapTupleHeader`.
const INFOMASK_OFFSET: usize = 20;
const HOFF_OFFSET: usize = 22;
const TUPLE_HEADER_SIZE: usize = 23;
/// `HEAP_XMIN_INVALID` without `HEAP_XMIN_COMMITTED`; with it the row is frozen.
const XMIN_COMMITTED: u16 = 0x0100;
const XMIN_INVALID: u16 = 0x0200;
/// `HEAP_XMAX_INVALID`, `HEAP_XMAX_LOCK_ONLY`.
const XMAX_INVALID: u16 = 0x0800;
const XMAX_LOCK_ONLY: u16 = 0x0080;

/// A version of a row, alive or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row<'a> {
    /// Its line pointer, from 1.
    pub offset: u16,
    /// What is known of who made it: it was rolled back.
    pub is_rolled_back: bool,
    /// Nobody has deleted it or made a newer version, as far as its hints tell: a doubt counts as somebody.
    pub is_newest: bool,
    /// Its columns, from the first on.
    pub data: &'a [u8],
}

/// Whether these bytes are a page with rows, of the usual size.
pub fn is_page(page: &[u8]) -> bool {
    let size_and_version = u16_at(page, SIZE_VERSION_OFFSET);
    page.len() == PAGE_BYTES && size_and_version.map(usize::from) == Some(PAGE_BYTES | usize::from(LAYOUT_VERSION))
}

/// The rows on a page, in the order of their line pointers; those that point nowhere, and what is no page, give none.
pub fn rows(page: &[u8]) -> impl Iterator<Item = Row<'_>> {
    let lower = if is_page(page) { u16_at(page, LOWER_OFFSET).unwrap_or(0) } else { 0 };
    let pointers = page.get(PAGE_HEADER_SIZE..usize::from(lower)).unwrap_or_default();
    std::iter::zip(1.., pointers.chunks_exact(LINE_POINTER_SIZE))
        .filter_map(|(offset, pointer)| row(page, offset, u32_at(pointer, 0)?))
}

fn row(page: &[u8], offset: u16, pointer: u32) -> Option<Row<'_>> {
    if (pointer >> 15) & 3 != LP_NORMAL {
        return None;
    }
    let at = usize::try_from(pointer & 0x7FFF).ok()?;
    let length = usize::try_from(pointer >> 17).ok()?;
    let tuple = page.get(at..)?.get(..length)?;
    let head = usize::from(u8_at(tuple, HOFF_OFFSET)?);
    let data = tuple.get(head..).filter(|_| head >= TUPLE_HEADER_SIZE)?;
    let mask = u16_at(tuple, INFOMASK_OFFSET)?;
    let is_rolled_back = mask & (XMIN_COMMITTED | XMIN_INVALID) == XMIN_INVALID;
    let is_newest = mask & (XMAX_INVALID | XMAX_LOCK_ONLY) != 0;
    Some(Row { offset, is_rolled_back, is_newest, data })
}

/// Pages made for tests.
#[cfg(test)]
pub(super) mod testing {
    use super::*;

    /// A page with these rows: `t_infomask` and the columns of each.
    pub(in crate::pg) fn page(rows: &[(u16, &[u8])]) -> Vec<u8> {
        let mut page = vec![0; PAGE_BYTES];
        let mut upper = PAGE_BYTES;
        for (number, (mask, data)) in rows.iter().enumerate() {
            let length = 24 + data.len();
            upper = (upper - length) / 8 * 8;
            page[upper + INFOMASK_OFFSET..][..2].copy_from_slice(&mask.to_ne_bytes());
            page[upper + HOFF_OFFSET] = 24;
            page[upper + 24..upper + length].copy_from_slice(data);
            let pointer = u32::try_from(upper | 1 << 15 | length << 17).unwrap();
            page[PAGE_HEADER_SIZE + number * 4..][..4].copy_from_slice(&pointer.to_ne_bytes());
        }
        let lower = u16::try_from(PAGE_HEADER_SIZE + rows.len() * 4).unwrap();
        page[LOWER_OFFSET..][..2].copy_from_slice(&lower.to_ne_bytes());
        page[SIZE_VERSION_OFFSET..][..2].copy_from_slice(&(8192_u16 | LAYOUT_VERSION).to_ne_bytes());
        page
    }
}

#[cfg(test)]
mod tests {
    use super::testing::page;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rows_have_their_line_pointers_and_hints() {
        let page = page(&[(XMAX_INVALID, b"one"), (XMIN_INVALID, b"two"), (0x0300 | XMAX_LOCK_ONLY, b"three")]);
        let found: Vec<_> = rows(&page).map(|row| (row.offset, row.is_rolled_back, row.is_newest, row.data)).collect();
        let expected: [(u16, bool, bool, &[u8]); 3] =
            [(1, false, true, b"one"), (2, true, false, b"two"), (3, false, true, b"three")];
        assert_eq!(found, expected);
    }

    #[test]
    fn what_is_no_page_has_no_rows() {
        let mut page = page(&[(0, b"one")]);
        assert_eq!(rows(&page[..8191]).count(), 0);
        page[SIZE_VERSION_OFFSET] = 3;
        assert_eq!(rows(&page).count(), 0);
        assert_eq!(rows(&[0; PAGE_BYTES]).count(), 0);
    }

    #[test]
    fn other_line_pointers_point_nowhere() {
        let mut page = page(&[(0, b"one"), (0, b"two")]);
        for flags in [0_u32, 2, 3] {
            let pointer = u32_at(&page, PAGE_HEADER_SIZE).unwrap() & !(3 << 15) | flags << 15;
            page[PAGE_HEADER_SIZE..][..4].copy_from_slice(&pointer.to_ne_bytes());
            assert_eq!(rows(&page).map(|row| row.offset).collect::<Vec<_>>(), [2]);
        }
    }

    proptest! {
        #[test]
        fn never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 24..400), lower: u16) {
            bytes[SIZE_VERSION_OFFSET..][..2].copy_from_slice(&8196_u16.to_ne_bytes());
            bytes[LOWER_OFFSET..][..2].copy_from_slice(&lower.to_ne_bytes());
            bytes.resize(PAGE_BYTES, 0x5A);
            let mut before = 0;
            for row in rows(&bytes) {
                prop_assert!(row.offset > before && row.data.len() < PAGE_BYTES);
                before = row.offset;
            }
        }
    }
}
