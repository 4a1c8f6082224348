//! What other tools get wrong in `verify` and `restore`, and no other story tells.

use anyhow::{Context, Result, ensure};
use e2e::StopMode;
use e2e::repository::fingerprint;

use super::{archived_table, unchanged};

/// A backup whose own WAL is gone, or damaged, restores nothing: verify says so.
#[test]
fn verify_finds_a_hole_in_the_backups_own_wal() -> Result<()> {
    let (sandbox, repo, cluster) = archived_table()?;
    let id = cluster.backup(&[])?;
    cluster.switch_wal()?;
    let verify = || sandbox.run("verify", &["backup", &id, "--repo", repo.arg()?]);
    verify()?.success()?;
    // The backup began in the segment that its history file is named after.
    let objects = repo.wal_objects();
    let history = objects.keys().find(|name| name.ends_with(".backup")).context("a backup history file")?;
    let segment = history.get(..24).context("a segment's name")?;
    let object = repo.wal(segment)?;
    let sound = std::fs::read(&object)?;
    repo.flip(&object, sound.len() / 2)?;
    let ran = verify()?.expect_code(3)?;
    ensure!(ran.to_string().contains(segment), "{ran}");
    repo.remove(&object)?;
    let ran = verify()?.expect_code(3)?;
    ensure!(ran.to_string().contains(segment), "{ran}");
    repo.replace(&object, &sound)?;
    verify()?.success()?;
    Ok(())
}

/// A target past the archive's end, in place on a stopped server: refused, and not a byte is touched.
#[test]
fn a_target_beyond_the_archive_touches_nothing_in_place() -> Result<()> {
    let (_, repo, cluster) = archived_table()?;
    cluster.backup(&[])?;
    cluster.switch_wal()?;
    cluster.stop(StopMode::Fast)?;
    let (before, archive) = (fingerprint(cluster.pgdata())?, repo.fingerprint()?);
    for target in [["--target-lsn", "FF/0"], ["--target-time", "2099-01-01 00:00:00+00"], ["--target-xid", "4000000"]] {
        let ran = cluster.try_recover(&target)?;
        ensure!(ran.code.is_some_and(|code| code != 0), "{ran}");
        unchanged(&before, &fingerprint(cluster.pgdata())?)?;
        unchanged(&archive, &repo.fingerprint()?)?;
    }
    cluster.start()?;
    ensure!(cluster.sql("select count(*) from t")? == "1000");
    Ok(())
}

/// In place and complete: what was restored passes PostgreSQL's own check, byte for byte.
#[test]
fn a_cluster_restored_in_place_passes_pg_verifybackup() -> Result<()> {
    let (sandbox, _, cluster) = archived_table()?;
    cluster.backup(&[])?;
    cluster.sql("insert into t select generate_series(1, 1000)")?;
    cluster.try_recover(&["--target-latest", "--no-start"])?.success()?;
    sandbox.run_other("pg_verifybackup", &["-n", cluster.pgdata_arg()?])?.success()?;
    Ok(())
}
