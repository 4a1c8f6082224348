//! Step 5: the settings of the recovery, and those that keep a copy to itself.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use common::app::Context;
use common::archive::identity::read_control;
use common::pg::control::ControlFile;
use common::report::Advice;
use common::restore::demands::Demands;
use common::restore::follow::{RECOVERY_SIGNAL, STANDBY_SIGNAL};
use common::restore::settings::{
    self, COPY_HBA, COPY_HBA_FILE, COPY_IDENT_FILE, CopySite, Replay, Setting, TargetAction, appended, appended_to,
};
use common::server::configured;
use common::sys::durable;

use super::{Site, config_files};
use crate::journal::{Journal, Stage};
use crate::plan::Plan;
use crate::standby::Standby;
use crate::verbatim::Verbatim;

pub(crate) const AUTO_CONF: &str = "postgresql.auto.conf";

/// What stands above the settings that make a server a copy.
pub(crate) const COPY_HEADING: &str = "A copy, made by recover run:";

/// What stands in the configuration of a copy that has none of its original's.
pub(crate) const BARE_HEADING: &str = "The original's configuration lies outside its data directory";

/// Writes the settings.
pub(crate) fn run(journal: &mut Journal, site: &Site<'_>) -> anyhow::Result<String> {
    let is_settled = journal.is_repeated(Stage::Configured) && !journal.final_auto_conf.0.is_empty();
    journal.set_out(Stage::Configured, &site.place)?;
    let plan = &journal.plan.clone();
    let pgdata = &site.place.pgdata;
    for signal in [STANDBY_SIGNAL, RECOVERY_SIGNAL] {
        remove_if_there(&pgdata.join(signal))?;
    }
    let control = journal.plan.demands.raise(&read_control(pgdata)?);
    journal.plan.demands = Demands::of_control(&control);
    // Once the journal has it, the file may hold the settings of the recovery.
    if !is_settled {
        if let Some(preserved) = journal.preserved() {
            for line in config_files::choose(plan.config_from, preserved, pgdata)? {
                site.ctx.output.line(&line)?;
            }
        }
        let original = settings::without_targets(&read_if_there(&pgdata.join(AUTO_CONF))?);
        journal.final_auto_conf = Verbatim(match (&plan.standby, plan.port) {
            (Some(standby), _) => standby_settings(standby, &original, journal, site)?,
            (None, Some(port)) => copy_settings(&original, &control, port, plan, site)?,
            (None, None) if original.is_empty() => b"\n".to_vec(),
            (None, None) => original,
        });
        journal.write(&site.place)?;
    }
    if let Some(standby) = &plan.standby {
        write(&pgdata.join(AUTO_CONF), &journal.final_auto_conf.0)?;
        write(&pgdata.join(STANDBY_SIGNAL), b"")?;
        journal.reach(Stage::Configured, &site.place)?;
        return Ok(standby.describe());
    }
    for_the_recovery(journal, site)?;
    write(&pgdata.join(RECOVERY_SIGNAL), b"")?;
    journal.reach(Stage::Configured, &site.place)?;
    Ok(match plan.port {
        Some(port) => format!("archiving off, port {port}, socket in the data directory"),
        None => "archiving off until the recovery is verified".to_owned(),
    })
}

/// The lasting `postgresql.auto.conf` of a standby.
fn standby_settings(standby: &Standby, original: &[u8], journal: &Journal, site: &Site<'_>) -> anyhow::Result<Vec<u8>> {
    let pgdata = &site.place.pgdata;
    let mut settings = settings::standby(&settings::Standby {
        restore_command: restore_command(None, site.ctx)?,
        primary_conninfo: standby.primary_conninfo.clone(),
        slot: standby.slot.clone(),
        timeline: standby.timeline,
        port: standby.port,
    });
    if standby.elsewhere {
        // The original's, when it is on this host too.
        settings.push(("external_pid_file", String::new()));
        let main = pgdata.join("postgresql.conf");
        if main.exists() {
            own_data_directory(&main, pgdata)?;
        }
    }
    let heading = "A standby, made by recover run:";
    // What the configuration says with these is what the rest is compared with.
    write(&pgdata.join(AUTO_CONF), &appended_to(original, heading, &settings))?;
    settings.extend(raised(&journal.plan, true, site)?);
    Ok(appended_to(original, heading, &settings))
}

/// Writes the settings of the recovery that the journal tells of, in place of those of an earlier start.
pub(crate) fn for_the_recovery(journal: &Journal, site: &Site<'_>) -> anyhow::Result<()> {
    let plan = &journal.plan;
    let path = site.place.pgdata.join(AUTO_CONF);
    write(&path, &journal.final_auto_conf.0)?;
    let replay = Replay {
        restore_command: restore_command(Some(&site.place.wal_plan()), site.ctx)?,
        target: plan.target.clone(),
        exclusive: plan.exclusive,
        timeline: plan.timeline,
        action: plan.action,
    };
    let mut settings = settings::replay(&replay, plan.major);
    settings.extend(raised(plan, plan.action == TargetAction::Pause, site)?);
    write(&path, &appended_to(&journal.final_auto_conf.0, "For the time of a recovery, by recover:", &settings))?;
    plan.wal.write(&site.place.wal_plan())
}

/// The settings that the configuration has lower than the WAL asks for, at the values that it asks for.
fn raised(plan: &Plan, hot_standby: bool, site: &Site<'_>) -> anyhow::Result<Vec<Setting>> {
    let mut raised = Vec::new();
    for (name, least) in plan.demands.settings(hot_standby) {
        let found = configured(&site.programs, &plan.pgdata, plan.config_file.as_deref(), name, &site.ctx.cancel)?;
        // One that cannot be read is raised too; what is wrong with the configuration, the start will tell.
        if found.and_then(|found| found.parse::<i32>().ok()).is_none_or(|found| found < least) {
            raised.push((name, least.to_string()));
        }
    }
    Ok(raised)
}

