//! `recover find`: what happened when.
//!
//! A person knows what is gone and not when. This walks the WAL from a backup on, archived and in the cluster's own
//! `pg_wal`, and tells the commits that dropped or truncated something or deleted many rows, newest first, each with the
//! commands that go to the moment just before.
//!
//! `gather` (facts, names) → `history` (takes in the log, pure) → `judge` (what a commit did, pure) → `commands`, `report`.
//! Nothing is written and no server is asked.

mod commands;
mod finding;
mod history;
mod judge;
mod names;
mod report;
mod work;

use std::ops::ControlFlow;

use clap::Args;
use common::app::{Context, Outcome};
use common::archive::moments;
use common::archive::walk::{self, Stretch};
use common::archive::{Identity, Repository};
use common::pg::Lsn;
use common::pg::catalog::Catalogs;
use common::pg::exclusions::tablespace_version_directory;
use common::pg::wal_reader::RecordReader;
use common::repo::BackupId;
use common::repo::chain::Inventory;
use common::report::{Advice, ExitClass, Interrupted, message_of};
use common::restore::choose::{Choice, WantedTimeline, Wish, choose};
use common::restore::target::Target;

use self::commands::{Frame, Goal};
use self::history::{History, Window};
use self::judge::Rules;
use self::report::Report;
use crate::cli::{Cli, Timeline, parse_time_argument, parse_timeline};
use crate::facts::{self, Facts, Origin};
use crate::place::Place;

/// Findings that are told unless more are asked for.
const LIMIT: u32 = 100;

/// Options of `recover find`.
#[derive(Debug, Args)]
pub struct FindArgs {
    /// Only commits of this time or later; the reading begins at the newest backup before it [default: the newest backup]
    #[arg(long, value_name = "TIME", value_parser = parse_time_argument)]
    from_time: Option<Target>,

    /// Only commits of this time or before
    #[arg(long, value_name = "TIME", value_parser = parse_time_argument)]
    to_time: Option<Target>,

    /// Only commits at this WAL position or behind it; the reading begins at the newest backup before it
    #[arg(long, value_name = "LSN")]
    from_lsn: Option<Lsn>,

    /// Only commits before this WAL position
    #[arg(long, value_name = "LSN")]
    to_lsn: Option<Lsn>,

    /// Tell a commit that deleted at least so many rows
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    rows: u64,

    /// Also tell commits that only wrote relations anew, such as VACUUM FULL
    #[arg(long)]
    rewrites: bool,

    /// Tell the newest N at most
    #[arg(long, value_name = "N", default_value_t = LIMIT, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,

    /// The timeline to look along: a number, "latest" or "current" (the backup's) [default: latest]
    #[arg(long, value_name = "TIMELINE", value_parser = parse_timeline)]
    target_timeline: Option<Timeline>,

    /// The backup to begin with
    #[arg(long, value_name = "ID")]
    backup: Option<BackupId>,
}

impl FindArgs {
    fn timeline(&self) -> WantedTimeline {
        self.target_timeline.map_or(WantedTimeline::Newest, |timeline| timeline.0)
    }
}

/// Carries out `recover find`.
pub(crate) fn run(args: &FindArgs, cli: &Cli, ctx: &Context) -> anyhow::Result<Outcome> {
    let repository = facts::open_repository(ctx)?;
    let place = place(&repository, ctx)?;
    let facts = facts::gather(&place, &repository, ctx)?;
    let mut known = facts.archive.clone();
    facts.tail.add_to(&mut known);
    let (choice, mut notes) = begin_at(args, &facts, &known)?;
    let backup = &choice.backup;
    let major = backup.source.version_number / 10_000;
    let mut catalogs = Catalogs::new(major);
    let names = names::read(&mut catalogs, &repository, backup, &ctx.cancel);
    if let Err(err) = &names {
        if err.is::<Interrupted>() {
            return names.map(|()| Outcome::Done);
        }
        notes.push(format!("the names in {} could not all be read: {}", backup.id, message_of(err)));
    }
    let from_lsn = backup.span.start_lsn;
    let mut report = Report {
        backup: backup.id,
        names: names.is_ok(),
        timeline: choice.route.history().timeline,
        from_lsn,
        to_lsn: from_lsn,
        commits: 0,
        first_commit_at: None,
        last_commit_at: None,
        rows_min: args.rows,
        findings: Vec::new(),
        older_left_out: 0,
        rewrites_left_out: 0,
        older_backups: facts.backups.first().is_some_and(|oldest| oldest.span.start_lsn < from_lsn),
        complete: true,
        notes,
    };
    let rules = Rules {
        rows_min: args.rows,
        rewrites: args.rewrites,
        version_directory: tablespace_version_directory(major, backup.source.catalog_version),
    };
    let limit = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let mut history = History::new(&choice.route, window(args), rules, limit, catalogs);
    let ending = read(args, &facts, &choice, &known, &repository, &mut history, ctx);
    if ending.as_ref().is_err_and(anyhow::Error::is::<Interrupted>) {
        return ending.map(|_| Outcome::Done);
    }
    let (findings, counts) = history.finish();
    report.count(counts);
    report.findings = findings;
    report.end(&ending, choice.route.continues_after(&known, counts.end));
    let goal = Goal::of(&place, &facts, backup, cli);
    let frame = Frame::new(cli, ctx, goal, args.timeline());
    for finding in &mut report.findings {
        frame.complete(finding, &facts.backups, &known);
    }
    report.print(ctx)?;
    Ok(if report.complete { Outcome::Done } else { Outcome::Class(ExitClass::Findings) })
}

