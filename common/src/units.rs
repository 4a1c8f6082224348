//! Sizes and times as people write and read them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;

/// A number of bytes. Written by people as `1048576`, `64MiB`, `64 M`, `1.5 GB` (a unit with an `i` counts in
/// 1024s, one without in 1000s); printed as `1.5 GiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ByteCount(pub u64);

/// How little free space is little: a share of the file system, or a size. Written `10%` or `2 GB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpaceLimit {
    /// So many hundredths of all there is, from 0 to 100.
    Percent(u8),
    /// So many bytes.
    Bytes(ByteCount),
}

impl SpaceLimit {
    /// In bytes, for a file system of so many.
    pub fn of(self, total: u64) -> u64 {
        match self {
            Self::Percent(percent) => total / 100 * u64::from(percent),
            Self::Bytes(ByteCount(bytes)) => bytes,
        }
    }
}

impl FromStr for SpaceLimit {
    type Err = ParseUnitError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let Some(number) = text.trim().strip_suffix('%') else { return text.parse().map(Self::Bytes) };
        let percent = number.trim().parse().ok().filter(|percent| *percent <= 100);
        percent.map(Self::Percent).ok_or_else(|| ParseUnitError::Share(excerpt(text)))
    }
}

impl fmt::Display for SpaceLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Percent(percent) => f.pad(&format!("{percent} %")),
            Self::Bytes(bytes) => bytes.fmt(f),
        }
    }
}

/// The text is no size or no time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseUnitError {
    /// Not a number of bytes.
    #[error("{0:?} is no size: write a number with a unit, such as 64MiB or 100 GB")]
    Size(String),
    /// Not a share of a whole.
    #[error("{0:?} is no share: write a whole number from 0 to 100 and a percent sign, such as 10%")]
    Share(String),
    /// Not a duration.
    #[error("{0:?} is no duration: write numbers with units, such as 30s, 5 min or 1h 30m")]
    Duration(String),
}

fn excerpt(text: &str) -> String {
    text.chars().take(64).collect()
}

impl FromStr for ByteCount {
    type Err = ParseUnitError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let trimmed = text.trim();
        match trimmed.parse::<ByteSize>() {
            // The parser answers the largest number for what is too large.
            Ok(ByteSize(u64::MAX)) if trimmed != u64::MAX.to_string() => Err(ParseUnitError::Size(excerpt(text))),
            Ok(ByteSize(bytes)) => Ok(Self(bytes)),
            Err(_) => Err(ParseUnitError::Size(excerpt(text))),
        }
    }
}

impl fmt::Display for ByteCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&ByteSize(self.0).display().iec().to_string())
    }
}

/// A duration written by a person: `30s`, `5 min`, `1h 30m`, `500ms`. A bare number has no meaning, but 0 has.
pub fn parse_duration(text: &str) -> Result<Duration, ParseUnitError> {
    humantime::parse_duration(text.trim()).map_err(|_| ParseUnitError::Duration(excerpt(text)))
}

/// How long something took, printed as `850 ms`, `12.3 s`, `4 min 10 s`, `2 h 05 min`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Took(pub Duration);

