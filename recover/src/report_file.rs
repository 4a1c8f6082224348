//! The report of a recovery: a file for programs and one for people, written when it ended, well or not.
//!
//! It answers what is asked after an outage: how long it took and where the time went, what came back and what did not,
//! what was checked, and what is left to do.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use common::pg::TimelineId;
use common::report::{Advice, ExitClass};
use common::restore::extract::Extracted;
use common::sys::durable::{self, TemporaryFile};
use common::units::{ByteCount, Took};
use serde::Serialize;

use crate::journal::{Journal, Stage};
use crate::place::Place;
use crate::plan::Plan;
use crate::report::Step;
use crate::steps::verify::Verified;

/// The version of the document (`docs/JSON.md`).
const FORMAT: u32 = 1;

/// A report; what is not known is absent.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    format: u32,
    pgdata: PathBuf,
    outcome: &'static str,
    began: DateTime<Utc>,
    ended: DateTime<Utc>,
    seconds: f64,
    /// From the stop of the old server to the end: how long nobody could work.
    downtime_seconds: f64,
    error: Option<String>,
    hint: Option<String>,
    stage: Option<Stage>,
    timeline: Option<TimelineId>,
    preserved: Option<PathBuf>,
    steps: Vec<Step>,
    extracted: Option<Extracted>,
    replay: Option<Replay>,
    verified: Option<Verified>,
    notes: Vec<String>,
    plan: Option<Plan>,
    /// Whether an earlier call had begun.
    #[serde(skip)]
    goes_on: bool,
}

/// What replay did.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Replay {
    /// Bytes of WAL.
    pub(crate) bytes: u64,
    /// Segments that they lie in.
    pub(crate) segments: u64,
    /// How long it took, the server's start included.
    pub(crate) seconds: f64,
}

impl Replay {
    /// In words.
    pub(crate) fn describe(&self) -> String {
        let millis = Duration::from_secs_f64(self.seconds).as_millis().max(1);
        let speed = u64::try_from(u128::from(self.bytes) * 1000 / millis).unwrap_or(u64::MAX);
        format!(
            "{} of WAL in {} segment{}, {}/s",
            ByteCount(self.bytes),
            self.segments,
            if self.segments == 1 { "" } else { "s" },
            ByteCount(speed)
        )
    }
}

impl Report {
    /// The report of a recovery of this place that begins.
    pub(crate) fn of(place: &Place, began: DateTime<Utc>) -> Self {
        Self {
            format: FORMAT,
            pgdata: place.pgdata.clone(),
            outcome: "failed",
            began,
            ended: began,
            seconds: 0.0,
            downtime_seconds: 0.0,
            error: None,
            hint: None,
            stage: None,
            timeline: None,
            preserved: None,
            steps: Vec::new(),
            extracted: None,
            replay: None,
            verified: None,
            notes: Vec::new(),
            plan: None,
            goes_on: false,
        }
    }

    /// Refuses a place that no report can be written to, before anything else is done.
    pub(crate) fn may_be_written(path: &Path) -> anyhow::Result<()> {
        let parent = match path.parent() {
            Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
            Some(parent) => parent,
            None => Path::new("/"),
        };
        TemporaryFile::create_in(parent, 0o600).map(drop).with_context(|| {
            Advice::usage(format!("no report can be written to {}", path.display()))
                .hint("name a file in a directory that this user may write to")
        })
    }

    /// When it ended, and how long it took.
    pub(crate) fn ended(&mut self, ended: DateTime<Utc>, took: Duration) {
        self.ended = ended;
        self.seconds = took.as_secs_f64();
    }

    /// The finished steps; so many were done by an earlier call.
    pub(crate) fn steps(&mut self, steps: &[Step], before: usize) {
        // During the first one, the check, the old server still ran.
        self.downtime_seconds = steps.iter().skip(usize::from(before == 0)).map(|step| step.seconds).sum();
        self.steps = steps.to_vec();
        self.goes_on = before > 0;
    }

    /// What was unpacked and replayed.
    pub(crate) fn work(&mut self, extracted: Option<Extracted>, replay: Option<Replay>) {
        self.extracted = extracted;
        self.replay = replay;
    }

    /// How far it got.
    pub(crate) fn journal(&mut self, journal: &Journal, preserved: Option<&Path>) {
        self.stage = Some(journal.stage);
        self.timeline = journal.new_timeline;
        self.preserved = preserved.map(Path::to_path_buf);
        self.notes.clone_from(&journal.notes);
        self.plan = Some(journal.plan.clone());
        self.outcome = if journal.stage == Stage::Done { "done" } else { "waiting" };
        if self.goes_on {
            // The journal begins when the check has passed.
            let down = self.ended - journal.began;
            self.downtime_seconds = down.to_std().unwrap_or_default().as_secs_f64();
        }
    }

