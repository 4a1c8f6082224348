//! Positions in the write-ahead log.

use std::fmt;
use std::str::FromStr;

/// A byte position in the WAL, printed as PostgreSQL prints it: `16/B374D848` (`src/backend/utils/adt/pg_lsn.c`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// The text is no log sequence number.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no log sequence number: two hexadecimal numbers with a slash between them, such as 0/16B3748")]
pub struct ParseLsnError(String);

impl FromStr for Lsn {
    type Err = ParseLsnError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let half = |digits: &str| {
            let fits = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
            if fits { u64::from_str_radix(digits, 16).ok() } else { None }
        };
        text.split_once('/')
            .and_then(|(high, low)| Some(Self(half(high)? << 32 | half(low)?)))
            .ok_or_else(|| ParseLsnError(text.chars().take(64).collect()))
    }
}

crate::serde_text::serde_as_text!(Lsn);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    #[rstest]
    #[case("0/0", 0)]
    #[case("0/16B3748", 0x016B_3748)]
    #[case("16/B374D848", 0x16_B374_D848)]
    #[case("ffffffff/ffffffff", u64::MAX)]
    fn parses(#[case] text: &str, #[case] value: u64) {
        assert_eq!(text.parse::<Lsn>().unwrap(), Lsn(value));
    }

    #[rstest]
    #[case("")]
    #[case("0")]
    #[case("/")]
    #[case("0/")]
    #[case("123456789/0")]
    #[case("0/+1")]
    #[case("0/0/0")]
    #[case("0x1/0")]
    fn refuses(#[case] text: &str) {
        assert!(text.parse::<Lsn>().is_err());
    }

    proptest! {
        #[test]
        fn round_trips(value: u64) {
            prop_assert_eq!(Lsn(value).to_string().parse::<Lsn>().unwrap(), Lsn(value));
        }

        #[test]
        fn never_panics(text in ".*") {
            text.parse::<Lsn>().ok();
        }
    }
}
