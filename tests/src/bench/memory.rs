//! Peak memory of every program at the levels that people use.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use super::dense::ROW;
use super::drain::Backlog;
use super::measure::{self, Cost};
use super::prefetcher;
use super::report::mebibytes;
use super::stage::{Stage, configure};
use crate::cluster::Recipe;
use crate::{Cluster, StopMode};

/// The levels that the limits hold for.
const LEVELS: std::ops::RangeInclusive<u32> = 1..=3;
/// The most that `archive-wal` and `restore-wal` may take.
const WAL_LIMIT: u64 = 32 << 20;
/// The most that a batch, or a call with large segments, may take.
const WIDE_LIMIT: u64 = 64 << 20;
/// The most that the others may take, whatever the database's size.
const OTHERS_LIMIT: u64 = 96 << 20;

/// A line for each program, a column for each level.
pub fn rows(stage: &Stage<'_>) -> Result<String> {
    let measured = LEVELS.map(|level| at_level(stage, level)).collect::<Result<Vec<_>>>()?;
    let heading =
        "\n### Peak memory, two jobs\n\n| program | limit | zstd:1 | zstd:2 | zstd:3 | |\n|---|--:|--:|--:|--:|---|\n";
    let programs = measured.first().into_iter().flatten().enumerate();
    let lines: Vec<String> = programs
        .map(|(row, (program, limit, _))| {
            let peaks: Vec<u64> = measured.iter().filter_map(|level| Some(level.get(row)?.2.peak)).collect();
            line(program, *limit, &peaks)
        })
        .collect();
    Ok(heading.to_owned() + &lines.concat())
}

fn line(program: &str, limit: u64, peaks: &[u64]) -> String {
    let cells: Vec<String> = peaks.iter().map(|peak| mebibytes(*peak)).collect();
    let verdict = if peaks.iter().all(|peak| *peak <= limit) { "reached" } else { "missed" };
    format!("| {program} | {} | {} | {verdict} |\n", mebibytes(limit), cells.join(" | "))
}

/// The same for a batch, and for the largest segments that there are.
pub fn wide_rows(stage: &Stage<'_>) -> Result<String> {
    let giant = Giant::make(stage)?;
    let measured = LEVELS.map(|level| giant.at_level(stage, level)).collect::<Result<Vec<_>>>()?;
    let names =
        ["archive-wal --batch 8, 16 MiB each", "archive-wal, 1 GiB", "restore-wal, 1 GiB", "its prefetcher, 1 GiB"];
    let lines: Vec<String> = names
        .iter()
        .enumerate()
        .map(|(row, name)| {
            let peaks: Vec<u64> = measured.iter().filter_map(|level| level.get(row).map(|cost| cost.peak)).collect();
            line(name, WIDE_LIMIT, &peaks)
        })
        .collect();
    let heading = "\n### Peak memory, batches and large segments\n\n| | limit | zstd:1 | zstd:2 | zstd:3 | |\n|---|--:|--:|--:|--:|---|\n";
    Ok(heading.to_owned() + &lines.concat())
}

/// A stopped cluster with segments of 1 GiB, two of them full of dense rows.
struct Giant {
    cluster: Cluster,
    /// A copy of its files from before the rows.
    base: PathBuf,
    segments: Vec<String>,
}

impl Giant {
    fn make(stage: &Stage<'_>) -> Result<Self> {
        let cluster = Recipe::new("giant").segment_mb(1024).set("max_wal_size", "8GB").start(stage.sandbox)?;
        cluster.sql(&format!("create table orders as select {ROW} from generate_series(1, 0) i; checkpoint"))?;
        cluster.stop(StopMode::Fast)?;
        let base = stage.sandbox.path().join("giant-base");
        stage.sandbox.copy(cluster.pgdata(), &base)?;
        cluster.start()?;
        let (mut segments, mut first) = (Vec::new(), 1);
        while segments.len() < 3 {
            let last = first + 200_000;
            cluster.sql(&format!("insert into orders select {ROW} from generate_series({first}::bigint, {last}) i"))?;
            first = last + 1;
            segments.push(cluster.sql("select pg_walfile_name(pg_current_wal_lsn())")?);
            segments.dedup();
        }
        segments.pop();
        cluster.stop(StopMode::Immediate)?;
        Ok(Self { cluster, base, segments })
    }

