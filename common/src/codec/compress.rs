//! Compression in three formats that every distribution can read: Zstandard, LZ4 frames, gzip.
//!
//! What is written always carries the format's checksum of the plain bytes, and what is read is always checked to
//! the last byte, so that a damaged or shortened stream is an error and never other bytes. The formats allow frames
//! (gzip: members) one after the other; they read as one stream.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;
use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};

use super::lz4;

/// The largest Zstandard window (2 to this power, in bytes) that is read: what `zstd` itself reads unasked.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;
const SOURCE_BUFFER_BYTES: usize = 128 * 1024;

/// A compression format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Codec {
    /// Zstandard (RFC 8878).
    Zstd,
    /// LZ4 frames.
    Lz4,
    /// gzip (RFC 1952).
    Gzip,
}

impl Codec {
    /// Every format there is.
    pub const ALL: [Self; 3] = [Self::Zstd, Self::Lz4, Self::Gzip];

    /// The usual file name suffix, without the dot.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Zstd => "zst",
            Self::Lz4 => "lz4",
            Self::Gzip => "gz",
        }
    }

    /// The format with this suffix.
    pub fn from_suffix(suffix: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|codec| codec.suffix() == suffix)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Lz4 => "lz4",
            Self::Gzip => "gzip",
        }
    }

    fn default_level(self) -> i32 {
        match self {
            Self::Zstd => 1,
            Self::Lz4 => 0,
            Self::Gzip => 6,
        }
    }

    fn has_level(self, level: i32) -> bool {
        match self {
            Self::Zstd => (-7..=22).contains(&level) && level != 0,
            Self::Lz4 => false,
            Self::Gzip => (1..=9).contains(&level),
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The text names no compression, or a level that its format does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names no compression: use zstd:LEVEL (1 to 22, or -7 to -1), lz4 or gzip:LEVEL (1 to 9)")]
pub struct ParseCompressionError(String);

impl ParseCompressionError {
    fn of(text: &str) -> Self {
        Self(text.chars().take(64).collect())
    }
}

impl FromStr for Codec {
    type Err = ParseCompressionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|codec| codec.name() == text).ok_or_else(|| ParseCompressionError::of(text))
    }
}

/// A format with its level, written `zstd:3`, `lz4`, `gzip:6`. Without a level: `zstd:1`, `gzip:6`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Compression {
    /// The format.
    pub codec: Codec,
    /// How hard to try; what the numbers mean depends on the format. LZ4 has none and ignores it.
    pub level: i32,
}

impl Compression {
    /// The format at the level that it has when none is named.
    pub fn usual(codec: Codec) -> Self {
        Self { codec, level: codec.default_level() }
    }
}

impl Default for Compression {
    fn default() -> Self {
        Self::usual(Codec::Zstd)
    }
}

impl FromStr for Compression {
    type Err = ParseCompressionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseCompressionError::of(text);
        let Some((codec, level)) = text.split_once(':') else {
            let codec: Codec = text.parse()?;
            return Ok(Self::usual(codec));
        };
        let (codec, level) = (codec.parse::<Codec>().map_err(|_| error())?, level.parse().map_err(|_| error())?);
        if codec.has_level(level) { Ok(Self { codec, level }) } else { Err(error()) }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.codec {
            Codec::Lz4 => self.codec.fmt(f),
            codec => write!(f, "{codec}:{}", self.level),
        }
    }
}

crate::serde_text::serde_as_text!(Codec);
crate::serde_text::serde_as_text!(Compression);

/// Compresses what is written to it into one frame with a checksum of the plain bytes.
///
/// Only [`Encoder::finish`] completes the frame. Dropping it leaves a frame that no decoder takes for whole.
pub struct Encoder<W: Write>(Inner<W>);

enum Inner<W: Write> {
    Zstd(zstd::stream::write::Encoder<'static, W>),
    Lz4(Box<FrameEncoder<W>>),
    Gzip(GzipEncoder<W>),
}

impl<W: Write> Encoder<W> {
    /// An encoder of one frame. Fails only for a level that the format does not have.
    pub fn new(sink: W, compression: Compression) -> io::Result<Self> {
        Self::with_size(sink, compression, None)
    }

    /// An encoder of one frame for exactly `plain_size` plain bytes, which the frame then states (not gzip's). With
    /// any other count [`Encoder::finish`] fails.
    pub fn with_size_hint(sink: W, compression: Compression, plain_size: u64) -> io::Result<Self> {
        Self::with_size(sink, compression, Some(plain_size))
    }

    fn with_size(sink: W, compression: Compression, plain_size: Option<u64>) -> io::Result<Self> {
        Ok(Self(match compression.codec {
            Codec::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(sink, compression.level)?;
                encoder.include_checksum(true)?;
                encoder.set_pledged_src_size(plain_size)?;
                Inner::Zstd(encoder)
            }
            Codec::Lz4 => {
                let frame = FrameInfo::new()
                    .block_size(BlockSize::Max256KB)
                    .block_mode(BlockMode::Independent)
                    .content_checksum(true)
                    .content_size(plain_size);
                Inner::Lz4(Box::new(FrameEncoder::with_frame_info(frame, sink)))
            }
            Codec::Gzip => {
                let level = u32::try_from(compression.level).unwrap_or_default();
                Inner::Gzip(GzipEncoder::new(sink, flate2::Compression::new(level), plain_size))
            }
        }))
    }

