//! `recover extract`: tables, or one database, as of a moment, into a file; production goes on and notices nothing.
//!
//! The moment is planned and proved as for `recover run`. Then a scratch cluster in a private folder of its own goes there,
//! `pg_dump` writes what is wanted, and the folder is removed, however it went. Nobody is asked anything, and the running
//! server is not even asked to end its segment: what its `pg_wal` holds counts, as it lies there.

mod destination;
mod dump;
pub(crate) mod names;
pub(crate) mod wanted;

use std::path::PathBuf;

use anyhow::Context as _;
use common::app::{Context, Outcome};
use common::archive::Identity;
use common::report::{Advice, message_of};
use common::restore::extract::Means;
use common::restore::follow::Arrival;
use common::restore::scratch::{self, Entrance, Folder, Revival};
use common::restore::settings::Replay;
use common::sys::identity;
use common::units::ByteCount;
use serde::Serialize;

use crate::cli::{Cli, ExtractArgs, Format};
use crate::facts::{self, Facts};
use crate::lease::Hold;
use crate::place::Place;
use crate::plan::{self, Decision};
use crate::report::{Reporter, Step, describe_moment, warnings};
use crate::steps::{self, Site, configure, extract as unpacking, reachable, verify};

use destination::Output;
use wanted::Wanted;

/// The names of the steps.
const STEPS: &[&str] = &["check", "extract", "replay", "dump", "remove"];

/// The document of `--json`.
#[derive(Debug, Serialize)]
struct Report<'a> {
    output: String,
    format: Format,
    database: &'a str,
    tables: Vec<String>,
    backup: String,
    target: &'a common::restore::target::Target,
    exclusive: bool,
    timeline: common::pg::TimelineId,
    reached: common::pg::Lsn,
    relations: usize,
    bytes: u64,
    rolled_back: &'a [String],
    notes: &'a [String],
    steps: Vec<Step>,
}

/// Carries out `recover extract`.
pub(crate) fn run(args: &ExtractArgs, cli: &Cli, ctx: &Context) -> anyhow::Result<Outcome> {
    let wanted = Wanted::of(args, cli)?;
    let output = Output::of(args, ctx)?;
    let base = destination::base(args, &output, ctx)?;
    let mut reporter = if output == Output::Standard { Reporter::silent(ctx, STEPS) } else { Reporter::of(ctx, STEPS) };
    let repository = facts::open_repository(ctx)?;
    become_somebody(&base, &repository)?;
    for left in scratch::clear_leftovers(&base) {
        tracing::warn!("removed {}, which a killed extraction had left", left.display());
    }
    let path = scratch::choose(&base);
    let place = Place { pgdata: scratch::pgdata(&path) };
    let production = ctx.settings.pgdata.as_ref().map(|pgdata| ctx.environment.absolute(&pgdata.value));
    let production = production.unwrap_or_else(|| place.pgdata.clone());
    let mut facts = facts::gather_beside(&production, &place, &repository, ctx)?;
    destination::guard(&base, &output, &facts, ctx)?;
    let run = args.as_run(scratch::tablespaces(&path));
    facts.aim = steps::target::aim(&facts, &run.moment, &repository, ctx)?;
    let mut decision = plan::decide(&facts, &run, Some(scratch::PORT), &place)?;
    let site = Site::new(place, repository, cli, ctx, &decision)?;
    let pg_dump = site.programs.client("pg_dump")?;
    let _lease = Hold::take(&site.repository, &decision.backup, &site.place, "recover extract", ctx);
    let checked = steps::check::prove(&facts, &mut decision, &run, &site)?;
    reporter.line(&format!("extract         {} to {}", wanted.describe(), output.describe()))?;
    for line in describe_moment(&decision.plan, "").into_iter().chain(warnings(&decision.plan)) {
        reporter.line(&line)?;
    }
    reporter.done(checked)?;
    let work =
        Work { wanted: &wanted, output: &output, args, facts: &facts, decision: &decision, site: &site, pg_dump };
    let folder = Folder::make(&path)?;
    let done = work.carry_out(&folder, &mut reporter);
    let removed = folder.remove();
    let done = match (done, removed) {
        (Ok(done), Ok(())) => done,
        (Err(error), Ok(())) => return Err(error),
        (Ok(_), Err(error)) => return Err(with_leftover(error, &path)),
        (Err(error), Err(removing)) => {
            tracing::warn!("{} is left: {}", path.display(), message_of(&removing));
            return Err(error);
        }
    };
    reporter.done("nothing of the scratch cluster is left")?;
    for note in &done.notes {
        tracing::warn!("{note}");
    }
    if ctx.output.is_json() {
        let plan = &decision.plan;
        ctx.output.json(&Report {
            output: output.describe(),
            format: args.format,
            database: &wanted.database,
            tables: wanted.tables.iter().map(ToString::to_string).collect(),
            backup: plan.backup.to_string(),
            target: &plan.target,
            exclusive: plan.exclusive,
            timeline: plan.timeline,
            reached: done.arrival.position(),
            relations: done.relations,
            bytes: done.bytes,
            rolled_back: &done.rolled_back,
            notes: &done.notes,
            steps: reporter.into_steps(),
        })?;
    }
    Ok(Outcome::Done)
}

