//! The program from outside: help, exit codes, and what it says of a repository.
#![expect(clippy::unwrap_used, reason = "a helper that fails ends the test")]

use std::path::Path;

use assert_cmd::Command;
use common::archive::Repository;
use common::codec::Compression;
use common::repo::ClusterName;
use rstest::rstest;
use tempfile::TempDir;

/// The program in an environment with no configuration of its own.
fn verify(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_verify"));
    command.env_clear().env("HOLDFAST_CONFIG", "/dev/null").args(arguments);
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A repository without any cluster.
fn repository(folder: &Path) -> String {
    let path = folder.join("repo").to_str().unwrap().to_owned();
    let store = common::store::open(&path).unwrap();
    let now = chrono::DateTime::from_timestamp(1_700_000_000, 0).unwrap();
    Repository::open_or_create(store, ClusterName::default(), Compression::default(), now).unwrap();
    path
}

#[rstest]
#[case(&["-?"], "backup")]
#[case(&["backup", "-?"], "--quick")]
#[case(&["backup", "--help"], "--all")]
fn help_names_what_there_is(#[case] arguments: &[&str], #[case] wanted: &str) {
    let output = verify(arguments).assert().code(0).get_output().clone();
    assert!(text(&output.stdout).contains(wanted), "{}", text(&output.stdout));
}

#[rstest]
#[case::nothing(&[], "Usage")]
#[case::no_backup(&["backup", "--repo", "/nowhere"], "<ID>")]
#[case::no_id(&["backup", "latest"], "backup_20261120_031500")]
#[case::both(&["backup", "backup_20261120_031500", "--all"], "--all")]
#[case::no_repository(&["backup", "--all"], "no repository is configured")]
fn wrong_arguments_end_with_2(#[case] arguments: &[&str], #[case] message: &str) {
    let output = verify(arguments).assert().code(2).get_output().clone();
    assert!(text(&output.stderr).contains(message), "{}", text(&output.stderr));
    assert!(output.stdout.is_empty());
}

#[rstest]
#[case(&["--all"])]
#[case(&["backup_20261120_031500"])]
fn without_a_repository_or_cluster_it_ends_with_10(#[case] which: &[&str]) {
    let folder = TempDir::new().unwrap();
    let absent = folder.path().join("absent").to_str().unwrap().to_owned();
    for (place, message) in [(absent, "no repository"), (repository(folder.path()), "no cluster \"main\"")] {
        let arguments: Vec<&str> = ["backup", "--repo", &place].iter().chain(which).copied().collect();
        let output = verify(&arguments).assert().code(10).get_output().clone();
        assert!(text(&output.stderr).contains(message), "{}", text(&output.stderr));
    }
}

/// A cluster whose only backup has a record that is none.
fn with_a_broken_record(folder: &Path) -> String {
    let path = repository(folder);
    let backup = folder.join("repo/main/backup/backup_20261120_031500");
    std::fs::create_dir_all(&backup).unwrap();
    std::fs::File::create(backup.join("backup.json")).unwrap();
    path
}

#[test]
fn a_backup_that_is_not_there_ends_with_1() {
    let folder = TempDir::new().unwrap();
    let repository = with_a_broken_record(folder.path());
    let output =
        verify(&["backup", "backup_20261120_031501", "--repo", &repository]).assert().code(1).get_output().clone();
    assert!(text(&output.stderr).contains("there is no backup backup_20261120_031501"), "{}", text(&output.stderr));
}

#[test]
fn nothing_to_verify_is_no_success() {
    let folder = TempDir::new().unwrap();
    let repository = repository(folder.path());
    let identity = folder.path().join("repo/main/cluster");
    std::fs::create_dir_all(&identity).unwrap();
    std::fs::File::create(identity.join("7.json")).unwrap();
    let output = verify(&["backup", "--all", "--repo", &repository]).assert().code(1).get_output().clone();
    assert!(text(&output.stderr).contains("there is no backup of \"main\""), "{}", text(&output.stderr));
}

#[rstest]
#[case(&["--all"])]
#[case(&["--all", "--quick"])]
#[case(&["backup_20261120_031500"])]
fn findings_end_with_3_and_are_told_both_ways(#[case] which: &[&str]) {
    let folder = TempDir::new().unwrap();
    let repository = with_a_broken_record(folder.path());
    let arguments: Vec<&str> = ["backup", "--repo", &repository].iter().chain(which).copied().collect();
    let table = text(&verify(&arguments).assert().code(3).get_output().stdout);
    assert!(table.contains("1 finding") && table.contains("record") && table.contains("backup.json"), "{table}");
    let output = verify(&arguments).arg("--json").assert().code(3).get_output().clone();
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let finding = &document["backups"][0]["findings"][0];
    assert_eq!(finding["kind"], "record", "{document}");
    assert_eq!(finding["object"], "main/backup/backup_20261120_031500/backup.json");
    assert_eq!((&document["ok"], &document["backups"][0]["ok"]), (&false.into(), &false.into()));
}
