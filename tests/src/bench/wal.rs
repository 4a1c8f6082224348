//! Rows for one WAL segment of 16 MiB: push, fetch, start-up.
//!
//! Every run of everybody has a segment that its repository has not seen. What is timed is one call of the program, as
//! PostgreSQL would make it: start, work, answer, end.

use std::path::PathBuf;

use anyhow::{Result, ensure};

use super::measure::{self, Contender, take_turns};
use super::report::{Goal, table};
use super::stage::Stage;
use crate::Repo;

/// Push, fetch and start-up as tables.
pub fn rows(stage: &Stage<'_>, repo: &Repo) -> Result<String> {
    ensure!(stage.dense.segments.len() >= stage.terms.runs, "too few segments for {} runs", stage.terms.runs);
    Ok(push(stage, repo)? + &fetch(stage, repo)? + &start_up(stage)?)
}

/// Where the pipe of that turn puts its compressed segment.
fn packed(stage: &Stage<'_>, turn: usize) -> Result<PathBuf> {
    Ok(stage.sandbox.folder("pipe")?.join(format!("{}.zst", stage.name(turn)?)))
}

fn push(stage: &Stage<'_>, repo: &Repo) -> Result<String> {
    let level = stage.terms.level;
    let mut contenders = vec![
        Contender::new("`zstd -1 -qc SEG \\| dd conv=fsync`", |turn| {
            let (from, to) = (stage.segment(turn)?, packed(stage, turn)?);
            stage.sandbox.clear(&to)?;
            stage.shell(&format!(
                "zstd -{level} -qc '{}' | dd bs=1M iflag=fullblock conv=fsync status=none of='{}'",
                from.display(),
                to.display()
            ))
        }),
        Contender::new("archive-wal", |turn| stage.push(repo, turn)),
    ];
    if let Some(rival) = stage.rival {
        let push = |turn| stage.as_the_server(turn, |path| rival.push(path));
        contenders.push(Contender::new("pgbackrest archive-push", push));
    }
    contenders.push(Contender::new("`zstd -1 -qc SEG >/dev/null`", |turn| {
        stage.shell(&format!("exec zstd -{level} -qc '{}' >/dev/null", stage.segment(turn)?.display()))
    }));
    let rows = take_turns(stage.terms.runs, contenders)?;
    let goals = [
        Goal { of: "archive-wal", against: "`zstd -1 -qc SEG \\|", at_most: 1.1 },
        Goal { of: "archive-wal", against: "pgbackrest", at_most: 1.0 },
    ];
    Ok(table("Push: one segment of 16 MiB into the repository", &rows, &goals))
}

fn fetch(stage: &Stage<'_>, repo: &Repo) -> Result<String> {
    let mut contenders = vec![
        Contender::new("`zstd -dc`", |turn| {
            let from = packed(stage, turn)?;
            stage.fetched(turn, |to| stage.shell(&format!("exec zstd -dqc '{}' > '{}'", from.display(), to.display())))
        }),
        Contender::new("restore-wal", |turn| stage.fetch(repo, turn)),
    ];
    if let Some(rival) = stage.rival {
        let fetch = |turn| stage.fetched(turn, |to| rival.fetch(&stage.name(turn)?, to));
        contenders.push(Contender::new("pgbackrest archive-get", fetch));
    }
    let rows = take_turns(stage.terms.runs, contenders)?;
    let goals = [
        Goal { of: "restore-wal", against: "`zstd -dc`", at_most: 1.2 },
        Goal { of: "restore-wal", against: "pgbackrest", at_most: 1.0 },
    ];
    Ok(table("Fetch: one segment of 16 MiB from the repository", &rows, &goals))
}

fn start_up(stage: &Stage<'_>) -> Result<String> {
    let version = |name: &'static str| {
        let version = move |_| measure::run(stage.program(name)?.arg("--version"));
        Contender::new(format!("{name} --version"), version)
    };
    let other = |program: &'static str, argument: &'static str| {
        let start = move |_| measure::run(stage.sandbox.command(program)?.arg(argument));
        Contender::new(format!("{program} {argument}"), start)
    };
    let mut contenders = vec![other("true", "--version"), version("archive-wal"), version("restore-wal")];
    if stage.rival.is_some() {
        contenders.push(other("pgbackrest", "version"));
    }
    let rows = take_turns(stage.terms.runs, contenders)?;
    Ok(table("Start-up (goal for archive-wal: at most 3 ms)", &rows, &[]))
}
