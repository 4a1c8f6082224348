//! Under a write load, to a random moment, in place and to a copy in turn: exactly the rows of that moment, also where the
//! recovery was killed on its way and went on.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, Utc};
use e2e::cluster::Recipe;
use e2e::faults::Rehearsal;
use e2e::{Cluster, Oracle, Repo, Sandbox, StopMode, Workload, process, settings, workload};

/// How many rounds share a backup.
const ROUNDS_PER_BACKUP: u32 = 4;

/// About as long as a recovery of this story takes, in milliseconds.
const RECOVERY_MILLISECONDS: u64 = 1200;

#[test]
fn a_random_moment_under_load() -> Result<()> {
    let mut random = fastrand::Rng::with_seed(settings::seed("pitr_random"));
    let sandbox = Sandbox::new()?;
    let repo = Repo::new(&sandbox, "repo")?;
    let cluster = Recipe::new("pg").segment_mb(1).archived_to(&repo).start(&sandbox)?;
    workload::create_schema(&cluster)?;
    let mut earliest = DateTime::<Utc>::MIN_UTC;
    let (rounds, mut killed) = (settings::rounds("pitr_random"), 0);
    for round in 0..rounds {
        let load = Workload::start(&cluster, 2)?;
        load.wait_for(&cluster, 20)?;
        if round % ROUNDS_PER_BACKUP == 0 {
            cluster.backup(&["-j", "2"])?;
            earliest = now(&cluster)?;
        }
        load.wait_for(&cluster, random.u64(20..80))?;
        cluster.switch_wal()?;
        load.wait_for(&cluster, random.u64(5..30))?;

        let in_place = round % 2 == 0;
        let (mut load, pg_wal) = (Some(load), cluster.pgdata().join("pg_wal"));
        if in_place && let Some(load) = load.take() {
            load.stop()?;
        } else {
            cluster.switch_wal()?;
        }
        let oracle = Oracle::read(&sandbox, &repo, Some(&pg_wal), cluster.timeline()?)?;
        let target = random_moment(&oracle, earliest, &mut random)?;
        let text = target.format("%Y-%m-%d %H:%M:%S%.6f+00").to_string();
        let context = format!("round {round}, in place: {in_place}, target time {text}");
        let recovered = if in_place {
            let kill = random.bool().then(|| Duration::from_millis(random.u64(..RECOVERY_MILLISECONDS)));
            let recovery = recover(&cluster, &["--target-time", &text], kill).context(format!("killed after {kill:?}"));
            recovery.map(|was_killed| killed += u32::from(was_killed)).map(|()| cluster.clone())
        } else {
            cluster.recover_copy(&format!("copy{round}"), &["--target-time", &text])
        };
        let recovered = recovered.with_context(|| context.clone())?;
        workload::same_orders(&workload::orders(&recovered)?, &oracle.at_time(target)).context(context)?;
        if let Some(load) = load {
            load.stop()?;
            recovered.stop(StopMode::Immediate)?;
        }
    }
    settings::tell(&format!("pitr_random: {rounds} rounds without a difference, {killed} of them killed on the way"));
    Ok(())
}

/// Recovers in place; killed after a while, it goes on, or begins anew where nothing was begun. Answers whether it was
/// killed.
fn recover(cluster: &Cluster, target: &[&str], kill: Option<Duration>) -> Result<bool> {
    let Some(delay) = kill else { return cluster.recover(target).map(|()| false) };
    let mut args =
        vec!["run", "--repo", cluster.repo()?.arg()?, "-D", cluster.pgdata_arg()?, "-U", "postgres", "--yes"];
    args.extend(target);
    let ran = process::run_and_kill(&mut Rehearsal::new(cluster.sandbox(), "recover", &args).command()?, delay)?;
    if ran.signal.is_none() {
        ran.success()?;
        return cluster.wait_promoted().map(|()| false);
    }
    let status = cluster.sandbox().run("recover", &["status", "-D", cluster.pgdata_arg()?, "--json"])?.success()?;
    let goes_on = status.json()?.pointer("/next").is_some_and(|next| next.to_string().contains("--resume"));
    if goes_on {
        cluster.try_recover(&["--resume"])?.success()?;
    } else {
        cluster.recover(target)?;
    }
    cluster.wait_promoted().map(|()| true)
}

fn now(cluster: &Cluster) -> Result<DateTime<Utc>> {
    let text =
        cluster.sql("select to_char(clock_timestamp() at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')")?;
    Ok(DateTime::parse_from_rfc3339(&text)?.to_utc())
}

/// A moment, to the microsecond, after `earliest` and before the last commit; in a third of all cases a commit's own.
fn random_moment(oracle: &Oracle, earliest: DateTime<Utc>, random: &mut fastrand::Rng) -> Result<DateTime<Utc>> {
    let mut times: Vec<_> = oracle.endings().iter().map(|ending| ending.time).filter(|&time| time > earliest).collect();
    times.sort();
    times.pop();
    ensure!(times.len() > 10, "too few transactions to choose a moment from");
    let one = *times.get(random.usize(..times.len())).context("a time")?;
    let other = *times.get(random.usize(..times.len())).context("a time")?;
    let moment = if random.u8(..3) == 0 { one } else { one.min(other) + (one - other).abs() / 2 };
    DateTime::from_timestamp_micros(moment.timestamp_micros()).context("a moment of our time")
}
