//! `backup_manifest`, versions 1 (to PostgreSQL 16) and 2 (from 17), byte for byte as the server writes it
//! (`src/backend/backup/backup_manifest.c`; read by `src/common/parse_manifest.c`).

use std::borrow::Cow;
use std::collections::HashSet;
use std::io::{self, Write};

use chrono::{DateTime, NaiveDateTime, Utc};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::{Lsn, SystemIdentifier, TimelineId};

/// How a file's checksum was computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChecksumAlgorithm {
    /// No checksum was taken.
    None,
    /// CRC-32C: four bytes, as they lie in the server's memory.
    Crc32c,
    /// SHA-224.
    Sha224,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl ChecksumAlgorithm {
    /// As the manifest spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "NONE",
            Self::Crc32c => "CRC32C",
            Self::Sha224 => "SHA224",
            Self::Sha256 => "SHA256",
            Self::Sha384 => "SHA384",
            Self::Sha512 => "SHA512",
        }
    }

    /// `pg_checksum_parse_type`: case does not matter.
    fn from_name(name: &str) -> Option<Self> {
        [Self::None, Self::Crc32c, Self::Sha224, Self::Sha256, Self::Sha384, Self::Sha512]
            .into_iter()
            .find(|algorithm| algorithm.name().eq_ignore_ascii_case(name))
    }
}

/// A file to put into a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ManifestFile<'a> {
    /// The path relative to the data directory, as bytes; a tablespace's files lie under `pg_tblspc/OID/`.
    pub path: &'a [u8],
    /// Size in bytes.
    pub size: u64,
    /// The time of the last change; the manifest has whole seconds.
    pub modified: DateTime<Utc>,
    /// The algorithm and the checksum's bytes; none for [`ChecksumAlgorithm::None`].
    pub checksum: (ChecksumAlgorithm, &'a [u8]),
}

/// A file that was read from a manifest: the fields are those of [`ManifestFile`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestEntry {
    /// The path relative to the data directory. It is as the manifest says: nothing keeps it from being absolute or
    /// leading out of the data directory.
    pub path: Vec<u8>,
    /// Size in bytes.
    pub size: u64,
    /// The time of the last change, in whole seconds.
    pub modified: DateTime<Utc>,
    /// The algorithm and the checksum's bytes; none for [`ChecksumAlgorithm::None`].
    pub checksum: (ChecksumAlgorithm, Vec<u8>),
}

impl ManifestEntry {
    /// The same file, to put into another manifest.
    pub fn as_file(&self) -> ManifestFile<'_> {
        let checksum = (self.checksum.0, self.checksum.1.as_slice());
        ManifestFile { path: &self.path, size: self.size, modified: self.modified, checksum }
    }
}

/// The log that is needed of one timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalRange {
    /// The timeline.
    pub timeline: TimelineId,
    /// From here.
    pub start: Lsn,
    /// Up to here, this position not included.
    pub end: Lsn,
}

/// Writes a manifest as it goes, so that no list of files has to be kept.
///
/// Without [`ManifestWriter::finish`] the output is no manifest. Small pieces are written: give it a buffered writer.
#[derive(Debug)]
pub struct ManifestWriter<W: Write> {
    out: Hashing<W>,
    first: bool,
}

impl<W: Write> ManifestWriter<W> {
    /// Begins a manifest: version 2 with a system identifier (PostgreSQL 17 and later), version 1 without.
    pub fn new(out: W, system_identifier: Option<SystemIdentifier>) -> io::Result<Self> {
        let mut out = Hashing { out, digest: Sha256::new() };
        match system_identifier {
            None => out.write_all(b"{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n")?,
            Some(id) => {
                write!(out, "{{ \"PostgreSQL-Backup-Manifest-Version\": 2,\n\"System-Identifier\": {id},\n")?;
            }
        }
        out.write_all(b"\"Files\": [")?;
        Ok(Self { out, first: true })
    }

    /// Adds a file. The order is free; PostgreSQL accepts no path twice.
    pub fn add(&mut self, file: &ManifestFile<'_>) -> io::Result<()> {
        self.out.write_all(if self.first { b"\n" } else { b",\n" })?;
        self.first = false;
        match std::str::from_utf8(file.path) {
            Ok(path) => {
                self.out.write_all(b"{ \"Path\": ")?;
                self.out.write_all(&escape_json(path)?)?;
            }
            Err(_) => write!(self.out, "{{ \"Encoded-Path\": \"{}\"", hex::encode(file.path))?,
        }
        let modified = file.modified.format("%Y-%m-%d %H:%M:%S GMT");
        write!(self.out, ", \"Size\": {}, \"Last-Modified\": \"{modified}\"", file.size)?;
        let (algorithm, checksum) = &file.checksum;
        if *algorithm != ChecksumAlgorithm::None {
            let (name, digits) = (algorithm.name(), hex::encode(checksum));
            write!(self.out, ", \"Checksum-Algorithm\": \"{name}\", \"Checksum\": \"{digits}\"")?;
        }
        self.out.write_all(b" }")
    }

