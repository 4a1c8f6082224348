//! What `restore-wal` answers: 0 with the right bytes, 1 for what provably does not exist, 200 and above for all else.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use common::pg::{SegmentSize, WalSegmentName};
use e2e::cluster::Recipe;
use e2e::{Cluster, Ran, Repo, Sandbox, StopMode};

/// A repository with four segments of a cluster that is stopped, a fifth that was never archived, and the data
/// directory of a server that recovers from there.
pub(crate) struct Scene {
    pub(crate) sandbox: Sandbox,
    pub(crate) repo: Repo,
    pub(crate) segments: Vec<String>,
    pub(crate) unarchived: PathBuf,
    pub(crate) node: Cluster,
}

impl Scene {
    pub(crate) fn new() -> Result<Self> {
        let sandbox = Sandbox::new()?;
        let repo = Repo::new(&sandbox, "repo")?;
        let cluster = Recipe::new("pg").segment_mb(1).archived_to(&repo).set("wal_keep_size", "1GB").start(&sandbox)?;
        cluster.sql("create table t (n int)")?;
        for _ in 0..4 {
            cluster.sql("insert into t select generate_series(1, 1000)")?;
            cluster.switch_wal()?;
        }
        cluster.set("archive_command", "/bin/false")?;
        cluster.sql("insert into t select generate_series(1, 1000)")?;
        let unarchived = cluster.pgdata().join("pg_wal").join(cluster.end_segment()?);
        cluster.stop(StopMode::Immediate)?;

        let node = cluster.bare_node("node")?;
        let mut segments = repo.segments();
        segments.drain(..segments.len() - 4);
        Ok(Self { sandbox, repo, segments, unarchived, node })
    }

    pub(crate) fn segment(&self, number: usize) -> Result<&str> {
        self.segments.get(number).map(String::as_str).context("four segments")
    }

    pub(crate) fn fetch(&self, name: &str) -> Result<Ran> {
        self.node.restore_wal(name, "pg_wal/RECOVERYXLOG")
    }

    /// Fails when anything lies in `pg_wal`, a file under a temporary name included.
    pub(crate) fn nothing_left(&self) -> Result<()> {
        let left = e2e::sandbox::walk(&self.node.pgdata().join("pg_wal"));
        ensure!(left.is_empty(), "left behind: {left:?}");
        Ok(())
    }

    pub(crate) fn stops_recovery(&self, name: &str) -> Result<Ran> {
        let ran = self.fetch(name)?.stops_recovery()?;
        self.nothing_left()?;
        Ok(ran)
    }

    pub(crate) fn delivers(&self, name: &str, content: &[u8]) -> Result<()> {
        self.fetch(name)?.success()?;
        let path = self.node.pgdata().join("pg_wal/RECOVERYXLOG");
        ensure!(fs::read(&path)? == content, "wrong bytes delivered for {name}");
        fs::remove_file(path)?;
        self.nothing_left()
    }

    pub(crate) fn next_segment(&self) -> Result<String> {
        let last = WalSegmentName::parse(self.segment(3)?).context("a segment's name")?;
        let after_unarchived = SegmentSize::new(1 << 20).and_then(|size| last.next(size)?.next(size));
        Ok(after_unarchived.context("a next segment")?.to_string())
    }
}

#[test]
fn what_was_archived_comes_back() -> Result<()> {
    let scene = Scene::new()?;
    for segment in &scene.segments {
        scene.delivers(segment, &scene.repo.unpack(&scene.repo.wal(segment)?)?)?;
    }
    Ok(())
}

/// An object that is sound in itself, but another segment's.
#[test]
fn a_swapped_object_stops_recovery() -> Result<()> {
    let scene = Scene::new()?;
    let other = fs::read(scene.repo.wal(scene.segment(2)?)?)?;
    scene.repo.replace(&scene.repo.wal(scene.segment(1)?)?, &other)?;
    scene.stops_recovery(scene.segment(1)?)?.says(&[scene.segment(1)?])?;
    Ok(())
}

