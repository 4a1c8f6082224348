//! The moment that a recovery goes to.

use std::fmt;

use chrono::{
    DateTime, Datelike as _, FixedOffset, Local, LocalResult, NaiveDate, NaiveDateTime, SubsecRound as _, TimeZone,
    Timelike as _, Utc,
};
use serde::{Deserialize, Serialize};

use crate::pg::Lsn;

/// Where replay stops.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// At the first commit or abort later than this (`recovery_target_time`).
    Time(DateTime<FixedOffset>),
    /// At this position (`recovery_target_lsn`).
    Lsn(Lsn),
    /// At the end of this transaction (`recovery_target_xid`); with its epoch where one was given.
    Xid(u64),
    /// At this restore point (`recovery_target_name`).
    Name(String),
    /// As soon as the backup is consistent (`recovery_target = 'immediate'`).
    Immediate,
    /// At the end of all WAL.
    Latest,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Time(time) => write!(f, "time {}", time.format("%Y-%m-%d %H:%M:%S%.f%:z")),
            Self::Lsn(lsn) => write!(f, "position {lsn}"),
            Self::Xid(xid) => write!(f, "transaction {xid}"),
            Self::Name(name) => write!(f, "restore point {name:?}"),
            Self::Immediate => f.write_str("the end of the backup"),
            Self::Latest => f.write_str("the end of all WAL"),
        }
    }
}

/// The text is no moment that can be understood without guessing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseTimeError {
    /// Nothing that is understood.
    #[error("{0:?} is no time: write it like \"2026-11-20 03:15:00\" (local time) or \"2026-11-20 03:15:00+01\"")]
    NoTime(String),
    /// A local time in the hour that a clock change repeats.
    #[error("{0:?} occurs twice: the clock goes back that night; add the offset that is meant, {1} or {2}")]
    Twice(String, FixedOffset, FixedOffset),
    /// A local time in the hour that a clock change skips.
    #[error("{0:?} never occurs: the clock goes forward that night; add the offset that is meant")]
    Never(String),
}

/// Reads a time as PostgreSQL prints it: date and time, with or without fractions of a second, with an offset, `Z` or
/// `UTC`, or without a zone: then it is in the zone of this host. A date alone is its midnight. A local time that a
/// clock change makes ambiguous or skips is refused, and so are leap seconds and years that have not four digits.
/// The time is in whole microseconds, as PostgreSQL's are: what comes after them is dropped.
pub fn parse_time(text: &str) -> Result<DateTime<FixedOffset>, ParseTimeError> {
    let shown: String = text.chars().take(64).collect();
    let Some(read) = read_time(text.trim()) else { return Err(ParseTimeError::NoTime(shown)) };
    let time = match read {
        LocalResult::Single(time) => time,
        LocalResult::Ambiguous(first, second) => {
            return Err(ParseTimeError::Twice(shown, *first.offset(), *second.offset()));
        }
        LocalResult::None => return Err(ParseTimeError::Never(shown)),
    };
    let leap_second = time.nanosecond() >= 1_000_000_000;
    let year_of_four_digits = (1..=9999).contains(&time.to_utc().year());
    if leap_second || !year_of_four_digits { Err(ParseTimeError::NoTime(shown)) } else { Ok(time.trunc_subsecs(6)) }
}

/// The moments that the text may mean; `None` where it is no time at all.
fn read_time(text: &str) -> Option<LocalResult<DateTime<FixedOffset>>> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Some(LocalResult::Single(time));
    }
    let in_utc = ["Z", "UTC", "utc", "GMT"].iter().find_map(|zone| text.strip_suffix(zone)).map(str::trim_end);
    if let Some(naive) = in_utc {
        return parse_naive(naive).map(|naive| LocalResult::Single(naive.and_utc().fixed_offset()));
    }
    let with_offset =
        ["%Y-%m-%d %H:%M:%S%.f%#z", "%Y-%m-%d %H:%M:%S%.f %#z", "%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%d %H:%M%#z"];
    if let Some(time) = with_offset.iter().find_map(|format| DateTime::parse_from_str(text, format).ok()) {
        return Some(LocalResult::Single(time));
    }
    let naive = parse_naive(text).filter(|naive| (0..=9999).contains(&naive.year()))?;
    Some(Local.from_local_datetime(&naive).map(|time| time.fixed_offset()))
}

fn parse_naive(text: &str) -> Option<NaiveDateTime> {
    ["%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M"]
        .iter()
        .find_map(|format| NaiveDateTime::parse_from_str(text, format).ok())
        .or_else(|| NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?.and_hms_opt(0, 0, 0))
}

