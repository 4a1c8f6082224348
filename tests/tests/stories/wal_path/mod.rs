//! The WAL path at speed: batches, what is fetched ahead, several repositories, and the alarm before a disk is full.

mod alarm;
mod batches;
mod prefetch;
mod repositories;

use anyhow::{Context, Result};
use common::sys::passing;
use e2e::cluster::Recipe;
use e2e::{Cluster, Ran, Repo, Sandbox};

/// A cluster that archives nothing by itself, with ready segments that wait, oldest first.
struct Backlog {
    sandbox: Sandbox,
    repo: Repo,
    cluster: Cluster,
    ready: Vec<String>,
}

impl Backlog {
    fn of(segments: usize) -> Result<Self> {
        let sandbox = Sandbox::new()?;
        let repo = Repo::new(&sandbox, "repo")?;
        let recipe = Recipe::new("pg").segment_mb(1).archived_to(&repo).set("archive_command", "");
        let cluster = recipe.start(&sandbox)?;
        cluster.sql("create table t (n int, s text)")?;
        let backlog = Self { sandbox, repo, cluster, ready: Vec::new() };
        // Where the making of the cluster has left the WAL, near the end of a segment in some versions, is no part of it.
        backlog.cluster.end_segment()?;
        let status = backlog.cluster.pgdata().join("pg_wal/archive_status");
        for name in backlog.marks(".ready")? {
            passing::rename(&status.join(format!("{name}.ready")), &status.join(format!("{name}.done")))?;
        }
        for _ in 0..segments {
            backlog.cluster.sql("insert into t select n, md5(n::text) from generate_series(1, 500) n")?;
            backlog.cluster.end_segment()?;
        }
        Ok(Self { ready: backlog.marks(".ready")?, ..backlog })
    }

    /// The files with a mark of this kind, in order.
    fn marks(&self, kind: &str) -> Result<Vec<String>> {
        let status = self.cluster.pgdata().join("pg_wal/archive_status");
        let names = std::fs::read_dir(status)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        let mut names: Vec<String> = names.collect::<Result<_>>()?;
        names.retain(|name| name.ends_with(kind));
        names.sort();
        Ok(names.iter().map(|name| name.trim_end_matches(kind).to_owned()).collect())
    }

    fn ready(&self, number: usize) -> Result<&str> {
        self.ready.get(number).map(String::as_str).context("so many segments")
    }

    /// One call for the file of this number, as the server makes it.
    fn archive(&self, number: usize, options: &[&str]) -> Result<Ran> {
        let path = format!("pg_wal/{}", self.ready(number)?);
        let mut args = options.to_vec();
        if !options.contains(&"--repo") && !options.contains(&"--config") {
            args.extend(["--repo", self.repo.arg()?]);
        }
        args.push(&path);
        self.sandbox.run_in(self.cluster.pgdata(), "archive-wal", &args)
    }

    /// Fails unless the repository holds these files, each byte for byte.
    fn holds(&self, repo: &Repo, names: &[String]) -> Result<()> {
        for name in names {
            let ours = std::fs::read(self.cluster.pgdata().join("pg_wal").join(name))?;
            anyhow::ensure!(repo.unpack(&repo.wal(name)?)? == ours, "{name} is archived with other bytes");
        }
        Ok(())
    }
}
