//! Step 8: the recovered server answers, and it is where it should be. Only then does it archive.

mod indexes;
mod pages;
pub(crate) mod rows;

use std::time::Duration;

use anyhow::Context as _;
use common::archive::identity::read_control;
use common::pg::Lsn;
use common::report::{Advice, Cancel};
use common::restore::demands::Demands;
use common::restore::follow::{Arrival, last_words};
use common::restore::target::Target;
use common::server::{Conninfo, Session, await_session};
use common::sys::clock::{Deadline, poll};
use serde::Serialize;

use self::indexes::Indexes;
use self::pages::{Layout, Sampled};
use super::{Site, configure, start};
use crate::cli::VerifyArgs;
use crate::journal::{Journal, Stage};
use crate::plan::Plan;
use crate::report_file::Report;
use crate::standby::silence;

/// How long a server that takes writes may take to answer.
const ANSWER_WAIT_MAX: Duration = Duration::from_mins(1);

/// How long a server may take to read its configuration.
const RELOAD_WAIT_MAX: Duration = Duration::from_secs(10);

/// How long a look at a table waits for whoever has locked it: at a target a transaction may hold one for ever.
const LOCK_WAIT: &str = "SET lock_timeout = '5s'";

/// Tables that are named as locked.
const LOCKED_MAX: usize = 20;

/// Between two looks whether it has.
const RELOAD_PAUSE: Duration = Duration::from_millis(100);

/// `DATCONNLIMIT_INVALID_DB` (`src/include/catalog/pg_database.h`).
const INVALID_DATABASE: i32 = -2;

/// What the check looked at and found.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Verified {
    /// In words.
    pub(crate) seen: String,
    /// Where replay ended.
    pub(crate) at: Lsn,
    /// Page checksums; none in a cluster without.
    pub(crate) pages: Option<Sampled>,
    /// Indexes, where they were to be checked.
    pub(crate) indexes: Option<Indexes>,
    /// How many tables' rows were counted.
    pub(crate) tables: usize,
    /// What is wrong, a line each.
    pub(crate) findings: Vec<String>,
    /// Whether the recovery is not ended because of them.
    pub(crate) withheld: bool,
}

/// Refuses, before anything is touched, files that cannot be read or written.
pub(crate) fn prepare(args: &VerifyArgs) -> anyhow::Result<()> {
    if let Some(file) = &args.row_counts {
        rows::read(file)?;
    }
    args.report.as_deref().map_or(Ok(()), Report::may_be_written)
}

