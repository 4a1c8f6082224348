//! Names that people choose or read: clusters and backups.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, NaiveDateTime, Utc};

/// The name under which a PostgreSQL cluster's backups lie in a repository: 1 to 64 of `A-Z a-z 0-9 _ -`, beginning
/// with a letter or a digit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterName(String);

/// A backup's name: `backup_YYYYMMDD_HHMMSS`, its start in UTC. The order of values is that of time and of names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackupId(DateTime<Utc>);

/// The text cannot be a name of this kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not a cluster name.
    #[error("{0:?} cannot name a cluster: use 1 to 64 letters, digits, _ and -, beginning with a letter or a digit")]
    Cluster(String),
    /// Not a backup name.
    #[error("{0:?} is no backup id: one looks like backup_20261120_031500")]
    Backup(String),
}

impl ClusterName {
    /// The name's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for ClusterName {
    fn default() -> Self {
        Self("main".to_owned())
    }
}

impl FromStr for ClusterName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let good = (1..=64).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
            && text.starts_with(|c: char| c.is_ascii_alphanumeric());
        if good { Ok(Self(text.to_owned())) } else { Err(NameError::Cluster(text.chars().take(80).collect())) }
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl BackupId {
    const PATTERN: &'static str = "backup_%Y%m%d_%H%M%S";
    /// With a year of four digits, so that names have the order of time.
    const LENGTH: usize = "backup_YYYYMMDD_HHMMSS".len();

    /// The id of a backup that starts at this moment; fractions of a second are dropped.
    pub fn at(start: DateTime<Utc>) -> Self {
        Self(DateTime::from_timestamp(start.timestamp(), 0).unwrap_or(start))
    }

    /// The moment in the name.
    pub fn time(self) -> DateTime<Utc> {
        self.0
    }
}

impl FromStr for BackupId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        NaiveDateTime::parse_from_str(text, Self::PATTERN)
            .map(|naive| Self::at(naive.and_utc()))
            .ok()
            .filter(|id| text.len() == Self::LENGTH && id.to_string() == text)
            .ok_or_else(|| NameError::Backup(text.chars().take(80).collect()))
    }
}

impl fmt::Display for BackupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.format(Self::PATTERN).fmt(f)
    }
}

crate::serde_text::serde_as_text!(ClusterName);
crate::serde_text::serde_as_text!(BackupId);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    #[rstest]
    #[case("backup_20261120_0315")]
    #[case("backup_20261320_031500")]
    #[case::leap_second("backup_20261120_031560")]
    #[case::year_of_five_digits("backup_+100000101_000000")]
    #[case::year_before_0("backup_-00010101_000000")]
    #[case::blank("backup_2026 120_031500")]
    fn other_names_are_no_backup_ids(#[case] text: &str) {
        assert!(text.parse::<BackupId>().is_err());
    }

    /// A moment in a year of four digits, in seconds since 1970.
    fn any_seconds() -> impl Strategy<Value = i64> {
        -62_167_219_200..253_402_300_800_i64
    }

    proptest! {
        #[test]
        fn a_cluster_name_never_leaves_its_folder(text in ".*") {
            if let Ok(name) = text.parse::<ClusterName>() {
                prop_assert_eq!(name.to_string(), &text[..]);
                prop_assert!(!name.as_str().contains(['/', '.', '\0']));
            }
        }

        #[test]
        fn backup_ids_round_trip_and_have_the_order_of_names(one in any_seconds(), other in any_seconds()) {
            let [one, other] = [one, other].map(|at| BackupId::at(DateTime::from_timestamp(at, 7).unwrap()));
            prop_assert_eq!(one.to_string().parse(), Ok(one));
            prop_assert_eq!(one.cmp(&other), one.to_string().cmp(&other.to_string()));
            prop_assert_eq!(BackupId::at(one.time()), one);
        }

        #[test]
        fn backup_id_parsing_never_panics(text in ".*", likely in "backup_[-+ 0-9]{6,10}_[0-9]{5,7}") {
            for text in [text, likely] {
                if let Ok(id) = text.parse::<BackupId>() {
                    prop_assert_eq!(id.to_string(), text);
                }
            }
        }
    }
}
