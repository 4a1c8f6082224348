//! Sessions, backups and facts.

use std::time::Duration;

use common::pg::Lsn;
use common::report::{Cancel, Interrupted};
use common::server::backup::{archiver_status, create_restore_point, start_backup, stop_backup, switch_wal};
use common::server::{Probe, Session, SqlError, facts, probe, quote_literal};
use common::sys::clock::{Deadline, poll};

use crate::cluster::{Cluster, WAIT, put, runs_here};

const PAUSE: Duration = Duration::from_millis(20);

#[test]
fn begins_with_known_settings() {
    if !runs_here("session::begins_with_known_settings") {
        return;
    }
    let cluster = Cluster::running();
    let mut boss = cluster.session();
    boss.execute("ALTER ROLE boss SET statement_timeout = '1ms'").unwrap();
    boss.execute("ALTER ROLE boss SET search_path = evil, public").unwrap();
    boss.execute("ALTER ROLE boss SET datestyle = 'German'").unwrap();
    let mut session = cluster.session();
    let mut show = |name: &str| session.value(&format!("SHOW {name}")).unwrap().unwrap();
    assert_eq!(show("statement_timeout"), "0");
    assert_eq!(show("search_path"), "pg_catalog");
    assert_eq!(show("datestyle"), "ISO, DMY");
    assert_eq!(show("client_encoding"), "UTF8");
    assert_eq!(show("application_name"), "holdfast");
    assert_eq!(show("server_version_num"), session.version().number.to_string());
    let rows = session.rows("SELECT 1, NULL; SELECT 'x'").unwrap();
    assert_eq!(rows, [vec![Some("1".to_owned()), None], vec![Some("x".to_owned())]]);
    for text in ["", "it's", "a\\'b\\", "\u{e4}\n"] {
        let sql = format!("SELECT {}", quote_literal(text));
        assert_eq!(session.value(&sql).unwrap().as_deref(), Some(text));
        session.execute("SET standard_conforming_strings = off").unwrap();
        assert_eq!(session.value(&sql).unwrap().as_deref(), Some(text));
    }
}

#[test]
fn names_need_not_be_text() {
    if !runs_here("session::names_need_not_be_text") {
        return;
    }
    let cluster = Cluster::running();
    let mut session = cluster.session();
    session.execute("CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'").unwrap();
    let mut latin = Session::connect(&cluster.conninfo("dbname=latin"), &Cancel::default()).unwrap();
    latin.execute("CREATE ROLE \"K\u{e4}se\"").unwrap();
    let error = session.rows("SELECT rolname FROM pg_roles WHERE rolname LIKE 'K%'").unwrap_err();
    assert!(format!("{error:#}").contains("no UTF-8"), "{error:#}");
    let stored = session.stored(&["rolname", "rolcanlogin"], "pg_roles WHERE rolname LIKE 'K%'").unwrap();
    assert_eq!(stored, [[b"K\xe4se".to_vec(), b"false".to_vec()]]);
    assert_eq!(session.value("SHOW client_encoding").unwrap().as_deref(), Some("UTF8"));
    session.stored(&["1/0"], "pg_roles").unwrap_err();
    assert_eq!(session.value("SHOW client_encoding").unwrap().as_deref(), Some("UTF8"));
}

#[test]
fn survives_refusals_and_notices_its_end() {
    if !runs_here("session::survives_refusals_and_notices_its_end") {
        return;
    }
    let cluster = Cluster::running();
    let mut session = cluster.session();
    let error = session.rows("SELECT 1/0").unwrap_err();
    assert_eq!(SqlError::find(&error).unwrap().state, "22012");
    assert_eq!(format!("{error:#}"), "run \"SELECT 1/0\": ERROR: division by zero");
    session.set_limit(Some(Duration::from_millis(200)));
    let error = session.execute("SELECT pg_sleep(600)").unwrap_err();
    assert!(error.to_string().ends_with("no answer within 200 ms"), "{error:#}");
    session.set_limit(None);
    let pid = session.value("SELECT pg_backend_pid()").unwrap().unwrap();
    assert!(!session.is_closed());
    cluster.session().execute(&format!("SELECT pg_terminate_backend({pid})")).unwrap();
    let closed = poll(Deadline::after(WAIT), PAUSE, &Cancel::default(), || Ok(session.is_closed().then_some(())));
    assert!(closed.unwrap().is_some());
    assert!(session.execute("SELECT 1").is_err());
}

