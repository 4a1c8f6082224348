//! Several repositories: all are written, and the first that has a good copy is read. One that is missing is missed.

use std::fs;

use anyhow::{Context, Result, ensure};
use e2e::cluster::Recipe;
use e2e::{Cluster, Repo, Sandbox};

use super::Backlog;

/// A backlog of four segments that lies in two repositories, and a server's directory that recovers from there.
fn mirrored() -> Result<(Backlog, Repo, Cluster)> {
    let backlog = Backlog::of(4)?;
    let second = Repo::new(&backlog.sandbox, "second")?;
    backlog.archive(0, &["--repo", backlog.repo.arg()?, "--repo", second.arg()?, "--batch", "4"])?.success()?;
    let node = backlog.cluster.bare_node("node")?;
    Ok((backlog, second, node))
}

fn fetch(backlog: &Backlog, second: &Repo, node: &Cluster, number: usize) -> Result<e2e::Ran> {
    let repos = ["--repo", backlog.repo.arg()?, "--repo", second.arg()?];
    let destination = node.pgdata().join("pg_wal/RECOVERYXLOG");
    backlog.sandbox.clear(&destination)?;
    let name = backlog.ready(number)?;
    let ran = backlog.sandbox.run_in(
        node.pgdata(),
        "restore-wal",
        &[repos.as_slice(), &[name, "pg_wal/RECOVERYXLOG"]].concat(),
    )?;
    if ran.code == Some(0) {
        let archived = fs::read(backlog.cluster.pgdata().join("pg_wal").join(name))?;
        ensure!(fs::read(destination)? == archived, "wrong bytes for {name}");
    }
    Ok(ran)
}

#[test]
fn every_repository_gets_every_file() -> Result<()> {
    let (backlog, second, _) = mirrored()?;
    backlog.holds(&backlog.repo, &backlog.ready)?;
    backlog.holds(&second, &backlog.ready)
}

/// Unless all accept the answer is no; the file is in the others all the same, and the next call finishes the work.
#[test]
fn all_must_accept() -> Result<()> {
    let backlog = Backlog::of(2)?;
    let second = Repo::new(&backlog.sandbox, "second")?;
    let both = ["--repo", backlog.repo.arg()?, "--repo", second.arg()?];
    let in_the_way = second.path().join("holdfast.json");
    backlog.sandbox.write(&in_the_way, b"no record")?;
    let ran = backlog.archive(0, &both)?;
    ensure!(ran.code.is_some_and(|code| (1..=125).contains(&code)), "{ran}");
    backlog.sandbox.clear(&in_the_way)?;
    backlog.archive(0, &both)?.success()?;
    backlog.holds(&backlog.repo, &backlog.ready)?;
    backlog.holds(&second, &backlog.ready)
}

#[test]
fn the_next_repository_stands_in() -> Result<()> {
    let (backlog, second, node) = mirrored()?;
    let damaged = backlog.repo.wal(backlog.ready(0)?)?;
    backlog.repo.flip(&damaged, 2000)?;
    let told = fetch(&backlog, &second, &node, 0)?.success()?;
    told.says(&[backlog.ready(0)?, "is damaged", "another repository has it"])?;
    let again = fetch(&backlog, &second, &node, 0)?.success()?;
    ensure!(again.stderr.is_empty(), "told twice: {again}");
    backlog.repo.remove(&backlog.repo.wal(backlog.ready(1)?)?)?;
    let ran = fetch(&backlog, &second, &node, 1)?.success()?;
    ensure!(ran.stderr.is_empty(), "{ran}");

    let away = backlog.repo.take_away()?;
    let told = fetch(&backlog, &second, &node, 2)?.success()?;
    told.says(&["there is no repository at", "another repository has it"])?;
    let again = fetch(&backlog, &second, &node, 3)?.success()?;
    ensure!(again.stderr.is_empty(), "told twice: {again}");

    // Nobody can say that what the second one lacks does not exist.
    second.remove(&second.wal(backlog.ready(3)?)?)?;
    fetch(&backlog, &second, &node, 3)?.stops_recovery()?;
    away.bring_back()?;
    fetch(&backlog, &second, &node, 3)?.success()?;
    Ok(())
}

/// An empty folder where a repository used to be is a disk that is not mounted.
#[test]
fn an_empty_mount_point_is_no_new_repository() -> Result<()> {
    let (backlog, _, node) = mirrored()?;
    backlog.archive(0, &[])?.success()?;
    let away = backlog.repo.take_away()?;
    let empty = Repo::new(&backlog.sandbox, "repo")?;
    backlog.archive(1, &[])?.expect_code(10)?.says(&["where there was one since", "hint: mount its file system"])?;
    ensure!(empty.objects().is_empty(), "something was written: {:?}", empty.objects());
    let args = ["--repo", empty.arg()?, backlog.ready(0)?, "pg_wal/RECOVERYXLOG"];
    backlog.sandbox.run_in(node.pgdata(), "restore-wal", &args)?.stops_recovery()?;
    // A backup, which would make a repository as well.
    let ran = backlog.cluster.try_backup(&[])?;
    ensure!(ran.code != Some(0) && empty.objects().is_empty(), "{ran}");
    away.bring_back()?;
    backlog.archive(1, &[])?.success()?;
    Ok(())
}

#[test]
fn a_repository_that_must_not_be_made_is_not_made() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let repo = Repo::new(&sandbox, "repo")?;
    let cluster = Recipe::new("pg").segment_mb(1).archived_to(&repo).set("archive_command", "").start(&sandbox)?;
    let path = format!("pg_wal/{}", cluster.end_segment()?);
    let config = sandbox.path().join("create.toml");
    let archive = |create: bool| {
        let text = format!("[[repository]]\nurl = \"{}\"\ncreate = {create}\n", repo.arg()?);
        sandbox.write(&config, text.as_bytes())?;
        let config = config.to_str().context("a path of a test is text")?;
        sandbox.run_in(cluster.pgdata(), "archive-wal", &["--config", config, &path])
    };
    archive(false)?.expect_code(10)?.says(&["create = false"])?;
    ensure!(repo.objects().is_empty(), "something was written: {:?}", repo.objects());
    archive(true)?.success()?;
    archive(false)?.success()?;
    Ok(())
}
