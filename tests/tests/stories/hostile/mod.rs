//! A hostile world: full disks, closed doors, strange names, damaged and forged objects.
//!
//! Whatever a program meets, it says what is wrong with which thing, ends with the code that its caller understands,
//! loses nothing, and works as before once the cause is gone.

mod disks;
mod doors;
mod names;
mod records;
mod tar_entries;

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use e2e::cluster::Recipe;
use e2e::repository::fingerprint;
use e2e::{Cluster, Ran, Repo, Sandbox, StopMode};

use super::hazards::{archived_table, unchanged};

/// A cluster that is stopped, with two backups, WAL before and after them, and a second timeline.
struct Scene {
    sandbox: Sandbox,
    repo: Repo,
    cluster: Cluster,
    /// Where WAL is restored to.
    node: Cluster,
    older: String,
    newer: String,
    /// The segment that the newer backup begins in.
    segment: String,
    /// One that was never archived.
    unarchived: String,
}

/// How the calls of [`Scene::ask`] ended, in their order: `archive-wal` of an archived segment, `restore-wal` of it,
/// `basebackup list`, `verify backup --all`, `recover list`, `recover windows`, `recover run --dry-run`, and
/// `retention --dry-run`.
type Codes = [i32; 8];

impl Scene {
    fn new() -> Result<Self> {
        let sandbox = Sandbox::new()?;
        let repo = Repo::new(&sandbox, "repo")?;
        let cluster = Recipe::new("pg").segment_mb(1).archived_to(&repo).set("wal_keep_size", "1GB").start(&sandbox)?;
        cluster.sql("create table t as select generate_series(1, 1000) as n")?;
        let older = cluster.backup(&["-j", "1"])?;
        let newer = cluster.backup(&["-j", "1"])?;
        cluster.sql("insert into t select generate_series(1, 1000)")?;
        let forked = cluster.switch_wal()?;
        cluster.set("archive_command", "/bin/false")?;
        cluster.sql("insert into t select generate_series(1, 1000)")?;
        let unarchived = cluster.end_segment()?;
        cluster.stop(StopMode::Immediate)?;
        cluster.configure(&[("archive_command".to_owned(), e2e::cluster::archive_command(&sandbox, &repo)?)])?;
        let objects = repo.wal_objects();
        let history = objects.keys().rfind(|name| name.ends_with(".backup")).context("a backup history file")?;
        let segment = history.get(..24).context("a segment's name")?.to_owned();
        let node = cluster.bare_node("node")?;
        let scene = Self { sandbox, repo, cluster, node, older, newer, segment, unarchived };
        scene.fork(&forked)?;
        Ok(scene)
    }

    /// Archives what a promotion in this segment does: a history, and a copy of the segment under the new name.
    fn fork(&self, segment: &str) -> Result<()> {
        let strange = self.sandbox.folder("strange")?;
        let archive = |name: &str, content: &[u8]| {
            self.sandbox.write(&strange.join(name), content)?;
            self.node.archive_wal(strange.join(name).to_str().context("text")?)?.success()
        };
        let number = u64::from_str_radix(segment.get(16..).context("a segment's name")?, 16)?;
        let history = format!("1\t0/{:X}\tno recovery target specified\n", (number << 20) + 0x100);
        archive("00000002.history", history.as_bytes())?;
        let content = std::fs::read(self.cluster.pgdata().join("pg_wal").join(segment))?;
        archive(&segment.replacen("00000001", "00000002", 1), &content)?;
        Ok(())
    }

    /// Runs a program on the repository.
    fn run(&self, program: &str, args: &[&str]) -> Result<Ran> {
        self.sandbox.run(program, &[args, &["--repo", self.repo.arg()?]].concat())
    }

    /// Asks for a copy in a new folder, which takes no port.
    fn copy(&self, name: &str, options: &[&str]) -> Result<Ran> {
        let dest = self.sandbox.path().join(name).display().to_string();
        self.run("recover", &[&["run", "--as", "copy", "-p", "5999", "-D", &dest], options].concat())
    }

    /// `restore-wal` of the segment that the newer backup begins in; what it brings is taken away again.
    fn fetch(&self) -> Result<Ran> {
        let ran = self.node.restore_wal(&self.segment, "pg_wal/RECOVERYXLOG")?;
        if ran.code == Some(0) {
            std::fs::remove_file(self.node.pgdata().join("pg_wal/RECOVERYXLOG"))?;
        }
        Ok(ran)
    }

    /// Calls every program that reads a repository; none of them changes anything. See [`Codes`].
    fn ask(&self) -> Result<[Ran; 8]> {
        Ok([
            self.cluster.archive_wal(&format!("pg_wal/{}", self.segment))?,
            self.fetch()?,
            self.run("basebackup", &["list"])?,
            self.run("verify", &["backup", "--all"])?,
            self.run("recover", &["list"])?,
            self.run("recover", &["windows"])?,
            self.copy("copy", &["--target-latest", "--dry-run"])?,
            self.run("retention", &["--keep-last", "1", "--dry-run"])?,
        ])
    }

    /// Calls every program and looks at what each says: see [`orderly`].
    fn expect(&self, codes: Codes, words: &[&str]) -> Result<()> {
        for (ran, code) in self.ask()?.into_iter().zip(codes) {
            let ran = orderly(ran)?.expect_code(code)?;
            if code != 0 {
                for word in words {
                    ensure!(ran.to_string().contains(word), "nothing about {word:?} in {ran}");
                }
            }
        }
        Ok(())
    }

    /// Goes through cases that put back what they damage. Then everything is as it was, inside the repository and
    /// outside, and every program is content.
    fn unharmed(&self, cases: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        let before = fingerprint(self.sandbox.path())?;
        self.expect([0; 8], &[]).context("before any damage")?;
        cases(self)?;
        self.expect([0; 8], &[]).context("when all damage is mended")?;
        unchanged(&before, &fingerprint(self.sandbox.path())?)
    }
}

/// Fails when a program died, panicked, spoke in more lines than its caller reads, or failed without a hint.
fn orderly(ran: Ran) -> Result<Ran> {
    let code = ran.code.with_context(|| format!("it died: {ran}"))?;
    ensure!(!ran.stderr.contains("panicked") && !ran.stderr.contains("internal error"), "{ran}");
    let in_servers_log = ran.command.contains("/archive-wal\"") || ran.command.contains("/restore-wal\"");
    if in_servers_log {
        ensure!(code != 1 || ran.command.contains("/archive-wal\""), "PostgreSQL would promote itself: {ran}");
        ensure!(ran.stderr.lines().count() <= 1, "one line for the server's log: {ran}");
    }
    // What is found is listed; what fails says what to do.
    ensure!(matches!(code, 0 | 3) || ran.stderr.contains("hint: "), "no hint: {ran}");
    let raw = |text: &str| text.chars().any(|c| c.is_control() && c != '\n');
    ensure!(!raw(&ran.stderr) && !raw(&ran.stdout), "control characters: {ran:?}");
    Ok(ran)
}
