//! What can still be reached where a replay stopped on its way.

use common::app::hint_of;
use common::archive::{Identity, backups, inventory, moments};
use common::pg::{Lsn, WalSegmentName};
use common::repo::chain::Route;
use common::report::{Advice, message_of};
use common::restore::follow::Stopped;
use common::restore::salvage::{self, Tail};

use super::Site;
use crate::plan::Plan;

/// Where the moments stand that no failure of a replay changes.
const WINDOWS: &str = "recover windows shows which moments can be reached";

/// The failure of a replay that stopped on its way, with the moments before that. Any other failure as it is, and that of
/// a standby, which has no moment to go to.
pub(crate) fn told(err: anyhow::Error, plan: &Plan, site: &Site<'_>) -> anyhow::Error {
    let Some(stopped) = err.downcast_ref::<Stopped>().filter(|_| plan.standby.is_none()) else { return err };
    let known = look(stopped, plan, site).unwrap_or_else(|why| {
        tracing::debug!("the moments before the end of the replay are not known: {why:#}");
        WINDOWS.to_owned()
    });
    let hint = hint_of(&err).map_or_else(|| known.clone(), |hint| format!("{known}; {hint}"));
    let message = message_of(&err);
    err.context(Advice::failed(message).hint(hint))
}

/// How far the replay got, and the last commit before that.
fn look(stopped: &Stopped, plan: &Plan, site: &Site<'_>) -> anyhow::Result<String> {
    let backup = backups::load(&site.repository, plan.backup)?;
    let size = backup.source.segment_size;
    let system_identifier = plan.wal.system_identifier;
    let identity = Identity { system_identifier, segment_size: size, major: Some(plan.major) };
    let places = [plan.pgdata.join("pg_wal")];
    let at_hand = salvage::survey_all(&places, &identity)?;
    let mut known = inventory::read(&site.repository, system_identifier, size)?;
    at_hand.add_to(&mut known);
    let route = Route::new(known.history(plan.timeline), size);
    let fetched = stopped.segment.max(last_fetched(&at_hand, plan, &route));
    let (until, place, before) = match (stopped.at, fetched) {
        (Some(at), _) => (Some(at), format!("the replay stopped at {at}"), "that"),
        (None, Some(segment)) => {
            let end = segment.start(size).map(|start| Lsn(start.0.saturating_add(size.bytes())));
            (end, format!("the replay got into {segment}"), "its end")
        }
        (None, None) => (None, String::new(), ""),
    };
    let Some(until) = until else { return Ok(WINDOWS.to_owned()) };
    let mut source = moments::reader(&site.repository, identity, &places);
    let (cancel, progress) = (&site.ctx.cancel, &*site.ctx.progress);
    let last = moments::last_commit(&route, &mut source, backup.span.start_lsn, until, cancel, progress)?;
    // Before the backup's own end nothing is consistent.
    let Some(last) = last.filter(|last| last.lsn >= backup.span.stop_lsn) else {
        return Ok(format!("{place}; {WINDOWS}"));
    };
    let way = if site.is_scratch() { "recover extract" } else { "after a rollback, recover run" };
    Ok(format!(
        "{place}; the last commit before {before} is {} at {}: {way} --target-lsn {} --target-timeline {} goes up to it, \
         and recover windows shows the other moments",
        last.xid,
        last.time.format("%Y-%m-%d %H:%M:%S%.6fZ"),
        last.lsn,
        // The position is one of this timeline; the newest, which is taken otherwise, may be another.
        plan.timeline
    ))
}

/// The last segment on the way that the server has fetched: it keeps the one that it replays in its `pg_wal`. What was put
/// there for it before it started, it may not have come to.
fn last_fetched(at_hand: &Tail, plan: &Plan, route: &Route) -> Option<WalSegmentName> {
    let is_on_the_way =
        |name: &&WalSegmentName| name.number(route.segment_size()).map(|number| route.segment(number)) == Some(**name);
    let is_placed = |name: &WalSegmentName| plan.salvage.contains(&name.to_string());
    at_hand.segments.iter().filter(is_on_the_way).filter(|name| !is_placed(name)).max().copied()
}
