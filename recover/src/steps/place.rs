//! Step 6: WAL that is in no repository, from the old cluster's own `pg_wal`.

use std::path::PathBuf;

use common::archive::{Identity, inventory};
use common::pg::ArchiveName;
use common::restore::salvage;

use super::Site;
use crate::facts::Facts;
use crate::journal::{Change, Journal, Stage};

/// Copies what the archive lacks. Looked up anew: the old server wrote on until it stopped, and archived on.
pub(crate) fn run(facts: &Facts, journal: &mut Journal, site: &Site<'_>) -> anyhow::Result<String> {
    let copied = match (preserved_wal(journal, site), facts.directory.cluster().and_then(|old| old.control.as_ref())) {
        (Some(from), Some(control)) if control.system_identifier == facts.system => {
            let archive = inventory::read(&site.repository, facts.system, control.segment_size)?;
            let missing = salvage::survey(&from, &Identity::of(control))?.missing_from(&archive);
            salvage::copy(&missing, &from, &site.place.pgdata.join("pg_wal"))?;
            missing
        }
        _ => Vec::new(),
    };
    journal.plan.salvage = copied.iter().map(ArchiveName::to_string).collect();
    journal.reach(Stage::Placed, &site.place)?;
    Ok(match copied.len() {
        0 => "the archive has all WAL".to_owned(),
        1 => format!("{} from the old cluster's pg_wal", journal.plan.salvage.join(", ")),
        count => format!("{count} WAL files from the old cluster's pg_wal"),
    })
}

/// The `pg_wal` of the preserved cluster.
fn preserved_wal(journal: &Journal, site: &Site<'_>) -> Option<PathBuf> {
    journal.changes.iter().find_map(|change| match change {
        Change::Moved { from, to } if *from == site.place.pgdata => Some(to.join("pg_wal")),
        _ => None,
    })
}
