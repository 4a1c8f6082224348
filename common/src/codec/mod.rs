//! Digests and compression over `std::io`. Knows nothing of PostgreSQL, repositories or files.

mod compress;
mod digest;
mod lz4;

pub use compress::{Codec, Compression, Encoder, ParseCompressionError, decoder};
pub use digest::{CountingWriter, Digest, HashingReader, HashingWriter, ParseDigestError, Sha256Stream};
