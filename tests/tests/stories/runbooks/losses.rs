//! A table is lost, a whole server is lost.

use std::fs;

use anyhow::{Context, Result, ensure};
use e2e::{Cluster, StopMode, wait};

use super::book::{Book, has_orders, order, shop};

pub(super) fn dropped_table(book: &mut Book) -> Result<()> {
    let production = book.production()?;
    production.backup(&[])?;
    book.says_now("2026-11-19 18:00", &production)?;
    order(&production, 100)?;
    production.backup(&[])?;
    order(&production, 10)?;
    book.says_now("2026-11-20 14:24:00", &production)?;
    shop(&production, "drop table orders")?;
    shop(&production, "create table later as select 1 as id")?;

    for _since in ["the newest backup", "the one before"] {
        let found = book.run("recover find")?.prints(&["table public.orders in shop"])?;
        let lsn = found.stdout.split("--target-lsn ").nth(1).and_then(|rest| rest.split_whitespace().next());
        book.says("0/5A3F1C8", lsn.context("a position")?);
    }
    book.run("recover extract -d shop --table")?;
    book.run("psql -1 -v ON_ERROR_STOP=1 -d shop -f")?;
    has_orders(&production, 1110)?;
    // The table is there, and half of its rows.
    shop(&production, "delete from orders where id % 2 = 0")?;
    book.run("createdb orders_then")?;
    book.run("psql -1 -v ON_ERROR_STOP=1 -d orders_then")?;
    book.run("pg_dump -a")?;
    has_orders(&production, 1110)?;
    book.run("recover extract --database shop")?;
    book.run("createdb")?;
    book.run("psql -1 -v ON_ERROR_STOP=1 -d shop_then")?;
    let ran = book.shell("psql -Atd shop_then -c 'select count(*) from orders'")?.success()?;
    ensure!(ran.stdout.trim() == "1110", "{ran}");

    // And once more, by a copy.
    shop(&production, "drop table orders")?;
    book.run("recover run")?.prints(&["first left out"])?;
    book.run("recover run")?;
    book.run("pg_dump")?;
    has_orders(&production, 1110)?;
    ensure!(shop(&production, "select count(*) from later")? == "1", "production lost something");
    book.run("pg_ctl -D")?;
    book.run("rm -r")?;

    // Production is lost, and a copy is there.
    let copy = production.recover_copy("past", &["--target-latest"])?;
    production.kill9()?;
    book.run("recover adopt")?;
    copy.wait_promoted()?;
    has_orders(&copy, 1110)?;
    order(&copy, 10)?;
    copy.switch_wal()?;
    copy.stop(StopMode::Immediate)
}

/// With a configuration outside the data directory, as Debian has it.
pub(super) fn lost_server(book: &mut Book) -> Result<()> {
    let made = book.production()?;
    made.stop(StopMode::Fast)?;
    let (etc, pgdata) = (book.sandbox.folder("etc")?, made.pgdata().to_owned());
    for file in ["postgresql.conf", "pg_hba.conf", "pg_ident.conf"] {
        book.shell(&format!("mv {}/{file} {}/", pgdata.display(), etc.display()))?.success()?;
    }
    let start = format!("pg_ctl -w -l {0}/log -D {0} start", etc.display());
    let conf = etc.join("postgresql.conf");
    let places = format!(
        "data_directory = '{}'\nhba_file = '{1}/pg_hba.conf'\nident_file = '{1}/pg_ident.conf'\n",
        pgdata.display(),
        etc.display()
    );
    book.sandbox.write(&conf, (fs::read_to_string(&conf)? + &places).as_bytes())?;
    book.shell(&start)?.success()?;
    let production = Cluster::at(&book.sandbox, &pgdata, Some(&book.repo));
    let id = production.backup(&[])?;
    order(&production, 100)?;
    production.switch_wal()?;

    // Its last segment is not archived, and its disk is still to be read.
    production.sql("alter system set archive_command = 'false'")?;
    production.sql("select pg_reload_conf()")?;
    wait::until("it archives no more", || Ok(production.sql("show archive_command")? == "false"))?;
    order(&production, 10)?;
    let last = production.end_segment()?;
    let socket_lock = book.sandbox.sockets().join(format!(".s.PGSQL.{}.lock", production.port()?));
    production.kill9()?;
    // The new host has never heard of the old one's sockets.
    book.sandbox.clear(&socket_lock)?;
    let old = book.sandbox.folder("mnt/old")?.join("main");
    book.shell(&format!("mv {} {}; rm -r {}", pgdata.display(), old.display(), etc.display()))?.success()?;

    book.says("backup_…", &id);
    book.says("0000000100000000000000A7", &last);
    book.run("basebackup list")?.prints(&[&id])?;
    book.run("recover windows")?.prints(&[&id])?;
    book.run("archive-wal")?;
    book.run("zstd -dc")?;
    ensure!(conf.exists(), "the configuration is not back");
    book.run("recover run --as production")?;
    production.wait_promoted()?;
    has_orders(&production, 1110)?;
    book.run("basebackup -D")?;
    ensure!(book.repo.backups().len() == 2);
    production.stop(StopMode::Immediate)
}
