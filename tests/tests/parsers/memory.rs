//! What is allocated for an input is bounded by what a parser may keep of it, not by what the input claims.
//!
//! Only allocations of the testing thread are counted, and only Rust's: what Zstandard's C code allocates is bounded by
//! the window that it is allowed, so here a larger one must be refused.

use std::io::{self, Read, Write};
use std::ops::ControlFlow;

use allocation_counter::measure;
use common::codec::{Codec, Compression, Digest, Encoder, decoder};
use common::pg::wal_reader::{Event, Listed, RecordReader};
use common::pg::{BackupLabel, Lsn, Manifest, SegmentSize, TimelineHistory, TimelineId, tablespace_map};
use common::repo::envelope;
use common::repo::index;
use common::repo::part::{Attributes, PartWriter};
use common::repo::records::BackupRecord;
use common::server::Conninfo;
use rstest::rstest;

const MIB: u64 = 1 << 20;

/// The most that `act` had allocated at one time.
fn peak(act: impl FnOnce()) -> u64 {
    measure(act).bytes_max
}

fn repeated(text: &str, bytes: u64) -> Vec<u8> {
    text.bytes().cycle().take(usize::try_from(bytes).unwrap()).collect()
}

const BOMB_BYTES: u64 = 64 * MIB;

/// Plain zeros, compressed.
fn bomb(codec: Codec) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::new(), Compression::usual(codec)).unwrap();
    io::copy(&mut io::repeat(0).take(BOMB_BYTES), &mut encoder).unwrap();
    encoder.finish().unwrap()
}

/// An LZ4 frame that promises more plain bytes than there can be, with one.
fn endless_lz4_frame() -> Vec<u8> {
    let mut frame = Vec::new();
    let mut encoder = Encoder::with_size_hint(&mut frame, Compression::usual(Codec::Lz4), u64::MAX).unwrap();
    encoder.write_all(b"x").unwrap();
    encoder.flush().unwrap();
    drop(encoder);
    frame.extend([0; 4]);
    frame
}

/// Decompresses to the end, or to an error.
fn drain(codec: Codec, compressed: &[u8]) -> io::Result<u64> {
    io::copy(&mut decoder(codec, compressed)?, &mut io::sink())
}

#[rstest]
#[case(Codec::Zstd)]
#[case(Codec::Lz4)]
#[case(Codec::Gzip)]
fn a_decompression_bomb_is_a_stream(#[case] codec: Codec) {
    let bomb = bomb(codec);
    assert!((bomb.len() as u64) < MIB);
    let peak = peak(|| assert_eq!(drain(codec, &bomb).unwrap(), BOMB_BYTES));
    assert!(peak < 2 * MIB, "{peak}");
}

#[rstest]
#[case::a_zstandard_window_of_2_gib(Codec::Zstd, b"\x28\xb5\x2f\xfd\x00\xa8\x01\x00\x00", MIB)]
#[case::a_zstandard_size_of_all_memory(
    Codec::Zstd,
    b"\x28\xb5\x2f\xfd\xe0\xff\xff\xff\xff\xff\xff\xff\xff\x01\x00\x00",
    MIB
)]
#[case::a_skippable_frame_of_4_gib(Codec::Zstd, b"\x5e\x2a\x4d\x18\xff\xff\xff\xff", MIB)]
#[case::an_lz4_skippable_frame_of_4_gib(Codec::Lz4, b"\x5e\x2a\x4d\x18\xff\xff\xff\xff", MIB)]
#[case::an_lz4_size_of_all_memory(Codec::Lz4, &endless_lz4_frame(), 2 * MIB)]
#[case::an_lz4_block_of_2_gib(Codec::Lz4, b"\x04\x22\x4d\x18\x64\x70\xb9\xff\xff\xff\x7f\x00\x00", 16 * MIB)]
#[case::a_gzip_extra_field(Codec::Gzip, b"\x1f\x8b\x08\x04\x00\x00\x00\x00\x00\x03\xff\xff", MIB)]
fn a_claimed_size_is_not_believed(#[case] codec: Codec, #[case] claim: &[u8], #[case] limit: u64) {
    let peak = peak(|| assert!(drain(codec, claim).is_err()));
    assert!(peak < limit, "{peak}");
}