#[test]
fn an_unreachable_repository_stops_recovery() -> Result<()> {
    let scene = Scene::new()?;
    let absent = scene.next_segment()?;
    let away = scene.repo.take_away()?;
    scene.stops_recovery(scene.segment(0)?)?;
    scene.stops_recovery(&absent)?;
    scene.stops_recovery("00000002.history")?;
    // The mount point alone, as an unmounted disk leaves it.
    let mount_point = scene.sandbox.folder("repo")?;
    scene.stops_recovery(&absent)?;
    fs::remove_dir(mount_point)?;
    away.bring_back()?;

    // Root may look everywhere; the account of the servers may not.
    fs::set_permissions(scene.repo.path(), fs::Permissions::from_mode(0o000))?;
    scene.stops_recovery(&absent)?;
    fs::set_permissions(scene.repo.path(), fs::Permissions::from_mode(0o700))?;
    scene.fetch(&absent)?.expect_code(1)?;
    Ok(())
}

#[test]
fn what_does_not_exist_is_absent_and_a_hole_is_not() -> Result<()> {
    let scene = Scene::new()?;
    scene.fetch(&scene.next_segment()?)?.expect_code(1)?;
    scene.fetch("00000002.history")?.expect_code(1)?;
    scene.nothing_left()?;
    scene.repo.remove(&scene.repo.wal(scene.segment(1)?)?)?;
    scene.stops_recovery(scene.segment(1)?)?.says(&[scene.segment(1)?])?;
    Ok(())
}

/// What no repository has, but the server itself: PostgreSQL takes its own when it hears "absent".
#[test]
fn what_lies_in_the_servers_own_pg_wal_is_left_to_it() -> Result<()> {
    let scene = Scene::new()?;
    let name = scene.unarchived.file_name().and_then(|name| name.to_str()).context("a name")?;
    let own = scene.node.pgdata().join("pg_wal").join(name);
    scene.sandbox.write(&own, &fs::read(&scene.unarchived)?)?;
    scene.fetch(name)?.expect_code(1)?;
    fs::remove_file(own)?;

    let hole = scene.segment(1)?;
    let object = scene.repo.wal(hole)?;
    let own = scene.node.pgdata().join("pg_wal").join(hole);
    scene.sandbox.write(&own, &scene.repo.unpack(&object)?)?;
    scene.repo.remove(&object)?;
    scene.fetch(hole)?.expect_code(1)?;
    // A recycled file that only bears the name is no help.
    scene.sandbox.write(&own, &scene.repo.unpack(&scene.repo.wal(scene.segment(2)?)?)?)?;
    scene.fetch(hole)?.stops_recovery()?;
    Ok(())
}

/// A standby must survive everything: it tries again, or streams.
#[test]
fn a_standby_hears_absent() -> Result<()> {
    let scene = Scene::new()?;
    scene.sandbox.write(&scene.node.pgdata().join("standby.signal"), b"")?;
    let one_line = |ran: Ran| -> Result<()> {
        let ran = ran.expect_code(1)?;
        ensure!(ran.stderr.trim().lines().count() == 1, "one line, not {ran}");
        scene.nothing_left()
    };
    let damaged = scene.repo.wal(scene.segment(0)?)?;
    scene.repo.flip(&damaged, fs::read(&damaged)?.len() / 2)?;
    one_line(scene.fetch(scene.segment(0)?)?)?;
    scene.repo.remove(&scene.repo.wal(scene.segment(1)?)?)?;
    one_line(scene.fetch(scene.segment(1)?)?)?;
    scene.fetch(&scene.next_segment()?)?.expect_code(1)?;
    let away = scene.repo.take_away()?;
    one_line(scene.fetch(scene.segment(2)?)?)?;
    one_line(scene.fetch("00000002.history")?)?;
    away.bring_back()
}

/// Exit 2 of a usage error would read as the end of the archive.
#[test]
fn mistakes_of_the_command_line_stop_recovery() -> Result<()> {
    let scene = Scene::new()?;
    let run = |args: &[&str]| scene.sandbox.run_in(scene.node.pgdata(), "restore-wal", args);
    let (segment, dest) = (scene.segment(0)?, "pg_wal/RECOVERYXLOG");
    run(&[])?.stops_recovery()?;
    run(&["--no-such-option"])?.stops_recovery()?;
    run(&[segment, dest])?.stops_recovery()?.says(&["--repo", "HOLDFAST_REPO", "holdfast.toml"])?;
    run(&["--repo", "/dev/null/repo", segment, dest])?.stops_recovery()?;
    run(&["--repo", scene.repo.arg()?, "--cluster", "nobody", segment, dest])?.stops_recovery()?;
    run(&["--repo", scene.repo.arg()?, "nonsense", dest])?.stops_recovery()?;
    let empty = Repo::new(&scene.sandbox, "empty")?;
    run(&["--repo", empty.arg()?, segment, dest])?.stops_recovery()?;
    scene.nothing_left()
}
