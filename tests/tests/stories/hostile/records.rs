//! Damage of every kind to every kind of object: who notices, and how it ends.

use std::path::Path;

use e2e::{Forge, forge};
use serde_json::{Value, json};

use super::*;

/// How the programs end when nothing that they read is damaged.
const FINE: Codes = [0; 8];

/// One kind of object: where it is, what its damage does, and what must be said of it.
struct Object<'a> {
    path: PathBuf,
    /// For damage that leaves another size.
    cut: Codes,
    /// For damage that leaves the size.
    flipped: Codes,
    words: &'a str,
}

fn object(path: PathBuf, cut: Codes, flipped: Codes, words: &str) -> Object<'_> {
    Object { path, cut, flipped, words }
}

/// Every kind of object, each from the middle of what the programs need.
fn objects(scene: &Scene) -> Result<Vec<Object<'_>>> {
    let repo = &scene.repo;
    let of_backup = |prefix: &str| repo.backup_object(&scene.newer, prefix);
    Ok(vec![
        object(
            repo.path().join("holdfast.json"),
            [1, 201, 1, 1, 1, 1, 1, 1],
            [1, 201, 1, 1, 1, 1, 1, 1],
            "holdfast.json",
        ),
        object(system_record(scene)?, [1, 201, 0, 0, 0, 0, 0, 1], [1, 201, 0, 0, 0, 0, 0, 1], "/cluster/"),
        // Whoever made the backup is done with it.
        object(of_backup("started.json")?, FINE, FINE, ""),
        // The older backup is taken instead, with a warning.
        object(of_backup("backup.json")?, [0, 0, 0, 3, 0, 0, 0, 3], [0, 0, 0, 3, 0, 0, 0, 3], "backup.json"),
        object(of_backup("part-00001")?, [0, 0, 0, 3, 0, 0, 20, 0], [0, 0, 0, 3, 0, 0, 0, 0], "part-00001"),
        object(of_backup("index")?, [0, 0, 0, 3, 0, 0, 20, 0], [0, 0, 0, 3, 0, 0, 20, 0], "index.jsonl"),
        object(of_backup("backup_manifest")?, [0, 0, 0, 3, 0, 0, 20, 0], [0, 0, 0, 3, 0, 0, 20, 0], "backup_manifest"),
        object(of_backup("config")?, [0, 0, 0, 3, 0, 0, 20, 0], [0, 0, 0, 3, 0, 0, 0, 0], "config.tar"),
        object(repo.wal("00000002.history")?, [0, 0, 0, 0, 0, 1, 1, 3], [0, 0, 0, 0, 0, 1, 1, 3], "00000002.history"),
        // A bit that the records betray is told before the object's own checksum is come to.
        object(repo.wal(&scene.segment)?, [1, 201, 0, 3, 0, 0, 20, 0], [1, 201, 0, 3, 0, 0, 20, 0], &scene.segment),
        // Its name says all.
        object(abandoned(scene)?, FINE, FINE, ""),
    ])
}

/// The record of the system that the cluster is.
fn system_record(scene: &Scene) -> Result<PathBuf> {
    let mut files = e2e::sandbox::walk(&scene.repo.path().join("main/cluster"));
    files.pop().context("a record of the system")
}

fn abandoned(scene: &Scene) -> Result<PathBuf> {
    let path = scene.repo.wal("00000002.history")?.with_file_name("00000003.abandoned.json");
    let record = json!({ "timeline": 3, "at": "2026-11-20T15:42:12Z" });
    scene.repo.replace(&path, &forge::sealed("abandoned", &record))?;
    Ok(path)
}

/// A scene whose newer backup has configuration, too.
fn scene() -> Result<Scene> {
    let scene = Scene::new()?;
    let plain = vec![7; 3000];
    Forge::open(&scene.repo, &scene.newer)?.write_object(
        "config",
        "config.tar.zst",
        &forge::compressed(&plain)?,
        &plain,
    )?;
    Ok(scene)
}

/// Nothing, half of it, zeros, a flipped bit, another object's bytes: the programs say so, change nothing, and go on
/// once the object is back.
#[test]
fn damage_to_any_object_is_told_and_changes_nothing() -> Result<()> {
    let scene = scene()?;
    let all = objects(&scene)?;
    scene.unharmed(|scene| damage_each(scene, all))
}

fn damage_each(scene: &Scene, all: Vec<Object<'_>>) -> Result<()> {
    for Object { path, cut, flipped, words } in all {
        let sound = std::fs::read(&path)?;
        let mut bit = sound.clone();
        let middle = bit.get_mut(sound.len() / 2).context("an object is not empty")?;
        *middle ^= 0x10;
        let half = sound.get(..sound.len() / 2).context("half of it")?.to_vec();
        let damages = [
            ("empty", Vec::new(), cut),
            ("half", half, cut),
            ("zeros", vec![0; sound.len()], flipped),
            ("bit", bit, flipped),
        ];
        for (kind, bytes, codes) in damages {
            scene.repo.replace(&path, &bytes)?;
            scene.expect(codes, &[words]).with_context(|| format!("{kind}: {}", path.display()))?;
        }
        scene.repo.replace(&path, &sound)?;
    }
    Ok(())
}

