//! Looks the target up in the WAL: where replay ends, what is the last transaction before that and the first after.
//!
//! What cannot be found is refused here, before anything is touched, instead of by a server that ends its recovery
//! short of the target.

use common::archive::Identity;
use common::archive::moments::{self, Ended, Located, Moment, Question};
use common::pg::Lsn;
use common::report::Advice;
use common::restore::target::Target;

use super::Site;
use crate::facts::Facts;
use crate::plan::{Arrival, Decision, Plan, Transaction};

/// Finds the target; `None` for one that needs no finding: the end of the backup, the end of all WAL.
pub(super) fn locate(facts: &Facts, decision: &Decision, site: &Site<'_>) -> anyhow::Result<Option<Arrival>> {
    let Decision { plan, backup, route } = decision;
    let moment = match &plan.target {
        Target::Time(time) => Moment::Time(time.to_utc()),
        Target::Lsn(lsn) => Moment::Lsn(*lsn),
        Target::Xid(xid) => Moment::Xid(*xid),
        Target::Name(name) => Moment::Name(name.clone()),
        Target::Immediate | Target::Latest => return Ok(None),
    };
    let identity =
        Identity { system_identifier: facts.system, segment_size: backup.source.segment_size, major: Some(plan.major) };
    let pg_wal = facts.origin.as_ref().map(|origin| origin.pgdata.join("pg_wal"));
    let mut source = moments::reader(&site.repository, identity, pg_wal.as_deref());
    let question = Question { moment, exclusive: plan.exclusive };
    let (cancel, progress) = (&site.ctx.cancel, &*site.ctx.progress);
    let located = moments::locate(route, &mut source, backup.span.start_lsn, None, &question, cancel, progress)?;
    answer(plan, backup.span.stop_lsn, &located).map(Some).map_err(anyhow::Error::from)
}

/// What was found, or why the target is refused.
fn answer(plan: &Plan, consistent: Lsn, located: &Located) -> Result<Arrival, Advice> {
    if let [_, _, ..] = located.occurrences[..] {
        let places: Vec<String> = located
            .occurrences
            .iter()
            .map(|point| format!("{} at {}", point.lsn, point.time.format("%F %TZ")))
            .collect();
        return Err(Advice::refused(format!("{} occurs {} times: {}", plan.target, places.len(), places.join(", ")))
            .hint("name the one that you mean by its position, with --target-lsn"));
    }
    let Some(stop) = &located.stop else { return Err(unreachable(plan, located)) };
    if stop.replay_end < consistent {
        return Err(Advice::refused(format!(
            "{} lies at {}, before {} is consistent at {consistent}",
            plan.target, stop.replay_end, plan.backup
        ))
        .hint("choose an older backup with --backup ID; recover list shows them"));
    }
    let transaction = |found: &moments::Transaction| Transaction { xid: found.xid, time: found.time, lsn: found.lsn };
    Ok(Arrival {
        at: stop.replay_end,
        last_before: located.last_before.as_ref().map(transaction),
        first_after: located.first_after.as_ref().map(transaction),
    })
}

/// The target is not in the WAL at hand.
fn unreachable(plan: &Plan, located: &Located) -> Advice {
    let end = match &located.ended {
        Ended::Missing(segment) => format!("the WAL ends at {}, {segment} is not there", located.end_of_wal),
        Ended::Invalid(segment, why) => format!("the WAL ends at {} in {segment}: {why}", located.end_of_wal),
        Ended::Answered | Ended::Until => format!("the WAL ends at {}", located.end_of_wal),
    };
    let last = located.last_transaction.as_ref().map_or_else(
        || "there is no commit behind the backup's start".to_owned(),
        |last| format!("the last commit is {} at {}", last.xid, last.time.format("%Y-%m-%d %H:%M:%S%.6fZ")),
    );
    Advice::refused(format!("{} cannot be reached: {end}; {last}", plan.target))
        .hint("--target-latest recovers to the end of the WAL; recover windows shows what other backups reach")
}
