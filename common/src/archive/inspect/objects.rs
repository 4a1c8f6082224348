//! Names and sizes: what the commit record promises against what the repository lists.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;

use crate::archive::Repository;
use crate::codec::{Digest, Sha256Stream};
use crate::repo::layout::backup_object;
use crate::repo::records::{BackupRecord, ObjectRecord, PartRecord};
use crate::report::Cancel;
use crate::store::Key;

use super::{CHUNK_BYTES, Finding, Kind};

/// Every object of the record is there with the recorded size.
pub(super) fn check(repository: &Repository, record: &BackupRecord) -> anyhow::Result<Vec<Finding>> {
    let listed: BTreeMap<String, u64> = repository
        .list_all(&repository.layout().backup(record.id))?
        .into_iter()
        .map(|entry| (entry.key.to_string(), entry.size))
        .collect();
    let mut findings = Vec::new();
    for Named { name, bytes: expected, .. } in named(record) {
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

/// The stored bytes of every object are those that were written. What is damaged without its contents having changed (a
/// spare bit of a codec's header) is found here alone, so objects that others have found something in are passed over.
pub(super) fn stored(
    repository: &Repository,
    record: &BackupRecord,
    found: &[Finding],
    cancel: &Cancel,
) -> anyhow::Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let mut buffer = vec![0; CHUNK_BYTES];
    for Named { name, sha256, .. } in named(record) {
        let key = repository.layout().backup_object(record.id, &name)?;
        if found.iter().any(|finding| finding.object == key.as_str()) {
            continue;
        }
        match digest(repository, &key, &mut buffer, cancel) {
            Ok(digest) if digest == sha256 => {}
            Ok(_) => {
                findings.push(Finding::new(Kind::Damaged, &key, "its stored bytes are not those that were written"));
            }
            Err(err) => findings.push(Finding::of_reading(&key, err)?),
        }
    }
    Ok(findings)
}

fn digest(repository: &Repository, key: &Key, buffer: &mut [u8], cancel: &Cancel) -> anyhow::Result<Digest> {
    let mut source = repository.store().get(key)?;
    let mut digest = Sha256Stream::new();
    loop {
        cancel.check()?;
        match source.read(buffer)? {
            0 => return Ok(digest.finish()),
            count => digest.update(buffer.get(..count).unwrap_or_default()),
        }
    }
}

/// An object of a backup, as the commit record knows it.
struct Named {
    name: String,
    bytes: u64,
    sha256: Digest,
}

fn named(record: &BackupRecord) -> Vec<Named> {
    let codec = record.compression.codec;
    let object =
        |name: String, object: &ObjectRecord| Named { name, bytes: object.stored_bytes, sha256: object.stored_sha256 };
    let part = |part: &PartRecord| Named {
        name: backup_object::part(part.number, codec),
        bytes: part.stored_bytes,
        sha256: part.stored_sha256,
    };
    let config = record.config.map(|config| object(backup_object::config(codec), &config));
    let others =
        [object(backup_object::index(codec), &record.index), object(backup_object::manifest(codec), &record.manifest)];
    record.parts.iter().map(part).chain(config).chain(others).collect()
}
