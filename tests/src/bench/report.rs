//! Terms and tables in Markdown, ready for `docs/BENCHMARKS.md`.

use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::measure::Summary;
use super::stage::Stage;
use crate::settings;

/// What a row is to reach, beside a contender of the same table.
#[derive(Debug, Clone, Copy)]
pub struct Goal {
    /// Whose goal it is.
    pub of: &'static str,
    /// The one it is compared with, by the beginning of its name.
    pub against: &'static str,
    /// Its time is to be at most so many times the other's.
    pub at_most: f64,
}

/// One comparison: a heading, a line for each contender, and whether the goals are reached.
pub fn table(title: &str, rows: &[Summary], goals: &[Goal]) -> String {
    let heading = [
        format!("\n### {title}\n"),
        "| | median | shortest to longest | processor | peak memory | ratio |".to_owned(),
        "|---|--:|--:|--:|--:|--:|".to_owned(),
    ];
    let mut lines: Vec<String> =
        heading.into_iter().chain(rows.iter().map(|row| line(row, rows.first().unwrap_or(row)))).collect();
    if !goals.is_empty() {
        lines.push(String::new());
        lines.extend(goals.iter().filter_map(|goal| judge(*goal, rows)));
    }
    lines.join("\n") + "\n"
}

fn line(row: &Summary, first: &Summary) -> String {
    format!(
        "| {} | {} | {} to {} | {} | {} | {:.2} |",
        row.name,
        time(row.wall),
        time(row.spread.0),
        time(row.spread.1),
        time(row.cpu),
        mebibytes(row.peak),
        row.ratio_to(first)
    )
}

/// A goal beside what was measured; `None` when the other one did not take part.
fn judge(goal: Goal, rows: &[Summary]) -> Option<String> {
    let find = |name: &str| rows.iter().find(|row| row.name.starts_with(name));
    let (own, other) = (find(goal.of)?, find(goal.against)?);
    let found = own.ratio_to(other);
    let verdict = if found <= goal.at_most { "reached" } else { "missed" };
    let at_most = format!("{:.2}", goal.at_most);
    Some(format!("* {} at most {at_most} of {}: {found:.2}, {verdict}", own.name, other.name))
}

/// The machine, the versions and the terms.
pub fn terms(stage: &Stage<'_>) -> Result<String> {
    let Stage { dense, rival, terms, .. } = *stage;
    let lines = [
        format!("machine: {} processors, {}; {}", processors(), said("uname", &["-sm"]), file_system(stage)),
        format!("PostgreSQL {}, data checksums on", dense.cluster.sql("show server_version")?),
        format!("zstd {}", said("zstd", &["-qV"])),
        rival.map_or("no pgBackRest on this machine".to_owned(), |rival| rival.version.clone()),
        format!("codec zstd level {}, {} jobs, local repository, everything fsynced", terms.level, terms.jobs),
        format!("databases of {} MB; WAL that `zstd -1` makes {:.2} times smaller", dense.databases_mb()?, dense.ratio),
        format!("medians of {} runs taken in turns, the first of each dropped; `sync` before each", terms.runs),
        "ratio: to the first line of the table in the same turn, median over the turns; peak memory: the largest process, \
         and not below the bench's own"
            .to_owned(),
    ];
    Ok(lines.map(|line| format!("* {line}\n")).concat())
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn file_system(stage: &Stage<'_>) -> String {
    said("stat", &["-f", "-c", "%T", &stage.sandbox.path().display().to_string()])
}

/// The first line that a program prints; what it is called when it cannot be run.
fn said(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&output).lines().next().unwrap_or(program).to_owned()
}

fn time(duration: Duration) -> String {
    match duration.as_secs_f64() {
        seconds if seconds >= 1.0 => format!("{seconds:.2} s"),
        seconds => format!("{:.1} ms", seconds * 1000.0),
    }
}

/// Whole binary megabytes, rounded up, as limits are written.
pub fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

/// Where the text goes: standard output is the report.
pub fn print(text: &str) {
    use std::io::Write;
    if let Err(error) = std::io::stdout().write_all(text.as_bytes()) {
        settings::tell(&format!("print the report: {error}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, milliseconds: u64) -> Summary {
        let wall = Duration::from_millis(milliseconds);
        Summary { name: name.to_owned(), wall, spread: (wall, wall), cpu: wall, peak: 5 << 20, turns: vec![wall] }
    }

    #[test]
    fn a_table_has_ratios_and_verdicts() {
        let goals = [
            Goal { of: "ours", against: "pipe", at_most: 1.1 },
            Goal { of: "ours", against: "rival", at_most: 0.5 },
            Goal { of: "ours", against: "absent", at_most: 1.0 },
        ];
        let text = table("Push", &[row("pipe", 40), row("ours", 42), row("rival 2.0", 1500)], &goals);
        assert!(text.contains("| ours | 42.0 ms | 42.0 ms to 42.0 ms | 42.0 ms | 5 MiB | 1.05 |"), "{text}");
        assert!(text.contains("| rival 2.0 | 1.50 s |"), "{text}");
        assert!(
            text.ends_with(
                "* ours at most 1.10 of pipe: 1.05, reached\n* ours at most 0.50 of rival 2.0: 0.03, reached\n"
            ),
            "{text}"
        );
        assert!(
            judge(Goal { of: "rival", against: "ours", at_most: 2.0 }, &[row("rival", 9), row("ours", 3)])
                .unwrap()
                .ends_with("3.00, missed")
        );
    }
}
