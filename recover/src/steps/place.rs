//! Step 6: WAL that is in no repository, from the cluster's own `pg_wal`.

use common::archive::Identity;
use common::pg::ArchiveName;
use common::repo::records::BackupRecord;
use common::restore::salvage;

use super::Site;
use crate::journal::{Journal, Stage};

/// Copies what the archive lacks. Looked up anew: the old server wrote on until it stopped, and archived on.
pub(crate) fn run(backup: &BackupRecord, journal: &mut Journal, site: &Site<'_>) -> anyhow::Result<String> {
    journal.set_out(Stage::Placed, &site.place)?;
    let source = &backup.source;
    let copied = match &journal.origin_wal {
        Some(origin) => {
            let preserved = journal.preserved().map(|preserved| preserved.join("pg_wal"));
            let from = preserved.as_ref().unwrap_or(origin);
            let identity = Identity {
                system_identifier: source.system_identifier,
                segment_size: source.segment_size,
                major: Some(journal.plan.major),
            };
            salvage::bring(&site.repository, &identity, from, &site.place.pgdata.join("pg_wal"))?
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
