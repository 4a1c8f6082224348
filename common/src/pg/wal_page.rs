//! Page headers of the write-ahead log, and the check that a file is the segment that its name says
//! (`src/include/access/xlog_internal.h`).
//!
//! The check reads headers only: it tells foreign, recycled, misnamed, cut-off and half-written files, and looks into
//! no record. It takes the bytes as they come by, in pieces of any size, and keeps none of them.

use super::bytes::{all_zero, u16_at, u32_at, u64_at};
use super::{Lsn, SegmentSize, SystemIdentifier, TimelineId, WalSegmentName};

/// `XLP_LONG_HEADER`: the header is a [`LongHeader`].
const LONG_HEADER_FLAG: u16 = 0x0002;

/// The magic of every known major version, oldest first.
const MAGICS: [(u32, u16); 5] = [(14, 0xD10D), (15, 0xD110), (16, 0xD113), (17, 0xD116), (18, 0xD118)];

/// The `XLOG_PAGE_MAGIC` of a major version; `None` for versions other than 14 to 18.
pub fn magic_of_major(major: u32) -> Option<u16> {
    MAGICS.iter().find(|(known, _)| *known == major).map(|(_, magic)| *magic)
}

/// The major version that writes this magic; `None` for any but 14 to 18.
pub fn major_of_magic(magic: u16) -> Option<u32> {
    MAGICS.iter().find(|(_, known)| *known == magic).map(|(major, _)| *major)
}

/// Whether any version of PostgreSQL since 10 could have written this magic.
fn is_wal_magic(magic: u16) -> bool {
    matches!(magic >> 8, 0xD0 | 0xD1)
}

/// `XLogPageHeaderData`: what every page of the log begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageHeader {
    /// `xlp_magic`: the major version, see [`major_of_magic`].
    pub magic: u16,
    /// `xlp_info`: flags.
    pub info: u16,
    /// `xlp_tli`: the timeline that the page was begun on.
    pub timeline: TimelineId,
    /// `xlp_pageaddr`: the position of the page's first byte.
    pub address: Lsn,
    /// `xlp_rem_len`: how many bytes of a record begun on an earlier page are still to come.
    pub remaining: u32,
}

impl PageHeader {
    /// The size on disk.
    pub const SIZE: usize = 24;

    /// Reads the first 24 of these bytes, whatever they are; `None` when there are fewer.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..Self::SIZE)?;
        Some(Self {
            magic: u16_at(bytes, 0)?,
            info: u16_at(bytes, 2)?,
            timeline: TimelineId(u32_at(bytes, 4)?),
            address: Lsn(u64_at(bytes, 8)?),
            remaining: u32_at(bytes, 16)?,
        })
    }

    /// Whether the page, the first of its segment, goes on with a [`LongHeader`]'s fields.
    pub fn is_long(&self) -> bool {
        self.info & LONG_HEADER_FLAG != 0
    }
}

/// `XLogLongPageHeaderData`: what the first page of every segment begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LongHeader {
    /// The fields that every page has.
    pub page: PageHeader,
    /// `xlp_sysid`: the cluster.
    pub system_identifier: SystemIdentifier,
    /// `xlp_seg_size`, in bytes.
    pub segment_size: u32,
    /// `xlp_xlog_blcksz`: bytes in a page of the log.
    pub block_size: u32,
}

impl LongHeader {
    /// The size on disk.
    pub const SIZE: usize = 40;

    /// Reads the first 40 of these bytes; `None` when there are fewer or they are no long header.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..Self::SIZE)?;
        let page = PageHeader::parse(bytes).filter(PageHeader::is_long)?;
        Some(Self {
            page,
            system_identifier: u64_at(bytes, 24)?,
            segment_size: u32_at(bytes, 32)?,
            block_size: u32_at(bytes, 36)?,
        })
    }
}

/// Whose WAL it must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    /// The cluster.
    pub system_identifier: SystemIdentifier,
    /// The cluster's segment size.
    pub segment_size: SegmentSize,
    /// The server's page magic ([`magic_of_major`]); `None` for a server whose version is not known: any WAL magic will
    /// do, so long as all pages have the same.
    pub magic: Option<u16>,
}

