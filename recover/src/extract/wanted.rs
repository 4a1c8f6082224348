//! What is to be brought back, and what of it there is in the database as it was then.

use anyhow::Context as _;
use common::app::nearest;
use common::report::Advice;
use common::server::{Conninfo, Session, quote_literal};

use super::names::{TableName, pattern};
use crate::cli::{Cli, ExtractArgs};

/// How many names a hint lists.
const NAMES_SHOWN_MAX: usize = 8;

/// How many names are looked through for one like the one that is not there.
const NAMES_SEEN_MAX: usize = 10_000;

/// The relations that `pg_dump` can write, `c`, in their schemas, `n`.
const RELATIONS: &str = "pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND n.nspname NOT IN ('pg_catalog', 'information_schema') \
    AND n.nspname !~ '^pg_(toast|temp)'";

/// What is to be brought back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// The database.
    pub(crate) database: String,
    /// Tables of it; none means all of it.
    pub(super) tables: Vec<TableName>,
}

/// What was found of it.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// One pattern of `pg_dump` for each relation, partitions included; none for a whole database.
    pub(super) patterns: Vec<Vec<u8>>,
    /// What the user should know.
    pub(super) notes: Vec<String>,
}

impl Wanted {
    /// What the command line asks for.
    pub(crate) fn of(args: &ExtractArgs, cli: &Cli) -> anyhow::Result<Self> {
        if let Some(database) = &args.database {
            return Ok(Self { database: database.clone(), tables: Vec::new() });
        }
        let given = cli.server.dbname.as_deref().map(database_of).transpose()?.flatten();
        let database = given.ok_or_else(|| {
            Advice::usage("it is not said which database the table is in").hint("name the database with -d NAME")
        })?;
        Ok(Self { database, tables: args.tables.clone() })
    }

    /// In words.
    pub(super) fn describe(&self) -> String {
        if self.tables.is_empty() {
            return format!("database {:?}", self.database);
        }
        let names: Vec<String> = self.tables.iter().map(ToString::to_string).collect();
        format!("{} of database {:?}", names.join(", "), self.database)
    }

    /// Looks for all of it in its database.
    pub(super) fn find(&self, session: &mut Session) -> anyhow::Result<Found> {
        let mut found = Found::default();
        let mut roots = Vec::new();
        for table in &self.tables {
            roots.push(self.find_one(table, session, &mut found.notes)?);
        }
        if !roots.is_empty() {
            found.patterns = patterns(&roots, session)?;
        }
        Ok(found)
    }

    /// The object id of the one relation of this name.
    fn find_one(&self, table: &TableName, session: &mut Session, notes: &mut Vec<String>) -> anyhow::Result<String> {
        let in_schema = table
            .schema
            .as_ref()
            .map(|schema| format!(" AND n.nspname = {}", quote_literal(schema)))
            .unwrap_or_default();
        let rows = session.rows(&format!(
            "SELECT c.oid, c.relpersistence, n.nspname, (SELECT e.extname FROM pg_depend d \
             JOIN pg_extension e ON e.oid = d.refobjid WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid \
             AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e') \
             FROM {RELATIONS} AND c.relname = {}{in_schema} ORDER BY n.nspname",
            quote_literal(&table.name)
        ))?;
        let cell = |row: &[Option<String>], at: usize| row.get(at).cloned().flatten();
        let [row] = &rows[..] else {
            if rows.is_empty() {
                return Err(self.missing(table, session)?.into());
            }
            let schemas: Vec<String> = rows.iter().filter_map(|row| cell(row, 2)).collect();
            return Err(Advice::usage(format!("{table} is in more than one schema of database {:?}", self.database))
                .hint(format!("say which: it is in {}", schemas.join(", ")))
                .into());
        };
        if let Some(extension) = cell(row, 3) {
            return Err(Advice::failed(format!(
                "{table} belongs to the extension {extension:?}, and pg_dump leaves it out"
            ))
            .hint("bring back the whole database with --database, or look at it in a copy: recover run --as copy")
            .into());
        }
        if cell(row, 1).as_deref() == Some("u") {
            notes.push(format!("{table} is unlogged: it comes back empty, its rows are in no backup"));
        }
        cell(row, 0).context("a relation without an object id")
    }

    /// Why the table cannot be had, with what there is nearby.
    fn missing(&self, table: &TableName, session: &mut Session) -> anyhow::Result<Advice> {
        let rows = session.rows(&format!(
            "SELECT n.nspname, c.relname FROM {RELATIONS} AND c.relkind <> 'S' \
             ORDER BY n.nspname = {} DESC, n.nspname, c.relname LIMIT {NAMES_SEEN_MAX}",
            quote_literal(table.schema.as_deref().unwrap_or("public"))
        ))?;
        let known = rows.into_iter().filter_map(|row| {
            let mut cells = row.into_iter().flatten();
            Some(TableName { schema: cells.next(), name: cells.next()? })
        });
        let known: Vec<TableName> = known.collect();
        Ok(Advice::failed(format!("there was no table {table} in database {:?} at that moment", self.database))
            .hint(nearby(table, &known)))
    }
}

