//! The repository's disk is full; retention makes room, and from then on does so in time.

use std::fs::File;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use e2e::{Disk, StopMode, disk, settings, wait};

use super::book::{Book, order};

pub(super) fn scene(book: &mut Book) -> Result<()> {
    if !settings::has_root("a full disk, a closed door in its place") {
        return told(book, None);
    }
    disk::in_private(|| {
        let disk = Disk::new(&book.sandbox, "repo", "size=100m")?;
        told(book, Some(&disk))
    })
}

/// Nothing more goes into the repository; the answer is what to remove for it.
fn fill(book: &Book, disk: Option<&Disk>) -> Result<Option<PathBuf>> {
    let Some(disk) = disk else {
        close(book, "chmod a-w")?;
        return Ok(None);
    };
    let ballast = disk.path().join("ballast");
    let full = std::io::copy(&mut std::io::repeat(7), &mut File::create(&ballast)?);
    ensure!(full.is_err(), "the disk is not full");
    Ok(Some(ballast))
}

/// Changes the rights of the folders that segments go into.
fn close(book: &Book, how: &str) -> Result<()> {
    book.shell(&format!("{how} {}/main/wal/*/*", book.repo.arg()?))?.success().map(drop)
}

fn told(book: &mut Book, disk: Option<&Disk>) -> Result<()> {
    let cluster = book.production()?;
    let first = cluster.backup(&[])?;
    let second = cluster.backup(&[])?;
    let ballast = fill(book, disk)?;
    order(&cluster, 100)?;
    let waiting = cluster.end_segment()?;
    wait::until("the archiver fails", || Ok(cluster.sql("select failed_count > 0 from pg_stat_archiver")? == "t"))?;

    let query = book.take("SELECT archived_count")?;
    ensure!(cluster.sql(&query)?.contains(&waiting), "it fails at another file");
    let free = book.run("df -h")?;
    ensure!(disk.is_none() || free.stdout.contains("100%"), "the disk is not full: {free}");
    book.run("df -i")?;
    book.run("retention --dry-run")?.prints(&[&first])?;
    ensure!(book.repo.backups() == [first.clone(), second.clone()], "a dry run removed something");
    if disk.is_none() {
        close(book, "chmod u+w")?;
    }
    book.run("retention")?;
    ensure!(book.repo.backups() == [second.clone()], "no room was made");
    book.run("archive-wal check")?;
    ensure!(book.repo.find_wal(&waiting).is_some(), "{waiting} is not archived");

    // Somebody enlarges the disk, too.
    ballast.map_or(Ok(()), std::fs::remove_file)?;
    let line = book.take("30 1 * * *")?;
    let (_, nightly) = line.split_once(" postgres ").context("an account in the line")?;
    book.shell(nightly)?.success()?;
    ensure!(book.repo.backups().len() == 1 && book.repo.backups() != [second], "last night's backup is not the one");
    book.run("retention --dry-run")?;

    for command in ["archive-wal check --no-switch", "archive-wal check", "basebackup list --json", "recover windows"] {
        book.run(command)?;
    }
    book.run("verify backup --all")?;
    book.run("recover check")?;
    book.run("df -h")?;
    book.run("recover run")?;
    cluster.stop(StopMode::Immediate)
}
