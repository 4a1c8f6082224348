//! One call archives what is ready; the later ones find that it is.

use std::fs::{self, File};

use anyhow::{Result, ensure};
use e2e::{Repo, StopMode, wait};

use super::Backlog;

const EARLIER: &str = "was archived by an earlier call";

#[test]
fn one_call_archives_what_is_ready() -> Result<()> {
    let backlog = Backlog::of(10)?;
    let before = (backlog.marks(".ready")?, backlog.marks(".done")?);
    backlog.archive(0, &["--batch", "8"])?.success()?;
    ensure!(backlog.repo.segments() == backlog.ready[..8], "archived: {:?}", backlog.repo.segments());
    backlog.holds(&backlog.repo, &backlog.ready[..8])?;
    ensure!((backlog.marks(".ready")?, backlog.marks(".done")?) == before, "the server's marks were touched");
    for number in 1..8 {
        backlog.archive(number, &["-vv"])?.success()?.says(&[EARLIER])?;
    }
    // It is consumed: the next call looks into the repository again.
    let again = backlog.archive(1, &["-vv", "--batch", "1"])?.success()?;
    ensure!(!again.stderr.contains(EARLIER), "an acknowledgement was used twice: {again}");
    ensure!(backlog.repo.segments().len() == 8, "archived: {:?}", backlog.repo.segments());
    Ok(())
}

#[test]
fn histories_go_first() -> Result<()> {
    let backlog = Backlog::of(4)?;
    let pg_wal = backlog.cluster.pgdata().join("pg_wal");
    backlog.sandbox.write(&pg_wal.join("00000002.history"), b"1\t0/3000000\tno reason\n")?;
    backlog.sandbox.write(&pg_wal.join("archive_status/00000002.history.ready"), b"")?;
    backlog.archive(1, &["--batch", "3"])?.success()?;
    let archived: Vec<String> = backlog.repo.wal_objects().into_keys().collect();
    ensure!(archived == [backlog.ready(0)?, backlog.ready(1)?, "00000002.history"], "archived: {archived:?}");
    Ok(())
}

/// What was acknowledged for one set of repositories says nothing about another.
#[test]
fn hazard_17_an_acknowledgement_is_for_these_repositories_alone() -> Result<()> {
    let backlog = Backlog::of(4)?;
    let second = Repo::new(&backlog.sandbox, "second")?;
    backlog.archive(0, &["--batch", "8"])?.success()?;
    let both = ["--repo", backlog.repo.arg()?, "--repo", second.arg()?, "--batch", "1"];
    backlog.archive(1, &both)?.success()?;
    backlog.holds(&second, &backlog.ready[1..2])?;

    // Another repository at the same place.
    backlog.repo.forget()?;
    backlog.archive(2, &["--batch", "1"])?.success()?;
    backlog.holds(&backlog.repo, &backlog.ready[2..3])?;

    // Another cluster's place in it.
    backlog.archive(3, &["--batch", "1", "--cluster", "other"])?.success()?;
    ensure!(backlog.repo.path().join("other/wal").exists(), "nothing was archived under the other name");
    Ok(())
}

#[test]
fn a_changed_file_is_looked_at_again() -> Result<()> {
    let backlog = Backlog::of(3)?;
    backlog.cluster.stop(StopMode::Immediate)?;
    backlog.archive(0, &["--batch", "3"])?.success()?;
    let path = backlog.cluster.pgdata().join("pg_wal").join(backlog.ready(1)?);
    let mut bytes = fs::read(&path)?;
    bytes[5_000] ^= 1;
    backlog.sandbox.write(&path, &bytes)?;
    backlog.archive(1, &[])?.expect_code(20)?.says(&["different contents"])?;
    // Touched and otherwise the same.
    let path = backlog.cluster.pgdata().join("pg_wal").join(backlog.ready(2)?);
    File::options().write(true).open(&path)?.set_modified(fs::metadata(&path)?.modified()?)?;
    let ran = backlog.archive(2, &["-vv"])?.success()?;
    ensure!(!ran.stderr.contains(EARLIER), "{ran}");
    Ok(())
}

/// Without its spool a call costs a look into the repository and nothing else.
#[test]
fn the_spool_may_go_at_any_moment() -> Result<()> {
    let backlog = Backlog::of(4)?;
    let spool = backlog.cluster.pgdata().with_extension("holdfast");
    backlog.archive(0, &["--batch", "4"])?.success()?;
    ensure!(spool.exists(), "the spool lies elsewhere");
    backlog.sandbox.clear(&spool)?;
    backlog.archive(1, &[])?.success()?;
    // A file in its place, and no room for it anywhere near.
    backlog.sandbox.clear(&spool)?;
    backlog.sandbox.write(&spool, b"in the way")?;
    for number in 2..4 {
        backlog.archive(number, &[])?.success()?;
    }
    backlog.holds(&backlog.repo, &backlog.ready)
}

/// One that cannot be archived does not hold the others up, and its own call says why.
#[test]
fn one_bad_file_is_its_own_affair() -> Result<()> {
    let backlog = Backlog::of(4)?;
    backlog.cluster.stop(StopMode::Immediate)?;
    let path = backlog.cluster.pgdata().join("pg_wal").join(backlog.ready(1)?);
    backlog.sandbox.write(&path, b"no WAL")?;
    let ran = backlog.archive(0, &["--batch", "4"])?.success()?;
    ensure!(ran.stderr.is_empty(), "one call, one answer: {ran}");
    let archived = backlog.repo.segments();
    ensure!(archived == [&backlog.ready[..1], &backlog.ready[2..]].concat(), "archived: {archived:?}");
    backlog.archive(1, &[])?.expect_code(20)?;
    Ok(())
}

/// A standby that archives all it receives, and its primary, each into a repository of its own.
#[test]
fn a_standby_that_always_archives_keeps_up() -> Result<()> {
    let backlog = Backlog::of(6)?;
    let (primary, own) = (&backlog.cluster, Repo::new(&backlog.sandbox, "standbys")?);
    primary.set("archive_command", &e2e::cluster::archive_command(&backlog.sandbox, &backlog.repo)?)?;
    primary.switch_wal()?;
    let standby = primary.standby("standby", true)?;
    standby.stop(StopMode::Fast)?;
    let command = e2e::cluster::archive_command(&backlog.sandbox, &own)?;
    standby.configure(&[("archive_mode".into(), "always".into()), ("archive_command".into(), command)])?;
    standby.start()?;
    for _ in 0..5 {
        primary.sql("insert into t select n, md5(n::text) from generate_series(1, 500) n")?;
        primary.switch_wal()?;
    }
    let last = primary.switch_wal()?;
    wait::until("the standby has archived it too", || Ok(own.find_wal(&last).is_some()))?;
    for (name, object) in own.wal_objects() {
        let theirs = backlog.repo.unpack(&backlog.repo.wal(&name)?)?;
        ensure!(own.unpack(&object)? == theirs, "{name} is another one in the standby's repository");
    }
    Ok(())
}
