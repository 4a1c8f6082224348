//! What a recovered server is checked for, and what follows from what is found.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context, Result, ensure};
use e2e::cluster::Recipe;
use e2e::{Repo, Sandbox, StopMode};

use crate::onward::recover;

/// Rows, indexes and pages are right: the report says so. With a page that is damaged and rows that are missing the
/// recovery is not ended, and nothing is archived, until somebody accepts it.
#[test]
fn what_is_found_wrong_holds_the_end_back() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let repo = Repo::new(&sandbox, "repo")?;
    let cluster = Recipe::new("pg").segment_mb(1).archived_to(&repo).start(&sandbox)?;
    cluster.sql("create extension if not exists amcheck; create table t as select generate_series(1, 9000) as n;")?;
    cluster.sql("create index on t (n); create table \"My Table\" (n int); vacuum (freeze) t;")?;
    cluster.backup(&[])?;
    cluster.sql("insert into \"My Table\" values (1), (2)")?;
    let counts = recover(&cluster, "row-counts", &[])?.success()?.stdout;
    ensure!(
        counts.contains("postgres public.\"My Table\" 2\n") && counts.contains("postgres public.t 9000\n"),
        "{counts}"
    );
    let path = sandbox.path().join("counts");
    let file = path.to_str().context("text")?;
    sandbox.write(&path, counts.as_bytes())?;
    let node = cluster.sql("select pg_relation_filepath('t')")?;

    let report = sandbox.path().join("home/report.json");
    let report_file = report.to_str().context("text")?;
    let absent = ["--target-latest", "--row-counts", "/no/such/file"];
    recover(&cluster, "check", &absent)?.says(&["/no/such/file"])?.expect_code(2)?;
    let checks = ["--row-counts", file, "--amcheck=all", "--page-sample", "1 GB", "--report", report_file];
    cluster.recover(&[&["--target-latest"], &checks[..]].concat())?;
    let json: serde_json::Value = serde_json::from_slice(&fs::read(&report)?)?;
    ensure!(json["outcome"] == "done" && json["verified"]["tables"] == 2, "{json:#}");
    ensure!(
        json["verified"]["pages"]["bad"] == 0 && json["verified"]["indexes"]["checked"].as_u64() > Some(50),
        "{json:#}"
    );
    ensure!(json["verified"]["pages"]["bytes"] == json["verified"]["pages"]["total_bytes"], "{json:#}");
    ensure!(json["steps"].as_array().is_some_and(|steps| steps.len() == 8), "{json:#}");
    ensure!(json["replay"]["bytes"].as_u64() > Some(0) && json["downtime_seconds"].as_f64() > Some(0.0), "{json:#}");
    let readable = fs::read_to_string(sandbox.path().join("home/report.json.txt"))?;
    ensure!(readable.contains("extract") && readable.contains("new base backup"), "{readable}");
    ensure!(fs::metadata(&report)?.permissions().mode() & 0o777 == 0o600);

    // Once more, with a page that is damaged on its way to the server, and a count that is another.
    cluster.try_recover(&["--target-latest", "--target-timeline", "1", "--no-start"])?.success()?;
    let damaged = cluster.pgdata().join(&node);
    let mut bytes = fs::read(&damaged)?;
    let byte = bytes.get_mut(2 * 8192 + 5000).context("three pages")?;
    *byte ^= 1;
    sandbox.write(&damaged, &bytes)?;
    sandbox.write(&path, counts.replace("\" 2", "\" 3").as_bytes())?;
    cluster.start()?;
    cluster.wait_promoted()?;
    let wrong = [format!("page 2 of {node}"), "My Table has 2 rows, and should have 3".to_owned()];
    let ran = recover(&cluster, "finish", &checks)?.expect_code(3)?;
    ran.prints(
        &[&wrong[..], &["archiving stays off".to_owned()]].concat().iter().map(String::as_str).collect::<Vec<_>>(),
    )?;
    ensure!(cluster.sql("show archive_command")?.is_empty(), "it archives what was found wrong");
    // What was found is not forgotten by a call that looks at less.
    let less = ["--page-sample", "0"];
    recover(&cluster, "finish", &less)?.expect_code(3)?.prints(&[&wrong[0], &wrong[1], "archiving stays off"])?;
    let status = sandbox.run("recover", &["status", "-D", cluster.pgdata_arg()?])?.success()?;
    status.prints(&[&wrong[0], &wrong[1], "finish --accept-findings"])?;
    ensure!(cluster.sql("show archive_command")?.is_empty(), "it archives what was found wrong");
    recover(&cluster, "finish", &[&checks[..], &["--accept-findings"]].concat())?.success()?;
    cluster.switch_wal()?;
    cluster.stop(StopMode::Immediate)
}

/// A database that an interrupted DROP DATABASE left behind stops no recovery, and is named. One that cannot be entered is
/// a finding.
#[test]
fn a_database_that_nobody_can_enter_does_not_stop_a_recovery() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let repo = Repo::new(&sandbox, "repo")?;
    let cluster = Recipe::new("pg").segment_mb(1).archived_to(&repo).start(&sandbox)?;
    cluster.sql("create extension if not exists amcheck; create database half; create database shut")?;
    cluster.sql("create table t as select 1 as n")?;
    cluster.backup(&[])?;
    cluster.sql("update pg_database set datconnlimit = -2 where datname = 'half'")?;
    let counts = recover(&cluster, "row-counts", &[])?.success()?.stdout;
    ensure!(counts == "postgres public.t 1\n", "{counts}");
    cluster.try_recover(&["--target-latest", "--amcheck"])?.success()?.prints(&["\"half\"", "DROP DATABASE"])?;

    cluster.try_recover(&["--target-latest", "--target-timeline", "1", "--no-start"])?.success()?;
    cluster.start()?;
    cluster.wait_promoted()?;
    let shut: u32 = cluster.ask("select oid from pg_database where datname = 'shut'")?;
    sandbox.clear(&cluster.pgdata().join(format!("base/{shut}/PG_VERSION")))?;
    recover(&cluster, "finish", &["--amcheck"])?.expect_code(3)?.prints(&["found wrong: database \"shut\""])?;
    recover(&cluster, "finish", &["--amcheck", "--accept-findings"])?.success()?.prints(&["\"half\""])?;
    cluster.switch_wal()?;
    cluster.stop(StopMode::Immediate)
}
