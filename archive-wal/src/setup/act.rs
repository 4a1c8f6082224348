//! Carries out what was decided: the repositories first, so that the first file that is archived finds its place.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use common::app::{Context, RepositorySetting};
use common::report::Advice;
use common::server::{Session, shell_quote};
use common::sys::clock::{Deadline, poll};
use common::sys::durable;

use super::gather::Site;
use super::settings::{Setting, State};
use super::{Plan, folders};

/// How long the server may take to read its settings anew.
const RELOAD_WAIT_MAX: Duration = Duration::from_secs(10);

/// How often it is asked whether it has.
const PAUSE: Duration = Duration::from_millis(50);

/// The mode of a new repository's folder, and of those that are missing above it.
const FOLDER_MODE: u32 = 0o700;

/// Makes the repositories that are missing and changes the settings; answers whether it changed settings. Refuses, and
/// changes nothing, where another archiver is at work. A role that may not change settings is told so. Safe to repeat.
pub(crate) fn apply(
    plan: &Plan,
    site: &Site,
    create: bool,
    session: &mut Session,
    ctx: &Context,
) -> anyhow::Result<bool> {
    refuse_other_archivers(plan)?;
    for (setting, folder) in ctx.settings.require_repositories()?.iter().zip(&plan.repositories) {
        if folder.state != folders::State::Wrong {
            make(setting, site, create, ctx)?;
        }
    }
    if plan.statements().next().is_none() {
        return Ok(false);
    }
    if !site.superuser {
        tracing::warn!("the role is no superuser and changes no settings: let one run the statements");
        return Ok(false);
    }
    for statement in plan.statements() {
        session.execute(statement).with_context(|| format!("run {statement}"))?;
    }
    session.execute("SELECT pg_reload_conf()").context("let the server read its settings anew")?;
    Ok(true)
}

fn refuse_other_archivers(plan: &Plan) -> anyhow::Result<()> {
    let Some(other) = plan.settings.iter().find(|setting| setting.state == State::OtherArchiver) else { return Ok(()) };
    let running = other.running.as_deref().unwrap_or_default();
    Err(Advice::refused(format!("{} is '{running}', which is not replaced; nothing was changed", other.name))
        .hint("if archive-wal is to take its place, say --replace; the other tool's archive ends there")
        .into())
}

/// Makes a repository that is not there: its folder and the record in it. One that is there stays as it is. Where one is
/// missed, `create` says that it is not to be.
fn make(setting: &RepositorySetting, site: &Site, create: bool, ctx: &Context) -> anyhow::Result<()> {
    let path = &setting.url.value;
    if !create {
        ctx.may_create(setting)?;
    }
    durable::create_dir_all(Path::new(path), FOLDER_MODE).with_context(|| {
        let (user, quoted) = (shell_quote(&site.owner.user), shell_quote(path));
        Advice::failed(format!("make the folder of {setting}"))
            .hint(format!("as root: install -d -o {user} -m {FOLDER_MODE:o} {quoted}"))
    })?;
    ctx.create(setting).map(drop)
}

/// Decides until every setting that needs no restart is as it should be, at most for ten seconds; answers the last
/// decision.
pub(crate) fn settled(
    session: &mut Session,
    ctx: &Context,
    mut decide: impl FnMut(&mut Session) -> anyhow::Result<Plan>,
) -> anyhow::Result<Plan> {
    let is_under_way = |setting: &Setting| setting.state == State::Differs && !setting.needs_restart;
    let mut plan = decide(session)?;
    poll(Deadline::after(RELOAD_WAIT_MAX), PAUSE, &ctx.cancel, || {
        if !plan.settings.iter().any(is_under_way) {
            return Ok(Some(()));
        }
        plan = decide(session)?;
        Ok(None)
    })?;
    Ok(plan)
}