    /// Ends the manifest with the log that a restore needs (newest timeline first) and its own checksum. Gives the
    /// writer back, not flushed.
    pub fn finish(mut self, ranges: &[WalRange]) -> io::Result<W> {
        self.out.write_all(b"\n],\n\"WAL-Ranges\": [\n")?;
        for (index, WalRange { timeline, start, end }) in ranges.iter().enumerate() {
            let separator = if index == 0 { "" } else { ",\n" };
            write!(
                self.out,
                "{separator}{{ \"Timeline\": {timeline}, \"Start-LSN\": \"{start}\", \"End-LSN\": \"{end}\" }}"
            )?;
        }
        self.out.write_all(b"\n],\n")?;
        let Hashing { mut out, digest } = self.out;
        writeln!(out, "\"Manifest-Checksum\": \"{}\"}}", hex::encode(digest.finalize()))?;
        Ok(out)
    }
}

/// Passes bytes on and keeps their digest.
#[derive(Debug)]
struct Hashing<W> {
    out: W,
    digest: Sha256,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.digest.update(bytes.get(..written).unwrap_or(bytes));
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// `escape_json` (`src/backend/utils/adt/json.c`), quotation marks included.
fn escape_json(text: &str) -> io::Result<Vec<u8>> {
    let mut json = Vec::with_capacity(text.len() + 2);
    json.push(b'"');
    for byte in text.bytes() {
        match byte {
            b'\x08' => json.extend(b"\\b"),
            b'\x0C' => json.extend(b"\\f"),
            b'\n' => json.extend(b"\\n"),
            b'\r' => json.extend(b"\\r"),
            b'\t' => json.extend(b"\\t"),
            b'"' => json.extend(b"\\\""),
            b'\\' => json.extend(b"\\\\"),
            0..b' ' => write!(json, "\\u{byte:04x}")?,
            _ => json.push(byte),
        }
    }
    json.push(b'"');
    Ok(json)
}

/// A manifest that has been read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// 1 or 2.
    pub version: u32,
    /// The cluster; only version 2 says it.
    pub system_identifier: Option<SystemIdentifier>,
    /// The files in the manifest's order; no path occurs twice.
    pub files: Vec<ManifestEntry>,
    /// The log that a restore needs, newest timeline first.
    pub ranges: Vec<WalRange>,
}

/// Why the bytes are no manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The end is absent, as in a file that was cut off.
    #[error("the backup manifest does not end with the line of its own checksum")]
    CutOff,
    /// The contents are not those that the checksum was made of.
    #[error("the backup manifest is damaged: its checksum is {found}, its contents have {computed}")]
    WrongChecksum {
        /// In the last line.
        found: String,
        /// Of the lines before it.
        computed: String,
    },
    /// No JSON, or not of a manifest's form.
    #[error("parse the backup manifest")]
    Json(#[from] serde_json::Error),
    /// A version before 1 or after 2.
    #[error("the backup manifest has version {0}; known are 1 and 2")]
    UnknownVersion(u32),
    /// Version 2 without a system identifier.
    #[error("the backup manifest of version 2 has no system identifier")]
    NoSystemIdentifier,
    /// An impossible entry.
    #[error("the backup manifest's entry for {path:?} has {fault}")]
    BadFile {
        /// The path, as far as there is one.
        path: String,
        /// What is wrong.
        fault: &'static str,
    },
}

/// The JSON of a manifest, borrowed from its text.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document<'a> {
    #[serde(rename = "PostgreSQL-Backup-Manifest-Version")]
    version: u32,
    #[serde(rename = "System-Identifier")]
    system_identifier: Option<u64>,
    #[serde(borrow, rename = "Files")]
    files: Vec<FileEntry<'a>>,
    #[serde(rename = "WAL-Ranges")]
    ranges: Vec<RangeEntry>,
    #[serde(borrow, rename = "Manifest-Checksum")]
    checksum: Cow<'a, str>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileEntry<'a> {
    #[serde(borrow, rename = "Path")]
    path: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "Encoded-Path")]
    encoded_path: Option<Cow<'a, str>>,
    #[serde(rename = "Size")]
    size: u64,
    #[serde(borrow, rename = "Last-Modified")]
    modified: Cow<'a, str>,
    #[serde(borrow, rename = "Checksum-Algorithm")]
    algorithm: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "Checksum")]
    checksum: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RangeEntry {
    #[serde(rename = "Timeline")]
    timeline: TimelineId,
    #[serde(rename = "Start-LSN")]
    start: Lsn,
    #[serde(rename = "End-LSN")]
    end: Lsn,
}

