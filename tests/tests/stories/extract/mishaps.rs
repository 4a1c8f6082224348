//! What cannot be had is explained; whatever goes wrong, nothing is left behind.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use e2e::process::Signal;
use e2e::{Cluster, Disk, Sandbox, disk, postgres, process, settings, wait};

use super::{Production, arguments, extract, nothing_left, scratch_folders};
use crate::hazards::archived_table;

/// Names that were not there, moments that cannot be reached, places that are taken.
#[test]
fn what_cannot_be_had_is_explained_and_leaves_nothing() -> Result<()> {
    let (sandbox, repo, cluster) = archived_table()?;
    cluster.backup(&[])?;
    cluster.sql("create schema sales; create table sales.orders as select 1 as n")?;
    let production = Production::look(&cluster, &[])?;
    let out = sandbox.path().join("out.sql");
    let out_arg = out.to_str().context("text")?;
    let refuse = |code: i32, words: &[&str], options: &[&str]| -> Result<()> {
        extract(&cluster, &[&["--output", out_arg], options].concat())?.expect_code(code)?.says(words)?;
        ensure!(!out.exists(), "{options:?} wrote a file");
        nothing_left(sandbox.path())
    };
    refuse(1, &["no table public.orders", "did you mean sales.orders"], &["-d", "postgres", "-t", "public.orders"])?;
    refuse(
        1,
        &["no table pg_catalog.pg_class"],
        &["-d", "postgres", "-t", "pg_catalog.pg_class", "--target-immediate"],
    )?;
    refuse(1, &["no database \"postgre\"", "did you mean \"postgres\""], &["--database", "postgre"])?;
    refuse(20, &["cannot be reached"], &["-d", "postgres", "-t", "t", "--target-xid", "4000000"])?;
    refuse(20, &["cannot be reached"], &["-d", "postgres", "-t", "t", "--target-time", "2099-01-01 00:00:00+00"])?;
    refuse(2, &["-d NAME"], &["-t", "t"])?;
    refuse(2, &[], &["-d", "postgres", "-t", "t", "--database", "postgres"])?;
    let table = ["-d", "postgres", "-t", "t", "--target-immediate", "--scratch"];
    refuse(20, &["lies in", "--scratch"], &[&table[..], &[cluster.pgdata_arg()?]].concat())?;
    refuse(20, &["lies in", "--scratch"], &[&table[..], &[repo.arg()?]].concat())?;
    refuse(2, &["--scratch"], &[&table[..], &["/nowhere"]].concat())?;
    refuse(1, &["nobody", "-U"], &["-d", "postgres", "-t", "t", "--target-immediate", "-U", "nobody"])?;
    production.is_untouched()?;
    sandbox.write(&out, b"precious")?;
    extract(&cluster, &["--output", out_arg, "-d", "postgres", "-t", "t"])?
        .expect_code(20)?
        .says(&["is there already"])?;
    ensure!(fs::read(&out)? == b"precious");
    Ok(())
}

/// PostgreSQL's programs, but with a `pg_dump` that never ends.
fn stuck_programs(sandbox: &Sandbox) -> Result<String> {
    let bin = sandbox.folder("stuck")?;
    for entry in fs::read_dir(postgres::bin_dir()?)? {
        let entry = entry?;
        if entry.file_name() != "pg_dump" {
            symlink(entry.path(), bin.join(entry.file_name()))?;
        }
    }
    let script = bin.join("pg_dump");
    sandbox.write(&script, b"#!/bin/sh\necho half\ntouch \"$(dirname \"$0\")/began\"\nexec sleep 600\n")?;
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let config = sandbox.path().join("stuck.toml");
    sandbox.write(&config, format!("[postgresql]\nbin-directory = \"{}\"\n", bin.display()).as_bytes())?;
    Ok(config.to_str().context("text")?.to_owned())
}

/// Starts an extraction, waits until its `pg_dump` has begun, and sends it a signal.
fn end_in_the_middle(cluster: &Cluster, options: &[&str], signal: Signal) -> Result<Option<i32>> {
    let sandbox = cluster.sandbox();
    let began = sandbox.path().join("stuck/began");
    sandbox.clear(&began)?;
    let mut command = sandbox.command(sandbox.program("recover"))?;
    command.args(arguments(cluster, options)?).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn()?;
    wait::until("the dump has begun", || {
        ensure!(child.try_wait()?.is_none(), "it ended before");
        Ok(began.exists())
    })?;
    ensure!(scratch_folders(sandbox.path())?.len() == 2, "a scratch folder and a half-written file");
    process::signal(i32::try_from(child.id())?, signal)?;
    Ok(child.wait()?.code())
}

/// Asked to end, it clears everything away; killed, the next one does it.
#[test]
fn however_it_is_ended_nothing_stays() -> Result<()> {
    let (sandbox, _, cluster) = archived_table()?;
    cluster.backup(&[])?;
    cluster.sql("insert into t values (1001)")?;
    let production = Production::look(&cluster, &[])?;
    let (stuck, out) = (stuck_programs(&sandbox)?, sandbox.path().join("out.sql"));
    let options = ["-d", "postgres", "-t", "t", "--output", out.to_str().context("text")?];
    let stuck_options = [&options[..], &["--config", &stuck]].concat();
    for (signal, code) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130)] {
        ensure!(end_in_the_middle(&cluster, &stuck_options, signal)? == Some(code));
        ensure!(!out.exists());
        production.is_untouched()?;
    }
    end_in_the_middle(&cluster, &stuck_options, Signal::SIGKILL)?;
    let left = scratch_folders(sandbox.path())?;
    ensure!(left.len() == 2 && left.iter().any(|path| path.join("data/postmaster.pid").exists()), "{left:?}");
    extract(&cluster, &options)?.success()?.says(&["a killed extraction had left"])?;
    production.is_untouched()?;
    ensure!(fs::read_to_string(&out)?.contains("\n1001\n"));
    Ok(())
}

/// The room is measured before, and what replay needs beyond that cannot be known: it ends, and clears up.
#[test]
fn a_full_disk_leaves_nothing() -> Result<()> {
    if !settings::has_root("a_full_disk_leaves_nothing") {
        return Ok(());
    }
    disk::in_private(|| {
        let (sandbox, _, cluster) = archived_table()?;
        cluster.backup(&[])?;
        cluster.sql("insert into t select generate_series(1, 900000)")?;
        let production = Production::look(&cluster, &[])?;
        let disk = Disk::new(&sandbox, "disk", "size=20m")?;
        let out = sandbox.path().join("out.sql");
        let (out_arg, disk_arg) = (out.to_str().context("text")?, disk.path().to_str().context("text")?);
        let options = ["-d", "postgres", "-t", "t", "--output", out_arg, "--scratch", disk_arg];
        extract(&cluster, &options)?.expect_code(20)?.says(&["has room for", "--scratch"])?;
        disk.resize("size=56m")?;
        let ran = extract(&cluster, &options)?.expect_code(1)?;
        // A server that could write half a page tells of that instead.
        let said = ran.stderr.to_lowercase();
        ensure!(said.contains("no space left") || said.contains("check free disk space"), "{ran}");
        ensure!(!out.exists() && fs::read_dir(disk.path())?.next().is_none(), "left on the disk");
        production.is_untouched()?;
        disk.resize("size=400m")?;
        extract(&cluster, &options)?.success()?;
        Ok(())
    })
}
