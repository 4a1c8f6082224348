//! Step 6: WAL that is in no repository, from the cluster's own `pg_wal`.

use std::path::PathBuf;

use common::archive::{Identity, inventory};
use common::pg::ArchiveName;
use common::restore::salvage;

use super::Site;
use crate::facts::Facts;
use crate::journal::{Change, Journal, Stage};

/// Copies what the archive lacks. Looked up anew: the old server wrote on until it stopped, and archived on.
pub(crate) fn run(facts: &Facts, journal: &mut Journal, site: &Site<'_>) -> anyhow::Result<String> {
    let copied = match &facts.origin {
        Some(origin) => {
            let from = preserved_wal(journal, site).unwrap_or_else(|| origin.pgdata.join("pg_wal"));
            let archive = inventory::read(&site.repository, facts.system, origin.control.segment_size)?;
            let missing = salvage::survey(&from, &Identity::of(&origin.control))?.missing_from(&archive);
            salvage::copy(&missing, &from, &site.place.pgdata.join("pg_wal"))?;
            missing
        }
        None => Vec::new(),
    };
    journal.plan.salvage = copied.iter().map(ArchiveName::to_string).collect();
    journal.reach(Stage::Placed, &site.place)?;
    Ok(match copied.len() {
        0 => "the archive has all WAL".to_owned(),
        1 => format!("{} from the cluster's own pg_wal", journal.plan.salvage.join(", ")),
        count => format!("{count} WAL files from the cluster's own pg_wal"),
    })
}

/// The `pg_wal` of the preserved cluster.
fn preserved_wal(journal: &Journal, site: &Site<'_>) -> Option<PathBuf> {
    journal.changes.iter().find_map(|change| match change {
        Change::Moved { from, to } if *from == site.place.pgdata => Some(to.join("pg_wal")),
        _ => None,
    })
}
