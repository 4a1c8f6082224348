//! H7, H8, H14: timelines, their histories, their first segments, and what is left of the last one before.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result, ensure};
use e2e::cluster::{Recipe, archive_command};
use e2e::{Cluster, Oracle, Repo, Sandbox, StopMode, Workload, wait, workload};

use super::copy_is_refused;
use crate::fetch_truth::Scene;

/// A cluster that archives, with a backup and some orders after it.
fn scene(sandbox: &Sandbox) -> Result<(Cluster, Repo)> {
    let repo = Repo::new(sandbox, "repo")?;
    let cluster = Recipe::new("pg").segment_mb(1).archived_to(&repo).start(sandbox)?;
    workload::create_schema(&cluster)?;
    cluster.backup(&[])?;
    write(&cluster, 40)?;
    Ok((cluster, repo))
}

/// Writes orders until `count` more are committed and archived.
fn write(cluster: &Cluster, count: u64) -> Result<()> {
    let load = Workload::start(cluster, 2)?;
    load.wait_for(cluster, count)?;
    load.stop()?;
    cluster.switch_wal().map(drop)
}

/// Archives this content under this name from a folder outside the data directory.
fn archive(cluster: &Cluster, name: &str, content: &[u8]) -> Result<e2e::Ran> {
    let path = cluster.sandbox().folder("by_hand")?.join(name);
    cluster.sandbox().write(&path, content)?;
    cluster.archive_wal(path.to_str().context("text")?)
}

/// A history without a segment: to replay the parent past the fork would bring discarded rows back without a word.
#[test]
fn hazard_07_a_timeline_without_its_first_segment() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let (cluster, repo) = scene(&sandbox)?;
    let oracle = Oracle::read(&sandbox, &repo, None, 1)?;
    let commits = oracle.commits();
    let nth = |number: usize| commits.get(number).copied().context("forty commits");
    let (early, fork) = (nth(10)?, nth(20)?);
    let history = format!("1\t{}\tno recovery target specified\n", fork.lsn);
    archive(&cluster, "00000002.history", history.as_bytes())?.success()?;
    let segment = cluster.sql(&format!("select pg_walfile_name('{}')", fork.lsn))?.replacen("00000001", "00000002", 1);

    copy_is_refused(&cluster, "copy", &["--target-latest"], &[&segment])?;
    let past = nth(30)?.lsn.to_string();
    copy_is_refused(&cluster, "copy", &["--target-lsn", &past], &[&segment])?;

    // Before the fork both timelines are the same, and the parent past the fork is there for whoever asks for it.
    let expect = |name: &str, options: &[&str], orders: BTreeSet<u64>| -> Result<()> {
        let copy = cluster.recover_copy(name, options).with_context(|| name.to_owned())?;
        workload::same_orders(&workload::orders(&copy)?, &orders).with_context(|| name.to_owned())?;
        copy.stop(StopMode::Immediate)
    };
    expect("early", &["--target-lsn", &early.lsn.to_string()], oracle.at_lsn(early.lsn, true))?;
    let time = early.time.format("%Y-%m-%d %H:%M:%S%.6f+00").to_string();
    expect("time", &["--target-time", &time], oracle.at_time(early.time))?;
    expect("parent", &["--target-latest", "--target-timeline", "1"], oracle.all())
}

/// A lost history below an existing later one: recovery would promote onto its number and lose the rest.
#[test]
fn hazard_07_a_lost_history_below_a_later_one_is_a_hole() -> Result<()> {
    let scene = Scene::new()?;
    let (second, third) = ("1\t0/1500000\tx\n", "1\t0/1500000\tx\n2\t0/1600000\ty\n");
    archive(&scene.node, "00000002.history", second.as_bytes())?.success()?;
    archive(&scene.node, "00000003.history", third.as_bytes())?.success()?;
    scene.delivers("00000002.history", second.as_bytes())?;
    scene.fetch("00000004.history")?.expect_code(1)?;
    scene.repo.remove(&scene.repo.wal("00000002.history")?)?;
    scene.stops_recovery("00000002.history")?.says(&["00000002.history", "00000003.history"])?;
    scene.fetch("00000004.history")?.expect_code(1)?;
    scene.delivers("00000003.history", third.as_bytes())
}

