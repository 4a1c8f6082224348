//! The envelope around every JSON record: its format, what it is, and a digest of its body.
//!
//! ```json
//! {"format":1,"kind":"backup","sha256":"…","record":{…}}
//! ```
//!
//! The digest is that of the bytes of `record` as they stand in the file. A flipped bit anywhere is found; a newer
//! format is refused by its number before anything else is looked at; unknown fields of the body are passed over.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::codec::Digest;

use super::FORMAT;

/// The largest record that is read, in bytes.
pub const RECORD_BYTES_MAX: u64 = 64 << 20;

/// A body that has a place in the repository.
pub trait Record: Serialize + DeserializeOwned {
    /// What the envelope calls it.
    const KIND: &'static str;
    /// What to do when it is damaged.
    const MENDING: &'static str = "bring it back from a copy of the repository";
}

/// Why a record cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// It is no record at all.
    #[error("damaged record: {0}")]
    Damaged(String),
    /// Its digest is not that of its body.
    #[error("damaged record: its contents do not match their digest")]
    Digest,
    /// Something else lies under its name.
    #[error("this is a {found:?} record where a {expected:?} record belongs")]
    Kind {
        /// What the envelope says.
        found: String,
        /// What was asked for.
        expected: &'static str,
    },
    /// A newer version wrote it.
    #[error("written in repository format {0}, and this version reads up to format {FORMAT}")]
    Newer(u64),
}

#[derive(Serialize, Deserialize)]
struct Envelope<'a> {
    format: u32,
    kind: &'a str,
    sha256: Digest,
    #[serde(borrow)]
    record: &'a RawValue,
}

#[derive(Deserialize)]
struct FormatOnly {
    format: u64,
}

/// The bytes of a record, with a final newline.
pub fn seal<R: Record>(record: &R) -> Result<Vec<u8>, RecordError> {
    let damaged = |err: serde_json::Error| RecordError::Damaged(err.to_string());
    let body = serde_json::value::to_raw_value(record).map_err(damaged)?;
    let sha256 = Digest::of(body.get().as_bytes());
    let envelope = Envelope { format: FORMAT, kind: R::KIND, sha256, record: &body };
    let mut bytes = serde_json::to_vec(&envelope).map_err(damaged)?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// The record in these bytes.
pub fn open<R: Record>(bytes: &[u8]) -> Result<R, RecordError> {
    let damaged = |err: serde_json::Error| RecordError::Damaged(err.to_string());
    if bytes.iter().all(|byte| *byte == 0) {
        let what = if bytes.is_empty() { "it is empty" } else { "it holds nothing but zeros" };
        return Err(RecordError::Damaged(what.to_owned()));
    }
    if bytes.len() as u64 > RECORD_BYTES_MAX {
        return Err(RecordError::Damaged(format!("it is longer than {RECORD_BYTES_MAX} bytes")));
    }
    let version: FormatOnly = serde_json::from_slice(bytes).map_err(damaged)?;
    if version.format > u64::from(FORMAT) {
        return Err(RecordError::Newer(version.format));
    }
    if version.format == 0 {
        return Err(RecordError::Damaged("there is no format 0".to_owned()));
    }
    let envelope: Envelope<'_> = serde_json::from_slice(bytes).map_err(damaged)?;
    if envelope.kind != R::KIND {
        return Err(RecordError::Kind { found: envelope.kind.to_owned(), expected: R::KIND });
    }
    if Digest::of(envelope.record.get().as_bytes()) != envelope.sha256 {
        return Err(RecordError::Digest);
    }
    serde_json::from_str(envelope.record.get()).map_err(damaged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Sample {
        text: String,
        number: u64,
    }

    impl Record for Sample {
        const KIND: &'static str = "sample";
    }

    #[derive(Debug, Serialize, Deserialize)]
    struct Other {}

    impl Record for Other {
        const KIND: &'static str = "other";
    }

    fn sample() -> Sample {
        Sample { text: "a \"quoted\" é".to_owned(), number: 7 }
    }

    #[test]
    fn round_trips() {
        assert_eq!(open::<Sample>(&seal(&sample()).unwrap()).unwrap(), sample());
    }

    #[test]
    fn no_flipped_bit_goes_unnoticed() {
        let sealed = seal(&sample()).unwrap();
        for position in 0..sealed.len() {
            for bit in 0..8 {
                let mut bytes = sealed.clone();
                bytes[position] ^= 1 << bit;
                if let Ok(read) = open::<Sample>(&bytes) {
                    assert_eq!(read, sample(), "bit {bit} of byte {position}");
                }
            }
        }
    }

    #[test]
    fn every_truncation_is_refused() {
        let sealed = seal(&sample()).unwrap();
        for length in 0..sealed.len() - 1 {
            assert!(open::<Sample>(&sealed[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn a_newer_format_is_named() {
        let err = open::<Sample>(br#"{"format":2,"anything":{}}"#).unwrap_err();
        assert!(matches!(err, RecordError::Newer(2)), "{err}");
        let err = open::<Sample>(br#"{"format":9223372036854775808}"#).unwrap_err();
        assert!(matches!(err, RecordError::Newer(0x8000_0000_0000_0000)), "{err}");
    }

    #[test]
    fn another_kind_is_refused() {
        let err = open::<Other>(&seal(&sample()).unwrap()).unwrap_err();
        assert!(matches!(err, RecordError::Kind { .. }), "{err}");
    }

    proptest! {
        #[test]
        fn any_record_round_trips(text: String, number: u64) {
            let record = Sample { text, number };
            prop_assert_eq!(open::<Sample>(&seal(&record).unwrap()).unwrap(), record);
        }

        #[test]
        fn never_panics(bytes: Vec<u8>, at in 0_usize..200, junk in "[\\[\\]{}\":,0-9a-z\\\\]{0,9}") {
            drop(open::<Sample>(&bytes));
            let mut sealed = seal(&sample()).unwrap();
            let at = at.min(sealed.len());
            sealed.splice(at..at, junk.bytes());
            if let Ok(read) = open::<Sample>(&sealed) {
                prop_assert_eq!(read, sample());
            }
        }
    }
}