impl fmt::Display for Took {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        // Rounded before the unit is chosen, so that 59.97 s is a minute and not 60.0 s.
        let (tenths, seconds, minutes) = ((millis + 50) / 100, (millis + 500) / 1000, (millis + 30_000) / 60_000);
        let text = if millis < 1000 {
            format!("{millis} ms")
        } else if tenths < 600 {
            format!("{}.{} s", tenths / 10, tenths % 10)
        } else if seconds < 3600 {
            format!("{} min {:02} s", seconds / 60, seconds % 60)
        } else {
            format!("{} h {:02} min", minutes / 60, minutes % 60)
        };
        f.pad(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    #[rstest]
    #[case("0", 0)]
    #[case("1048576", 1 << 20)]
    #[case("64MiB", 64 << 20)]
    #[case("64 MiB", 64 << 20)]
    #[case("32k", 32_000)]
    #[case("32K", 32_000)]
    #[case("32kB", 32_000)]
    #[case("100 GB", 100_000_000_000)]
    #[case(" 1.5 GiB ", 3 << 29)]
    #[case("2TB", 2_000_000_000_000)]
    #[case("18446744073709551615", u64::MAX)]
    fn parses_sizes(#[case] text: &str, #[case] bytes: u64) {
        assert_eq!(text.parse(), Ok(ByteCount(bytes)));
    }

    #[rstest]
    #[case("10%", 100)]
    #[case(" 0 % ", 0)]
    #[case("100%", 1000)]
    #[case("2 kB", 2000)]
    fn a_limit_is_a_share_or_a_size(#[case] text: &str, #[case] bytes: u64) {
        assert_eq!(text.parse::<SpaceLimit>().unwrap().of(1000), bytes);
    }

    #[rstest]
    #[case("101%")]
    #[case("-1%")]
    #[case("%")]
    #[case("a few")]
    fn refuses_limits(#[case] text: &str) {
        assert!(text.parse::<SpaceLimit>().unwrap_err().to_string().contains(&format!("{text:?}")));
    }

    #[rstest]
    #[case("")]
    #[case("GB")]
    #[case("-1")]
    #[case("-1 GB")]
    #[case("1 GB 2")]
    #[case("1,5 GB")]
    #[case("1.2.3 GB")]
    #[case("12 parsecs")]
    #[case("99999999999 EiB")]
    #[case("18446744073709551616")]
    fn refuses_sizes(#[case] text: &str) {
        let error = text.parse::<ByteCount>().unwrap_err();
        assert!(error.to_string().contains(&format!("{text:?}")), "{error}");
    }

    #[rstest]
    #[case(0, "0 B")]
    #[case(512, "512 B")]
    #[case(1024, "1.0 KiB")]
    #[case(16 << 20, "16.0 MiB")]
    #[case(3 << 29, "1.5 GiB")]
    #[case(u64::MAX, "16.0 EiB")]
    fn prints_sizes(#[case] bytes: u64, #[case] text: &str) {
        assert_eq!(ByteCount(bytes).to_string(), text);
    }

    #[rstest]
    #[case("30s", 30_000)]
    #[case("5 min", 300_000)]
    #[case("1h 30m", 5_400_000)]
    #[case(" 500ms ", 500)]
    #[case("2 days", 172_800_000)]
    #[case("0", 0)]
    fn parses_durations(#[case] text: &str, #[case] millis: u64) {
        assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)));
    }

    #[rstest]
    #[case("")]
    #[case("5")]
    #[case("soon")]
    #[case("-5s")]
    #[case("5 lightyears")]
    fn refuses_durations(#[case] text: &str) {
        let error = parse_duration(text).unwrap_err();
        assert!(error.to_string().contains(&format!("{text:?}")), "{error}");
    }

    #[rstest]
    #[case(0, "0 ms")]
    #[case(850, "850 ms")]
    #[case(999, "999 ms")]
    #[case(1000, "1.0 s")]
    #[case(12_345, "12.3 s")]
    #[case(59_949, "59.9 s")]
    #[case(59_950, "1 min 00 s")]
    #[case(250_000, "4 min 10 s")]
    #[case(3_599_499, "59 min 59 s")]
    #[case(3_599_500, "1 h 00 min")]
    #[case(7_500_000, "2 h 05 min")]
    #[case(360_000_000, "100 h 00 min")]
    fn prints_durations(#[case] millis: u64, #[case] text: &str) {
        assert_eq!(Took(Duration::from_millis(millis)).to_string(), text);
    }

    proptest! {
        #[test]
        fn never_panics(text in ".*", bytes: u64, seconds: u64) {
            drop(text.parse::<ByteCount>());
            drop(parse_duration(&text));
            prop_assert_eq!(bytes.to_string().parse(), Ok(ByteCount(bytes)));
            prop_assert!(!Took(Duration::from_secs(seconds)).to_string().is_empty());
        }

        #[test]
        fn what_is_printed_reads_back_nearly(bytes: u64) {
            let again: ByteCount = ByteCount(bytes).to_string().parse().unwrap_or(ByteCount(u64::MAX));
            prop_assert!(again.0.abs_diff(bytes) <= bytes / 10 + 1);
        }
    }
}
