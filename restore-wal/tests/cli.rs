//! The command line from outside: help, exit codes, bad input. Exit code 1 means "absent" to PostgreSQL and is kept for
//! that, and for standbys.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use assert_cmd::Command;
use common::sys::durable;

fn restore_wal(directory: &Path, args: &[&str]) -> (i32, String, String) {
    let output =
        Command::new(env!("CARGO_BIN_EXE_restore-wal")).env_clear().current_dir(directory).args(args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

const SEGMENT: &str = "000000010000000000000001";

#[test]
fn help_is_no_failure() {
    let dir = tempfile::tempdir().unwrap();
    let (code, stdout, _) = restore_wal(dir.path(), &["-?"]);
    assert_eq!(code, 0);
    assert!(stdout.contains("restore_command = 'restore-wal"), "{stdout}");
}

#[test]
fn no_mistake_reads_as_the_end_of_the_archive() {
    let dir = tempfile::tempdir().unwrap();
    let destination = "pg_wal/RECOVERYXLOG";
    for (args, expected) in [
        (vec![], 202),
        (vec![SEGMENT], 202),
        (vec![SEGMENT, destination], 202),
        (vec!["--bogus", SEGMENT, destination], 202),
        (vec!["--repo", "/nowhere", "no-wal-file", destination], 202),
        (vec!["--repo", "/nowhere", SEGMENT, destination], 201),
        (vec!["--config", "/nowhere.toml", SEGMENT, destination], 202),
        (vec!["--repo", "/nowhere", "--plan", "/nowhere/plan", SEGMENT, destination], 201),
    ] {
        let (code, _, stderr) = restore_wal(dir.path(), &args);
        assert_eq!(code, expected, "{args:?}: {stderr}");
        assert!(stderr.starts_with("restore-wal: "), "{stderr}");
    }
}

#[test]
fn a_standby_is_never_stopped_by_a_mistake() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::File::create(dir.path().join("standby.signal")).unwrap();
    for args in [vec![], vec!["--bogus"], vec!["--repo", "/nowhere", SEGMENT, "pg_wal/RECOVERYXLOG"]] {
        let (code, _, stderr) = restore_wal(dir.path(), &args);
        assert_eq!(code, 1, "{args:?}: {stderr}");
        assert!(!stderr.is_empty());
    }
}

/// PostgreSQL's log gets what went wrong once, in plain words.
#[test]
fn a_failure_is_said_once() {
    let dir = tempfile::tempdir().unwrap();
    let pgdata = dir.path().join("data");
    std::fs::create_dir_all(pgdata.join("global")).unwrap();
    durable::replace(&pgdata.join("global/pg_control"), &control_file(), 0o600).unwrap();
    let repository = dir.path().join("repository");
    durable::replace(&repository, b"no folder", 0o600).unwrap();
    let (code, _, stderr) =
        restore_wal(&pgdata, &["--repo", repository.to_str().unwrap(), SEGMENT, "pg_wal/RECOVERYXLOG"]);
    assert_eq!(code, 201, "{stderr}");
    assert!(stderr.trim_end().ends_with("holdfast.json: not a directory"), "{stderr}");
    assert_eq!(stderr.matches("not a directory").count(), 1, "{stderr}");
}

/// What of `pg_control` is looked at: PostgreSQL 15, shut down, segments of 16 MiB, the right checksum.
fn control_file() -> Vec<u8> {
    let mut bytes = vec![0; 288];
    for (offset, value) in [(0, 7_u32), (8, 1300), (12, 202_209_061), (16, 1), (228, 16 << 20)] {
        bytes.splice(offset..offset + 4, value.to_ne_bytes());
    }
    bytes.extend(crc32c::crc32c(&bytes).to_ne_bytes());
    bytes.resize(8192, 0);
    bytes
}
