//! What was found: the values that the search makes and the report prints.

use chrono::{DateTime, Utc};
use common::pg::{Lsn, TimelineId};
use serde::Serialize;

/// A commit that took something away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// The transaction's number, without an epoch.
    pub(crate) xid: u32,
    /// When it was committed, by the server's clock.
    pub(crate) time: DateTime<Utc>,
    /// Where its commit record begins.
    pub(crate) lsn: Lsn,
    /// The timeline that it was committed on.
    pub(crate) timeline: TimelineId,
    /// Whether it was prepared first: just before its commit it is still there, prepared, with its locks.
    pub(crate) prepared: bool,
    /// What it did, the most drastic first; at most [`super::judge::ACTIONS_MAX`].
    pub(crate) actions: Vec<Action>,
    /// How many more things it did.
    pub(crate) actions_left_out: u64,
    /// Indexes, TOAST tables and sequences that went with the tables.
    pub(crate) companions: u64,
    /// The moment just before, for `--target-lsn` with `--target-exclusive`.
    pub(crate) target_lsn: Lsn,
    /// The commands that go there.
    pub(crate) recover_run: Option<String>,
    /// The commands that bring the lost things alone.
    pub(crate) recover_extract: Option<String>,
    /// Why there are no commands.
    pub(crate) unreachable: Option<String>,
}

/// What a commit did to one thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Action {
    /// What it did.
    pub(crate) what: What,
    /// The database's object id.
    pub(crate) database_oid: u32,
    /// The database's name.
    pub(crate) database: Option<String>,
    /// The schema's name.
    pub(crate) schema: Option<String>,
    /// The relation's name.
    pub(crate) name: Option<String>,
    /// What sort of relation it is.
    pub(crate) kind: Option<&'static str>,
    /// Its first file, relative to the data directory; none without files.
    pub(crate) path: Option<String>,
    /// How many rows were deleted.
    pub(crate) rows: Option<u64>,
}

/// What can be done to a thing, the most drastic first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum What {
    /// A database was dropped.
    DatabaseDropped,
    /// A relation was dropped.
    Dropped,
    /// A relation was truncated.
    Truncated,
    /// A relation's files went, and the same transaction made others: dropped, truncated or written anew, the WAL does not
    /// tell which.
    DroppedOrRewritten,
    /// Many rows were deleted.
    RowsDeleted,
    /// A relation was written anew; nothing is lost.
    Rewritten,
}

impl What {
    /// In words.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::DatabaseDropped => "dropped database",
            Self::Dropped => "dropped",
            Self::Truncated => "truncated",
            Self::DroppedOrRewritten => "dropped, truncated or written anew (the WAL does not tell which)",
            Self::RowsDeleted => "deleted rows",
            Self::Rewritten => "wrote anew, nothing is lost",
        }
    }
}

impl Action {
    /// The thing's name, as far as it is known, else its path or number.
    pub(crate) fn describe(&self) -> String {
        let database = self.database.clone().unwrap_or_else(|| format!("the database {}", self.database_oid));
        if self.what == What::DatabaseDropped {
            return self.database.clone().unwrap_or_else(|| format!("with object id {}", self.database_oid));
        }
        let kind = self.kind.map_or_else(String::new, |kind| format!("{kind} "));
        let path = self.path.as_ref().map_or_else(String::new, |path| format!(" ({path})"));
        match (&self.name, &self.path) {
            (Some(_), _) => format!("{kind}{} in {database}{path}", self.qualified_name().unwrap_or_default()),
            (None, Some(path)) => format!("{path} in {database}"),
            (None, None) => format!("a relation in {database}"),
        }
    }

    /// `schema.name`, each quoted where PostgreSQL asks for it; the name alone when the schema's is not known.
    pub(crate) fn qualified_name(&self) -> Option<String> {
        let name = identifier(self.name.as_ref()?);
        Some(self.schema.as_ref().map_or_else(|| name.clone(), |schema| format!("{}.{name}", identifier(schema))))
    }
}

/// A name as SQL has it.
fn identifier(name: &str) -> String {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let is_plain = name.chars().all(plain) && !name.starts_with(|c: char| c.is_ascii_digit()) && !name.is_empty();
    if is_plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("orders", "orders")]
    #[case("Orders", "\"Orders\"")]
    #[case("a b", "\"a b\"")]
    #[case("1st", "\"1st\"")]
    #[case("say \"x\"", "\"say \"\"x\"\"\"")]
    #[case("", "\"\"")]
    fn names_are_quoted_where_they_must_be(#[case] name: &str, #[case] expected: &str) {
        assert_eq!(identifier(name), expected);
    }
}
