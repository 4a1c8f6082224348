//! `recover status`: where the recovery of a data directory stands, and what can be done next. Changes nothing.

use common::app::{Context, Outcome};
use common::restore::settings::TargetAction;
use common::server;
use serde::Serialize;

use crate::journal::{Journal, Stage};
use crate::place::Place;
use crate::report::STEPS;
use crate::{cleanup, undo};

/// How far a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// It has ended.
    Done,
    /// It has begun, and goes on or was cut short.
    Begun,
    /// It is yet to come.
    Open,
}

/// What `recover status` tells of one step.
#[derive(Debug, Serialize)]
struct Row {
    name: &'static str,
    state: State,
}

/// The stages that the steps lead to, in their order.
const STAGES: [Stage; 8] = [
    Stage::Checked,
    Stage::Stopped,
    Stage::Preserved,
    Stage::Extracted,
    Stage::Configured,
    Stage::Placed,
    Stage::Started,
    Stage::Done,
];

/// Tells it.
pub(crate) fn run(ctx: &Context) -> anyhow::Result<Outcome> {
    let place = Place::of(ctx)?;
    let pgdata = place.pgdata.display().to_string();
    let Some(journal) = Journal::read(&place)? else {
        ctx.output.line(&format!("no recovery of {pgdata} is known"))?;
        if ctx.output.is_json() {
            ctx.output.json(&serde_json::json!({ "pgdata": pgdata, "stage": null }))?;
        }
        return Ok(Outcome::Done);
    };
    let running = server::running(&place.pgdata)?.is_some();
    let next = next(&journal, &pgdata);
    let kept = cleanup::kept(&place)?;
    for line in lines(&journal, running, &pgdata) {
        ctx.output.line(&line)?;
    }
    let rows: Vec<Vec<String>> = steps(&journal)
        .iter()
        .map(|row| vec![row.name.to_owned(), format!("{:?}", row.state).to_lowercase()])
        .collect();
    ctx.output.table(&["step", "state"], &rows)?;
    for path in &kept {
        ctx.output.line(&format!("kept            {}", path.display()))?;
    }
    for line in &next {
        ctx.output.line(&format!("next            {line}"))?;
    }
    if ctx.output.is_json() {
        ctx.output.json(&serde_json::json!({
            "pgdata": pgdata, "stage": journal.stage, "began": journal.began, "role": journal.plan.role,
            "backup": journal.plan.backup, "target": journal.plan.target.to_string(), "steps": steps(&journal),
            "server_running": running, "timeline": journal.new_timeline, "preserved": journal.preserved(),
            "undoing_since": journal.undoing, "discarded": undo::set_aside(&journal), "cleaned_at": journal.cleaned,
            "kept": kept, "withheld": journal.withheld, "next": next,
        }))?;
    }
    Ok(Outcome::Done)
}

fn lines(journal: &Journal, running: bool, pgdata: &str) -> Vec<String> {
    let stands = match (journal.stage, journal.undoing) {
        (Stage::Done, _) => "is over",
        (Stage::RolledBack, _) => "is undone",
        (_, Some(_)) => "is being undone, and that was cut short",
        (Stage::Placed, None) if !journal.plan.starts => "waits for its server, which somebody else starts",
        _ if !journal.is_touched() => "has touched nothing yet",
        _ => "is not over",
    };
    let mut lines = vec![
        format!("the recovery of {pgdata} {stands}"),
        format!("began           {}", journal.began.format("%Y-%m-%d %H:%M:%SZ")),
        format!("to              {}, from {}", journal.plan.target, journal.plan.backup),
        format!("server          {}", if running { "runs" } else { "does not run" }),
    ];
    lines.extend(journal.withheld.iter().map(|finding| format!("found wrong     {finding}")));
    if let Some(cleaned) = journal.cleaned {
        lines.push(format!("cleaned up      {}, so it can no longer be undone", cleaned.format("%Y-%m-%d %H:%M:%SZ")));
    }
    lines
}

fn steps(journal: &Journal) -> Vec<Row> {
    STEPS.iter().zip(STAGES).map(|(name, stage)| Row { name, state: state(journal, stage) }).collect()
}

/// How far the step is that leads to `stage`.
fn state(journal: &Journal, stage: Stage) -> State {
    let follows = journal.stage == Stage::Started && journal.toward.is_none();
    match journal.stage {
        _ if journal.toward == Some(stage) => State::Begun,
        // The journal says that a server may run before it is started.
        Stage::Started if stage == Stage::Started && follows => State::Begun,
        reached if stage <= reached && reached != Stage::RolledBack => State::Done,
        _ => State::Open,
    }
}

/// The commands that can come next, the likeliest first.
fn next(journal: &Journal, pgdata: &str) -> Vec<String> {
    let command = |words: &str| format!("recover {words} -D {pgdata}");
    match journal.stage {
        Stage::RolledBack if journal.is_left_down() => vec![command("rollback"), command("cleanup")],
        Stage::Done | Stage::RolledBack if journal.cleaned.is_some() => Vec::new(),
        Stage::RolledBack => vec![command("cleanup")],
        Stage::Done => vec![command("rollback"), command("cleanup")],
        _ if journal.undoing.is_some() => vec![command("rollback")],
        _ if !journal.is_touched() => Vec::new(),
        Stage::Placed | Stage::Started if !journal.withheld.is_empty() => {
            vec![command("rollback"), command("finish --accept-findings")]
        }
        Stage::Placed if !journal.plan.starts => vec![command("finish"), command("rollback")],
        Stage::Started if journal.plan.action != TargetAction::Promote => {
            vec![command("promote"), command("continue --target-…"), command("rollback")]
        }
        Stage::Started => vec![command("run --resume"), command("finish"), command("rollback")],
        _ => vec![command("run --resume"), command("rollback")],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::tests::journal;
    use common::restore::target::Target;
    use rstest::rstest;

    #[rstest]
    #[case(Stage::Checked, None, "d-------", "")]
    #[case(Stage::Checked, Some(Stage::Stopped), "db------", "run --resume rollback")]
    #[case(Stage::Preserved, None, "ddd-----", "run --resume rollback")]
    #[case(Stage::Preserved, Some(Stage::Extracted), "dddb----", "run --resume rollback")]
    #[case(Stage::Started, None, "ddddddb-", "run --resume finish rollback")]
    #[case(Stage::Started, Some(Stage::Done), "dddddddb", "run --resume finish rollback")]
    #[case(Stage::Done, None, "dddddddd", "rollback cleanup")]
    #[case(Stage::RolledBack, None, "--------", "cleanup")]
    fn tells_where_it_stands(
        #[case] stage: Stage,
        #[case] toward: Option<Stage>,
        #[case] states: &str,
        #[case] commands: &str,
    ) {
        let mut journal = journal("/data", 7, Target::Latest);
        (journal.stage, journal.toward, journal.undoing, journal.plan.starts) = (stage, toward, None, true);
        (journal.plan.action, journal.withheld) = (TargetAction::Promote, Vec::new());
        let found: String = steps(&journal)
            .iter()
            .map(|row| match row.state {
                State::Done => 'd',
                State::Begun => 'b',
                State::Open => '-',
            })
            .collect();
        assert_eq!(found, states);
        let words: Vec<String> =
            next(&journal, "/data").iter().map(|line| line.replace("recover ", "").replace(" -D /data", "")).collect();
        assert_eq!(words.join(" "), commands);
    }
}
