//! H4 and H23: a copy must not act on the world, and becomes the production server only on a timeline of its own.

use std::fs;

use anyhow::{Context, Result, ensure};
use e2e::cluster::Recipe;
use e2e::{Cluster, Ran, Repo, Sandbox, StopMode, process, wait};

use super::archived_table;

/// A subscriber's copy leaves its publisher's slot alone, and nothing of a configuration that acts outside its own
/// directory is followed.
#[test]
fn hazard_04_a_copy_keeps_to_itself() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let publisher = Recipe::new("publisher").segment_mb(1).set("wal_level", "logical").start(&sandbox)?;
    publisher.sql("create table t (n int primary key); create publication p for table t")?;
    let repo = Repo::new(&sandbox, "repo")?;
    let cluster = Recipe::new("pg").segment_mb(1).archived_to(&repo).start(&sandbox)?;
    let conninfo = format!("host={} port={} user=postgres dbname=postgres", publisher.socket_dir()?, publisher.port()?);
    cluster.sql("create table t (n int primary key)")?;
    cluster.sql(&format!("create subscription s connection '{conninfo}' publication p"))?;
    publisher.sql("insert into t values (1)")?;
    let count = |of: &Cluster| of.sql("select count(*) from t");
    wait::until("the row arrives", || Ok(count(&cluster)? == "1"))?;

    // The running server has read none of this; its copy would.
    let acted = sandbox.path().join("acted").display().to_string();
    let pid_file = sandbox.path().join("external.pid");
    sandbox.write(&pid_file, b"production's\n")?;
    let lines = [
        ("external_pid_file", pid_file.display().to_string()),
        ("shared_preload_libraries", "pg_cron".to_owned()),
        ("synchronous_standby_names", "nobody".to_owned()),
        ("archive_cleanup_command", format!("touch {acted}")),
        ("recovery_end_command", format!("touch {acted}")),
        ("listen_addresses", "*".to_owned()),
        ("ssl", "on".to_owned()),
        ("logging_collector", "on".to_owned()),
        ("log_directory", "/nowhere/at/all".to_owned()),
        ("hba_file", "/nowhere/pg_hba.conf".to_owned()),
        ("unix_socket_group", "no such group".to_owned()),
    ];
    cluster.configure(&lines.map(|(name, value)| (name.to_owned(), value)))?;
    cluster.backup(&[])?;
    cluster.stop(StopMode::Fast)?;

    let copy = cluster.recover_copy("copy", &["--target-latest"])?;
    ensure!(copy.sql("select subenabled from pg_subscription")? == "t", "there is something that could act");
    ensure!(copy.sql("select count(*) from pg_stat_subscription where pid is not null")? == "0");
    ensure!(publisher.sql("select active from pg_replication_slots where slot_name = 's'")? == "f");
    publisher.sql("insert into t values (2)")?;
    // The first write waits for nobody.
    copy.sql("insert into t values (100); checkpoint")?;
    ensure!(count(&copy)? == "2" && !fs::exists(&acted)?);
    for (name, value) in [("archive_mode", "off"), ("listen_addresses", ""), ("shared_preload_libraries", "")] {
        ensure!(copy.sql(&format!("show {name}"))? == value, "{name}");
    }
    copy.restart()?;
    copy.stop(StopMode::Fast)?;
    ensure!(fs::read(&pid_file)? == b"production's\n", "the original's pid file was touched");

    // Production comes back as it was, and gets the row that the copy left alone.
    let main = cluster.pgdata().join("postgresql.conf");
    let text = fs::read_to_string(&main)?;
    let (before, _) = text.split_once("external_pid_file = '").context("the lines")?;
    sandbox.write(&main, before.as_bytes())?;
    cluster.start()?;
    wait::until("the second row arrives", || Ok(count(&cluster)? == "2"))
}

fn adopt(copy: &Cluster, options: &[&str]) -> Result<Ran> {
    let args = ["adopt", "--repo", copy.repo()?.arg()?, "-D", copy.pgdata_arg()?, "-U", "postgres"];
    copy.sandbox().run("recover", &[&args[..], options].concat())
}