/// The data directory that is named, else the one where the newest backup was taken.
fn place(repository: &Repository, ctx: &Context) -> anyhow::Result<Place> {
    if ctx.settings.pgdata.is_some() {
        return Place::of(ctx);
    }
    let newest = common::archive::backups::complete(repository)?.pop();
    let newest = newest.ok_or_else(|| {
        Advice::failed(format!("there is no whole backup in {}", repository.describe()))
            .hint("basebackup list shows what there is; another --cluster or --repo may hold it")
    })?;
    Ok(Place { pgdata: newest.source.data_directory })
}

fn window(args: &FindArgs) -> Window {
    let time = |time: &Option<Target>| match time {
        Some(Target::Time(time)) => Some(time.to_utc()),
        _ => None,
    };
    Window {
        from_time: time(&args.from_time),
        to_time: time(&args.to_time),
        from_lsn: args.from_lsn.unwrap_or_default(),
        to_lsn: args.to_lsn,
    }
}

/// The backup to begin with, and the way on from there: the one that `latest` follows.
fn begin_at(args: &FindArgs, facts: &Facts, known: &Inventory) -> Result<(Choice, Vec<String>), Advice> {
    let wish = |target, backup| Wish { target, timeline: args.timeline(), backup };
    let end = choose(&facts.backups, known, &wish(Target::Latest, args.backup))?;
    let froms = [args.from_lsn.map(Target::Lsn), args.from_time.clone()];
    let mut chosen = end.clone();
    let mut notes = Vec::new();
    // With both, the earlier of the two backups.
    for from in froms.into_iter().flatten().filter(|_| args.backup.is_none()) {
        let before = choose(&facts.backups, known, &wish(from.clone(), None)).map(|choice| choice.backup);
        let backup = before.or_else(|refusal| {
            let timeline = end.route.history().timeline;
            let oldest = facts
                .backups
                .iter()
                .find(|backup| known.descendants(backup.span.timeline, backup.span.stop_lsn).contains(&timeline));
            notes.push(format!("{}: the reading begins at the oldest backup on the way", refusal.message));
            oldest.cloned().ok_or(refusal)
        })?;
        if backup.span.start_lsn < chosen.backup.span.start_lsn {
            chosen = choose(&facts.backups, known, &wish(Target::Latest, Some(backup.id)))?;
        }
    }
    Ok((chosen, notes))
}

/// Reads the WAL from the backup's start to the end of the window, or of all.
fn read(
    args: &FindArgs,
    facts: &Facts,
    choice: &Choice,
    known: &Inventory,
    repository: &Repository,
    history: &mut History<'_>,
    ctx: &Context,
) -> anyhow::Result<walk::Ending> {
    let backup = &choice.backup;
    let (from, size) = (backup.span.start_lsn, backup.source.segment_size);
    let major = Some(backup.source.version_number / 10_000);
    let identity = Identity { system_identifier: facts.system, segment_size: size, major };
    let places = facts.origin.as_ref().map(Origin::wal_places).unwrap_or_default();
    let mut source = moments::reader(repository, identity, &places);
    let until = args.to_lsn;
    let mut reader = RecordReader::with_rows(from, size);
    let reaches = choice.route.reaches(known, from);
    let end = until.map_or(reaches, |until| until.min(reaches));
    ctx.progress.begin("read WAL", Some(end.0.saturating_sub(from.0)));
    let stretch = Stretch { route: &choice.route, from, until };
    let ending = walk::along(stretch, &mut source, &mut reader, &ctx.cancel, &*ctx.progress, &mut |event| {
        history.see(event);
        ControlFlow::Continue(())
    });
    ctx.progress.end();
    ending
}