/// A whole record where another one belongs, and one that a newer version wrote.
#[test]
fn a_record_that_does_not_belong_there_is_told() -> Result<()> {
    let scene = scene()?;
    let repo = &scene.repo;
    let of = |id: &str, name: &str| std::fs::read(repo.backup_object(id, name)?).context("read an object");
    let (record, index) =
        (repo.backup_object(&scene.newer, "backup.json")?, repo.backup_object(&scene.newer, "index")?);
    let manifest = repo.backup_object(&scene.newer, "backup_manifest")?;
    let (top, system) = (repo.path().join("holdfast.json"), system_record(&scene)?);
    let mut other = forge::body(&std::fs::read(&system)?)?;
    other["system_identifier"] = json!("7");
    let only_top: Codes = [1, 201, 1, 1, 1, 1, 1, 1];
    let only_system: Codes = [1, 201, 0, 0, 0, 0, 0, 1];
    let only_backup: Codes = [0, 0, 0, 3, 0, 0, 0, 3];
    let newer = b"{\"format\":2,\"kind\":\"backup\",\"news\":[]}\n".to_vec();
    let nested = format!("{{\"format\":1,\"kind\":\"backup\",\"record\":{}", "[".repeat(200_000)).into_bytes();
    let cases: Vec<(&Path, Vec<u8>, Codes, &[&str])> = vec![
        (&record, of(&scene.older, "backup.json")?, only_backup, &["record of backup_"]),
        (&record, of(&scene.older, "started.json")?, only_backup, &["\"started\" record"]),
        (&record, newer.clone(), only_backup, &["format 2"]),
        (&record, nested, only_backup, &["backup.json"]),
        (&record, forge::sealed("backup", &json!({ "id": 5 })), only_backup, &["backup.json", "damaged"]),
        (&record, b"[]".to_vec(), only_backup, &["backup.json", "damaged"]),
        (&index, of(&scene.older, "index")?, [0, 0, 0, 3, 0, 0, 20, 0], &["index.jsonl"]),
        (&manifest, of(&scene.older, "backup_manifest")?, [0, 0, 0, 3, 0, 0, 20, 0], &["backup_manifest"]),
        (&system, forge::sealed("cluster", &other), only_system, &["record of system 7"]),
        (&system, newer.clone(), only_system, &["format 2", "newer Holdfast"]),
        (&top, newer, only_top, &["format 2", "newer Holdfast"]),
        (&top, b"{\"format\":9223372036854775808}".to_vec(), only_top, &["format 9223372036854775808"]),
        (&top, b"null".to_vec(), only_top, &["holdfast.json", "OPERATIONS"]),
    ];
    for (path, bytes, codes, words) in cases {
        let sound = std::fs::read(path)?;
        scene.repo.replace(path, &bytes)?;
        // verify's table has no hints.
        let words = if codes == only_backup { words.get(..1).unwrap_or_default() } else { words };
        scene
            .expect(codes, words)
            .with_context(|| format!("{}: {:.200}", path.display(), String::from_utf8_lossy(&bytes)))?;
        scene.repo.replace(path, &sound)?;
    }
    scene.expect(FINE, &[])
}

/// Records with right digests that say what cannot be: every field of the commit record in turn has the largest number,
/// or a text made to break lines and paths. No program dies of it, loops, or writes anywhere.
#[test]
fn an_absurd_value_in_a_record_kills_nobody() -> Result<()> {
    let scene = scene()?;
    let sound = Forge::open(&scene.repo, &scene.newer)?;
    let leaves = leaves(&sound.record);
    ensure!(leaves.len() > 40, "a commit record has more fields: {leaves:?}");
    scene.unharmed(|scene| be_absurd(scene, sound, leaves))
}