/// What to type instead of a name that is not there; `known` are those that are.
fn nearby(table: &TableName, known: &[TableName]) -> String {
    let namesake = known.iter().find(|other| other.name == table.name);
    let alike = || {
        let own = |other: &&TableName| table.schema.is_none() || other.schema == table.schema;
        let name = nearest(&table.name, known.iter().filter(own).map(|other| other.name.as_str()))?;
        known.iter().filter(own).find(|other| other.name == name)
    };
    if let Some(other) = namesake.or_else(alike) {
        return format!("did you mean {other}?");
    }
    if known.is_empty() {
        return "that database had no tables then".to_owned();
    }
    let shown: Vec<String> = known.iter().take(NAMES_SHOWN_MAX).map(ToString::to_string).collect();
    let more = if known.len() > NAMES_SHOWN_MAX { ", …" } else { "" };
    format!("there were {}{more}", shown.join(", "))
}

/// The patterns of these relations and of all their partitions, which `pg_dump` writes only when it is asked for them.
fn patterns(roots: &[String], session: &mut Session) -> anyhow::Result<Vec<Vec<u8>>> {
    let tree = session.rows(&format!(
        "WITH RECURSIVE tree(oid) AS (SELECT oid FROM pg_class WHERE oid IN ({}) UNION SELECT i.inhrelid \
         FROM tree JOIN pg_inherits i ON i.inhparent = tree.oid JOIN pg_class c ON c.oid = i.inhrelid \
         WHERE c.relispartition) SELECT oid FROM tree",
        roots.join(", ")
    ))?;
    let oids: Vec<String> = tree.into_iter().flatten().flatten().collect();
    let from = format!(
        "pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid IN ({}) ORDER BY c.oid",
        oids.join(", ")
    );
    // In the encoding of the database, which is also that of pg_dump's session.
    let names = session.stored(&["n.nspname", "c.relname"], &from)?;
    let names = names.iter().filter_map(|row| Some(pattern(row.first()?, row.get(1)?)));
    Ok(names.collect())
}

/// Why the session is in another database than the one that was wanted.
pub(super) fn no_such_database(database: &str, why: &str, session: &mut Session) -> anyhow::Result<Advice> {
    let names = session.rows("SELECT datname FROM pg_database WHERE NOT datistemplate ORDER BY datname LIMIT 1000")?;
    let names: Vec<String> = names.into_iter().flatten().flatten().collect();
    if names.iter().any(|name| name == database) {
        return Ok(Advice::failed(format!("database {database:?} takes no sessions: {why}"))
            .hint("look at it in a copy: recover run --as copy"));
    }
    let hint = nearest(database, names.iter().map(String::as_str)).map_or_else(
        || {
            let shown: Vec<&str> = names.iter().take(NAMES_SHOWN_MAX).map(String::as_str).collect();
            format!("there were {}", shown.join(", "))
        },
        |name| format!("did you mean {name:?}?"),
    );
    Ok(Advice::failed(format!("there was no database {database:?} at that moment")).hint(hint))
}

/// The database that `-d` names, which may be a whole connection string.
fn database_of(given: &str) -> anyhow::Result<Option<String>> {
    if !Conninfo::is_connection_string(given) {
        return Ok(Some(given.to_owned()));
    }
    Ok(Conninfo::parse(given)?.dbname().map(ToOwned::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn names(all: &[&str]) -> Vec<TableName> {
        all.iter().map(|name| name.parse().unwrap()).collect()
    }

    #[rstest]
    #[case("public.orders", &["sales.orders", "public.order"], "did you mean sales.orders?")]
    #[case("public.orders", &["sales.order", "public.order"], "did you mean public.order?")]
    #[case("orders", &["sales.order"], "did you mean sales.order?")]
    #[case("public.x", &["public.alpha", "public.beta"], "there were public.alpha, public.beta")]
    #[case("public.x", &["public.a1", "public.a2", "public.a3", "public.a4", "public.a5", "public.a6", "public.a7", "public.a8", "public.a9"],
        "there were public.a1, public.a2, public.a3, public.a4, public.a5, public.a6, public.a7, public.a8, …")]
    #[case("public.x", &[], "that database had no tables then")]
    fn names_what_is_nearby(#[case] wanted: &str, #[case] known: &[&str], #[case] expected: &str) {
        assert_eq!(nearby(&wanted.parse().unwrap(), &names(known)), expected);
    }

    #[rstest]
    #[case("shop", Some("shop"))]
    #[case("host=/tmp dbname='the shop'", Some("the shop"))]
    #[case("postgresql://host/shop", Some("shop"))]
    #[case("host=/tmp", None)]
    fn the_database_may_stand_in_a_connection_string(#[case] given: &str, #[case] expected: Option<&str>) {
        assert_eq!(database_of(given).unwrap().as_deref(), expected);
    }
}
