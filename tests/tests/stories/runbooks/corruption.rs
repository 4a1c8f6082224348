//! Damage: in a segment and a record of the repository, and in pages of the server.

use std::fs;

use anyhow::{Context, Result, ensure};
use e2e::{Cluster, StopMode, wait};

use super::book::{Book, has_orders, order, shop};

pub(super) fn repository(book: &mut Book) -> Result<()> {
    let cluster = book.production()?;
    cluster.backup(&[])?;
    order(&cluster, 100)?;
    cluster.switch_wal()?;
    order(&cluster, 10)?;
    let damaged = cluster.switch_wal()?;
    order(&cluster, 1)?;
    cluster.switch_wal()?;
    let object = book.repo.wal(&damaged)?;
    // A standby has it, the server itself has it no more.
    let good = book.repo.unpack(&object)?;
    book.sandbox.folder("mnt/standby")?;
    let kept = book.sandbox.folder("mnt/standby/pg_wal")?.join(&damaged);
    book.sandbox.write(&kept, &good)?;
    fs::remove_file(cluster.pgdata().join("pg_wal").join(&damaged))?;
    // It is damaged behind the back of a recovery. The server that recovers stops there and stays down.
    cluster.try_recover(&["--target-latest", "--no-start"])?.success()?;
    book.repo.flip(&object, usize::try_from(fs::metadata(&object)?.len() / 2)?)?;
    cluster.start_or_end()?;
    wait::until("the damage ends the server", || Ok(!cluster.is_running())).with_context(|| cluster.log())?;
    book.says("0000000100000000000000A7", &damaged);
    book.run("recover rollback")?;
    cluster.wait_promoted()?;
    has_orders(&cluster, 1111)?;
    book.run("verify backup --all")?;
    book.run("recover windows")?;
    book.run_to("recover check", 20)?.says(&[&damaged])?;

    // While there is no good copy, the moment before the damage is the last one.
    let now = cluster.sql("select pg_current_wal_flush_lsn()")?;
    for target in [&["--target-latest"][..], &["--target-lsn", &now]] {
        let refused = cluster.try_recover(target)?.expect_code(20)?.says(&[&damaged, "is damaged", "good copy"])?;
        let before = refused.stderr.split("--target-lsn ").nth(1).and_then(|rest| rest.split_whitespace().next());
        book.says("0/A6FFFF80", before.context("the position before")?);
    }
    book.run("recover run")?;
    cluster.wait_promoted()?;
    has_orders(&cluster, 1100)?;
    book.shell(&format!("recover rollback -D {}", cluster.pgdata_arg()?))?.success()?;
    cluster.wait_promoted()?;

    book.run("mv")?;
    ensure!(book.repo.find_wal(&damaged).is_none(), "the damaged object is still there");
    book.run("archive-wal -D")?;
    ensure!(book.repo.unpack(&book.repo.wal(&damaged)?)? == good, "the good copy was not put");
    book.run("basebackup")?;
    cluster.recover(&["--target-latest"])?;
    has_orders(&cluster, 1111)?;

    let top = book.repo.path().join("holdfast.json");
    book.repo.truncate(&top, 50)?;
    let refused = book.shell("basebackup list")?.expect_code(1)?;
    ensure!(refused.stderr.contains("holdfast.json"), "{refused}");
    let mend = [book.take("body=")?, book.take("printf")?].join("\n");
    book.shell(&mend)?.success()?;
    book.run("verify backup --all")?;
    cluster.stop(StopMode::Immediate)
}

pub(super) fn pages(book: &mut Book) -> Result<()> {
    let cluster = book.production()?;
    let good = cluster.backup(&[])?;
    order(&cluster, 10)?;
    cluster.sql("checkpoint")?;
    let path = cluster.pgdata().join(shop(&cluster, "select pg_relation_filepath('orders')")?);
    let node = shop(&cluster, "select pg_relation_filenode('orders')")?;
    cluster.stop(StopMode::Fast)?;
    let mut bytes = fs::read(&path)?;
    bytes.get_mut(8192 + 5000..8192 + 5008).context("two pages")?.fill(0x55);
    book.sandbox.write(&path, &bytes)?;
    cluster.start()?;
    book.shell(&format!("basebackup -D {}", cluster.pgdata_arg()?))?.expect_code(3)?;
    ensure!(shop(&cluster, "select count(*) from orders").is_err(), "the page is readable");

    book.says("16385", &node);
    book.run("psql -d shop")?.prints(&["orders"])?;
    book.run("basebackup list")?.prints(&[&good, "ok"])?;
    book.says("backup_20261120_154212", &good);
    book.run("recover run")?;
    ensure!(book.run("psql -h")?.stdout.contains("1010"), "the copy lacks rows");
    book.run("pg_dump")?;
    has_orders(&cluster, 1010)?;
    book.run("basebackup -D")?;
    Cluster::at(&book.sandbox, &book.sandbox.path().join("past"), None).stop(StopMode::Immediate)?;
    cluster.stop(StopMode::Immediate)
}