/// How much of a segment is WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wholeness {
    /// All of it, or up to a segment switch and zeros from there.
    Whole,
    /// A `.partial` file: what comes after its end is left from an older use of the file and says nothing.
    Partial,
}

/// Why a file is not the segment that its name says. Offsets are bytes from the file's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SegmentError {
    /// Cut off or empty.
    #[error("the file has {found} bytes, a segment of this cluster has {expected}")]
    WrongSize {
        /// The cluster's segment size.
        expected: u64,
        /// The file's size.
        found: u64,
    },
    /// Padded, or endless: how much more there is nobody wants to know.
    #[error("the file has more than the {0} bytes of a segment of this cluster")]
    TooLong(u64),
    /// Too few bytes to hold a header.
    #[error("{found} bytes are too few for a segment's header")]
    NoHeader {
        /// How many there are.
        found: usize,
    },
    /// Something else than WAL.
    #[error("the file is no WAL: it begins with {found:#06X}, no version's page magic")]
    NotWal {
        /// What stands in the magic's place.
        found: u16,
    },
    /// The first page lacks what a segment's first page has.
    #[error("the file does not begin with a segment's first page: its header is a short one")]
    NotFirstPage,
    /// Another version's WAL.
    #[error("the page at byte {offset} has the magic {}, expected {}", name_magic(*.found), name_magic(*.expected))]
    WrongMagic {
        /// Where.
        offset: u64,
        /// The magic on the page.
        found: u16,
        /// The server's, or that of the first page.
        expected: u16,
    },
    /// Another cluster's WAL.
    #[error("the segment belongs to the cluster with system identifier {found}, expected {expected}")]
    WrongSystem {
        /// In the file.
        found: SystemIdentifier,
        /// The cluster's.
        expected: SystemIdentifier,
    },
    /// The contents belong elsewhere in the log.
    #[error(
        "the page at byte {offset} is that of {found}, expected {expected}: a recycled segment or another place's contents"
    )]
    WrongAddress {
        /// Where.
        offset: u64,
        /// The position that the page says.
        found: Lsn,
        /// The position that the name says.
        expected: Lsn,
    },
    /// A page of a timeline that cannot be in this segment.
    #[error("the page at byte {offset} is of timeline {found}, expected {least} to {most}")]
    WrongTimeline {
        /// Where.
        offset: u64,
        /// The timeline on the page.
        found: TimelineId,
        /// That of the page before it, else 1.
        least: TimelineId,
        /// The name's.
        most: TimelineId,
    },
    /// Another segment size than the cluster's.
    #[error("the header says segments of {found} bytes, expected {expected}")]
    WrongSegmentSize {
        /// In the header.
        found: u32,
        /// The cluster's.
        expected: u64,
    },
    /// A page size that PostgreSQL does not allow.
    #[error("the header says pages of {0} bytes, expected a power of two from 1024 to 65536")]
    WrongBlockSize(u32),
    /// The last eight digits of the name are too high for the cluster's segment size.
    #[error("{0} names no segment of a cluster with segments of {size} bytes", size = .1.bytes())]
    NameOutOfRange(WalSegmentName, SegmentSize),
    /// A page without a header amid pages with one.
    #[error("the page at byte {offset} begins with {found:#06X}, no page magic: half-written or damaged")]
    TornPage {
        /// Where.
        offset: u64,
        /// What stands in the magic's place.
        found: u16,
    },
    /// After the end of the WAL come bytes that are not zero.
    #[error("the log ends before byte {end}, yet the bytes from {offset} on are not all zero: half-written or damaged")]
    BytesAfterEnd {
        /// The first page without a header.
        end: u64,
        /// The piece that is not zero.
        offset: u64,
    },
}

/// `0xD110 (PostgreSQL 15)`.
fn name_magic(magic: u16) -> String {
    match (major_of_magic(magic), MAGICS.last()) {
        (Some(major), _) => format!("{magic:#06X} (PostgreSQL {major})"),
        (None, Some((newest, known))) if magic > *known => format!("{magic:#06X} (newer than PostgreSQL {newest})"),
        _ => format!("{magic:#06X} (no known PostgreSQL)"),
    }
}

