//! What a person meets first: help, versions, and mistakes that are explained.

use anyhow::{Result, ensure};
use e2e::Sandbox;
use rstest::rstest;

#[rstest]
fn every_program_introduces_itself(
    #[values("archive-wal", "restore-wal", "basebackup", "recover", "retention", "verify")] program: &str,
) -> Result<()> {
    let sandbox = Sandbox::new()?;
    for option in ["--help", "-?"] {
        let ran = sandbox.run(program, &[option])?.success()?;
        ensure!(ran.stdout.contains("--repo") && ran.stdout.contains("--cluster"), "{ran}");
    }
    let ran = sandbox.run(program, &["--version"])?.success()?;
    ensure!(ran.stdout.starts_with(program), "{ran}");
    Ok(())
}

/// With nothing configured, every program says how to name a repository.
#[rstest]
#[case("basebackup", &["list"])]
#[case("recover", &["list"])]
#[case("retention", &["--keep-last", "3"])]
#[case("verify", &["backup", "--all"])]
fn without_a_repository(#[case] program: &str, #[case] args: &[&str]) -> Result<()> {
    let ran = Sandbox::new()?.run(program, args)?;
    ran.expect_code(2)?.says(&["--repo", "HOLDFAST_REPO", "holdfast.toml"])?;
    Ok(())
}

#[rstest]
#[case("archive-wal", 2)]
#[case("restore-wal", 202)]
#[case("basebackup", 2)]
#[case("recover", 2)]
#[case("retention", 2)]
#[case("verify", 2)]
fn an_unknown_option(#[case] program: &str, #[case] code: i32) -> Result<()> {
    Sandbox::new()?.run(program, &["--no-such-option"])?.expect_code(code)?.says(&["--no-such-option"])?;
    Ok(())
}

/// An unknown key of the configuration is named, with its line and the nearest known one.
#[test]
fn a_misspelt_key() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let config = sandbox.path().join("holdfast.toml");
    sandbox.write(&config, b"cluster = \"main\"\n\n[[repository]]\nulr = \"/tmp/nowhere\"\n")?;
    let config = config.display().to_string();
    sandbox.run("basebackup", &["list", "--config", &config])?.expect_code(2)?.says(&["ulr", "url", "4"])?;
    Ok(())
}
