//! The reader of WAL records against PostgreSQL itself: every record of a real server's WAL as `pg_waldump` prints it,
//! and every kind of recovery target as a real recovery stops at it.
//!
//! The server is a throw-away cluster with the smallest segments, run by the caller or, when that is root, by the account
//! `postgres` (or `HOLDFAST_TEST_USER`). Without PostgreSQL the test says so and passes.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, Utc};
use common::archive::moments::{Located, Moment, Question, locate};
use common::pg::wal_reader::{Record, RecordKind, RecordReader};
use common::pg::{ControlFile, Lsn, SegmentSize, TimelineHistory, TimelineId, WalSegmentName};
use common::repo::chain::Route;
use common::report::{Cancel, Silent};
use common::sys::clock::{Deadline, poll};
use tempfile::TempDir;

/// Subtransactions, prepared transactions with and without much to say, restore points, records of several pages and of
/// several segments, commits that drop many tables, roll-backs, page images, a segment switch in the middle.
const WORKLOAD: &str = "
CREATE TABLE t (n int PRIMARY KEY, s text);
INSERT INTO t SELECT n, md5(n::text) FROM generate_series(1, 20000) n;
DO $$ BEGIN FOR i IN 1..300 LOOP
    BEGIN UPDATE t SET s = s || 'x' WHERE t.n = i; IF i % 7 = 0 THEN RAISE 'no'; END IF;
    EXCEPTION WHEN raise_exception THEN NULL; END;
END LOOP; END $$;
BEGIN; DELETE FROM t WHERE n < 10; ROLLBACK;
BEGIN; INSERT INTO t VALUES (-1, 'a'); SAVEPOINT a; INSERT INTO t VALUES (-2, 'b'); ROLLBACK TO a; COMMIT;
SELECT pg_create_restore_point('twice');
BEGIN; INSERT INTO t VALUES (-3, 'c'); PREPARE TRANSACTION 'small';
BEGIN; INSERT INTO t VALUES (-4, 'd'); SAVEPOINT a; INSERT INTO t VALUES (-5, 'd'); PREPARE TRANSACTION 'given up';
DO $$ BEGIN FOR n IN 1..150 LOOP EXECUTE format('CREATE TABLE many_%s (n int PRIMARY KEY, s text)', n); END LOOP; END $$;
CREATE TABLE kept (n int PRIMARY KEY);
COMMIT PREPARED 'small';
BEGIN; SAVEPOINT a; DROP TABLE kept; CREATE TABLE more (n int, s text); RELEASE a; PREPARE TRANSACTION 'large';
SELECT pg_switch_wal();
INSERT INTO t VALUES (-6, 'e');
COMMIT PREPARED 'large';
ROLLBACK PREPARED 'given up';
SELECT pg_logical_emit_message(true, 'large', repeat('many bytes ', 300000));
DO $$ BEGIN FOR n IN 1..150 LOOP EXECUTE format('DROP TABLE many_%s', n); END LOOP; END $$;
CHECKPOINT;
UPDATE t SET s = s || 'y' WHERE n % 3 = 0;
SELECT pg_create_restore_point('once');
INSERT INTO t VALUES (-7, 'f');
SELECT pg_create_restore_point('twice');
INSERT INTO t VALUES (-8, 'g');
BEGIN; INSERT INTO t VALUES (-9, 'h'); ROLLBACK;
INSERT INTO t VALUES (-10, 'i');
";

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

/// A recovery of this much WAL takes a second at most.
const RECOVERY_WAIT_MAX: Duration = Duration::from_mins(1);

fn segment_size() -> Result<SegmentSize> {
    SegmentSize::new(1 << 20).context("one mebibyte is a segment's size")
}

/// A server's programs, the account that runs them and a folder of that account.
struct Place {
    bin: PathBuf,
    account: Option<nix::unistd::User>,
    dir: TempDir,
}

