//! Data that compress about three times, as a business' tables do, and WAL made of them.
//!
//! pgbench's own rows are mostly blanks and compress forty times: with them every backup looks fast.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::cluster::Recipe;
use crate::{Cluster, Sandbox, StopMode, settings};

/// What `zstd -1` must make of the WAL for the figures to count.
pub const RATIO: std::ops::RangeInclusive<f64> = 2.8..=3.5;

/// A row's columns, made of its number `i`. Half of each row are digests, which halve at best; the rest are small numbers and words that repeat.
pub const ROW: &str = "i::int as id, (i * 7919) % 100000 as customer, (i * 31) % 1000 as quantity,
    timestamp '2024-01-01' + i * interval '7 seconds' as placed_at, md5(i::text) || md5((i * 3)::text) as token,
    (array['new','paid','packed','shipped','returned'])[1 + i % 5] as state,
    'Order of customer ' || (i * 7919) % 100000 || ', to be sent by '
      || (array['road','rail','air'])[1 + i % 3] || ' within ' || 1 + i % 9 || ' days' as note";
/// What one such row takes in its table, page headers included.
const ROW_BYTES: u64 = 208;
/// Rows of one insert: short transactions keep a checkpoint from waiting.
const BATCH_ROWS: u64 = 200_000;

/// A cluster with a table of so many megabytes, and the folder where its WAL was copied to while it grew.
#[derive(Debug)]
pub struct Dense {
    /// The cluster; it runs.
    pub cluster: Cluster,
    /// A copy of its files from before the rows, as if the power had gone then.
    pub base: PathBuf,
    /// Every segment written since, oldest first.
    pub written: Vec<PathBuf>,
    /// Whole, full segments of dense WAL, oldest first.
    pub segments: Vec<PathBuf>,
    /// How many times smaller `zstd -1` makes the first of them.
    pub ratio: f64,
}

impl Dense {
    /// The size of all databases, in megabytes of 1000² bytes.
    pub fn databases_mb(&self) -> Result<u64> {
        let bytes: u64 = self.cluster.ask("select sum(pg_database_size(oid))::bigint from pg_database")?;
        Ok(bytes / 1_000_000)
    }
}

/// Makes it. Fails when the WAL does not compress as the terms want.
pub fn make(sandbox: &Sandbox, table_mb: u64) -> Result<Dense> {
    let copies = sandbox.folder("segments")?;
    let cluster = Recipe::new("production")
        .set("archive_mode", "on")
        .set("archive_command", &format!("cp %p {}/%f", copies.display()))
        .set("shared_buffers", "256MB")
        .set("max_wal_size", "1GB")
        .set("full_page_writes", "on")
        .start(sandbox)?;
    cluster.sql(&format!("create table orders as select {ROW} from generate_series(1, 0) i"))?;
    cluster.sql("checkpoint")?;
    cluster.stop(StopMode::Immediate)?;
    let base = sandbox.path().join("base");
    sandbox.copy(cluster.pgdata(), &base)?;
    cluster.start()?;
    let began = cluster.sql("select pg_walfile_name(pg_current_wal_lsn())")?;
    insert(&cluster, table_mb)?;
    cluster.sql("vacuum freeze orders; checkpoint")?;
    let last = cluster.end_segment()?;
    crate::wait::until("the last segment is copied", || Ok(copies.join(&last).exists()))?;
    let written = segments_between(&copies, &began, &last)?;
    // The first few are full of the catalogs' rows.
    let segments: Vec<PathBuf> = written.iter().skip(3).cloned().collect();
    let ratio = ratio_of(segments.first().context("no WAL was written")?)?;
    ensure!(
        RATIO.contains(&ratio),
        "zstd -1 makes the WAL {ratio:.2} times smaller, which is not what these rows are for"
    );
    let dense = Dense { cluster, base, written, segments, ratio };
    settings::tell(&format!("made {} MB of databases, {} segments", dense.databases_mb()?, dense.segments.len()));
    Ok(dense)
}

/// Puts so many megabytes of rows into the table, and so at least as much WAL behind it.
pub fn insert(cluster: &Cluster, megabytes: u64) -> Result<()> {
    let rows = megabytes * 1024 * 1024 / ROW_BYTES;
    for first in (1..=rows).step_by(usize::try_from(BATCH_ROWS)?) {
        let last = rows.min(first + BATCH_ROWS - 1);
        cluster.sql(&format!("insert into orders select {ROW} from generate_series({first}::bigint, {last}) i"))?;
    }
    Ok(())
}

/// Those in the folder from `first` on and before `end`, which is cut short.
fn segments_between(copies: &Path, first: &str, end: &str) -> Result<Vec<PathBuf>> {
    let mut names: Vec<String> = std::fs::read_dir(copies)?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.len() == 24 && (first..end).contains(&name.as_str()))
        .collect();
    names.sort();
    Ok(names.into_iter().map(|name| copies.join(name)).collect())
}

/// The packed bytes go through a file: whatever this process holds in memory would be the floor of every figure.
#[expect(clippy::cast_precision_loss, reason = "a segment's size is exact in a float")]
fn ratio_of(segment: &Path) -> Result<f64> {
    let packed = tempfile::tempfile().context("create a scratch file")?;
    let zstd = Command::new("zstd").args(["-1", "-qc"]).arg(segment).stdout(packed.try_clone()?).status();
    ensure!(zstd.context("run zstd")?.success(), "zstd cannot read {}", segment.display());
    Ok(std::fs::metadata(segment)?.len() as f64 / packed.metadata()?.len() as f64)
}
