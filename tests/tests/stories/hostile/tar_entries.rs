//! Backups whose digests all agree, and whose entries are bad in themselves: nothing is ever written outside, nothing
//! that runs is stopped for them, and nobody takes them for whole.

use e2e::Forge;
use serde_json::{Value, json};

use super::*;

/// Where a forged path would lead; nothing must be there afterwards.
const ESCAPED: &str = "escaped";

/// What a case does to a header.
type Change<'a> = Box<dyn Fn(&mut tar::Header) -> std::io::Result<()> + 'a>;

/// Index lines that are refused as they are read: `verify` finds them, `recover` touches nothing.
#[test]
fn an_index_that_leads_astray_is_refused_before_anything_is_touched() -> Result<()> {
    let scene = Scene::new()?;
    let absolute = scene.sandbox.path().join(ESCAPED).display().to_string();
    let lines = [
        ("path", json!(format!("../{ESCAPED}"))),
        ("path", json!(format!("base/../../{ESCAPED}"))),
        ("path", json!(absolute)),
        ("path", json!("")),
        ("path", json!("base//1")),
        ("path", json!("./PG_VERSION")),
        ("path", json!("PG_VERSION/")),
        ("path", json!("a\0b")),
        ("path", Value::Null),
        ("encoded_path", json!("616c736f")),
        ("part", json!(99)),
        ("part", json!(0)),
        ("offset", json!(0)),
        ("offset", json!(u64::MAX)),
        ("offset", json!(1_u64 << 40)),
        ("size", json!(u64::MAX)),
        ("size", json!(1_u64 << 40)),
        ("size", json!(-1)),
        ("sha256", json!("00")),
        ("mode", json!(u64::MAX)),
    ];
    scene.unharmed(|scene| {
        let sound = Bytes::of(scene)?;
        for (field, value) in lines {
            let told = || format!("{field} = {value}");
            let mut forged = Forge::open(&scene.repo, &scene.newer)?;
            let file = forged.file("base/1/1259")?;
            // An offset or a part is wrong by what comes before it.
            file[field] = value.clone();
            forged.write()?;
            refused(scene, &["index"]).with_context(told)?;
            sound.put_back(scene)?;
        }
        for line in [
            json!({ "symlink": { "path": "base/1/1259", "target": "/etc" } }),
            json!({ "directory": { "path": format!("../{ESCAPED}"), "mode": 448 } }),
            json!({ "file": [[[]]] }),
            json!("directory"),
        ] {
            let mut forged = Forge::open(&scene.repo, &scene.newer)?;
            forged.index.insert(0, line.clone());
            forged.write()?;
            refused(scene, &["index"]).with_context(|| line.to_string())?;
            sound.put_back(scene)?;
        }
        Ok(())
    })
}

/// A recovery in place is refused, and `verify` has a finding.
fn refused(scene: &Scene, words: &[&str]) -> Result<()> {
    let verified = orderly(scene.run("verify", &["backup", &scene.newer])?)?.expect_code(3)?;
    let recovered = scene.cluster.try_recover(&["--backup", &scene.newer, "--target-latest"])?;
    let recovered = orderly(recovered)?.expect_code(20)?;
    for word in words {
        ensure!(verified.stdout.contains(word), "nothing about {word:?} in {verified}");
        ensure!(recovered.stderr.contains(word), "nothing about {word:?} in {recovered}");
    }
    Ok(())
}

/// Entries that only the file system refuses: the restore ends with what is wrong, in its own folder.
#[test]
fn entries_that_collide_are_damage() -> Result<()> {
    let scene = Scene::new()?;
    let sound = Bytes::of(&scene)?;
    let long = format!("base/1/{}", "n".repeat(300));
    let cases: [(&str, Value, &str); 4] = [
        ("path", json!("PG_VERSION"), "twice"),
        ("path", json!("PG_VERSION/1259"), "below a file"),
        ("path", json!(long), "too long"),
        ("modified", json!(u64::MAX), "no clock"),
    ];
    for (index, (field, value, words)) in cases.into_iter().enumerate() {
        let mut forged = Forge::open(&scene.repo, &scene.newer)?;
        forged.file("base/1/1259")?[field] = value.clone();
        forged.write()?;
        if field == "path" {
            orderly(scene.run("verify", &["backup", &scene.newer])?)?.expect_code(3)?;
        }
        let name = format!("copy-{index}");
        let before = outside(&scene, &name)?;
        let ran = scene.copy(&name, &["--backup", &scene.newer, "--target-latest", "--no-start"])?;
        orderly(ran)?.expect_code(1)?.says(&[words, "rollback"]).with_context(|| format!("{field} = {value}"))?;
        sound.put_back(&scene)?;
        unchanged(&before, &outside(&scene, &name)?)?;
        // The way back that was named, and then the same again.
        let dest = scene.sandbox.path().join(&name).display().to_string();
        scene.run("recover", &["rollback", "-D", &dest, "--yes"])?.success()?;
        if index == 0 {
            scene.copy(&name, &["--backup", &scene.newer, "--target-latest", "--no-start"])?.success()?;
        }
    }
    Ok(())
}

