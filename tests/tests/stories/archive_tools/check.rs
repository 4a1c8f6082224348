//! Whether WAL arrives is proved by WAL that arrives, and whatever is wrong has a name.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::cluster::Recipe;
use e2e::{Cluster, Repo, Sandbox, wait};

use super::{element, list, texts, tool};

/// A server that archives into two repositories, and its three first whole segments.
fn two_repositories(sandbox: &Sandbox) -> Result<(Cluster, Repo, Repo, Vec<String>)> {
    let (one, two) = (Repo::new(sandbox, "one")?, Repo::new(sandbox, "two")?);
    let program = sandbox.program("archive-wal");
    let command = format!("{} --repo {} --repo {} %p", program.display(), one.arg()?, two.arg()?);
    let recipe = Recipe::new("pg").segment_mb(1).archived_to(&one).set("archive_command", &command);
    let cluster = recipe.start(sandbox)?;
    cluster.sql("create table t (n int)")?;
    let mut segments = Vec::new();
    for _ in 0..3 {
        cluster.sql("insert into t select generate_series(1, 1000)")?;
        segments.push(cluster.switch_wal()?);
    }
    Ok((cluster, one, two, segments))
}

/// An idle server proves it again and again, and the document has every field that is promised.
#[test]
fn an_idle_server_proves_its_archive() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let (cluster, one, two, _) = two_repositories(&sandbox)?;
    tool(&cluster, &[&one, &two], &["check"])?.success()?;
    let document = tool(&cluster, &[&one, &two], &["check", "--json"])?.success()?.json()?;
    for field in ["format", "cluster", "server", "archiver", "backlog", "lag", "pg_wal_free_bytes", "dry_run"] {
        ensure!(document.get(field).is_some_and(|value| !value.is_null()), "no {field} in {document:#}");
    }
    ensure!(document["ok"] == true && list(&document, "/findings")?.is_empty(), "{document:#}");
    ensure!(document["server"]["archive_mode"] == "on" && document["server"]["timeline"] == 1, "{document:#}");
    ensure!(document["archiver"]["last_archived"].is_string() && document["backlog"]["files"] == 0, "{document:#}");
    ensure!(document["lag"]["since"] == "last_archived" && document["lag"]["seconds"].is_number(), "{document:#}");
    let segment = document["proof"]["segment"].as_str().context("a segment")?;
    ensure!(one.find_wal(segment).is_some() && two.find_wal(segment).is_some());
    for arrival in list(&document, "/proof/repositories")? {
        ensure!(arrival["result"] == "same" && arrival["what"].is_null(), "{arrival:#}");
    }
    // Looking alone ends no segment.
    let before = one.segments();
    let document = tool(&cluster, &[&one, &two], &["check", "--no-switch", "--json"])?.success()?.json()?;
    ensure!(document["proof"].is_null() && one.segments() == before, "{document:#}");
    Ok(())
}

/// A server that has archived nothing yet: nulls and zeros read well, and the first segment is the proof.
#[test]
fn a_fresh_install_reads_well() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let repo = Repo::new(&sandbox, "repo")?;
    let cluster = Recipe::new("pg").segment_mb(1).archived_to(&repo).start(&sandbox)?;
    let document = tool(&cluster, &[&repo], &["check", "--no-switch", "--json"])?.expect_code(3)?.json()?;
    ensure!(texts(list(&document, "/findings")?, "kind") == ["no_repository"], "{document:#}");
    ensure!(document["archiver"]["archived_count"] == 0 && document["archiver"]["last_archived"].is_null());
    ensure!(document["lag"]["bytes"].is_null() && document["repositories"][0]["exists"] == false, "{document:#}");
    let ran = tool(&cluster, &[&repo], &["check", "--no-switch"])?.expect_code(3)?;
    ensure!(ran.stdout.contains("nothing yet") && ran.stdout.contains("no repository yet"), "{ran}");
    tool(&cluster, &[&repo], &["check"])?.success().map(drop)
}

/// An archiver that fails is told within the time that the settings give, with what waits for it.
#[test]
fn a_broken_command_is_told_in_time() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let repo = Repo::new(&sandbox, "repo")?;
    let cluster = Recipe::new("pg").segment_mb(1).archived_to(&repo).start(&sandbox)?;
    cluster.switch_wal()?;
    cluster.set("archive_command", "/bin/false")?;
    let config = sandbox.path().join("impatient.toml");
    sandbox.write(&config, b"[backup]\narchive-timeout = \"2s\"\n")?;
    let config = config.to_str().context("text")?;
    cluster.end_segment()?;
    wait::until(
        "the archiver has failed",
        || Ok(cluster.sql("select failed_count > 0 from pg_stat_archiver")? == "t"),
    )?;
    let ran = tool(&cluster, &[&repo], &["check", "--json", "--config", config])?.expect_code(3)?;
    ensure!(ran.took < Duration::from_secs(20), "took {:?}", ran.took);
    let document = ran.json()?;
    let kinds = texts(list(&document, "/findings")?, "kind");
    for kind in ["archiver_failing", "backlog", "not_proved"] {
        ensure!(kinds.contains(&kind), "no {kind} in {document:#}");
    }
    ensure!(document["backlog"]["files"].as_u64() >= Some(2) && document["backlog"]["bytes"].as_u64() >= Some(2 << 20));
    ensure!(document["lag"]["since"] == "oldest_waiting" && document["lag"]["bytes"].as_u64() >= Some(1 << 20));
    // What waits is late, and no hole.
    ensure!(!kinds.contains(&"hole"), "{document:#}");
    ensure!(!ran.stdout.contains("null,\n    \"last_failed\""));
    Ok(())
}

