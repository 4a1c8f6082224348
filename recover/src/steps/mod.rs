//! The eight steps: each does what the plan says, and nothing else.

pub(crate) mod check;
pub(crate) mod config_files;
pub(crate) mod configure;
pub(crate) mod extract;
pub(crate) mod place;
pub(crate) mod preserve;
pub(crate) mod reachable;
pub(crate) mod start;
pub(crate) mod stop;
mod surroundings;
pub(crate) mod target;
pub(crate) mod verify;

use std::path::{Path, PathBuf};

use common::app::Context;
use common::archive::Repository;
use common::restore::settings::TargetAction;
use common::server::{Programs, Search};

use self::verify::Verified;
use crate::cli::{Cli, Command, Role};
use crate::facts::Facts;
use crate::journal::{Journal, Stage};
use crate::place::Place;
use crate::plan::Decision;
use crate::preserved::Marks;
use crate::verbatim::Verbatim;

/// Where the steps work and with what.
pub(crate) struct Site<'a> {
    /// The data directory and the folder beside it.
    pub(crate) place: Place,
    /// The repository that everything comes from.
    pub(crate) repository: Repository,
    /// The server's programs.
    pub(crate) programs: Programs,
    /// The command line.
    pub(crate) cli: &'a Cli,
    /// The world outside.
    pub(crate) ctx: &'a Context,
}

impl<'a> Site<'a> {
    /// Finds the programs that the backup's version needs.
    pub(crate) fn new(
        place: Place,
        repository: Repository,
        cli: &'a Cli,
        ctx: &'a Context,
        decision: &Decision,
    ) -> anyhow::Result<Self> {
        let programs = programs(decision.plan.major, &place, ctx)?;
        Ok(Self { place, repository, programs, cli, ctx })
    }

    /// Whether the cluster is thrown away afterwards.
    pub(crate) fn is_scratch(&self) -> bool {
        matches!(self.cli.command, Command::Extract(_))
    }

    /// The option that says where the cluster lies.
    fn place_option(&self) -> &'static str {
        if self.is_scratch() { "--scratch" } else { "-D" }
    }
}

/// The programs of this major version.
pub(crate) fn programs(major: u32, place: &Place, ctx: &Context) -> anyhow::Result<Programs> {
    let search = Search {
        configured: ctx.settings.bin_directory.as_deref(),
        pgdata: Some(&place.pgdata),
        path: ctx.environment.get("PATH"),
    };
    Programs::find(major, &search, &ctx.cancel)
}

/// Opens the journal; from here on a run leaves traces.
pub(crate) fn begin(facts: &Facts, decision: &Decision, was_running: bool, site: &Site<'_>) -> anyhow::Result<Journal> {
    Journal::keep_old(&site.place)?;
    let journal = Journal {
        began: decision.plan.decided,
        stage: Stage::Checked,
        toward: None,
        plan: decision.plan.clone(),
        was_running: was_running || facts.directory.cluster().is_some_and(|cluster| cluster.server.is_some()),
        changes: Vec::new(),
        marks: Marks::new(),
        final_auto_conf: Verbatim::default(),
        new_timeline: None,
        notes: Vec::new(),
        withheld: Vec::new(),
        origin_wal: facts.origin.as_ref().map(|origin| origin.pgdata.join("pg_wal")),
        undoing: None,
        returned: false,
        renewal: None,
        left_down: None,
        cleaned: None,
    };
    journal.write(&site.place)?;
    Ok(journal)
}

/// How a run ended, in words.
pub(crate) struct Ending {
    /// What the user reads last.
    pub(crate) lines: Vec<String>,
    /// Where the old data directory lies.
    pub(crate) preserved: Option<PathBuf>,
}

/// What there is to say where the recovery was not ended because something wrong was found.
pub(crate) fn withheld(verified: &Verified, site: &Site<'_>) -> Vec<String> {
    let pgdata = site.place.pgdata.display();
    let mut lines: Vec<String> = verified.findings.iter().map(|finding| format!("found wrong: {finding}")).collect();
    if verified.withheld {
        lines.push(format!(
            "archiving stays off: recover rollback -D {pgdata} puts the old cluster back, recover finish -D {pgdata} \
             --accept-findings goes on with this one all the same"
        ));
    }
    lines
}

/// What there is to say at the end.
pub(crate) fn ending(journal: &Journal, site: &Site<'_>) -> Ending {
    let pgdata = site.place.pgdata.display();
    let preserved = journal.preserved().map(Path::to_path_buf);
    let mut lines = journal.notes.clone();
    match (journal.stage, journal.plan.action) {
        (Stage::Done, _) => {}
        (_, TargetAction::Pause) if journal.plan.starts => lines.push(format!(
            "the server waits at the target, readable; recover promote -D {pgdata} ends the recovery there, recover \
             continue -D {pgdata} --target-… goes on to a later moment"
        )),
        (_, TargetAction::Shutdown) if journal.plan.starts => lines.push(format!(
            "the server has stopped at the target; recover promote -D {pgdata} starts it and ends the recovery there, \
             recover continue -D {pgdata} --target-… goes on to a later moment"
        )),
        _ if journal.plan.role == Role::Standby => {
            lines.push(format!("start the standby, and then run recover finish -D {pgdata}"));
        }
        _ => lines.push(format!("start the server, and when it takes writes, run recover finish -D {pgdata}")),
    }
    match (journal.stage, journal.plan.port) {
        (Stage::Done, Some(port)) => {
            lines.push(format!("the copy archives nothing; connect with psql -h {pgdata} -p {port}"));
        }
        (Stage::Done, None) if journal.plan.role == Role::Standby => {
            lines.push("it stays a standby; pg_ctl promote makes it a primary, and then it archives".to_owned());
        }
        (Stage::Done, None) => {
            lines.push("archiving is on; take a new base backup soon".to_owned());
            lines.push(format!("the server logs to {} until its next start", site.place.start_log().display()));
        }
        _ if journal.plan.role == Role::Standby => {}
        _ => lines.push("archiving is off until then".to_owned()),
    }
    if let Some(preserved) = &preserved {
        lines.push(format!("the old cluster is in {}; recover rollback -D {pgdata} puts it back", preserved.display()));
    }
    Ending { lines, preserved }
}
