use super::*;
use proptest::prelude::*;
use rstest::rstest;

fn usual(codec: Codec) -> Compression {
    codec.to_string().parse().unwrap()
}

fn compress(codec: Codec, plain: &[u8]) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::new(), usual(codec)).unwrap();
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

fn decompress(codec: Codec, compressed: &[u8]) -> io::Result<Vec<u8>> {
    let mut plain = Vec::new();
    decoder(codec, compressed)?.read_to_end(&mut plain)?;
    Ok(plain)
}

/// Compresses a little, and has literals, matches and enough of both that every part of a frame occurs.
fn sample(length: usize) -> Vec<u8> {
    (0..length).map(|i| if i % 64 < 40 { b'x' } else { u8::try_from(i * 31 % 251).unwrap() }).collect()
}

#[rstest]
#[case("zstd", Codec::Zstd, 1)]
#[case("zstd:22", Codec::Zstd, 22)]
#[case("zstd:-7", Codec::Zstd, -7)]
#[case("lz4", Codec::Lz4, 0)]
#[case("gzip", Codec::Gzip, 6)]
#[case("gzip:9", Codec::Gzip, 9)]
fn parses(#[case] text: &str, #[case] codec: Codec, #[case] level: i32) {
    let compression: Compression = text.parse().unwrap();
    assert_eq!(compression, Compression { codec, level });
    assert_eq!(compression.to_string().parse::<Compression>().unwrap(), compression);
    let json = serde_json::to_string(&compression).unwrap();
    assert_eq!(serde_json::from_str::<Compression>(&json).unwrap(), compression);
}

#[rstest]
#[case("")]
#[case("zst")]
#[case("zstd:")]
#[case("zstd:0")]
#[case("zstd:23")]
#[case("zstd:-8")]
#[case("lz4:1")]
#[case("gzip:0")]
#[case("gzip:10")]
#[case("gzip:fast")]
#[case("none:1")]
fn refuses(#[case] text: &str) {
    let error = text.parse::<Compression>().unwrap_err();
    assert!(error.to_string().contains(&format!("{text:?}")), "{error}");
}

#[test]
fn suffixes_lead_back() {
    for codec in Codec::ALL {
        assert_eq!(Codec::from_suffix(codec.suffix()), Some(codec));
    }
    assert_eq!(Codec::from_suffix("zstd"), None);
    assert_eq!(Compression::default().to_string(), "zstd:1");
}

#[rstest]
fn damage_anywhere_is_never_other_bytes(
    #[values(Codec::Zstd, Codec::Lz4, Codec::Gzip)] codec: Codec,
    #[values(0, 1, 1500)] length: usize,
) {
    let plain = sample(length);
    let compressed = compress(codec, &plain);
    for position in 0..compressed.len() {
        for bit in 0..8 {
            let mut damaged = compressed.clone();
            damaged[position] ^= 1 << bit;
            if let Ok(bytes) = decompress(codec, &damaged) {
                assert_eq!(bytes, plain, "bit {bit} of byte {position}");
            }
        }
    }
}

#[rstest]
fn a_shortened_stream_is_an_error(
    #[values(Codec::Zstd, Codec::Lz4, Codec::Gzip)] codec: Codec,
    #[values(0, 1500)] length: usize,
) {
    let compressed = compress(codec, &sample(length));
    let two = [compressed.as_slice(), compressed.as_slice()].concat();
    for length in 0..two.len() {
        let whole_frame = length == compressed.len();
        let answer = decompress(codec, &two[..length]);
        assert_eq!(answer.is_ok(), whole_frame, "{length} of {} bytes: {answer:?}", two.len());
        if let Err(error) = answer {
            assert!(matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof), "{error:?}");
        }
    }
}

