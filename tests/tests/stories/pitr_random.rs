//! Under a write load, to a random moment out of a random backup, in place and to a copy in turn: exactly the rows of that
//! moment, also where the recovery was killed on its way. Then it goes on, is undone and begun anew, or the same command
//! comes again. Most recoveries in place are rolled back afterwards, and all rows of the old cluster are there again.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, Utc};
use e2e::cluster::Recipe;
use e2e::faults::Rehearsal;
use e2e::{Cluster, Oracle, Ran, Repo, Sandbox, StopMode, Workload, process, settings, workload};

/// How many rounds a cluster lives. The archive of all of them is read in each.
const ROUNDS_PER_CLUSTER: u32 = 25;

/// One round in so many begins with a new backup.
const ROUNDS_PER_BACKUP: u32 = 3;

/// Of so many recoveries in place one is not rolled back. What it leaves behind can be reached no more.
const RECOVERIES_PER_LOSS: u32 = 8;

/// How long a recovery may take before one has been seen.
const RECOVERY_AT_FIRST: Duration = Duration::from_millis(1200);

#[test]
fn a_random_moment_under_load() -> Result<()> {
    let mut random = fastrand::Rng::with_seed(settings::seed("pitr_random"));
    let rounds = settings::rounds("pitr_random");
    let mut count = Count::default();
    while count.rounds < rounds {
        let mut history = History::begin()?;
        for _ in 0..ROUNDS_PER_CLUSTER.min(rounds - count.rounds) {
            let number = count.rounds;
            history.round(&mut random, &mut count).with_context(|| format!("round {number}"))?;
        }
    }
    settings::tell(&format!("pitr_random: {count}"));
    Ok(())
}

/// What the rounds were.
#[derive(Debug, Default)]
struct Count {
    rounds: u32,
    in_place: u32,
    rolled_back: u32,
    killed: u32,
    resumed: u32,
    undone: u32,
    oldest: u32,
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rounds, in_place, rolled_back, killed, resumed, undone, oldest } = self;
        write!(
            f,
            "{rounds} rounds without a difference, {in_place} of them in place, {rolled_back} rolled back afterwards; \
             {killed} killed on the way, {resumed} of those resumed and {undone} undone first; backups up to {oldest} \
             rounds old"
        )
    }
}

/// A backup that leads to the present.
#[derive(Debug)]
struct Backup {
    id: String,
    round: u32,
    /// When it was over.
    at: DateTime<Utc>,
}

/// A cluster, and the backups on the way to where it is now.
struct History {
    sandbox: Sandbox,
    repo: Repo,
    cluster: Cluster,
    backups: Vec<Backup>,
    /// How long the last undisturbed recovery took.
    usual: Duration,
}

impl History {
    fn begin() -> Result<Self> {
        let sandbox = Sandbox::new()?;
        let repo = Repo::new(&sandbox, "repo")?;
        let cluster = Recipe::new("pg").segment_mb(1).archived_to(&repo).start(&sandbox)?;
        workload::create_schema(&cluster)?;
        Ok(Self { sandbox, repo, cluster, backups: Vec::new(), usual: RECOVERY_AT_FIRST })
    }

    fn round(&mut self, random: &mut fastrand::Rng, count: &mut Count) -> Result<()> {
        let cluster = self.cluster.clone();
        let load = Workload::start(&cluster, 2)?;
        load.wait_for(&cluster, 20)?;
        if self.backups.is_empty() || random.u32(..ROUNDS_PER_BACKUP) == 0 {
            let id = cluster.backup(&["-j", "2"])?;
            self.backups.push(Backup { id, round: count.rounds, at: now(&cluster)? });
        }
        load.wait_for(&cluster, random.u64(20..80))?;
        cluster.switch_wal()?;
        load.wait_for(&cluster, random.u64(5..30))?;

        let in_place = count.rounds.is_multiple_of(2);
        let mut load = Some(load);
        if in_place && let Some(load) = load.take() {
            load.stop()?;
        } else {
            cluster.switch_wal()?;
        }
        let oracle =
            Oracle::read(&self.sandbox, &self.repo, Some(&cluster.pgdata().join("pg_wal")), cluster.timeline()?)?;
        let backup = self.backups.get(random.usize(..self.backups.len())).context("a backup")?;
        let target = random_moment(&oracle, backup.at, random)?;
        let text = target.format("%Y-%m-%d %H:%M:%S%.6f+00").to_string();
        let mut options = vec!["--target-time", &text];
        let is_named = random.bool();
        if is_named {
            options.extend(["--backup", &backup.id]);
        }
        let used = self.backups.iter().rfind(|newer| newer.at < target && !is_named).unwrap_or(backup);
        count.oldest = count.oldest.max(count.rounds - used.round);
        let kill = (random.u8(..3) > 0).then(|| self.usual.mul_f64(random.f64()));
        let context = format!("in place: {in_place}, {}, killed after {kill:?}", options.join(" "));

        let place = if in_place { cluster.clone() } else { self.place(&format!("copy{}", count.rounds)) };
        let port = self.sandbox.new_port().to_string();
        if !in_place {
            options.extend(["--as", "copy", "-p", &port]);
        }
        let mut recovery = Recovery { place: &place, options, usual: self.usual };
        recovery.run(kill, random, count).with_context(|| context.clone())?;
        self.usual = recovery.usual;
        workload::same_orders(&workload::orders(&place)?, &oracle.at_time(target)).with_context(|| context.clone())?;
        count.rounds += 1;
        if let Some(load) = load {
            load.stop()?;
            place.stop(StopMode::Immediate)?;
            recover(&place, &["cleanup"])?;
            self.sandbox.clear(place.pgdata())?;
            return self.sandbox.clear(&place.pgdata().with_extension("holdfast"));
        }
        count.in_place += 1;
        if random.u32(..RECOVERIES_PER_LOSS) == 0 {
            self.backups.retain(|backup| backup.at < target);
        } else {
            count.rolled_back += 1;
            recover(&place, &["rollback"])?;
            cluster.wait_promoted()?;
            workload::same_orders(&workload::orders(&cluster)?, &oracle.all())
                .with_context(|| format!("rolled back, {context}"))?;
        }
        recover(&place, &["cleanup"]).map(drop)
    }