#[test]
fn a_gzip_name_without_an_end_is_not_kept() {
    let member = [&b"\x1f\x8b\x08\x08\x00\x00\x00\x00\x00\x03"[..], &vec![b'n'; 16 << 20]].concat();
    let peak = peak(|| assert!(drain(Codec::Gzip, &member).is_err()));
    assert!(peak < MIB, "{peak}");
}

/// What a parser keeps of an input is at most so many times as large as the input.
#[rstest]
#[case::history(|bytes: &[u8]| drop(TimelineHistory::parse(TimelineId(u32::MAX), bytes)), repeated("# x\n", MIB), 1)]
#[case::history_line(|bytes: &[u8]| drop(TimelineHistory::parse(TimelineId(2), bytes)), repeated("1 0/1 x", MIB), 4)]
#[case::label(|bytes: &[u8]| drop(BackupLabel::parse(bytes)), repeated("\nLABEL: \nSTART TIMELINE: 1", MIB), 4)]
#[case::label_in_no_encoding(|bytes: &[u8]| drop(BackupLabel::parse(bytes)), vec![0xFF; 1 << 20], 8)]
#[case::tablespace_map(|bytes: &[u8]| drop(tablespace_map::parse(bytes)), repeated("1 a\n", MIB), 64)]
#[case::manifest(|bytes: &[u8]| drop(Manifest::parse(bytes)), sealed_manifest(), 16)]
#[case::record(|bytes: &[u8]| drop(envelope::open::<BackupRecord>(bytes)), sealed_record("0,"), 2)]
#[case::record_of_strings(|bytes: &[u8]| drop(envelope::open::<BackupRecord>(bytes)), sealed_record("\"\\u0000\","), 4)]
#[case::index(|bytes: &[u8]| drop(index::entries(bytes).collect::<Vec<_>>()), unknown_field("0,"), 4)]
#[case::index_frames(|bytes: &[u8]| drop(index::entries(bytes).collect::<Vec<_>>()), frames(), 16)]
#[case::connection_keyword(|bytes: &[u8]| drop(Conninfo::parse(text(bytes))), [repeated("k", MIB), b"=v".to_vec()].concat(), 8)]
fn what_is_kept_is_bounded_by_what_is_there(#[case] parse: fn(&[u8]), #[case] bytes: Vec<u8>, #[case] factor: u64) {
    let limit = factor * bytes.len() as u64 + 64 * 1024;
    let peak = peak(|| parse(&bytes));
    assert!(peak < limit, "{peak} bytes for {} of input", bytes.len());
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn sealed_manifest() -> Vec<u8> {
    let file =
        |number| format!("{{ \"Path\": \"{number}\", \"Size\": 0, \"Last-Modified\": \"1970-01-01 00:00:00 GMT\" }}");
    let files: Vec<_> = (0..10_000).map(file).collect();
    let body = format!(
        "{{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [\n{}\n],\n\"WAL-Ranges\": [],\n",
        files.join(",\n")
    );
    let bytes = format!("{body}\"Manifest-Checksum\": \"{}\"}}\n", Digest::of(body.as_bytes())).into_bytes();
    assert!(Manifest::parse(&bytes).is_ok());
    bytes
}

/// A record in a right envelope with a large field that nobody knows.
fn sealed_record(item: &str) -> Vec<u8> {
    let body = format!("{{\"unknown\":{}}}", array(item));
    let sha256 = Digest::of(body.as_bytes());
    format!(r#"{{"format":1,"kind":"backup","sha256":"{sha256}","record":{body}}}"#).into_bytes()
}

/// A line of an index with a large field that nobody knows.
fn unknown_field(item: &str) -> Vec<u8> {
    line(&format!(r#"{{"directory":{{"path":"a","mode":448,"unknown":{}}}}}"#, array(item)))
}

fn frames() -> Vec<u8> {
    line(&format!(r#"{{"frames":{{"part":1,"plain_bytes":0,"frames":{}}}}}"#, array("0,")))
}

fn line(entry: &str) -> Vec<u8> {
    assert!(index::entries(entry.as_bytes()).next().unwrap().is_ok());
    entry.as_bytes().to_vec()
}

/// A megabyte of items, each with its comma.
fn array(item: &str) -> String {
    format!("[{}0]", item.repeat((1 << 20) / item.len()))
}

#[test]
fn a_line_of_an_index_without_an_end_is_read_to_a_limit() {
    let peak = peak(|| {
        let endless = io::BufReader::new(io::repeat(b' '));
        assert!(index::entries(endless).next().unwrap().is_err());
    });
    assert!(peak < 64 * MIB, "{peak}");
}

/// A commit that removes as many relations as it holds, and a change of a table's row.
#[rstest]
#[case::commit([0xB0, 1], RecordReader::new, false)]
#[case::commit_in_depth([0xB0, 1], RecordReader::in_depth, true)]
#[case::commit_with_rows([0xB0, 1], RecordReader::with_rows, true)]
#[case::row_with_rows([0x00, 10], RecordReader::with_rows, false)]
fn a_wal_record_of_a_gigabyte_is_not_gathered(
    #[case] kind: [u8; 2],
    #[case] read: fn(Lsn, SegmentSize) -> RecordReader,
    #[case] in_depth: bool,
) {
    let page = |number: u32| {
        let info: u16 = if number == 0 { 2 } else { 1 };
        let mut bytes = [0xD110_u16.to_ne_bytes(), info.to_ne_bytes()].concat();
        bytes.extend(1_u32.to_ne_bytes());
        bytes.extend((u64::from(number) * 8192).to_ne_bytes());
        bytes.extend(((1 << 30) - (8192 - 40) - number.saturating_sub(1) * (8192 - 24)).to_ne_bytes());
        bytes.extend([0; 4]);
        if number == 0 {
            bytes.extend([7, 0, 0, 0, 0, 0, 0, 0]);
            bytes.extend([(1_u32 << 30).to_ne_bytes(), 8192_u32.to_ne_bytes()].concat());
            let [info, manager] = kind;
            bytes.extend([(1_u32 << 30).to_ne_bytes(), [9, 0, 0, 0], [0; 4], [0; 4], [info, manager, 0, 0]].concat());
            bytes.extend([0; 4]);
            bytes.push(254);
            bytes.extend([(1_u32 << 30) - 24 - 5, 0, 0, 0x14, 80_000_000].map(u32::to_ne_bytes).concat());
        }
        bytes.resize(8192, 254);
        bytes
    };
    let (mut pages, mut relations) = (0_u32, 0_u64);
    let peak = peak(|| {
        let size = SegmentSize::new(1 << 30).unwrap();
        let mut reader = read(Lsn(0), size);
        let mut count = |event| {
            relations += u64::from(matches!(event, Event::Listed(Listed::Relation(_))));
            ControlFlow::Continue(())
        };
        while pages < 4096 && reader.feed_all(&page(pages), &mut count).is_continue() {
            pages += 1;
        }
    });
    assert_eq!(pages, 4096, "the record goes on");
    let list_bytes = 4096 * (8192 - 24) - 16 - 24 - 5 - 16;
    assert_eq!(relations, if in_depth { list_bytes / 12 } else { 0 });
    assert!(peak < 64 * 1024, "{peak}");
}

#[test]
fn a_tar_entry_of_all_memory_takes_one_frame() {
    let peak = peak(|| {
        let mut part = PartWriter::new(1, io::sink(), Compression::usual(Codec::Zstd));
        part.file(b"huge", u64::MAX, Attributes { mode: 0o600, modified: 0 }).unwrap();
        io::copy(&mut io::repeat(0).take(32 * MIB), &mut Contents(&mut part)).unwrap();
        assert!(part.finish().is_err());
    });
    assert!(peak < 16 * MIB, "{peak}");
}

/// A part as a writer of the file that was begun last.
struct Contents<'a, W: Write>(&'a mut PartWriter<W>);

impl<W: Write> Write for Contents<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.contents(bytes).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
