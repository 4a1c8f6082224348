//! Exactly what there was comes back: tables, several, strange ones, whole databases.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use e2e::cluster::Recipe;
use e2e::{Cluster, Oracle, Repo, Sandbox, Workload, process, workload};

use super::{Production, commit, extract, load};

/// A server with a subscriber's slot, and tables of many kinds.
fn application(sandbox: &Sandbox, repo: &Repo) -> Result<Cluster> {
    let cluster = Recipe::new("pg").segment_mb(1).archived_to(repo).set("wal_level", "logical").start(sandbox)?;
    cluster.sql("select pg_create_logical_replication_slot('subscriber', 'pgoutput')")?;
    workload::create_schema(&cluster)?;
    cluster.sql(
        "create schema \"Weird Table\"; create table \"Weird Table\".\"x \"\"y*\" as select 7 as n;
         create table \"Weird Table\".\"x \"\"yz\" as select 8 as n;
         create table parts (n int, t text) partition by range (n);
         create table parts_low partition of parts for values from (0) to (100);
         create table parts_high partition of parts for values from (100) to (200);
         insert into parts select g, md5(g::text) from generate_series(0, 199) g;
         create unlogged table passing as select 1 as n",
    )?;
    Ok(cluster)
}

/// Tables of the application, dropped a moment ago: their WAL is not archived yet. Beside them a partitioned table, a name
/// that needs quotes, and a slot that a copy must leave alone.
#[test]
fn dropped_tables_come_back_and_production_notices_nothing() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let repo = Repo::new(&sandbox, "repo")?;
    let cluster = application(&sandbox, &repo)?;
    let load_on = Workload::start(&cluster, 2)?;
    load_on.wait_for(&cluster, 30)?;
    cluster.backup(&[])?;
    load_on.wait_for(&cluster, 60)?;
    load_on.stop()?;
    cluster.sql("update parts set t = 'new' where n % 2 = 0; insert into \"Weird Table\".\"x \"\"y*\" values (9)")?;
    let dropped = commit(
        &cluster,
        "drop table order_items, orders, customers, parts, passing; drop schema \"Weird Table\" cascade",
    )?;
    let oracle = Oracle::read(&sandbox, &repo, Some(&cluster.pgdata().join("pg_wal")), 1)?;

    let out = sandbox.folder("out")?;
    let file = |name: &str| -> Result<(PathBuf, String)> {
        let path = out.join(name);
        Ok((path.clone(), path.to_str().context("text")?.to_owned()))
    };
    let lsn = dropped.to_string();
    let (several, several_arg) = file("several.sql")?;
    let (one, one_arg) = file("one.sql")?;
    // The WAL of the moment lies in the server's pg_wal alone, and it is not asked for it.
    let ran = extract(
        &cluster,
        &[
            "-d",
            "postgres",
            "--table",
            "public.orders",
            "-t",
            "Customers",
            "-t",
            "order_items",
            "-t",
            "parts",
            "-t",
            "passing",
            "--target-lsn",
            &lsn,
            "--target-exclusive",
            "--output",
            &several_arg,
            "--json",
        ],
    )?
    .success()?
    .says(&["passing is unlogged"])?;
    let told = ran.json()?;
    ensure!(told["relations"] == 7 && told["database"] == "postgres" && told["bytes"].as_u64() > Some(1000), "{told}");
    let steps = told["steps"].as_array().context("steps")?;
    ensure!(steps.len() == 5 && steps.iter().all(|step| step["seconds"].as_f64() > Some(0.0)), "{told}");
    let mode = std::os::unix::fs::MetadataExt::mode(&several.metadata()?);
    ensure!(mode & 0o777 == 0o600, "{mode:o}");

    let production = Production::look(&cluster, &[])?;
    let weird = "\"Weird Table\".\"x \"\"y*\"";
    extract(
        &cluster,
        &[
            "-d",
            "postgres",
            "-t",
            weird,
            "--target-lsn",
            &lsn,
            "--target-exclusive",
            "--output",
            &one_arg,
            "-D",
            cluster.pgdata_arg()?,
        ],
    )?
    .success()?;
    production.is_untouched()?;

    load(&cluster, "back", "select 1", &several)?;
    let orders =
        cluster.sql("\\c back\nset enable_indexscan = off; set enable_indexonlyscan = off; select xid from orders")?;
    let orders = orders.lines().map(|line| line.parse().context("a transaction")).collect::<Result<_>>()?;
    workload::same_orders(&orders, &oracle.at_lsn(dropped, false))?;
    ensure!(
        cluster.sql(
            "\\c back\nselect count(*), sum(balance) = 500 * 1000 - 10 * (select count(*) from orders) from customers"
        )? == "500|t"
    );
    ensure!(cluster.sql("\\c back\nselect count(*), count(*) filter (where t = 'new') from parts_high")? == "100|50");
    load(&cluster, "odd", "create schema \"Weird Table\"", &one)?;
    ensure!(cluster.sql(&format!("\\c odd\nselect string_agg(n::text, ' ' order by n) from {weird}"))? == "7 9");
    ensure!(
        cluster.sql("\\c odd\nselect count(*) from pg_class where relname = 'x \"yz'")? == "0",
        "a pattern matched more"
    );
    Ok(())
}

