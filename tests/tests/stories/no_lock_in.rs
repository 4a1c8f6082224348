//! A repository is worth something without Holdfast: stock tools read all of it, and `docs/FORMAT.md` is enough to write
//! another reader, which `contrib/read-backup.sh` is.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use common::codec::Digest;
use e2e::cluster::Recipe;
use e2e::{Cluster, Ran, Repo, Sandbox, process, stock, wait};
use rstest::rstest;
use serde_json::Value;

/// Plain bytes in every frame of a part but its last.
const FRAME_BYTES: usize = 4 << 20;

const SCRIPT: &[u8] = include_bytes!("../../../contrib/read-backup.sh");

/// A cluster with a tablespace and with files such as no server makes, a backup of it, and rows that came later.
struct Scene {
    sandbox: Sandbox,
    cluster: Cluster,
    space: PathBuf,
    id: String,
}

impl Scene {
    fn new(compression: &str) -> Result<Self> {
        let sandbox = Sandbox::new()?;
        let repo = Repo::new(&sandbox, "repo")?;
        let cluster = Recipe::new("pg").archived_to(&repo).start(&sandbox)?;
        let space = sandbox.folder("space")?;
        cluster.sql(&format!("create tablespace fast location '{}'", space.display()))?;
        cluster.sql("create table t tablespace fast as select n, md5(n::text) from generate_series(1, 5000) n")?;
        make_odd_files(&cluster)?;
        let id = cluster.backup(&["-Z", compression, "-j", "2"])?;
        cluster.sql("insert into t select n, md5(n::text) from generate_series(5001, 6000) n")?;
        cluster.switch_wal()?;
        Ok(Self { sandbox, cluster, space, id })
    }

    fn repo(&self) -> Result<&Repo> {
        self.cluster.repo()
    }

    /// The folder of the backup.
    fn backup(&self) -> Result<PathBuf> {
        Ok(self.repo()?.path().join("main/backup").join(&self.id))
    }

    /// Runs `contrib/read-backup.sh` on the backup; the tablespace goes to a folder beside the new data directory.
    fn read_backup(&self, dest: &Path) -> Result<Ran> {
        let script = self.sandbox.path().join("read-backup.sh");
        self.sandbox.write(&script, SCRIPT)?;
        let oid = self.cluster.sql("select oid from pg_tablespace where spcname = 'fast'")?;
        let mut command = self.sandbox.command("bash")?;
        command.arg(script).arg(self.repo()?.path().join("main")).arg(&self.id).arg(dest);
        process::run(command.arg(format!("{oid}={}", dest.with_extension("space").display())), "")
    }
}

fn make_odd_files(cluster: &Cluster) -> Result<()> {
    let (sandbox, pgdata) = (cluster.sandbox(), cluster.pgdata());
    let deep = pgdata.join("deep").join("x".repeat(120));
    fs::create_dir_all(pgdata.join("empty"))?;
    fs::create_dir_all(&deep)?;
    let files = [
        (pgdata.join(OsStr::from_bytes(b"no \xff utf-8")), 0o600),
        (deep.join("y".repeat(120)), 0o640),
        (pgdata.join("script"), 0o700),
    ];
    for (path, mode) in files {
        sandbox.write(&path, path.as_os_str().as_bytes())?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}

/// What a path of a tree is.
#[derive(Debug, PartialEq, Eq)]
struct Node {
    mode: u32,
    /// Age, size and digest of a regular file.
    file: Option<(i64, u64, Digest)>,
}

/// Every path below `root`; the links of tablespaces are followed.
fn tree(root: &Path) -> Result<BTreeMap<PathBuf, Node>> {
    let (mut nodes, mut folders) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let metadata = fs::metadata(&path)?;
            let file = if metadata.is_dir() {
                folders.push(path.clone());
                None
            } else {
                Some((metadata.mtime(), metadata.len(), Digest::of(&fs::read(&path)?)))
            };
            nodes.insert(path.strip_prefix(root)?.to_owned(), Node { mode: metadata.mode() & 0o7777, file });
        }
    }
    Ok(nodes)
}

/// The paths in which two trees differ, in order.
fn differences(left: &Path, right: &Path) -> Result<Vec<PathBuf>> {
    let (left, right) = (tree(left)?, tree(right)?);
    let mut paths: Vec<&PathBuf> = left.keys().chain(right.keys()).collect();
    paths.sort();
    paths.dedup();
    Ok(paths.into_iter().filter(|path| left.get(*path) != right.get(*path)).cloned().collect())
}

