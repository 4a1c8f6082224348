//! How many rows tables have, beside what a file says that they should have; and how such a file is made.
//!
//! A line is `DATABASE SCHEMA.TABLE COUNT`. Names are as the catalog has them; one with a blank, a dot or a quotation mark
//! stands in double quotes, with its own doubled, as in SQL. Empty lines and what follows a `#` mean nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use anyhow::Context as _;
use common::report::{Advice, Cancel};
use common::server::{Conninfo, Session, SqlError};
use serde::Serialize;

/// How large a file may be, in bytes.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// A table and its rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Count {
    /// Its database.
    pub(crate) database: String,
    /// Its schema.
    pub(crate) schema: String,
    /// Its name.
    pub(crate) table: String,
    /// How many rows.
    pub(crate) rows: u64,
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { database, schema, table, rows } = self;
        write!(f, "{} {}.{} {rows}", word(database), word(schema), word(table))
    }
}

/// A name as it stands in a line.
fn word(name: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '$');
    if !name.is_empty() && name.chars().all(plain) { name.to_owned() } else { quoted(name) }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Reads a file of counts.
pub(crate) fn read(path: &Path) -> anyhow::Result<Vec<Count>> {
    let reading = || Advice::usage(format!("the row counts in {} cannot be read", path.display()));
    let size = std::fs::metadata(path).with_context(reading)?.len();
    anyhow::ensure!(size <= FILE_BYTES_MAX, reading().hint("it is too large for a list of tables"));
    let text = std::fs::read_to_string(path).with_context(reading)?;
    let line = |(number, line): (usize, &str)| match parse(line) {
        Ok(count) => count.map(Ok),
        Err(what) => Some(Err(anyhow::Error::from(
            Advice::usage(format!("{} line {}: {what}", path.display(), number + 1))
                .hint("write it as DATABASE SCHEMA.TABLE COUNT; recover row-counts makes such lines"),
        ))),
    };
    text.lines().enumerate().filter_map(line).collect()
}

/// One line; none for an empty one.
fn parse(line: &str) -> Result<Option<Count>, &'static str> {
    let mut rest = line.trim_start();
    if rest.is_empty() || rest.starts_with('#') {
        return Ok(None);
    }
    let database = name(&mut rest)?;
    rest = rest.strip_prefix([' ', '\t']).ok_or("a blank must follow the database")?.trim_start();
    let schema = name(&mut rest)?;
    rest = rest.strip_prefix('.').ok_or("a dot must follow the schema")?;
    let table = name(&mut rest)?;
    rest = rest.strip_prefix([' ', '\t']).ok_or("a blank must follow the table")?;
    let number = rest.split_once('#').map_or(rest, |(number, _)| number).trim();
    let rows = number.parse().map_err(|_| "the count is no number")?;
    Ok(Some(Count { database, schema, table, rows }))
}

/// Takes a name from the beginning.
fn name(rest: &mut &str) -> Result<String, &'static str> {
    let Some(mut inside) = rest.strip_prefix('"') else {
        let end = rest.find([' ', '\t', '.', '"', '#']).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        *rest = after;
        return if name.is_empty() { Err("a name is missing") } else { Ok(name.to_owned()) };
    };
    let mut name = String::new();
    loop {
        let (part, after) = inside.split_once('"').ok_or("a name's quotation mark is not closed")?;
        name.push_str(part);
        let Some(more) = after.strip_prefix('"') else {
            *rest = after;
            return Ok(name);
        };
        name.push('"');
        inside = more;
    }
}

