//! `recover run --resume`: goes on with a recovery that was cut short, from the step that it had reached.
//!
//! The plan is the journal's: it was proved and agreed to. A step that had begun is done again; what an extraction had
//! made so far is removed first, since every file of it must be checked anew.

use common::app::{Context, Outcome};
use common::archive::backups;
use common::report::Advice;

use crate::cli::Cli;
use crate::facts;
use crate::journal::{Journal, Stage};
use crate::lease::Hold;
use crate::place::Place;
use crate::preserved;
use crate::report::Reporter;
use crate::run::{act, conclude};
use crate::steps::{self, Site};

/// Goes on with the recovery that the journal tells of.
pub(crate) fn run(cli: &Cli, ctx: &Context) -> anyhow::Result<Outcome> {
    let place = Place::of(ctx)?;
    let (_lock, journal) = Journal::lock(&place)?.ok_or_else(|| {
        Advice::refused(format!("no recovery of {} is known, so there is none to go on with", place.pgdata.display()))
            .hint("recover run begins one")
    })?;
    refuse(&journal)?;
    preserved::require_aside(&journal, &place)?;
    let repository = facts::open_repository(ctx)?;
    let backup = backups::load(&repository, journal.plan.backup)?;
    let programs = steps::programs(journal.plan.major, &place, ctx)?;
    let site = Site { place, repository, programs, cli, ctx };
    let mut reporter = Reporter::after(ctx, steps_done(journal.stage));
    ctx.output.line(&format!(
        "the recovery of {} that began {} goes on",
        site.place.pgdata.display(),
        journal.began.format("%Y-%m-%d %H:%M:%SZ")
    ))?;
    let _lease = Hold::take(&site.repository, &backup, &site.place, "recover run --resume", ctx);
    let journal = act(&backup, journal, &site, &mut reporter);
    conclude(journal, reporter, &site, ctx)
}

/// How many of the steps need not be gone through again.
pub(crate) fn steps_done(stage: Stage) -> usize {
    match stage {
        Stage::Checked | Stage::Stopped => 1,
        Stage::Preserved => 3,
        Stage::Extracted => 4,
        Stage::Configured => 5,
        Stage::Placed | Stage::Started => 6,
        Stage::Done | Stage::RolledBack => 8,
    }
}

/// Refuses where there is nothing to go on with.
fn refuse(journal: &Journal) -> Result<(), Advice> {
    let pgdata = journal.plan.pgdata.display();
    if journal.undoing.is_some() && journal.stage != Stage::RolledBack {
        return Err(Advice::refused(format!("the recovery of {pgdata} is being undone"))
            .hint(format!("recover rollback -D {pgdata} goes on with that")));
    }
    let (message, hint) = match journal.stage {
        Stage::Done => ("is over", format!("recover status -D {pgdata} tells more")),
        Stage::RolledBack => ("is undone", format!("recover run -D {pgdata} begins another one")),
        Stage::Placed if !journal.plan.starts => (
            "is ready for its server, which somebody else starts",
            format!("start it, and when it takes writes, run recover finish -D {pgdata}"),
        ),
        _ => return Ok(()),
    };
    Err(Advice::refused(format!("the recovery of {pgdata} {message}: there is nothing to go on with")).hint(hint))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::tests::journal;
    use common::restore::target::Target;
    use rstest::rstest;

    #[rstest]
    #[case(Stage::Checked, true, true)]
    #[case(Stage::Preserved, true, true)]
    #[case(Stage::Started, true, true)]
    #[case(Stage::Placed, true, true)]
    #[case(Stage::Placed, false, false)]
    #[case(Stage::Done, true, false)]
    #[case(Stage::RolledBack, true, false)]
    fn only_what_is_not_over_goes_on(#[case] stage: Stage, #[case] starts: bool, #[case] expected: bool) {
        let mut journal = journal("/data", 7, Target::Latest);
        (journal.stage, journal.plan.starts, journal.undoing) = (stage, starts, None);
        assert_eq!(refuse(&journal).is_ok(), expected);
        journal.undoing = Some(journal.began);
        assert!(refuse(&journal).is_err());
    }
}
