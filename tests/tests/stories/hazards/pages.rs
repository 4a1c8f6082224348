//! H18: damage that PostgreSQL's own check of a page lets pass.

use std::fs;
use std::io::Read;
use std::ops::Range;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use e2e::cluster::Recipe;
use e2e::{Cluster, Repo, Sandbox, StopMode};
use rstest::rstest;

const PAGE: usize = 8192;

/// The most that one file of a relation holds.
const FILE_BYTES: u64 = 1 << 30;

/// A cluster with a good backup, and a table of many pages, all on disk, in this tablespace; the table's path in the data
/// directory.
fn scene(sandbox: &Sandbox, tablespace: &str) -> Result<(Cluster, String, PathBuf)> {
    let repo = Repo::new(sandbox, "repo")?;
    let cluster = Recipe::new("pg").segment_mb(1).archived_to(&repo).start(sandbox)?;
    cluster.sql(&format!("create tablespace away location '{}'", away(sandbox)?.display()))?;
    cluster.sql(&format!(
        "create table t tablespace {tablespace} as select n, md5(n::text) as text from generate_series(1, 5000) n"
    ))?;
    cluster.sql("vacuum freeze t")?;
    let good = cluster.backup(&[])?;
    cluster.sql("checkpoint")?;
    let path = PathBuf::from(cluster.sql("select pg_relation_filepath('t')")?);
    Ok((cluster, good, path))
}

/// The folder of the tablespace `away`.
fn away(sandbox: &Sandbox) -> Result<PathBuf> {
    sandbox.folder("away")
}

/// Some bytes of a page.
fn part(page: &mut [u8], range: Range<usize>) -> &mut [u8] {
    page.get_mut(range).unwrap_or_default()
}

fn overwrite(page: &mut [u8]) {
    part(page, 5000..5001).fill(0x55);
}

/// Looks new, as far as its header goes.
fn zero_header(page: &mut [u8]) {
    part(page, 0..24).fill(0);
}

/// Looks as if it was written after the backup began.
fn random_with_a_high_lsn(page: &mut [u8]) {
    let mut random = fastrand::Rng::with_seed(18);
    page.fill_with(|| random.u8(..));
    part(page, 0..4).fill(0);
    part(page, 4..8).fill(0xFF);
}

#[rstest]
#[case::overwritten(overwrite, "pg_default")]
#[case::zeroed_header(zero_header, "pg_default")]
#[case::random(random_with_a_high_lsn, "pg_default")]
#[case::in_a_tablespace(overwrite, "away")]
fn hazard_18_a_bad_page_is_found_and_told(#[case] damage: fn(&mut [u8]), #[case] tablespace: &str) -> Result<()> {
    let sandbox = Sandbox::new()?;
    let (cluster, good, path) = scene(&sandbox, tablespace)?;
    let repo = cluster.repo()?;
    let file = cluster.pgdata().join(&path);
    let mut bytes = fs::read(&file)?;
    damage(bytes.get_mut(3 * PAGE..4 * PAGE).context("four pages")?);
    sandbox.write(&file, &bytes)?;

    let name = path.to_str().context("text")?;
    let ran = cluster.try_backup(&[])?.expect_code(3)?.says(&[name, "3"])?;
    let bad = ran.stdout.trim().to_owned();
    ensure!(repo.backups() == [good.clone(), bad.clone()], "it is published: {:?}", repo.backups());
    let document = cluster.try_backup(&["--json"])?.expect_code(3)?.json()?;
    let pages = document.get("damaged_pages").context("the list of bad pages")?;
    ensure!(*pages == serde_json::json!([{ "path": name, "block": 3 }]), "{document}");
    let worse = document.get("id").and_then(serde_json::Value::as_str).context("an id")?.to_owned();
    for id in [&bad, &worse] {
        let ran = sandbox.run("verify", &["backup", id, "--repo", repo.arg()?])?.expect_code(3)?;
        ensure!(format!("{ran}").contains(name), "verify does not name the file: {ran}");
    }

    // However many bad ones follow, the last good one stays.
    sandbox.run("retention", &["--keep-last", "1", "--repo", repo.arg()?])?;
    ensure!(repo.backups().contains(&good), "the last good backup is gone: {:?}", repo.backups());
    let mapping = format!("{}={}", away(&sandbox)?.display(), sandbox.path().join("copied").display());
    let copy = cluster.recover_copy("copy", &["--target-immediate", "--backup", &good, "-T", &mapping])?;
    ensure!(copy.sql("select count(*) from t where text = md5(n::text)")? == "5000");
    Ok(())
}

/// Pages that were extended and never written are no damage, and a page that is being written is none.
#[test]
fn hazard_18_new_pages_are_no_damage() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let (cluster, _, path) = scene(&sandbox, "pg_default")?;
    let file = cluster.pgdata().join(&path);
    let mut bytes = fs::read(&file)?;
    bytes.extend([0; 2 * PAGE]);
    sandbox.write(&file, &bytes)?;
    cluster.backup(&[])?;
    Ok(())
}

/// The checksum of a page depends on its number in the relation, which counts on from file to file: what is right there is
/// not right as the same page of the first file, and a page that was written into the wrong file is found.
#[test]
fn hazard_18_block_numbers_go_on_in_the_second_file() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let (cluster, _, path) = scene(&sandbox, "pg_default")?;
    let file = cluster.pgdata().join(&path);
    cluster.stop(StopMode::Fast)?;
    // All of it but the beginning is a hole: pages that were extended and never written.
    fs::OpenOptions::new().write(true).open(&file)?.set_len(FILE_BYTES)?;
    cluster.start()?;
    cluster.sql("insert into t select n, md5(n::text) from generate_series(5001, 6000) n; checkpoint")?;
    let second = format!("{}.1", path.to_str().context("text")?);
    ensure!(fs::metadata(cluster.pgdata().join(&second))?.len() > 4 * PAGE as u64);
    cluster.backup(&[])?;

    let mut first = vec![0; 3 * PAGE];
    fs::File::open(&file)?.read_exact(&mut first)?;
    let mut bytes = fs::read(cluster.pgdata().join(&second))?;
    let misdirected = first.get(2 * PAGE..3 * PAGE).context("three pages")?;
    bytes.get_mut(2 * PAGE..3 * PAGE).context("three pages")?.copy_from_slice(misdirected);
    sandbox.write(&cluster.pgdata().join(&second), &bytes)?;
    let document = cluster.try_backup(&["--json"])?.expect_code(3)?.json()?;
    let pages = document.get("damaged_pages").context("the list of bad pages")?;
    ensure!(*pages == serde_json::json!([{ "path": second, "block": 2 }]), "{document}");
    Ok(())
}