/// Compares tables with what they should have; answers what differs, a line each. `conninfo` reaches a database.
pub(crate) fn compare(
    expected: &[Count],
    conninfo: &dyn Fn(&str) -> anyhow::Result<Conninfo>,
    cancel: &Cancel,
) -> anyhow::Result<Vec<String>> {
    let mut by_database: BTreeMap<&str, Vec<&Count>> = BTreeMap::new();
    for count in expected {
        by_database.entry(&count.database).or_default().push(count);
    }
    let mut differences = Vec::new();
    for (database, counts) in by_database {
        let mut session = match super::looking_session(&conninfo(database)?, cancel) {
            Ok(session) => session,
            Err(err) => {
                cancel.check()?;
                differences.push(format!("database {database} cannot be asked: {err:#}"));
                continue;
            }
        };
        for count in counts {
            let Count { schema, table, rows, .. } = count;
            match session.value(&format!("SELECT count(*) FROM {}.{}", quoted(schema), quoted(table))) {
                Ok(Some(found)) if found == rows.to_string() => {}
                Ok(found) => differences.push(format!(
                    "{database} {schema}.{table} has {} rows, and should have {rows}",
                    found.unwrap_or_default()
                )),
                Err(err) => match SqlError::find(&err) {
                    Some(refusal) => differences.push(format!("{database} {schema}.{table}: {}", refusal.message)),
                    None => return Err(err),
                },
            }
        }
    }
    Ok(differences)
}

/// Counts the rows of every table of one database as they are at one moment. Temporary and unlogged ones, which no
/// recovery brings back, are left out.
pub(crate) fn count(database: &str, conninfo: &Conninfo, cancel: &Cancel) -> anyhow::Result<Vec<Count>> {
    let mut session = Session::connect(conninfo, cancel)?;
    session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")?;
    let tables = session.rows(
        "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind = 'r' AND c.relpersistence = 'p' \
         AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\\_toast%' ORDER BY 1, 2",
    )?;
    let mut counts = Vec::new();
    for row in tables {
        let Ok([Some(schema), Some(table)]) = <[Option<String>; 2]>::try_from(row) else { continue };
        let counting = || format!("count the rows of {schema}.{table}");
        let rows = session.value(&format!("SELECT count(*) FROM {}.{}", quoted(&schema), quoted(&table)));
        let rows = rows.with_context(counting)?.unwrap_or_default().parse().with_context(counting)?;
        counts.push(Count { database: database.to_owned(), schema, table, rows });
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    #[rstest]
    #[case("shop public.orders 42", "shop", "public", "orders", 42)]
    #[case("  shop\tpublic.orders  42  # all of them", "shop", "public", "orders", 42)]
    #[case("\"my shop\" \"Public\".\"a \"\"b\"\".c\" 0", "my shop", "Public", "a \"b\".c", 0)]
    fn reads_a_line(
        #[case] line: &str,
        #[case] database: &str,
        #[case] schema: &str,
        #[case] table: &str,
        #[case] rows: u64,
    ) {
        let count = parse(line).unwrap().unwrap();
        assert_eq!((&*count.database, &*count.schema, &*count.table, count.rows), (database, schema, table, rows));
    }

    #[rstest]
    #[case("shop orders 42")]
    #[case("shop public.orders")]
    #[case("shop public.orders many")]
    #[case("shop public.orders -1")]
    #[case("\"shop public.orders 1")]
    #[case("shop.public.orders 1")]
    fn refuses_half_a_line(#[case] line: &str) {
        assert!(parse(line).is_err());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("counts");
        common::sys::durable::replace(&path, format!("# here\n\n{line}\n").as_bytes(), 0o600).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("line 3"));
    }

    proptest! {
        #[test]
        fn a_line_reads_back(database in "[^\\x00\n\r]{1,9}", schema in "[^\\x00\n\r]{1,9}", table in "[a-z\"#. ]{1,9}", rows: u64) {
            let count = Count { database, schema, table, rows };
            prop_assert_eq!(parse(&count.to_string()), Ok(Some(count)));
        }

        #[test]
        fn never_panics(line in ".*", likely in "[a-z\"#. 0-9]{0,20}") {
            drop((parse(&line), parse(&likely)));
        }
    }
}
