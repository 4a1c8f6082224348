//! Names and sizes: what the commit record promises against what the repository lists.

use std::collections::{BTreeMap, BTreeSet};

use crate::archive::Repository;
use crate::repo::layout::backup_object;
use crate::repo::records::BackupRecord;

use super::{Finding, Kind};

/// Every object of the record is there with the recorded size.
pub(super) fn check(repository: &Repository, record: &BackupRecord) -> anyhow::Result<Vec<Finding>> {
    let listed: BTreeMap<String, u64> = repository
        .list_all(&repository.layout().backup(record.id))?
        .into_iter()
        .map(|entry| (entry.key.to_string(), entry.size))
        .collect();
    let mut findings = Vec::new();
    for (name, expected) in named(record) {
        let key = repository.layout().backup_object(record.id, &name)?;
        match listed.get(key.as_str()) {
            None => findings.push(Finding::new(Kind::Missing, &key, "it is not there")),
            Some(found) if *found != expected => {
                let what = format!("it has {found} bytes, the backup's record says {expected}");
                findings.push(Finding::new(Kind::Size, &key, what));
            }
            Some(_) => {}
        }
    }
    Ok(findings)
}

/// The objects that [`check`] did not find.
pub(super) fn absent(findings: &[Finding]) -> BTreeSet<String> {
    let absent = findings.iter().filter(|finding| finding.kind == Kind::Missing);
    absent.map(|finding| finding.object.clone()).collect()
}

/// The names and stored sizes of a backup's objects.
fn named(record: &BackupRecord) -> Vec<(String, u64)> {
    let codec = record.compression.codec;
    let parts = record.parts.iter().map(|part| (backup_object::part(part.number, codec), part.stored_bytes));
    let config = record.config.map(|config| (backup_object::config(codec), config.stored_bytes));
    let index = (backup_object::index(codec), record.index.stored_bytes);
    let manifest = (backup_object::manifest(codec), record.manifest.stored_bytes);
    parts.chain(config).chain([index, manifest]).collect()
}