impl Manifest {
    /// Reads a whole manifest and proves that it has its own checksum.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        // `verify_manifest_checksum`: the checksum is that of all lines but the last.
        let lines = bytes.strip_suffix(b"\n").ok_or(ManifestError::CutOff)?;
        let last = lines.iter().rposition(|byte| *byte == b'\n').ok_or(ManifestError::CutOff)?;
        let covered = bytes.get(..=last).ok_or(ManifestError::CutOff)?;
        if !lines.get(last..).is_some_and(|line| line.starts_with(b"\n\"Manifest-Checksum\": \"")) {
            return Err(ManifestError::CutOff);
        }
        let document: Document<'_> = serde_json::from_slice(bytes)?;
        let computed = hex::encode(Sha256::digest(covered));
        if !document.checksum.eq_ignore_ascii_case(&computed) {
            return Err(ManifestError::WrongChecksum { found: document.checksum.into_owned(), computed });
        }
        match (document.version, document.system_identifier) {
            (1, _) | (2, Some(_)) => {}
            (2, None) => return Err(ManifestError::NoSystemIdentifier),
            (version, _) => return Err(ManifestError::UnknownVersion(version)),
        }
        let files = document.files.into_iter().map(FileEntry::into_entry).collect::<Result<Vec<_>, _>>()?;
        let mut seen = HashSet::with_capacity(files.len());
        if let Some(twice) = files.iter().find(|file| !seen.insert(&file.path)) {
            let path = String::from_utf8_lossy(&twice.path).into_owned();
            return Err(ManifestError::BadFile { path, fault: "another one for the same path before it" });
        }
        let range = |RangeEntry { timeline, start, end }| WalRange { timeline, start, end };
        Ok(Self {
            version: document.version,
            system_identifier: document.system_identifier,
            files,
            ranges: document.ranges.into_iter().map(range).collect(),
        })
    }
}

