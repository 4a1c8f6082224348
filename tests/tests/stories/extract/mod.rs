//! `recover extract`: what was dropped comes back as it was, and production notices nothing.

mod mishaps;
mod moments;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use common::pg::Lsn;
use e2e::repository::fingerprint;
use e2e::{Cluster, Oracle, Ran, process, wait};

use super::hazards::unchanged;

/// The options that every extraction has, and these.
pub(crate) fn arguments<'a>(cluster: &'a Cluster, options: &[&'a str]) -> Result<Vec<&'a str>> {
    Ok([&["extract", "--repo", cluster.repo()?.arg()?], options].concat())
}

/// Runs `recover extract` to its end, as somebody who has no data directory in mind.
pub(crate) fn extract(cluster: &Cluster, options: &[&str]) -> Result<Ran> {
    cluster.sandbox().run("recover", &arguments(cluster, options)?)
}

/// Makes an empty database of this name and loads an extract into it.
pub(crate) fn load(cluster: &Cluster, database: &str, prepare: &str, file: &Path) -> Result<()> {
    cluster.sql(&format!("create database {database}"))?;
    cluster.sql(&format!("\\c {database}\n{prepare}"))?;
    let connection = cluster.connection()?;
    let mut args = vec!["-qXv", "ON_ERROR_STOP=1", "-d", database, "-f", file.to_str().context("text")?];
    args.extend(connection.iter().map(String::as_str));
    cluster.sandbox().run_other("psql", &args)?.success().map(drop)
}

/// Where the commit record of the statements begins that are run here in one transaction.
pub(crate) fn commit(cluster: &Cluster, statements: &str) -> Result<Lsn> {
    let xid: u64 = cluster.ask(&format!("begin; {statements}; select pg_current_xact_id()::text; commit"))?;
    let oracle = Oracle::read(cluster.sandbox(), cluster.repo()?, Some(&cluster.pgdata().join("pg_wal")), 1)?;
    let ending = oracle.endings().iter().rev().find(|ending| ending.xid == xid);
    Ok(ending.context("the transaction is in the WAL")?.lsn)
}

/// All that an extraction must leave as it is.
pub(crate) struct Production {
    cluster: Cluster,
    places: Vec<PathBuf>,
    before: BTreeMap<PathBuf, u64>,
    asked: String,
}

impl Production {
    /// Looks at the server, its files in these places, and its repository. What is in memory alone is written first.
    pub(crate) fn look(cluster: &Cluster, tablespaces: &[PathBuf]) -> Result<Self> {
        cluster.sql("vacuum freeze; checkpoint")?;
        cluster.switch_wal()?;
        cluster.sql("checkpoint")?;
        let mut places = vec![cluster.pgdata().to_path_buf(), cluster.repo()?.path().to_path_buf()];
        places.extend(tablespaces.iter().cloned());
        let mut production = Self { cluster: cluster.clone(), places, before: BTreeMap::new(), asked: String::new() };
        production.before = production.files()?;
        production.asked = production.ask()?;
        Ok(production)
    }

    /// Every file's digest; the names alone where a server writes by itself now and then: a few bytes of WAL, statistics,
    /// its shared memory.
    fn files(&self) -> Result<BTreeMap<PathBuf, u64>> {
        let mut files = BTreeMap::new();
        for place in &self.places {
            // The lease of one that was killed is there until it expires.
            files.extend(
                fingerprint(place)?.into_iter().filter(|(path, _)| !path.to_string_lossy().contains("/lease/")),
            );
        }
        let own = |path: &Path| {
            ["pg_wal", "pg_stat_tmp", "pg_dynshmem"]
                .iter()
                .any(|name| path.starts_with(self.cluster.pgdata().join(name)))
        };
        files.iter_mut().filter(|(path, _)| own(path)).for_each(|(_, digest)| *digest = 0);
        Ok(files)
    }

    fn ask(&self) -> Result<String> {
        let pid = self.cluster.pid()?;
        let slots = self.cluster.sql("select slot_name, active, restart_lsn from pg_replication_slots order by 1")?;
        Ok(format!("{pid} {slots}"))
    }

    /// Fails unless everything is as it was, and nothing of a scratch cluster is left.
    pub(crate) fn is_untouched(&self) -> Result<()> {
        self.is_as_before()?;
        nothing_left(self.cluster.sandbox().path())
    }

    /// Fails unless everything is as it was.
    pub(crate) fn is_as_before(&self) -> Result<()> {
        ensure!(self.cluster.is_running(), "the server is gone");
        unchanged(&self.before, &self.files()?)?;
        ensure!(self.ask()? == self.asked, "the server or its slots changed: {}", self.ask()?);
        Ok(())
    }
}

/// The scratch folders in `base`.
pub(crate) fn scratch_folders(base: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(base)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    let is_ours =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".holdfast-"));
    Ok(entries.into_iter().filter(is_ours).collect())
}

/// Fails when a folder, a half-written file or a process of a scratch cluster is left in `base`.
pub(crate) fn nothing_left(base: &Path) -> Result<()> {
    let left = scratch_folders(base)?;
    ensure!(left.is_empty(), "left behind: {left:?}");
    wait::until("no process works in a scratch folder", || {
        let cwd = |pid: &str| fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
        let entries = fs::read_dir("/proc")?.flatten();
        let pids = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let here = pids.filter(|pid| pid.parse::<i32>().is_ok_and(process::alive));
        Ok(here
            .map(|pid| cwd(&pid))
            .all(|cwd| !cwd.starts_with(base) || !cwd.to_string_lossy().contains(".holdfast-scratch-")))
    })
}
