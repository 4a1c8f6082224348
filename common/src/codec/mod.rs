//! Digests and compression over `std::io`. Knows nothing of PostgreSQL, repositories or files.

mod compress;
mod digest;
mod lz4;
pub mod raw;

use std::io::{self, Read};

pub use compress::{Codec, Compression, Encoder, ParseCompressionError, decoder};
pub use digest::{CountingWriter, Digest, HashingReader, HashingWriter, ParseDigestError, Sha256Stream};

/// Reads until the buffer is full or the source ends; answers how much. A stream that is cut off is an error of its
/// decoder, and not the end.
pub fn read_full(source: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match source.read(rest) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
