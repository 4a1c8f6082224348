//! `recover cleanup`: removes what recoveries have set aside, once the user is content.
//!
//! Only what a journal of this place names is removed, never what merely has such a name. The journal says that removing
//! has begun before the first file goes, since half a preserved cluster is none: from then on nothing is undone. Killed
//! in the middle, it is called again and goes on.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use common::app::{Context, Outcome};
use common::repo::envelope;
use common::report::Advice;
use common::sys::tree;
use common::units::ByteCount;
use serde::Serialize;

use crate::aside::{self, is_there, is_version, partial};
use crate::ask;
use crate::cli::CleanupArgs;
use crate::journal::{Change, Journal};
use crate::lease;
use crate::place::Place;
use crate::preserved;
use crate::undo;

/// Something that is removed.
#[derive(Debug, Serialize)]
struct Kept {
    path: PathBuf,
    bytes: u64,
}

/// Removes it, after a look and a question.
pub(crate) fn run(args: &CleanupArgs, ctx: &Context) -> anyhow::Result<Outcome> {
    let place = Place::of(ctx)?;
    let pgdata = place.pgdata.display();
    let (_lock, mut journal) = Journal::lock(&place)?.ok_or_else(|| {
        Advice::refused(format!("no recovery of {pgdata} is known, so there is nothing to remove"))
            .hint("name the data directory that was recovered with -D")
    })?;
    if !journal.is_over() {
        return Err(Advice::refused(format!("the recovery of {pgdata} is not over: what it has set aside is needed"))
            .hint(format!("recover status -D {pgdata} tells where it stands"))
            .into());
    }
    let mut found = Vec::new();
    for path in kept(&place)? {
        preserved::require_idle(&path)?;
        let bytes = tree::size(&path).with_context(|| format!("measure {}", path.display()))?;
        found.push(Kept { path, bytes });
    }
    for kept in &found {
        ctx.output.line(&format!("{}  {}", kept.path.display(), ByteCount(kept.bytes)))?;
    }
    let total = ByteCount(found.iter().map(|kept| kept.bytes).sum());
    if found.is_empty() {
        ctx.output.line(&format!("nothing is kept of a recovery of {pgdata}"))?;
        return report(&place, &found, ctx);
    }
    let loss = format!("{total} are removed, and no recovery of {pgdata} can be undone any more");
    if !args.yes && !ask::yes(&format!("{loss}. Remove it?"), ctx)? {
        return Err(Advice::refused(format!("nothing is removed without your word: {loss}"))
            .hint("add --yes, or answer \"yes\" at a terminal")
            .into());
    }
    if journal.cleaned.is_none() {
        journal.cleaned = Some(ctx.clock.now());
        journal.write(&place)?;
    }
    for kept in &found {
        ctx.cancel.check()?;
        aside::remove(&kept.path)?;
    }
    // What a rollback could not give up, while the repository was away. Without one there is nothing to give up.
    if ctx.first_repository().is_ok() {
        lease::end_configured(&place, ctx);
    }
    ctx.output.line(&format!("{total} are free again"))?;
    report(&place, &found, ctx)
}

fn report(place: &Place, removed: &[Kept], ctx: &Context) -> anyhow::Result<Outcome> {
    if ctx.output.is_json() {
        let bytes: u64 = removed.iter().map(|kept| kept.bytes).sum();
        ctx.output.json(&serde_json::json!({ "pgdata": place.pgdata, "removed": removed, "bytes": bytes }))?;
    }
    Ok(Outcome::Done)
}

/// What the recoveries of this place have set aside, as far as it is still there.
pub(crate) fn kept(place: &Place) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for journal in journals(place)? {
        for path in kept_old(&journal).into_iter().chain(undo::set_aside(&journal)) {
            // The folder around PostgreSQL's own in a tablespace is ours.
            let path = if is_version(&path) { path.parent().map(Path::to_path_buf).unwrap_or(path) } else { path };
            if is_there(&path) && !found.contains(&path) {
                found.push(path);
            }
        }
    }
    found.extend(Some(place.tail()).filter(|tail| is_there(tail)));
    Ok(found)
}

/// Every place that a recovery has set the old cluster's files aside to.
fn kept_old(journal: &Journal) -> Vec<PathBuf> {
    let places = journal.changes.iter().map(|change| match change {
        Change::Moved { to, .. } => vec![to.clone()],
        Change::Emptied { into, .. } => vec![into.clone(), partial(into)],
        Change::Relinked { .. } | Change::Made { .. } => Vec::new(),
    });
    places.flatten().collect()
}

/// The journals of all recoveries of this place, oldest first. One that cannot be read is an error: what it names would
/// stay for ever unseen.
fn journals(place: &Place) -> anyhow::Result<Vec<Journal>> {
    let folder = place.folder();
    let reading = || format!("read {}", folder.display());
    let entries = match std::fs::read_dir(&folder) {
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(reading)?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        let entry = entry.with_context(reading)?;
        if entry.file_name().to_string_lossy().starts_with("journal.json") {
            paths.push(entry.path());
        }
    }
    paths.sort();
    let open = |path: PathBuf| {
        let bytes = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        let journal: Journal = envelope::open(&bytes).with_context(|| {
            Advice::failed(format!("the journal {} cannot be read", path.display())).hint(
                "it names what an older recovery has set aside; look for that by hand, then move the journal away",
            )
        })?;
        journal.require_of(place)?;
        Ok(journal)
    };
    paths.into_iter().map(open).collect()
}
