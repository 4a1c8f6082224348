//! SHA-256, and readers and writers that count and digest what passes through them.

use std::fmt;
use std::io::{self, Read, Write};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Digest as _;

/// A SHA-256 digest, written as 64 lower-case hexadecimal digits; upper case is read too.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(sha2::Sha256::digest(bytes).into())
    }

    /// The digest's own bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

/// The text is no SHA-256 digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no SHA-256 digest: 64 hexadecimal digits")]
pub struct ParseDigestError(String);

impl FromStr for Digest {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 32];
        match hex::decode_to_slice(text, &mut bytes) {
            Ok(()) => Ok(Self(bytes)),
            Err(_) => Err(ParseDigestError(text.chars().take(80).collect())),
        }
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A SHA-256 digest in the making.
#[derive(Debug, Clone, Default)]
pub struct Sha256Stream(sha2::Sha256);

impl Sha256Stream {
    /// The digest of nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in more bytes; how they are cut makes no difference.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all bytes taken in.
    pub fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

/// Counts and digests what is read through it.
#[derive(Debug)]
pub struct HashingReader<R> {
    inner: R,
    count: u64,
    digest: Sha256Stream,
}

impl<R: Read> HashingReader<R> {
    /// A reader of the same bytes.
    pub fn new(inner: R) -> Self {
        Self { inner, count: 0, digest: Sha256Stream::new() }
    }

    /// How many bytes were read so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The reader below, how many bytes were read, and their digest.
    pub fn finish(self) -> (R, u64, Digest) {
        (self.inner, self.count, self.digest.finish())
    }
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.digest.update(buffer.get(..count).unwrap_or_default());
        self.count += count as u64;
        Ok(count)
    }
}

/// Counts and digests what the writer below accepted.
#[derive(Debug)]
pub struct HashingWriter<W> {
    inner: W,
    count: u64,
    digest: Sha256Stream,
}

impl<W: Write> HashingWriter<W> {
    /// A writer to the same sink.
    pub fn new(inner: W) -> Self {
        Self { inner, count: 0, digest: Sha256Stream::new() }
    }

    /// How many bytes were written so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The writer below, how many bytes it accepted, and their digest. Flushes nothing.
    pub fn finish(self) -> (W, u64, Digest) {
        (self.inner, self.count, self.digest.finish())
    }
}

impl<W: Write> Write for HashingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.digest.update(bytes.get(..count).unwrap_or_default());
        self.count += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Counts the bytes that the writer below accepted.
#[derive(Debug)]
pub struct CountingWriter<W> {
    inner: W,
    count: u64,
}

impl<W: Write> CountingWriter<W> {
    /// A writer to the same sink.
    pub fn new(inner: W) -> Self {
        Self { inner, count: 0 }
    }

    /// How many bytes were written so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The writer below. Flushes nothing.
    pub fn into_inner(self) -> W {
        self.inner
    }
}

impl<W: Write> Write for CountingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.count += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn digests_the_standard_example() {
        assert_eq!(Digest::of(b"abc").to_string(), ABC);
        assert_eq!(ABC.to_uppercase().parse::<Digest>().unwrap(), Digest::of(b"abc"));
        let json = serde_json::to_string(&Digest::of(b"abc")).unwrap();
        assert_eq!(json, format!("{ABC:?}"));
        assert_eq!(serde_json::from_str::<Digest>(&json).unwrap(), Digest::of(b"abc"));
    }

    #[rstest]
    #[case("")]
    #[case("abc")]
    #[case(&ABC[1..])]
    #[case(&format!("{ABC}00"))]
    #[case(&ABC.replace('b', "g"))]
    fn refuses(#[case] text: &str) {
        assert!(text.parse::<Digest>().is_err());
    }

    proptest! {
        #[test]
        fn digests_read_as_they_are_printed(bytes: Vec<u8>, text in ".*", likely in "[0-9a-fA-Fg]{63,65}") {
            let digest = Digest::of(&bytes);
            prop_assert_eq!(digest.to_string().parse(), Ok(digest));
            for text in [text, likely] {
                if let Ok(digest) = text.parse::<Digest>() {
                    prop_assert_eq!(digest.to_string(), text.to_lowercase());
                }
            }
        }

        #[test]
        fn readers_and_writers_agree(bytes: Vec<u8>) {
            let mut reader = HashingReader::new(bytes.as_slice());
            let mut writer = HashingWriter::new(CountingWriter::new(Vec::new()));
            io::copy(&mut reader, &mut writer).unwrap();
            let (_, count, digest) = reader.finish();
            let (counter, written, written_digest) = writer.finish();
            prop_assert_eq!((count, written, counter.count()), (bytes.len() as u64, count, count));
            prop_assert_eq!((digest, written_digest), (Digest::of(&bytes), digest));
            prop_assert_eq!(counter.into_inner(), bytes);
        }
    }
}