    /// Where nothing is yet.
    fn place(&self, name: &str) -> Cluster {
        Cluster::at(&self.sandbox, &self.sandbox.path().join(name), Some(&self.repo))
    }
}

/// Runs a command of `recover` on this place, to success and without questions.
fn recover(place: &Cluster, words: &[&str]) -> Result<Ran> {
    rehearsal(place, words)?.run()?.success()
}

fn rehearsal(place: &Cluster, words: &[&str]) -> Result<Rehearsal> {
    let rest = ["--repo", place.repo()?.arg()?, "-D", place.pgdata_arg()?, "-U", "postgres", "--yes"];
    Ok(Rehearsal::new(place.sandbox(), "recover", &[words, &rest].concat()))
}

/// A recovery of a place.
struct Recovery<'a> {
    place: &'a Cluster,
    options: Vec<&'a str>,
    usual: Duration,
}

impl Recovery<'_> {
    /// Recovers; killed after a while, by one of three ways out.
    fn run(&mut self, kill: Option<Duration>, random: &mut fastrand::Rng, count: &mut Count) -> Result<()> {
        let command = rehearsal(self.place, &[&["run"], &self.options[..]].concat())?;
        // An earlier recovery that was not rolled back is over as well, and is not this one.
        let before = began(&recover_status(self.place)?);
        let ran = match kill {
            Some(delay) => process::run_and_kill(&mut command.command()?, delay)?,
            None => command.run()?,
        };
        if ran.signal.is_some() {
            count.killed += 1;
            self.go_on(before.as_deref(), &command, random, count)?;
        } else {
            self.usual = ran.success()?.took;
        }
        self.place.wait_promoted()
    }

    /// What follows a kill; `before` is when the recovery before this one began.
    fn go_on(
        &self,
        before: Option<&str>,
        command: &Rehearsal,
        random: &mut fastrand::Rng,
        count: &mut Count,
    ) -> Result<()> {
        let status = recover_status(self.place)?;
        let next = status.pointer("/next").map(ToString::to_string).unwrap_or_default();
        let is_ours = began(&status).as_deref() != before;
        if is_ours && status.pointer("/stage").is_some_and(|stage| stage == "done") {
            return Ok(());
        }
        if !next.contains("--resume") {
            // Nothing was touched.
            return command.run()?.success().map(drop);
        }
        match random.u8(..3) {
            0 => {
                count.resumed += 1;
                recover(self.place, &["run", "--resume"]).map(drop)
            }
            1 => {
                count.undone += 1;
                recover(self.place, &["rollback"])?;
                if self.place.pgdata().exists() {
                    self.place.wait_promoted()?;
                }
                command.run()?.success().map(drop)
            }
            // What is not over by then undoes itself first, unless a server may have run on it.
            _ => match command.run()? {
                ran if ran.code == Some(0) => {
                    count.undone += 1;
                    Ok(())
                }
                ran => {
                    ran.expect_code(20)?.says(&["is not over", "run --resume"])?;
                    count.resumed += 1;
                    recover(self.place, &["run", "--resume"]).map(drop)
                }
            },
        }
    }
}

fn recover_status(place: &Cluster) -> Result<serde_json::Value> {
    place.sandbox().run("recover", &["status", "-D", place.pgdata_arg()?, "--json"])?.success()?.json()
}

/// When the recovery began that this status tells of; none where there was none yet.
fn began(status: &serde_json::Value) -> Option<String> {
    status.pointer("/began").map(ToString::to_string)
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
