//! Whatever stands in the way of a recovery is refused before anything is touched, by `recover check` and by
//! `recover run` alike.

mod down;
mod running;

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use e2e::cluster::Recipe;
use e2e::repository::fingerprint;
use e2e::{Cluster, Ran, Repo, Sandbox};

use crate::hazards::unchanged;

/// A cluster in a folder of its own, with a backup, and what was written since.
struct Scene {
    sandbox: Sandbox,
    repo: Repo,
    cluster: Cluster,
    backup: String,
}

/// What must be as it was.
struct State {
    files: BTreeMap<PathBuf, u64>,
    repository: BTreeMap<PathBuf, u64>,
    beside: Vec<PathBuf>,
}

/// The position that a refusal says to go to.
pub(crate) fn told_lsn(refused: &Ran) -> Result<&str> {
    let told = refused.stderr.split("--target-lsn ").nth(1).and_then(|rest| rest.split_whitespace().next());
    told.with_context(|| format!("no position: {refused}"))
}

impl Scene {
    fn new(recipe: impl FnOnce(Recipe) -> Recipe) -> Result<Self> {
        let sandbox = Sandbox::new()?;
        let repo = Repo::new(&sandbox, "repo")?;
        sandbox.folder("place")?;
        let cluster = recipe(Recipe::new("place/pg").segment_mb(1)).archived_to(&repo).start(&sandbox)?;
        cluster.sql("create table t as select generate_series(1, 1000) as n")?;
        let backup = cluster.backup(&[])?;
        cluster.sql("insert into t select generate_series(1, 1000)")?;
        cluster.switch_wal()?;
        // From here on the server writes nothing by itself.
        cluster.sql("checkpoint")?;
        Ok(Self { sandbox, repo, cluster, backup })
    }

    /// `wal`: with the WAL, which a running server writes on. Its shared memory is left out.
    fn state(&self, wal: bool) -> Result<State> {
        let counts = |path: &PathBuf| {
            let text = path.to_string_lossy();
            !text.contains("/pg_dynshmem/") && (wal || !(text.contains("/pg_wal/") || text.contains("/wal/")))
        };
        let of = |dir| Ok::<_, anyhow::Error>(fingerprint(dir)?.into_iter().filter(|(path, _)| counts(path)).collect());
        let place = self.sandbox.path().join("place");
        let mut beside: Vec<PathBuf> =
            std::fs::read_dir(place)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
        beside.sort();
        Ok(State { files: of(self.cluster.pgdata())?, repository: of(self.repo.path())?, beside })
    }

    fn call(&self, command: &str, pgdata: &str, options: &[&str]) -> Result<Ran> {
        let mut args = vec![command, "--repo", self.repo.arg()?, "-D", pgdata, "-U", "postgres", "--yes"];
        args.extend(options);
        self.sandbox.run("recover", &args)
    }

    fn check(&self, options: &[&str]) -> Result<Ran> {
        self.call("check", self.cluster.pgdata_arg()?, options)
    }

    /// Both commands refuse these options with this code and these words, and nothing is touched.
    fn refused(&self, pgdata: &str, options: &[&str], code: i32, words: &[&str]) -> Result<()> {
        let server = self.cluster.pid().ok().filter(|_| self.cluster.is_running());
        for command in ["check", "run"] {
            let wal = server.is_none();
            let before = self.state(wal)?;
            let segment = || self.cluster.sql("select pg_walfile_name(pg_current_wal_insert_lsn())");
            let looked_only = if command == "check" && !wal { Some(segment()?) } else { None };
            let ran = self.call(command, pgdata, options)?.expect_code(code)?.says(words)?;
            let after = self.state(wal)?;
            unchanged(&before.files, &after.files).with_context(|| ran.to_string())?;
            unchanged(&before.repository, &after.repository).with_context(|| ran.to_string())?;
            ensure!(before.beside == after.beside, "{:?} became {:?}: {ran}", before.beside, after.beside);
            if let Some(server) = server {
                ensure!(self.cluster.pid()? == server, "another server runs: {ran}");
                ensure!(
                    looked_only.is_none_or(|before| segment().is_ok_and(|now| now == before)),
                    "WAL was switched: {ran}"
                );
                ensure!(self.cluster.sql("select count(*) from t")? == "2000", "{ran}");
            }
        }
        Ok(())
    }

    /// The same in place.
    fn refused_here(&self, options: &[&str], words: &[&str]) -> Result<()> {
        self.refused(self.cluster.pgdata_arg()?, options, 20, words)
    }
}