/// Verifies, and ends the recovery where the server was promoted and nothing wrong was found, or that was accepted.
pub(crate) fn run(arrival: &Arrival, journal: &mut Journal, site: &Site<'_>) -> anyhow::Result<Verified> {
    reached(arrival, &journal.plan, site)?;
    let mut verified = Verified { at: arrival.position(), ..Verified::default() };
    match arrival {
        Arrival::Promoted { timeline, .. } => {
            journal.new_timeline = Some(*timeline);
            journal.write(&site.place)?;
            release(journal, site, &mut verified)?;
        }
        Arrival::Paused { at } => {
            let mut session = connect(&journal.plan, site)?;
            journal.notes = locked(&mut session)?;
            examine(&mut session, &journal.plan, site, &mut verified)?;
            verified.seen = format!("{}, waiting at {at}", verified.seen);
        }
        Arrival::StandsBy { at, streams } => {
            let mut session = connect(&journal.plan, site)?;
            examine(&mut session, &journal.plan, site, &mut verified)?;
            let has_primary = journal.plan.standby.as_ref().is_some_and(|it| it.primary_conninfo.is_some());
            if has_primary && !streams {
                verified.findings.push(silence(*at, &last_words::of(&site.place.start_log())));
            }
            journal.reach(Stage::Done, &site.place)?;
        }
        Arrival::ShutDown { .. } => {
            configure::promote_when_started(site)?;
            pages_of(site, &mut verified)?;
            verified.seen = format!("the server has stopped, as asked{}", verified.seen);
        }
    }
    Ok(verified)
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
        // It goes on for as long as it is one.
        _ if plan.standby.is_some() => return None,
        // A plan of before it was looked up has the archive's end alone.
        Target::Latest => {
            plan.wal_ends.unwrap_or_else(|| Lsn(plan.archive_reaches.0.saturating_sub(plan.segment_bytes)))
        }
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
fn release(journal: &mut Journal, site: &Site<'_>, verified: &mut Verified) -> anyhow::Result<()> {
    let mut session = connect(&journal.plan, site)?;
    let in_recovery = session.value("SELECT pg_is_in_recovery()")?;
    anyhow::ensure!(in_recovery.as_deref() == Some("f"), "the server is still in recovery");
    examine(&mut session, &journal.plan, site, verified)?;
    journal.notes = in_doubt(&mut session)?;
    journal.notes.extend(invalid(&mut session)?);
    if site.cli.accepts_findings() {
        journal.withheld.clear();
    } else {
        // Another look may see less: a sample, or a call without the same options.
        let known = std::mem::take(&mut journal.withheld);
        let forgotten: Vec<_> = known.into_iter().filter(|finding| !verified.findings.contains(finding)).collect();
        verified.findings.extend(forgotten);
        if !verified.findings.is_empty() {
            verified.withheld = true;
            journal.withheld.clone_from(&verified.findings);
            return journal.write(&site.place);
        }
    }
    configure::finish(journal, site)?;
    journal.notes.extend(left_until_a_restart(&mut session, site)?);
    journal.reach(Stage::Done, &site.place)
}

/// Looks at everything that a server that takes sessions can be asked about.
fn examine(session: &mut Session, plan: &Plan, site: &Site<'_>, verified: &mut Verified) -> anyhow::Result<()> {
    let args = site.cli.verify();
    let (databases, seen) = catalogs(session, plan, site, &mut verified.findings)?;
    let mut parts = vec![seen];
    let to = |database: &str| {
        let mut conninfo = start::conninfo(plan, site)?;
        conninfo.set("dbname", database)?;
        Ok(conninfo)
    };
    pages_of(site, verified)?;
    parts.extend(std::mem::take(&mut verified.seen).strip_prefix(", ").map(str::to_owned));
    if let Some(which) = args.amcheck {
        let mut found = Indexes::default();
        let seed = seed(site);
        for database in &databases {
            indexes::check(database, &to(database)?, which, seed, &mut found, &site.ctx.cancel)
                .with_context(|| format!("check the indexes of database {database:?}"))?;
        }
        parts.push(found.describe());
        verified.findings.extend(found.wrong.iter().cloned());
        verified.indexes = Some(found);
    }
    if let Some(file) = &args.row_counts {
        let expected = rows::read(file)?;
        let differences = rows::compare(&expected, &to, &site.ctx.cancel)?;
        parts.push(format!("{} tables counted, {} differ", expected.len(), differences.len()));
        verified.tables = expected.len();
        verified.findings.extend(differences);
    }
    verified.seen = parts.join(", ");
    Ok(())
}

/// The number that chances are drawn by.
fn seed(site: &Site<'_>) -> u64 {
    // Of a size that a person can copy.
    site.cli.verify().sample_seed.unwrap_or_else(|| fastrand::u64(0..1_000_000))
}

/// Looks at page checksums, where the cluster has them.
fn pages_of(site: &Site<'_>, verified: &mut Verified) -> anyhow::Result<()> {
    let control = read_control(&site.place.pgdata)?;
    let limit = site.cli.verify().page_sample_bytes();
    if control.data_checksum_version == 0 || limit == 0 {
        return Ok(());
    }
    let layout = Layout { page_bytes: control.block_size, file_blocks: control.relseg_blocks };
    let sampled = pages::sample(&site.place.pgdata, layout, limit, seed(site), &site.ctx.cancel)?;
    verified.seen = format!(", {}", sampled.describe());
    let named = sampled.first_bad.iter();
    verified
        .findings
        .extend(named.map(|(file, block)| format!("page {block} of {} has a wrong checksum", file.display())));
    let more = sampled.bad.saturating_sub(sampled.first_bad.len() as u64);
    verified.findings.extend((more > 0).then(|| format!("{more} more pages have wrong checksums")));
    verified.pages = Some(sampled);
    Ok(())
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

/// A session that gives up a look at a table which somebody has locked.
fn looking_session(conninfo: &Conninfo, cancel: &Cancel) -> anyhow::Result<Session> {
    let mut session = Session::connect(conninfo, cancel)?;
    session.execute(LOCK_WAIT)?;
    Ok(session)
}

/// The databases that take connections; only a client of the right encoding can name those that are no UTF-8. An
/// invalid one takes none, whatever else its row says.
pub(crate) fn databases(session: &mut Session) -> anyhow::Result<Vec<Result<String, std::string::FromUtf8Error>>> {
    let names = session.stored(
        &["datname"],
        &format!("pg_database WHERE datallowconn AND datconnlimit <> {INVALID_DATABASE} ORDER BY datname"),
    )?;
    Ok(names.into_iter().flatten().map(String::from_utf8).collect())
}

/// What there is to do about databases that an interrupted `DROP DATABASE` has left.
fn invalid(session: &mut Session) -> anyhow::Result<Vec<String>> {
    let from = format!("pg_database WHERE datconnlimit = {INVALID_DATABASE} ORDER BY datname");
    let names = session.stored(&["datname"], &from)?;
    let told = |name: Vec<u8>| {
        let name = String::from_utf8_lossy(&name).into_owned();
        format!("database {name:?} is invalid: a DROP DATABASE of it was cut short; drop it once more")
    };
    Ok(names.into_iter().flatten().map(told).collect())
}

/// Reads the catalog of every database; answers those that were read, and what was seen. One that lets nobody in is a
/// finding, as long as the server itself answers.
fn catalogs(
    session: &mut Session,
    plan: &Plan,
    site: &Site<'_>,
    findings: &mut Vec<String>,
) -> anyhow::Result<(Vec<String>, String)> {
    let all = databases(session)?;
    let (known, own) = (all.len(), session.value("SELECT current_database()")?);
    let named: Vec<String> = all.into_iter().flatten().collect();
    let (mut read, mut relations, left_out) = (Vec::new(), 0_u64, known - named.len());
    for name in named {
        let reading = || format!("read the catalog of database {name:?}");
        let mut conninfo = start::conninfo(plan, site)?;
        conninfo.set("dbname", name.clone())?;
        match count_relations(&conninfo, site) {
            Ok(count) => {
                relations += count;
                read.push(name);
            }
            Err(err) => {
                site.ctx.cancel.check()?;
                if own.as_ref() == Some(&name) || session.value("SELECT 1").is_err() {
                    return Err(err).with_context(reading);
                }
                findings.push(format!("database {name:?} cannot be read: {err:#}"));
            }
        }
    }
    let left_out = match left_out {
        0 => String::new(),
        count => format!(", {count} not asked because the name is no UTF-8"),
    };
    let seen = format!("{} databases with {relations} relations answer{left_out}", read.len());
    Ok((read, seen))
}

/// How many relations the catalog of a database tells of.
fn count_relations(conninfo: &Conninfo, site: &Site<'_>) -> anyhow::Result<u64> {
    let mut session = looking_session(conninfo, &site.ctx.cancel)?;
    let count = session.value("SELECT count(*) FROM pg_class")?;
    Ok(count.and_then(|count| count.parse().ok()).unwrap_or_default())
}

/// Tables that transactions which are open at the moment have locked against everybody: replay holds their locks.
fn locked(session: &mut Session) -> anyhow::Result<Vec<String>> {
    let rows = session.rows(
        "SELECT DISTINCT d.datname, CASE WHEN d.datname = current_database() THEN l.relation::regclass::text \
         ELSE 'relation ' || l.relation END FROM pg_locks l JOIN pg_database d ON d.oid = l.database \
         WHERE l.locktype = 'relation' AND l.mode = 'AccessExclusiveLock' AND l.granted \
         AND l.pid <> pg_backend_pid() ORDER BY 1, 2",
    )?;
    let names: Vec<String> = rows
        .into_iter()
        .filter_map(|row| <[Option<String>; 2]>::try_from(row).ok())
        .filter_map(|[database, table]| Some(format!("{} of {}", table?, database?)))
        .collect();
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let more = if names.len() > LOCKED_MAX { ", …" } else { "" };
    let some = names.iter().take(LOCKED_MAX).map(String::as_str).collect::<Vec<_>>().join(", ");
    Ok(vec![format!(
        "a transaction that is open at this moment has locked {some}{more}: whoever reads that waits, until recover promote \
         ends the transaction"
    )])
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
            (plan.arrival, plan.standby) = (None, None);
            plan.wal.stretches[0].to = to;
            plan
        };
        assert!(shortfall(Lsn(49), &immediate(Some(Lsn(50)))).is_some());
        assert_eq!(shortfall(Lsn(50), &immediate(Some(Lsn(50)))), None);
    }
}
