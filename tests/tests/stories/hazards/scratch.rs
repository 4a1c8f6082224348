//! H1, H12, H22: a scratch cluster that a few tables are taken out of lives through everything that its original did.

use anyhow::{Context, Result, ensure};
use e2e::cluster::Recipe;
use e2e::{Cluster, Repo, Sandbox};

use crate::extract::{Production, commit, extract, load, nothing_left};

/// Extracts table `t` of the database as it was just before it was dropped, and counts its rows.
fn count_in_extract(cluster: &Cluster, database: &str) -> Result<String> {
    let sandbox = cluster.sandbox();
    let dropped = commit(cluster, "create table marker ()")?.to_string();
    let file = sandbox.path().join("t.sql");
    let options =
        ["-d", database, "-t", "public.t", "--target-lsn", &dropped, "--output", file.to_str().context("text")?];
    extract(cluster, &options)?.success()?;
    nothing_left(sandbox.path())?;
    load(cluster, "back", "select 1", &file)?;
    cluster.sql("\\c back\nselect count(*) from t")
}

/// Settings were raised behind the backup, and a transaction is prepared at the moment, which has the table locked.
#[test]
fn hazard_12_settings_raised_behind_the_backup() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let repo = Repo::new(&sandbox, "repo")?;
    let cluster =
        Recipe::new("pg").segment_mb(1).archived_to(&repo).set("max_prepared_transactions", "0").start(&sandbox)?;
    cluster.sql("create table t as select generate_series(1, 1000) as n")?;
    cluster.backup(&[])?;
    let raised = [("max_prepared_transactions", "7"), ("max_connections", "60"), ("max_worker_processes", "20")];
    cluster.configure(&raised.map(|(name, value)| (name.to_owned(), value.to_owned())))?;
    cluster.restart()?;
    cluster.sql("insert into t select generate_series(1001, 1500)")?;
    cluster.sql(
        "begin; insert into t values (0); lock table t in access exclusive mode; prepare transaction 'in doubt'",
    )?;
    ensure!(count_in_extract(&cluster, "postgres")? == "1500");
    cluster.sql("rollback prepared 'in doubt'")?;
    Ok(())
}

/// What would stop a replay without the files of the other databases: pages that are changed without ever being written
/// whole, and a database that is copied file by file.
#[test]
fn hazard_22_other_databases_need_not_be_ready_for_it() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let repo = Repo::new(&sandbox, "repo")?;
    let recipe = Recipe::new("pg").no_checksums().segment_mb(1).archived_to(&repo).set("full_page_writes", "off");
    let cluster = recipe.start(&sandbox)?;
    cluster.sql("create database wanted")?;
    cluster.sql("create database other")?;
    cluster.sql("\\c wanted\ncreate table t as select generate_series(1, 1000) as n")?;
    cluster.sql(
        "\\c other
         create table v as select generate_series(1, 30000) as n;
         create table h as select 1 as bucket, generate_series(1, 20000) as n; create index on h using hash (bucket)",
    )?;
    cluster.backup(&[])?;
    cluster.sql("\\c other\nvacuum v; update v set n = -n where n % 3 = 0; delete from v where n % 5 = 0; vacuum v")?;
    // The last ones lie in overflow pages.
    cluster.sql("\\c other\ndelete from h where n > 18000; vacuum (index_cleanup on) h")?;
    // Before 15 there is no other way.
    let strategy = if e2e::postgres::major()? >= 15 { "strategy file_copy" } else { "" };
    cluster.sql(&format!("create database copied template other {strategy}"))?;
    cluster.sql("\\c wanted\ninsert into t values (0)")?;
    cluster.sql("drop database other")?;
    ensure!(count_in_extract(&cluster, "wanted")? == "1001");
    Ok(())
}

/// A tablespace that was created behind the backup is nowhere but at production's own place.
#[test]
fn hazard_01_an_extraction_makes_no_tablespace() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let repo = Repo::new(&sandbox, "repo")?;
    let cluster = Recipe::new("pg").segment_mb(1).archived_to(&repo).start(&sandbox)?;
    let space = sandbox.folder("space")?;
    cluster.sql(&format!("create tablespace fast location '{}'", space.display()))?;
    cluster.sql("create table t tablespace fast as select generate_series(1, 1000) as n")?;
    cluster.backup(&[])?;
    cluster.sql("insert into t values (0)")?;
    let earlier = cluster.sql("select pg_current_wal_insert_lsn()")?;
    cluster.sql("insert into t values (0)")?;
    let late = sandbox.folder("late")?;
    cluster.sql(&format!("create tablespace late location '{}'", late.display()))?;
    cluster.sql("drop tablespace late")?;
    let production = Production::look(&cluster, &[space, late])?;
    let file = sandbox.path().join("t.sql");
    let options = ["-d", "postgres", "-t", "t", "--output", file.to_str().context("text")?];
    // Its place is free again, and still nothing may be made there.
    extract(&cluster, &options)?.expect_code(20)?.says(&["a tablespace was created", "/late", "--target-lsn"])?;
    ensure!(!file.exists());
    extract(&cluster, &[&options[..], &["--target-lsn", &earlier]].concat())?.success()?;
    production.is_untouched()?;
    // The place of the original's tablespace is not known to whoever loads it, and the name is.
    load(&cluster, "back", "select 1", &file)?;
    ensure!(cluster.sql("\\c back\nselect count(*) from t")? == "1001");
    Ok(())
}
