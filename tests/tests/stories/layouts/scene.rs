//! A cluster in a layout, with orders before, during and after its backup, and the truth about each moment.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use common::pg::Lsn;
use e2e::faults::Rehearsal;
use e2e::layout::{Laid, Layout};
use e2e::oracle::Ending;
use e2e::{Cluster, Oracle, Ran, Repo, Sandbox, Workload, wait, workload};

pub(super) struct Scene {
    pub(super) layout: Layout,
    pub(super) laid: Laid,
    pub(super) oracle: Oracle,
    /// The orders that were committed when the backup was done.
    pub(super) backed_up: BTreeSet<u64>,
    /// Where the restore point `midday` ends.
    pub(super) midday: Lsn,
    pub(super) repo: Repo,
    pub(super) sandbox: Sandbox,
}

impl Scene {
    pub(super) fn new(layout: Layout) -> Result<Self> {
        let sandbox = Sandbox::in_memory()?;
        let repo = Repo::new(&sandbox, "repo")?;
        let laid = layout.build(&sandbox, &repo)?;
        let cluster = &laid.cluster;
        workload::create_schema(cluster)?;
        if layout == Layout::Tablespaces {
            cluster.sql("alter table orders set tablespace fast; alter index order_items_pkey set tablespace slow")?;
        }
        let load = Workload::start(cluster, 2)?;
        load.wait_for(cluster, 20)?;
        cluster.backup(&[])?;
        let backed_up = workload::orders(cluster)?;
        load.wait_for(cluster, 20)?;
        let midday = cluster.ask("select pg_create_restore_point('midday')")?;
        load.wait_for(cluster, 20)?;
        load.stop()?;
        let oracle = Oracle::read(&sandbox, &repo, Some(&cluster.pgdata().join("pg_wal")), 1)?;
        Ok(Self { layout, laid, oracle, backed_up, midday, repo, sandbox })
    }

    pub(super) fn cluster(&self) -> &Cluster {
        &self.laid.cluster
    }

    /// A commit between the backup and the end.
    pub(super) fn commit(&self) -> Result<Ending> {
        let commits = self.oracle.commits();
        commits.get(commits.len() - 10).copied().context("a commit after the backup")
    }

    /// The cluster that a recovery makes.
    pub(super) fn recovered(&self) -> Cluster {
        match self.layout {
            Layout::SideBySide => Cluster::at(&self.sandbox, &self.sandbox.path().join("copy"), Some(&self.repo)),
            _ => self.cluster().clone(),
        }
    }

    /// `recover` with this command, on what a recovery makes, and with these options.
    pub(super) fn recover(&self, command: &str, options: &[&str]) -> Result<Rehearsal> {
        let recovered = self.recovered();
        let mut args = vec![command, "--repo", self.repo.arg()?, "-D", recovered.pgdata_arg()?, "-U", "postgres"];
        args.extend(options);
        Ok(Rehearsal::new(&self.sandbox, "recover", &args))
    }

    /// `recover run` to a target.
    pub(super) fn run(&self, target: &[&str]) -> Result<Rehearsal> {
        let mut options = vec!["--yes", "-j", "1", "--target-timeline", "1"];
        if self.layout == Layout::SideBySide {
            options.extend(["--as", "copy", "-p", "5999"]);
        }
        options.extend(target);
        self.recover("run", &options)
    }

    /// Undoes the recovery; what was there before is there again, with all its orders.
    pub(super) fn roll_back(&self) -> Result<Ran> {
        let ran = self.recover("rollback", &["--yes"])?.run()?.success()?;
        self.require_as_before().with_context(|| ran.to_string())?;
        Ok(ran)
    }

    /// The cluster is as it was before any recovery, and its server runs.
    pub(super) fn require_as_before(&self) -> Result<()> {
        if self.layout == Layout::SideBySide {
            let copy = self.recovered();
            ensure!(!copy.pgdata().exists(), "{} is not free again", copy.pgdata().display());
        }
        wait::until("the old server is back", || Ok(self.cluster().is_running()))?;
        self.cluster().wait_promoted()?;
        workload::same_orders(&workload::orders(self.cluster())?, &self.oracle.all()).context("the old cluster")
    }

    /// What `recover status` says, as JSON.
    pub(super) fn status(&self) -> Result<serde_json::Value> {
        let ran = self.recover("status", &["--json"])?.run()?.success()?;
        serde_json::from_str(&ran.stdout).with_context(|| ran.stdout.clone())
    }

    /// Where the old cluster lies meanwhile.
    pub(super) fn preserved(&self) -> Result<PathBuf> {
        let status = self.status()?;
        Ok(status.pointer("/preserved").and_then(serde_json::Value::as_str).with_context(|| status.to_string())?.into())
    }
}
