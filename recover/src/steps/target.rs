//! Looks the target up in the WAL: where replay ends, what is the last transaction before that and the first after.
//! It also looks out for tablespaces that are created on the way: the WAL names them by the original's paths.
//!
//! What cannot be found is refused here, before anything is touched, instead of by a server that ends its recovery
//! short of the target.

use std::io;
use std::path::PathBuf;

use common::app::Context;
use common::archive::moments::{self, Ended, Located, Moment, NewTablespace, Question};
use common::archive::{Identity, Repository};
use common::pg::Lsn;
use common::pg::exclusions::tablespace_version_directory;
use common::repo::chain::Route;
use common::repo::records::BackupRecord;
use common::report::Advice;
use common::restore::aim::{self, Aim};
use common::restore::choose::{Choice, MissingFork, Wish};
use common::restore::demands::Demands;
use common::restore::target::Target;

use super::Site;
use crate::cli::{MomentArgs, Role};
use crate::facts::{Facts, OldCluster, Origin};
use crate::plan::{Arrival, Decision, Transaction};

/// What the WAL on the way to the target tells.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Where the target is; `None` for one that needs no finding: the end of the backup, the end of all WAL.
    pub(crate) arrival: Option<Arrival>,
    /// Where all WAL ends, as far as it goes now; where replay goes to its end.
    pub(crate) wal_ends: Option<Lsn>,
    /// The folders that replay makes in tablespaces which are younger than the backup.
    pub(crate) grows: Vec<PathBuf>,
    /// The settings that replay meets on the way.
    pub(crate) demands: Demands,
}

/// Looks up which backup the target needs, where only the WAL can tell: for a time, a transaction and a name.
pub(crate) fn aim(
    facts: &Facts,
    args: &MomentArgs,
    repository: &Repository,
    ctx: &Context,
) -> anyhow::Result<Option<Aim>> {
    let wish = Wish { target: args.target(), timeline: args.timeline(), backup: args.backup };
    if !matches!(wish.target, Target::Time(_) | Target::Xid(_) | Target::Name(_)) || wish.backup.is_some() {
        return Ok(None);
    }
    let question = Question { moment: moment(&wish.target), exclusive: args.is_exclusive() };
    let mut look =
        |choice: &Choice, until| read(facts, &choice.route, &choice.backup, until, &question, repository, ctx);
    aim::aim(&facts.backups, &facts.known_wal(), &wish, &mut look).map(Some)
}

fn moment(target: &Target) -> Moment {
    match target {
        Target::Time(time) => Moment::Time(time.to_utc()),
        Target::Lsn(lsn) => Moment::Lsn(*lsn),
        Target::Xid(xid) => Moment::Xid(*xid),
        Target::Name(name) => Moment::Name(name.clone()),
        Target::Immediate | Target::Latest => Moment::End,
    }
}

/// Reads the WAL from the backup's start on.
fn read(
    facts: &Facts,
    route: &Route,
    backup: &BackupRecord,
    until: Option<Lsn>,
    question: &Question,
    repository: &Repository,
    ctx: &Context,
) -> anyhow::Result<Located> {
    let major = Some(backup.source.version_number / 10_000);
    let identity = Identity { system_identifier: facts.system, segment_size: backup.source.segment_size, major };
    let places = facts.origin.as_ref().map(Origin::wal_places).unwrap_or_default();
    let mut source = moments::reader(repository, identity, &places);
    let (cancel, progress) = (&ctx.cancel, &*ctx.progress);
    moments::locate(route, &mut source, backup.span.start_lsn, until, question, cancel, progress)
        .map_err(explain_damage)
}

/// Finds the target, or says why it is refused. The whole way is read even where the target needs no finding: damage on it, and what it would write elsewhere, is seen before anything is touched.
pub(crate) fn locate(facts: &Facts, decision: &Decision, site: &Site<'_>) -> anyhow::Result<Found> {
    let Decision { plan, backup, route, .. } = decision;
    let moment = moment(&plan.target);
    let is_sought = moment != Moment::End;
    let known = facts.aim.as_ref().filter(|aim| aim.choice.backup.id == backup.id);
    let located = if let Some(located) = known.and_then(|aim| aim.located.clone()) {
        located
    } else {
        let until = (plan.target == Target::Immediate).then_some(backup.span.stop_lsn);
        let question = Question { moment, exclusive: plan.exclusive };
        read(facts, route, backup, until, &question, &site.repository, site.ctx)?
    };
    let arrival = is_sought.then(|| answer(facts, decision, &located)).transpose()?;
    if !is_sought {
        refuse_damage(facts, decision, &located)?;
        refuse_hole(facts, decision, &located)?;
    }
    let version = tablespace_version_directory(plan.major, backup.source.catalog_version);
    if site.is_scratch() {
        nothing_outside(&located.tablespaces)?;
    }
    let beside_original = plan.role == Role::Copy && facts.origin.is_some();
    new_tablespaces(&located.tablespaces, &version, facts.directory.cluster(), beside_original)?;
    let demands = located.parameters.as_ref().map(Demands::of_wal).unwrap_or_default();
    let wal_ends = (plan.target == Target::Latest).then_some(located.end_of_wal);
    let outside = located.tablespaces.iter().filter(|made| made.location.is_absolute());
    let grows = outside.map(|made| made.location.join(&version)).collect();
    Ok(Found { arrival, wal_ends, grows, demands })
}

