//! Fixed-width fields of PostgreSQL's binary formats, read without panics.
//!
//! PostgreSQL writes them in the byte order of its machine, and its files are only ever read on such a machine: so do these.

/// The `N` bytes at `offset`; `None` past the end.
fn array<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..)?.first_chunk().copied()
}

/// The `u8` at `offset`; `None` past the end.
pub(super) fn u8_at(bytes: &[u8], offset: usize) -> Option<u8> {
    bytes.get(offset).copied()
}

/// The `u16` at `offset`; `None` past the end.
pub(super) fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    array(bytes, offset).map(u16::from_ne_bytes)
}

/// The `u32` at `offset`; `None` past the end.
pub(super) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    array(bytes, offset).map(u32::from_ne_bytes)
}

/// The `i32` at `offset`; `None` past the end.
pub(super) fn i32_at(bytes: &[u8], offset: usize) -> Option<i32> {
    array(bytes, offset).map(i32::from_ne_bytes)
}

/// The `u64` at `offset`; `None` past the end.
pub(super) fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    array(bytes, offset).map(u64::from_ne_bytes)
}

/// The `i64` at `offset`; `None` past the end.
pub(super) fn i64_at(bytes: &[u8], offset: usize) -> Option<i64> {
    array(bytes, offset).map(i64::from_ne_bytes)
}

/// Whether every byte is zero.
pub(super) fn all_zero(bytes: &[u8]) -> bool {
    // Whole blocks without an early exit inside become vector instructions; a loop that may stop at every byte does not.
    let (blocks, rest) = bytes.as_chunks::<128>();
    blocks.iter().all(|block| block.iter().fold(0, |seen, byte| seen | byte) == 0) && rest.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_end_with_the_bytes() {
        let bytes = 0x0102_0304_u32.to_ne_bytes();
        assert_eq!(u32_at(&bytes, 0), Some(0x0102_0304));
        assert_eq!(u32_at(&bytes, 1), None);
        assert_eq!(u16_at(&bytes, usize::MAX), None);
    }

    #[test]
    fn one_set_bit_anywhere_is_seen() {
        let mut bytes = vec![0; 1000];
        assert!(all_zero(&bytes));
        for at in 0..bytes.len() {
            bytes[at] = 0x80;
            assert!(!all_zero(&bytes), "byte {at}");
            bytes[at] = 0;
        }
    }
}
