//! `make bench`: what Holdfast costs, side by side with a shell pipe and with pgBackRest, in one run.
//!
//! Absolute times say more about the machine than about a program, so every figure stands beside others that were
//! taken in turns with it, in the same minutes, on the same bytes, and the ratio is what counts. Nothing here is
//! asserted by a test: a busy machine is no bug.
//!
//! | module | holds |
//! |---|---|
//! | [`measure`] | one run of a command, its time, processor time and peak memory; taking turns; medians |
//! | [`dense`] | data that compress about three times, as a business' tables do |
//! | [`stage`] | what every row works with, and each program run once |
//! | [`rival`] | pgBackRest on the same cluster with the same codec, level and jobs |
//! | [`wal`] | rows for one WAL segment: push, fetch, start-up |
//! | [`whole`] | rows for a whole cluster: backup and restore |
//! | [`drain`] | rows for a backlog of WAL, and for keeping up |
//! | [`replay`] | rows for replay through `restore-wal` |
//! | [`proof`] | rows for the proof of a target |
//! | [`memory`] | peak memory at each level |
//! | [`prefetcher`] | peak memory of a process that nobody waits for |
//! | [`report`] | terms and tables in Markdown, ready for `docs/BENCHMARKS.md` |

pub mod dense;
pub mod drain;
pub mod measure;
pub mod memory;
pub mod prefetcher;
pub mod proof;
pub mod replay;
pub mod report;
pub mod rival;
pub mod stage;
pub mod wal;
pub mod whole;

/// The terms of a run. They are printed above the figures.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// Runs of each contender; the first is not counted.
    pub runs: usize,
    /// Size of the table that is backed up, in megabytes of 1024² bytes.
    pub table_mb: u64,
    /// Workers of everything that can have several.
    pub jobs: usize,
    /// The level of zstd.
    pub level: u32,
    /// How long a server writes as fast as it can, in seconds.
    pub flood_seconds: u64,
}

/// Whether these rows are wanted: all are, unless `HOLDFAST_BENCH_ROWS` names others (`wal`, `drain`, `replay`, `whole`,
/// `proof`, `memory`).
pub fn wants(rows: &str) -> bool {
    std::env::var("HOLDFAST_BENCH_ROWS").map_or(true, |wanted| wanted.split([' ', ',']).any(|name| name == rows))
}

impl Terms {
    /// The fixed terms; `HOLDFAST_BENCH_RUNS`, `HOLDFAST_BENCH_MB` and `HOLDFAST_BENCH_SECONDS` make a quicker, rougher run.
    pub fn from_environment() -> Self {
        let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        let runs = number("HOLDFAST_BENCH_RUNS").and_then(|runs| usize::try_from(runs).ok()).unwrap_or(11);
        let flood_seconds = number("HOLDFAST_BENCH_SECONDS").unwrap_or(120);
        let table_mb = number("HOLDFAST_BENCH_MB").unwrap_or(2048);
        Self { runs: runs.max(2), table_mb, jobs: 2, level: 1, flood_seconds }
    }
}