fn transaction(found: &moments::Transaction) -> Transaction {
    Transaction { xid: found.xid, time: found.time, lsn: found.lsn }
}

/// An archived segment that cannot be unpacked is damaged; any other failure speaks for itself.
fn explain_damage(err: anyhow::Error) -> anyhow::Error {
    let kind = err.downcast_ref::<io::Error>().map(io::Error::kind);
    if !matches!(kind, Some(io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)) {
        return err;
    }
    err.context(Advice::refused("WAL on the way to the target is damaged").hint(
        "bring back a good copy of that segment, or name a target before it: see \"A segment is damaged or missing\" \
         in OPERATIONS.md",
    ))
}

/// WAL that cannot be read, with more of it behind: not the end of all WAL, but damage.
fn refuse_damage(facts: &Facts, decision: &Decision, located: &Located) -> Result<(), Advice> {
    let Ended::Invalid(segment, why) = &located.ended else { return Ok(()) };
    let known = facts.known_wal();
    let start = segment.start(known.segment_size());
    if !start.is_some_and(|start| decision.route.continues_after(&known, start)) {
        return Ok(());
    }
    let before = last_moment(located.last_before.map(|last| last.lsn), decision.backup.span.stop_lsn);
    Err(Advice::refused(format!("{segment} is damaged, and there is WAL behind it: {why}"))
        .hint(format!("bring back a good copy of that segment; {before} before it")))
}

/// A segment that is missing on the way to the end of all WAL.
fn refuse_hole(facts: &Facts, decision: &Decision, located: &Located) -> Result<(), Advice> {
    let Decision { plan, backup, route, .. } = decision;
    if plan.target != Target::Latest || !route.continues_after(&facts.known_wal(), plan.wal_reaches) {
        return Ok(());
    }
    let missing = route.segment(plan.wal_reaches.0 / plan.segment_bytes);
    let before = last_moment(located.last_transaction.map(|last| last.lsn), backup.span.stop_lsn);
    Err(Advice::refused(format!(
        "{missing} is missing from the archive, which goes on behind it: there is a hole on the way to {}",
        plan.target
    ))
    .hint(format!("archive that segment; {before} before it")))
}

/// The option that goes to the last commit that was read. Before the backup's own end nothing is consistent.
fn last_moment(last_commit: Option<Lsn>, consistent: Lsn) -> String {
    last_commit.filter(|lsn| *lsn >= consistent).map_or_else(
        || "--target-immediate recovers to the end of the backup, the last moment".to_owned(),
        |lsn| format!("--target-lsn {lsn} recovers to the last commit"),
    )
}

/// A scratch cluster writes nowhere but in its own folder, also where the place of a tablespace is free.
fn nothing_outside(made: &[NewTablespace]) -> Result<(), Advice> {
    let Some(outside) = made.iter().find(|it| it.location.is_absolute()) else { return Ok(()) };
    Err(Advice::refused(format!(
        "a tablespace was created after the backup at {}: replay would write there, outside the scratch cluster",
        outside.location.display()
    ))
    .hint(format!(
        "choose a newer backup, which has it, or stop before that with --target-lsn {} --target-exclusive",
        outside.lsn
    )))
}

/// Replay makes a tablespace where it was first made, whatever `-T` says: a copy would write into the files of its
/// original. Only a place that is free, or belongs to the old cluster and moves aside with it, can be used; beside its
/// original a copy gets none at all, since a place that is free today is the original's tomorrow.
fn new_tablespaces(
    made: &[NewTablespace],
    version: &str,
    old: Option<&OldCluster>,
    beside_original: bool,
) -> Result<(), Advice> {
    for NewTablespace { lsn, location, .. } in made.iter().filter(|it| it.location.is_absolute()) {
        let moves_aside = old.is_some_and(|old| old.tablespace_links.iter().any(|(_, known)| known == location));
        let place = location.display();
        if !location.is_dir() {
            return Err(Advice::refused(format!(
                "a tablespace was created after the backup at {place}, which is not there"
            ))
            .hint("make that directory, or choose a newer backup, whose tablespaces -T can map"));
        }
        if beside_original || (!moves_aside && location.join(version).exists()) {
            return Err(Advice::refused(format!(
                "a tablespace was created after the backup at {place}, which belongs to a cluster on this host: replay \
                 would write there"
            ))
            .hint(format!(
                "take a new backup, whose tablespaces -T can map, or stop before that with --target-lsn {lsn} \
                 --target-exclusive"
            )));
        }
    }
    Ok(())
}

