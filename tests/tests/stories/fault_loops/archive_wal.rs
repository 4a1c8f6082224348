//! `archive-wal`: every fault at every call, for each way that a file can find its repository.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use e2e::cluster::Recipe;
use e2e::faults::{Fault, Rehearsal, every, try_each};
use e2e::{Cluster, Repo, Sandbox, StopMode};
use rstest::rstest;

/// A stopped cluster with two finished segments, the files of a promotion, and no archive.
pub(crate) struct Scene {
    pub(crate) sandbox: Sandbox,
    pub(crate) cluster: Cluster,
    /// The WAL files' names and contents, as the server has them.
    pub(crate) files: BTreeMap<String, Vec<u8>>,
}

const HISTORY: &str = "00000002.history";

impl Scene {
    pub(crate) fn new() -> Result<Self> {
        let sandbox = Sandbox::in_memory()?;
        let cluster = Recipe::new("pg").segment_mb(1).set("wal_keep_size", "1GB").start(&sandbox)?;
        let names = [cluster.end_segment()?, cluster.end_segment()?];
        cluster.stop(StopMode::Fast)?;
        let wal = cluster.pgdata().join("pg_wal");
        // The second timeline begins in the second segment, as a copy of the first one's.
        let child = names[1].replacen("00000001", "00000002", 1);
        sandbox.write(&wal.join(&child), &std::fs::read(wal.join(&names[1]))?)?;
        let switch = format!("0/{}00010", names[1].trim_start_matches("00000001").trim_start_matches('0'));
        sandbox.write(&wal.join(HISTORY), format!("1\t{switch}\tno recovery target specified\n\n").as_bytes())?;
        let all = names.into_iter().chain([child, HISTORY.to_owned()]);
        let files = all.map(|name| Ok((name.clone(), std::fs::read(wal.join(&name))?))).collect::<Result<_>>()?;
        Ok(Self { sandbox, cluster, files })
    }

    /// The name of the `number`th file, counted from 0: two segments, the child's segment, its history.
    pub(crate) fn name(&self, number: usize) -> Result<String> {
        let mut names: Vec<&String> = self.files.keys().collect();
        names.sort_by_key(|name| (name.len() < 24, *name));
        names.get(number).map(|&name| name.clone()).context("four files")
    }

    pub(crate) fn archive(&self, number: usize, repos: &[&Repo]) -> Result<Rehearsal> {
        self.archive_with(number, repos, "1")
    }

    /// The call for a file that may take so many along.
    pub(crate) fn archive_with(&self, number: usize, repos: &[&Repo], batch: &str) -> Result<Rehearsal> {
        let path = format!("pg_wal/{}", self.name(number)?);
        let repos = repos.iter().map(|repo| repo.arg()).collect::<Result<Vec<_>>>()?;
        let mut args: Vec<&str> = repos.iter().flat_map(|repo| ["--repo", repo]).collect();
        args.extend(["--batch", batch, &path]);
        Ok(Rehearsal::new(&self.sandbox, "archive-wal", &args).within(self.cluster.pgdata()))
    }

    /// Marks every file as ready, as the server would.
    pub(crate) fn mark_ready(&self) -> Result<()> {
        let status = self.cluster.pgdata().join("pg_wal/archive_status");
        self.files.keys().try_for_each(|name| self.sandbox.write(&status.join(format!("{name}.ready")), b""))
    }

    /// Where acknowledgements lie; made when absent.
    fn acknowledged(&self) -> Result<std::path::PathBuf> {
        self.sandbox.folder("pg.holdfast")?;
        self.sandbox.folder("pg.holdfast/spool")?;
        self.sandbox.folder("pg.holdfast/spool/acknowledged")
    }

    /// As if nothing had been archived ahead.
    pub(crate) fn forget_acknowledgements(&self) -> Result<()> {
        e2e::sandbox::walk(&self.acknowledged()?).iter().try_for_each(|path| self.sandbox.clear(path))
    }