fn be_absurd(scene: &Scene, mut forged: Forge, leaves: Vec<String>) -> Result<()> {
    for pointer in leaves {
        let sound = forged.record.pointer(&pointer).cloned().context("a field")?;
        let absurd = if sound.is_number() { json!(u64::MAX) } else { json!("\u{1b}[2J\n../../x") };
        forged.record.pointer_mut(&pointer).context("a field")?.clone_from(&absurd);
        forged.write_record()?;
        let calls: [(&str, &[&str]); 5] = [
            ("basebackup", &["list"]),
            ("verify", &["backup", "--all", "--quick"]),
            ("recover", &["list"]),
            ("recover", &["windows"]),
            ("retention", &["--keep-last", "1", "--dry-run"]),
        ];
        for (program, args) in calls {
            let ran = orderly(scene.run(program, args)?).with_context(|| format!("{pointer} = {absurd}"))?;
            ensure!(matches!(ran.code, Some(0 | 1 | 3 | 20)), "{pointer} = {absurd}: {ran}");
        }
        let ran = orderly(scene.copy("copy", &["--target-latest", "--dry-run"])?)?;
        ensure!(matches!(ran.code, Some(0 | 1 | 20)), "{pointer} = {absurd}: {ran}");
        forged.record.pointer_mut(&pointer).context("a field")?.clone_from(&sound);
    }
    forged.write_record()
}

/// The paths of all numbers and texts in a value.
fn leaves(value: &Value) -> Vec<String> {
    let below = |key: String, value: &Value| {
        leaves(value).into_iter().map(move |rest| format!("/{key}{rest}")).collect::<Vec<_>>()
    };
    match value {
        Value::Object(fields) => fields.iter().flat_map(|(key, value)| below(key.clone(), value)).collect(),
        Value::Array(items) => items.iter().enumerate().flat_map(|(i, value)| below(i.to_string(), value)).collect(),
        Value::Number(_) | Value::String(_) => vec![String::new()],
        Value::Null | Value::Bool(_) => Vec::new(),
    }
}

/// A gigabyte where a megabyte was: nobody reads it into memory.
#[test]
fn a_bomb_fills_no_memory() -> Result<()> {
    let scene = scene()?;
    let repo = &scene.repo;
    let bomb = zeros(1 << 30)?;
    // Its length is a lie, and so large that nobody may believe it.
    let claim = [&[0x28, 0xB5, 0x2F, 0xFD, 0xE4][..], &(1_u64 << 40).to_le_bytes(), &[0x01, 0, 0]].concat();
    let line = Forge::open(repo, &scene.newer)?.index.pop().context("an index has lines")?.to_string() + "\n";
    let lines = forge::compressed(line.repeat((64 << 20) / line.len()).as_bytes())?;
    let paths = [
        repo.backup_object(&scene.newer, "index")?,
        repo.backup_object(&scene.newer, "backup_manifest")?,
        repo.backup_object(&scene.newer, "part-00001")?,
        repo.wal("00000002.history")?,
        repo.wal(&scene.segment)?,
    ];
    for path in &paths {
        let sound = std::fs::read(path)?;
        for bytes in [&bomb, &claim, &lines] {
            repo.replace(path, bytes)?;
            frugal(&scene).with_context(|| path.display().to_string())?;
        }
        repo.replace(path, &sound)?;
    }
    // With a record that agrees, too.
    let record = repo.backup_object(&scene.newer, "backup.json")?;
    let sound = std::fs::read(&record)?;
    for (field, name) in [("index", "index.jsonl.zst"), ("manifest", "backup_manifest.zst")] {
        let object = repo.backup_object(&scene.newer, name)?;
        let stored = std::fs::read(&object)?;
        let mut forged = Forge::open(repo, &scene.newer)?;
        forged.record[field]["plain_bytes"] = json!(1_u64 << 30);
        forged.record[field]["stored_bytes"] = json!(bomb.len());
        forged.write_record()?;
        repo.replace(&object, &bomb)?;
        frugal(&scene).with_context(|| format!("{name} and its record"))?;
        repo.replace(&object, &stored)?;
        repo.replace(&record, &sound)?;
    }
    repo.replace(&record, &vec![b' '; 65 << 20])?;
    frugal(&scene)?;
    repo.replace(&record, &sound)?;
    scene.expect(FINE, &[])
}

/// Runs the programs that read contents, with little memory.
fn frugal(scene: &Scene) -> Result<()> {
    const MEGABYTES: u64 = 160;
    let copy = scene.sandbox.path().join("copy").display().to_string();
    let dest = scene.node.pgdata().join("pg_wal/RECOVERYXLOG").display().to_string();
    let pgdata = scene.node.pgdata_arg()?;
    let calls: [(&str, &[&str]); 5] = [
        ("verify", &["backup", "--all", "-j", "1"]),
        ("recover", &["run", "--as", "copy", "-p", "5999", "-D", &copy, "--target-latest", "--dry-run"]),
        ("recover", &["windows"]),
        ("retention", &["--keep-last", "1", "--dry-run"]),
        ("restore-wal", &["-D", pgdata, &scene.segment, &dest]),
    ];
    for (program, args) in calls {
        let args = [args, &["--repo", scene.repo.arg()?]].concat();
        let ran = orderly(scene.sandbox.run_within(MEGABYTES, program, &args)?)?;
        ensure!(matches!(ran.code, Some(0 | 1 | 3 | 20 | 201)), "{ran}");
    }
    if PathBuf::from(&dest).exists() {
        std::fs::remove_file(dest)?;
    }
    Ok(())
}