/// The same, killed at some of its calls of files on the way; each call goes on from where the last one was killed.
fn adopt_with_kills(copy: &Cluster) -> Result<()> {
    let args = ["adopt", "--repo", copy.repo()?.arg()?, "-D", copy.pgdata_arg()?, "-U", "postgres", "--yes"];
    let record = copy.sandbox().path().join("copy.holdfast/adoption.json");
    let (mut kills, mut begun) = (0, false);
    for call in [4, 7, 11, 16, 20, 25] {
        let mut command = copy.sandbox().command(copy.sandbox().program("recover"))?;
        let ran = process::run(command.args(args).env("HOLDFAST_FAULT", format!("file:kill@{call}")), "")?;
        match ran.signal {
            Some(9) => kills += 1,
            _ => ensure!(ran.code == Some(0), "{ran}"),
        }
        begun |= record.exists();
        if begun && !record.exists() {
            break;
        }
    }
    ensure!(kills > 2, "killed {kills} times");
    if record.exists() { adopt(copy, &["--yes"])?.success().map(drop) } else { Ok(()) }
}

/// Nobody was promoted meanwhile: the copy's own way is archived, and an older backup leads to its present.
#[test]
fn hazard_23_an_adopted_copy_is_production() -> Result<()> {
    let (sandbox, repo, cluster) = archived_table()?;
    cluster.backup(&[])?;
    let copy = cluster.recover_copy("copy", &["--target-latest"])?;
    copy.sql("insert into t values (1001)")?;
    ensure!(copy.sql("show archive_mode")? == "off" && copy.timeline()? == 2);
    // While the old production server runs there would be two.
    adopt(&copy, &[])?.expect_code(20)?.says(&["own server runs on", cluster.pgdata_arg()?])?;
    ensure!(copy.sql("show archive_mode")? == "off" && repo.find_wal("00000003.history").is_none());
    adopt(&cluster, &["--yes"])?.expect_code(20)?.says(&["is no copy"])?;

    cluster.kill9()?;
    let ran = adopt(&copy, &["--yes"])?.success()?;
    ensure!(ran.stdout.contains("its WAL arrives in the repository"), "{ran}");
    copy.wait_promoted()?;
    ensure!(copy.timeline()? == 3 && copy.sql("show archive_mode")? == "on", "{ran}");
    ensure!(copy.sql("show listen_addresses; show hba_file")?.contains("copy/pg_hba.conf"), "{ran}");
    copy.sql("insert into t values (1002)")?;
    copy.switch_wal()?;
    for history in ["00000002.history", "00000003.history"] {
        ensure!(repo.find_wal(history).is_some(), "{history} is not archived");
    }
    // It is a copy no more: nothing undoes or adopts it.
    adopt(&copy, &["--yes"])?.expect_code(20)?.says(&["is no copy"])?;
    sandbox.run("recover", &["rollback", "-D", copy.pgdata_arg()?, "--repo", repo.arg()?, "--yes"])?.expect_code(20)?;
    let later = copy.recover_copy("later", &["--target-latest"])?;
    ensure!(later.sql("select count(*) from t")? == "1002" && later.timeline()? == 4);
    Ok(())
}

/// Production took the copy's number and archived on it: the copy goes on under another, and no recovery mixes the two.
#[test]
fn hazard_23_two_servers_on_one_number() -> Result<()> {
    let (_sandbox, repo, cluster) = archived_table()?;
    let old = cluster.backup(&[])?;
    let copy = cluster.recover_copy("copy", &["--target-latest"])?;
    copy.sql("insert into t values (1001), (1002), (1003)")?;
    cluster.recover(&["--target-latest"])?;
    cluster.sql("insert into t values (-1)")?;
    cluster.switch_wal()?;
    ensure!(cluster.timeline()? == 2 && copy.timeline()? == 2);
    cluster.stop(StopMode::Fast)?;

    adopt_with_kills(&copy)?;
    copy.wait_promoted()?;
    ensure!(copy.timeline()? == 4, "timeline {}", copy.timeline()?);
    ensure!(copy.sql("select count(*) from t")? == "1003");
    copy.switch_wal()?;
    // The old backup leads to production's own way alone.
    let theirs = copy.recover_copy("theirs", &["--backup", &old, "--target-timeline", "2"])?;
    ensure!(theirs.sql("select count(*) || ' ' || min(n) from t")? == "1001 -1");
    theirs.stop(StopMode::Immediate)?;
    let refused =
        super::copy_is_refused(&copy, "never", &["--backup", &old, "--target-timeline", "4"], &["timeline 4"])?;
    ensure!(refused.stderr.contains("lies on the way to timeline 4"), "{refused}");
    // A new one leads to the copy's.
    copy.backup(&[])?;
    copy.sql("insert into t values (1004)")?;
    let ours = copy.recover_copy("ours", &["--target-latest"])?;
    ensure!(ours.sql("select count(*) || ' ' || min(n) from t")? == "1004 1");
    // No number is left out among the histories: that would be a hole, at which recoveries stop.
    ensure!(repo.find_wal("00000003.history").is_some() && repo.find_wal("00000004.history").is_some());
    Ok(())
}