#[rstest]
fn a_stream_cut_between_blocks_is_an_error(#[values(Codec::Zstd, Codec::Lz4, Codec::Gzip)] codec: Codec) {
    let plain: Vec<u8> = (0..300_000_u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let compressed = compress(codec, &plain);
    assert_eq!(decompress(codec, &compressed).unwrap(), plain);
    // Some of these cuts fall between two LZ4 blocks, whose sizes stand in the stream.
    let mut cuts = vec![compressed.len() - 4, compressed.len() - 8, compressed.len() / 2];
    if codec == Codec::Lz4 {
        let mut at = 7;
        while let Some(size) = compressed.get(at..at + 4) {
            cuts.extend([at, at + 4]);
            at += 4 + (u32::from_le_bytes(size.try_into().unwrap()) & 0x7FFF_FFFF) as usize;
        }
    }
    for cut in cuts {
        assert_eq!(decompress(codec, &compressed[..cut]).is_ok(), cut == compressed.len(), "{cut}");
    }
}

#[rstest]
fn garbage_after_the_end_is_an_error(
    #[values(Codec::Zstd, Codec::Lz4, Codec::Gzip)] codec: Codec,
    #[values(b"\0".as_slice(), b"xyz", &[0; 512], b"\x1f\x8b", b"\x04\x22\x4d\x18", b"\x28\xb5\x2f\xfd")]
    garbage: &[u8],
) {
    let stream = [compress(codec, b"plain").as_slice(), garbage].concat();
    assert!(decompress(codec, &stream).is_err());
}

#[rstest]
#[case(Codec::Zstd)]
#[case(Codec::Lz4)]
fn skippable_frames_are_skipped(#[case] codec: Codec) {
    let skippable = b"\x5e\x2a\x4d\x18\x03\0\0\0any";
    let frame = compress(codec, b"plain");
    let stream = [skippable, frame.as_slice(), skippable, frame.as_slice(), skippable].concat();
    assert_eq!(decompress(codec, &stream).unwrap(), b"plainplain");
    assert!(decompress(codec, &stream[..stream.len() - 1]).is_err());
}

#[test]
fn lz4_frames_of_other_makers_follow_one_another() {
    let frame = |size: BlockSize, mode: BlockMode, plain: &[u8]| {
        let info = FrameInfo::new().block_size(size).block_mode(mode).block_checksums(true);
        let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    };
    let plain = sample(400_000);
    let stream = [
        frame(BlockSize::Max4MB, BlockMode::Linked, &plain),
        frame(BlockSize::Max64KB, BlockMode::Linked, &plain),
        frame(BlockSize::Max1MB, BlockMode::Independent, &plain),
    ]
    .concat();
    assert_eq!(decompress(Codec::Lz4, &stream).unwrap(), plain.repeat(3));
}

#[rstest]
fn dropping_an_encoder_finishes_nothing(#[values(Codec::Zstd, Codec::Lz4, Codec::Gzip)] codec: Codec) {
    for length in [0, 1500, 1_000_000] {
        let mut sink = Vec::new();
        let mut encoder = Encoder::new(&mut sink, usual(codec)).unwrap();
        encoder.write_all(&sample(length)).unwrap();
        encoder.flush().unwrap();
        drop(encoder);
        assert!(decompress(codec, &sink).is_err());
    }
}

#[rstest]
fn a_promised_size_is_held(#[values(Codec::Zstd, Codec::Lz4, Codec::Gzip)] codec: Codec) {
    for (promised, written) in [(10, 10), (10, 9), (10, 11), (0, 0), (0, 1)] {
        let mut encoder = Encoder::with_size_hint(Vec::new(), usual(codec), promised).unwrap();
        let answer = encoder.write_all(&sample(written)).and_then(|()| encoder.finish());
        assert_eq!(answer.is_ok(), promised == written as u64, "{promised} promised, {written} written");
    }
}

/// Accepts `room` bytes, fails once, then accepts everything.
struct Hiccup<'a> {
    sink: &'a mut Vec<u8>,
    room: usize,
    failed: bool,
}

impl Write for Hiccup<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.failed && self.sink.len() + bytes.len() > self.room {
            self.failed = true;
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        self.sink.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[rstest]
fn a_sink_that_failed_once_never_holds_a_whole_frame(#[values(Codec::Zstd, Codec::Lz4, Codec::Gzip)] codec: Codec) {
    let plain = sample(1500);
    for room in 0..compress(codec, &plain).len() {
        let mut sink = Vec::new();
        let hiccup = Hiccup { sink: &mut sink, room, failed: false };
        let mut encoder = Encoder::new(hiccup, usual(codec)).unwrap();
        let answer = encoder.write_all(&plain).and_then(|()| encoder.finish().map(drop));
        assert_eq!(answer.unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert!(decompress(codec, &sink).is_err(), "room for {room} bytes");
    }
}

struct Failing;

impl Read for Failing {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::from(io::ErrorKind::ConnectionReset))
    }
}

#[rstest]
fn the_source_s_own_error_comes_through_and_lasts(#[values(Codec::Zstd, Codec::Lz4, Codec::Gzip)] codec: Codec) {
    let compressed = compress(codec, &sample(5000));
    for length in 1..compressed.len() {
        let mut decoder = decoder(codec, compressed[..length].chain(Failing)).unwrap();
        let error = io::copy(&mut decoder, &mut io::sink()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error:?} after {length} bytes");
        assert!(decoder.read(&mut [0; 8]).is_err());
    }
    assert_eq!(decoder(codec, Failing).err().unwrap().kind(), io::ErrorKind::ConnectionReset);
}

proptest! {
    #[test]
    fn round_trips(pieces: Vec<Vec<u8>>, codec in prop::sample::select(Codec::ALL.to_vec())) {
        let stream: Vec<u8> = std::iter::once(&Vec::new()).chain(&pieces).flat_map(|piece| compress(codec, piece)).collect();
        prop_assert_eq!(decompress(codec, &stream).unwrap(), pieces.concat());
    }

    #[test]
    fn never_panics(bytes: Vec<u8>, codec in prop::sample::select(Codec::ALL.to_vec())) {
        drop(decompress(codec, &bytes));
        drop(decompress(codec, &[compress(codec, b"x"), bytes].concat()));
    }

    #[test]
    fn compressions_read_as_they_are_printed(text in ".*", likely in "(zstd|lz4|gzip)(:-?[0-9]{1,2})?") {
        for text in [text, likely] {
            if let Ok(compression) = text.parse::<Compression>() {
                prop_assert_eq!(compression.to_string().parse(), Ok(compression));
                prop_assert!(Encoder::new(Vec::new(), compression).is_ok());
            }
        }
    }
}