/// Checks a segment's first page: `first` begins with it and holds at least its header. Reads 40 bytes.
pub fn first_page_matches(first: &[u8], name: WalSegmentName, expected: &Expected) -> Result<LongHeader, SegmentError> {
    let size = expected.segment_size;
    let start = name.start(size).ok_or(SegmentError::NameOutOfRange(name, size))?;
    let page = PageHeader::parse(first).ok_or(SegmentError::NoHeader { found: first.len() })?;
    if !is_wal_magic(page.magic) {
        return Err(SegmentError::NotWal { found: page.magic });
    }
    if let Some(magic) = expected.magic.filter(|magic| *magic != page.magic) {
        return Err(SegmentError::WrongMagic { offset: 0, found: page.magic, expected: magic });
    }
    if !page.is_long() {
        return Err(SegmentError::NotFirstPage);
    }
    let header = LongHeader::parse(first).ok_or(SegmentError::NoHeader { found: first.len() })?;
    if header.system_identifier != expected.system_identifier {
        let (found, expected) = (header.system_identifier, expected.system_identifier);
        return Err(SegmentError::WrongSystem { found, expected });
    }
    if u64::from(header.segment_size) != size.bytes() {
        return Err(SegmentError::WrongSegmentSize { found: header.segment_size, expected: size.bytes() });
    }
    if !header.block_size.is_power_of_two() || !(1024..=65536).contains(&header.block_size) {
        return Err(SegmentError::WrongBlockSize(header.block_size));
    }
    page_in_place(&page, 0, start, TimelineId(1), name.timeline)?;
    Ok(header)
}

/// The part of a page's check that is the same on every page. After a promotion in mid-segment the pages up to the
/// switch carry the parent's timeline, so any from `least` to the name's will do.
fn page_in_place(
    page: &PageHeader,
    offset: u64,
    start: Lsn,
    least: TimelineId,
    most: TimelineId,
) -> Result<(), SegmentError> {
    let expected = Lsn(start.0.wrapping_add(offset));
    if page.address != expected {
        return Err(SegmentError::WrongAddress { offset, found: page.address, expected });
    }
    if !(least..=most).contains(&page.timeline) {
        return Err(SegmentError::WrongTimeline { offset, found: page.timeline, least, most });
    }
    Ok(())
}

/// The check of one segment, fed with its bytes from first to last.
///
/// After an error the check is over: what later calls answer says nothing.
#[derive(Debug)]
pub struct SegmentCheck {
    name: WalSegmentName,
    expected: Expected,
    wholeness: Wholeness,
    /// How many bytes have been fed.
    position: u64,
    /// The header that is being fed, which two pieces may share.
    head: [u8; LongHeader::SIZE],
    /// The first page's header, once it has been fed and found good.
    first: Option<LongHeader>,
    /// The timeline of the latest page with a header.
    timeline: TimelineId,
    /// Where the first page without a header begins.
    end: Option<u64>,
}

impl SegmentCheck {
    /// The check of the file that was given as `name`.
    pub fn new(name: WalSegmentName, expected: Expected, wholeness: Wholeness) -> Self {
        let head = [0; LongHeader::SIZE];
        Self { name, expected, wholeness, position: 0, head, first: None, timeline: TimelineId(1), end: None }
    }

