//! Every kind of target, to the transaction.

use anyhow::{Context, Result, ensure};
use e2e::layout::Layout;
use e2e::{StopMode, settings, workload};

use super::scene::Scene;

/// The kinds of targets.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Time,
    Lsn,
    Xid,
    Name,
    Immediate,
    Latest,
}

const KINDS: [Kind; 6] = [Kind::Time, Kind::Lsn, Kind::Xid, Kind::Name, Kind::Immediate, Kind::Latest];

/// In a soak all of them; otherwise two, others in each layout.
pub(super) fn of_every_kind(scene: &Scene) -> Result<()> {
    let first = scene.layout.index();
    let chosen = if settings::is_soak() { (0..6).collect() } else { vec![first % 6, (first + 3) % 6] };
    for kind in chosen.iter().filter_map(|index| KINDS.get(*index)) {
        recover(scene, *kind).with_context(|| format!("{:?}, {kind:?}", scene.layout))?;
    }
    if scene.layout == Layout::Tablespaces {
        into_other_tablespaces(scene)?;
    }
    if !settings::is_soak() || scene.layout == Layout::SideBySide {
        return Ok(());
    }
    clean_up(scene)
}

fn recover(scene: &Scene, kind: Kind) -> Result<()> {
    let commit = scene.commit()?;
    let time = commit.time.format("%Y-%m-%d %H:%M:%S%.6f+00").to_string();
    let (lsn, xid) = (commit.lsn.to_string(), commit.xid.to_string());
    let (target, expected) = match kind {
        Kind::Time => (vec!["--target-time", &time], scene.oracle.at_time(commit.time)),
        Kind::Lsn => (vec!["--target-lsn", &lsn], scene.oracle.at_lsn(commit.lsn, true)),
        Kind::Xid => (vec!["--target-xid", &xid], scene.oracle.at_lsn(commit.lsn, true)),
        Kind::Name => (vec!["--target-name", "midday"], scene.oracle.at_lsn(scene.midday, false)),
        Kind::Immediate => (vec!["--target-immediate"], scene.backed_up.clone()),
        Kind::Latest => (vec!["--target-latest"], scene.oracle.all()),
    };
    let ran = scene.run(&target)?.run()?.success()?;
    let recovered = scene.recovered();
    recovered.wait_promoted()?;
    let found = workload::orders(&recovered)?;
    if matches!(kind, Kind::Immediate) {
        // The backup ends somewhere before the look at what was committed when it was done.
        ensure!(!found.is_empty() && found.is_subset(&expected), "{} orders of {}", found.len(), expected.len());
    } else {
        workload::same_orders(&found, &expected).with_context(|| ran.to_string())?;
    }
    if scene.layout == Layout::SideBySide {
        recovered.stop(StopMode::Immediate)?;
        scene.recover("rollback", &["--yes"])?.run()?.success()?;
        return scene.require_as_before();
    }
    if scene.layout == Layout::Debian {
        // What Debian's own tool then does with it: the server is its own.
        scene.laid.ctl("restart")?.success()?;
        workload::same_orders(&workload::orders(&recovered)?, &found)?;
    }
    Ok(())
}

/// In place, but the tablespaces go to other disks; the old ones stay behind, set aside where they lay.
fn into_other_tablespaces(scene: &Scene) -> Result<()> {
    let old = scene.laid.spaces.first().context("a tablespace")?;
    let new = scene.sandbox.folder("mapped")?;
    let mapping = format!("{}={}", old.display(), new.display());
    scene.run(&["--target-latest", "-T", &mapping])?.run()?.success()?;
    scene.cluster().wait_promoted()?;
    workload::same_orders(&workload::orders(scene.cluster())?, &scene.oracle.all())?;
    let links = std::fs::read_dir(scene.cluster().pgdata().join("pg_tblspc"))?;
    let targets = links.map(|link| Ok(std::fs::read_link(link?.path())?)).collect::<Result<Vec<_>>>()?;
    ensure!(targets.contains(&new) && !targets.contains(old), "{targets:?}");
    let names = std::fs::read_dir(old)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let names = names.collect::<Result<Vec<_>>>()?;
    ensure!(names.iter().all(|name| !name.starts_with("PG_")), "{names:?}");
    Ok(())
}

/// Everything that the recoveries have set aside goes, and nothing else.
fn clean_up(scene: &Scene) -> Result<()> {
    let found = workload::orders(scene.cluster())?;
    let preserved = scene.preserved()?;
    scene.recover("cleanup", &["--yes"])?.run()?.success()?;
    ensure!(!preserved.exists(), "{} is still there", preserved.display());
    let left = e2e::sandbox::walk(scene.sandbox.path()).into_iter();
    let left: Vec<_> =
        left.filter(|path| ["before-", "undone-"].iter().any(|word| path.to_string_lossy().contains(word))).collect();
    ensure!(left.is_empty(), "{left:?}");
    scene.recover("rollback", &["--yes"])?.run()?.expect_code(20)?.says(&["no longer"])?;
    workload::same_orders(&workload::orders(scene.cluster())?, &found)
}
