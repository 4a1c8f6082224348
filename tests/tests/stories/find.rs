//! `recover find`: whatever was lost, it names the transaction and the moment before it, and the command that it prints
//! brings the data back. `make versions` tells the first story on every version of PostgreSQL.

use anyhow::{Context, Result, ensure};
use e2e::cluster::Recipe;
use e2e::{Cluster, Oracle, Ran, Repo, Sandbox, StopMode, process};
use serde_json::Value;

/// Runs SQL in a database of the cluster.
fn sql_in(cluster: &Cluster, database: &str, sql: &str) -> Result<String> {
    let ran = process::run(cluster.psql()?.args(["-d", database]), sql)?.success()?;
    Ok(ran.stdout.trim_end_matches('\n').to_owned())
}

/// Does this in one transaction; answers its number.
fn transaction(cluster: &Cluster, database: &str, statements: &str) -> Result<u64> {
    let said = sql_in(cluster, database, &format!("begin; select pg_current_xact_id(); {statements}; commit;"))?;
    said.lines().next().unwrap_or_default().parse().context(said.clone())
}

/// A field of a document; null where there is none.
fn field<'a>(value: &'a Value, name: &str) -> &'a Value {
    value.get(name).unwrap_or(&Value::Null)
}

fn find(cluster: &Cluster, options: &[&str]) -> Result<Ran> {
    let mut args = vec!["find", "--repo", cluster.repo()?.arg()?, "-D", cluster.pgdata_arg()?, "-U", "postgres"];
    args.extend(options);
    cluster.sandbox().run("recover", &args)
}

fn found(cluster: &Cluster, options: &[&str]) -> Result<(Value, Vec<Value>)> {
    let document: Value = find(cluster, &[options, &["--json"]].concat())?.success()?.json()?;
    let findings = field(&document, "findings").as_array().context("no findings")?.clone();
    Ok((document, findings))
}

/// What a finding says of each thing: what happened, its name, its rows.
fn actions(finding: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().map(str::to_owned).unwrap_or_default();
    let actions = field(finding, "actions").as_array().into_iter().flatten();
    actions
        .map(|action| {
            let rows = field(action, "rows").as_u64().map_or_else(String::new, |rows| format!(" {rows}"));
            let schema = field(action, "schema").as_str().map_or_else(String::new, |schema| format!("{schema}."));
            let (what, database, name) =
                (text(field(action, "what")), text(field(action, "database")), text(field(action, "name")));
            format!("{what} {database} {schema}{name}{rows}")
        })
        .collect()
}

/// Runs the command as it was printed, with this behind it.
fn run_as_printed(cluster: &Cluster, finding: &Value, command: &str, more: &str) -> Result<()> {
    let command = field(finding, command).as_str().with_context(|| format!("no command in {finding}"))?;
    let program = cluster.sandbox().program("recover");
    let command = command.replacen("recover", &program.display().to_string(), 1);
    let mut shell = cluster.sandbox().command("sh")?;
    process::run(shell.args(["-c", &format!("{command}{more}")]), "")?.success()?;
    Ok(())
}

const TABLES: &str = "
create table orders (id int primary key, note text);
insert into orders select n, 'order ' || n from generate_series(1, 100) n;
create schema \"Odd one\";
create table \"Odd one\".\"Customers\" (id int);
insert into \"Odd one\".\"Customers\" select generate_series(1, 200);
create table events (id int primary key, what text);
insert into events select n, repeat('x', 20) from generate_series(1, 5000) n;
create table kept (id int primary key, padding text);
insert into kept select n, 'kept' from generate_series(1, 500) n;";

/// Writes relations anew and loses nothing.
const REWRITES: &str = "
vacuum full kept;
cluster kept using kept_pkey;
reindex table kept;
alter table kept alter padding type varchar(99) using padding || '';
begin; create table passing (id int); drop table passing; commit;
begin; drop table if exists nothing; delete from kept where id > 400; rollback;
delete from kept where id > 490;
create temp table mine as select * from kept;";

