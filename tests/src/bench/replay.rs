//! Rows for the way back: how long a server replays segments that lie uncompressed in its `pg_wal`, and the same ones
//! through `restore-wal`.
//!
//! Everybody begins with the same files, those of a server that was killed just before the segments were written, and
//! replays the same hundred. What is timed is PostgreSQL's own account of it, from "redo starts" to "redo done".

use std::cell::Cell;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use chrono::NaiveDateTime;

use super::measure::{Contender, Cost, take_turns};
use super::prefetcher;
use super::report::{Goal, mebibytes, table};
use super::stage::{Stage, configure};
use crate::{Cluster, Repo, StopMode, process};

/// How many segments are replayed.
const SEGMENTS: usize = 100;

/// Runs of each; the first is not counted.
const RUNS: usize = 6;

/// The most that the prefetcher may take.
const LIMIT: u64 = 64 << 20;

/// The variable with a `restore-wal` that can be told to find its store slow.
pub const SLOW_PROGRAM: &str = "HOLDFAST_BENCH_SLOW_STORE";

/// What tells it so.
const SLOW: &str = "HOLDFAST_FAULT=store:slow@50";

/// Replay as a table.
pub fn rows(stage: &Stage<'_>) -> Result<String> {
    let repo = configure(stage.sandbox, "replayed", stage.terms.level)?;
    let scene = Scene { stage, port: stage.sandbox.new_port().to_string(), peak: Cell::new(0) };
    scene.archive(&repo)?;
    let with = |program: OsString| -> Result<String> {
        Ok(format!("{} --config {}.toml %f %p", program.display(), repo.arg()?))
    };
    let ours = with(stage.sandbox.program("restore-wal").into())?;
    let moving = format!("mv {}/%f %p", scene.plain().display());
    let slow = std::env::var_os(SLOW_PROGRAM).map(with).transpose()?.map(|command| format!("{SLOW} {command}"));
    let copying = moving.replacen("mv", "cp", 1);
    let mut contenders = vec![
        Contender::new("uncompressed in pg_wal", |_| scene.replay(None)),
        Contender::new("`mv`", |_| scene.replay(Some(&moving))),
        Contender::new("`cp`", |_| scene.replay(Some(&copying))),
        Contender::new("restore-wal", |_| scene.replay(Some(&ours))),
    ];
    if let Some(slow) = &slow {
        let name = "restore-wal, every call of the store 50 ms slower";
        contenders.push(Contender::new(name, |_| scene.replay(Some(slow))));
    }
    let rows = take_turns(RUNS, contenders)?;
    let goals = [
        Goal { of: "restore-wal", against: "uncompressed", at_most: 1.15 },
        Goal { of: "restore-wal, every", against: "uncompressed", at_most: 1.25 },
    ];
    let peak = scene.peak.get();
    let verdict = if peak <= LIMIT { "reached" } else { "missed" };
    let text = table(&format!("Replay of {SEGMENTS} segments of 16 MiB"), &rows, &goals);
    Ok(format!("{text}* peak memory of the prefetcher at most {}: {}, {verdict}\n", mebibytes(LIMIT), mebibytes(peak)))
}

struct Scene<'a> {
    stage: &'a Stage<'a>,
    port: String,
    /// The prefetchers' peak memory, in bytes.
    peak: Cell<u64>,
}

impl Scene<'_> {
    /// The segments, oldest first: from the one in which the base was left.
    fn segments(&self) -> impl Iterator<Item = &PathBuf> {
        self.stage.dense.written.iter().take(SEGMENTS)
    }

    fn archive(&self, repo: &Repo) -> Result<()> {
        let config = format!("{}.toml", repo.arg()?);
        self.segments().try_for_each(|path| {
            let mut command = self.stage.program("archive-wal")?;
            process::run(command.args(["--config", &config, "--batch", "1"]).arg(path), "")?.success().map(drop)
        })
    }

    /// Where `mv` takes them from.
    fn plain(&self) -> PathBuf {
        self.stage.sandbox.path().join("plain")
    }

    /// Replays them once, with this `restore_command` or from `pg_wal`.
    fn replay(&self, restore_command: Option<&str>) -> Result<Cost> {
        let sandbox = self.stage.sandbox;
        let place = sandbox.path().join("replaying");
        sandbox.clear(&place.with_extension("log"))?;
        sandbox.copy(&self.stage.dense.base, &place)?;
        let server = Cluster::at(sandbox, &place, None);
        let mut lines = vec![("port", self.port.as_str()), ("archive_mode", "off"), ("hot_standby", "off")];
        lines.extend([("max_wal_size", "10GB"), ("log_line_prefix", "%m [%p] ")]);
        if let Some(command) = restore_command {
            lines.push(("restore_command", command));
            // What the base has in its own pg_wal comes first, as after any crash; the archive follows.
            sandbox.write(&place.join("recovery.signal"), b"")?;
            self.copy_segments(&sandbox.folder("plain")?)?;
        } else {
            self.copy_segments(&place.join("pg_wal"))?;
        }
        let lines: Vec<_> = lines.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        server.configure(&lines)?;
        self.fill_memory()?;
        nix::unistd::sync();
        let (started, peak) = prefetcher::watched(&place, || server.start());
        self.peak.set(peak.max(self.peak.get()));
        let log = server.log();
        started.with_context(|| log.clone())?;
        server.stop(StopMode::Immediate)?;
        Ok(Cost { wall: redo(&log).with_context(|| format!("no redo in the log:\n{log}"))?, ..Cost::default() })
    }

    /// Fills the free memory with the pages of a file, as a server that has been up for a while has it. The host of a virtual
    /// machine takes free memory back, and whoever touches it first waits: that would be everybody's cost by chance.
    fn fill_memory(&self) -> Result<()> {
        let text = fs::read_to_string("/proc/meminfo").context("read /proc/meminfo")?;
        let free = text.lines().find_map(|line| line.strip_prefix("MemFree:")?.trim().strip_suffix(" kB"));
        let more = free.context("no MemFree in /proc/meminfo")?.parse::<u64>()? << 10;
        let path = self.stage.sandbox.path().join("filling");
        let mut file = fs::File::options().read(true).append(true).create(true).open(path)?;
        // It has no blocks on the disk, and is read behind what is in memory already.
        let end = file.metadata()?.len();
        file.set_len(end + more)?;
        file.seek(SeekFrom::Start(end))?;
        io::copy(&mut file, &mut io::sink()).context("fill the memory").map(drop)
    }

    fn copy_segments(&self, folder: &Path) -> Result<()> {
        self.segments().try_for_each(|path| {
            let to = folder.join(path.file_name().context("a segment has a name")?);
            fs::copy(path, &to).with_context(|| format!("copy {}", path.display())).map(drop)
        })
    }
}

/// How long the server replayed, as its log says.
fn redo(log: &str) -> Option<Duration> {
    let time = |words: &str| {
        let line = log.lines().find(|line| line.contains(words))?;
        NaiveDateTime::parse_from_str(line.get(..23)?, "%Y-%m-%d %H:%M:%S%.3f").ok()
    };
    (time("redo done at")? - time("redo starts at")?).to_std().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_tells_how_long_it_took() {
        let log = "2026-11-20 23:59:59.500 UTC [1] LOG:  redo starts at 0/1\nelsewhere\n\
                   2026-11-21 00:00:01.250 UTC [1] LOG:  redo done at 0/2 system usage: no\n";
        assert_eq!(redo(log), Some(Duration::from_millis(1750)));
        assert_eq!(redo("redo starts at 0/1"), None);
    }
}
