//! A server that archives nothing yet, and a repository that went away with its disk.

use anyhow::{Context, Result, ensure};
use e2e::Cluster;
use e2e::cluster::Recipe;

use super::book::Book;

pub(super) fn scene(book: &mut Book) -> Result<()> {
    std::fs::remove_dir(book.repo.path())?;
    let server = Recipe::new("main").segment_mb(1).start(&book.sandbox)?;
    let cluster = Cluster::at(&book.sandbox, server.pgdata(), Some(&book.repo));
    book.talks_to(&cluster)?;
    // Each says that there is something left to do: first all of it, then the restart.
    book.run_to("archive-wal setup  ", 3)?.prints(&["archive_command"])?;
    ensure!(!book.repo.path().exists(), "setup alone made a repository");
    book.run_to("archive-wal setup --apply  ", 3)?.prints(&["restart"])?;
    cluster.restart()?;
    book.run("archive-wal check")?;
    book.run("archive-wal stats")?;
    ensure!(!book.repo.segments().is_empty(), "nothing was archived");

    // The disk is gone for good, and another one comes.
    book.sandbox.clear(book.repo.path())?;
    let segment = cluster.end_segment()?;
    let refused = cluster.archive_wal(&format!("pg_wal/{segment}"))?.expect_code(10)?;
    ensure!(refused.stderr.contains("--create"), "{refused}");
    book.run("archive-wal setup --apply --create")?;
    cluster.switch_wal()?;

    // There is one account here, and a disk is a folder with a file in it.
    let owner = book.shell("id -un; id -gn")?.success()?.stdout;
    let (user, group) = owner.trim().split_once('\n').context("a user and a group")?;
    for (example, here) in [("-o root -g root", (user, group)), ("-o postgres -g postgres", (user, group))] {
        book.says(example, &format!("-o {} -g {}", here.0, here.1));
    }
    book.fake("mount", "touch \"$1/mounted\"")?;
    book.run("install -d -o root")?;
    book.run("mount")?;
    book.run("install -d -o postgres")?;
    let made = book.sandbox.path().join("srv/backup");
    ensure!(made.join("mounted").exists() && made.join("holdfast").is_dir(), "no folder on the disk");
    Ok(())
}