/// A whole database with a tablespace, in `pg_dump`'s own format, to a file and to the standard output.
#[test]
fn a_whole_database_comes_back() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let repo = Repo::new(&sandbox, "repo")?;
    let cluster = Recipe::new("pg").segment_mb(1).archived_to(&repo).start(&sandbox)?;
    let space = sandbox.folder("space")?;
    cluster.sql(&format!("create tablespace fast location '{}'", space.display()))?;
    cluster.sql("create database \"the shop\"")?;
    cluster.sql(
        "\\c \"the shop\"
         create table t tablespace fast as select generate_series(1, 5000) as n; create index on t (n) tablespace fast;
         create table u as select 1 as n; select lo_from_bytea(4711, 'large')",
    )?;
    cluster.backup(&[])?;
    cluster.sql("\\c \"the shop\"\ninsert into t select generate_series(5001, 6000); vacuum freeze t; create table w as select 5 as n")?;
    let dropped = commit(&cluster, "create table marker ()")?;
    cluster.sql("drop database \"the shop\"")?;
    let production = Production::look(&cluster, &[space])?;
    let file = sandbox.path().join("shop.dump");
    let (lsn, file_arg) = (dropped.to_string(), file.to_str().context("text")?);
    let moment = ["--database", "the shop", "--target-lsn", &lsn, "-F"];
    extract(&cluster, &[&moment[..], &["c", "--output", file_arg]].concat())?.success()?;
    let ran = extract(
        &cluster,
        &[&moment[..], &["p", "--output", "-", "--scratch", sandbox.path().to_str().context("text")?]].concat(),
    )?;
    production.is_untouched()?;
    let sql = ran.success()?.stdout;
    ensure!(sql.starts_with("--\n-- PostgreSQL database dump") && sql.contains("CREATE TABLE public.w"), "{sql}");

    cluster.sql("create database back")?;
    let connection = cluster.connection()?;
    let mut args = vec!["--exit-on-error", "-d", "back", file_arg];
    args.extend(connection.iter().map(String::as_str));
    sandbox.run_other("pg_restore", &args)?.success()?;
    ensure!(cluster.sql("\\c back\nselect count(*), max(n), (select n from u), (select n from w), convert_from(lo_get(4711), 'UTF8') from t")? == "6000|6000|1|5|large");
    Ok(())
}

/// The command that `recover find` prints for a dropped table, typed as it stands.
#[test]
fn what_find_prints_brings_the_table_back() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let repo = Repo::new(&sandbox, "repo")?;
    let cluster = Recipe::new("pg").segment_mb(1).archived_to(&repo).start(&sandbox)?;
    cluster.sql("create database \"the shop\"")?;
    cluster.sql("\\c \"the shop\"\ncreate schema \"Odd one\"; create table \"Odd one\".\"it's\" as select generate_series(1, 200) as n")?;
    cluster.backup(&[])?;
    cluster.sql("\\c \"the shop\"\ninsert into \"Odd one\".\"it's\" values (0)")?;
    cluster.sql("\\c \"the shop\"\ndrop table \"Odd one\".\"it's\"")?;
    let ran = sandbox
        .run("recover", &["find", "--repo", repo.arg()?, "-D", cluster.pgdata_arg()?, "-U", "postgres", "--json"])?;
    let found = ran.success()?.json()?;
    let command = found["findings"][0]["recover_extract"].as_str().with_context(|| format!("no command in {found}"))?;
    let production = Production::look(&cluster, &[])?;
    let out = sandbox.folder("out")?;
    let typed = command.replacen("recover", &sandbox.program("recover").display().to_string(), 1);
    process::run(sandbox.command("sh")?.args(["-c", &typed]).current_dir(&out), "")?.success()?;
    production.is_untouched()?;
    let written = std::fs::read_dir(&out)?.next().context("nothing is written")??.path();
    load(&cluster, "back", "create schema \"Odd one\"", &written)?;
    ensure!(cluster.sql("\\c back\nselect count(*) from \"Odd one\".\"it's\"")? == "201");
    Ok(())
}
