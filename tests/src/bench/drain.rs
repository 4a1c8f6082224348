//! Rows for a backlog: how fast segments that wait get into the repository, and whether archiving keeps up with a server
//! that writes as fast as it can.
//!
//! Everybody is called as PostgreSQL's archiver calls: one file at a time, oldest first, each mark renamed when the
//! answer is 0. The pipe has a driver of its own, two at a time.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::dense::ROW;
use super::measure::{Contender, Cost, take_turns};
use super::report::{Goal, table};
use super::stage::{Stage, configure};
use crate::{Repo, wait};

/// How many segments wait.
const SEGMENTS: usize = 100;

/// Runs of each contender; the first is not counted.
const RUNS: usize = 4;

/// One call for each line of the list, as the archiver makes it.
const ARCHIVER: &str = r#"while read -r name; do COMMAND || exit 1
mv "pg_wal/archive_status/$name.ready" "pg_wal/archive_status/$name.done" || exit 1; done < LIST"#;

/// Draining a backlog as a table.
pub fn rows(stage: &Stage<'_>) -> Result<String> {
    let backlog = Backlog::make(stage, SEGMENTS)?;
    let drained = drain(stage, &backlog);
    backlog.clear()?;
    drained
}

/// Segments in the cluster's `pg_wal`, with marks; the server's own archiver has nothing to do meanwhile.
pub(super) struct Backlog<'a> {
    stage: &'a Stage<'a>,
    /// The segments' names, oldest first.
    pub(super) names: Vec<String>,
    list: PathBuf,
}

impl<'a> Backlog<'a> {
    /// So many segments, without marks yet.
    pub(super) fn make(stage: &'a Stage<'a>, count: usize) -> Result<Self> {
        ensure!(stage.dense.segments.len() >= count, "too few segments for a backlog of {count}");
        stage.archive_with("/bin/true")?;
        stage.dense.cluster.set("archive_command", "")?;
        let list = stage.sandbox.path().join("backlog");
        let mut names = Vec::new();
        for turn in 0..count {
            let (segment, name) = (stage.segment(turn)?, stage.name(turn)?);
            let path = stage.dense.cluster.pgdata().join("pg_wal").join(&name);
            fs::copy(&segment, &path).with_context(|| format!("copy {}", segment.display()))?;
            names.push(name);
        }
        stage.sandbox.write(&list, (names.join("\n") + "\n").as_bytes())?;
        Ok(Self { stage, names, list })
    }

    fn mark(&self, name: &str, kind: &str) -> PathBuf {
        self.stage.dense.cluster.pgdata().join("pg_wal/archive_status").join(format!("{name}.{kind}"))
    }

    /// Every segment waits again.
    pub(super) fn wait_again(&self) -> Result<()> {
        for name in &self.names {
            self.stage.sandbox.clear(&self.mark(name, "done"))?;
            self.stage.sandbox.write(&self.mark(name, "ready"), b"")?;
        }
        Ok(())
    }

    /// Runs the archiver's loop around this command, which names the file as `$name`.
    fn archive(&self, command: &str) -> Result<Cost> {
        self.wait_again()?;
        let pgdata = self.stage.dense.cluster.pgdata_arg()?;
        let driver = ARCHIVER.replace("COMMAND", command).replace("LIST", &self.list.display().to_string());
        self.stage.shell(&format!("cd '{pgdata}'\n{driver}"))
    }

    /// Takes segments and marks away.
    pub(super) fn clear(&self) -> Result<()> {
        for name in &self.names {
            self.stage.sandbox.clear(&self.mark(name, "ready"))?;
            self.stage.sandbox.clear(&self.mark(name, "done"))?;
            self.stage.sandbox.clear(&self.stage.dense.cluster.pgdata().join("pg_wal").join(name))?;
        }
        // What was archived along and never asked for would be left out of the next batch.
        self.stage.sandbox.clear(&self.stage.dense.cluster.pgdata().with_extension("holdfast"))
    }
}