/// The time as PostgreSQL reads it without doubt, to the microsecond.
pub fn for_postgresql(time: &DateTime<FixedOffset>) -> String {
    time.with_timezone(&Utc).format("%Y-%m-%d %H:%M:%S%.6f+00").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    #[rstest]
    #[case("2026-11-20 03:15:00+01", "2026-11-20 02:15:00.000000+00")]
    #[case("2026-11-20 03:15:00.123456-05:30", "2026-11-20 08:45:00.123456+00")]
    #[case("2026-11-20T03:15:00Z", "2026-11-20 03:15:00.000000+00")]
    #[case("2026-11-20 03:15:00.5 UTC", "2026-11-20 03:15:00.500000+00")]
    #[case("2026-11-20 03:15:00 +0000", "2026-11-20 03:15:00.000000+00")]
    #[case("2026-11-20 03:15Z", "2026-11-20 03:15:00.000000+00")]
    #[case("2026-11-20 03:15:00.123456999Z", "2026-11-20 03:15:00.123456+00")]
    #[case("9999-12-31 23:59:59.999999Z", "9999-12-31 23:59:59.999999+00")]
    fn reads_what_postgresql_prints(#[case] text: &str, #[case] expected: &str) {
        assert_eq!(for_postgresql(&parse_time(text).unwrap()), expected);
    }

    #[test]
    fn what_comes_after_microseconds_is_dropped() {
        assert_eq!(parse_time("2026-11-20 03:15:00.123456999Z"), parse_time("2026-11-20 03:15:00.123456Z"));
    }

    #[test]
    fn without_a_zone_it_is_local() {
        let time = parse_time("2026-11-20 03:15:00").unwrap();
        let local = NaiveDate::from_ymd_opt(2026, 11, 20).unwrap().and_hms_opt(3, 15, 0).unwrap();
        assert_eq!(time.naive_local(), local);
        assert_eq!(parse_time("2026-11-20").unwrap().naive_local(), local.date().and_hms_opt(0, 0, 0).unwrap());
    }

    #[rstest]
    #[case("")]
    #[case("yesterday")]
    #[case("20.11.2026 03:15")]
    #[case("2026-11-20 25:00:00")]
    #[case("2026-02-30 03:15:00+00")]
    #[case::leap_second("2026-11-20 03:15:60+00")]
    #[case::year_of_five_digits("+12026-11-20 03:15:00+00")]
    #[case::year_that_an_offset_makes_too_large("9999-12-31 23:59:59-01")]
    #[case::year_0("0000-11-20 03:15:00+00")]
    #[case::end_of_all_calendars("+262142-12-31 23:59:59-23:59")]
    #[case::end_of_all_local_calendars("+262142-12-31 23:59:59")]
    #[case::begin_of_all_calendars("-262143-01-01 00:00:00+23:59")]
    fn refuses_to_guess(#[case] text: &str) {
        assert!(parse_time(text).is_err());
    }

    proptest! {
        #[test]
        fn round_trips(micros in -62_000_000_000_000_000_i64..253_000_000_000_000_000, offset in -86_399..86_400) {
            let utc = DateTime::from_timestamp_micros(micros).unwrap();
            let time = utc.with_timezone(&FixedOffset::east_opt(offset / 60 * 60).unwrap());
            prop_assert_eq!(parse_time(&for_postgresql(&time)).unwrap(), time);
            let shown = Target::Time(time).to_string();
            prop_assert_eq!(parse_time(shown.strip_prefix("time ").unwrap()).unwrap(), time);
        }

        #[test]
        fn never_panics(text in ".*", likely in "[-+]?[0-9]{1,6}-[01]?[0-9]-[0-3]?[0-9]([ T][0-9]{2}:[0-9]{2}(:[0-9]{2})?(\\.[0-9]{1,9})?)?(Z| UTC|[-+][0-9]{2}(:?[0-9]{2})?)?") {
            for text in [text, likely] {
                if let Ok(time) = parse_time(&text) {
                    prop_assert_eq!(parse_time(&for_postgresql(&time)), Ok(time));
                }
            }
        }

        #[test]
        fn targets_are_kept_in_json(lsn: u64, xid: u64, name: String, micros in 0_i64..4_000_000_000_000_000) {
            let time = DateTime::from_timestamp_micros(micros).unwrap().fixed_offset();
            let all = [Target::Time(time), Target::Lsn(Lsn(lsn)), Target::Xid(xid), Target::Name(name), Target::Immediate, Target::Latest];
            for target in all {
                let json = serde_json::to_string(&target).unwrap();
                prop_assert_eq!(serde_json::from_str::<Target>(&json).unwrap(), target);
            }
        }
    }
}