    /// What was checked.
    pub(crate) fn verified(&mut self, verified: &Verified) {
        if !verified.findings.is_empty() {
            self.outcome = "findings";
        }
        self.verified = Some(verified.clone());
    }

    /// Why it failed.
    pub(crate) fn failed(&mut self, error: String, hint: Option<String>) {
        self.outcome = "failed";
        self.error = Some(error);
        self.hint = hint;
    }

    /// Writes both files, for their owner alone.
    pub(crate) fn write(&self, path: &Path) -> anyhow::Result<()> {
        let writing = || {
            Advice::new(ExitClass::PartDone, format!("the report {} cannot be written", path.display()))
                .hint("everything else is done")
        };
        let mut json = serde_json::to_vec_pretty(self).context("render JSON")?;
        json.push(b'\n');
        durable::replace(path, &json, 0o600).with_context(writing)?;
        let mut readable = path.as_os_str().to_owned();
        readable.push(".txt");
        durable::replace(Path::new(&readable), self.text().as_bytes(), 0o600).with_context(writing)
    }

    /// To be read.
    fn text(&self) -> String {
        let time = |time: DateTime<Utc>| time.format("%Y-%m-%d %H:%M:%SZ");
        let took = |seconds: f64| Took(Duration::from_secs_f64(seconds.max(0.0)));
        let mut text = String::new();
        let mut line = |words: String| {
            // Writing to a string cannot fail.
            let _written = writeln!(text, "{words}").is_ok();
        };
        line(format!("Recovery of {}: {}", self.pgdata.display(), self.outcome));
        line(format!("from {} to {}, {}", time(self.began), time(self.ended), took(self.seconds)));
        if self.downtime_seconds > 0.0 {
            line(format!("from the stop of the old server to the end: {}", took(self.downtime_seconds)));
        }
        if let Some(error) = &self.error {
            line(String::new());
            line(format!("It failed: {error}"));
            self.hint.iter().for_each(|hint| line(format!("hint: {hint}")));
        }
        if let Some(plan) = &self.plan {
            line(String::new());
            crate::report::describe(plan).into_iter().for_each(&mut line);
        }
        if !self.steps.is_empty() {
            line(String::new());
            for Step { name, seconds, result } in &self.steps {
                line(format!("{name:<9} {:>14}  {result}", took(*seconds)));
            }
        }
        if let Some(verified) = &self.verified {
            line(String::new());
            line(format!("Checked: {}", verified.seen));
            verified.findings.iter().for_each(|finding| line(format!("found wrong: {finding}")));
        }
        if !self.notes.is_empty() {
            line(String::new());
            self.notes.iter().for_each(|note| line(note.clone()));
        }
        if let Some(timeline) = self.timeline.filter(|_| self.stage == Some(Stage::Done)) {
            line(String::new());
            line(format!("The server writes on timeline {timeline}. Take a new base backup."));
        }
        if let Some(preserved) = &self.preserved {
            line(format!("The old cluster is in {}.", preserved.display()));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::restore::target::Target;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn both_files_are_for_their_owner_and_tell_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("report.json");
        let place = Place { pgdata: "/data".into() };
        let mut report = Report::of(&place, DateTime::UNIX_EPOCH);
        let step = |name, seconds| Step { name, seconds, result: "it went well".to_owned() };
        report.steps(&[step("check", 1.0), step("stop", 2.0), step("preserve", 3.0)], 0);
        report.journal(&crate::journal::tests::journal("/data", 50, Target::Immediate), None);
        let findings = vec!["a page".to_owned()];
        report.verified(&Verified { seen: "2 databases".to_owned(), findings, ..Verified::default() });
        report.ended(DateTime::UNIX_EPOCH, Duration::from_secs(7));
        report.write(&path).unwrap();
        let readable = dir.path().join("report.json.txt");
        for file in [&path, &readable] {
            assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
        }
        let json: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!((&json["outcome"], &json["downtime_seconds"]), (&"findings".into(), &5.0.into()));
        let text = std::fs::read_to_string(&readable).unwrap();
        for words in ["/data: findings", "preserve", "3.0 s", "2 databases", "found wrong: a page"] {
            assert!(text.contains(words), "{words}: {text}");
        }
        report.failed("it broke".to_owned(), Some("mend it".to_owned()));
        report.write(&path).unwrap();
        assert!(std::fs::read_to_string(&readable).unwrap().contains("It failed: it broke\nhint: mend it"));
    }

    #[test]
    fn a_place_without_rights_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Report::may_be_written(&dir.path().join("report")).is_ok());
        assert!(Report::may_be_written(&dir.path().join("missing/report")).is_err());
        assert!(std::fs::read_dir(dir.path()).unwrap().next().is_none());
    }
}
