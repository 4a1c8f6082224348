//! The program as a user meets it, without a server.

use assert_cmd::Command;
use assert_cmd::assert::Assert;
use rstest::rstest;

fn basebackup(arguments: &[&str]) -> Assert {
    let mut command = Command::new(env!("CARGO_BIN_EXE_basebackup"));
    let variables = std::env::vars_os().map(|(name, _)| name);
    let ours = |name: &std::ffi::OsString| {
        let name = name.to_string_lossy();
        name.starts_with("HOLDFAST_") || name.starts_with("PG")
    };
    for variable in variables.filter(ours) {
        command.env_remove(variable);
    }
    command.args(arguments).assert()
}

fn said(assert: &Assert) -> (String, String) {
    let output = assert.get_output();
    (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[rstest]
#[case(&["-?"])]
#[case(&["--help"])]
#[case(&["list", "--help"])]
fn help_is_data(#[case] arguments: &[&str]) {
    let (out, err) = said(&basebackup(arguments).code(0));
    assert!(out.contains("Usage: basebackup"), "{out}");
    assert_eq!(err, "");
}

#[test]
fn help_knows_the_options_and_the_exit_codes() {
    let (out, _) = said(&basebackup(&["-?"]).code(0));
    for words in ["--jobs", "--label", "--checkpoint", "--compress", "--archive-timeout", "--host", "--repo", "list"] {
        assert!(out.contains(words), "{words} in {out}");
    }
    assert!(out.to_lowercase().contains("exit codes"), "{out}");
}

#[test]
fn the_version_is_data() {
    let (out, _) = said(&basebackup(&["-V"]).code(0));
    assert!(out.starts_with("basebackup (Holdfast) "), "{out}");
}

#[rstest]
#[case(&["--nonsense"])]
#[case(&["nonsense"])]
#[case(&["-j", "0"])]
#[case(&["-c", "slow"])]
#[case(&["-Z", "brotli"])]
#[case(&["--repo", "relative://x", "list"])]
#[case(&["-l", "x", "--repo", "/nowhere", "list"])]
fn what_makes_no_sense_is_a_usage_error(#[case] arguments: &[&str]) {
    let (out, err) = said(&basebackup(arguments).code(2));
    assert_eq!(out, "");
    assert!(err.starts_with("basebackup: "), "{err}");
}

#[rstest]
#[case(&[])]
#[case(&["list"])]
fn without_a_repository_the_three_ways_to_name_one_are_said(#[case] arguments: &[&str]) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("holdfast.toml");
    std::fs::File::create(&file).unwrap();
    let config = ["--config", file.to_str().unwrap()];
    let (_, err) = said(&basebackup(&[&config, arguments].concat()).code(2));
    for way in ["--repo", "HOLDFAST_REPO", "[[repository]]"] {
        assert!(err.contains(way), "{err}");
    }
}

#[test]
fn a_list_of_no_repository_is_exit_10() {
    let directory = tempfile::tempdir().unwrap();
    for place in [directory.path().join("absent"), directory.path().to_owned()] {
        let (out, err) = said(&basebackup(&["--repo", place.to_str().unwrap(), "list"]).code(10));
        assert_eq!(out, "");
        assert!(err.contains("there is no repository"), "{err}");
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "listing makes nothing");
}

#[test]
fn without_a_server_nothing_is_made() {
    let directory = tempfile::tempdir().unwrap();
    let repository = directory.path().join("repository");
    let (repository_argument, socket) = (repository.to_str().unwrap(), directory.path().to_str().unwrap());
    let (out, err) = said(&basebackup(&["--repo", repository_argument, "-h", socket, "-p", "1"]).code(1));
    assert_eq!(out, "");
    assert!(err.contains("connect to the server"), "{err}");
    assert!(err.contains("hint: "), "{err}");
    assert!(!repository.exists());
}