#[rstest]
#[case::zstd("zstd:3", "zstd", "zst")]
#[case::lz4("lz4", "lz4", "lz4")]
#[case::gzip("gzip:1", "gzip", "gz")]
fn stock_tools_read_a_backup(#[case] compression: &str, #[case] tool: &str, #[case] end: &str) -> Result<()> {
    let scene = Scene::new(compression)?;
    let (sandbox, repo, backup) = (&scene.sandbox, scene.repo()?, scene.backup()?);
    let unpacked = sandbox.folder("unpacked")?;
    let extract = r#"for part in "$1"/part-*.tar.$2; do $3 -dc "$part" | tar -x -p -C "$4" || exit 1; done"#;
    let mut shell = sandbox.command("bash")?;
    shell.args(["-o", "pipefail", "-c", extract, "bash"]).arg(&backup).args([end, tool]).arg(&unpacked);
    process::run(&mut shell, "")?.success()?;
    let manifest = unpacked.join("backup_manifest");
    sandbox.write(&manifest, &repo.unpack(&backup.join(format!("backup_manifest.{end}")))?)?;
    fs::set_permissions(&manifest, fs::Permissions::from_mode(0o600))?;
    let wal = sandbox.folder("wal")?;
    for (name, object) in repo.wal_objects() {
        sandbox.write(&wal.join(name), &repo.unpack(&object)?)?;
    }
    stock::verify_tree(sandbox, &unpacked, Some(&wal))?;
    every_file_can_be_had_alone(&scene, tool, end)?;

    let copy = Cluster::at(sandbox, &sandbox.path().join("copy"), Some(repo));
    let mapping = format!("{}={}", scene.space.display(), sandbox.path().join("copied").display());
    let options = ["--as", "copy", "--port", "5999", "--target-latest", "--no-start", "-T", &mapping];
    copy.try_recover(&options)?.success()?;
    ensure!(fs::read(&manifest)? == fs::read(copy.pgdata().join("backup_manifest"))?, "the manifests differ");
    // It is as old as the restore, and the last WAL, which is in no repository, comes from the server itself.
    let known = |path: &PathBuf| path.starts_with("pg_wal") || path == Path::new("backup_manifest");
    let mut differ = differences(&unpacked, copy.pgdata())?;
    differ.retain(|path| !known(path));
    ensure!(differ == ["postgresql.auto.conf", "recovery.signal"].map(PathBuf::from), "they differ in {differ:?}");
    Ok(())
}

/// By the index, as `docs/FORMAT.md` tells it: every frame of a part unpacks alone, all but the last hold 4 MiB, and a file
/// lies where its line says.
fn every_file_can_be_had_alone(scene: &Scene, tool: &str, end: &str) -> Result<()> {
    let (repo, backup) = (scene.repo()?, scene.backup()?);
    let index = String::from_utf8(repo.unpack(&backup.join(format!("index.jsonl.{end}")))?)?;
    let lines: Vec<Value> = index.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let of_sort = |sort: &'static str| lines.iter().filter_map(move |line| line.get(sort));
    let mut parts = BTreeMap::new();
    for table in of_sort("frames") {
        let part = number(table, "part")?;
        let stored = fs::read(backup.join(format!("part-{part:05}.tar.{end}")))?;
        parts.insert(part, unpack_frames(scene, tool, table, &stored).with_context(|| format!("part {part}"))?);
    }
    let mut files = 0;
    for file in of_sort("file") {
        let (offset, size) = (usize::try_from(number(file, "offset")?)?, usize::try_from(number(file, "size")?)?);
        let plain = parts.get(&number(file, "part")?).context("a file in no part")?;
        let contents = plain.get(offset..offset + size).with_context(|| format!("{file} ends early"))?;
        let digest = file.get("sha256").and_then(Value::as_str);
        ensure!(digest == Some(&Digest::of(contents).to_string()), "{file} is not what lies there");
        files += 1;
    }
    ensure!(files > 900, "only {files} files in the index");
    Ok(())
}

fn number(object: &Value, name: &str) -> Result<u64> {
    object.get(name).and_then(Value::as_u64).with_context(|| format!("no number {name} in {object}"))
}

