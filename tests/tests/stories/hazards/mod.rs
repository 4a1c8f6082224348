//! The ways in which a careful tool still loses data, each played on a running server.
//!
//! The number in a test's name is the hazard's. Promises that other stories keep in the course of telling something
//! else are not told twice.

mod copies;
mod delta;
mod failover;
mod files;
mod history;
mod pages;
mod parameters;
mod plan;
mod preserved;
mod recovery;
mod rivals;
mod scratch;
mod standby;
mod tablespaces;
mod tail;
mod times;

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use e2e::cluster::Recipe;
use e2e::{Cluster, Ran, Repo, Sandbox};

/// Where a copy called `name` of this cluster will be; nothing is there yet.
fn future_copy(cluster: &Cluster, name: &str) -> Result<Cluster> {
    let pgdata = cluster.sandbox().path().join(name);
    ensure!(!pgdata.exists());
    Ok(Cluster::at(cluster.sandbox(), &pgdata, Some(cluster.repo()?)))
}

/// Asks for a copy, which must be refused without leaving anything.
fn copy_is_refused(cluster: &Cluster, name: &str, options: &[&str], words: &[&str]) -> Result<Ran> {
    let copy = future_copy(cluster, name)?;
    let ran = copy.try_recover(&[&["--as", "copy", "--port", "5999"], options].concat())?.says(words)?;
    ensure!(ran.code.is_some_and(|code| code != 0), "not refused: {ran}");
    let parent = copy.pgdata().parent().context("a copy lies in the sandbox")?;
    for entry in std::fs::read_dir(parent)? {
        let entry = entry?.file_name();
        ensure!(!entry.to_string_lossy().starts_with(name), "a refused recovery made {}", entry.display());
    }
    Ok(ran)
}

/// A cluster with a thousand rows in `t`, archived from its first segment on.
pub(crate) fn archived_table() -> Result<(Sandbox, Repo, Cluster)> {
    let sandbox = Sandbox::new()?;
    let repo = Repo::new(&sandbox, "repo")?;
    let cluster = Recipe::new("pg").segment_mb(1).archived_to(&repo).start(&sandbox)?;
    cluster.sql("create table t as select generate_series(1, 1000) as n")?;
    Ok((sandbox, repo, cluster))
}

/// Fails unless the same files with the same contents are there.
pub(crate) fn unchanged(before: &BTreeMap<PathBuf, u64>, after: &BTreeMap<PathBuf, u64>) -> Result<()> {
    let differs = |path: &&PathBuf| before.get(*path) != after.get(*path);
    let changed: Vec<_> = before.keys().chain(after.keys()).filter(differs).collect();
    ensure!(changed.is_empty(), "changed: {changed:?}");
    Ok(())
}
