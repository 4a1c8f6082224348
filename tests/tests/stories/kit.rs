//! The kit itself: what it calls the truth must be true without any of Holdfast's programs.

use anyhow::{Result, ensure};
use e2e::cluster::Recipe;
use e2e::power::PowerDisk;
use e2e::{Oracle, Repo, Sandbox, Workload, disk, settings, workload};

/// After a crash and PostgreSQL's own recovery the database holds what the oracle reads in the WAL, and every
/// transaction whose commit was acknowledged.
#[test]
fn the_oracle_agrees_with_a_crashed_server() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let empty = Repo::new(&sandbox, "empty")?;
    let cluster = Recipe::new("pg").segment_mb(1).set("wal_keep_size", "1GB").start(&sandbox)?;
    workload::create_schema(&cluster)?;
    let load = Workload::start(&cluster, 2)?;
    load.wait_for(&cluster, 50)?;
    cluster.kill9()?;
    let acknowledged = load.stop()?;
    ensure!(!cluster.is_running());
    cluster.start()?;

    let oracle = Oracle::read(&sandbox, &empty, Some(&cluster.pgdata().join("pg_wal")), 1)?;
    let found = workload::orders(&cluster)?;
    workload::same_orders(&found, &oracle.all())?;
    ensure!(acknowledged.is_subset(&found), "acknowledged orders are lost");
    ensure!(oracle.endings().iter().any(|ending| ending.load && !ending.committed), "the load never rolls back");
    Ok(())
}

/// What a story leaves running is stopped, and its folder removed, when the story ends.
#[test]
fn nothing_is_left_behind() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let folder = sandbox.path().to_owned();
    let cluster = Recipe::new("pg").segment_mb(1).start(&sandbox)?;
    let server = cluster.pid()?;
    drop((cluster, sandbox));
    ensure!(!folder.exists() && !e2e::process::alive(server));
    Ok(())
}

/// A story of power cuts could notice a sync that is missing.
#[test]
fn a_power_cut_loses_what_was_not_synced() -> Result<()> {
    if !settings::has_root("a_power_cut_loses_what_was_not_synced") {
        return Ok(());
    }
    disk::in_private(|| {
        let sandbox = Sandbox::in_memory()?;
        let disk = PowerDisk::new(&sandbox, "disk", 16)?;
        let content = vec![7; 100_000];
        let (synced, nameless, lost) = (disk.path().join("a"), disk.path().join("b"), disk.path().join("c"));
        let sync = |path: &std::path::Path| sandbox.run_other("sync", &[path.to_str().unwrap_or_default()])?.success();
        sandbox.write(&synced, &content)?;
        sync(&synced)?;
        sync(disk.path())?;
        // The bytes are not synced, though the folder is.
        sandbox.write(&nameless, &content)?;
        sync(disk.path())?;
        sandbox.write(&lost, &content)?;
        ensure!(std::fs::read(&lost)? == content);
        disk.cut()?;
        ensure!(std::fs::File::create(disk.path().join("d")).is_err(), "the disk has power");
        disk.power_up()?;
        ensure!(std::fs::read(&synced)? == content, "what was synced is lost");
        ensure!(std::fs::read(&nameless)? != content, "bytes that nobody synced are there");
        ensure!(!lost.exists(), "a name that nobody synced is there");
        Ok(())
    })
}

/// What a story of system calls plans is what the program meets, and nothing else.
#[cfg(target_arch = "x86_64")]
#[test]
fn a_call_that_fails_on_purpose_is_the_one_that_was_named() -> Result<()> {
    use e2e::faults::Rehearsal;
    use e2e::syscalls::{self, Deed, ERRORS, Fault};
    use nix::sys::signal::Signal;

    let sandbox = Sandbox::in_memory()?;
    let path = sandbox.path().join("holdfast.toml");
    sandbox.write(&path, b"")?;
    let config = path.to_str().unwrap_or_default();
    let command =
        Rehearsal::new(&sandbox, "retention", &["--config", config, "--repo", "/nowhere", "--keep-last", "1"]);
    let calls = syscalls::calls(&command, 10)?;
    let reads = calls.iter().find(|call| call.what == "open" && call.name == config);
    let call = reads.ok_or_else(|| anyhow::anyhow!("the configuration is not opened: {calls:?}"))?;
    // The standard library opens again after an interruption.
    let said = [(2, "input/output error"), (2, "no space left"), (2, "permission denied"), (10, "/nowhere")];
    for (errno, (code, words)) in ERRORS.into_iter().zip(said) {
        let fault = Fault { call: call.clone(), deed: Deed::Fail(errno) };
        let traced = syscalls::suffer(&command, &fault)?.ok_or_else(|| anyhow::anyhow!("not reached"))?;
        let hit: Vec<_> = traced.calls.iter().filter(|found| found.failed && found.name == config).collect();
        ensure!(hit.len() == 1 && hit[0].what == "open", "{hit:?}");
        traced.ran.expect_code(code)?.says(&[words])?;
    }
    let fault = Fault { call: call.clone(), deed: Deed::Signal(Signal::SIGKILL) };
    let traced = syscalls::suffer(&command, &fault)?.ok_or_else(|| anyhow::anyhow!("not reached"))?;
    ensure!(traced.ran.signal == Some(9) && traced.calls.last().is_some_and(|last| last.name == config));
    Ok(())
}
