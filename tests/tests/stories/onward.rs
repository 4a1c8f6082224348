//! A recovery that waits at its target: looked at, taken further, ended.

use std::fs;

use anyhow::{Context, Result, ensure};
use e2e::cluster::Recipe;
use e2e::{Cluster, Oracle, Ran, Repo, Sandbox, StopMode, Workload, workload};

/// Runs a command of `recover` on this data directory.
pub(crate) fn recover(cluster: &Cluster, command: &str, options: &[&str]) -> Result<Ran> {
    let args = [command, "--repo", cluster.repo()?.arg()?, "-D", cluster.pgdata_arg()?, "-U", "postgres"];
    cluster.sandbox().run("recover", &[&args, options].concat())
}

/// To a moment and waiting there, on to a later one, never back, and ended there; then nothing of it is left.
#[test]
fn a_waiting_recovery_goes_on_and_is_promoted() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let repo = Repo::new(&sandbox, "repo")?;
    let cluster = Recipe::new("pg").segment_mb(1).archived_to(&repo).start(&sandbox)?;
    workload::create_schema(&cluster)?;
    // What was there before, to the byte: another encoding, no line's end.
    let lasting = b"# by hand: \xE9t\xE9\r\nrecovery_min_apply_delay = 1h\nwork_mem = '5MB'".as_slice();
    sandbox.write(&cluster.pgdata().join("postgresql.auto.conf"), lasting)?;
    cluster.backup(&[])?;
    let load = Workload::start(&cluster, 2)?;
    load.wait_for(&cluster, 60)?;
    load.stop()?;
    cluster.switch_wal()?;
    let oracle = Oracle::read(&sandbox, &repo, None, 1)?;
    let commits = oracle.commits();
    let nth = |number: usize| commits.get(number).copied().context("sixty commits");
    let (first, second) = (nth(commits.len() - 40)?, nth(commits.len() - 10)?);
    let lsn = |commit: &e2e::oracle::Ending| commit.lsn.to_string();
    let is_at = |commit: &e2e::oracle::Ending| {
        workload::same_orders(&workload::orders(&cluster)?, &oracle.at_lsn(commit.lsn, true))
    };

    cluster
        .try_recover(&["--target-lsn", &lsn(&first), "--target-action", "pause"])?
        .success()?
        .prints(&["recover promote"])?;
    is_at(&first).context("paused")?;
    recover(&cluster, "continue", &[])?.expect_code(20)?.says(&["waits at", "recover promote"])?;
    recover(&cluster, "continue", &["--target-lsn", &lsn(&second), "--target-action", "shutdown"])?.success()?;
    ensure!(!cluster.is_running(), "it was asked to stop at the target");
    let report = sandbox.path().join("home/report.json");
    let report_file = report.to_str().context("text")?;
    let reported = || Ok::<serde_json::Value, anyhow::Error>(serde_json::from_slice(&fs::read(&report)?)?);
    let back = ["--target-lsn", &lsn(&first), "--report", report_file];
    recover(&cluster, "continue", &back)?.expect_code(20)?.says(&["nothing goes back"])?;
    ensure!(reported()?.pointer("/outcome").is_some_and(|outcome| outcome == "failed"), "{}", reported()?);
    recover(&cluster, "continue", &["--target-action", "pause"])?.success()?;
    is_at(&second).context("continued")?;
    recover(&cluster, "finish", &[])?.success()?.prints(&["waiting at"])?;
    ensure!(cluster.sql("select pg_is_in_recovery()")? == "t", "finish must not end a recovery that waits");
    recover(&cluster, "promote", &["--report", report_file])?.success()?.prints(&["timeline 2", "new base backup"])?;
    let told = reported()?;
    let names: Vec<_> = (0..3).filter_map(|step| told.pointer(&format!("/steps/{step}/name"))?.as_str()).collect();
    ensure!(names == ["start", "verify"], "{told}");
    let seconds = |of: &str| told.pointer(of).and_then(serde_json::Value::as_f64).unwrap_or_default();
    ensure!(seconds("/downtime_seconds") > seconds("/seconds"), "it began long before: {told}");
    is_at(&second).context("promoted")?;
    ensure!(fs::read(cluster.pgdata().join("postgresql.auto.conf"))? == lasting, "settings of the recovery are left");
    cluster.switch_wal()?;
    recover(&cluster, "promote", &[])?.expect_code(20)?.says(&["is over"])?;
    cluster.stop(StopMode::Immediate)
}

/// Just before a drop the transaction that drops is open, and replay holds its lock: whoever reads that table would wait for ever.
#[test]
fn a_table_that_is_locked_at_the_target_holds_nobody_up() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let repo = Repo::new(&sandbox, "repo")?;
    let cluster = Recipe::new("pg").segment_mb(1).archived_to(&repo).start(&sandbox)?;
    cluster.sql("create table orders as select 7 as n")?;
    cluster.backup(&[])?;
    let xid = cluster.sql("begin; drop table orders; select txid_current(); commit")?;
    let counts = sandbox.path().join("counts");
    sandbox.write(&counts, b"postgres public.orders 1\n")?;
    let target = ["--target-xid", &xid, "--target-exclusive", "--target-action", "pause"];
    let counted = ["--row-counts", counts.to_str().context("text")?];
    let told = ["has locked public.orders of postgres", "lock timeout"];
    cluster.try_recover(&[&target[..], &counted].concat())?.expect_code(3)?.prints(&told)?;
    recover(&cluster, "promote", &counted)?.success()?;
    ensure!(cluster.sql("select n from orders")? == "7");
    Ok(())
}
