//! Looks the target up in the WAL: where replay ends, what is the last transaction before that and the first after.
//!
//! What cannot be found is refused here, before anything is touched, instead of by a server that ends its recovery
//! short of the target.

use std::path::PathBuf;

use common::archive::Identity;
use common::archive::moments::{self, Ended, Located, Moment, Question};
use common::pg::Lsn;
use common::pg::exclusions::tablespace_version_directory;
use common::report::Advice;
use common::restore::target::Target;

use super::Site;
use crate::cli::Role;
use crate::facts::{Facts, OldCluster};
use crate::plan::{Arrival, Decision, Plan, Transaction};

/// Finds the target; `None` for one that needs no finding: the end of the backup, the end of all WAL. Refuses a
/// recovery that would make a tablespace in a place that is somebody else's, or is not there.
pub(super) fn locate(facts: &Facts, decision: &Decision, site: &Site<'_>) -> anyhow::Result<Option<Arrival>> {
    let Decision { plan, backup, route } = decision;
    let looked_up = !matches!(plan.target, Target::Immediate | Target::Latest);
    if !looked_up && plan.role == Role::Production {
        return Ok(None);
    }
    let moment = match &plan.target {
        Target::Time(time) => Moment::Time(time.to_utc()),
        Target::Lsn(lsn) => Moment::Lsn(*lsn),
        Target::Xid(xid) => Moment::Xid(*xid),
        Target::Name(name) => Moment::Name(name.clone()),
        Target::Immediate | Target::Latest => Moment::End,
    };
    let until = (plan.target == Target::Immediate).then_some(backup.span.stop_lsn);
    let identity =
        Identity { system_identifier: facts.system, segment_size: backup.source.segment_size, major: Some(plan.major) };
    let pg_wal = facts.origin.as_ref().map(|origin| origin.pgdata.join("pg_wal"));
    let mut source = moments::reader(&site.repository, identity, pg_wal.as_deref());
    let question = Question { moment, exclusive: plan.exclusive };
    let (cancel, progress) = (&site.ctx.cancel, &*site.ctx.progress);
    let located = moments::locate(route, &mut source, backup.span.start_lsn, until, &question, cancel, progress)?;
    let version = tablespace_version_directory(plan.major, backup.source.catalog_version);
    new_tablespaces(&located.new_tablespaces, &version, facts.directory.cluster())?;
    if !looked_up {
        return Ok(None);
    }
    answer(plan, backup.span.stop_lsn, &located).map(Some).map_err(anyhow::Error::from)
}

/// Replay makes a tablespace where it was first made, whatever `-T` says: a copy would write into the files of its
/// original. Only what is free, or belongs to the old cluster and moves aside with it, can be used.
fn new_tablespaces(made: &[(u32, PathBuf)], version: &str, old: Option<&OldCluster>) -> Result<(), Advice> {
    for (oid, location) in made.iter().filter(|(_, location)| location.is_absolute()) {
        let moves_aside = old.is_some_and(|old| old.tablespace_links.iter().any(|(_, known)| known == location));
        let place = location.display();
        if !location.is_dir() {
            return Err(Advice::refused(format!(
                "tablespace {oid} is made behind the backup at {place}, which is not there"
            ))
            .hint("make that directory, or choose a newer backup and map its tablespace with -T"));
        }
        if !moves_aside && location.join(version).exists() {
            return Err(Advice::refused(format!(
                "tablespace {oid} is made behind the backup at {place}, which a cluster on this host uses: replay \
                 would write into its files"
            ))
            .hint("choose a backup that has the tablespace and map it with -T, or a target before it was made"));
        }
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_tablespace_needs_a_place_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().to_path_buf();
        let made = [(16_384, place.clone())];
        assert!(new_tablespaces(&made, "PG_15_1", None).is_ok());
        std::fs::create_dir(place.join("PG_15_1")).unwrap();
        assert!(new_tablespaces(&made, "PG_15_1", None).is_err());
        let old = |links| OldCluster {
            control: None,
            server: None,
            pg_wal_link: None,
            tablespace_links: links,
            is_mount_point: false,
        };
        assert!(new_tablespaces(&made, "PG_15_1", Some(&old(Vec::new()))).is_err());
        assert!(new_tablespaces(&made, "PG_15_1", Some(&old(vec![(16_384, place.clone())]))).is_ok());
        assert!(new_tablespaces(&[(1, place.join("missing"))], "PG_15_1", None).is_err());
        assert!(new_tablespaces(&[(1, PathBuf::new())], "PG_15_1", None).is_ok());
    }
}
