//! Starting, stopping and recognising servers.

use std::fs;
use std::process::Command;
use std::time::Duration;

use common::report::{Advice, Cancel};
use common::server::{Probe, StartCommand, StopMode, StopOutcome, probe, processes, running, start, stop};
use common::sys::clock::{Deadline, poll};

use crate::cluster::{Cluster, WAIT, put, runs_here};

#[test]
fn starts_and_stops() {
    if !runs_here("control::starts_and_stops") {
        return;
    }
    let mut cluster = Cluster::new();
    let (data, cancel) = (cluster.data(), Cancel::default());
    let halt = |cluster: &Cluster| stop(&cluster.programs, &cluster.data(), StopMode::Fast, WAIT, &cancel).unwrap();
    assert_eq!(running(&data).unwrap(), None);
    assert_eq!(halt(&cluster), StopOutcome::WasDown);
    assert!(matches!(probe(&cluster.conninfo(""), &cancel).unwrap(), Probe::NoServer(_)));
    cluster.set("cluster_name", "it's \"$HOME\" `x` \\ y");
    cluster.start();
    assert_eq!(cluster.session().value("SHOW cluster_name").unwrap().unwrap(), "it's \"$HOME\" `x` \\ y");
    let server = running(&data).unwrap().unwrap();
    assert_eq!((server.file.port, server.file.socket_directory.as_deref()), (Some(5432), Some(cluster.path())));
    assert_eq!(server.file.status.as_deref(), Some("ready"));
    assert!(processes(&data).unwrap().contains(&server.file.pid));
    assert_eq!(StartCommand::of(&data).unwrap().unwrap().program, cluster.programs.postgres());
    let error = start(&cluster.programs, &data, &cluster.options(), &cancel).unwrap_err();
    assert!(error.downcast_ref::<Advice>().unwrap().message.contains("already"), "{error:#}");
    assert_eq!(halt(&cluster), StopOutcome::Stopped(StopMode::Fast));
    assert_eq!(halt(&cluster), StopOutcome::WasDown);
}

#[test]
fn starts_with_another_configuration_file() {
    if !runs_here("control::starts_with_another_configuration_file") {
        return;
    }
    let cluster = Cluster::new();
    let file = cluster.path().join("own.conf");
    let socket = cluster.path().display();
    put(&file, &format!("cluster_name = 'own'\nunix_socket_directories = '{socket}'\nlisten_addresses = ''\n"), 0o600);
    let mut options = cluster.options();
    options.settings.clear();
    options.config_file = Some(file);
    let cancel = Cancel::default();
    start(&cluster.programs, &cluster.data(), &options, &cancel).unwrap();
    let name = poll(Deadline::after(WAIT), Duration::from_millis(20), &cancel, || {
        match probe(&cluster.conninfo(""), &cancel)? {
            Probe::Accepting(mut session) => session.value("SHOW cluster_name"),
            _ => Ok(None),
        }
    });
    assert_eq!(name.unwrap().as_deref(), Some("own"));
}

#[test]
fn stops_harder_when_an_archive_hangs() {
    if !runs_here("control::stops_harder_when_an_archive_hangs") {
        return;
    }
    let mut cluster = Cluster::new();
    // It blocks on a pipe that nobody writes to.
    let pipe = cluster.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    cluster.set("archive_mode", "on");
    cluster.set("archive_command", &format!("exec cat {}", pipe.display()));
    cluster.start();
    common::server::backup::switch_wal(&mut cluster.session()).unwrap();
    let mode = StopMode::Fast;
    let outcome = stop(&cluster.programs, &cluster.data(), mode, Duration::from_secs(1), &Cancel::default());
    assert_eq!(outcome.unwrap(), StopOutcome::Stopped(StopMode::Immediate));
    assert_eq!(processes(&cluster.data()).unwrap(), Vec::<i32>::new());
}

#[test]
fn is_interrupted_while_it_waits() {
    if !runs_here("control::is_interrupted_while_it_waits") {
        return;
    }
    let cluster = Cluster::running();
    // A smart stop waits for this session.
    let session = cluster.session();
    let cancel = Cancel::default();
    std::thread::scope(|scope| {
        let stopping = scope.spawn(|| stop(&cluster.programs, &cluster.data(), StopMode::Smart, WAIT, &cancel));
        let seen = poll(Deadline::after(WAIT), Duration::from_millis(20), &Cancel::default(), || {
            Ok(running(&cluster.data())?.filter(|server| server.file.status.as_deref() == Some("stopping")))
        });
        cancel.cancel();
        assert!(seen.unwrap().is_some());
        assert!(stopping.join().unwrap().is_err());
    });
    assert!(running(&cluster.data()).unwrap().is_some());
    drop(session);
}

#[test]
fn is_not_fooled_by_a_pid_file() {
    if !runs_here("control::is_not_fooled_by_a_pid_file") {
        return;
    }
    let (cluster, copy) = (Cluster::running(), Cluster::new());
    // As after copying a running cluster's directory: the number is that of a server, but of another one's.
    fs::copy(cluster.data().join("postmaster.pid"), copy.data().join("postmaster.pid")).unwrap();
    assert_eq!(running(&copy.data()).unwrap(), None);
    let outcome = stop(&copy.programs, &copy.data(), StopMode::Immediate, WAIT, &Cancel::default());
    assert_eq!(outcome.unwrap(), StopOutcome::WasDown);
    assert!(cluster.session().execute("SELECT 1").is_ok());
}

#[test]
fn names_processes_that_outlived_their_postmaster() {
    if !runs_here("control::names_processes_that_outlived_their_postmaster") {
        return;
    }
    let cluster = Cluster::running();
    let mut session = cluster.session();
    let own = session.value("SELECT pg_backend_pid()").unwrap().unwrap();
    let pid = running(&cluster.data()).unwrap().unwrap().file.pid;
    // A stopped backend does not notice that its postmaster is gone.
    let signal = |name: &str, pid: &str| assert!(Command::new("kill").args([name, pid]).status().unwrap().success());
    signal("-STOP", &own);
    signal("-KILL", &pid.to_string());
    let gone = poll(Deadline::after(WAIT), Duration::from_millis(20), &Cancel::default(), || {
        Ok(running(&cluster.data())?.is_none().then_some(()))
    });
    let limit = Duration::from_millis(100);
    let error = stop(&cluster.programs, &cluster.data(), StopMode::Fast, limit, &Cancel::default()).unwrap_err();
    signal("-CONT", &own);
    signal("-KILL", &own);
    assert!(gone.unwrap().is_some());
    assert!(error.to_string().contains(&own), "{error:#}");
    let empty = poll(Deadline::after(WAIT), Duration::from_millis(20), &Cancel::default(), || {
        Ok(processes(&cluster.data())?.is_empty().then_some(()))
    });
    assert!(empty.unwrap().is_some());
}
