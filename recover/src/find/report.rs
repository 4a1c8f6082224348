//! What the user sees of the search.

use common::app::Context;
use common::archive::walk::Ending;
use common::pg::{Lsn, TimelineId};
use common::repo::BackupId;
use common::report::message_of;
use serde::Serialize;

use super::finding::{Action, Finding, What};
use super::history::Counts;

/// What was looked at, and what came of it.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// The backup that the names are from and that the reading began at.
    pub(crate) backup: BackupId,
    /// Whether all of its names could be read.
    pub(crate) names: bool,
    /// The timeline that was followed.
    pub(crate) timeline: TimelineId,
    /// Where the reading began.
    pub(crate) from_lsn: Lsn,
    /// The end of the last record that was read.
    pub(crate) to_lsn: Lsn,
    /// Commits in the window, the times of the first and last of them.
    pub(crate) commits: u64,
    pub(crate) first_commit_at: Option<chrono::DateTime<chrono::Utc>>,
    pub(crate) last_commit_at: Option<chrono::DateTime<chrono::Utc>>,
    /// How many deleted rows are many.
    pub(crate) rows_min: u64,
    /// Newest first.
    pub(crate) findings: Vec<Finding>,
    /// How many older ones are left out.
    pub(crate) older_left_out: u64,
    /// Commits that only wrote relations anew, which are left out.
    pub(crate) rewrites_left_out: u64,
    /// Whether there are backups before the one that the reading began at.
    #[serde(skip)]
    pub(crate) older_backups: bool,
    /// Whether the WAL could be read as far as there is any.
    pub(crate) complete: bool,
    /// Why it could not, or that some transactions were too large.
    pub(crate) notes: Vec<String>,
}

impl Report {
    /// Adds what the counts say.
    pub(crate) fn count(&mut self, counts: Counts) {
        self.to_lsn = counts.end.max(self.from_lsn);
        self.commits = counts.commits;
        self.first_commit_at = counts.times.map(|(first, _)| first);
        self.last_commit_at = counts.times.map(|(_, last)| last);
        self.older_left_out = counts.older;
        self.rewrites_left_out = counts.rewrites;
        if counts.is_partial {
            self.notes.push(
                "some transactions or catalogs were too large to keep in mind: what they did may be missing here"
                    .to_owned(),
            );
        }
    }

    /// Adds why the reading ended, when that was before the end of all WAL. A segment that cannot be read is damage, the
    /// last one too.
    pub(crate) fn end(&mut self, ending: &anyhow::Result<Ending>, goes_on: bool) {
        let note = match ending {
            Err(err) => message_of(err),
            Ok(Ending::Missing(segment)) if goes_on => format!("{segment} is missing, and there is WAL behind it"),
            Ok(Ending::Invalid(segment, why)) if goes_on => {
                format!("{segment} is damaged, and there is WAL behind it: {why}")
            }
            _ => return,
        };
        self.complete = false;
        self.notes.push(format!("nothing behind {} was looked at: {note}", self.to_lsn));
    }

    /// Prints it.
    pub(crate) fn print(&self, ctx: &Context) -> anyhow::Result<()> {
        if ctx.output.is_json() {
            return ctx.output.json(self);
        }
        for line in self.findings.iter().flat_map(of_finding).chain(self.summary()) {
            ctx.output.line(&line)?;
        }
        Ok(())
    }

    fn summary(&self) -> Vec<String> {
        let time = |time: Option<chrono::DateTime<chrono::Utc>>| {
            time.map_or_else(String::new, |time| time.format(" (%F %TZ)").to_string())
        };
        let mut lines = vec![format!(
            "looked at {} from {}{} to {}{} along timeline {}, with the names of {}",
            counted(self.commits, "commit"),
            self.from_lsn,
            time(self.first_commit_at),
            self.to_lsn,
            time(self.last_commit_at),
            self.timeline,
            self.backup
        )];
        match self.findings.len() {
            0 => {
                lines.push(format!("none of them dropped or truncated anything, or deleted {} rows", self.rows_min));
                lines.extend(self.older_backups.then(|| {
                    "what happened before that: --from-time TIME begins at the newest backup before it".to_owned()
                }));
            }
            count if self.older_left_out > 0 => {
                let left_out = match self.older_left_out {
                    1 => "1 older one is left out".to_owned(),
                    older => format!("{older} older ones are left out"),
                };
                let newest =
                    if count == 1 { "this is the newest".to_owned() } else { format!("these are the newest {count}") };
                lines.push(format!("{newest}; {left_out}: --limit"));
            }
            _ => {}
        }
        if self.rewrites_left_out > 0 {
            lines.push(format!(
                "left out: {} that only wrote relations anew, such as VACUUM FULL: --rewrites",
                self.rewrites_left_out
            ));
        }
        lines.extend(self.notes.iter().cloned());
        lines
    }
}

fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn of_finding(finding: &Finding) -> Vec<String> {
    let prepared = if finding.prepared { ", which had been prepared" } else { "" };
    let mut lines = vec![format!(
        "{}  transaction {}{prepared}, commit record {}, timeline {}",
        finding.time.format("%Y-%m-%d %H:%M:%S%.6fZ"),
        finding.xid,
        finding.lsn,
        finding.timeline
    )];
    lines.extend(finding.actions.iter().map(|action| format!("  {}", of_action(action))));
    if finding.actions_left_out > 0 {
        lines.push(format!("  and {} more", finding.actions_left_out));
    }
    if finding.companions > 0 {
        lines.push(format!("  with {} indexes, TOAST tables and sequences", finding.companions));
    }
    lines.extend(finding.recover_extract.as_ref().map(|command| format!("  that alone:  {command}")));
    lines.extend(finding.recover_run.as_ref().map(|command| format!("  all of it:   {command}")));
    lines.extend(finding.unreachable.as_ref().map(|why| format!("  the moment before cannot be reached: {why}")));
    if finding.prepared && finding.recover_run.is_some() {
        lines.push("  there it is still prepared: end it with ROLLBACK PREPARED (see pg_prepared_xacts)".to_owned());
    }
    lines.push(String::new());
    lines
}

fn of_action(action: &Action) -> String {
    let rows = |count: u64| format!("deleted {} of {}", counted(count, "row"), action.describe());
    match (action.what, action.rows) {
        (What::RowsDeleted, Some(count)) => rows(count),
        (what, _) => format!("{}: {}", what.words(), action.describe()),
    }
}
