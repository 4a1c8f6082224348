//! What retention leaves can still be recovered, and nothing goes before it was said.

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use common::repo::envelope;
use common::repo::records::{BackupRecord, LeaseRecord};
use e2e::cluster::Recipe;
use e2e::faults::Rehearsal;
use e2e::{Cluster, Repo, Sandbox, Workload, wait, workload};

#[test]
fn the_last_backup_still_recovers() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let repo = Repo::new(&sandbox, "repo")?;
    let cluster = Recipe::new("pg").segment_mb(1).archived_to(&repo).start(&sandbox)?;
    workload::create_schema(&cluster)?;
    let load = Workload::start(&cluster, 1)?;
    let mut ids = Vec::new();
    for _ in 0..3 {
        load.wait_for(&cluster, 20)?;
        cluster.switch_wal()?;
        ids.push(cluster.backup(&[])?);
    }
    load.wait_for(&cluster, 20)?;
    load.stop()?;
    let last = cluster.switch_wal()?;
    ensure!(repo.backups() == ids, "three backups in order: {:?}", repo.backups());

    let retention = |options: &[&str]| sandbox.run("retention", &[&["--repo", repo.arg()?], options].concat());
    let before = repo.fingerprint()?;
    let plan = retention(&["--keep-last", "1", "--dry-run"])?.success()?;
    ensure!(ids.iter().all(|id| plan.stdout.contains(id)), "every backup has its line: {plan}");
    retention(&["--keep-last", "1", "--dry-run", "--json"])?.success()?.json()?;
    ensure!(repo.fingerprint()? == before, "a dry run changed the repository");
    let none = retention(&["--keep-last", "0"])?;
    ensure!(none.code.is_some_and(|code| code != 0), "keeping nothing: {none}");
    ensure!(repo.fingerprint()? == before);

    let first_segment = repo.segments().first().cloned().context("a segment")?;
    retention(&["--keep-last", "1"])?.success()?;
    ensure!(repo.backups() == ids.get(2..).unwrap_or_default(), "{:?}", repo.backups());
    ensure!(repo.find_wal(&first_segment).is_none(), "{first_segment} is of no use any more");
    ensure!(repo.find_wal(&last).is_some());
    let id = ids.last().context("three backups")?;
    sandbox.run("verify", &["backup", id, "--repo", repo.arg()?])?.success()?;
    // Again, there is nothing left to do.
    let after = repo.fingerprint()?;
    retention(&["--keep-last", "1"])?.success()?;
    ensure!(repo.backups().len() == 1 && repo.fingerprint()? == after);

    let copy = cluster.recover_copy("copy", &["--target-latest"])?;
    workload::same_orders(&workload::orders(&copy)?, &workload::orders(&cluster)?)
}

/// The leases that lie in the repository.
fn leases(repo: &Repo) -> Vec<PathBuf> {
    let found = e2e::sandbox::walk(&repo.path().join("main/lease")).into_iter();
    found.filter(|path| path.extension().is_some_and(|end| end == "json")).collect()
}

/// A lease that was left for a server, or by a process that was killed, ends with the recovery, not a day later.
#[test]
fn what_a_recovery_has_left_ends_with_it() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let repo = Repo::new(&sandbox, "repo")?;
    let cluster = Recipe::new("pg").segment_mb(1).archived_to(&repo).start(&sandbox)?;
    cluster.backup(&[])?;
    let copy = Cluster::at(&sandbox, &sandbox.path().join("copy"), Some(&repo));
    let command = |words: &[&str]| {
        let place = ["-D", copy.pgdata_arg()?, "--repo", repo.arg()?, "--yes"];
        anyhow::Ok(Rehearsal::new(&sandbox, "recover", &[words, &place].concat()))
    };
    let start = ["run", "--as", "copy", "-p", "5999", "--target-immediate"];
    let files = command(&[&start[..], &["--no-start"]].concat())?;
    files.run()?.success()?;
    ensure!(leases(&repo).len() == 1, "its server is yet to start: {:?}", leases(&repo));
    command(&["rollback"])?.run()?.success()?;
    ensure!(leases(&repo).is_empty(), "left after a rollback: {:?}", leases(&repo));

    // One that nobody could give up while the repository was away goes with the clearing up.
    files.run()?.success()?;
    let away = repo.take_away()?;
    command(&["rollback"])?.run()?.success()?.says(&["lease stays"])?;
    away.bring_back()?;
    ensure!(leases(&repo).len() == 1);
    command(&["cleanup"])?.run()?.success()?;
    ensure!(leases(&repo).is_empty(), "left after a cleanup: {:?}", leases(&repo));

    let killed = command(&start)?.killed_at(1, "rename to *server.log")?;
    ensure!(killed.is_some() && leases(&repo).len() == 1, "a dead one's holds: {:?}", leases(&repo));
    command(&["run", "--resume"])?.run()?.success()?;
    ensure!(leases(&repo).is_empty(), "left when all is over: {:?}", leases(&repo));
    Ok(())
}

/// A restore goes on while retention runs; then it is killed, and what it was reading stays until its lease expires.
#[test]
fn what_a_restore_reads_stays() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let repo = Repo::new(&sandbox, "repo")?;
    let cluster = Recipe::new("pg").segment_mb(1).archived_to(&repo).start(&sandbox)?;
    let old = cluster.backup(&[])?;
    cluster.switch_wal()?;
    let new = cluster.backup(&[])?;
    let record: BackupRecord =
        envelope::open(&std::fs::read(repo.path().join(format!("main/backup/{old}/backup.json")))?)?;
    let first = record.span.first_segment(record.source.segment_size).to_string();
    let leases = || leases(&repo);
    let retention = || {
        let ran = sandbox.run("retention", &["--repo", repo.arg()?, "--keep-last", "1", "--json"])?.success()?;
        let wal = repo.find_wal(&first).is_some();
        anyhow::Ok((repo.backups().contains(&old), wal, ran.stdout.contains("holds a lease until")))
    };

    // Every call to the repository takes a while, so that the restore is in the middle of it.
    let place = |name: &str| anyhow::Ok(sandbox.path().join(name).to_str().context("text")?.to_owned());
    let (copy, other) = (sandbox.path().join("copy"), place("other")?);
    let args = ["run", "--repo", repo.arg()?, "--as", "copy", "-p", "5999", "--backup", &old, "--yes", "-D"];
    let mut slow = sandbox.command(sandbox.program("recover"))?;
    let mut restore = slow.args(args).arg(&copy).env("HOLDFAST_FAULT", "store:slow@200").spawn()?;
    wait::until("the restore holds a lease", || Ok(leases().len() == 1))?;
    ensure!(retention()? == (true, true, true), "gone while somebody restores from it: {old}");
    restore.kill()?;
    restore.wait()?;
    ensure!(!copy.join("postmaster.pid").exists(), "the restore was over already");
    ensure!(retention()? == (true, true, true), "gone while a dead restore's lease holds: {old}");

    // Another one goes all the way, and gives up its own lease; the dead one's is as it was, until it expires.
    sandbox.run("recover", &[&args[..], &[&other]].concat())?.success()?;
    let [lease] = &leases()[..] else { bail!("leases are left: {:?}", leases()) };
    let mut record: LeaseRecord = envelope::open(&std::fs::read(lease)?)?;
    record.expires_at = record.taken_at;
    repo.replace(lease, &envelope::seal(&record)?)?;
    ensure!(retention()? == (false, false, false), "kept for a lease that has expired: {old}");
    ensure!(leases().is_empty() && repo.backups() == [new], "{:?}", repo.backups());
    Ok(())
}