/// One of two repositories lost a segment: it is named, and what the server still has is put back.
#[test]
fn a_hole_in_one_of_two_repositories() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let (cluster, one, two, segments) = two_repositories(&sandbox)?;
    let hole = segments.get(1).context("three segments")?;
    let object = two.wal(hole)?;
    two.remove(&object)?;
    let document = tool(&cluster, &[&one, &two], &["check", "--no-switch", "--json"])?.expect_code(3)?.json()?;
    let finding = element(list(&document, "/findings")?, "kind", "hole")?;
    ensure!(finding["repository"].as_str() == Some(two.arg()?), "{finding:#}");
    ensure!(finding["what"].as_str().is_some_and(|what| what.contains(hole.as_str())), "{finding:#}");

    let before = two.fingerprint()?;
    let dry = tool(&cluster, &[&one, &two], &["check", "--backfill", "--dry-run", "--json"])?.expect_code(3)?.json()?;
    ensure!(texts(list(&dry, "/backfilled")?, "result") == ["planned"] && two.fingerprint()? == before, "{dry:#}");
    let put = tool(&cluster, &[&one, &two], &["check", "--no-switch", "--backfill", "--json"])?.success()?.json()?;
    ensure!(texts(list(&put, "/backfilled")?, "file") == [hole.as_str()], "{put:#}");
    ensure!(texts(list(&put, "/backfilled")?, "result") == ["stored"], "{put:#}");
    ensure!(one.unpack(&one.wal(hole)?)? == two.unpack(&two.wal(hole)?)?);

    // Nobody has it any more: it is named as lost, and nothing is made up.
    two.remove(&two.wal(hole)?)?;
    cluster.sql("checkpoint")?;
    cluster.sql("insert into t select generate_series(1, 1000)")?;
    cluster.switch_wal()?;
    cluster.sql("checkpoint")?;
    let path = cluster.pgdata().join("pg_wal").join(hole);
    if path.exists() {
        fs::remove_file(path)?;
    }
    let lost = tool(&cluster, &[&one, &two], &["check", "--backfill", "--json"])?.expect_code(3)?.json()?;
    ensure!(list(&lost, "/backfilled")?.is_empty(), "{lost:#}");
    let finding = element(list(&lost, "/findings")?, "kind", "hole")?;
    ensure!(finding["what"].as_str().is_some_and(|what| what.contains("does not have it")), "{finding:#}");
    Ok(())
}

/// A segment that was damaged in the repository between its arrival and the reading is no proof.
#[test]
fn other_bytes_are_no_proof() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let repo = Repo::new(&sandbox, "repo")?;
    let program = sandbox.program("archive-wal");
    // Says yes, and spoils what it has put.
    let spoil = format!(
        "{} --repo {} %p && find {} -name %f.zst -exec truncate -s 1000 {{}} +",
        program.display(),
        repo.arg()?,
        repo.arg()?
    );
    let recipe = Recipe::new("pg").segment_mb(1).archived_to(&repo).set("archive_command", &spoil);
    let cluster = recipe.start(&sandbox)?;
    let segment = cluster.switch_wal()?;
    ensure!(fs::metadata(repo.wal(&segment)?)?.len() == 1000, "not spoiled");
    wait::until("the damage is seen", || {
        let document = tool(&cluster, &[&repo], &["check", "--json"])?.json()?;
        Ok(document["proof"]["repositories"][0]["result"] == "damaged")
    })
}

/// The rights that the documentation names are enough for the proof, and less is told.
#[test]
fn a_watcher_needs_no_superuser() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let (cluster, one, two, _) = two_repositories(&sandbox)?;
    cluster.sql("create role watcher login")?;
    let connection = cluster.connection()?;
    let place: Vec<&str> = connection.iter().take(4).map(String::as_str).collect();
    let mut words =
        vec!["check", "--repo", one.arg()?, "--repo", two.arg()?, "-U", "watcher", "-D", cluster.pgdata_arg()?];
    words.extend(place);
    sandbox.run("archive-wal", &words)?.expect_code(1)?.says(&["pg_switch_wal", "grant"])?;
    cluster.sql("grant execute on function pg_switch_wal() to watcher")?;
    sandbox.run("archive-wal", &words)?.expect_code(1)?.says(&["pg_monitor"])?;
    cluster.sql("grant pg_monitor to watcher")?;
    sandbox.run("archive-wal", &words)?.success().map(drop)
}
