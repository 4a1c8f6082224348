//! Checksums of data pages (`src/include/storage/checksum_impl.h`, `src/include/storage/bufpage.h`).

use super::Lsn;
use super::bytes::{all_zero, u16_at, u32_at};

/// How many sums run side by side over the words of a page: enough for vector instructions to do them together.
const SUMS: usize = 32;
/// The bytes that all sums take in one round.
const ROW: usize = SUMS * size_of::<u32>();
const FNV_PRIME: u32 = 16_777_619;
/// Where `pd_checksum` lies in the page.
const CHECKSUM_OFFSET: usize = 8;

/// `checksumBaseOffsets`: what each sum begins with.
const BASE_OFFSETS: [u32; SUMS] = [
    0x5B1F_36E9,
    0xB852_5960,
    0x02AB_50AA,
    0x1DE6_6D2A,
    0x79FF_467A,
    0x9BB9_F8A3,
    0x217E_7CD2,
    0x83E1_3D2C,
    0xF8D4_474F,
    0xE39E_B970,
    0x42C6_AE16,
    0x9932_16FA,
    0x7B09_3B5D,
    0x98DA_FF3C,
    0xF718_902A,
    0x0B1C_9CDB,
    0xE58F_764B,
    0x1876_36BC,
    0x5D7B_3BB1,
    0xE73D_E7DE,
    0x92BE_C979,
    0xCCA6_C0B2,
    0x304A_0979,
    0x85AA_43D4,
    0x7831_25BB,
    0x6CA8_EAA2,
    0xE407_EAC6,
    0x4B5C_FC3E,
    0x9FBF_8C76,
    0x15CA_20BE,
    0xF2CA_9FD3,
    0x959B_D756,
];

/// `pg_checksum_page`: the checksum that the page must have as block `block` of its relation (not of its segment file),
/// whatever it has now. Never 0. `None` unless the page's size is one that PostgreSQL can be built with (a power of two
/// from 1024 to 32768).
pub fn page_checksum(page: &[u8], block: u32) -> Option<u16> {
    if !page.len().is_power_of_two() || !(1024..=32768).contains(&page.len()) {
        return None;
    }
    let (rows, _) = page.as_chunks::<ROW>();
    let (first, rest) = rows.split_first()?;
    let mut sums = BASE_OFFSETS;
    // The checksum itself counts as zero.
    let mut first = *first;
    if let Some(stored) = first.get_mut(CHECKSUM_OFFSET..CHECKSUM_OFFSET + 2) {
        stored.fill(0);
    }
    mix_row(&mut sums, &first);
    for row in rest {
        mix_row(&mut sums, row);
    }
    // Two rounds of zeros, for the last words to spread as well.
    mix_row(&mut sums, &[0; ROW]);
    mix_row(&mut sums, &[0; ROW]);
    let folded = sums.iter().fold(0, |folded, sum| folded ^ sum) ^ block;
    u16::try_from(folded % 65535 + 1).ok()
}

/// `CHECKSUM_COMP` once for every sum. Written so that the compiler makes vector instructions of it.
#[inline]
fn mix_row(sums: &mut [u32; SUMS], row: &[u8; ROW]) {
    let (words, _) = row.as_chunks::<4>();
    for (sum, word) in sums.iter_mut().zip(words) {
        let mixed = *sum ^ u32::from_ne_bytes(*word);
        *sum = mixed.wrapping_mul(FNV_PRIME) ^ (mixed >> 17);
    }
}

/// `pd_lsn`: the position behind the last record that changed the page. 0/0 for fewer than eight bytes.
pub fn page_lsn(page: &[u8]) -> Lsn {
    let half = |offset| u32_at(page, offset).map_or(0, u64::from);
    Lsn(half(0) << 32 | half(4))
}

/// What a look at a page of a cluster with checksums tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageState {
    /// Every byte is zero: the file was extended and the page not used yet.
    New,
    /// The checksum is right.
    Good,
    /// The checksum is wrong: damaged, or read while the server wrote it.
    Bad {
        /// The checksum on the page.
        found: u16,
        /// That of its contents; 0 when the page has an impossible size.
        computed: u16,
    },
}

