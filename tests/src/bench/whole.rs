//! Rows for a whole cluster: a backup of the running server, and its files back on disk.

use std::path::PathBuf;

use anyhow::Result;

use super::measure::{Contender, take_turns};
use super::report::{Goal, table};
use super::stage::Stage;
use crate::Repo;

/// Backup and restore as tables.
pub fn rows(stage: &Stage<'_>, repo: &Repo) -> Result<String> {
    Ok(backup(stage, repo)? + &restore(stage, repo)?)
}

/// What the pipe makes of the data directory.
fn archive(stage: &Stage<'_>) -> PathBuf {
    stage.sandbox.path().join("pipe.tar.zst")
}

fn backup(stage: &Stage<'_>, repo: &Repo) -> Result<String> {
    let (level, jobs) = (stage.terms.level, stage.terms.jobs);
    let mut contenders = vec![
        Contender::new("`tar \\| zstd -T2 \\| dd conv=fsync`", |_| {
            stage.sandbox.clear(&archive(stage))?;
            stage.shell(&format!(
                "tar -C '{}' -cf - . | zstd -q -{level} -T{jobs} | dd bs=1M iflag=fullblock conv=fsync status=none of='{}'",
                stage.dense.cluster.pgdata_arg()?,
                archive(stage).display()
            ))
        }),
        Contender::new("basebackup", |_| {
            stage.archive_with(&stage.archive_command(repo)?)?;
            stage.forget_backups(repo)?;
            stage.backup(repo, level)
        }),
    ];
    if let Some(rival) = stage.rival {
        contenders.push(Contender::new("pgbackrest backup", |_| {
            stage.archive_with(&rival.archive_command())?;
            rival.backup()
        }));
    }
    let rows = take_turns(stage.terms.runs, contenders)?;
    let goals = [Goal { of: "basebackup", against: "pgbackrest", at_most: 0.9 }];
    Ok(table("Backup of the running cluster", &rows, &goals))
}

fn restore(stage: &Stage<'_>, repo: &Repo) -> Result<String> {
    stage.archive_with(&stage.archive_command(repo)?)?;
    let mut contenders = vec![
        Contender::new("`zstd -dc \\| tar x && sync`", |_| {
            let place = stage.empty_place()?;
            let from = archive(stage);
            stage.shell(&format!("zstd -dqc '{}' | tar -C '{}' -xf - && sync", from.display(), place.display()))
        }),
        Contender::new("recover run --no-start", |_| stage.restore(repo, &stage.empty_place()?)),
    ];
    if let Some(rival) = stage.rival {
        contenders.push(Contender::new("pgbackrest restore", |_| rival.restore(&stage.empty_place()?)));
    }
    let rows = take_turns(stage.terms.runs, contenders)?;
    let goals = [Goal { of: "recover", against: "pgbackrest", at_most: 0.7 }];
    Ok(table("Restore of its files, the server not started", &rows, &goals))
}