impl Place {
    /// `None` on a machine without PostgreSQL.
    fn find() -> Result<Option<Self>> {
        let usual = |major: u32| PathBuf::from(format!("/usr/lib/postgresql/{major}/bin"));
        let named = std::env::var_os("HOLDFAST_TEST_PG_BIN").map(PathBuf::from);
        let found = || [15, 18, 17, 16, 14].map(usual).into_iter().find(|dir| dir.join("initdb").exists());
        let bin = named.or_else(found);
        let Some(bin) = bin else { return Ok(None) };
        let dir = tempfile::tempdir()?;
        let mut account = None;
        if nix::unistd::Uid::effective().is_root() {
            let name = std::env::var("HOLDFAST_TEST_USER").unwrap_or_else(|_| "postgres".to_owned());
            let Some(user) = nix::unistd::User::from_name(&name)? else { return Ok(None) };
            std::os::unix::fs::chown(dir.path(), Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
            account = Some(user);
        }
        Ok(Some(Self { bin, account, dir }))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = match &self.account {
            None => Command::new(program),
            Some(user) => {
                let mut command = Command::new("setpriv");
                command.args([&format!("--reuid={}", user.uid), &format!("--regid={}", user.gid)]);
                command.args(["--init-groups", "--"]);
                command.arg(program);
                command
            }
        };
        command.current_dir(self.dir.path()).env("TZ", "UTC").env("LC_ALL", "C");
        command
    }

    /// Runs one of PostgreSQL's programs to its end; answers its standard output.
    fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let mut command = self.command(&self.bin.join(program));
        let output = command.args(arguments).stdin(Stdio::null()).output()?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{program} {arguments:?}: {}: {error}", output.status);
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Starts the server of this data directory; it is stopped when the answer is dropped.
    fn start(&self, data: &str) -> Result<Running<'_>> {
        let socket = format!("-c unix_socket_directories={}", self.dir.path().display());
        let log = format!("{data}.log");
        let mut command = self.command(&self.bin.join("pg_ctl"));
        command.args(["start", "-w", "-t", "60", "-D", data, "-l", &log, "-o", &socket]);
        let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status()?;
        let running = Running { place: self, data: data.to_owned() };
        let said = || fs::read_to_string(self.path(&log)).unwrap_or_default();
        ensure!(status.success(), "{data} does not start: {}", said());
        Ok(running)
    }

    /// A copy of the data directory `base`, with these lines more in its configuration.
    fn copy(&self, base: &str, name: &str, settings: &str) -> Result<()> {
        let status = self.command(Path::new("cp")).args(["-a", base, name]).status()?;
        ensure!(status.success(), "copy {base} to {name}");
        let mut file = File::options().append(true).open(self.path(name).join("postgresql.conf"))?;
        Ok(file.write_all(settings.as_bytes())?)
    }
}

struct Running<'a> {
    place: &'a Place,
    data: String,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        // A server that is not there any more needs no stopping.
        drop(self.place.run("pg_ctl", &["stop", "-m", "immediate", "-D", &self.data]));
    }
}