/// Looks at block `block` of a relation (not of its segment file).
///
/// PostgreSQL takes a page for new when its header alone says so (`PageIsNew`), and then a zeroed header hides any damage;
/// here every byte must be zero.
pub fn examine(page: &[u8], block: u32) -> PageState {
    let found = u16_at(page, CHECKSUM_OFFSET).unwrap_or(0);
    let computed = page_checksum(page, block).unwrap_or(0);
    if found == computed && computed != 0 {
        PageState::Good
    } else if computed != 0 && all_zero(page) {
        PageState::New
    } else {
        PageState::Bad { found, computed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;
    use std::io::Read;

    const PAGE: usize = 8192;

    /// Block 5 of a heap, block 3 of a B-tree, block 2 of a free space map, from a cluster of PostgreSQL 15.
    fn sample(index: usize) -> Vec<u8> {
        let mut pages = Vec::new();
        flate2::read::GzDecoder::new(&include_bytes!("testdata/pages_15.gz")[..]).read_to_end(&mut pages).unwrap();
        pages[index * PAGE..][..PAGE].to_vec()
    }

    #[rstest]
    #[case::heap(0, 5)]
    #[case::btree(1, 3)]
    #[case::free_space_map(2, 2)]
    fn the_servers_pages_are_good_in_their_places(#[case] index: usize, #[case] block: u32) {
        let page = sample(index);
        assert_eq!(examine(&page, block), PageState::Good);
        assert_eq!(page_checksum(&page, block), u16_at(&page, 8));
        assert!(matches!(examine(&page, block + 1), PageState::Bad { .. }));
    }

    #[test]
    fn every_changed_byte_is_seen() {
        let whole = sample(1);
        for at in 0..PAGE {
            let mut page = whole.clone();
            page[at] ^= 0x10;
            assert!(matches!(examine(&page, 3), PageState::Bad { .. }), "byte {at}");
        }
    }

    #[test]
    fn the_checksum_on_the_page_does_not_matter_for_its_checksum() {
        let mut page = sample(0);
        let computed = page_checksum(&page, 5);
        page[8..10].copy_from_slice(&[0xAB, 0xCD]);
        assert_eq!(page_checksum(&page, 5), computed);
        assert_eq!(examine(&page, 5), PageState::Bad { found: 0xCDAB, computed: computed.unwrap() });
    }

    #[test]
    fn only_a_page_of_zeros_is_new() {
        let mut page = vec![0; PAGE];
        assert_eq!(examine(&page, 7), PageState::New);
        page[PAGE - 1] = 1;
        assert!(matches!(examine(&page, 7), PageState::Bad { found: 0, .. }));
        // A zeroed header over real contents: new by PostgreSQL's own test.
        let mut page = sample(0);
        page[..24].fill(0);
        assert!(matches!(examine(&page, 5), PageState::Bad { found: 0, .. }));
    }

    #[rstest]
    #[case(0)]
    #[case(100)]
    #[case(8191)]
    #[case(65_536)]
    fn impossible_sizes_are_bad(#[case] size: usize) {
        let page = vec![0; size];
        assert_eq!(page_checksum(&page, 0), None);
        assert_eq!(examine(&page, 0), PageState::Bad { found: 0, computed: 0 });
    }

    #[test]
    fn a_page_says_its_last_change() {
        assert_eq!(page_lsn(&sample(2)).to_string(), "0/11A07C8");
        assert_eq!(page_lsn(&[1, 0, 0, 0, 2, 0, 0, 0]), Lsn(0x1_0000_0002));
        assert_eq!(page_lsn(&[]), Lsn(0));
    }

    proptest! {
        #[test]
        fn a_page_with_its_checksum_is_good(mut page in proptest::collection::vec(any::<u8>(), PAGE), block: u32, small: bool) {
            page.truncate(if small { 1024 } else { PAGE });
            let checksum = page_checksum(&page, block).unwrap();
            prop_assert_ne!(checksum, 0);
            page[8..10].copy_from_slice(&checksum.to_ne_bytes());
            prop_assert_eq!(examine(&page, block), PageState::Good);
        }

        #[test]
        fn never_panics(page in proptest::collection::vec(any::<u8>(), 0..3000), block: u32) {
            examine(&page, block);
            page_lsn(&page);
        }
    }
}