    /// Takes the file's next bytes, any number of them. The first byte beyond a segment's size is an error, so that
    /// whoever writes down what was checked never writes more than a segment.
    pub fn update(&mut self, bytes: &[u8]) -> Result<(), SegmentError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let taken = self.step(rest)?;
            self.position += taken as u64;
            rest = rest.get(taken..).unwrap_or_default();
        }
        let size = self.expected.segment_size.bytes();
        if self.position <= size { Ok(()) } else { Err(SegmentError::TooLong(size)) }
    }

    /// Ends the check: the file must have had exactly the segment's size.
    pub fn finish(self) -> Result<(), SegmentError> {
        let (expected, found) = (self.expected.segment_size.bytes(), self.position);
        if found == expected { Ok(()) } else { Err(SegmentError::WrongSize { expected, found }) }
    }

    /// The first page's header, once it has been fed and found good. Its timeline is at most the name's; whether it is
    /// an ancestor of it only the timeline's history can say.
    pub fn first_page(&self) -> Option<LongHeader> {
        self.first
    }

    /// Whether the magic is of no version known here, so that the WAL is probably a newer server's. False as long as
    /// the first page's header has not been fed.
    pub fn unknown_magic(&self) -> bool {
        self.first.is_some_and(|first| major_of_magic(first.page.magic).is_none())
    }

    /// Deals with some of `rest`, which is not empty, and says with how much: up to the next border that matters.
    fn step(&mut self, rest: &[u8]) -> Result<usize, SegmentError> {
        let Some(first) = self.first else {
            let in_page = usize::try_from(self.position).unwrap_or(LongHeader::SIZE);
            let taken = self.gather(rest, in_page, LongHeader::SIZE);
            if in_page + taken == LongHeader::SIZE {
                let header = first_page_matches(&self.head, self.name, &self.expected)?;
                self.timeline = header.page.timeline;
                self.first = Some(header);
            }
            return Ok(taken);
        };
        // Bytes beyond a segment's size are only counted: `update` refuses them.
        if self.wholeness == Wholeness::Partial || self.position >= self.expected.segment_size.bytes() {
            return Ok(rest.len());
        }
        if let Some(end) = self.end {
            let zero = all_zero(rest);
            return if zero { Ok(rest.len()) } else { Err(SegmentError::BytesAfterEnd { end, offset: self.position }) };
        }
        let block_size = u64::from(first.block_size);
        let in_page = usize::try_from(self.position % block_size).unwrap_or(0);
        if self.position < block_size || in_page >= PageHeader::SIZE {
            let left = usize::try_from(first.block_size).map_or(0, |size| size.saturating_sub(in_page));
            return Ok(left.clamp(1, rest.len()));
        }
        let taken = self.gather(rest, in_page, PageHeader::SIZE);
        if in_page + taken == PageHeader::SIZE {
            self.later_page(first.page.magic, self.position - in_page as u64)?;
        }
        Ok(taken)
    }

    /// Copies header bytes from `rest` behind the `held` ones that are there; says how many.
    fn gather(&mut self, rest: &[u8], held: usize, size: usize) -> usize {
        let room = self.head.get_mut(held..size).unwrap_or_default();
        let taken = room.len().min(rest.len());
        room.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
        taken
    }

    /// Looks at the gathered header of the page that begins at `offset`.
    fn later_page(&mut self, magic: u16, offset: u64) -> Result<(), SegmentError> {
        let bytes = self.head.get(..PageHeader::SIZE).unwrap_or_default();
        if all_zero(bytes) {
            self.end = Some(offset);
            return Ok(());
        }
        let page = PageHeader::parse(bytes).ok_or(SegmentError::NoHeader { found: bytes.len() })?;
        if page.magic != magic {
            let found = page.magic;
            let wal = is_wal_magic(found);
            return Err(if wal {
                SegmentError::WrongMagic { offset, found, expected: magic }
            } else {
                SegmentError::TornPage { offset, found }
            });
        }
        let size = self.expected.segment_size;
        let start = self.name.start(size).ok_or(SegmentError::NameOutOfRange(self.name, size))?;
        page_in_place(&page, offset, start, self.timeline, self.name.timeline)?;
        self.timeline = page.timeline;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    const SYSTEM: u64 = 0x6B00_584F_18F6_FE81;
    const MIB: u32 = 1 << 20;
    const PAGE: usize = 8192;

    fn name() -> WalSegmentName {
        WalSegmentName::parse("000000030000000200000005").unwrap()
    }

    fn expected() -> Expected {
        Expected { system_identifier: SYSTEM, segment_size: SegmentSize::new(MIB).unwrap(), magic: Some(0xD110) }
    }

    fn header(bytes: &mut [u8], magic: u16, info: u16, timeline: u32, address: u64) {
        bytes[0..2].copy_from_slice(&magic.to_ne_bytes());
        bytes[2..4].copy_from_slice(&info.to_ne_bytes());
        bytes[4..8].copy_from_slice(&timeline.to_ne_bytes());
        bytes[8..16].copy_from_slice(&address.to_ne_bytes());
    }

    /// A segment of 1 MiB with every byte of every page in use.
    fn segment() -> Vec<u8> {
        let start = name().start(expected().segment_size).unwrap().0;
        let mut bytes = vec![0xEE; MIB as usize];
        for (number, page) in bytes.chunks_mut(PAGE).enumerate() {
            header(page, 0xD110, if number == 0 { 6 } else { 5 }, 3, start + (number * PAGE) as u64);
        }
        bytes[24..32].copy_from_slice(&SYSTEM.to_ne_bytes());
        bytes[32..36].copy_from_slice(&MIB.to_ne_bytes());
        bytes[36..40].copy_from_slice(&8192_u32.to_ne_bytes());
        bytes
    }

    fn check_as(bytes: &[u8], piece: usize, expected: Expected, wholeness: Wholeness) -> Result<(), SegmentError> {
        let mut check = SegmentCheck::new(name(), expected, wholeness);
        bytes.chunks(piece).try_for_each(|piece| check.update(piece))?;
        check.finish()
    }

    fn check(bytes: &[u8]) -> Result<(), SegmentError> {
        check_as(bytes, 65_536, expected(), Wholeness::Whole)
    }

    #[test]
    fn reads_a_real_header() {
        let bytes =
            hex::decode("10d10600010000000000000400000000000000000000000081fef6184f58006b0000000100200000").unwrap();
        let header = LongHeader::parse(&bytes).unwrap();
        let page =
            PageHeader { magic: 0xD110, info: 6, timeline: TimelineId(1), address: Lsn(0x0400_0000), remaining: 0 };
        let whole =
            LongHeader { page, system_identifier: 7_710_259_658_802_790_017, segment_size: 16 << 20, block_size: 8192 };
        assert_eq!(header, whole);
        let name = WalSegmentName::parse("000000010000000000000004").unwrap();
        let expected = Expected {
            system_identifier: header.system_identifier,
            segment_size: SegmentSize::DEFAULT,
            magic: magic_of_major(15),
        };
        assert_eq!(first_page_matches(&bytes, name, &expected), Ok(header));
    }

    #[rstest]
    #[case(14, 0xD10D)]
    #[case(15, 0xD110)]
    #[case(16, 0xD113)]
    #[case(17, 0xD116)]
    #[case(18, 0xD118)]
    fn magics_belong_to_majors(#[case] major: u32, #[case] magic: u16) {
        assert_eq!(magic_of_major(major), Some(magic));
        assert_eq!(major_of_magic(magic), Some(major));
        assert_eq!(major_of_magic(magic - 1), None);
    }

    #[rstest]
    #[case(1)]
    #[case(7)]
    #[case(39)]
    #[case(8191)]
    #[case(8200)]
    #[case(1 << 20)]
    fn a_good_segment_passes_in_pieces_of_any_size(#[case] piece: usize) {
        assert_eq!(check_as(&segment(), piece, expected(), Wholeness::Whole), Ok(()));
    }

    #[rstest]
    #[case::one_byte_short((1 << 20) - 1)]
    #[case::empty(0)]
    #[case::half_a_header(17)]
    #[case::a_page(8192)]
    fn too_few_bytes_are_refused(#[case] size: usize) {
        let mut bytes = segment();
        bytes.resize(size, 0);
        let found = size as u64;
        for wholeness in [Wholeness::Whole, Wholeness::Partial] {
            let wrong = SegmentError::WrongSize { expected: u64::from(MIB), found };
            assert_eq!(check_as(&bytes, 4096, expected(), wholeness), Err(wrong));
        }
    }

    #[test]
    fn the_first_byte_too_many_is_refused() {
        let bytes = segment();
        for wholeness in [Wholeness::Whole, Wholeness::Partial] {
            let mut check = SegmentCheck::new(name(), expected(), wholeness);
            assert_eq!(check.update(&bytes), Ok(()));
            assert_eq!(check.update(&[0]), Err(SegmentError::TooLong(u64::from(MIB))));
        }
    }

    #[rstest]
    #[case::text(0, b"hello", "the file is no WAL: it begins with 0x6568, no version's page magic")]
    #[case::zeros(0, &[0, 0], "the file is no WAL: it begins with 0x0000, no version's page magic")]
    #[case::version(0, &[0x13, 0xD1],
        "the page at byte 0 has the magic 0xD113 (PostgreSQL 16), expected 0xD110 (PostgreSQL 15)")]
    #[case::newer(0, &[0x21, 0xD1],
        "the page at byte 0 has the magic 0xD121 (newer than PostgreSQL 18), expected 0xD110 (PostgreSQL 15)")]
    #[case::short_header(2, &[4, 0],
        "the file does not begin with a segment's first page: its header is a short one")]
    #[case::timeline_above(4, &[4, 0, 0, 0], "the page at byte 0 is of timeline 4, expected 1 to 3")]
    #[case::timeline_zero(4, &[0, 0, 0, 0], "the page at byte 0 is of timeline 0, expected 1 to 3")]
    #[case::recycled(8, &[0, 0, 0x40],
        "the page at byte 0 is that of 2/400000, expected 2/500000: a recycled segment or another place's contents")]
    #[case::cluster(24, &[0x82],
        "the segment belongs to the cluster with system identifier 7710259658802790018, expected 7710259658802790017")]
    #[case::segment_size(32, &[0, 0, 0, 1], "the header says segments of 16777216 bytes, expected 1048576")]
    #[case::block_size(36, &[0, 0x21],
        "the header says pages of 8448 bytes, expected a power of two from 1024 to 65536")]
    #[case::later_version(PAGE, &[0x13, 0xD1],
        "the page at byte 8192 has the magic 0xD113 (PostgreSQL 16), expected 0xD110 (PostgreSQL 15)")]
    #[case::later_garbage(PAGE, &[0xEE, 0xEE],
        "the page at byte 8192 begins with 0xEEEE, no page magic: half-written or damaged")]
    #[case::later_half_zero(PAGE, &[0, 0],
        "the page at byte 8192 begins with 0x0000, no page magic: half-written or damaged")]
    #[case::later_recycled(127 * PAGE + 8, &[0, 0, 0x40], "the page at byte 1040384 is that of 2/400000, \
        expected 2/5FE000: a recycled segment or another place's contents")]
    #[case::later_timeline(2 * PAGE + 4, &[4], "the page at byte 16384 is of timeline 4, expected 3 to 3")]
    #[case::timeline_goes_back(2 * PAGE + 4, &[2], "the page at byte 16384 is of timeline 2, expected 3 to 3")]
    fn damage_is_named(#[case] offset: usize, #[case] bytes: &[u8], #[case] message: &str) {
        let mut segment = segment();
        segment[offset..offset + bytes.len()].copy_from_slice(bytes);
        for piece in [1, 5000, 1 << 20] {
            let error = check_as(&segment, piece, expected(), Wholeness::Whole).unwrap_err();
            assert_eq!(error.to_string(), message);
        }
    }

    #[test]
    fn a_name_beyond_the_log_is_refused() {
        let name = WalSegmentName::parse("000000010000000000001000").unwrap();
        let error = SegmentCheck::new(name, expected(), Wholeness::Whole).update(&segment()).unwrap_err();
        let message = "000000010000000000001000 names no segment of a cluster with segments of 1048576 bytes";
        assert_eq!(error.to_string(), message);
    }

    #[test]
    fn a_new_timelines_first_segment_begins_with_its_parents_pages() {
        let mut bytes = segment();
        for page in bytes.chunks_mut(PAGE).take(9) {
            page[4] = 2;
        }
        assert_eq!(check(&bytes), Ok(()));
    }

    #[rstest]
    #[case(1)]
    #[case(100)]
    #[case(127)]
    fn a_switched_segment_ends_in_zeros(#[case] pages: usize) {
        let mut bytes = segment();
        bytes[pages * PAGE..].fill(0);
        assert_eq!(check(&bytes), Ok(()));
        let end = (pages * PAGE) as u64;
        // A lost write in the middle, dirt at the very end, dirt behind the missing header.
        for at in [127 * PAGE, MIB as usize - 1, pages * PAGE + 24] {
            bytes[at] = 1;
            let error = check_as(&bytes, 8, expected(), Wholeness::Whole).unwrap_err();
            let found = if at == pages * PAGE {
                SegmentError::TornPage { offset: end, found: 1 }
            } else {
                SegmentError::BytesAfterEnd { end, offset: (at / 8 * 8) as u64 }
            };
            assert_eq!(error, found);
            bytes[at] = 0;
        }
    }

    #[test]
    fn only_the_first_page_of_a_partial_segment_counts() {
        let mut bytes = segment();
        bytes[PAGE..].fill(0xAB);
        assert_eq!(check_as(&bytes, 100, expected(), Wholeness::Partial), Ok(()));
        bytes[8] ^= 1;
        assert!(check_as(&bytes, 100, expected(), Wholeness::Partial).is_err());
    }

    #[test]
    fn a_newer_servers_wal_is_checked_for_its_structure() {
        let mut bytes = segment();
        bytes.chunks_mut(PAGE).for_each(|page| page[0] = 0x21);
        let newer = Expected { magic: None, ..expected() };
        assert_eq!(check_as(&bytes, 999, newer, Wholeness::Whole), Ok(()));
        let mut check = SegmentCheck::new(name(), newer, Wholeness::Whole);
        assert!(!check.unknown_magic());
        assert_eq!(check.first_page(), None);
        check.update(&bytes).unwrap();
        assert!(check.unknown_magic());
        assert_eq!(check.first_page(), LongHeader::parse(&bytes));
        bytes[3 * PAGE] = 0x22;
        assert!(check_as(&bytes, 999, newer, Wholeness::Whole).is_err());
    }

    #[rstest]
    #[case(1024)]
    #[case(65_536)]
    fn pages_have_the_size_that_the_header_says(#[case] block: usize) {
        let start = name().start(expected().segment_size).unwrap().0;
        let mut bytes = segment();
        let system = bytes[24..36].to_vec();
        bytes.fill(0xEE);
        for (number, page) in bytes.chunks_mut(block).enumerate() {
            header(page, 0xD110, if number == 0 { 2 } else { 0 }, 1, start + (number * block) as u64);
        }
        bytes[24..36].copy_from_slice(&system);
        bytes[36..40].copy_from_slice(&u32::try_from(block).unwrap().to_ne_bytes());
        assert_eq!(check_as(&bytes, 777, expected(), Wholeness::Whole), Ok(()));
        bytes[5 * block] = 0;
        assert!(check_as(&bytes, 777, expected(), Wholeness::Whole).is_err());
    }

    proptest! {
        #[test]
        fn the_pieces_do_not_matter(at in 0_usize..MIB as usize, value: u8, pieces in proptest::collection::vec(1_usize..20_000, 1..40)) {
            let mut bytes = segment();
            bytes[at] = value;
            bytes[900_000..].fill(0);
            let whole = check_as(&bytes, bytes.len(), expected(), Wholeness::Whole);
            let mut check = SegmentCheck::new(name(), expected(), Wholeness::Whole);
            let mut rest = &bytes[..];
            let mut outcome = Ok(());
            for piece in pieces.iter().cycle() {
                if rest.is_empty() || outcome.is_err() {
                    break;
                }
                let (now, later) = rest.split_at((*piece).min(rest.len()));
                outcome = check.update(now);
                rest = later;
            }
            let outcome = outcome.and_then(|()| check.finish());
            prop_assert_eq!(outcome.is_ok(), whole.is_ok());
        }

        #[test]
        fn never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 4..200), wal: bool) {
            if wal {
                bytes[0..4].copy_from_slice(&[0x10, 0xD1, 2, 0]);
            }
            first_page_matches(&bytes, name(), &expected()).ok();
            check(&bytes).ok();
        }
    }
}