/// A cluster before (`base`) and after (`data`) the workload, both stopped, `data` as by a crash.
fn work(place: &Place) -> Result<()> {
    place.run("initdb", &["-D", "base", "--wal-segsize=1", "-A", "trust", "-U", "tester", "-N"])?;
    place.copy("base", "data", SETTINGS)?;
    let script = place.path("workload.sql");
    File::create(&script)?.write_all(WORKLOAD.as_bytes())?;
    let _server = place.start("data")?;
    let (script, host) = (script.display().to_string(), place.dir.path().display().to_string());
    place
        .run("psql", &["-Xq", "-v", "ON_ERROR_STOP=1", "-h", &host, "-U", "tester", "-d", "postgres", "-f", &script])?;
    Ok(())
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

/// A record in `pg_waldump`'s words: where it begins and, when a recovery can stop there, what it is.
fn described(record: &Record) -> (Lsn, String) {
    let at = |time: DateTime<Utc>| time.format("%Y-%m-%d %H:%M:%S%.6f UTC");
    let text = match &record.kind {
        RecordKind::Commit(end) => format!("{} COMMIT {}", end.xid, at(end.time)),
        RecordKind::Abort(end) => format!("{} ABORT {}", end.xid, at(end.time)),
        RecordKind::CommitPrepared(end) => format!("COMMIT_PREPARED {}: {}", end.xid, at(end.time)),
        RecordKind::AbortPrepared(end) => format!("ABORT_PREPARED {}: {}", end.xid, at(end.time)),
        RecordKind::RestorePoint { name, .. } => format!("RESTORE_POINT {name}"),
        RecordKind::TablespaceCreated { .. } | RecordKind::Other => String::new(),
    };
    (record.start, text)
}

/// The same from a line that `pg_waldump` prints.
fn dumped(line: &str) -> Result<(Lsn, String)> {
    let field = |key: &str, end: char| {
        let value = line.split_once(key).and_then(|(_, rest)| rest.split_once(end)).map(|(value, _)| value.trim());
        value.with_context(|| format!("{key:?} in {line:?}"))
    };
    let (_, description) = line.split_once("desc: ").with_context(|| format!("desc in {line:?}"))?;
    let description = description.split(';').next().unwrap_or_default().trim();
    let text = match (field("rmgr: ", ' ')?, description.split(' ').next().unwrap_or_default()) {
        ("Transaction", "COMMIT" | "ABORT") => format!("{} {description}", field("tx: ", ',')?),
        ("Transaction", "COMMIT_PREPARED" | "ABORT_PREPARED") | ("XLOG", "RESTORE_POINT") => description.to_owned(),
        _ => String::new(),
    };
    Ok((field("lsn: ", ',')?.parse()?, text))
}

#[test]
fn records_and_stops_are_those_of_postgresql() -> Result<()> {
    let Some(place) = Place::find()? else {
        println!("skipped: needs PostgreSQL's server programs");
        return Ok(());
    };
    work(&place)?;
    every_record_is_the_one_that_pg_waldump_prints(&place)?;
    a_recovery_stops_where_it_was_foretold(&place)
}

fn every_record_is_the_one_that_pg_waldump_prints(place: &Place) -> Result<()> {
    let names = segments(place)?;
    let first = names.first().and_then(|name| name.start(segment_size().ok()?)).context("there is WAL")?;
    let mut command = place.command(&place.bin.join("pg_waldump"));
    // It ends with an error where the WAL ends.
    let output = command.args(["-p", "data/pg_wal", "-s", &first.to_string()]).output()?;
    let expected: Vec<_> = String::from_utf8(output.stdout)?.lines().map(dumped).collect::<Result<_>>()?;
    for kind in ["COMMIT ", "ABORT ", "COMMIT_PREPARED ", "ABORT_PREPARED ", "RESTORE_POINT "] {
        ensure!(expected.iter().any(|(_, text)| text.contains(kind)), "the workload leaves no {kind}");
    }
    for piece in [100, 8192, 1 << 20] {
        let mut reader = RecordReader::new(first, segment_size()?);
        let mut found = Vec::new();
        for name in &names {
            let bytes = fs::read(place.path("data/pg_wal").join(name.to_string()))?;
            let flow = bytes.chunks(piece).try_for_each(|piece| {
                reader.feed(piece, |record| {
                    found.push(record);
                    ControlFlow::Continue(())
                })
            });
            if flow.is_break() {
                break;
            }
        }
        let read: Vec<_> = found.iter().map(described).collect();
        let different = std::iter::zip(&read, &expected).find(|(read, expected)| read != expected);
        ensure!(different.is_none(), "read and expected: {different:?}");
        ensure!(read.len() == expected.len(), "read {}, expected {} records", read.len(), expected.len());
        let long = found.iter().filter(|record| record.end.0 - record.start.0 > 3 << 20).count();
        ensure!(long == 1, "{long} records are longer than three segments");
        ensure!(reader.end().is_some(), "the WAL has no end");
    }
    Ok(())
}

/// Looks for the moment in the WAL that the workload left, from the base's checkpoint on.
fn find(place: &Place, moment: Moment, exclusive: bool) -> Result<Located> {
    let mut control = Vec::new();
    File::open(place.path("base/global/pg_control"))?.read_to_end(&mut control)?;
    let from = ControlFile::parse(&control)?.redo;
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
    let wait = Duration::from_millis(5);
    let history = poll(Deadline::after(RECOVERY_WAIT_MAX), wait, &Cancel::default(), || Ok(fs::read(&history).ok()))?;
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
