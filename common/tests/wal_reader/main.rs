//! The reader of WAL records against PostgreSQL itself: every record of a real server's WAL as `pg_waldump` prints it,
//! and every kind of recovery target as a real recovery stops at it.
//!
//! The server is a throw-away cluster with the smallest segments, run by the caller or, when that is root, by the account
//! `postgres` (or `HOLDFAST_TEST_USER`). Without PostgreSQL the test says so and passes.

mod place;
mod waldump;

use std::fs::{self, File};
use std::io::Read;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, Utc};
use common::archive::moments::{Located, Moment, Question, locate};
use common::pg::{Lsn, SegmentSize, TimelineHistory, TimelineId, WalSegmentName};
use common::repo::chain::Route;
use common::report::{Cancel, Silent};
use common::sys::clock::{Deadline, poll};

use self::place::Place;

const WORKLOAD: &str = include_str!("workload.sql");

const SETTINGS: &str = "
listen_addresses = ''
fsync = off
autovacuum = off
wal_level = logical
wal_compression = on
wal_keep_size = 1GB
max_prepared_transactions = 5
hot_standby = off
log_min_messages = log
";

/// Those of the server's second life.
const OTHER_SETTINGS: &str = "
max_connections = 77
wal_log_hints = on
track_commit_timestamp = on
";

/// A recovery of this much WAL, and everything else that is waited for, takes a second at most.
const WAIT_MAX: Duration = Duration::from_mins(1);
const POLL_PAUSE: Duration = Duration::from_millis(5);

fn segment_size() -> Result<SegmentSize> {
    SegmentSize::new(1 << 20).context("one mebibyte is a segment's size")
}

/// A cluster before (`base`) and after (`data`) the workload, both stopped, `data` as by a crash.
fn work(place: &Place) -> Result<()> {
    place.run("initdb", &["-D", "base", "--wal-segsize=1", "-A", "trust", "-U", "tester", "-N"])?;
    place.copy("base", "data", SETTINGS)?;
    place.make_folder("space")?;
    let server = place.start("data")?;
    let folder = format!("folder={}", place.path("space").display());
    place.run_script("workload.sql", WORKLOAD, &["-v", &folder])?;
    server.stop()?;
    place.configure("data", OTHER_SETTINGS)?;
    let _server = place.start("data")?;
    place.run_script("reload.sql", "ALTER SYSTEM SET full_page_writes = off; SELECT pg_reload_conf();", &[])?;
    let is_off = |line: &str| line.contains("full_page_writes") && line.ends_with(" off");
    let taken_over = poll(Deadline::after(WAIT_MAX), POLL_PAUSE, &Cancel::default(), || {
        place.run_script("checkpoint.sql", "CHECKPOINT", &[])?;
        Ok(place.run("pg_controldata", &["data"])?.lines().any(is_off).then_some(()))
    })?;
    taken_over.context("full_page_writes stays on")?;
    place.run_script("last.sql", "INSERT INTO t VALUES (-11, 'j')", &[])
}

/// The segments of a stopped server in order; the last ones may be recycled.
fn segments(place: &Place) -> Result<Vec<WalSegmentName>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(place.path("data/pg_wal"))? {
        names.extend(entry?.file_name().to_str().and_then(WalSegmentName::parse));
    }
    names.sort_unstable();
    Ok(names)
}

#[test]
fn records_and_stops_are_those_of_postgresql() -> Result<()> {
    let Some(place) = Place::find()? else {
        println!("skipped: needs PostgreSQL's server programs");
        return Ok(());
    };
    work(&place)?;
    waldump::every_record_is_the_one_that_pg_waldump_prints(&place, &segments(&place)?)?;
    a_recovery_stops_where_it_was_foretold(&place)
}

/// Looks for the moment in the WAL that the workload left, from the base's checkpoint on.
fn find(place: &Place, moment: Moment, exclusive: bool) -> Result<Located> {
    let from = place.control("base")?.redo;
    let route = Route::new(TimelineHistory::root(TimelineId(1)), segment_size()?);
    let mut source = |name: WalSegmentName| {
        let path = place.path("data/pg_wal").join(name.to_string());
        Ok(File::open(path).ok().map(|file| Box::new(file) as Box<dyn Read + Send>))
    };
    let question = Question { moment, exclusive };
    locate(&route, &mut source, from, None, &question, &Cancel::default(), &Silent)
}

/// Where a recovery of the base with this target forks off.
fn recovered(place: &Place, number: usize, target: &str, exclusive: bool) -> Result<Lsn> {
    let name = format!("recovered{number}");
    let archive = place.path("data/pg_wal");
    let inclusive = if exclusive { "off" } else { "on" };
    let settings = format!(
        "{SETTINGS}restore_command = 'cp {}/%f %p'\n{target}\nrecovery_target_inclusive = {inclusive}\n\
         recovery_target_action = promote\n",
        archive.display()
    );
    place.copy("base", &name, &settings)?;
    File::create(place.path(&name).join("recovery.signal"))?;
    let _server = place.start(&name)?;
    // The server counts as started before it has recovered. The file appears whole.
    let history = place.path(&name).join("pg_wal/00000002.history");
    let history = poll(Deadline::after(WAIT_MAX), POLL_PAUSE, &Cancel::default(), || Ok(fs::read(&history).ok()))?;
    let said = || fs::read_to_string(place.path(&format!("{name}.log"))).unwrap_or_default();
    let history = history.with_context(|| format!("it does not recover: {}", said()))?;
    Ok(TimelineHistory::parse(TimelineId(2), &history)?.begins())
}

fn a_recovery_stops_where_it_was_foretold(place: &Place) -> Result<()> {
    let all = find(place, Moment::End, false)?;
    let last = all.last_transaction.context("the workload commits")?;
    ensure!(all.stop.is_none() && all.last_before == Some(last), "{all:?}");
    let beyond = find(place, Moment::Time(last.time), false)?;
    ensure!(beyond.stop.is_none(), "nothing is later than the last commit: {beyond:?}");

    let name = |name: &str| Moment::Name(name.to_owned());
    let twice = find(place, name("twice"), false)?;
    ensure!(twice.occurrences.len() == 2, "{twice:?}");
    let second = twice.occurrences.last().context("a second restore point")?.lsn;
    // The last commit before the second restore point and the first after it.
    let around = find(place, Moment::Lsn(second), false)?;
    let (before, after) = around.last_before.zip(around.first_after).context("commits on both sides")?;
    let time = |time: DateTime<Utc>| format!("recovery_target_time = '{}'", time.format("%Y-%m-%d %H:%M:%S%.6f+00"));
    let xid = |xid: u32| format!("recovery_target_xid = '{xid}'");
    let lsn = |lsn: Lsn| format!("recovery_target_lsn = '{lsn}'");
    let questions = [
        (Moment::Time(before.time), false, time(before.time)),
        (Moment::Time(before.time), true, time(before.time)),
        (Moment::Xid(u64::from(after.xid)), true, xid(after.xid)),
        (Moment::Lsn(Lsn(second.0 - 1)), false, lsn(Lsn(second.0 - 1))),
        (name("twice"), false, "recovery_target_name = 'twice'".to_owned()),
    ];
    for (number, (moment, exclusive, target)) in questions.into_iter().enumerate() {
        let found = find(place, moment, exclusive)?.stop.with_context(|| format!("{target} is in the WAL"))?;
        let forked = recovered(place, number, &target, exclusive)?;
        ensure!(forked == found.replay_end, "{target}, exclusive: {exclusive}: forked at {forked}, foretold {found:?}");
    }
    Ok(())
}