    /// Completes the frame and hands the sink back. Flushes nothing below.
    pub fn finish(self) -> io::Result<W> {
        match self.0 {
            Inner::Zstd(encoder) => encoder.finish(),
            Inner::Lz4(encoder) => encoder.finish().map_err(io::Error::from),
            Inner::Gzip(encoder) => encoder.finish(),
        }
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Inner::Zstd(encoder) => encoder.write(bytes),
            Inner::Lz4(encoder) => encoder.write(bytes),
            Inner::Gzip(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.0 {
            Inner::Zstd(encoder) => encoder.flush(),
            Inner::Lz4(encoder) => encoder.flush(),
            Inner::Gzip(encoder) => encoder.flush(),
        }
    }
}

impl<W: Write> fmt::Debug for Encoder<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let codec = match self.0 {
            Inner::Zstd(_) => Codec::Zstd,
            Inner::Lz4(_) => Codec::Lz4,
            Inner::Gzip(_) => Codec::Gzip,
        };
        write!(f, "Encoder({codec})")
    }
}

/// A gzip encoder that does not complete its member when it is dropped, as `flate2`'s does.
struct GzipEncoder<W: Write> {
    /// `None` once finished.
    encoder: Option<GzEncoder<Gate<W>>>,
    /// What was promised less what was written; `None` when nothing was promised.
    missing: Option<u64>,
}

/// A sink that can be taken away from the writer above it.
struct Gate<W>(Option<W>);

impl<W: Write> GzipEncoder<W> {
    fn new(sink: W, level: flate2::Compression, plain_size: Option<u64>) -> Self {
        Self { encoder: Some(GzEncoder::new(Gate(Some(sink)), level)), missing: plain_size }
    }

    fn encoder(&mut self) -> io::Result<&mut GzEncoder<Gate<W>>> {
        self.encoder.as_mut().ok_or_else(closed)
    }

    fn finish(mut self) -> io::Result<W> {
        if self.missing.is_some_and(|missing| missing != 0) {
            return Err(wrong_size());
        }
        // Should this fail, dropping `self` takes the sink away before flate2's destructor tries once more.
        self.encoder()?.try_finish()?;
        self.encoder.take().ok_or_else(closed)?.finish()?.0.take().ok_or_else(closed)
    }
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the encoder is finished")
}

fn wrong_size() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "the plain bytes are not as many as promised")
}

impl<W: Write> Write for GzipEncoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.encoder()?.write(bytes)?;
        if let Some(missing) = &mut self.missing {
            *missing = missing.checked_sub(count as u64).ok_or_else(wrong_size)?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.encoder()?.flush()
    }
}

impl<W: Write> Drop for GzipEncoder<W> {
    fn drop(&mut self) {
        if let Some(encoder) = &mut self.encoder {
            encoder.get_mut().0 = None;
        }
    }
}

impl<W: Write> Write for Gate<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.as_mut().ok_or_else(closed)?.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.as_mut().ok_or_else(closed)?.flush()
    }
}

/// The plain bytes of a whole compressed stream: all of its frames, every checksum verified.
///
/// Reading to the end without an error proves that the stream was whole. Damage is [`io::ErrorKind::InvalidData`], a
/// stream that ends early (an empty one too) that or [`io::ErrorKind::UnexpectedEof`]; the source's own errors come
/// through unchanged. After an error every read fails. Memory is bounded by the format's window (128 MiB at most).
pub fn decoder<'a>(codec: Codec, source: impl Read + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
    let source_failed = Arc::new(AtomicBool::new(false));
    let source = Source { inner: source, failed: Arc::clone(&source_failed) };
    let mut source = BufReader::with_capacity(SOURCE_BUFFER_BYTES, source);
    if source.fill_buf()?.is_empty() {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("no {codec} data at all")));
    }
    let decoder: Box<dyn Read + Send + 'a> = match codec {
        Codec::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(source)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
            Box::new(decoder)
        }
        Codec::Lz4 => Box::new(lz4::Decoder::new(source)),
        Codec::Gzip => Box::new(MultiGzDecoder::new(source)),
    };
    Ok(Box::new(Checked { decoder, codec, source_failed, broken: false }))
}

/// Remembers whether an error came from the source rather than from what it delivered.
struct Source<R> {
    inner: R,
    failed: Arc<AtomicBool>,
}

impl<R: Read> Read for Source<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buffer).inspect_err(|error| {
            if error.kind() != io::ErrorKind::Interrupted {
                self.failed.store(true, Ordering::Relaxed);
            }
        })
    }
}

/// Gives a decoder's errors one shape, and makes them last: some decoders answer "the end" after one.
struct Checked<D> {
    decoder: D,
    codec: Codec,
    source_failed: Arc<AtomicBool>,
    broken: bool,
}

impl<D: Read> Read for Checked<D> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.broken {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "read after an error"));
        }
        self.decoder.read(buffer).map_err(|error| {
            if error.kind() == io::ErrorKind::Interrupted {
                return error;
            }
            self.broken = true;
            if self.source_failed.load(Ordering::Relaxed) {
                return error;
            }
            match error.kind() {
                io::ErrorKind::UnexpectedEof => {
                    io::Error::new(io::ErrorKind::UnexpectedEof, format!("the {} data ends early", self.codec))
                }
                _ => io::Error::new(io::ErrorKind::InvalidData, format!("damaged {} data: {error}", self.codec)),
            }
        })
    }
}

#[cfg(test)]
mod tests;
