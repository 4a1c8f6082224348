//! The archived files of each system, as a repository lists them.

use std::collections::BTreeMap;

use anyhow::Context as _;
use common::app::Context;
use common::archive::Repository;
use common::archive::identity;
use common::archive::sweep::{self, WalFile};
use common::pg::{SegmentSize, SystemIdentifier};
use common::report::Advice;

/// One system's WAL in one repository.
pub(crate) struct System {
    /// Whose it is.
    pub(crate) identifier: SystemIdentifier,
    /// PostgreSQL's major version, where the repository knows it.
    pub(crate) major: Option<u32>,
    /// The size of its segments; none when the repository has no record of the system.
    pub(crate) segment_size: Option<SegmentSize>,
    /// Every file, in the order of keys.
    pub(crate) files: Vec<WalFile>,
}

/// The system that is meant: that of the data directory, where one is named.
pub(crate) fn asked_system(ctx: &Context) -> anyhow::Result<Option<SystemIdentifier>> {
    let Some(pgdata) = &ctx.data_directory else { return Ok(None) };
    Ok(Some(identity::read(pgdata)?.system_identifier))
}

/// The systems of the cluster, or the one that is meant, in the order of their identifiers. One that the cluster is known
/// by and that has no WAL is among them.
pub(crate) fn systems(repository: &Repository, asked: Option<SystemIdentifier>) -> anyhow::Result<Vec<System>> {
    let mut files = sweep::wal_files(repository)?;
    let records = repository.identities().context("read the records of the cluster's systems")?;
    let known = |system: SystemIdentifier| records.iter().find(|record| record.system_identifier == system);
    let mut systems: BTreeMap<SystemIdentifier, Vec<WalFile>> =
        records.iter().map(|record| (record.system_identifier, Vec::new())).collect();
    systems.append(&mut files);
    let cluster = repository.layout().cluster();
    if let Some(system) = asked {
        systems.retain(|found, _| *found == system);
        if systems.is_empty() {
            let place = repository.describe();
            return Err(Advice::no_repository(format!(
                "cluster \"{cluster}\" in {place} has no WAL of system {system}"
            ))
            .hint("name the right --cluster, or leave -D out to see every system")
            .into());
        }
    }
    let system = |(identifier, files)| System {
        identifier,
        major: known(identifier).and_then(|record| record.postgresql_major),
        segment_size: known(identifier).map(|record| record.segment_size),
        files,
    };
    Ok(systems.into_iter().map(system).collect())
}