/// A repository that began on the second timeline never had its history.
#[test]
fn hazard_07_a_repository_that_began_later() -> Result<()> {
    let scene = Scene::new()?;
    let repo = Repo::new(&scene.sandbox, "began_later")?;
    let node = Cluster::at(&scene.sandbox, scene.node.pgdata(), Some(&repo));
    let first = scene.segment(1)?;
    let bytes = scene.repo.unpack(&scene.repo.wal(first)?)?;
    archive(&node, &first.replacen("00000001", "00000002", 1), &bytes)?.success()?;
    archive(&node, "00000003.history", b"1\t0/1500000\tx\n2\t0/1600000\ty\n")?.success()?;
    node.restore_wal("00000002.history", "pg_wal/RECOVERYHISTORY")?.expect_code(1)?;
    Ok(())
}

/// A repository that is added after promotions gets their histories with the next segment, and leads to where they
/// led.
#[test]
fn hazard_07_histories_reach_a_repository_added_later() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let (cluster, _) = scene(&sandbox)?;
    for timeline in 2..=3 {
        cluster.recover(&["--target-latest"])?;
        ensure!(cluster.timeline()? == timeline);
        write(&cluster, 10)?;
    }
    let added = Repo::new(&sandbox, "added")?;
    cluster.set("archive_command", &archive_command(&sandbox, &added)?)?;
    let cluster = Cluster::at(&sandbox, cluster.pgdata(), Some(&added));
    let segment = cluster.switch_wal()?;
    ensure!(segment.starts_with("00000003"), "{segment}");
    for name in ["00000002.history", "00000003.history"] {
        let stored = added.unpack(&added.wal(name)?)?;
        ensure!(stored == fs::read(cluster.pgdata().join("pg_wal").join(name))?, "{name} is not the server's");
    }
    cluster.backup(&[])?;
    write(&cluster, 10)?;
    let copy = cluster.recover_copy("copy", &["--target-latest"])?;
    workload::same_orders(&workload::orders(&copy)?, &workload::orders(&cluster)?)?;

    // A backup brings them by itself to a repository that has seen nothing yet, as far as it could.
    let fresh = Repo::new(&sandbox, "fresh")?;
    let into = Cluster::at(&sandbox, cluster.pgdata(), Some(&fresh));
    into.try_backup(&[])?.expect_code(20)?;
    ensure!(fresh.find_wal("00000003.history").is_some() && fresh.find_wal("00000002.history").is_some());
    Ok(())
}

/// What a real promotion in mid-segment leaves: a first segment whose header carries the parent's timeline, a segment
/// ended by a switch, and the parent's last one as `.partial`.
#[test]
fn hazard_08_what_a_promotion_writes_is_archived_and_comes_back() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let repo = Repo::new(&sandbox, "repo")?;
    let primary = Recipe::new("pg").segment_mb(1).archived_to(&repo).set("wal_keep_size", "64MB").start(&sandbox)?;
    workload::create_schema(&primary)?;
    primary.backup(&[])?;
    let standby = primary.standby("standby", true)?;
    let load = Workload::start(&primary, 1)?;
    load.wait_for(&primary, 20)?;
    let before = load.stop()?;
    wait::until("the standby has every order", || {
        Ok(standby.sql("select count(*) from orders")? == before.len().to_string())
    })?;
    primary.kill9()?;
    standby.sql("select pg_promote()")?;
    standby.wait_promoted()?;
    write(&standby, 10)?;
    // A segment that holds next to nothing before its switch, and zeros after it.
    let switched = standby.switch_wal()?;

    let history = String::from_utf8(repo.unpack(&repo.wal("00000002.history")?)?)?;
    let fork = history.split_whitespace().nth(1).context("the fork's position")?;
    let first = standby.sql(&format!("select pg_walfile_name('{fork}')"))?;
    ensure!(first.starts_with("00000002"), "{first}");
    let stored = repo.unpack(&repo.wal(&first)?)?;
    ensure!(stored.get(4..8) == Some(&1_u32.to_le_bytes()[..]), "{first} does not begin with the parent's timeline");
    for name in [&first, &switched] {
        let destination = format!("back_{name}");
        standby.restore_wal(name, &destination)?.success()?;
        ensure!(fs::read(standby.pgdata().join(destination))? == repo.unpack(&repo.wal(name)?)?);
    }
    let partial = format!("{}.partial", first.replacen("00000002", "00000001", 1));
    wait::until("the partial segment is archived", || Ok(repo.find_wal(&partial).is_some()))?;

    let copy = standby.recover_copy("copy", &["--target-latest"])?;
    workload::same_orders(&workload::orders(&copy)?, &workload::orders(&standby)?)
}