    /// Fails unless what is acknowledged is archived.
    pub(crate) fn require_acknowledged(&self, repo: &Repo) -> Result<()> {
        for path in e2e::sandbox::walk(&self.acknowledged()?) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let is_meant = self.files.contains_key(&name);
            ensure!(!is_meant || repo.find_wal(&name).is_some(), "{name} is acknowledged and not archived");
        }
        Ok(())
    }

    /// Every object is whole, and every archived file is the server's, byte for byte.
    pub(crate) fn require_true(&self, repo: &Repo) -> Result<()> {
        repo.require_json()?;
        for (name, object) in repo.wal_objects() {
            let ours = self.files.get(&name).with_context(|| format!("nobody archived {name}"))?;
            ensure!(repo.unpack(&object)? == *ours, "the archived {name} is not the server's");
        }
        Ok(())
    }
}

/// A file finds a repository in which `before` were archived; none of them: not even its folder is there.
#[rstest]
#[case::the_first_file("first", &[], 0)]
#[case::a_second_file("second", &[0], 1)]
#[case::the_same_file_again("again", &[0], 0)]
#[case::a_history("history", &[0], 3)]
#[case::a_segment_whose_history_is_missing("child", &[0], 2)]
fn archive_wal_survives_every_fault(#[case] story: &str, #[case] before: &[usize], #[case] file: usize) -> Result<()> {
    let scene = Scene::new()?;
    let (repo, start) = (Repo::new(&scene.sandbox, "repo")?, Repo::new(&scene.sandbox, "start")?);
    let (command, name) = (scene.archive(file, &[&repo])?, scene.name(file)?);
    for &number in before {
        scene.archive(number, &[&start])?.run()?.success()?;
    }
    let reset = || match before {
        [] => repo.forget(),
        _ => scene.sandbox.copy(start.path(), repo.path()),
    };
    reset()?;
    let calls = command.calls()?;
    try_each(&format!("archive-wal, {story}"), &calls, &every(&calls), |fault| {
        reset()?;
        attempt(&scene, &command, fault, &name, &[&repo])
    })
}

/// Of two repositories one may have the file and the other not, but 0 means both.
#[test]
fn archive_wal_to_two_repositories_survives_every_fault() -> Result<()> {
    let scene = Scene::new()?;
    let (one, two) = (Repo::new(&scene.sandbox, "one")?, Repo::new(&scene.sandbox, "two")?);
    let (command, name) = (scene.archive(0, &[&one, &two])?, scene.name(0)?);
    let calls = command.calls()?;
    try_each("archive-wal, two", &calls, &e2e::faults::some("archive-wal, two", &calls, 5), |fault| {
        one.forget()?;
        two.forget()?;
        attempt(&scene, &command, fault, &name, &[&one, &two])
    })
}

/// Of a batch any part may be done; what is acknowledged is, and every file's own call finds or does its work.
#[test]
fn a_batch_survives_every_fault() -> Result<()> {
    let scene = Scene::new()?;
    let repo = Repo::new(&scene.sandbox, "repo")?;
    scene.mark_ready()?;
    let (command, name) = (scene.archive_with(0, &[&repo], "4")?, scene.name(0)?);
    let reset = || {
        repo.forget()?;
        scene.forget_acknowledgements()
    };
    let calls = command.calls()?;
    try_each("archive-wal, batch", &calls, &e2e::faults::some("archive-wal, batch", &calls, 5), |fault| {
        reset()?;
        let ran = command.suffer(fault)?;
        ensure!(ran.code.is_none_or(|code| code <= 125), "this code kills the archiver: {ran}");
        ensure!(ran.code != Some(0) || repo.find_wal(&name).is_some(), "archived, and not there: {ran}");
        scene.require_true(&repo)?;
        scene.require_acknowledged(&repo)?;
        for number in 0..scene.files.len() {
            scene.archive(number, &[&repo])?.run()?.success()?;
            repo.wal(&scene.name(number)?)?;
        }
        scene.require_true(&repo)
    })
}

fn attempt(scene: &Scene, command: &Rehearsal, fault: &Fault, name: &str, repos: &[&Repo]) -> Result<()> {
    let ran = command.suffer(fault)?;
    ensure!(ran.code.is_none_or(|code| code <= 125), "this code kills the archiver: {ran}");
    for repo in repos {
        scene.require_true(repo)?;
        ensure!(ran.code != Some(0) || repo.find_wal(name).is_some(), "archived, and not there: {ran}");
    }
    command.run()?.success()?;
    for repo in repos {
        scene.require_true(repo)?;
        repo.wal(name)?;
    }
    Ok(())
}