#[test]
fn what_was_lost_is_found_and_brought_back_on_every_version_of_postgresql() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let repo = Repo::new(&sandbox, "repo")?;
    let cluster = Recipe::new("pg").segment_mb(1).archived_to(&repo).start(&sandbox)?;
    cluster.sql("create database shop")?;
    cluster.sql("create database scratch")?;
    sql_in(&cluster, "shop", TABLES)?;
    sql_in(&cluster, "scratch", "create table t as select generate_series(1, 30) n")?;
    cluster.backup(&[])?;
    let dropped = transaction(&cluster, "shop", "drop table orders")?;
    let truncated = transaction(&cluster, "shop", "truncate \"Odd one\".\"Customers\"")?;
    sql_in(&cluster, "shop", REWRITES)?;
    let deletion = "savepoint a; delete from events where id <= 2000; savepoint b; delete from events where id > 3000; \
                    rollback to b; delete from events where id between 2001 and 2500";
    let deleted = transaction(&cluster, "shop", deletion)?;
    cluster.switch_wal()?;
    sql_in(&cluster, "shop", "create table young as select generate_series(1, 10) n")?;
    let young = transaction(&cluster, "shop", "drop table young")?;
    // The next number is the drop's own: nobody else writes.
    let gone = cluster.ask("select pg_snapshot_xmax(pg_current_snapshot())")?;
    cluster.sql("drop database scratch")?;
    sql_in(&cluster, "shop", "insert into kept values (1000, 'last')")?;

    let oracle = Oracle::read(&sandbox, &repo, Some(&cluster.pgdata().join("pg_wal")), 1)?;
    let (document, findings) = found(&cluster, &[])?;
    let expected = [
        "database_dropped scratch ",
        "dropped shop public.young",
        "rows_deleted shop public.events 2500",
        "truncated shop Odd one.Customers",
        "dropped shop public.orders",
    ];
    let said: Vec<String> = findings.iter().flat_map(actions).collect();
    ensure!(said == expected, "{said:?} in {document:#}");
    ensure!(field(&document, "rewrites_left_out").as_u64() >= Some(4), "{document:#}");
    for (finding, xid) in findings.iter().zip([gone, young, deleted, truncated, dropped]) {
        let ending = oracle.endings().iter().find(|ending| ending.xid == xid).context("an ending")?;
        ensure!(field(finding, "xid").as_u64() == Some(xid), "{finding} is not of {xid}");
        ensure!(*field(finding, "lsn") == ending.lsn.to_string(), "{finding}");
        ensure!((field(finding, "target_lsn") == field(finding, "lsn")) == (xid != gone), "{finding}");
    }
    let all = found(&cluster, &["--rewrites", "--rows", "10"])?.1;
    let said: Vec<String> = all.iter().flat_map(actions).collect();
    ensure!(said.iter().filter(|said| *said == "rewritten shop public.kept").count() == 3, "{said:?}");
    ensure!(said.contains(&"rows_deleted shop public.kept 10".to_owned()), "{said:?}");

    // The dropped table alone, while production goes on.
    run_as_printed(&cluster, &findings[4], "recover_extract", "")?;
    let dump = std::fs::read_to_string(sandbox.path().join(format!("before_{dropped}.sql")))?;
    ensure!(dump.contains("order 100") && !dump.contains("kept"), "{dump}");

    // As they were printed, newest first, each on what the one before left.
    for (finding, database, question, answer) in [
        (&findings[0], "scratch", "select count(*) from t", "30"),
        (&findings[2], "shop", "select count(*) from events", "5000"),
        (&findings[3], "shop", "select count(*) from \"Odd one\".\"Customers\"", "200"),
        (&findings[4], "shop", "select count(*) from orders", "100"),
    ] {
        run_as_printed(&cluster, finding, "recover_run", " --yes")?;
        cluster.wait_promoted()?;
        ensure!(sql_in(&cluster, database, question)? == answer, "{finding:#}");
    }
    // All of it was undone, on timelines of its own; it still happened on the first one.
    let (document, findings) = found(&cluster, &[])?;
    ensure!(findings.is_empty() && field(&document, "timeline").as_u64() == Some(5), "{document:#}");
    let (_, findings) = found(&cluster, &["--target-timeline", "1"])?;
    let said: Vec<String> = findings.iter().flat_map(actions).collect();
    ensure!(said == expected, "{said:?}");
    cluster.stop(StopMode::Fast)
}

const ODD_TABLES: &str = "
create table first (id int primary key, note text);
create table second (id int);
create table third (id int);
create table fourth as select generate_series(1, 3000) id;
create table parted (id int) partition by range (id);
create table part partition of parted for values from (0) to (100);
create schema going;
create table going.one (id serial primary key, note text);
create view going.two as select * from going.one;
vacuum full pg_class;
vacuum full pg_namespace;";

