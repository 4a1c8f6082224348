//! Figures of an archive, from the repository alone.

use anyhow::{Context, Result, ensure};
use e2e::cluster::Recipe;
use e2e::{Repo, Sandbox, StopMode};

use super::list;

/// Two servers' WAL under one name after an upgrade, and a hole: each system has its own figures; none needs its server.
#[test]
fn figures_need_no_server() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let repo = Repo::new(&sandbox, "repo")?;
    let old = Recipe::new("old").segment_mb(1).archived_to(&repo).start(&sandbox)?;
    let mut segments = Vec::new();
    for _ in 0..4 {
        segments.push(old.switch_wal()?);
    }
    repo.remove(&repo.wal(segments.get(1).context("four")?)?)?;
    old.stop(StopMode::Fast)?;
    let archived = repo.segments().len();
    let new = Recipe::new("new").segment_mb(1).start(&sandbox)?;
    let ended = format!("pg_wal/{}", new.end_segment()?);
    let words = ["--after-upgrade", "--repo", repo.arg()?, ended.as_str()];
    sandbox.run_in(new.pgdata(), "archive-wal", &words)?.success()?;
    new.stop(StopMode::Fast)?;

    let all = sandbox.run("archive-wal", &["stats", "--repo", repo.arg()?, "--json"])?.success()?.json()?;
    ensure!(all["format"] == 1 && list(&all, "/repositories/0/systems")?.len() == 2, "{all:#}");
    let one = ["stats", "--repo", repo.arg()?, "-D", old.pgdata_arg()?, "--json"];
    let one = sandbox.run("archive-wal", &one)?.success()?.json()?;
    let systems = list(&one, "/repositories/0/systems")?;
    let figures = systems.first().filter(|_| systems.len() == 1).with_context(|| format!("one system in {one:#}"))?;
    ensure!(figures["segments"].as_u64() == Some(archived as u64), "{figures:#} for {:?}", repo.segments());
    ensure!(figures["plain_bytes"].as_u64() == Some((archived as u64) << 20), "{figures:#}");
    ensure!(figures["compression_ratio"].as_f64().is_some_and(|ratio| ratio > 2.0), "{figures:#}");
    ensure!(figures["timelines"][0]["holes"] == 1 && figures["timelines"][0]["missing_segments"] == 1, "{figures:#}");
    ensure!(figures["first"]["segment"].is_string() && figures["last"]["written_at"].is_string(), "{figures:#}");
    ensure!(figures["per_day"]["whole"].is_null(), "a rate of a few seconds: {figures:#}");
    let daily = figures["per_day"]["last_day"]["segments"].as_f64();
    #[expect(clippy::cast_precision_loss, reason = "a handful")]
    let expected = archived as f64;
    ensure!(daily == Some(expected), "{figures:#}");
    let ran = sandbox.run("archive-wal", &["stats", "--repo", repo.arg()?])?.success()?;
    ensure!(ran.stdout.contains("HOLES") && ran.stdout.contains(segments.first().context("four")?.as_str()), "{ran}");
    Ok(())
}
