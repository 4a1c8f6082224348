//! Whatever call goes wrong, and wherever a program dies: nothing half-written is visible, and the same command
//! afterwards succeeds.
//!
//! The calls are those of the real programs (`e2e::faults`). A loop runs a command once to learn its calls, then with a
//! fault at each, looks at what is visible, runs the same command undisturbed, and looks again.

pub(crate) mod archive_wal;
mod basebackup;
mod extract;
mod kills;
mod recover;
mod retention;

use anyhow::{Context, Result, ensure};
use e2e::cluster::Recipe;
use e2e::faults::Rehearsal;
use e2e::{Cluster, Ran, Repo, Sandbox};

/// A cluster of one small database, and the repository that it archives to.
struct Scene {
    sandbox: Sandbox,
    repo: Repo,
    cluster: Cluster,
}

impl Scene {
    fn new() -> Result<Self> {
        let sandbox = Sandbox::in_memory()?;
        let repo = Repo::new(&sandbox, "repo")?;
        let recipe = Recipe::new("pg").segment_mb(1).set("max_wal_size", "8MB").set("min_wal_size", "2MB");
        let cluster = recipe.archived_to(&repo).start(&sandbox)?;
        for template in ["template0", "template1"] {
            cluster.sql(&format!("alter database {template} is_template false; drop database {template}"))?;
        }
        cluster.sql("create table t as select generate_series(1, 1000) as n")?;
        Ok(Self { sandbox, repo, cluster })
    }

    /// `basebackup` with one worker, whose calls come in one order.
    fn backup(&self) -> Result<Rehearsal> {
        let connection = self.cluster.connection()?;
        let mut args = vec!["--repo", self.repo.arg()?, "-D", self.cluster.pgdata_arg()?, "-d", "postgres"];
        args.extend(["-c", "fast", "-j", "1"]);
        args.extend(connection.iter().map(String::as_str));
        Ok(Rehearsal::new(&self.sandbox, "basebackup", &args))
    }

    /// Every backup that is listed is whole, with the WAL that it needs, and so is every object of the repository.
    fn require_whole(&self, repo: &Repo) -> Result<()> {
        repo.require_whole()?;
        let ids = repo.backups();
        if ids.is_empty() {
            return Ok(());
        }
        let listed = self.sandbox.run("basebackup", &["list", "--repo", repo.arg()?])?.success()?;
        for id in &ids {
            ensure!(listed.stdout.contains(id.as_str()), "{id} has a commit record and is not listed: {listed}");
        }
        self.sandbox.run("verify", &["backup", "--all", "--repo", repo.arg()?])?.success().map(drop)
    }
}

/// What `recover run --no-start` made is the cluster that was backed up, by PostgreSQL's own tool.
fn require_restored(sandbox: &Sandbox, pgdata: &str) -> Result<Ran> {
    sandbox.run_other("pg_verifybackup", &["-n", pgdata])?.success().context("what was restored is not what was saved")
}
