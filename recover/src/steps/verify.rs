//! Step 8: the recovered server answers, and it is where it should be. Only then does it archive.

use std::time::Duration;

use anyhow::Context as _;
use common::archive::identity::read_control;
use common::pg::Lsn;
use common::report::Advice;
use common::restore::demands::Demands;
use common::restore::follow::Arrival;
use common::restore::target::Target;
use common::server::{Session, await_session};
use common::sys::clock::{Deadline, poll};

use super::{Site, configure, start};
use crate::journal::{Journal, Stage};
use crate::plan::Plan;

/// How long a server that takes writes may take to answer.
const ANSWER_WAIT_MAX: Duration = Duration::from_mins(1);

/// How long a server may take to read its configuration.
const RELOAD_WAIT_MAX: Duration = Duration::from_secs(10);

/// Between two looks whether it has.
const RELOAD_PAUSE: Duration = Duration::from_millis(100);

/// Verifies, and ends the recovery where the server was promoted.
pub(crate) fn run(arrival: &Arrival, journal: &mut Journal, site: &Site<'_>) -> anyhow::Result<String> {
    reached(arrival, &journal.plan, site)?;
    match arrival {
        Arrival::Promoted { timeline, .. } => {
            journal.new_timeline = Some(*timeline);
            journal.write(&site.place)?;
            release(journal, site)
        }
        Arrival::Paused { at } => {
            let mut session = connect(&journal.plan, site)?;
            Ok(format!("{}, waiting at {at}", catalogs(&mut session, &journal.plan, site)?))
        }
        Arrival::StandsBy { .. } => anyhow::bail!("the server is a standby, and nobody asked for one"),
        Arrival::ShutDown { .. } => {
            configure::promote_when_started(site)?;
            Ok("the server has stopped, as asked; its next start ends the recovery".to_owned())
        }
    }
}

/// The position that was reached is the one that was planned. A pause alone proves nothing: a server also pauses where
/// its settings are lower than the WAL asks for.
pub(crate) fn reached(arrival: &Arrival, plan: &Plan, site: &Site<'_>) -> anyhow::Result<()> {
    let at = arrival.position();
    let Some(shortfall) = shortfall(at, plan) else { return Ok(()) };
    let pgdata = plan.pgdata.display();
    let hint = match arrival {
        Arrival::Paused { .. } => match too_low(plan, site)? {
            lower if lower.is_empty() => format!(
                "somebody paused it, or a setting is too low: its log says why; SELECT pg_wal_replay_resume() lets it go \
                 on, recover continue -D {pgdata} starts it anew towards the target"
            ),
            lower => format!("{}; recover continue -D {pgdata} starts the server with that", lower.join(", ")),
        },
        _ => "the server's log says why; do not use this server before you know".to_owned(),
    };
    Err(Advice::failed(shortfall).hint(hint).into())
}

/// What is wrong with a replay that ended at `at`; `None` when it is where the plan said.
fn shortfall(at: Lsn, plan: &Plan) -> Option<String> {
    if let Some(planned) = &plan.arrival {
        return (at != planned.at).then(|| format!("replay ended at {at}, and the plan said {}", planned.at));
    }
    let consistent = || plan.wal.stretches.last().and_then(|stretch| stretch.to);
    let least = match plan.target {
        Target::Latest => Lsn(plan.archive_reaches.0.saturating_sub(plan.segment_bytes)),
        Target::Immediate => consistent()?,
        _ => return None,
    };
    let short = || format!("replay ended at {at}, short of {}, which lies at {least} or behind", plan.target);
    (at < least).then(short)
}

/// The settings of the running server that are lower than the WAL that it has replayed asks for, in words.
fn too_low(plan: &Plan, site: &Site<'_>) -> anyhow::Result<Vec<String>> {
    let demands = Demands::of_control(&read_control(&plan.pgdata)?);
    let mut session = connect(plan, site)?;
    let mut lower = Vec::new();
    for (name, least) in demands.settings(true) {
        let found = session.value(&format!("SELECT current_setting('{name}')"))?.unwrap_or_default();
        if found.parse::<i32>().is_ok_and(|found| found < least) {
            lower.push(format!("{name} is {found}, and the WAL asks for {least}"));
        }
    }
    Ok(lower)
}

/// Checks a server that takes writes and lets it archive.
fn release(journal: &mut Journal, site: &Site<'_>) -> anyhow::Result<String> {
    let mut session = connect(&journal.plan, site)?;
    let in_recovery = session.value("SELECT pg_is_in_recovery()")?;
    anyhow::ensure!(in_recovery.as_deref() == Some("f"), "the server is still in recovery");
    let seen = catalogs(&mut session, &journal.plan, site)?;
    journal.notes = in_doubt(&mut session)?;
    configure::finish(journal, site)?;
    journal.notes.extend(left_until_a_restart(&mut session, site)?);
    journal.reach(Stage::Done, &site.place)?;
    Ok(seen)
}