impl FileEntry<'_> {
    fn into_entry(self) -> Result<ManifestEntry, ManifestError> {
        let name = self.path.as_deref().or(self.encoded_path.as_deref()).unwrap_or_default();
        let bad = |fault| ManifestError::BadFile { path: name.to_owned(), fault };
        let path = match (&self.path, &self.encoded_path) {
            (Some(path), None) => path.as_bytes().to_vec(),
            (None, Some(digits)) => hex::decode(&**digits).map_err(|_| bad("a path that is not hexadecimal"))?,
            _ => return Err(bad("not just one path")),
        };
        let modified = NaiveDateTime::parse_from_str(&self.modified, "%Y-%m-%d %H:%M:%S GMT")
            .map_err(|_| bad("a time of change that is none"))?
            .and_utc();
        let checksum = match (&self.algorithm, &self.checksum) {
            (None, None) => (ChecksumAlgorithm::None, Vec::new()),
            (Some(algorithm), Some(digits)) => (
                ChecksumAlgorithm::from_name(algorithm).ok_or_else(|| bad("an unknown checksum algorithm"))?,
                hex::decode(&**digits).map_err(|_| bad("a checksum that is not hexadecimal"))?,
            ),
            _ => return Err(bad("only half a checksum")),
        };
        Ok(ManifestEntry { path, size: self.size, modified, checksum })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;
    use std::io::Read;

    /// A manifest that `pg_basebackup` 15 wrote (version 1, SHA256), of a cluster with oddly named files.
    fn of_15() -> Vec<u8> {
        unpack(include_bytes!("testdata/backup_manifest_15.gz"))
    }

    /// The same from 17: version 2, CRC32C.
    fn of_17() -> Vec<u8> {
        unpack(include_bytes!("testdata/backup_manifest_17.gz"))
    }

    fn unpack(packed: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        flate2::read::GzDecoder::new(packed).read_to_end(&mut bytes).unwrap();
        bytes
    }

    fn write(manifest: &Manifest) -> Vec<u8> {
        let mut writer = ManifestWriter::new(Vec::new(), manifest.system_identifier).unwrap();
        for file in &manifest.files {
            writer.add(&file.as_file()).unwrap();
        }
        writer.finish(&manifest.ranges).unwrap()
    }

    /// Puts the right checksum under an altered text.
    fn seal(text: &str) -> Vec<u8> {
        let at = text.rfind("\"Manifest-Checksum\"").unwrap();
        let body = &text[..at];
        format!("{body}\"Manifest-Checksum\": \"{}\"}}\n", hex::encode(Sha256::digest(body))).into_bytes()
    }

    #[rstest]
    #[case(of_15())]
    #[case(of_17())]
    fn writes_every_byte_as_the_server_does(#[case] bytes: Vec<u8>) {
        let again = write(&Manifest::parse(&bytes).unwrap());
        assert_eq!(String::from_utf8(again), String::from_utf8(bytes));
    }

    #[test]
    fn reads_what_the_server_wrote() {
        let manifest = Manifest::parse(&of_15()).unwrap();
        assert_eq!((manifest.version, manifest.system_identifier), (1, None));
        let range = WalRange { timeline: TimelineId(1), start: Lsn(0x0200_0028), end: Lsn(0x0200_0100) };
        assert_eq!(manifest.ranges, [range]);
        let file = manifest.files.iter().find(|file| file.path == b"odd/latin\xFC").unwrap();
        assert_eq!(file.size, 6);
        assert_eq!(file.modified.to_rfc3339(), "2026-11-20T14:38:46+00:00");
        assert_eq!(file.checksum, (ChecksumAlgorithm::Sha256, Sha256::digest(b"latin\xFC").to_vec()));
        assert!(manifest.files.iter().any(|file| file.path == b"odd/tab\tnl\nret\rff\x0Cbs\x08esc\x1Bdel\x7F"));

        let manifest = Manifest::parse(&of_17()).unwrap();
        assert_eq!((manifest.version, manifest.system_identifier), (2, Some(7_710_263_128_847_514_143)));
        let file = manifest.files.iter().find(|file| file.path == "odd/\u{fc}\u{20ac}\u{1f600}".as_bytes()).unwrap();
        assert_eq!(file.checksum, (ChecksumAlgorithm::Crc32c, hex::decode("3da51e55").unwrap()));
    }

    #[test]
    fn writes_a_file_without_a_checksum_and_two_timelines() {
        let mut writer = ManifestWriter::new(Vec::new(), Some(7)).unwrap();
        let checksum = (ChecksumAlgorithm::None, &b""[..]);
        writer.add(&ManifestFile { path: b"a", size: 0, modified: DateTime::UNIX_EPOCH, checksum }).unwrap();
        let range =
            |timeline, start, end| WalRange { timeline: TimelineId(timeline), start: Lsn(start), end: Lsn(end) };
        let bytes = writer.finish(&[range(2, 0x20, 0x30), range(1, 0x10, 0x20)]).unwrap();
        let text = String::from_utf8(bytes.clone()).unwrap();
        let expected = "{ \"PostgreSQL-Backup-Manifest-Version\": 2,\n\"System-Identifier\": 7,\n\"Files\": [\n\
            { \"Path\": \"a\", \"Size\": 0, \"Last-Modified\": \"1970-01-01 00:00:00 GMT\" }\n],\n\"WAL-Ranges\": [\n\
            { \"Timeline\": 2, \"Start-LSN\": \"0/20\", \"End-LSN\": \"0/30\" },\n\
            { \"Timeline\": 1, \"Start-LSN\": \"0/10\", \"End-LSN\": \"0/20\" }\n],\n\"Manifest-Checksum\": \"";
        assert_eq!(text.get(..expected.len()), Some(expected));
        assert_eq!(Manifest::parse(&bytes).unwrap().files[0].checksum, (ChecksumAlgorithm::None, Vec::new()));
    }

    #[test]
    fn changes_and_missing_ends_are_seen() {
        let whole = of_17();
        for at in (0..whole.len()).step_by(997).chain(whole.len() - 90..whole.len()) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x01;
            assert!(Manifest::parse(&bytes).is_err(), "byte {at}");
            assert!(Manifest::parse(&whole[..at]).is_err(), "cut at {at}");
        }
        assert!(matches!(Manifest::parse(b""), Err(ManifestError::CutOff)));
        let text = String::from_utf8(whole).unwrap().replace("PG_VERSION", "PG_VERSIOM");
        assert!(matches!(Manifest::parse(text.as_bytes()), Err(ManifestError::WrongChecksum { .. })));
    }

    const ONE: &str = "{ \"PostgreSQL-Backup-Manifest-Version\": 2,\n\"System-Identifier\": 7,\n\"Files\": [\n\
        { \"Path\": \"a\", \"Size\": 1, \"Last-Modified\": \"2026-01-02 03:04:05 GMT\", \
        \"Checksum-Algorithm\": \"crc32c\", \"Checksum\": \"00FF00ff\" }\n],\n\"WAL-Ranges\": [\n\
        { \"Timeline\": 1, \"Start-LSN\": \"0/10\", \"End-LSN\": \"0/20\" }\n],\n\"Manifest-Checksum\": \"\"}\n";

    #[rstest]
    #[case("", "", None)]
    #[case("Version\": 2", "Version\": 3", Some("the backup manifest has version 3; known are 1 and 2"))]
    #[case("\"System-Identifier\": 7,\n", "", Some("the backup manifest of version 2 has no system identifier"))]
    #[case("\"Size\": 1", "\"Size\": -1", Some("parse the backup manifest"))]
    #[case("\"Size\": 1, ", "", Some("parse the backup manifest"))]
    #[case("\"Size\"", "\"New\": 2, \"Size\"", Some("parse the backup manifest"))]
    #[case("\"0/10\"", "\"10\"", Some("parse the backup manifest"))]
    #[case(
        "\"Path\": \"a\"",
        "\"Encoded-Path\": \"fg\"",
        Some("the backup manifest's entry for \"fg\" has a path that is not hexadecimal")
    )]
    #[case(
        "\"Path\": \"a\"",
        "\"Encoded-Path\": \"ff\", \"Path\": \"b\"",
        Some("the backup manifest's entry for \"b\" has not just one path")
    )]
    #[case("\"Path\": \"a\", ", "", Some("the backup manifest's entry for \"\" has not just one path"))]
    #[case("2026-01-02", "yesterday", Some("the backup manifest's entry for \"a\" has a time of change that is none"))]
    #[case("crc32c", "md5", Some("the backup manifest's entry for \"a\" has an unknown checksum algorithm"))]
    #[case("00FF00ff", "0", Some("the backup manifest's entry for \"a\" has a checksum that is not hexadecimal"))]
    #[case(", \"Checksum\": \"00FF00ff\"", "", Some("the backup manifest's entry for \"a\" has only half a checksum"))]
    #[case(
        "[\n{ \"P",
        "[\n{ \"Path\": \"a\", \"Size\": 1, \"Last-Modified\": \"2026-01-02 03:04:05 GMT\" },\n{ \"P",
        Some("the backup manifest's entry for \"a\" has another one for the same path before it")
    )]
    fn faults_are_named(#[case] from: &str, #[case] to: &str, #[case] message: Option<&str>) {
        let outcome = Manifest::parse(&seal(&ONE.replace(from, to)));
        assert_eq!(outcome.err().map(|error| error.to_string()).as_deref(), message);
    }

    proptest! {
        #[test]
        fn round_trips(
            paths in proptest::collection::hash_set(proptest::collection::vec(1_u8.., 1..20), 0..8),
            text in ".{1,20}",
            size: u64,
            seconds in 0_i64..1 << 33,
            system_identifier: Option<u64>,
            start: u64,
            end: u64,
        ) {
            let modified = DateTime::from_timestamp(seconds, 0).unwrap();
            let checksum = (ChecksumAlgorithm::Sha256, Sha256::digest(&text).to_vec());
            let mut paths = paths;
            paths.insert(text.into_bytes());
            let entry = |path| ManifestEntry { path, size, modified, checksum: checksum.clone() };
            let manifest = Manifest {
                version: if system_identifier.is_some() { 2 } else { 1 },
                system_identifier,
                files: paths.into_iter().map(entry).collect(),
                ranges: vec![WalRange { timeline: TimelineId(3), start: Lsn(start), end: Lsn(end) }],
            };
            prop_assert_eq!(Manifest::parse(&write(&manifest)).unwrap(), manifest);
        }

        #[test]
        fn never_panics(at in 0..ONE.len(), length in 0_usize..20, junk in "[\"{}:,\n a-z0-9\\\\]{0,20}") {
            let mut text = ONE.to_owned();
            text.replace_range(at..(at + length).min(ONE.len()), &junk);
            Manifest::parse(text.as_bytes()).ok();
            if text.contains("\"Manifest-Checksum\"") {
                Manifest::parse(&seal(&text)).ok();
            }
        }
    }
}
