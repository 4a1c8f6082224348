//! Compressed streams: as input, and made of the input.

use std::io::{self, Read, Write};

use common::codec::{Codec, Compression, Encoder, decoder};

use super::input;

/// How much of a bomb is looked at.
const PLAIN_BYTES_MAX: u64 = 256 << 10;

/// A Zstandard stream.
pub fn zstd(bytes: &[u8]) {
    stream(Codec::Zstd, bytes);
}

/// LZ4 frames.
pub fn lz4(bytes: &[u8]) {
    stream(Codec::Lz4, bytes);
}

/// gzip members.
pub fn gzip(bytes: &[u8]) {
    stream(Codec::Gzip, bytes);
}

/// Reads the input in two ways, which must agree; then compresses it, and reads that back whole and cut off.
fn stream(codec: Codec, bytes: &[u8]) {
    let (piece, bytes) = input::piece(bytes);
    let whole = read(codec, bytes, PLAIN_BYTES_MAX, 256 << 10);
    let in_pieces = read(codec, bytes, PLAIN_BYTES_MAX, piece);
    // Whether damage right behind the limit is seen depends on how far a reader looks ahead.
    let cut_off = |read: &io::Result<Vec<u8>>| read.as_ref().is_ok_and(|plain| plain.len() as u64 == PLAIN_BYTES_MAX);
    if !cut_off(&whole) && !cut_off(&in_pieces) {
        assert_eq!(whole.as_ref().ok(), in_pieces.as_ref().ok());
    }
    if let Err(error) = whole {
        assert!(matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof), "{error:?}");
    }
    let Ok(compressed) = compress(codec, bytes) else { unreachable!("a vector takes everything") };
    assert_eq!(read(codec, &compressed, u64::MAX, 64 << 10).ok().as_deref(), Some(bytes));
    let cut = piece % compressed.len();
    assert!(read(codec, compressed.get(..cut).unwrap_or_default(), u64::MAX, 64 << 10).is_err(), "cut at {cut}");
}

/// The first `limit` plain bytes, asked for in pieces.
fn read(codec: Codec, compressed: &[u8], limit: u64, piece: usize) -> io::Result<Vec<u8>> {
    let mut source = decoder(codec, compressed)?.take(limit);
    let mut plain = Vec::new();
    let mut buffer = vec![0; piece];
    loop {
        match source.read(&mut buffer)? {
            0 => return Ok(plain),
            count => plain.extend_from_slice(buffer.get(..count).unwrap_or_default()),
        }
    }
}

fn compress(codec: Codec, plain: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = Encoder::with_size_hint(Vec::new(), Compression::usual(codec), plain.len() as u64)?;
    encoder.write_all(plain)?;
    encoder.finish()
}