/// PostgreSQL does not run as root: then the owner of the directory for the scratch cluster is who goes on, or whoever owns
/// the cluster that the backups were taken of.
fn become_somebody(base: &std::path::Path, repository: &common::archive::Repository) -> anyhow::Result<()> {
    if !identity::is_root() {
        return Ok(());
    }
    let recorded = common::archive::backups::complete(repository)?.pop().map(|backup| backup.source.data_directory);
    for place in recorded.iter().map(PathBuf::as_path).filter(|place| place.exists()).chain([base]) {
        identity::become_owner_of(place)?;
    }
    if identity::is_root() {
        return Err(Advice::refused("PostgreSQL does not run as root, and nobody else is to be seen here")
            .hint("run recover extract as the user that runs PostgreSQL")
            .into());
    }
    Ok(())
}

/// The extract is whole and has its name, and the scratch cluster is still there.
fn with_leftover(error: anyhow::Error, path: &std::path::Path) -> anyhow::Error {
    error.context(
        Advice::failed("the extract is written, and the scratch cluster could not be removed")
            .hint(format!("remove {}; the next recover extract there tries it, too", path.display())),
    )
}

/// What is done in the scratch folder.
struct Work<'a> {
    wanted: &'a Wanted,
    output: &'a Output,
    args: &'a ExtractArgs,
    facts: &'a Facts,
    decision: &'a Decision,
    site: &'a Site<'a>,
    pg_dump: PathBuf,
}

/// What came of it.
struct Done {
    arrival: Arrival,
    relations: usize,
    bytes: u64,
    rolled_back: Vec<String>,
    notes: Vec<String>,
}

impl Work<'_> {
    fn carry_out(&self, folder: &Folder, reporter: &mut Reporter<'_>) -> anyhow::Result<Done> {
        let (ctx, plan) = (self.site.ctx, &self.decision.plan);
        let replay = Replay {
            restore_command: configure::restore_command(Some(&folder.wal_plan()), ctx)?,
            target: plan.target.clone(),
            exclusive: plan.exclusive,
            timeline: plan.timeline,
            action: plan.action,
        };
        let live = self.facts.origin.as_ref().map(|origin| (origin.wal_places(), Identity::of(&origin.control)));
        let revival = Revival {
            repository: &self.site.repository,
            backup: &self.decision.backup,
            replay: &replay,
            wal: &plan.wal,
            demands: plan.demands,
            until: Some(plan.arrival.as_ref().map_or(plan.wal_reaches, |arrival| arrival.at)),
            live: live.as_ref().map(|(places, identity)| (&places[..], *identity)),
            programs: &self.site.programs,
            means: Means { jobs: unpacking::jobs(self.site), progress: &*ctx.progress, cancel: &ctx.cancel },
        };
        revival.secure(folder)?;
        let unpacked = revival.unpack(folder)?;
        reporter.done(format!("{} files, {}, every one checked", unpacked.files, ByteCount(unpacked.bytes)))?;
        let arrival = revival.replay(folder).map_err(|err| reachable::told(err, plan, self.site))?;
        verify::reached(&arrival, plan, self.site)?;
        reporter.done(arrival.describe())?;
        let Entrance { mut session, conninfo, elsewhere } =
            scratch::session(folder, &self.wanted.database, &self.users()?, &ctx.cancel)?;
        if let Some(why) = elsewhere {
            return Err(wanted::no_such_database(&self.wanted.database, &why, &mut session)?.into());
        }
        let rolled_back = dump::roll_back_prepared(&mut session)?;
        let found = self.wanted.find(&mut session)?;
        drop(session);
        let file = self.output.begin(folder)?;
        let bytes = dump::write(&self.pg_dump, &conninfo, &found.patterns, self.args.format, &file, ctx)?;
        self.output.finish(file, ctx)?;
        let relations = found.patterns.len();
        let what = match relations {
            0 => self.wanted.describe(),
            1 => "1 relation".to_owned(),
            _ => format!("{relations} relations"),
        };
        reporter.done(format!("{what}, {}", ByteCount(bytes)))?;
        let mut notes = found.notes;
        notes.extend(rolled_back.iter().map(|name| {
            format!(
                "the transaction {name:?} was prepared and not committed at that moment: the extract has nothing of it"
            )
        }));
        Ok(Done { arrival, relations, bytes, rolled_back, notes })
    }

    /// Who may be a superuser of the scratch cluster, likeliest first.
    fn users(&self) -> anyhow::Result<Vec<String>> {
        let resolved = self.site.ctx.resolve(self.site.ctx.connection_sources(&self.site.cli.server));
        let given = self.site.cli.server.username.clone();
        if let Some(given) = given {
            return Ok(vec![given]);
        }
        let mut users: Vec<String> =
            resolved.context("find the user to connect as")?.user().map(ToOwned::to_owned).into_iter().collect();
        if !users.iter().any(|user| user == "postgres") {
            users.push("postgres".to_owned());
        }
        Ok(users)
    }
}
