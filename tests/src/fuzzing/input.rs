//! Takes numbers off the front of an input; one that is too short gives zeros, so that no input is wasted.

/// The first `N` bytes, zeros behind the end, and what follows them.
pub(super) fn array<const N: usize>(input: &[u8]) -> ([u8; N], &[u8]) {
    let mut taken = [0; N];
    let (front, rest) = input.split_at(input.len().min(N));
    taken.iter_mut().zip(front).for_each(|(to, from)| *to = *from);
    (taken, rest)
}

/// The first byte.
pub(super) fn byte(input: &[u8]) -> (u8, &[u8]) {
    let ([value], rest) = array(input);
    (value, rest)
}

/// The first two bytes as the size of a piece: from 1 on.
pub(super) fn piece(input: &[u8]) -> (usize, &[u8]) {
    let (bytes, rest) = array(input);
    (usize::from(u16::from_le_bytes(bytes)) + 1, rest)
}

/// The first four bytes.
pub(super) fn number(input: &[u8]) -> (u32, &[u8]) {
    let (bytes, rest) = array(input);
    (u32::from_le_bytes(bytes), rest)
}

/// The first eight bytes.
pub(super) fn long(input: &[u8]) -> (u64, &[u8]) {
    let (bytes, rest) = array(input);
    (u64::from_le_bytes(bytes), rest)
}