/// A restore works from the index, so that nothing in a tar header leads it anywhere; other tools would follow it, so
/// `verify` tells.
#[test]
fn a_tar_header_leads_nobody_astray() -> Result<()> {
    let scene = Scene::new()?;
    let sound = Bytes::of(&scene)?;
    let last = Forge::open(&scene.repo, &scene.newer)?.record["parts"].as_array().map_or(0, Vec::len) as u64;
    let absolute = scene.sandbox.path().join(ESCAPED).display().to_string();
    let named = |name: &str, kind: tar::EntryType| -> Change<'_> {
        let name = name.to_owned();
        Box::new(move |header| {
            header.set_entry_type(kind);
            if let Some(gnu) = header.as_gnu_mut() {
                gnu.name = [0; 100];
                gnu.name.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from);
            }
            if !matches!(kind, tar::EntryType::Regular) {
                header.set_link_name_literal("/etc/passwd")?;
            }
            Ok(())
        })
    };
    let cases: Vec<(&str, Change<'_>)> = vec![
        ("upwards", named("../../escaped", tar::EntryType::Regular)),
        ("absolute", named(&absolute, tar::EntryType::Regular)),
        ("another file", named("PG_VERSION", tar::EntryType::Regular)),
        ("symbolic link", named("backup_label", tar::EntryType::Symlink)),
        ("hard link", named("backup_label", tar::EntryType::Link)),
        ("character device", named("backup_label", tar::EntryType::Char)),
        ("pipe", named("backup_label", tar::EntryType::Fifo)),
        ("directory", named("backup_label", tar::EntryType::Directory)),
        ("control characters", named("backup\n\u{1b}[2J", tar::EntryType::Regular)),
        (
            "size",
            Box::new(|header| {
                header.set_size(1 << 40);
                Ok(())
            }),
        ),
    ];
    for (what, change) in &cases {
        let mut forged = Forge::open(&scene.repo, &scene.newer)?;
        let mut plain = forged.part(last)?;
        let block: &mut [u8; 512] = plain.first_chunk_mut().context("a part begins with a header")?;
        let mut header = tar::Header::new_gnu();
        header.as_mut_bytes().copy_from_slice(block);
        change(&mut header)?;
        header.set_cksum();
        block.copy_from_slice(header.as_bytes());
        forged.set_part(last, &plain)?;
        forged.write()?;
        let ran = orderly(scene.run("verify", &["backup", &scene.newer])?)?.expect_code(3)?;
        ensure!(ran.stdout.contains("tar header"), "{what}: {ran}");
        if *what == "upwards" || *what == "symbolic link" {
            let name = format!("copy-{}", what.replace(' ', "-"));
            let before = outside(&scene, &name)?;
            let ran = scene.copy(&name, &["--backup", &scene.newer, "--target-latest", "--no-start"])?;
            orderly(ran)?.success().with_context(|| (*what).to_owned())?;
            unchanged(&before, &outside(&scene, &name)?)?;
            let copy = scene.sandbox.path().join(&name);
            scene.sandbox.run_other("pg_verifybackup", &["-n", copy.to_str().context("text")?])?.success()?;
        }
        sound.put_back(&scene)?;
    }
    Ok(())
}

/// Places in the record that a restore would write to.
#[test]
fn a_record_that_leads_astray_is_refused() -> Result<()> {
    let scene = Scene::new()?;
    let sound = Bytes::of(&scene)?;
    for location in ["", "escaped", "../escaped", "/tmp/../escaped", "/"] {
        let mut forged = Forge::open(&scene.repo, &scene.newer)?;
        forged.record["tablespaces"] = json!([{ "oid": 16_385, "name": "t", "location": location, "bytes": 0 }]);
        forged.write_record()?;
        let before = fingerprint(scene.sandbox.path())?;
        let ran = orderly(scene.cluster.try_recover(&["--backup", &scene.newer, "--target-latest"])?)?;
        ensure!(matches!(ran.code, Some(1 | 20)), "{location:?}: {ran}");
        unchanged(&before, &fingerprint(scene.sandbox.path())?)?;
        sound.put_back(&scene)?;
    }
    scene.expect([0; 8], &[])
}

/// Everything in the sandbox but the repository and what a recovery to `name` makes.
fn outside(scene: &Scene, name: &str) -> Result<BTreeMap<PathBuf, u64>> {
    let own = scene.sandbox.path().join(name).display().to_string();
    let mut all = fingerprint(scene.sandbox.path())?;
    all.retain(|path, _| !path.starts_with(scene.repo.path()) && !path.display().to_string().starts_with(&own));
    Ok(all)
}

/// The newer backup as it was.
struct Bytes(BTreeMap<PathBuf, Vec<u8>>);

impl Bytes {
    fn of(scene: &Scene) -> Result<Self> {
        let folder = scene.repo.backup_object(&scene.newer, "backup.json")?;
        let files = e2e::sandbox::walk(folder.parent().context("a folder")?);
        files.into_iter().map(|path| Ok((path.clone(), std::fs::read(&path)?))).collect::<Result<_>>().map(Self)
    }

    fn put_back(&self, scene: &Scene) -> Result<()> {
        self.0.iter().try_for_each(|(path, bytes)| scene.repo.replace(path, bytes))
    }
}
