//! A disk that fills up is told of, loudly, and nothing is discarded.

use anyhow::{Result, ensure};

use super::Backlog;

#[test]
fn low_space_is_told_once_in_a_while() -> Result<()> {
    let backlog = Backlog::of(3)?;
    let config = backlog.sandbox.path().join("low.toml");
    let text = format!("[[repository]]\nurl = \"{}\"\n[archive]\nlow-space = \"100%\"\n", backlog.repo.arg()?);
    backlog.sandbox.write(&config, text.as_bytes())?;
    let config = config.to_str().unwrap_or_default();
    let options = ["--batch", "1", "--config", config];
    backlog.archive(0, &options)?.success()?.says(&["LOW SPACE", "3 files (3.0 MiB) wait", "nothing is discarded"])?;
    let ran = backlog.archive(1, &options)?.success()?;
    ensure!(ran.stderr.is_empty(), "told twice within a minute: {ran}");
    backlog.holds(&backlog.repo, &backlog.ready[..2])
}

/// When archiving fails, which is when the disk fills up, the failure's own line has the numbers.
#[test]
fn a_failure_tells_of_low_space_too() -> Result<()> {
    let backlog = Backlog::of(2)?;
    let config = backlog.sandbox.path().join("low.toml");
    let text = "[[repository]]\nurl = \"/proc/no/repository\"\n[archive]\nlow-space = \"100%\"\n";
    backlog.sandbox.write(&config, text.as_bytes())?;
    let ran = backlog.archive(0, &["--config", config.to_str().unwrap_or_default()])?;
    ensure!(ran.code.is_some_and(|code| (1..=125).contains(&code)), "{ran}");
    ensure!(ran.stderr.lines().count() == 1, "more than a line: {ran}");
    ran.says(&["LOW SPACE", "2 files", "/proc/no/repository"])?;
    Ok(())
}
