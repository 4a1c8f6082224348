//! The command line from outside: help, exit codes, bad input; nothing is touched by a mistake.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use assert_cmd::Command;
use rstest::rstest;

fn recover(directory: &Path, args: &[&str]) -> (i32, String, String) {
    let output =
        Command::new(env!("CARGO_BIN_EXE_recover")).env_clear().current_dir(directory).args(args).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn help_names_the_commands() {
    let dir = tempfile::tempdir().unwrap();
    let (code, stdout, _) = recover(dir.path(), &["-?"]);
    assert_eq!(code, 0);
    for command in [
        "list",
        "windows",
        "run",
        "find",
        "finish",
        "continue",
        "promote",
        "rollback",
        "extract",
        "status",
        "cleanup",
        "row-counts",
    ] {
        assert!(stdout.contains(command), "{stdout}");
    }
}

#[rstest]
#[case(&[], 2)]
#[case(&["run", "--target-lsn", "0/1", "--target-xid", "7"], 2)]
#[case(&["run", "--target-time", "yesterday"], 2)]
#[case(&["run", "--target-latest", "--target-exclusive"], 2)]
#[case(&["run", "--target-immediate", "--target-exclusive"], 2)]
#[case(&["run", "--target-name", "x", "--target-exclusive"], 2)]
#[case(&["run", "--target-timeline", "0"], 2)]
#[case(&["run", "-T", "nonsense"], 2)]
#[case(&["run", "--as", "something"], 2)]
#[case(&["run", "--resume", "--target-latest"], 2)]
#[case(&["run", "--config-from", "nowhere"], 2)]
#[case(&["run", "--repo", "/nowhere"], 2)]
#[case(&["continue", "--target-lsn", "0/1", "--target-xid", "7"], 2)]
#[case(&["continue", "--repo", "/nowhere", "-D", "data"], 20)]
#[case(&["promote", "--repo", "/nowhere", "-D", "data"], 20)]
#[case(&["find", "--from-time", "yesterday"], 2)]
#[case(&["find", "--rows", "0"], 2)]
#[case(&["find"], 2)]
#[case(&["find", "--repo", "/nowhere/at/all"], 10)]
#[case(&["extract", "--repo", "/nowhere", "--output", "x.sql"], 2)]
#[case(&["extract", "--repo", "/nowhere", "-t", "t", "--output", "x.sql"], 2)]
#[case(&["extract", "--repo", "/nowhere", "-d", "x", "-t", "a b", "--output", "x.sql"], 2)]
#[case(&["extract", "--repo", "/nowhere", "-d", "x", "-t", "t"], 2)]
#[case(&["extract", "--repo", "/nowhere", "--database", "x", "--output", "x.sql", "-F", "d"], 2)]
#[case(&["extract", "--repo", "/nowhere", "--database", "x", "--output", "-", "--json"], 2)]
#[case(&["extract", "--repo", "/nowhere", "--database", "x", "--output", "no/x.sql"], 2)]
#[case(&["extract", "--repo", "/nowhere/at/all", "--database", "x", "--output", "x.sql"], 10)]
#[case(&["run", "--repo", "/nowhere", "-D", "data", "--primary-conninfo", "host=x password=hush"], 2)]
#[case(&["run", "--repo", "/nowhere", "-D", "data", "--slot", "No-Slot"], 2)]
#[case(&["run", "--standby", "--as", "copy"], 2)]
#[case(&["run", "--repo", "/nowhere", "-D", "data", "--row-counts", "missing"], 2)]
#[case(&["run", "--repo", "/nowhere", "-D", "data", "--report", "missing/report"], 2)]
#[case(&["run", "--amcheck=some"], 2)]
#[case(&["list"], 2)]
#[case(&["list", "--repo", "/nowhere/at/all"], 10)]
fn mistakes_have_their_codes(#[case] args: &[&str], #[case] expected: i32) {
    let dir = tempfile::tempdir().unwrap();
    let (code, _, stderr) = recover(dir.path(), args);
    assert_eq!(code, expected, "{stderr}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn without_a_data_directory_it_says_how_to_name_one() {
    let dir = tempfile::tempdir().unwrap();
    let (_, _, stderr) = recover(dir.path(), &["run", "--repo", "/nowhere"]);
    assert!(stderr.contains("-D DIR"), "{stderr}");
}

#[test]
fn there_is_nothing_to_undo_where_nothing_was_done() {
    let dir = tempfile::tempdir().unwrap();
    // In a folder of root's nothing is done at all, in anybody else's there is no journal: refused either way.
    let (code, _, stderr) = recover(dir.path(), &["rollback", "-D", "data", "--repo", "/nowhere"]);
    assert_eq!(code, 20, "{stderr}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// Where a clock change repeats an hour or skips one, the offset tells which moment is meant.
#[rstest]
#[case("2026-10-25 02:30:00", &["occurs twice", "+01:00", "+02:00"])]
#[case("2026-03-29 02:30:00", &["never occurs", "offset"])]
fn a_local_time_that_is_none_is_explained(#[case] time: &str, #[case] words: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let said = Command::new(env!("CARGO_BIN_EXE_recover"))
        .env("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
        .current_dir(dir.path())
        .args(["run", "--repo", "/nowhere", "-D", "data", "--target-time", time])
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&said.stderr).into_owned();
    assert_eq!(said.status.code(), Some(2), "{stderr}");
    assert!(words.iter().all(|word| stderr.contains(word)), "{stderr}");
}
