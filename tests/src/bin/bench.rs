//! The benchmark: Holdfast beside a shell pipe and pgBackRest, on one cluster, in turns.
//!
//! Everything is real and thrown away afterwards. Standard output is the report in Markdown; what is being done goes to
//! standard error.

use std::os::unix::fs::PermissionsExt;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use e2e::account::Account;
use e2e::bench::rival::PgBackRest;
use e2e::bench::stage::{Stage, configure};
use e2e::bench::{Terms, dense, drain, memory, proof, replay, report, wal, wants, whole};
use e2e::{Sandbox, settings};
use nix::unistd::Uid;

fn main() -> ExitCode {
    let done = if Uid::effective().is_root() { as_the_servers_account() } else { bench() };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            settings::tell(&format!("the benchmark failed: {error:?}"));
            ExitCode::FAILURE
        }
    }
}

/// Started by root, everything runs as the servers' account from the beginning, so that no change of account is in the
/// times.
fn as_the_servers_account() -> Result<()> {
    let account = Account::for_tests()?;
    let sandbox = Sandbox::new()?;
    let own = sandbox.path().join("holdfast-bench");
    std::fs::copy(std::env::current_exe()?, &own).context("copy this program to where the account can go")?;
    std::fs::set_permissions(&own, std::fs::Permissions::from_mode(0o755))?;
    let mut command = account.command(&own);
    let programs = sandbox.program("archive-wal");
    command.env("HOLDFAST_TEST_BIN", programs.parent().context("programs lie in a folder")?);
    if let Some(program) = std::env::var_os(replay::SLOW_PROGRAM) {
        let staged = sandbox.path().join("restore-wal-slow");
        std::fs::copy(&program, &staged).context("copy the slow restore-wal to where the account can go")?;
        std::fs::set_permissions(&staged, std::fs::Permissions::from_mode(0o755))?;
        command.env(replay::SLOW_PROGRAM, staged);
    }
    let status = command.status().context("start the benchmark")?;
    ensure!(status.success(), "{status}");
    Ok(())
}

fn bench() -> Result<()> {
    let (terms, sandbox) = (Terms::from_environment(), Sandbox::new()?);
    settings::tell("making the cluster");
    let dense = dense::make(&sandbox, terms.table_mb)?;
    let rival = PgBackRest::set_up(&sandbox, &dense.cluster, terms)?;
    let repo = configure(&sandbox, "repository", terms.level)?;
    let stage = Stage { sandbox: &sandbox, dense: &dense, rival: rival.as_ref(), terms };
    report::print("## Terms\n\n");
    report::print(&report::terms(&stage)?);
    report::print("\n## Figures\n");
    if wants("wal") {
        settings::tell("one segment");
        report::print(&wal::rows(&stage, &repo)?);
    }
    if wants("drain") {
        settings::tell("a backlog");
        report::print(&drain::rows(&stage)?);
        report::print(&drain::keeping_up(&stage)?);
    }
    if wants("replay") {
        settings::tell("replay");
        report::print(&replay::rows(&stage)?);
    }
    if wants("whole") {
        settings::tell("the whole cluster");
        report::print(&whole::rows(&stage, &repo)?);
    }
    if wants("proof") {
        settings::tell("the proof of a target");
        report::print(&proof::rows(&stage)?);
    }
    if wants("memory") {
        settings::tell("memory");
        report::print(&memory::rows(&stage)?);
        report::print(&memory::wide_rows(&stage)?);
    }
    Ok(())
}