/// Writes the files that a copy has of its own; answers its lasting `postgresql.auto.conf`.
fn copy_settings(
    original: &[u8],
    control: &ControlFile,
    port: u16,
    plan: &Plan,
    site: &Site<'_>,
) -> anyhow::Result<Vec<u8>> {
    let (pgdata, folder) = (&site.place.pgdata, site.place.folder());
    write(&folder.join(COPY_HBA_FILE), COPY_HBA.as_bytes())?;
    write(&folder.join(COPY_IDENT_FILE), b"")?;
    let copy = CopySite { pgdata: pgdata.clone(), folder, port };
    let main = pgdata.join("postgresql.conf");
    if !main.exists() {
        write(&main, bare_configuration(plan.segment_bytes).as_bytes())?;
    }
    own_data_directory(&main, pgdata)?;
    let mut settings = settings::copy(&copy, control, plan.major);
    settings.extend(preloaded(site)?);
    Ok(appended_to(original, COPY_HEADING, &settings))
}

/// The libraries that a copy loads at its start, where it must not load all of its original's.
fn preloaded(site: &Site<'_>) -> anyhow::Result<Option<Setting>> {
    const NAME: &str = "shared_preload_libraries";
    let original = configured(&site.programs, &site.place.pgdata, None, NAME, &site.ctx.cancel)?;
    let Some((kept, left_out)) = settings::preloaded_by_a_copy(&original.unwrap_or_default()) else { return Ok(None) };
    tracing::info!("the copy does without {}, which would act on the world", left_out.join(", "));
    Ok(Some((NAME, kept)))
}

/// The configuration of a copy whose original's lies outside its data directory. Sizes in segments as initdb sets them:
/// a server does not start when they are too small for its segments.
fn bare_configuration(segment_bytes: u64) -> String {
    let segments = |count: u64| format!("{}MB", count * (segment_bytes >> 20));
    let sizes = [("min_wal_size", segments(5)), ("max_wal_size", segments(64))];
    appended("", &format!("{BARE_HEADING}; this copy runs without it."), &sizes)
}

/// A configuration that names the original's data directory would lead every later start there. Only this file can say
/// otherwise: the server looks for that setting before it reads `postgresql.auto.conf`.
fn own_data_directory(main: &Path, pgdata: &Path) -> anyhow::Result<()> {
    let mut bytes = std::fs::read(main).with_context(|| format!("read {}", main.display()))?;
    if !settings::sets(&String::from_utf8_lossy(&bytes), "data_directory") {
        return Ok(());
    }
    let own = [("data_directory", pgdata.display().to_string())];
    bytes.extend(appended("\n", COPY_HEADING, &own).into_bytes());
    durable::replace(main, &bytes, 0o600).with_context(|| format!("write {}", main.display()))
}

/// A server that has stopped at its target is to go on when it is started again, not to stop once more.
pub(crate) fn promote_when_started(site: &Site<'_>) -> anyhow::Result<()> {
    let path = site.place.pgdata.join(AUTO_CONF);
    let promote = [("recovery_target_action", TargetAction::Promote.name().to_owned())];
    write(&path, &appended_to(&read_if_there(&path)?, "It has stopped at its target once:", &promote))
}

/// Ends the time of the recovery: the settings of the recovery go, the lasting ones stay.
pub(crate) fn finish(journal: &Journal, site: &Site<'_>) -> anyhow::Result<()> {
    write(&site.place.pgdata.join(AUTO_CONF), &journal.final_auto_conf.0)
}

/// The command by which the recovering server fetches WAL: the restore-wal beside this program, or in `PATH`. `plan`: what
/// it must be able to fetch.
pub(crate) fn restore_command(plan: Option<&Path>, ctx: &Context) -> anyhow::Result<String> {
    let settings = &ctx.settings;
    let mut words = Vec::new();
    if let Some(plan) = plan {
        words.extend(["--plan".to_owned(), plan.display().to_string()]);
    }
    if let Some(file) = &settings.config_file {
        words.extend(["--config".to_owned(), ctx.environment.absolute(file).display().to_string()]);
    }
    for repository in &settings.repositories {
        words.extend(["--repo".to_owned(), repository.url.value.clone()]);
    }
    words.extend(["--cluster".to_owned(), settings.cluster.value.to_string()]);
    Ok(settings::restore_command(&restore_wal(ctx)?, &words))
}

fn restore_wal(ctx: &Context) -> anyhow::Result<PathBuf> {
    let beside = std::env::current_exe().ok().map(|program| program.with_file_name("restore-wal"));
    let path = ctx.environment.get("PATH").unwrap_or_default();
    let mut candidates = beside.into_iter().chain(std::env::split_paths(path).map(|folder| folder.join("restore-wal")));
    candidates.find(|candidate| candidate.is_file()).ok_or_else(|| {
        Advice::failed("the program restore-wal is not found")
            .hint("install it beside recover, or in a folder of PATH")
            .into()
    })
}

pub(crate) fn read_if_there(path: &Path) -> anyhow::Result<Vec<u8>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(bytes),
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(err) => Err(err).with_context(|| format!("read {}", path.display())),
    }
}

fn remove_if_there(path: &Path) -> anyhow::Result<()> {
    match durable::remove_file(path) {
        Err(err) if err.kind() != std::io::ErrorKind::NotFound => {
            Err(err).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

pub(crate) fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    durable::replace(path, bytes, 0o600).with_context(|| format!("write {}", path.display()))
}