fn drain(stage: &Stage<'_>, backlog: &Backlog<'_>) -> Result<String> {
    let level = stage.terms.level;
    let program = stage.sandbox.program("archive-wal");
    let ours = |batch: &'static str| {
        let program = program.clone();
        move |turn: usize| {
            let repo = configure(stage.sandbox, &format!("drained-{batch}-{turn}"), level)?;
            let cost = backlog.archive(&format!(
                "'{}' --config '{}.toml' --batch {batch} \"pg_wal/$name\"",
                program.display(),
                repo.arg()?
            ))?;
            ensure!(repo.segments().len() == SEGMENTS, "{} segments arrived", repo.segments().len());
            stage.sandbox.clear(repo.path())?;
            Ok(cost)
        }
    };
    let mut contenders = vec![
        Contender::new("`xargs -P2 sh -c 'zstd -1 \\| dd bs=1M conv=fsync'`", |_| {
            let folder = stage.sandbox.folder("piped")?;
            let (from, to) = (stage.dense.cluster.pgdata().join("pg_wal"), folder.display());
            let cost = stage.shell(&format!(
                "cd '{}' && xargs -P2 -I '{{}}' sh -c 'zstd -{level} -qc {{}} | dd bs=1M iflag=fullblock conv=fsync \
                 status=none of={to}/{{}}.zst' < '{}'",
                from.display(),
                backlog.list.display()
            ))?;
            ensure!(fs::read_dir(&folder)?.count() == SEGMENTS, "the pipe lost segments");
            stage.sandbox.clear(&folder)?;
            Ok(cost)
        }),
        Contender::new("archive-wal", ours("8")),
        Contender::new("archive-wal --batch 1", ours("1")),
    ];
    if let Some(rival) = stage.rival {
        contenders.push(Contender::new("pgbackrest archive-push, asynchronous", |_| {
            let cost = backlog.archive(&format!("{} \"pg_wal/$name\"", rival.asynchronous_push()?))?;
            rival.forget_wal()?;
            Ok(cost)
        }));
    }
    let rows = take_turns(RUNS, contenders)?;
    let goals = [
        Goal { of: "archive-wal", against: "`xargs", at_most: 1.0 / 1.3 },
        Goal { of: "archive-wal", against: "pgbackrest", at_most: 1.0 / 1.3 },
    ];
    let rates: Vec<String> =
        rows.iter().map(|row| format!("{} {:.0}/s", row.name, f64::from(100_u8) / row.wall.as_secs_f64())).collect();
    let text = table(&format!("Drain: a backlog of {SEGMENTS} segments of 16 MiB"), &rows, &goals);
    Ok(format!("{text}* segments per second: {}\n", rates.join("; ")))
}

/// Writes for two minutes as fast as the server can, and counts what waits.
pub fn keeping_up(stage: &Stage<'_>) -> Result<String> {
    let cluster = &stage.dense.cluster;
    let repo = configure(stage.sandbox, "kept-up", stage.terms.level)?;
    stage.archive_with(&stage.archive_command(&repo)?)?;
    cluster.sql(&format!("create table flood as select {ROW} from generate_series(1, 0) i"))?;
    let position = || cluster.ask::<f64>("select pg_current_wal_insert_lsn() - '0/0'::pg_lsn");
    let (started, began) = (Instant::now(), position()?);
    let duration = Duration::from_secs(stage.terms.flood_seconds);
    let mut backlog = Vec::new();
    std::thread::scope(|scope| -> Result<()> {
        let writers: Vec<_> = (0..2_u64)
            .map(|writer| {
                scope.spawn(move || -> Result<()> {
                    let mut first = 1 + writer * 1_000_000_000;
                    while started.elapsed() < duration {
                        let last = first + 20_000;
                        cluster.sql(&format!(
                            "insert into flood select {ROW} from generate_series({first}::bigint, {last}) i"
                        ))?;
                        first = last + 1;
                    }
                    Ok(())
                })
            })
            .collect();
        while started.elapsed() < duration {
            backlog.push(ready(cluster.pgdata())?);
            std::thread::sleep(Duration::from_millis(500));
        }
        for writer in writers {
            writer.join().map_err(|_| anyhow::anyhow!("a writer died"))??;
        }
        Ok(())
    })?;
    let (seconds, written) = (started.elapsed().as_secs_f64(), (position()? - began) / f64::from(16 << 20));
    let (largest, last) = (backlog.iter().max().copied().unwrap_or(0), backlog.last().copied().unwrap_or(0));
    let middle = backlog.get(..backlog.len() / 2).unwrap_or_default().iter().max().copied().unwrap_or(0);
    let left = Instant::now();
    wait::until("the backlog is gone", || Ok(ready(cluster.pgdata())? == 0))?;
    let drained = left.elapsed().as_secs_f64();
    forget(stage, &repo)?;
    Ok(format!(
        "\n### Keeping up: a server that writes as fast as it can\n\n| written | segments per second | most waiting, first \
         half | most waiting | waiting at the end | gone after |\n|--:|--:|--:|--:|--:|--:|\n| {written:.0} segments in \
         {seconds:.0} s | {:.1} | {middle} | {largest} | {last} | {drained:.1} s |\n",
        written / seconds
    ))
}

fn forget(stage: &Stage<'_>, repo: &Repo) -> Result<()> {
    stage.dense.cluster.sql("drop table flood")?;
    stage.archive_with("/bin/true")?;
    stage.sandbox.clear(repo.path())
}

/// How many files wait for the archiver.
fn ready(pgdata: &Path) -> Result<usize> {
    let marks = fs::read_dir(pgdata.join("pg_wal/archive_status"))?.filter_map(Result::ok);
    Ok(marks.filter(|mark| mark.path().extension().is_some_and(|extension| extension == "ready")).count())
}
