//! The demonstration: a cluster loses a table and gets it back, to the transaction.
//!
//! Everything is real and thrown away afterwards: a PostgreSQL cluster made for it, an application that never stops
//! writing, Holdfast's programs, and an oracle (`pg_waldump`) that knows which rows the moment had.

use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use chrono::DateTime;
use common::pg::Lsn;
use e2e::cluster::Recipe;
use e2e::{Cluster, Oracle, Repo, Sandbox, Workload, postgres, sandbox, workload};

fn main() -> ExitCode {
    match story() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(format!("the demonstration failed: {error:?}"));
            ExitCode::FAILURE
        }
    }
}

fn story() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let repo = Repo::new(&sandbox, "repository")?;

    heading("A cluster, archived from its first segment on");
    let cluster = Recipe::new("production").archived_to(&repo).start(&sandbox)?;
    workload::create_schema(&cluster)?;
    cluster.sql(
        "insert into customers select i, 'Customer ' || i, md5(i::text) || '@example.org', 1000
        from generate_series(501, 50000) i",
    )?;
    say(format!("PostgreSQL {} in {}", postgres::major()?, cluster.pgdata().display()));
    say(format!("archive_command = '{}'", cluster.sql("show archive_command")?));
    say(format!("{} customers, and an application that takes orders", cluster.sql("select count(*) from customers")?));

    heading("A backup while the application writes");
    let load = Workload::start(&cluster, 2)?;
    load.wait_for(&cluster, 200)?;
    let started = Instant::now();
    let id = cluster.backup(&["-j", "2", "-l", "demonstration"])?;
    let (took, stored) = (seconds(started.elapsed()), size_of(repo.path())?);
    let database: u64 = cluster.ask("select sum(pg_database_size(oid))::bigint from pg_database")?;
    say(format!("basebackup: {id} in {took}; {} of databases are {} in the repository", mb(database), mb(stored)));

    heading("A moment to remember, and a mistake");
    load.wait_for(&cluster, 200)?;
    let moment = cluster.sql("select clock_timestamp()")?;
    say(format!("{moment} is the moment to remember"));
    let target = DateTime::parse_from_str(&moment, "%Y-%m-%d %H:%M:%S%.f%#z").context("read the moment")?.to_utc();
    load.wait_for(&cluster, 200)?;
    load.stop()?;
    let (lost, oracle) = (workload::orders(&cluster)?, read_oracle(&cluster, &repo)?);
    say(format!(
        "{} orders, {} of them later than that, and then:",
        lost.len(),
        lost.len() - oracle.at_time(target).len()
    ));
    cluster.sql("drop table order_items; drop table orders")?;
    say("drop table order_items; drop table orders");
    ensure!(cluster.try_sql("select count(*) from orders")?.code != Some(0), "the table is still there");

    heading("Back to the moment");
    let started = Instant::now();
    let ran = cluster.try_recover(&["--target-time", &moment])?.success()?;
    say(format!("recover run -D {} --target-time '{moment}'", cluster.pgdata().display()));
    for line in ran.stdout.lines().chain(ran.stderr.lines()) {
        say(format!("  {line}"));
    }
    cluster.wait_promoted()?;
    let took = seconds(started.elapsed());

    heading("The proof");
    let (found, expected) = (workload::orders(&cluster)?, oracle.at_time(target));
    workload::same_orders(&found, &expected)?;
    let later = lost.difference(&found).count();
    ensure!(later > 0 && found.is_subset(&lost), "nothing was written after the moment");
    say(format!("{} orders are back, each with its items: exactly those that pg_waldump finds committed", found.len()));
    say(format!("before {moment}; the {later} later ones are gone. It took {took}."));
    let end: Lsn = cluster.ask("select pg_current_wal_lsn()")?;
    say(format!("The server runs on timeline {}, at {end}, and takes orders again:", cluster.timeline()?));
    let load = Workload::start(&cluster, 2)?;
    load.wait_for(&cluster, 100)?;
    load.stop()?;
    say(format!("{} orders.", cluster.sql("select count(*) from orders")?));
    Ok(())
}

fn read_oracle(cluster: &Cluster, repo: &Repo) -> Result<Oracle> {
    Oracle::read(cluster.sandbox(), repo, Some(&cluster.pgdata().join("pg_wal")), cluster.timeline()?)
}

fn size_of(folder: &std::path::Path) -> Result<u64> {
    sandbox::walk(folder).iter().map(|path| Ok(std::fs::metadata(path)?.len())).sum()
}

fn mb(bytes: u64) -> String {
    format!("{}.{} MB", bytes / 1_000_000, bytes / 100_000 % 10)
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

fn heading(text: &str) {
    say(format!("\n== {text}"));
}

fn say(text: impl Display) {
    // Nobody to tell is no reason to fail.
    drop(writeln!(std::io::stdout(), "{text}"));
}
