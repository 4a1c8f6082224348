//! Names of the files that PostgreSQL archives (`src/include/access/xlog_internal.h`, `src/include/postmaster/pgarch.h`).

use std::fmt;

use super::{Lsn, TimelineId};

/// The size of a WAL segment: a power of two from 1 MiB to 1 GiB (`initdb --wal-segsize`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentSize(u32);

impl SegmentSize {
    /// The usual 16 MiB.
    pub const DEFAULT: Self = Self(16 << 20);

    /// The size, when it is one that PostgreSQL allows.
    pub fn new(bytes: u32) -> Option<Self> {
        (bytes.is_power_of_two() && (1 << 20..=1 << 30).contains(&bytes)).then_some(Self(bytes))
    }

    /// In bytes.
    pub fn bytes(self) -> u64 {
        u64::from(self.0)
    }

    /// How many segments share the middle eight digits of a name.
    pub fn per_log(self) -> u64 {
        (1 << 32) / self.bytes()
    }
}

/// The name of a WAL segment: 24 upper-case hexadecimal digits — timeline, log, segment within the log.
///
/// The order of values is the order of names. What position a name stands for depends on the [`SegmentSize`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WalSegmentName {
    /// The timeline that the segment was written on.
    pub timeline: TimelineId,
    log: u32,
    segment: u32,
}

impl WalSegmentName {
    /// The name made of these 24 digits; `None` for anything else (lower case included).
    pub fn parse(name: &str) -> Option<Self> {
        let field = |range: std::ops::Range<usize>| hex8(name.get(range)?);
        if name.len() != 24 {
            return None;
        }
        Some(Self { timeline: TimelineId(field(0..8)?), log: field(8..16)?, segment: field(16..24)? })
    }

    /// The segment of `timeline` that holds the byte at `position` (`XLByteToSeg`).
    pub fn containing(timeline: TimelineId, position: Lsn, size: SegmentSize) -> Self {
        Self::numbered(timeline, position.0 / size.bytes(), size)
    }

    /// The segment of `timeline` that holds the last byte before `position` (`XLByteToPrevSeg`).
    pub fn before(timeline: TimelineId, position: Lsn, size: SegmentSize) -> Self {
        Self::containing(timeline, Lsn(position.0.saturating_sub(1)), size)
    }

    /// The segment of `timeline` with this number, counted from position 0.
    pub fn numbered(timeline: TimelineId, number: u64, size: SegmentSize) -> Self {
        let field = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        Self { timeline, log: field(number / size.per_log()), segment: field(number % size.per_log()) }
    }

    /// The segment's number, counted from position 0. `None` when the last eight digits are out of range for `size`.
    pub fn number(self, size: SegmentSize) -> Option<u64> {
        let segment = u64::from(self.segment);
        (segment < size.per_log()).then(|| u64::from(self.log) * size.per_log() + segment)
    }

    /// The position of the segment's first byte. `None` as for [`WalSegmentName::number`].
    pub fn start(self, size: SegmentSize) -> Option<Lsn> {
        self.number(size).map(|number| Lsn(number * size.bytes()))
    }

    /// The next segment of the same timeline. `None` as for [`WalSegmentName::number`], and at the end of all positions.
    pub fn next(self, size: SegmentSize) -> Option<Self> {
        let number = self.number(size)?.checked_add(1)?;
        u32::try_from(number / size.per_log()).is_ok().then(|| Self::numbered(self.timeline, number, size))
    }

    /// The first sixteen digits: the folder that the segment lies in within a repository.
    pub fn directory(self) -> String {
        format!("{:08X}{:08X}", self.timeline.0, self.log)
    }

    /// The same place on another timeline.
    #[must_use]
    pub fn on(self, timeline: TimelineId) -> Self {
        Self { timeline, ..self }
    }
}

impl fmt::Display for WalSegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08X}{:08X}{:08X}", self.timeline.0, self.log, self.segment)
    }
}

/// A file name that PostgreSQL hands to its `archive_command` or asks its `restore_command` for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ArchiveName {
    /// A whole segment: `000000010000000000000007`.
    Segment(WalSegmentName),
    /// The last segment of a timeline that ended in the middle of it: `….partial`.
    Partial(WalSegmentName),
    /// A timeline history file: `00000002.history`.
    History(TimelineId),
    /// A backup history file: `000000010000000000000007.00000028.backup`; the number is the start's offset.
    BackupHistory(WalSegmentName, u32),
}

impl ArchiveName {
    /// What the name stands for; `None` when PostgreSQL never archives a file so named.
    pub fn parse(name: &str) -> Option<Self> {
        if let Some(segment) = name.strip_suffix(".partial") {
            return WalSegmentName::parse(segment).map(Self::Partial);
        }
        if let Some(timeline) = name.strip_suffix(".history") {
            return hex8(timeline).map(|tli| Self::History(TimelineId(tli)));
        }
        if let Some((segment, offset)) = name.strip_suffix(".backup").and_then(|stem| stem.split_once('.')) {
            return Some(Self::BackupHistory(WalSegmentName::parse(segment)?, hex8(offset)?));
        }
        WalSegmentName::parse(name).map(Self::Segment)
    }

    /// The timeline in the name.
    pub fn timeline(self) -> TimelineId {
        match self {
            Self::Segment(name) | Self::Partial(name) | Self::BackupHistory(name, _) => name.timeline,
            Self::History(timeline) => timeline,
        }
    }
}

