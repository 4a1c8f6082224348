//! The power goes at the moment in which `archive-wal` answers 0: the file is there when it is back.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use e2e::cluster::Recipe;
use e2e::faults::{self, Fault};
use e2e::power::PowerDisk;
use e2e::{Repo, Sandbox, StopMode, Workload, disk, settings, wait, workload};

use crate::fault_loops::archive_wal::Scene;

/// How often the power is cut: in a soak a hundred times.
fn cuts(story: &str, few: usize) -> usize {
    let cuts = if settings::is_soak() { 100 } else { few };
    settings::tell(&format!("{story}: {cuts} power cuts"));
    cuts
}

/// How the repository stands to the file that comes last before the cut.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// There is none.
    NewRepository,
    /// It has the folder, and another file in it.
    SameFolder,
    /// It has other files, and the folder is new.
    NewFolder,
    /// It has the file already.
    SameFile,
    /// It has the file, from a call that was killed before it could sync the folder.
    Killed,
}

const WAYS: [Way; 5] = [Way::NewRepository, Way::SameFolder, Way::NewFolder, Way::SameFile, Way::Killed];

impl Way {
    /// The files that come, by their numbers in the scene.
    fn files(self) -> &'static [usize] {
        match self {
            Self::NewRepository | Self::Killed => &[0],
            Self::SameFolder => &[0, 1],
            Self::NewFolder => &[0, 3],
            Self::SameFile => &[0, 0],
        }
    }
}

fn archive_and_cut(scene: &Scene, disk: &PowerDisk, repo: &Repo, way: Way, kill: &Fault) -> Result<()> {
    if matches!(way, Way::Killed) {
        scene.archive(0, &[repo])?.suffer(kill)?;
        ensure!(repo.find_wal(&scene.name(0)?).is_some(), "it was killed before the file had its name");
    }
    for &number in way.files() {
        scene.archive(number, &[repo])?.run()?.success()?;
    }
    disk.cut()?;
    disk.power_up()?;
    for &number in way.files() {
        let name = scene.name(number)?;
        repo.find_wal(&name).with_context(|| format!("archived, and gone with the power: {name}"))?;
    }
    scene.require_true(repo)?;
    // The next one finds its way.
    scene.archive(1, &[repo])?.run()?.success()?;
    scene.require_true(repo)
}

#[test]
fn what_was_archived_survives_a_power_cut() -> Result<()> {
    let story = "what_was_archived_survives_a_power_cut";
    if !settings::has_root(story) {
        return Ok(());
    }
    disk::in_private(|| {
        let scene = Scene::new()?;
        let disk = PowerDisk::new(&scene.sandbox, "disk", 64)?;
        let place = |name: &str| -> Result<Repo> {
            let repo = Repo::new(&scene.sandbox, &format!("disk/{name}"))?;
            // archive-wal makes the folder as well.
            repo.forget()?;
            Ok(repo)
        };
        let calls = scene.archive(0, &[&place("calls")?])?.calls()?;
        let kill = faults::at(&calls, "link", &scene.name(0)?, "killed").context("the file gets its name by a link")?;
        for (round, way) in WAYS.into_iter().cycle().take(cuts(story, 15)).enumerate() {
            let repo = place(&format!("repo{round:03}"))?;
            archive_and_cut(&scene, &disk, &repo, way, &kill).with_context(|| format!("round {round}: {way:?}"))?;
            repo.forget()?;
        }
        Ok(())
    })
}

/// PostgreSQL removes a segment once it is told that it was archived: it must be, for good.
#[test]
fn what_a_server_calls_archived_survives_a_power_cut() -> Result<()> {
    let story = "what_a_server_calls_archived_survives_a_power_cut";
    if !settings::has_root(story) {
        return Ok(());
    }
    disk::in_private(|| {
        let sandbox = Sandbox::in_memory()?;
        let disk = PowerDisk::new(&sandbox, "disk", 256)?;
        let repo = Repo::new(&sandbox, "disk/repo")?;
        let cluster = Recipe::new("pg").segment_mb(1).archived_to(&repo).set("wal_keep_size", "4GB").start(&sandbox)?;
        workload::create_schema(&cluster)?;
        let mut random = fastrand::Rng::with_seed(settings::seed(story));
        let mut seen = BTreeSet::new();
        for round in 0..cuts(story, 4) {
            let load = Workload::start(&cluster, 2)?;
            for _ in 0..random.usize(1..12) {
                cluster.end_segment()?;
            }
            let known = cluster.archived_by_its_own_account()?.len();
            let more = random.usize(..4);
            wait::until("the server archives", || Ok(cluster.archived_by_its_own_account()?.len() > known.min(more)))?;
            disk.cut()?;
            cluster.stop(StopMode::Immediate)?;
            load.stop()?;
            let told = cluster.archived_by_its_own_account()?;
            disk.power_up()?;
            for name in told.difference(&seen) {
                cluster.require_archived(name).with_context(|| format!("round {round}, of {} files", told.len()))?;
            }
            seen = told;
            cluster.start()?;
        }
        let last = cluster.switch_wal()?;
        for name in cluster.archived_by_its_own_account()? {
            cluster.require_archived(&name)?;
        }
        settings::tell(&format!("{story}: {} files", seen.len()));
        ensure!(!seen.is_empty() && repo.find_wal(&last).is_some());
        Ok(())
    })
}
