//! `recover adopt`: makes a copy the production server.
//!
//! A copy is on a timeline that it took without asking anybody: the cluster itself may have taken the same number since,
//! and archived it. Two ways under one number would destroy both. So before the copy archives anything it is promoted
//! once more, onto a number that no repository and no server of the cluster has. Then what kept it to itself goes, and it
//! archives.
//!
//! Gather → decide ([`plan`]) → act. Where it stands is in `adoption.json` beside the data directory, written before each
//! step; the same command goes on after a crash anywhere.

mod act;
mod plan;

use std::path::Path;

use anyhow::Context as _;
use common::app::{Context, Outcome};
use common::archive::identity::read_control;
use common::archive::{Identity, Repository, backups, inventory};
use common::repo::chain::Inventory;
use common::report::Advice;
use common::restore::salvage;
use common::server;
use common::sys::identity::host_name;

use crate::ask;
use crate::cli::{AdoptArgs, Cli};
use crate::facts;
use crate::journal::{Journal, Stage};
use crate::place::Place;
use crate::steps::{self, Site};

use plan::{Adoption, Copy, Rival};

/// Carries it out, or goes on with one that was cut short.
pub(crate) fn run(args: &AdoptArgs, cli: &Cli, ctx: &Context) -> anyhow::Result<Outcome> {
    let place = Place::of(ctx)?;
    let pgdata = place.pgdata.display().to_string();
    if !place.folder().exists() {
        return Err(no_copy(&place, "is no copy that is known").into());
    }
    let _lock = place.lock()?;
    // The record of an adoption names no directory, the journal beside it does.
    Journal::read(&place)?;
    let repository = facts::open_repository(ctx)?;
    let adoption = if let Some(begun) = Adoption::read(&place)? {
        begun
    } else {
        let copy = copy(&place)?;
        let (known, rivals) = others(&copy, &place, &repository)?;
        let adoption = plan::decide(&copy, &known, ctx.clock.now())?;
        for line in adoption.describe() {
            ctx.output.line(&line)?;
        }
        confirm(&rivals, args, &pgdata, ctx)?;
        adoption.write(&place)?;
        adoption
    };
    let programs = steps::programs(adoption.major, &place, ctx)?;
    let site = Site { place, repository, programs, cli, ctx };
    let adoption = act::run(adoption, &site)?;
    let lines = adoption.conclusion(&pgdata);
    for line in &lines {
        ctx.output.line(line)?;
    }
    if ctx.output.is_json() {
        ctx.output.json(&serde_json::json!({
            "pgdata": pgdata, "timeline": adoption.new, "archives": adoption.archives, "conclusion": lines,
        }))?;
    }
    Ok(Outcome::Done)
}

fn no_copy(place: &Place, what: &str) -> Advice {
    Advice::refused(format!("{} {what}", place.pgdata.display()))
        .hint("name the data directory of a copy that recover run has made")
}

/// What the directory is: a copy whose recovery is over, or a refusal.
fn copy(place: &Place) -> anyhow::Result<Copy> {
    let pgdata = place.pgdata.display();
    let journal = Journal::read(place)?.ok_or_else(|| no_copy(place, "is no copy that is known"))?;
    if !journal.is_copy() {
        return Err(no_copy(place, "is the cluster itself and archives already").into());
    }
    if journal.stage != Stage::Done {
        return Err(Advice::refused(format!("the recovery of the copy {pgdata} is not over"))
            .hint(format!("end it first; recover finish -D {pgdata} tells how"))
            .into());
    }
    if plan::is_bare(&place.pgdata.join("postgresql.conf")) {
        return Err(Advice::refused(format!("{pgdata} runs without the cluster's own configuration")).hint(format!(
            "the backup holds it in config.tar: put postgresql.conf and pg_hba.conf into {pgdata}, with data_directory \
             and the port as they shall be"
        ))
        .into());
    }
    let control = read_control(&place.pgdata)?;
    Ok(Copy { control, major: journal.plan.major })
}

/// Every timeline that somebody else has, and servers of the cluster that run on this host.
fn others(copy: &Copy, place: &Place, repository: &Repository) -> anyhow::Result<(Inventory, Vec<Rival>)> {
    let system = copy.control.system_identifier;
    let mut known = inventory::read(repository, system, copy.control.segment_size)?;
    let host = host_name();
    let mut rivals: Vec<Rival> = Vec::new();
    for backup in backups::complete(repository)? {
        let source = backup.source;
        let is_here = source.host == host && source.data_directory != place.pgdata;
        if source.system_identifier != system || rivals.iter().any(|rival| rival.pgdata == source.data_directory) {
            continue;
        }
        let control = read_control(&source.data_directory).ok().filter(|it| is_here && it.system_identifier == system);
        let Some(control) = control else { continue };
        let tail = salvage::survey(&source.data_directory.join("pg_wal"), &Identity::of(&control))?;
        tail.add_to(&mut known);
        let runs = server::running(&source.data_directory)?.is_some();
        rivals.push(Rival { pgdata: source.data_directory, runs });
    }
    Ok((known, rivals))
}

/// Two production servers are one too many, and nobody but the user knows of those on other hosts.
fn confirm(rivals: &[Rival], args: &AdoptArgs, pgdata: &str, ctx: &Context) -> anyhow::Result<()> {
    if args.yes {
        return Ok(());
    }
    if let Some(rival) = rivals.iter().find(|rival| rival.runs) {
        return Err(Advice::refused(format!("the cluster's own server runs on {}", rival.pgdata.display()))
            .hint("stop it for good first; --yes makes the copy another production server all the same")
            .into());
    }
    let question = format!("Make {pgdata} the production server? Its old one must never run again.");
    if ask::yes(&question, ctx)? {
        return Ok(());
    }
    Err(Advice::refused(format!("{pgdata} does not become the production server without your word"))
        .hint("add --yes, or answer \"yes\" at a terminal, when the old production server is down for good")
        .into())
}

/// Reads a file that may be missing.
fn read_if_there(path: &Path) -> anyhow::Result<Vec<u8>> {
    match std::fs::read(path) {
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        bytes => bytes.with_context(|| format!("read {}", path.display())),
    }
}