/// So many zeros, compressed without ever holding them.
fn zeros(count: u64) -> Result<Vec<u8>> {
    use common::codec::{Codec, Compression, Encoder};
    let mut encoder = Encoder::new(Vec::new(), Compression::usual(Codec::Zstd))?;
    std::io::copy(&mut std::io::Read::take(std::io::repeat(0), count), &mut encoder)?;
    Ok(encoder.finish()?)
}

#[test]
fn a_mistyped_cluster_is_no_empty_list() -> Result<()> {
    let scene = Scene::new()?;
    let calls: [(&str, &[&str]); 6] = [
        ("basebackup", &["list"]),
        ("recover", &["list"]),
        ("recover", &["windows"]),
        ("recover", &["find", "-D", scene.node.pgdata_arg()?]),
        ("verify", &["backup", "--all"]),
        ("retention", &["--keep-last", "1"]),
    ];
    for (program, words) in calls {
        let words = [words, &["--cluster", "mian"]].concat();
        scene.run(program, &words)?.expect_code(10)?.says(&["no cluster \"mian\""])?;
    }
    Ok(())
}

/// Of a backup that never ended only `started.json` tells whose it is: what cannot be read is nobody's to remove.
#[test]
fn a_run_whose_record_is_damaged_is_left_alone() -> Result<()> {
    let scene = Scene::new()?;
    let id = "backup_20200101_000000";
    let folder = scene.sandbox.folder(&format!("repo/main/backup/{id}"))?;
    scene.sandbox.write(&folder.join("started.json"), b"{\"format\":1,\"kind\":\"sta")?;
    scene.expect([0, 0, 0, 0, 0, 0, 0, 3], &["started.json", id])?;
    let list = scene.run("basebackup", &["list"])?.success()?;
    ensure!(list.stdout.contains("record damaged"), "{list}");
    scene.run("retention", &["--keep-last", "1"])?.expect_code(3)?;
    ensure!(folder.join("started.json").exists(), "retention removed what it could not read");
    Ok(())
}

/// A backup into a repository with a damaged record of its own: nothing is begun.
#[test]
fn no_backup_goes_where_a_record_is_damaged() -> Result<()> {
    let scene = Scene::new()?;
    scene.cluster.start()?;
    for path in [scene.repo.path().join("holdfast.json"), system_record(&scene)?] {
        let sound = std::fs::read(&path)?;
        scene.repo.truncate(&path, sound.len() / 2)?;
        let backups = scene.repo.backups();
        let ran = orderly(scene.cluster.try_backup(&["--archive-timeout", "1s"])?)?;
        let name = path.file_name().and_then(|name| name.to_str()).context("a name")?;
        ran.expect_code(1)?.says(&[name, "damaged record"])?;
        ensure!(
            scene.repo.backups() == backups && std::fs::read_dir(scene.repo.path().join("main/backup"))?.count() == 2
        );
        scene.repo.replace(&path, &sound)?;
    }
    scene.cluster.backup(&[])?;
    Ok(())
}

/// What the runbook "A record is damaged" says.
#[test]
fn the_runbook_mends_records() -> Result<()> {
    let scene = Scene::new()?;
    let top = scene.repo.path().join("holdfast.json");
    scene.repo.truncate(&top, 50)?;
    let runbook = include_str!("../../../../docs/OPERATIONS.md");
    let recipe = runbook.split("```sh\n").find(|text| text.starts_with("body=")).context("the runbook's recipe")?;
    let recipe = recipe.split("```").next().context("its end")?.replace("/var/lib/holdfast", scene.repo.arg()?);
    scene.sandbox.run_other("sh", &["-c", &recipe])?.success()?;
    scene.expect(FINE, &[])?;

    let system = system_record(&scene)?;
    scene.repo.truncate(&system, 50)?;
    scene.cluster.archive_wal(&format!("pg_wal/{}", scene.unarchived))?.expect_code(1)?.says(&["move it away"])?;
    std::fs::remove_file(system)?;
    scene.cluster.archive_wal(&format!("pg_wal/{}", scene.unarchived))?.success()?;

    let history = scene.repo.wal("00000002.history")?;
    let content = scene.repo.unpack(&history)?;
    scene.repo.truncate(&history, 10)?;
    scene.run("recover", &["windows"])?.expect_code(1)?.says(&["archive 00000002.history again"])?;
    scene.repo.remove(&history)?;
    let path = scene.sandbox.path().join("strange/00000002.history");
    scene.sandbox.write(&path, &content)?;
    scene.node.archive_wal(path.to_str().context("text")?)?.success()?;
    scene.expect(FINE, &[])
}
