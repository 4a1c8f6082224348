//! Step 8: the recovered server answers, and it is where it should be. Only then does it archive.

use std::time::Duration;

use anyhow::Context as _;
use common::pg::Lsn;
use common::report::Advice;
use common::restore::follow::Arrival;
use common::restore::target::Target;
use common::server::{Probe, Session, probe};
use common::sys::clock::{Deadline, poll};

use super::{Site, configure, start};
use crate::journal::{Journal, Stage};
use crate::plan::Plan;

/// How long a server that takes writes may take to answer.
const ANSWER_WAIT_MAX: Duration = Duration::from_mins(1);

/// Between two attempts to connect.
const ANSWER_PAUSE: Duration = Duration::from_millis(100);

/// Verifies, and ends the recovery where the server was promoted.
pub(crate) fn run(arrival: &Arrival, journal: &mut Journal, site: &Site<'_>) -> anyhow::Result<String> {
    reached(arrival, &journal.plan)?;
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
        Arrival::ShutDown { .. } => {
            configure::promote_when_started(site)?;
            Ok("the server has stopped, as asked; its next start ends the recovery".to_owned())
        }
    }
}

/// The position that was reached is the one that was planned.
fn reached(arrival: &Arrival, plan: &Plan) -> anyhow::Result<()> {
    let at = arrival.position();
    if let Some(planned) = &plan.arrival {
        anyhow::ensure!(
            at == planned.at,
            Advice::failed(format!("replay ended at {at}, and the plan said {}", planned.at))
                .hint("the server's log says why; do not use this server before you know")
        );
        return Ok(());
    }
    let least = match plan.target {
        Target::Latest => Lsn(plan.archive_reaches.0.saturating_sub(plan.segment_bytes)),
        _ => return Ok(()),
    };
    anyhow::ensure!(
        at >= least,
        Advice::failed(format!("replay ended at {at}, short of {}, which lies at {least} or behind", plan.target))
            .hint("the server's log says why; recover windows shows which moments can be reached")
    );
    Ok(())
}

/// Checks a server that takes writes and lets it archive.
fn release(journal: &mut Journal, site: &Site<'_>) -> anyhow::Result<String> {
    let mut session = connect(&journal.plan, site)?;
    let in_recovery = session.value("SELECT pg_is_in_recovery()")?;
    anyhow::ensure!(in_recovery.as_deref() == Some("f"), "the server is still in recovery");
    let seen = catalogs(&mut session, &journal.plan, site)?;
    journal.notes = in_doubt(&mut session)?;
    configure::finish(journal, site)?;
    session.execute("SELECT pg_reload_conf()")?;
    journal.reach(Stage::Done, &site.place)?;
    Ok(seen)
}

fn connect(plan: &Plan, site: &Site<'_>) -> anyhow::Result<Session> {
    let conninfo = start::conninfo(plan, site)?;
    let mut reason = String::new();
    let session = poll(Deadline::after(ANSWER_WAIT_MAX), ANSWER_PAUSE, &site.ctx.cancel, || {
        Ok(match probe(&conninfo, &site.ctx.cancel)? {
            Probe::Accepting(session) => Some(session),
            Probe::NotReady(why) | Probe::NoServer(why) => {
                reason = why;
                None
            }
        })
    });
    let advice = || {
        Advice::failed(format!("the recovered server on {} cannot be asked", plan.pgdata.display())).hint(format!(
            "name the way to it with -d, -h, -p or -U in recover finish -D {}, which ends the recovery",
            plan.pgdata.display()
        ))
    };
    let session = session.with_context(advice)?.with_context(|| reason.clone()).with_context(advice)?;
    Ok(*session)
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
