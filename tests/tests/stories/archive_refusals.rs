//! What `archive-wal` accepts and what it refuses: the archive holds this cluster's WAL, each file once.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use e2e::cluster::Recipe;
use e2e::{Cluster, Ran, Repo, Sandbox, StopMode, wait};
use rstest::rstest;

/// A running cluster that keeps its WAL, one segment of it archived.
struct Scene {
    sandbox: Sandbox,
    repo: Repo,
    cluster: Cluster,
    segment: String,
}

impl Scene {
    fn new() -> Result<Self> {
        let sandbox = Sandbox::new()?;
        let repo = Repo::new(&sandbox, "repo")?;
        let cluster = Recipe::new("pg").archived_to(&repo).set("wal_keep_size", "1GB").start(&sandbox)?;
        cluster.sql("create table t as select generate_series(1, 1000) as n")?;
        let segment = cluster.switch_wal()?;
        Ok(Self { sandbox, repo, cluster, segment })
    }

    fn segment_bytes(&self) -> Result<Vec<u8>> {
        Ok(std::fs::read(self.cluster.pgdata().join("pg_wal").join(&self.segment))?)
    }

    /// A file outside the data directory that bears the name of a WAL file.
    fn file(&self, name: &str, content: &[u8]) -> Result<PathBuf> {
        let path = self.sandbox.folder("strange")?.join(name);
        self.sandbox.write(&path, content)?;
        Ok(path)
    }

    fn archive(&self, name: &str, content: &[u8]) -> Result<Ran> {
        let path = self.file(name, content)?;
        self.cluster.archive_wal(path.to_str().context("a path of a test is text")?)
    }

    /// Archives this content, which must be refused with these words, leaving the repository as it was.
    fn refuses(&self, name: &str, content: &[u8], words: &[&str]) -> Result<()> {
        let before = self.repo.fingerprint()?;
        refused(self.archive(name, content)?)?.says(&[name])?.says(words)?;
        ensure!(self.repo.fingerprint()? == before, "a refusal changed the repository");
        Ok(())
    }
}

/// PostgreSQL retries after 1 to 125; above, it kills its archiver.
fn refused(ran: Ran) -> Result<Ran> {
    ensure!(ran.code.is_some_and(|code| (1..=125).contains(&code)), "wanted exit 1 to 125, got {ran}");
    Ok(ran)
}

#[test]
fn the_same_file_again_is_fine() -> Result<()> {
    let scene = Scene::new()?;
    let before = scene.repo.fingerprint()?;
    scene.cluster.archive_wal(&format!("pg_wal/{}", scene.segment))?.success()?;
    ensure!(scene.repo.fingerprint()? == before);
    let stored = scene.repo.unpack(&scene.repo.wal(&scene.segment)?)?;
    ensure!(stored == scene.segment_bytes()?, "the archive's bytes are not the server's");
    Ok(())
}

/// Two servers on one timeline: both segments are sound, only one can have the name.
#[test]
fn different_bytes_under_one_name_are_refused() -> Result<()> {
    let scene = Scene::new()?;
    scene.cluster.stop(StopMode::Fast)?;
    let twin = scene.sandbox.path().join("twin");
    let twin_arg = twin.to_str().context("text")?;
    scene.sandbox.run_other("cp", &["-a", scene.cluster.pgdata_arg()?, twin_arg])?.success()?;
    let twin = Cluster::at(&scene.sandbox, &twin, Some(&scene.repo));
    let port = scene.sandbox.new_port().to_string();
    twin.configure(&[("port".to_owned(), port), ("archive_command".to_owned(), "/bin/false".to_owned())])?;

    scene.cluster.start()?;
    scene.cluster.sql("insert into t select generate_series(1, 100)")?;
    let ours = scene.cluster.switch_wal()?;
    twin.start()?;
    twin.sql("insert into t select generate_series(1, 200)")?;
    let theirs = twin.end_segment()?;
    ensure!(ours == theirs, "the twins must write the same segment: {ours}, {theirs}");

    let before = scene.repo.fingerprint()?;
    refused(twin.archive_wal(&format!("pg_wal/{theirs}"))?)?.says(&[&theirs, "different"])?;
    ensure!(scene.repo.fingerprint()? == before);
    twin.stop(StopMode::Immediate)
}

#[test]
fn a_different_history_under_one_name_is_refused() -> Result<()> {
    let scene = Scene::new()?;
    let history = b"1\t0/3000000\tno recovery target specified\n";
    scene.archive("00000002.history", history)?.success()?;
    scene.archive("00000002.history", history)?.success()?;
    scene.refuses("00000002.history", b"1\t0/3000100\tno recovery target specified\n", &["different"])
}