/// A `.partial` file was recycled: behind its end lie the pages of an older segment, or anything.
#[test]
fn hazard_08_a_partial_with_stale_bytes() -> Result<()> {
    let scene = Scene::new()?;
    let (name, older) = (scene.segment(2)?, scene.segment(1)?);
    let mut bytes = scene.repo.unpack(&scene.repo.wal(name)?)?;
    let stale = scene.repo.unpack(&scene.repo.wal(older)?)?;
    let end = 3 * 8192;
    bytes.get_mut(end..).context("a segment")?.copy_from_slice(stale.get(end..).context("a segment")?);
    let partial = format!("{name}.partial");
    archive(&scene.node, &partial, &bytes)?.success()?;
    ensure!(scene.repo.unpack(&scene.repo.wal(&partial)?)? == bytes);
    // The same as a whole segment is none.
    let fresh = Repo::new(&scene.sandbox, "fresh")?;
    let node = Cluster::at(&scene.sandbox, scene.node.pgdata(), Some(&fresh));
    let ran = archive(&node, name, &bytes)?;
    ensure!(ran.code.is_some_and(|code| (1..=125).contains(&code)), "{ran}");
    Ok(())
}

/// Two standbys of one primary are promoted one after the other; neither's archiver is wedged.
#[test]
fn hazard_14_two_different_partial_segments() -> Result<()> {
    let scene = Scene::new()?;
    let name = format!("{}.partial", scene.segment(3)?);
    let mut bytes = scene.repo.unpack(&scene.repo.wal(scene.segment(3)?)?)?;
    let first = bytes.clone();
    ensure!(archive(&scene.node, &name, &first)?.success()?.stderr.is_empty());
    let mut stored = vec![first.clone()];
    for mark in [b'a', b'b'] {
        *bytes.last_mut().context("a segment")? = mark;
        stored.push(bytes.clone());
        let ran = archive(&scene.node, &name, &bytes)?.success()?.says(&[&name])?;
        ensure!(ran.stderr.trim().lines().count() == 1, "one warning, not {ran}");
        let before = scene.repo.fingerprint()?;
        archive(&scene.node, &name, &bytes)?.success()?;
        archive(&scene.node, &name, &first)?.success()?;
        super::unchanged(&before, &scene.repo.fingerprint()?)?;
    }
    ensure!(scene.repo.unpack(&scene.repo.wal(&name)?)? == first, "the first one keeps the name");
    let objects = e2e::sandbox::walk(scene.repo.path()).into_iter();
    let mut kept = Vec::new();
    for object in objects.filter(|path| path.to_string_lossy().contains(".partial")) {
        kept.push(scene.repo.unpack(&object)?);
    }
    kept.sort();
    stored.sort();
    ensure!(kept == stored, "{} partial segments are kept, not three", kept.len());
    Ok(())
}