#[test]
fn is_interrupted_and_the_server_stops_too() {
    if !runs_here("session::is_interrupted_and_the_server_stops_too") {
        return;
    }
    let cluster = Cluster::running();
    let cancel = Cancel::default();
    let mut session = Session::connect(&cluster.conninfo(""), &cancel).unwrap();
    let mut watcher = cluster.session();
    let mut sleepers = move || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'SELECT pg_sleep%'";
        watcher.value(sql)
    };
    let error = std::thread::scope(|scope| {
        let sleeping = scope.spawn(move || session.execute("SELECT pg_sleep(600)"));
        let seen = poll(Deadline::after(WAIT), PAUSE, &Cancel::default(), || {
            Ok((sleepers()?.as_deref() == Some("1")).then_some(()))
        });
        cancel.cancel();
        assert!(seen.unwrap().is_some());
        sleeping.join().unwrap().unwrap_err()
    });
    assert!(error.is::<Interrupted>(), "{error:#}");
    let gone = poll(Deadline::after(WAIT), PAUSE, &Cancel::default(), || {
        Ok((sleepers()?.as_deref() == Some("0")).then_some(()))
    });
    assert!(gone.unwrap().is_some());
}

#[test]
fn takes_a_backup() {
    if !runs_here("session::takes_a_backup") {
        return;
    }
    let cluster = Cluster::running();
    let mut session = cluster.session();
    let spare = cluster.path().join("spare");
    std::fs::create_dir(&spare).unwrap();
    session.execute(&format!("CREATE TABLESPACE spare LOCATION {}", quote_literal(spare.to_str().unwrap()))).unwrap();
    let before = facts(&mut session).unwrap();
    let started = start_backup(&mut session, "it's a \\ label", true).unwrap();
    assert!(started.start >= before.position);
    let stopped = stop_backup(&mut session).unwrap();
    assert!(stopped.stop > started.start);
    let label = String::from_utf8(stopped.label_file).unwrap();
    assert!(label.starts_with(&format!("START WAL LOCATION: {} (file ", started.start)), "{label}");
    assert!(label.contains("\nLABEL: it's a \\ label\n"), "{label}");
    let map = String::from_utf8(stopped.tablespace_map.unwrap()).unwrap();
    assert_eq!(map, format!("{} {}\n", before.tablespaces[0].oid, spare.display()));
    assert!(stop_backup(&mut session).is_err());
    session.execute("DROP TABLESPACE spare").unwrap();
    start_backup(&mut session, "second", true).unwrap();
    assert_eq!(stop_backup(&mut session).unwrap().tablespace_map, None);
}

#[test]
fn switches_an_idle_server() {
    if !runs_here("session::switches_an_idle_server") {
        return;
    }
    let mut cluster = Cluster::new();
    cluster.set("archive_mode", "on");
    cluster.set("archive_command", "true");
    cluster.start();
    let mut session = cluster.session();
    let size = facts(&mut session).unwrap().number("wal_segment_size").unwrap();
    let segment = |end: Lsn| (end.0 - 1) / size;
    let first = switch_wal(&mut session).unwrap();
    let second = switch_wal(&mut session).unwrap();
    assert_eq!(segment(second), segment(first) + 1);
    let point = create_restore_point(&mut session, "it's here").unwrap();
    assert_eq!(segment(point), segment(second) + 1);
    let name = session.value(&format!("SELECT pg_walfile_name('{}')", Lsn(second.0 - 1))).unwrap().unwrap();
    let archived = poll(Deadline::after(WAIT), PAUSE, &Cancel::default(), || {
        let status = archiver_status(&mut session)?;
        Ok((status.last_archived.as_deref() >= Some(name.as_str())).then_some(status))
    });
    let status = archived.unwrap().unwrap();
    assert!(status.archived_count >= 2 && status.last_archived_time.is_some(), "{status:?}");
    assert_eq!((status.failed_count, status.last_failed), (0, None));
}

