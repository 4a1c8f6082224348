//! Damage at every place of a compressed segment: `restore-wal` never delivers a wrong byte.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use e2e::faults::Rehearsal;
use e2e::{Repo, settings};
use rstest::rstest;

use crate::fault_loops::archive_wal::Scene;

/// What lies at the destination before.
const OLD: &[u8] = b"an older file";
/// The first and the last bytes of an object, all of which are damaged.
const ENDS: usize = 256;
/// How many of the bytes between are damaged outside of a soak.
const BETWEEN: usize = 150;

/// A segment in a repository of this compression, and the server that asks for it.
struct Target {
    scene: Scene,
    repo: Repo,
    object: PathBuf,
    /// The object as it was written, and what is in it.
    sound: Vec<u8>,
    plain: Vec<u8>,
    fetch: Rehearsal,
    destination: PathBuf,
}

impl Target {
    fn new(compression: &str) -> Result<Self> {
        let scene = Scene::new()?;
        let (repo, name) = (Repo::new(&scene.sandbox, "repo")?, scene.name(0)?);
        let config = scene.sandbox.path().join("holdfast.toml");
        let text = format!("[[repository]]\nurl = \"{}\"\ncompression = \"{compression}\"\n", repo.arg()?);
        scene.sandbox.write(&config, text.as_bytes())?;
        let config = config.to_str().context("text")?;
        let archive = ["--config", config, &format!("pg_wal/{name}")];
        Rehearsal::new(&scene.sandbox, "archive-wal", &archive).within(scene.cluster.pgdata()).run()?.success()?;
        let (node, object) = (scene.cluster.bare_node("node")?, repo.wal(&name)?);
        let fetch = ["--config", config, &name, "pg_wal/RECOVERYXLOG"];
        let fetch = Rehearsal::new(&scene.sandbox, "restore-wal", &fetch).within(node.pgdata());
        let (sound, plain) = (fs::read(&object)?, scene.files.get(&name).context("a segment")?.clone());
        let destination = node.pgdata().join("pg_wal/RECOVERYXLOG");
        let target = Self { scene, repo, object, sound, plain, fetch, destination };
        ensure!(!target.stops(&target.sound)?, "a sound object is not delivered");
        Ok(target)
    }

    /// Asks for the segment while the object has these bytes. Whether the answer was to stop, which left the destination
    /// as it was; otherwise the right bytes were delivered.
    fn stops(&self, bytes: &[u8]) -> Result<bool> {
        self.scene.sandbox.write(&self.destination, OLD)?;
        self.repo.replace(&self.object, bytes)?;
        let ran = self.fetch.run()?;
        let found = fs::read(&self.destination)?;
        if ran.code == Some(0) {
            ensure!(found == self.plain, "wrong bytes were delivered");
            return Ok(false);
        }
        ensure!(found == OLD, "the destination was touched: {ran}");
        let left = fs::read_dir(self.destination.parent().context("a folder")?)?.count();
        ensure!(left == 1, "{left} files are left: {ran}");
        ran.stops_recovery()?;
        Ok(true)
    }

    /// The places to damage: the ends, and what is chosen between them.
    fn places(&self, story: &str) -> Vec<usize> {
        let length = self.sound.len();
        let mut between: Vec<usize> = (ENDS.min(length)..length.saturating_sub(ENDS).max(ENDS)).collect();
        if !settings::is_soak() {
            fastrand::Rng::with_seed(settings::seed(story)).shuffle(&mut between);
            between.truncate(BETWEEN);
        }
        (0..length).filter(|place| *place < ENDS || *place + ENDS >= length).chain(between).collect()
    }
}

#[rstest]
#[case("zstd:1")]
#[case("lz4")]
#[case("gzip:6")]
fn no_damage_delivers_a_wrong_byte(#[case] compression: &str) -> Result<()> {
    let target = Target::new(compression)?;
    let story = format!("damage to {compression}");
    let places = target.places(&story);
    // One bit by turns; in a soak also all of the byte's.
    let masks = |place: usize| [1 << (place % 8), 0xFF].into_iter().take(1 + usize::from(settings::is_soak()));
    let (mut tried, mut noticed) = (0, 0);
    let mut attempt = |bytes: &[u8], what: String| -> Result<()> {
        tried += 1;
        noticed += u32::from(target.stops(bytes).context(what)?);
        Ok(())
    };
    for &place in &places {
        for mask in masks(place) {
            let mut bytes = target.sound.clone();
            *bytes.get_mut(place).context("a place in the object")? ^= mask;
            attempt(&bytes, format!("byte {place} of {}, mask {mask:#04x}", bytes.len()))?;
        }
    }
    for &length in places.iter().step_by(4) {
        attempt(target.sound.get(..length).context("a part of the object")?, format!("cut to {length} bytes"))?;
    }
    for rest in [&b"\0"[..], b"garbage", &[0xFF; 4096], &target.sound] {
        attempt(&[&target.sound, rest].concat(), format!("{} bytes after the end", rest.len()))?;
    }
    settings::tell(&format!("{story}: {tried} kinds of damage to {} bytes, {noticed} noticed", target.sound.len()));
    // Some bits carry no content: a time stamp in gzip's header, an unused bit of a table.
    ensure!(noticed * 10 >= tried * 9, "only {noticed} of {tried} were noticed");
    ensure!(!target.stops(&target.sound)?, "a sound object is not delivered");
    Ok(())
}
