//! What the user sees of a recovery: a line a step, and the end of the story.

use std::time::Duration;

use chrono::{DateTime, Utc};
use common::app::Context;
use common::restore::extract::Extracted;
use common::sys::clock::Stopwatch;
use common::units::{ByteCount, Took};
use serde::Serialize;

use crate::cli::{ConfigFrom, Role};
use crate::place::Place;
use crate::plan::{Plan, Transaction};
use crate::report_file::{Replay, Report};
use crate::steps::verify::Verified;

/// The names of the steps of a recovery.
pub(crate) const STEPS: [&str; 8] = ["check", "stop", "preserve", "extract", "configure", "place", "start", "verify"];

/// One finished step.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Step {
    /// Its name.
    pub(crate) name: &'static str,
    /// How long it took.
    pub(crate) seconds: f64,
    /// What came of it.
    pub(crate) result: String,
}

/// Writes a line as each step ends and remembers it for the document at the end.
pub(crate) struct Reporter<'a> {
    ctx: &'a Context,
    before: usize,
    speaks: bool,
    names: &'static [&'static str],
    steps: Vec<Step>,
    watch: Stopwatch,
    whole: Stopwatch,
    began: DateTime<Utc>,
    /// What was unpacked.
    pub(crate) extracted: Option<Extracted>,
    /// What was replayed.
    pub(crate) replay: Option<Replay>,
    /// What was checked.
    pub(crate) verified: Option<Verified>,
}

impl<'a> Reporter<'a> {
    /// The first step begins.
    pub(crate) fn new(ctx: &'a Context) -> Self {
        Self::of(ctx, &STEPS)
    }

    /// So many steps were done before.
    pub(crate) fn after(ctx: &'a Context, before: usize) -> Self {
        Self { before, ..Self::new(ctx) }
    }

    /// The same for work with other steps.
    pub(crate) fn of(ctx: &'a Context, names: &'static [&'static str]) -> Self {
        Self {
            ctx,
            before: 0,
            speaks: true,
            names,
            steps: Vec::new(),
            watch: Stopwatch::start(),
            whole: Stopwatch::start(),
            began: ctx.clock.now(),
            extracted: None,
            replay: None,
            verified: None,
        }
    }

    /// The same for work whose standard output is wanted for something else.
    pub(crate) fn silent(ctx: &'a Context, names: &'static [&'static str]) -> Self {
        Self { speaks: false, ..Self::of(ctx, names) }
    }

    /// A line for people.
    pub(crate) fn line(&self, text: &str) -> anyhow::Result<()> {
        if self.speaks { self.ctx.output.line(text) } else { Ok(()) }
    }

    /// How long the current step has taken so far.
    pub(crate) fn elapsed(&self) -> Duration {
        self.watch.elapsed()
    }

    /// The report of all of it.
    pub(crate) fn report(&self, place: &Place) -> Report {
        let mut report = Report::of(place, self.began);
        report.ended(self.ctx.clock.now(), self.whole.elapsed());
        report.steps(&self.steps, self.before);
        report.work(self.extracted, self.replay);
        if let Some(verified) = &self.verified {
            report.verified(verified);
        }
        report
    }

    /// The current step is over, with this result; the next one begins.
    pub(crate) fn done(&mut self, result: impl Into<String>) -> anyhow::Result<()> {
        let took: Duration = self.watch.elapsed();
        self.watch = Stopwatch::start();
        let number = self.before + self.steps.len();
        let name = self.names.get(number).copied().unwrap_or("done");
        let result = result.into();
        self.ctx.progress.end();
        self.line(&format!("{}/{} {name:<9} {result} ({})", number + 1, self.names.len(), Took(took)))?;
        self.steps.push(Step { name, seconds: took.as_secs_f64(), result });
        Ok(())
    }

    /// All steps so far.
    pub(crate) fn into_steps(self) -> Vec<Step> {
        self.steps
    }
}

/// The plan in words, a line each.
pub(crate) fn describe(plan: &Plan) -> Vec<String> {
    let what = match (plan.role, plan.replaces) {
        (Role::Production, true) => "the cluster there is set aside and can be put back with recover rollback",
        (Role::Production, false) => "a new data directory of the cluster itself",
        (Role::Copy, _) => "a copy beside the cluster",
        (Role::Standby, true) => "a standby; the cluster there is set aside and can be put back with recover rollback",
        (Role::Standby, false) => "a standby",
    };
    let mut lines = vec![format!("data directory  {} ({what})", plan.pgdata.display())];
    let then = match plan.role {
        Role::Standby => ", and stays a standby".to_owned(),
        Role::Production | Role::Copy => format!(", then {}", plan.action.name()),
    };
    lines.extend(describe_moment(plan, &then));
    let archiving = match plan.role {
        Role::Production => "on again once the recovery is verified",
        Role::Copy => "off",
        Role::Standby => "as a standby's configuration says",
    };
    lines.push(format!("archiving       {archiving}"));
    if !plan.config_differs.is_empty() {
        let whose = match plan.config_from {
            ConfigFrom::Backup => "the backup's; --config-from preserved keeps those in place",
            ConfigFrom::Preserved => "those in place are kept",
        };
        lines.push(format!("configuration   {} differ: {whose}", plan.config_differs.join(", ")));
    }
    lines.extend(
        plan.delta.then(|| "files           those that are the same are copied from the old cluster".to_owned()),
    );
    lines.extend(plan.standby.iter().map(|standby| format!("standby         {}", standby.describe())));
    if !plan.salvage.is_empty() {
        lines.push(format!("from its pg_wal {}", plan.salvage.join(", ")));
    }
    for (oid, place) in &plan.tablespaces {
        lines.push(format!("tablespace      {oid} in {}", place.display()));
    }
    lines.extend(plan.divergence.describe().into_iter().map(|line| format!("left behind     {line}")));
    lines.extend(warnings(plan));
    lines
}

/// From where to which moment, a line each; `then` ends the one of the target.
pub(crate) fn describe_moment(plan: &Plan, then: &str) -> Vec<String> {
    let just_before = if plan.exclusive { "just before " } else { "" };
    let mut lines = vec![
        format!("backup          {}, {}", plan.backup, ByteCount(plan.bytes)),
        format!("target          {just_before}{}, along timeline {}{then}", plan.target, plan.timeline),
        format!("WAL             from {} on, there without a hole up to {}", plan.wal_from, plan.wal_reaches),
    ];
    if let Some(arrival) = &plan.arrival {
        let say = |transaction: &Transaction| {
            format!(
                "{} at {}, record {}",
                transaction.xid,
                transaction.time.format("%Y-%m-%d %H:%M:%S%.6fZ"),
                transaction.lsn
            )
        };
        lines.extend(arrival.last_before.as_ref().map(|last| format!("last commit     {}", say(last))));
        lines.extend(arrival.first_after.as_ref().map(|first| format!("first left out  {}", say(first))));
    }
    lines
}

/// What the operator should know, a line each.
pub(crate) fn warnings(plan: &Plan) -> impl Iterator<Item = String> {
    plan.warnings.iter().map(|warning| format!("warning         {warning}"))
}
