//! Looks the target up in the WAL: where replay ends, what is the last transaction before that and the first after.
//! For a copy it also looks out for tablespaces that are created on the way: the WAL names them by the original's paths.
//!
//! What cannot be found is refused here, before anything is touched, instead of by a server that ends its recovery
//! short of the target.

use std::path::Path;

use common::archive::Identity;
use common::archive::moments::{self, Ended, Located, Moment, NewTablespace, Question};
use common::report::Advice;
use common::restore::choose::MissingFork;
use common::restore::target::Target;

use super::Site;
use crate::cli::Role;
use crate::facts::Facts;
use crate::plan::{Arrival, Decision, Plan, Transaction};

/// Finds the target; `None` for one that needs no finding: the end of the backup, the end of all WAL. A copy's whole way
/// is read all the same.
pub(super) fn locate(facts: &Facts, decision: &Decision, site: &Site<'_>) -> anyhow::Result<Option<Arrival>> {
    let Decision { plan, backup, route, .. } = decision;
    let moment = match &plan.target {
        Target::Time(time) => Moment::Time(time.to_utc()),
        Target::Lsn(lsn) => Moment::Lsn(*lsn),
        Target::Xid(xid) => Moment::Xid(*xid),
        Target::Name(name) => Moment::Name(name.clone()),
        Target::Immediate | Target::Latest if plan.role == Role::Production => return Ok(None),
        Target::Immediate | Target::Latest => Moment::End,
    };
    let until = (plan.target == Target::Immediate).then_some(backup.span.stop_lsn);
    let is_sought = moment != Moment::End;
    let identity =
        Identity { system_identifier: facts.system, segment_size: backup.source.segment_size, major: Some(plan.major) };
    let pg_wal = facts.origin.as_ref().map(|origin| origin.pgdata.join("pg_wal"));
    let mut source = moments::reader(&site.repository, identity, pg_wal.as_deref());
    let question = Question { moment, exclusive: plan.exclusive };
    let (cancel, progress) = (&site.ctx.cancel, &*site.ctx.progress);
    let located = moments::locate(route, &mut source, backup.span.start_lsn, until, &question, cancel, progress)?;
    let arrival = is_sought.then(|| answer(decision, &located)).transpose()?;
    if !is_sought {
        refuse_damage(facts, decision, &located)?;
    }
    if plan.role == Role::Copy {
        refuse_to_share(&located.tablespaces)?;
    }
    Ok(arrival)
}

/// WAL that cannot be read, with more of it behind: not the end of all WAL, but damage.
fn refuse_damage(facts: &Facts, decision: &Decision, located: &Located) -> Result<(), Advice> {
    let Ended::Invalid(segment, why) = &located.ended else { return Ok(()) };
    let mut known = facts.archive.clone();
    facts.tail.add_to(&mut known);
    let start = segment.start(known.segment_size());
    if !start.is_some_and(|start| decision.route.continues_after(&known, start)) {
        return Ok(());
    }
    let before = located.last_before.map_or_else(
        || "--target-immediate recovers to the end of the backup".to_owned(),
        |last| format!("--target-lsn {} recovers to the last commit before it", last.lsn),
    );
    Err(Advice::refused(format!("{segment} is damaged, and there is WAL behind it: {why}"))
        .hint(format!("bring back a good copy of that segment; {before}")))
}

/// Replay of a tablespace's creation writes to the path of the original, whose files a copy must not touch. One within
/// the data directory harms nobody, nor does one whose place is an empty directory that waits for the copy.
fn refuse_to_share(created: &[NewTablespace]) -> Result<(), Advice> {
    let is_free = |location: &Path| std::fs::read_dir(location).is_ok_and(|mut entries| entries.next().is_none());
    let Some(shared) = created.iter().find(|it| it.location.is_absolute() && !is_free(&it.location)) else {
        return Ok(());
    };
    Err(Advice::refused(format!(
        "a tablespace was created after the backup, at {}: a copy that replays this would write into the original's",
        shared.location.display()
    ))
    .hint(format!(
        "take a new backup, whose tablespaces -T can map, or stop before that with --target-lsn {} --target-exclusive",
        shared.lsn
    )))
}

/// What was found, or why the target is refused.
fn answer(decision: &Decision, located: &Located) -> Result<Arrival, Advice> {
    let (plan, consistent) = (&decision.plan, decision.backup.span.stop_lsn);
    if let [_, _, ..] = located.occurrences[..] {
        let places: Vec<String> = located
            .occurrences
            .iter()
            .map(|point| format!("{} at {}", point.lsn, point.time.format("%F %TZ")))
            .collect();
        return Err(Advice::refused(format!("{} occurs {} times: {}", plan.target, places.len(), places.join(", ")))
            .hint("name the one that you mean by its position, with --target-lsn"));
    }
    let fork = decision.missing_fork.as_ref();
    let Some(stop) = &located.stop else {
        return Err(fork.map_or_else(|| unreachable(plan, located), MissingFork::advice));
    };
    if stop.replay_end < consistent {
        return Err(Advice::refused(format!(
            "{} lies at {}, before {} is consistent at {consistent}",
            plan.target, stop.replay_end, plan.backup
        ))
        .hint("choose an older backup with --backup ID; recover list shows them"));
    }
    if let Some(fork) = fork.filter(|fork| stop.replay_end > fork.begins) {
        return Err(fork.advice());
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