#[rstest]
#[case::empty("0000000100000000000000AA", Vec::new())]
#[case::one_megabyte("0000000100000000000000AA", vec![0; 1 << 20])]
#[case::zeros("0000000100000000000000AA", vec![0; 16 << 20])]
#[case::random("0000000100000000000000AA", random(16 << 20))]
#[case::history_of_nothing("00000005.history", Vec::new())]
#[case::history_of_noise("00000005.history", random(100))]
fn garbage_is_refused(#[case] name: &str, #[case] content: Vec<u8>) -> Result<()> {
    Scene::new()?.refuses(name, &content, &[])
}

#[test]
fn a_segment_cut_short_or_misnamed_is_refused() -> Result<()> {
    let scene = Scene::new()?;
    let bytes = scene.segment_bytes()?;
    let half = bytes.get(..bytes.len() / 2).context("half a segment")?;
    scene.refuses("0000000100000000000000AA", half, &[])?;
    scene.refuses("0000000100000000000000AA", &bytes, &[])?;
    let child = scene.segment.replacen("00000001", "00000002", 1);
    // Under a later timeline's name the same bytes are what a promotion writes (the first segment of a new timeline
    // begins as a copy of the parent's), under an earlier one's they are not.
    scene.archive(&child, &bytes)?.success()?;
    scene.refuses("notes.txt", b"hello", &[])
}

#[test]
fn another_clusters_segment_is_refused() -> Result<()> {
    let scene = Scene::new()?;
    let other = Recipe::new("other").set("wal_keep_size", "1GB").start(&scene.sandbox)?;
    other.sql("create table u as select generate_series(1, 1000) as n")?;
    let name = other.end_segment()?;
    let foreign = std::fs::read(other.pgdata().join("pg_wal").join(&name))?;
    // Handed over by this cluster, it contradicts this cluster's pg_control.
    scene.refuses(&name, &foreign, &["system identifier"])?;
    // Handed over by its own, it contradicts what the repository knows.
    let other = Cluster::at(&scene.sandbox, other.pgdata(), Some(&scene.repo));
    let before = scene.repo.fingerprint()?;
    refused(other.archive_wal(&format!("pg_wal/{name}"))?)?.says(&["--cluster"])?;
    ensure!(scene.repo.fingerprint()? == before);
    Ok(())
}

#[test]
fn partial_segments_and_backup_histories_are_kept() -> Result<()> {
    let scene = Scene::new()?;
    let mut partial = scene.segment_bytes()?;
    let name = format!("{}.partial", scene.segment);
    scene.archive(&name, &partial)?.success()?;
    scene.archive(&name, &partial)?.success()?;
    ensure!(scene.repo.unpack(&scene.repo.wal(&name)?)? == partial);

    // The second standby that promotes has other bytes after its end of the timeline: both are kept, and it goes on.
    let last = partial.last_mut().context("a segment")?;
    *last ^= 0xFF;
    let ran = scene.archive(&name, &partial)?.success()?;
    ensure!(!ran.stderr.trim().is_empty(), "a second, different partial segment is worth a line");
    let stored: Vec<_> = e2e::sandbox::walk(scene.repo.path())
        .into_iter()
        .filter(|path| path.file_name().is_some_and(|file| file.to_string_lossy().contains(".partial")))
        .collect();
    ensure!(stored.len() == 2, "both partial segments: {stored:?}");

    // A real backup history file, made by a real backup.
    let (dest, connection) = (scene.sandbox.path().join("base"), scene.cluster.connection()?);
    let mut args = vec!["-D", dest.to_str().context("text")?, "-X", "none", "-c", "fast", "--no-sync"];
    args.extend(connection.iter().map(String::as_str));
    scene.sandbox.run_other("pg_basebackup", &args)?.success()?;
    wait::until("the backup history file is archived", || {
        Ok(scene.repo.wal_objects().keys().any(|name| name.ends_with(".backup")))
    })
}

/// Whatever is wrong, the archiver must live to try again.
#[test]
fn no_failure_kills_the_archiver() -> Result<()> {
    let scene = Scene::new()?;
    let path = format!("pg_wal/{}", scene.segment);
    let run = |args: &[&str]| scene.sandbox.run_in(scene.cluster.pgdata(), "archive-wal", args);
    refused(run(&[])?)?;
    refused(run(&["--no-such-option"])?)?;
    refused(run(&[&path])?)?.says(&["--repo", "HOLDFAST_REPO", "holdfast.toml"])?;
    refused(run(&["--repo", "/dev/null/repo", &path])?)?;
    refused(run(&["--repo", scene.repo.arg()?, "pg_wal/000000010000000000000099"])?)?;
    Ok(())
}

fn random(length: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(7);
    std::iter::repeat_with(|| random.u8(..)).take(length).collect()
}