/// The plain bytes of a part, frame by frame as its table says; nothing but a seek table follows them.
fn unpack_frames(scene: &Scene, tool: &str, table: &Value, stored: &[u8]) -> Result<Vec<u8>> {
    let (mut plain, mut left, mut entries) = (Vec::new(), stored, Vec::new());
    let plain_bytes = usize::try_from(number(table, "plain_bytes")?)?;
    for size in table.get("frames").and_then(Value::as_array).context("no frames")? {
        let size = usize::try_from(size.as_u64().context("no size")?)?;
        let (frame, rest) = left.split_at_checked(size).context("a frame behind the end")?;
        let bytes = unpack_frame(scene, tool, frame)?;
        ensure!(bytes.len() == FRAME_BYTES.min(plain_bytes - plain.len()), "a frame has {} bytes", bytes.len());
        entries.extend([u32::try_from(size)?, u32::try_from(bytes.len())?]);
        plain.extend(bytes);
        left = rest;
    }
    ensure!(plain.len() == plain_bytes, "{} bytes in all", plain.len());
    ensure!(left == seek_table(&entries, tool), "what follows is not its seek table");
    Ok(plain)
}

fn unpack_frame(scene: &Scene, tool: &str, frame: &[u8]) -> Result<Vec<u8>> {
    let path = scene.sandbox.path().join("frame");
    scene.sandbox.write(&path, frame)?;
    let output = scene.sandbox.command(tool)?.arg("-dc").stdin(fs::File::open(&path)?).output()?;
    ensure!(output.status.success(), "{tool} cannot unpack a frame");
    Ok(output.stdout)
}

/// The skippable frame at the end of a Zstandard part: stored and plain size of every frame.
fn seek_table(entries: &[u32], tool: &str) -> Vec<u8> {
    let count = u32::try_from(entries.len() / 2).unwrap_or_default();
    let words = [0x184D_2A5E, 8 * count + 9].into_iter().chain(entries.iter().copied()).chain([count]);
    let end = std::iter::once(0).chain(0x8F92_EAB1_u32.to_le_bytes());
    if tool == "zstd" { words.flat_map(u32::to_le_bytes).chain(end).collect() } else { Vec::new() }
}

#[rstest]
#[case::zstd("zstd:1")]
#[case::gzip("gzip:1")]
fn another_reader_brings_the_cluster_back(#[case] compression: &str) -> Result<()> {
    let scene = Scene::new(compression)?;
    let before = stock::dump(&scene.cluster)?;
    let copy = Cluster::at(&scene.sandbox, &scene.sandbox.path().join("copy"), None);
    let settings = scene.read_backup(copy.pgdata())?.success()?.stdout;
    stock::verify_tree(&scene.sandbox, copy.pgdata(), None)?;

    let file = copy.pgdata().join("postgresql.auto.conf");
    let text = fs::read_to_string(&file)? + &settings + &format!("port = {}\n", scene.sandbox.new_port());
    scene.sandbox.write(&file, text.as_bytes())?;
    scene.sandbox.write(&copy.pgdata().join("recovery.signal"), b"")?;
    // A damaged segment ends the server; it is not taken for the end of the WAL.
    let last = scene.repo()?.wal(scene.repo()?.segments().last().context("segments")?)?;
    let sound = fs::read(&last)?;
    scene.repo()?.flip(&last, sound.len() / 2)?;
    // It may stand by for a moment, before it comes to the damage.
    copy.start_or_end()?;
    wait::until("the damaged WAL ends the server", || Ok(!copy.is_running())).with_context(|| copy.log())?;
    scene.repo()?.replace(&last, &sound)?;

    copy.start()?;
    copy.wait_promoted()?;
    let (old, new) = (scene.space.display().to_string(), copy.pgdata().with_extension("space").display().to_string());
    stock::same_dump(&stock::dump(&copy)?, &before.replace(&old, &new))?;
    stock::check_and_stop(&copy)
}

/// One flipped bit anywhere in what is stored, and nothing is unpacked.
#[test]
fn another_reader_notices_damage() -> Result<()> {
    let scene = Scene::new("zstd:1")?;
    let (repo, dest) = (scene.repo()?, scene.sandbox.path().join("copy"));
    for prefix in ["part-00001", "part-00002", "backup_manifest", "backup.json"] {
        let object = repo.backup_object(&scene.id, prefix)?;
        let sound = fs::read(&object)?;
        for offset in [sound.len() / 3, sound.len() - 3] {
            repo.flip(&object, offset)?;
            let ran = scene.read_backup(&dest)?.expect_code(1)?.says(&["is damaged"])?;
            ensure!(!dest.exists(), "something was unpacked: {ran}");
            repo.replace(&object, &sound)?;
        }
        repo.remove(&object)?;
        let ran = scene.read_backup(&dest)?.expect_code(1)?;
        ensure!(!dest.exists() && ran.stderr.contains(prefix), "{ran}");
        repo.replace(&object, &sound)?;
    }
    scene.read_backup(&dest)?.success()?;
    // What is there stays as it is.
    scene.read_backup(&dest)?.expect_code(1)?.says(&["exists"])?;
    Ok(())
}