/// With logical decoding, compressed pages, catalogs that were written anew, prepared transactions, subtransactions, schemas,
/// partitions, and a database younger than the backup; and where WAL is missing, it is said so.
#[test]
fn losses_of_an_odder_kind_are_found() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let repo = Repo::new(&sandbox, "repo")?;
    let settings = [("wal_level", "logical"), ("wal_compression", "on"), ("max_prepared_transactions", "5")];
    let recipe = Recipe::new("pg").segment_mb(1).archived_to(&repo);
    let cluster = settings.iter().fold(recipe, |recipe, (name, value)| recipe.set(name, value)).start(&sandbox)?;
    cluster.sql("create database shop")?;
    sql_in(&cluster, "shop", ODD_TABLES)?;
    cluster.backup(&[])?;
    sql_in(&cluster, "shop", "begin; drop table third; prepare transaction 'odd'; commit prepared 'odd'")?;
    sql_in(&cluster, "shop", "truncate second")?;
    let loop_of = "do $$ begin for i in 0..29 loop begin delete from fourth where id > i * 100 and id <= i * 100 + 100; \
                   if i % 3 = 2 then raise 'no'; end if; exception when raise_exception then null; end; end loop; end $$";
    sql_in(&cluster, "shop", loop_of)?;
    sql_in(&cluster, "shop", "drop schema going cascade")?;
    sql_in(&cluster, "shop", "drop table parted")?;
    cluster.sql("create database young template shop")?;
    sql_in(&cluster, "young", "drop table first")?;
    cluster.switch_wal()?;
    let hole = cluster.switch_wal()?;
    sql_in(&cluster, "shop", "vacuum full pg_class")?;
    sql_in(&cluster, "shop", "drop table first")?;
    cluster.switch_wal()?;

    let (document, findings) = found(&cluster, &["--rows", "2000"])?;
    let said: Vec<Vec<String>> = findings.iter().map(actions).collect();
    let expected: [&[&str]; 7] = [
        &["dropped shop public.first"],
        &["dropped young public.first"],
        &["dropped shop public.part", "dropped shop public.parted"],
        &["dropped shop going.one", "dropped shop going.two"],
        &["rows_deleted shop public.fourth 2000"],
        &["truncated shop public.second"],
        &["dropped shop public.third"],
    ];
    ensure!(said == expected, "{said:?} in {document:#}");
    let prepared: Vec<bool> = findings.iter().filter_map(|finding| field(finding, "prepared").as_bool()).collect();
    ensure!(prepared == [false, false, false, false, false, false, true], "{prepared:?}");

    cluster.stop(StopMode::Fast)?;
    sandbox.clear(cluster.pgdata())?;
    let object = repo.wal(&hole)?;
    let sound = std::fs::read(&object)?;
    for damaged in [&b"garbage of some length, not a frame"[..], &[], &sound[..sound.len() / 2]] {
        repo.replace(&object, damaged)?;
        let ran = sandbox.run("recover", &["find", "--repo", repo.arg()?, "--rows", "2000"])?.expect_code(3)?;
        ensure!(ran.stdout.contains(&format!("read WAL segment {hole}")), "{ran}");
        ensure!(
            ran.stdout.contains("public.third") && ran.stdout.matches("table public.first in").count() == 1,
            "{ran}"
        );
    }
    repo.remove(&object)?;
    let ran = sandbox.run("recover", &["find", "--repo", repo.arg()?, "--rows", "2000"])?.expect_code(3)?;
    ensure!(ran.stdout.contains(&format!("{hole} is missing")), "{ran}");
    ensure!(ran.stdout.contains("public.third") && ran.stdout.matches("table public.first in").count() == 1, "{ran}");
    Ok(())
}

/// Databases of odd names, a backup that is younger than the loss, and directories that are not production's: whatever is
/// printed is accepted as it stands.
#[test]
fn what_is_printed_can_be_typed() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let repo = Repo::new(&sandbox, "repo")?;
    let space = sandbox.folder("space")?;
    let cluster = Recipe::new("sp ace'q").segment_mb(1).archived_to(&repo).start(&sandbox)?;
    cluster.sql(&format!("create tablespace other location '{}'", space.display()))?;
    cluster.sql("create table far tablespace other as select 1 n")?;
    let names = ["-d evil", "a=b", "postgresql://h"];
    for name in names {
        cluster.sql(&format!("create database \"{name}\""))?;
        sql_in(&cluster, &format!("dbname='{name}'"), "create table t as select generate_series(1, 7) n")?;
    }
    cluster.backup(&[])?;
    for name in names {
        sql_in(&cluster, &format!("dbname='{name}'"), "drop table t")?;
    }
    cluster.switch_wal()?;
    let (_, findings) = found(&cluster, &[])?;
    ensure!(findings.len() == names.len(), "{findings:?}");
    for finding in &findings {
        run_as_printed(&cluster, finding, "recover_extract", "")?;
        let dump = sandbox.path().join(format!("before_{}.sql", field(finding, "xid")));
        ensure!(std::fs::read_to_string(dump)?.contains("CREATE TABLE public.t"), "{finding}");
    }
    run_as_printed(&cluster, &findings[0], "recover_run", " --dry-run")?;

    // Beside a running server, and then beside the copy that was made there.
    let copy = Cluster::at(&sandbox, &sandbox.path().join("co py"), Some(&repo));
    let (_, of_copy) = found(&copy, &[])?;
    run_as_printed(&cluster, &of_copy[0], "recover_run", " --yes")?;
    let (_, of_copy) = found(&copy, &[])?;
    run_as_printed(&cluster, &of_copy[1], "recover_run", " --dry-run")?;
    copy.stop(StopMode::Immediate)?;

    // Behind the next backup nothing happened yet.
    cluster.backup(&[])?;
    let ran = find(&cluster, &[])?.success()?;
    ensure!(ran.stdout.contains("none of them dropped") && ran.stdout.contains("--from-time TIME"), "{ran}");

    // The cluster in another place is still the cluster.
    cluster.stop(StopMode::Fast)?;
    let moved = sandbox.path().join("moved");
    common::sys::passing::rename(cluster.pgdata(), &moved)?;
    let moved = Cluster::at(&sandbox, &moved, Some(&repo));
    let (_, findings) = found(&moved, &["--from-time", "2001-01-01 00:00:00+00"])?;
    run_as_printed(&moved, findings.first().context("a finding")?, "recover_run", " --dry-run")
}
