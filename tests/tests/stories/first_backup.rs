//! The spine: a backup under load, listed, verified, and brought back as a tree that PostgreSQL's own tools accept.

use anyhow::{Context, Result, ensure};
use e2e::cluster::Recipe;
use e2e::{Cluster, Repo, Sandbox, Workload, workload};
use rstest::rstest;

#[rstest]
#[case::checksums("zstd:1", true)]
#[case::lz4("lz4", true)]
#[case::no_checksums("gzip:1", false)]
fn a_backup_is_listed_verified_and_restored(#[case] compression: &str, #[case] checksums: bool) -> Result<()> {
    let sandbox = Sandbox::new()?;
    let repo = Repo::new(&sandbox, "repo")?;
    let recipe = Recipe::new("pg").archived_to(&repo);
    let cluster = if checksums { recipe } else { recipe.no_checksums() }.start(&sandbox)?;
    workload::create_schema(&cluster)?;
    cluster.sql("create unlogged table scratch as select generate_series(1, 1000) as n")?;
    let load = Workload::start(&cluster, 2)?;
    load.wait_for(&cluster, 50)?;
    let id = cluster.backup(&["-j", "2", "-l", "the first one", "-Z", compression])?;
    load.wait_for(&cluster, 20)?;
    load.stop()?;
    cluster.switch_wal()?;
    ensure!(repo.backups() == [id.clone()], "{:?} is not {id} alone", repo.backups());

    let repo_arg = repo.arg()?;
    let table = sandbox.run("basebackup", &["list", "--repo", repo_arg])?.success()?;
    ensure!(table.stdout.contains(&id) && table.stdout.contains("the first one"), "{table}");
    let document = sandbox.run("basebackup", &["list", "--json", "--repo", repo_arg])?.success()?.json()?;
    ensure!(document.to_string().contains(&id), "{document}");
    sandbox.run("verify", &["backup", &id, "--repo", repo_arg])?.success()?;
    sandbox.run("verify", &["backup", "--all", "--json", "--repo", repo_arg])?.success()?.json()?;
    sandbox.run("recover", &["list", "--repo", repo_arg])?.success()?;
    sandbox.run("recover", &["windows", "--json", "--repo", repo_arg])?.success()?.json()?;

    let copy = Cluster::at(&sandbox, &sandbox.path().join("copy"), Some(&repo));
    let port = sandbox.new_port().to_string();
    copy.try_recover(&["--as", "copy", "--port", &port, "--target-latest", "--no-start"])?.success()?;
    sandbox.run_other("pg_verifybackup", &["-n", copy.pgdata_arg()?])?.success()?;
    copy.start()?;
    copy.wait_promoted()?;
    workload::same_orders(&workload::orders(&copy)?, &workload::orders(&cluster)?)?;
    ensure!(copy.sql("select count(*) from scratch")? == "0", "an unlogged table is empty after a crash");
    ensure!(copy.sql("show archive_mode")? == "off", "a copy must not archive");
    Ok(())
}

/// Damage anywhere in a backup's data is found, and told by the exit status.
#[test]
fn verify_finds_damage() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let repo = Repo::new(&sandbox, "repo")?;
    let cluster = Recipe::new("pg").archived_to(&repo).start(&sandbox)?;
    let id = cluster.backup(&[])?;
    let verify = || sandbox.run("verify", &["backup", &id, "--repo", repo.arg()?]);
    verify()?.success()?;
    for prefix in ["part-00001", "index", "backup_manifest"] {
        let object = repo.backup_object(&id, prefix)?;
        let sound = std::fs::read(&object)?;
        for part in 1..4 {
            repo.flip(&object, part * sound.len() / 4)?;
            verify()?.expect_code(3).with_context(|| format!("a flipped bit in {}", object.display()))?;
            repo.replace(&object, &sound)?;
        }
        repo.truncate(&object, sound.len() - 1)?;
        verify()?.expect_code(3).with_context(|| format!("{} cut short", object.display()))?;
        repo.remove(&object)?;
        verify()?.expect_code(3).with_context(|| format!("{} removed", object.display()))?;
        repo.replace(&object, &sound)?;
    }
    verify()?.success()?;
    Ok(())
}

/// Tablespaces are part of a backup; a copy gets folders of its own, or is refused.
#[test]
fn a_copy_never_shares_a_tablespace() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let repo = Repo::new(&sandbox, "repo")?;
    let cluster = Recipe::new("pg").archived_to(&repo).start(&sandbox)?;
    let (old, new) = (sandbox.folder("space")?, sandbox.path().join("copied_space"));
    cluster.sql(&format!("create tablespace fast location '{}'", old.display()))?;
    cluster.sql("create table t tablespace fast as select generate_series(1, 5000) as n")?;
    cluster.backup(&[])?;
    cluster.sql("insert into t select generate_series(1, 1000)")?;
    cluster.switch_wal()?;

    let never = Cluster::at(&sandbox, &sandbox.path().join("never"), Some(&repo));
    let refused = never.try_recover(&["--as", "copy", "--port", "5999", "--target-latest"])?;
    ensure!(refused.code.is_some_and(|code| code != 0) && !never.pgdata().exists(), "{refused}");
    let mapping = format!("{}={}", old.display(), new.display());
    let copy = cluster.recover_copy("copy", &["--target-latest", "-T", &mapping])?;
    ensure!(copy.sql("select count(*) from t")? == "6000");
    copy.sql("insert into t select generate_series(1, 1000)")?;
    ensure!(!e2e::sandbox::walk(&new).is_empty(), "the copy's tablespace is not in {}", new.display());
    ensure!(cluster.sql("select count(*) from t")? == "6000");
    Ok(())
}
