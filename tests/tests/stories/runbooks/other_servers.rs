//! Servers beside production, and after it: the wrong one, standbys, an upgraded one, one on a host without Holdfast.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result, ensure};
use e2e::cluster::{Recipe, archive_command};
use e2e::{Cluster, StopMode, wait};

use super::book::{Book, has_orders, order, shop};

/// Recovered to the wrong moment; the standby had come further.
pub(super) fn wrong_timeline(book: &mut Book) -> Result<()> {
    let cluster = book.production()?;
    cluster.backup(&[])?;
    let standby = cluster.standby("standby", false)?;
    order(&cluster, 100)?;
    cluster.switch_wal()?;
    wait::until("the standby has every order", || Ok(shop(&standby, "select count(*) from orders")? == "1100"))?;
    cluster.recover(&["--target-immediate"])?;
    has_orders(&cluster, 1000)?;
    order(&cluster, 1)?;
    cluster.switch_wal()?;
    wait::until("the standby tells that it cannot follow", || Ok(standby.log().contains("forked off")))?;

    let windows = book.run("recover windows")?.stdout;
    ensure!(windows.lines().count() >= 3, "two timelines are not shown: {windows}");
    ensure!(book.run("psql")?.stdout.trim() == "2", "it is on another timeline");
    book.run("recover run -D")?.prints(&["along timeline 1"])?;
    has_orders(&cluster, 1001)?;
    book.run("recover run -D")?;
    cluster.wait_promoted()?;
    has_orders(&cluster, 1100)?;
    ensure!(cluster.timeline()? == 3, "it went on along an old timeline");
    order(&cluster, 10)?;
    cluster.switch_wal()?;

    standby.stop(StopMode::Fast)?;
    book.run("recover run --standby")?;
    wait::until("the standby follows", || Ok(shop(&standby, "select count(*) from orders")? == "1110"))?;
    ensure!(standby.sql("select pg_is_in_recovery()")? == "t", "it is no standby");
    standby.stop(StopMode::Immediate)?;
    cluster.stop(StopMode::Immediate)
}

/// A standby that streams, and becomes production when that dies with its last segments unarchived.
pub(super) fn standbys(book: &mut Book) -> Result<()> {
    let primary = book.production()?;
    primary.backup(&[])?;
    // Both are on one host here: each has a place and a port of its own.
    let second = Cluster::at(&book.sandbox, &book.sandbox.path().join("second"), Some(&book.repo));
    let sockets = book.sandbox.sockets().display().to_string();
    let port = book.sandbox.new_port();
    book.says("psql -h db1", &format!("psql -h {sockets}"));
    book.says("/var/lib/postgresql/15/main --slot", &format!("{} -p {port} --slot", second.pgdata_arg()?));
    book.says("host=db1 user=replicator", &format!("host={sockets} port={} user=postgres", primary.port()?));
    book.says("/var/lib/postgresql/.pgpass", &book.sandbox.path().join("home/.pgpass").display().to_string());
    book.run("psql")?;
    book.run("recover run --standby")?.prints(&["streams from the primary"])?;

    primary.set("archive_command", "/bin/false")?;
    for _segment in 0..2 {
        order(&primary, 50)?;
        primary.end_segment()?;
    }
    wait::until("the standby has every order", || Ok(shop(&second, "select count(*) from orders")? == "1100"))?;
    primary.kill9()?;
    second.sql("select pg_promote()")?;
    second.wait_promoted()?;
    // It came from the backup, and archives as production did.
    second.set("archive_command", &archive_command(&book.sandbox, &book.repo)?)?;
    second.switch_wal()?;

    book.talks_to(&second)?;
    let before = book.repo.segments();
    book.run_to("archive-wal check --backfill --dry-run", 3)?;
    ensure!(book.repo.segments() == before, "a dry run put something");
    book.run("archive-wal check --backfill")?;
    ensure!(book.repo.segments().len() >= before.len() + 2, "the hole is open");
    let copy = second.recover_copy("past", &["--target-latest"])?;
    has_orders(&copy, 1100)?;
    copy.stop(StopMode::Immediate)?;
    second.stop(StopMode::Immediate)
}

/// What `pg_upgrade` makes is to the archive a cluster that it has never seen: so is a new one.
pub(super) fn upgraded(book: &mut Book) -> Result<()> {
    let old = book.production()?;
    old.backup(&[])?;
    old.stop(StopMode::Fast)?;
    book.shell(&format!("mv {0} {0}.old", old.pgdata_arg()?))?.success()?;
    // On the old one's port, where everybody looks for it.
    let new = Recipe::new("main").segment_mb(1).set("checkpoint_completion_target", "0").archived_to(&book.repo);
    let new = new.start(&book.sandbox)?;
    book.talks_to(&new)?;
    let refused = new.end_segment()?;
    wait::until("its segment is refused", || {
        Ok(new.sql("select last_failed_wal from pg_stat_archiver")? == refused && new.log().contains("--after-upgrade"))
    })?;

    book.says("000000010000000000000002", &refused);
    ensure!(book.run("psql")?.stdout.trim() == refused, "another file waits");
    book.run("archive-wal --after-upgrade")?;
    new.end_segment()?;
    book.run("basebackup")?;
    ensure!(book.repo.backups().len() == 2);
    new.stop(StopMode::Immediate)
}

/// With a tablespace, and rows that are younger than the backup.
pub(super) fn without_holdfast(book: &mut Book) -> Result<()> {
    let cluster = book.production()?;
    let space = book.sandbox.folder("space")?;
    cluster.sql(&format!("create tablespace fast location '{}'", space.display()))?;
    shop(&cluster, "alter table orders set tablespace fast")?;
    let id = cluster.backup(&[])?;
    order(&cluster, 100)?;
    cluster.switch_wal()?;
    book.says("backup_20261120_154212", &id);
    book.says("16384", &cluster.sql("select oid from pg_tablespace where spcname = 'fast'")?);
    cluster.kill9()?;

    let script = book.sandbox.folder("contrib")?.join("read-backup.sh");
    book.sandbox.write(&script, include_bytes!("../../../../contrib/read-backup.sh"))?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).context("make it a program")?;
    for command in ["contrib/read-backup.sh", "pg_verifybackup", "cat", "touch", "pg_ctl"] {
        book.run(command)?;
    }
    let copy = Cluster::at(&book.sandbox, &book.sandbox.path().join("srv/new"), None);
    copy.wait_promoted()?;
    has_orders(&copy, 1100)?;
    copy.stop(StopMode::Immediate)
}
