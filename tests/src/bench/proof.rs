//! Rows for the first step of a recovery: all WAL up to the target is read before anything is touched.

use anyhow::{Context, Result};

use super::dense;
use super::measure::{Contender, take_turns};
use super::report::table;
use super::stage::{Stage, configure};

/// How much WAL follows the backup, in megabytes of 1024² bytes.
const WAL_MB: u64 = 1024;

/// The proof of a target as a table.
pub fn rows(stage: &Stage<'_>) -> Result<String> {
    let repo = configure(stage.sandbox, "proved", stage.terms.level)?;
    let command = stage.archive_command(&repo)?;
    stage.archive_with(&command)?;
    stage.backup(&repo, stage.terms.level)?;
    dense::insert(&stage.dense.cluster, WAL_MB)?;
    stage.archive_with(&command)?;
    let packed = format!("find '{}' -name '*.zst' -path '*/wal/*' -exec zstd -dqc {{}} + >/dev/null", repo.arg()?);
    let contenders = vec![
        Contender::new("`zstd -dqc` of every segment", |_| stage.shell(&packed)),
        Contender::new("recover check --target-latest", |_| stage.prove(&repo)),
    ];
    let rows = take_turns(stage.terms.runs, contenders)?;
    let own = rows.last().context("both took part")?;
    let text = table(&format!("Proof of a target behind {WAL_MB} MiB of WAL"), &rows, &[]);
    let speed = u128::from(WAL_MB) * 1000 / own.wall.as_millis().max(1);
    Ok(format!("{text}\n* recover check reads {speed} MiB of WAL a second\n"))
}
