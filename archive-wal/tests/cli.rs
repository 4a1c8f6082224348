//! The command line from outside: help, exit codes, bad input. No exit code may exceed 125.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use assert_cmd::Command;

fn archive_wal(directory: &std::path::Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_archive-wal"));
    command.env_clear().current_dir(directory);
    command
}

fn run(command: &mut Command) -> (i32, String, String) {
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn both_ways_to_ask_for_help() {
    let dir = tempfile::tempdir().unwrap();
    for flag in ["-?", "--help"] {
        let (code, stdout, _) = run(archive_wal(dir.path()).arg(flag));
        assert_eq!(code, 0);
        assert!(stdout.contains("archive_command = 'archive-wal"), "{stdout}");
        assert!(stdout.contains("--after-upgrade"), "{stdout}");
    }
}

#[test]
fn without_a_path_it_is_a_usage_error() {
    let dir = tempfile::tempdir().unwrap();
    let (code, _, stderr) = run(&mut archive_wal(dir.path()));
    assert_eq!(code, 2);
    assert!(stderr.contains("<PATH>"), "{stderr}");
}

#[test]
fn a_name_that_postgresql_never_archives_is_refused() {
    let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let repo = elsewhere.path().join("repo");
    let (code, _, stderr) = run(archive_wal(dir.path()).arg("--repo").arg(&repo).arg("pg_wal/../etc/passwd"));
    assert_eq!(code, 20);
    assert!(stderr.contains("passwd") && stderr.contains("hint:"), "{stderr}");
    assert!(!repo.exists());
}

#[test]
fn without_a_control_file_nothing_is_written() {
    let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let repo = elsewhere.path().join("repo");
    let (code, _, stderr) =
        run(archive_wal(dir.path()).arg("--repo").arg(&repo).arg("pg_wal/000000010000000000000001"));
    assert_eq!(code, 1);
    assert!(stderr.contains("pg_control") && stderr.contains("hint:"), "{stderr}");
    assert!(!repo.exists());
}

#[test]
fn with_nothing_configured_it_says_the_three_ways() {
    let dir = tempfile::tempdir().unwrap();
    let (code, _, stderr) = run(archive_wal(dir.path()).arg("pg_wal/000000010000000000000001"));
    assert_eq!(code, 2);
    for way in ["--repo", "HOLDFAST_REPO", "holdfast.toml"] {
        assert!(stderr.contains(way), "{stderr}");
    }
}

#[test]
fn a_wrong_option_names_itself() {
    let dir = tempfile::tempdir().unwrap();
    let (code, _, stderr) = run(archive_wal(dir.path()).args(["--bogus", "pg_wal/000000010000000000000001"]));
    assert_eq!(code, 2);
    assert!(stderr.contains("--bogus"), "{stderr}");
}
