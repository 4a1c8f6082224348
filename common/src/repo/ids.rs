//! Names that people choose or read: clusters and backups.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, NaiveDateTime, Utc};

/// The name under which a PostgreSQL cluster's backups lie in a repository: 1 to 64 of `A-Z a-z 0-9 _ -`, beginning
/// with a letter or a digit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterName(String);

/// A backup's name: `backup_YYYYMMDD_HHMMSS`, its start in UTC. The order of values is the order of time.
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
            .map(|naive| Self(naive.and_utc()))
            .ok()
            .filter(|id| id.to_string() == text)
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

    #[test]
    fn backup_ids_round_trip() {
        let id: BackupId = "backup_20261120_031500".parse().unwrap();
        assert_eq!(id.to_string(), "backup_20261120_031500");
        assert!("backup_20261120_0315".parse::<BackupId>().is_err());
        assert!("backup_20261320_031500".parse::<BackupId>().is_err());
    }

    proptest! {
        #[test]
        fn a_cluster_name_never_leaves_its_folder(text in ".*") {
            if let Ok(name) = text.parse::<ClusterName>() {
                prop_assert!(!name.as_str().contains(['/', '.', '\0']));
            }
        }

        #[test]
        fn backup_id_parsing_never_panics(text in ".*") {
            drop(text.parse::<BackupId>());
        }
    }
}
