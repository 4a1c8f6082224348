//! The command line from outside: help, exit codes, bad input. No exit code may exceed 125.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use assert_cmd::Command;
use rstest::rstest;

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

#[rstest]
#[case("setup", &["--apply", "--replace", "-h, --host", "--json"])]
#[case("check", &["--backfill", "--no-switch", "--dry-run", "-U, --username"])]
#[case("stats", &["--repo", "--json"])]
fn every_subcommand_explains_itself(#[case] subcommand: &str, #[case] words: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let (code, stdout, _) = run(archive_wal(dir.path()).args([subcommand, "-?"]));
    assert_eq!(code, 0);
    for word in words {
        assert!(stdout.contains(word), "{word} in {stdout}");
    }
    let (_, stdout, _) = run(archive_wal(dir.path()).arg("--help"));
    assert!(stdout.contains(subcommand), "{stdout}");
}

#[rstest]
#[case::nothing_configured(&["setup"], 2, "HOLDFAST_REPO")]
#[case::nothing_configured(&["check"], 2, "HOLDFAST_REPO")]
#[case::nothing_configured(&["stats"], 2, "HOLDFAST_REPO")]
#[case::no_server(&["setup", "--repo", "/nowhere/r", "-h", "/nowhere"], 1, "/nowhere")]
#[case::no_server(&["check", "--repo", "/nowhere/r", "-h", "/nowhere"], 1, "/nowhere")]
#[case::no_repository(&["stats", "--repo", "/nowhere/r"], 10, "/nowhere/r")]
#[case::no_cluster(&["stats", "--repo", "/nowhere/r", "-D", "/nowhere/pg"], 1, "pg_control")]
#[case::dry_run_of_what(&["check", "--repo", "/nowhere/r", "--dry-run"], 2, "--backfill")]
#[case::not_its_own(&["stats", "--repo", "/nowhere/r", "--apply"], 2, "--apply")]
#[case::two_things(&["--repo", "/nowhere/r", "pg_wal/000000010000000000000001", "stats"], 2, "neither a WAL file")]
#[case::two_things(&["--after-upgrade", "stats", "--repo", "/nowhere/r"], 2, "--after-upgrade")]
fn mistakes_are_explained_in_one_line(#[case] words: &[&str], #[case] expected: i32, #[case] said: &str) {
    let dir = tempfile::tempdir().unwrap();
    let (code, stdout, stderr) = run(archive_wal(dir.path()).args(words));
    assert_eq!(code, expected, "{stderr}");
    assert!(stdout.is_empty() && stderr.contains(said), "{stdout}{stderr}");
    assert_eq!(stderr.trim_end().lines().count(), 1, "{stderr}");
}

#[test]
fn a_misspelt_subcommand_is_taken_for_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let (code, _, stderr) = run(archive_wal(dir.path()).args(["chek", "--repo", "/nowhere/r"]));
    assert_eq!(code, 20);
    assert!(stderr.contains("chek") && stderr.contains("setup, check and stats"), "{stderr}");
}
