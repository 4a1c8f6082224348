//! B-tree indexes checked by the extension `amcheck`, in each database that has it.
//!
//! Which ones, is drawn by chance from a told seed, or all. The check reads an index in its order and needs no more than
//! a share lock; it works on a server that waits at its target too.

use common::report::Cancel;
use common::server::{Conninfo, SqlError};
use serde::Serialize;

use crate::cli::Amcheck;

/// How many indexes of a database a sample has.
const SAMPLE_INDEXES: u32 = 20;

/// What was checked and found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Indexes {
    /// How many indexes.
    pub(crate) checked: u64,
    /// Databases that have the extension.
    pub(crate) databases: u64,
    /// Databases without it, which nobody looked at.
    pub(crate) without: Vec<String>,
    /// What is wrong, a line each.
    pub(crate) wrong: Vec<String>,
}

impl Indexes {
    /// In words.
    pub(crate) fn describe(&self) -> String {
        let Self { checked, databases, without, wrong } = self;
        let without = match &without[..] {
            [] => String::new(),
            names => format!("; amcheck is not installed in {}", names.join(", ")),
        };
        format!("{checked} indexes of {databases} databases checked, {} wrong{without}", wrong.len())
    }
}

/// Checks the indexes of one database, reached by `conninfo`, and adds what it finds.
pub(crate) fn check(
    database: &str,
    conninfo: &Conninfo,
    which: Amcheck,
    seed: u64,
    found: &mut Indexes,
    cancel: &Cancel,
) -> anyhow::Result<()> {
    let mut session = super::looking_session(conninfo, cancel)?;
    let schema = session.value(
        "SELECT quote_ident(n.nspname) FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace \
         WHERE e.extname = 'amcheck'",
    )?;
    let Some(schema) = schema else {
        found.without.push(database.to_owned());
        return Ok(());
    };
    found.databases += 1;
    let limit = match which {
        Amcheck::Sample => format!("LIMIT {SAMPLE_INDEXES}"),
        Amcheck::All => String::new(),
    };
    // As the manual's own example has it; relations that replay does not bring back are left out.
    let rows = session.rows(&format!(
        "SELECT c.oid, c.oid::regclass FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid \
         JOIN pg_am a ON a.oid = c.relam \
         WHERE a.amname = 'btree' AND c.relkind = 'i' AND c.relpersistence = 'p' AND i.indisready AND i.indisvalid \
         ORDER BY md5(c.oid::text || ' {seed}') {limit}"
    ))?;
    for row in rows {
        let Ok([Some(oid), Some(name)]) = <[Option<String>; 2]>::try_from(row) else { continue };
        match session.execute(&format!("SELECT {schema}.bt_index_check({oid}::oid::regclass)")) {
            Ok(()) => found.checked += 1,
            // Dropped meanwhile.
            Err(err) if SqlError::find(&err).is_some_and(|refusal| is_gone(&refusal.state)) => {}
            Err(err) => match SqlError::find(&err) {
                Some(refusal) => {
                    found.checked += 1;
                    found.wrong.push(format!("index {name} of database {database}: {}", refusal.message));
                }
                None => return Err(err),
            },
        }
    }
    Ok(())
}

/// `undefined_table`, `undefined_object`.
fn is_gone(state: &str) -> bool {
    matches!(state, "42P01" | "42704")
}