/// Lets the server read its configuration; answers what of the recovery stays in it until its next start, in words.
fn left_until_a_restart(session: &mut Session, site: &Site<'_>) -> anyhow::Result<Vec<String>> {
    let before = session.value("SELECT pg_conf_load_time()")?;
    session.execute("SELECT pg_reload_conf()")?;
    let read = poll(Deadline::after(RELOAD_WAIT_MAX), RELOAD_PAUSE, &site.ctx.cancel, || {
        Ok((session.value("SELECT pg_conf_load_time()")? != before).then_some(()))
    })?;
    if read.is_none() {
        return Ok(vec!["the server has not read its configuration yet: SELECT pg_reload_conf()".to_owned()]);
    }
    let rows = session.rows("SELECT name, setting FROM pg_settings WHERE pending_restart ORDER BY name")?;
    let pending: Vec<(String, String)> = rows
        .into_iter()
        .filter_map(|row| <[Option<String>; 2]>::try_from(row).ok())
        .filter_map(|[name, setting]| Some((name?, setting?)))
        .collect();
    Ok(until_a_restart(&pending))
}

/// In words; settings of a recovery alone mean nothing to a server that takes writes.
fn until_a_restart(pending: &[(String, String)]) -> Vec<String> {
    let of_recovery = |name: &str| name == "hot_standby" || name.starts_with("recovery_target");
    let (idle, kept): (Vec<_>, Vec<_>) = pending.iter().partition(|(name, _)| of_recovery(name));
    let mut notes: Vec<String> = kept
        .iter()
        .map(|(name, setting)| {
            format!(
                "{name} is {setting}, as the recovery needed it; the next restart makes it what the configuration says"
            )
        })
        .collect();
    if !idle.is_empty() {
        notes.push(
            "pg_settings shows hot_standby and recovery_target… as pending a restart: they mean nothing to a server that \
             takes writes, and no restart is needed"
                .to_owned(),
        );
    }
    notes
}

pub(crate) fn connect(plan: &Plan, site: &Site<'_>) -> anyhow::Result<Session> {
    let conninfo = start::conninfo(plan, site)?;
    let advice = || {
        Advice::failed(format!("the recovered server on {} cannot be asked", plan.pgdata.display())).hint(format!(
            "name the way to it with -d, -h, -p or -U in recover finish -D {}, which ends the recovery",
            plan.pgdata.display()
        ))
    };
    await_session(&conninfo, ANSWER_WAIT_MAX, &site.ctx.cancel).with_context(advice)
}

/// Reads the catalog of every database that takes connections; answers what was seen.
fn catalogs(session: &mut Session, plan: &Plan, site: &Site<'_>) -> anyhow::Result<String> {
    let databases = session.stored(&["datname"], "pg_database WHERE datallowconn ORDER BY datname")?;
    let names = databases.into_iter().flatten().map(String::from_utf8);
    // Only a client of the right encoding can name the others.
    let (names, others): (Vec<_>, Vec<_>) = names.partition(Result::is_ok);
    let mut relations = 0_u64;
    for name in names.iter().flatten() {
        let mut conninfo = start::conninfo(plan, site)?;
        conninfo.set("dbname", name.clone())?;
        let reading = || format!("read the catalog of database {name:?}");
        let mut session = Session::connect(&conninfo, &site.ctx.cancel).with_context(reading)?;
        let count = session.value("SELECT count(*) FROM pg_class").with_context(reading)?;
        relations += count.and_then(|count| count.parse::<u64>().ok()).unwrap_or_default();
    }
    let left_out = match others.len() {
        0 => String::new(),
        count => format!(", {count} not asked because the name is no UTF-8"),
    };
    Ok(format!("{} databases with {relations} relations answer{left_out}", names.len()))
}

/// Transactions that were prepared and neither committed nor rolled back at the target.
fn in_doubt(session: &mut Session) -> anyhow::Result<Vec<String>> {
    let rows = session.stored(&["gid", "database", "prepared"], "pg_prepared_xacts ORDER BY prepared")?;
    let text = |row: Vec<Vec<u8>>| {
        let words: Vec<_> = row.iter().map(|word| String::from_utf8_lossy(word)).collect();
        format!("a prepared transaction is in doubt: {}", words.join(", "))
    };
    Ok(rows.into_iter().map(text).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_until_a_restart_is_told_apart() {
        let pending =
            |names: &[&str]| -> Vec<_> { names.iter().map(|name| ((*name).to_owned(), "7".to_owned())).collect() };
        assert!(until_a_restart(&[]).is_empty());
        let notes = until_a_restart(&pending(&["hot_standby", "max_connections", "recovery_target_lsn"]));
        assert_eq!(notes.len(), 2);
        assert!(notes[0].starts_with("max_connections is 7"), "{notes:?}");
        assert!(notes[1].contains("no restart is needed"), "{notes:?}");
    }

    #[test]
    fn a_pause_short_of_the_target_is_no_arrival() {
        let plan = crate::journal::tests::journal("/data", 50, Target::Lsn(Lsn(50))).plan;
        assert_eq!(shortfall(Lsn(50), &plan), None);
        for at in [0, 49, 51] {
            assert!(shortfall(Lsn(at), &plan).is_some(), "{at}");
        }
        let immediate = |to| {
            let mut plan = crate::journal::tests::journal("/data", 50, Target::Immediate).plan;
            plan.arrival = None;
            plan.wal.stretches[0].to = to;
            plan
        };
        assert!(shortfall(Lsn(49), &immediate(Some(Lsn(50)))).is_some());
        assert_eq!(shortfall(Lsn(50), &immediate(Some(Lsn(50)))), None);
    }
}
