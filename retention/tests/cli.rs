//! The program from outside: help, exit codes, and a small repository.
#![expect(clippy::unwrap_used, reason = "a helper that fails ends the test")]

use std::path::Path;

use assert_cmd::Command;
use common::archive::Repository;
use common::codec::Compression;
use common::repo::ClusterName;
use rstest::rstest;
use tempfile::TempDir;

/// The program in an environment with no configuration of its own.
fn retention(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_retention"));
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
#[case("-?")]
#[case("--help")]
fn help_names_the_options_and_the_exit_codes(#[case] option: &str) {
    let output = retention(&[option]).assert().code(0).get_output().clone();
    let help = text(&output.stdout);
    for wanted in ["--keep-last <N>", "--dry-run", "--repo", "Exit codes:"] {
        assert!(help.contains(wanted), "{help}");
    }
}

#[rstest]
#[case::no_repository(&["--keep-last", "3"], "--repo")]
#[case::no_policy(&["--repo", "/nowhere"], "--keep-last N")]
#[case::nothing_to_keep(&["--repo", "/nowhere", "--keep-last", "0"], "0 is not in 1..")]
#[case::unknown_option(&["--keep-first", "3"], "--keep-first")]
fn wrong_arguments_end_with_2(#[case] arguments: &[&str], #[case] message: &str) {
    let output = retention(arguments).assert().code(2).get_output().clone();
    assert!(text(&output.stderr).contains(message), "{}", text(&output.stderr));
    assert!(output.stdout.is_empty());
}

#[test]
fn a_place_without_a_repository_ends_with_10() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("absent");
    let output =
        retention(&["--repo", path.to_str().unwrap(), "--keep-last", "1"]).assert().code(10).get_output().clone();
    assert!(text(&output.stderr).contains("there is no repository at"), "{}", text(&output.stderr));
    assert!(!path.exists());
}

#[test]
fn a_cluster_that_is_not_there_ends_with_10() {
    let folder = TempDir::new().unwrap();
    let repository = repository(folder.path());
    let arguments = ["--repo", &repository, "--cluster", "typo", "--keep-last", "1"];
    let output = retention(&arguments).assert().code(10).get_output().clone();
    assert!(text(&output.stderr).contains("there is no cluster \"typo\""), "{}", text(&output.stderr));
}

#[test]
fn one_repository_that_fails_does_not_keep_the_others_waiting() {
    let folder = TempDir::new().unwrap();
    let repository = repository(folder.path());
    let started = folder.path().join("repo/main/backup/backup_20261120_031500");
    std::fs::create_dir_all(&started).unwrap();
    let absent = folder.path().join("absent");
    let arguments = ["--json", "--keep-last", "1", "--repo", absent.to_str().unwrap(), "--repo", &repository];
    let output = retention(&arguments).assert().code(10).get_output().clone();
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let repositories = document["repositories"].as_array().unwrap();
    assert_eq!(repositories.len(), 2);
    assert!(repositories.iter().all(|it| it["error"].is_string() && it["removed"]["bytes"] == 0), "{document}");
    assert_eq!((&document["keep_last"], &document["dry_run"]), (&1.into(), &false.into()));
}

#[rstest]
#[case(&["--dry-run"], "would free")]
#[case(&[], "removed 1 backup and 0 WAL files")]
fn the_configured_number_counts(#[case] arguments: &[&str], #[case] summary: &str) {
    let world = TwoBackups::new();
    let output = world.command(arguments).assert().code(0).get_output().clone();
    let table = text(&output.stdout);
    assert!(table.contains(summary), "{table}");
    assert!(table.lines().any(|line| line.contains("backup_20231114_221320") && line.contains("drop")), "{table}");
    assert_eq!(world.old.exists(), arguments == ["--dry-run"]);
    assert!(world.new.exists());
}

#[test]
fn a_record_that_cannot_be_read_ends_with_3() {
    let world = TwoBackups::new();
    std::fs::File::create(world.old.join("backup.json")).unwrap();
    let output = world.command(&["--json"]).assert().code(3).get_output().clone();
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["repositories"][0]["findings"].as_array().unwrap().len(), 1, "{document}");
    assert!(world.old.exists() && world.new.exists());
}

/// A repository on disk with two backups, and a configuration that keeps one.
struct TwoBackups {
    folder: TempDir,
    old: std::path::PathBuf,
    new: std::path::PathBuf,
}

impl TwoBackups {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let repository = repository(folder.path());
        let store = common::store::open(&repository).unwrap();
        let repository = Repository::open(store, ClusterName::default(), Compression::default()).unwrap();
        for (id, start) in [("backup_20231114_221320", "0/2000028"), ("backup_20231115_221320", "0/5000028")] {
            let record: common::repo::records::BackupRecord = serde_json::from_value(record(id, start)).unwrap();
            let key = repository.layout().backup_object(record.id, "backup.json").unwrap();
            repository.create_record(&key, &record).unwrap();
        }
        let config = folder.path().join("holdfast.toml");
        let text = "[[repository]]\nurl = \"repo\"\n[retention]\nkeep-last = 1\n";
        common::sys::durable::replace(&config, text.as_bytes(), 0o600).unwrap();
        let backups = folder.path().join("repo/main/backup");
        let (old, new) = (backups.join("backup_20231114_221320"), backups.join("backup_20231115_221320"));
        Self { folder, old, new }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = retention(arguments);
        command.env("HOLDFAST_CONFIG", self.folder.path().join("holdfast.toml"));
        command
    }
}

/// A commit record as it lies in a repository.
fn record(id: &str, start: &str) -> serde_json::Value {
    let object = serde_json::json!({"plain_bytes": 1, "stored_bytes": 1, "stored_sha256": "0".repeat(64), "sha256": "0".repeat(64)});
    let part =
        serde_json::json!({"number": 1, "plain_bytes": 2048, "stored_bytes": 1, "stored_sha256": "0".repeat(64)});
    serde_json::json!({
        "id": id, "label": "", "holdfast_version": "0.1.0",
        "source": {
            "system_identifier": "7", "version_number": 150_018, "catalog_version": 202_209_061,
            "segment_size": 16 << 20, "data_checksums": true, "standby": false, "host": "db1",
            "data_directory": "/data", "data_directory_mode": 448, "config_file": "/data/a", "hba_file": "/data/b", "ident_file": "/data/c",
            "port": 5432
        },
        "span": {
            "timeline": 1, "start_lsn": start, "stop_lsn": "0/6000000", "started_at": "2023-11-14T22:13:20Z",
            "stopped_at": "2023-11-14T22:14:20Z", "next_xid": 1000
        },
        "tablespaces": [], "compression": "zstd:1", "parts": [part], "index": object, "manifest": object, "config": null,
        "files": 1, "plain_bytes": 1, "stored_bytes": 1, "damaged_pages": [], "damaged_page_count": 0
    })
}