/// What was found, or why the target is refused.
fn answer(facts: &Facts, decision: &Decision, located: &Located) -> Result<Arrival, Advice> {
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
        refuse_damage(facts, decision, located)?;
        return Err(fork.map_or_else(|| unreachable(facts, decision, located), MissingFork::advice));
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
    Ok(Arrival {
        at: stop.replay_end,
        last_before: located.last_before.as_ref().map(transaction),
        first_after: located.first_after.as_ref().map(transaction),
    })
}

/// The target is not in the WAL at hand. The last commit's own time is no target: only a later commit ends a recovery to it.
fn unreachable(facts: &Facts, decision: &Decision, located: &Located) -> Advice {
    let Decision { plan, backup, route, .. } = decision;
    let end = match &located.ended {
        Ended::Missing(segment) => format!("the WAL ends at {}, {segment} is not there", located.end_of_wal),
        Ended::Invalid(segment, why) => format!("the WAL ends at {} in {segment}: {why}", located.end_of_wal),
        Ended::Answered | Ended::Until => format!("the WAL ends at {}", located.end_of_wal),
    };
    let last = located.last_transaction.map_or_else(
        || "there is no commit behind the backup's start".to_owned(),
        |last| format!("the last commit is {} at {}", last.xid, last.time.format("%Y-%m-%d %H:%M:%S%.6fZ")),
    );
    let moment = last_moment(located.last_transaction.map(|last| last.lsn), backup.span.stop_lsn);
    let goes_on = route.continues_after(&facts.known_wal(), plan.wal_reaches);
    let latest = if goes_on { "" } else { ", --target-latest to the end of the WAL" };
    Advice::refused(format!("{} cannot be reached: {end}; {last}", plan.target))
        .hint(format!("{moment} that can be reached{latest}; recover windows shows what other backups reach"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    #[test]
    fn hazard_01_a_scratch_cluster_makes_no_tablespace_outside() {
        let made = |location: &str| [NewTablespace { lsn: Lsn(1), oid: 16_384, location: location.into() }];
        assert!(nothing_outside(&made("/nowhere")).is_err());
        assert!(nothing_outside(&made("")).is_ok());
        assert!(nothing_outside(&[]).is_ok());
    }

    #[test]
    fn a_commit_from_before_the_backup_was_consistent_is_no_target() {
        let consistent = Lsn(0x300);
        assert!(last_moment(Some(Lsn(0x300)), consistent).starts_with("--target-lsn 0/300 "));
        for unreachable in [Some(Lsn(0x2FF)), None] {
            assert!(last_moment(unreachable, consistent).starts_with("--target-immediate "));
        }
    }

    #[test]
    fn a_new_tablespace_needs_a_place_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().to_path_buf();
        let made = |location: PathBuf| [NewTablespace { lsn: Lsn(1), oid: 16_384, location }];
        assert!(new_tablespaces(&made(place.clone()), "PG_15_1", None, false).is_ok());
        std::fs::create_dir(place.join("PG_15_1")).unwrap();
        assert!(new_tablespaces(&made(place.clone()), "PG_15_1", None, false).is_err());
        let old = |tablespace_links| OldCluster {
            control: None,
            server: None,
            pg_wal_link: None,
            tablespace_links,
            mounted_below: Vec::new(),
        };
        assert!(new_tablespaces(&made(place.clone()), "PG_15_1", Some(&old(Vec::new())), false).is_err());
        let known = old(vec![(16_384, place.clone())]);
        assert!(new_tablespaces(&made(place.clone()), "PG_15_1", Some(&known), false).is_ok());
        assert!(new_tablespaces(&made(place.join("missing")), "PG_15_1", None, false).is_err());
        assert!(new_tablespaces(&made(PathBuf::new()), "PG_15_1", None, false).is_ok());
        std::fs::remove_dir(place.join("PG_15_1")).unwrap();
        assert!(new_tablespaces(&made(place.clone()), "PG_15_1", None, false).is_ok());
        assert!(new_tablespaces(&made(place), "PG_15_1", None, true).is_err());
    }
}