impl fmt::Display for ArchiveName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Segment(name) => name.fmt(f),
            Self::Partial(name) => write!(f, "{name}.partial"),
            Self::History(timeline) => f.write_str(&timeline.history_file()),
            Self::BackupHistory(name, offset) => write!(f, "{name}.{offset:08X}.backup"),
        }
    }
}

/// Eight upper-case hexadecimal digits.
fn hex8(digits: &str) -> Option<u32> {
    let valid = digits.len() == 8 && digits.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b));
    if valid { u32::from_str_radix(digits, 16).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    fn size(bytes: u32) -> SegmentSize {
        SegmentSize::new(bytes).unwrap()
    }

    #[rstest]
    #[case(16 << 20, 0x0200_0028, "000000010000000000000002")]
    #[case(16 << 20, 0x1_0000_0000, "000000010000000100000000")]
    #[case(1 << 20, 0x0200_0028, "000000010000000000000020")]
    #[case(1 << 20, 0x1_FFFF_FFFF, "000000010000000100000FFF")]
    #[case(1 << 30, 0x1_FFFF_FFFF, "000000010000000100000003")]
    #[case(64 << 20, 0x0400_0000, "000000010000000000000001")]
    fn names_the_segment_of_a_position(#[case] bytes: u32, #[case] position: u64, #[case] name: &str) {
        let segment = WalSegmentName::containing(TimelineId(1), Lsn(position), size(bytes));
        assert_eq!(segment.to_string(), name);
        assert_eq!(WalSegmentName::parse(name), Some(segment));
    }

    #[test]
    fn a_boundary_belongs_to_the_segment_before_it() {
        let at = Lsn(0x0200_0000);
        let name = WalSegmentName::before(TimelineId(1), at, SegmentSize::DEFAULT);
        assert_eq!(name.to_string(), "000000010000000000000001");
    }

    #[rstest]
    #[case(16 << 20, "0000000100000000000000FF", "000000010000000100000000")]
    #[case(1 << 20, "0000000100000000000000FF", "000000010000000000000100")]
    #[case(1 << 30, "000000010000000000000003", "000000010000000100000000")]
    fn follows(#[case] bytes: u32, #[case] name: &str, #[case] next: &str) {
        let name = WalSegmentName::parse(name).unwrap();
        assert_eq!(name.next(size(bytes)).unwrap().to_string(), next);
    }

    #[test]
    fn a_segment_number_out_of_range_has_no_position() {
        let name = WalSegmentName::parse("000000010000000000000100").unwrap();
        assert_eq!(name.start(SegmentSize::DEFAULT), None);
        assert_eq!(name.next(SegmentSize::DEFAULT), None);
    }

    #[rstest]
    #[case("000000010000000000000007")]
    #[case("000000010000000000000007.partial")]
    #[case("00000002.history")]
    #[case("000000010000000000000007.00000028.backup")]
    fn archive_names_round_trip(#[case] name: &str) {
        assert_eq!(ArchiveName::parse(name).unwrap().to_string(), name);
    }

    #[rstest]
    #[case("")]
    #[case("00000001000000000000000g")]
    #[case("00000001000000000000000a")]
    #[case("0000000100000000000000070")]
    #[case("../000000010000000000000007")]
    #[case("2.history")]
    #[case("000000010000000000000007.backup")]
    #[case("000000010000000000000007.00000028.backup.partial")]
    fn other_names_are_refused(#[case] name: &str) {
        assert_eq!(ArchiveName::parse(name), None);
    }

    proptest! {
        #[test]
        fn numbers_round_trip(timeline: u32, shift in 20_u32..=30, number in 0_u64..1 << 32) {
            let size = size(1 << shift);
            prop_assume!(u32::try_from(number / size.per_log()).is_ok());
            let name = WalSegmentName::numbered(TimelineId(timeline), number, size);
            prop_assert_eq!(name.number(size), Some(number));
            prop_assert_eq!(WalSegmentName::parse(&name.to_string()), Some(name));
        }

        #[test]
        fn the_order_of_values_is_that_of_names_and_positions(
            timelines: [u32; 2],
            numbers in proptest::array::uniform2(0_u64..1 << 12),
            shift in 20_u32..=30,
        ) {
            let size = size(1 << shift);
            let [one, other] = [0, 1].map(|at| WalSegmentName::numbered(TimelineId(timelines[at]), numbers[at], size));
            prop_assert_eq!(one.cmp(&other), one.to_string().cmp(&other.to_string()));
            let [one, other] = [one, other].map(|name| name.on(TimelineId(1)));
            prop_assert_eq!(one.cmp(&other), one.start(size).cmp(&other.start(size)));
            let next = one.next(size).unwrap();
            prop_assert!(one < next);
            prop_assert_eq!(WalSegmentName::before(TimelineId(1), next.start(size).unwrap(), size), one);
        }

        #[test]
        fn names_read_as_they_are_printed(
            text in ".{0,60}",
            likely in "[0-9A-Fa-f]{7,8}([0-9A-F]{16})?(\\.[0-9A-F]{8})?(\\.history|\\.partial|\\.backup)?",
        ) {
            for text in [text, likely] {
                if let Some(name) = ArchiveName::parse(&text) {
                    prop_assert_eq!(name.to_string(), text);
                }
            }
        }
    }
}