    fn at_level(&self, stage: &Stage<'_>, level: u32) -> Result<Vec<Cost>> {
        let repo = configure(stage.sandbox, &format!("wide-{level}"), level)?;
        let config = ["--config".to_owned(), format!("{}.toml", repo.arg()?)];
        let backlog = Backlog::make(stage, 8)?;
        backlog.wait_again()?;
        let requested = backlog.names.first().context("eight segments")?;
        let mut command = stage.program("archive-wal")?;
        let batch = measure::run(command.args(&config).args(["--batch", "8"]).arg(format!("pg_wal/{requested}")))?;
        ensure!(repo.segments().len() == 8, "the batch archived {}", repo.segments().len());
        backlog.clear()?;
        let run = |program: &str, args: &[&str]| {
            let mut command = stage.program(program)?;
            measure::run(
                command.current_dir(self.cluster.pgdata()).args(&config).args(["--cluster", "giant"]).args(args),
            )
        };
        let mut pushed = Cost::default();
        for segment in &self.segments {
            pushed = run("archive-wal", &[&format!("pg_wal/{segment}")])?;
        }
        let first = self.segments.first().context("two segments")?;
        let fetched = run("restore-wal", &[first, "pg_wal/fetched"])?;
        stage.sandbox.clear(&self.cluster.pgdata().join("pg_wal/fetched"))?;
        let ahead = self.replayed(stage, &config)?;
        stage.sandbox.clear(repo.path())?;
        Ok(vec![batch, pushed, fetched, ahead])
    }

    /// What the prefetcher takes while a server replays the segments.
    fn replayed(&self, stage: &Stage<'_>, config: &[String]) -> Result<Cost> {
        let place = stage.sandbox.path().join("giant-replayed");
        stage.sandbox.copy(&self.base, &place)?;
        stage.sandbox.write(&place.join("recovery.signal"), b"")?;
        let server = Cluster::at(stage.sandbox, &place, None);
        let program = stage.sandbox.program("restore-wal");
        let command = format!("{} {} --cluster giant %f %p", program.display(), config.join(" "));
        server.configure(&[("restore_command".to_owned(), command)])?;
        let (started, peak) = prefetcher::watched(&place, || server.start().and_then(|()| server.wait_promoted()));
        started.with_context(|| server.log())?;
        ensure!(peak > 0, "nothing was fetched ahead:\n{}", server.log());
        server.stop(StopMode::Immediate)?;
        stage.sandbox.clear(&place)?;
        Ok(Cost { peak, ..Cost::default() })
    }
}

type Row = (&'static str, u64, Cost);

/// The life of a repository at one level, each program once.
fn at_level(stage: &Stage<'_>, level: u32) -> Result<Vec<Row>> {
    let repo = configure(stage.sandbox, &format!("level-{level}"), level)?;
    let pushed = stage.push(&repo, 0)?;
    let fetched = stage.fetch(&repo, 0)?;
    stage.archive_with(&stage.archive_command(&repo)?)?;
    let backed_up = stage.backup(&repo, level)?;
    let restored = stage.restore(&repo, &stage.empty_place()?)?;
    let verified = stage.look_after(&repo, "verify", &["backup", "--all"])?;
    let kept = stage.look_after(&repo, "retention", &["--keep-last", "1"])?;
    Ok(vec![
        ("archive-wal", WAL_LIMIT, pushed),
        ("restore-wal", WAL_LIMIT, fetched),
        ("basebackup", OTHERS_LIMIT, backed_up),
        ("recover run --no-start", OTHERS_LIMIT, restored),
        ("verify backup", OTHERS_LIMIT, verified),
        ("retention", OTHERS_LIMIT, kept),
    ])
}
