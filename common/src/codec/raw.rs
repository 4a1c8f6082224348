//! Blocks compressed at one go, without a frame: what PostgreSQL puts its page images into. The unpacked length is known
//! beforehand, and nothing longer is ever made.

/// Unpacks PostgreSQL's own compression (`src/common/pg_lzcompress.c`); `None` unless exactly `length` bytes come out.
pub fn pglz(packed: &[u8], length: usize) -> Option<Vec<u8>> {
    let mut plain = Vec::with_capacity(length);
    let mut source = packed.iter().copied();
    while plain.len() < length {
        let control = source.next()?;
        for bit in 0..8 {
            if plain.len() == length {
                break;
            }
            let first = source.next()?;
            if control & (1 << bit) == 0 {
                plain.push(first);
                continue;
            }
            let offset = usize::from(first & 0xF0) << 4 | usize::from(source.next()?);
            let mut count = usize::from(first & 0x0F) + 3;
            if count == 18 {
                count += usize::from(source.next()?);
            }
            let from = plain.len().checked_sub(offset).filter(|_| offset > 0)?;
            for at in from..from + count.min(length - plain.len()) {
                // It may run into what it makes.
                plain.push(*plain.get(at)?);
            }
        }
    }
    source.next().is_none().then_some(plain)
}

/// Unpacks a block of LZ4; `None` unless exactly `length` bytes come out.
pub fn lz4(packed: &[u8], length: usize) -> Option<Vec<u8>> {
    let mut plain = vec![0; length];
    let count = lz4_flex::block::decompress_into(packed, &mut plain).ok()?;
    (count == length).then_some(plain)
}

/// Unpacks a frame of Zstandard; `None` unless exactly `length` bytes come out.
pub fn zstd(packed: &[u8], length: usize) -> Option<Vec<u8>> {
    zstd::bulk::decompress(packed, length).ok().filter(|plain| plain.len() == length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    #[rstest]
    #[case::nothing(&[], b"")]
    #[case::literals(&[0, b'a', b'b'], b"ab")]
    #[case::a_run(&[0b10, b'a', 0x05, 1], b"aaaaaaaaa")]
    #[case::a_long_run(&[0b10, b'x', 0x0F, 1, 2], b"xxxxxxxxxxxxxxxxxxxxx")]
    #[case::from_before(&[0b100, b'a', b'b', 0x00, 2], b"ababa")]
    fn pglz_is_unpacked(#[case] packed: &[u8], #[case] plain: &[u8]) {
        assert_eq!(pglz(packed, plain.len()).as_deref(), Some(plain));
        assert_eq!(pglz(packed, plain.len() + 1), None);
    }

    #[rstest]
    #[case::before_the_beginning(&[0b10, b'a', 0x00, 2])]
    #[case::from_itself(&[0b10, b'a', 0x00, 0])]
    #[case::cut_off(&[0b10, b'a', 0x00])]
    fn bad_pglz_is_refused(#[case] packed: &[u8]) {
        assert_eq!(pglz(packed, 4), None);
    }

    proptest! {
        #[test]
        fn never_more_than_was_asked_for(packed: Vec<u8>, length in 0_usize..9000) {
            for unpack in [pglz, lz4, zstd] {
                prop_assert!(unpack(&packed, length).is_none_or(|plain| plain.len() == length));
            }
        }

        #[test]
        fn other_blocks_read_back(plain in proptest::collection::vec(0_u8..4, 0..9000)) {
            let packed = lz4_flex::block::compress(&plain);
            prop_assert_eq!(lz4(&packed, plain.len()), Some(plain.clone()));
            let packed = zstd::bulk::compress(&plain, 1).unwrap();
            prop_assert_eq!(zstd(&packed, plain.len()), Some(plain));
        }
    }
}