#[test]
fn tells_its_facts() {
    if !runs_here("session::tells_its_facts") {
        return;
    }
    let cluster = Cluster::running();
    put(&cluster.path().join("more.conf"), "work_mem = '5MB'\n", 0o600);
    let mut session = cluster.session();
    let include = format!("include '{}'\n", cluster.path().join("more.conf").display());
    let main = cluster.data().join("postgresql.conf");
    let text = std::fs::read_to_string(&main).unwrap();
    put(&main, &(text + &include), 0o600);
    let found = facts(&mut session).unwrap();
    assert_eq!(found.data_directory().unwrap(), cluster.data());
    assert_eq!(found.unreadable, Vec::<String>::new());
    assert_eq!(found.config_outside(), [cluster.path().join("more.conf")]);
    assert_eq!(found.port(), Some(5432));
    assert_eq!(found.socket_directories(), [cluster.path()]);
    assert_eq!((found.in_recovery, found.timeline.0, found.databases), (false, 1, 3));
    assert_eq!(found.number("block_size"), Some(8192));
    assert_eq!(found.number("wal_segment_size"), Some(16 * 1024 * 1024));
    assert_eq!(found.setting("wal_level"), Some("replica"));
    assert!(found.is_on("data_checksums") && found.is_on("full_page_writes") && !found.is_on("archive_mode"));
    assert!(found.next_xid > 700 && found.position.0 > 0 && found.tablespaces.is_empty());
    let controldata = std::process::Command::new(cluster.programs.path("pg_controldata"))
        .arg(cluster.data())
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    let controldata = String::from_utf8(controldata.stdout).unwrap();
    let identifier = format!("Database system identifier:           {}\n", found.system_identifier);
    assert!(controldata.contains(&identifier), "{controldata}");
}

#[test]
fn tells_less_to_a_common_role() {
    if !runs_here("session::tells_less_to_a_common_role") {
        return;
    }
    let cluster = Cluster::running();
    cluster.session().execute("CREATE ROLE alice LOGIN").unwrap();
    let mut session = Session::connect(&cluster.conninfo("user=alice"), &Cancel::default()).unwrap();
    let found = facts(&mut session).unwrap();
    assert_eq!(found.data_directory(), None);
    for hidden in ["config_file", "data_directory", "hba_file", "pg_file_settings"] {
        assert!(found.unreadable.iter().any(|name| name == hidden), "{:?}", found.unreadable);
    }
    let error = start_backup(&mut session, "x", true).unwrap_err();
    assert!(error.to_string().starts_with("start the backup"), "{error:#}");
    assert!(format!("{error:#}").contains("may not call pg_backup_start"), "{error:#}");
    assert!(SqlError::find(&error).is_some());
}

#[test]
fn follows_a_standby() {
    if !runs_here("session::follows_a_standby") {
        return;
    }
    let cluster = Cluster::running();
    let session = cluster.session();
    drop(session);
    let outcome = common::server::stop(
        &cluster.programs,
        &cluster.data(),
        common::server::StopMode::Fast,
        WAIT,
        &Cancel::default(),
    );
    outcome.unwrap();
    put(&cluster.data().join("standby.signal"), "", 0o600);
    cluster.start();
    let mut session = cluster.session();
    let found = facts(&mut session).unwrap();
    assert!(found.in_recovery && found.timeline.0 == 1 && found.position.0 > 0, "{found:?}");
    assert!(switch_wal(&mut session).is_err());
    let cancel = Cancel::default();
    assert!(matches!(probe(&cluster.conninfo("target_session_attrs=standby"), &cancel).unwrap(), Probe::Accepting(_)));
    assert!(matches!(probe(&cluster.conninfo("target_session_attrs=primary"), &cancel).unwrap(), Probe::NotReady(_)));
}
