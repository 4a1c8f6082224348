//! Peak memory of every program at the levels that people use.

use anyhow::Result;

use super::measure::Cost;
use super::report::mebibytes;
use super::stage::{Stage, configure};

/// The levels that the limits hold for.
const LEVELS: std::ops::RangeInclusive<u32> = 1..=3;
/// The most that `archive-wal` and `restore-wal` may take.
const WAL_LIMIT: u64 = 32 << 20;
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
