//! What is needed and what was done: tables for people, one document for programs.

use common::app::Context;
use serde::Serialize;

use super::Plan;
use super::folders::Folder;
use super::gather::Site;
use super::settings::State;

#[derive(Serialize)]
struct Document<'a> {
    cluster: &'a str,
    ok: bool,
    applied: bool,
    needs_restart: bool,
    server: ServerOf<'a>,
    #[serde(flatten)]
    plan: &'a Plan,
}

#[derive(Serialize)]
struct ServerOf<'a> {
    postgresql_version: u32,
    standby: bool,
    data_directory: &'a std::path::Path,
    superuser: bool,
}

/// Prints the plan as it stands.
pub(crate) fn print(plan: &Plan, site: &Site, applied: bool, ctx: &Context) -> anyhow::Result<()> {
    let needs_restart = plan.settings.iter().any(|setting| setting.state == State::Restart);
    if ctx.output.is_json() {
        return ctx.output.json(&Document {
            cluster: ctx.settings.cluster.value.as_str(),
            ok: plan.is_done(),
            applied,
            needs_restart,
            server: ServerOf {
                postgresql_version: site.version.number,
                standby: site.standby,
                data_directory: &site.pgdata,
                superuser: site.superuser,
            },
            plan,
        });
    }
    let settings = plan.settings.iter().map(|setting| {
        let running = setting.running.clone().unwrap_or_else(|| "-".to_owned());
        // Often a long command; twice in a line nobody finds the difference.
        let needed = if running == setting.needed { "" } else { &setting.needed };
        vec![
            setting.name.to_owned(),
            running.clone(),
            needed.to_owned(),
            setting.state.words().to_owned(),
            setting.reason.clone(),
        ]
    });
    ctx.output.table(&["SETTING", "NOW", "NEEDED", "STATE", "WHY"], &settings.collect::<Vec<_>>())?;
    ctx.output.line("")?;
    let folders: Vec<Vec<String>> = plan.repositories.iter().flat_map(rows).collect();
    ctx.output.table(&["REPOSITORY", "STATE", "OWNER", "MODE", "WHAT", "TO DO"], &folders)?;
    for folder in &plan.repositories {
        suggest(folder, ctx)?;
    }
    conclude(plan, needs_restart, ctx)
}

fn rows(folder: &Folder) -> Vec<Vec<String>> {
    let cell = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let row = |what: &str, command: &str| {
        vec![
            folder.repository.clone(),
            folder.state.words().to_owned(),
            cell(&folder.owner),
            cell(&folder.mode),
            what.to_owned(),
            command.to_owned(),
        ]
    };
    if folder.findings.is_empty() {
        return vec![row("", "")];
    }
    folder.findings.iter().map(|finding| row(&finding.what, finding.command.as_deref().unwrap_or_default())).collect()
}

fn suggest(folder: &Folder, ctx: &Context) -> anyhow::Result<()> {
    let Some((lines, mounted)) = folder.suggestion.as_ref().zip(folder.mount_point.as_ref()) else { return Ok(()) };
    ctx.output.line(&format!(
        "\n{} is a file system of its own. So that its mount point, when it is not mounted, never becomes a new and empty \
         repository, write into the configuration file:",
        mounted.display()
    ))?;
    lines.lines().try_for_each(|line| ctx.output.line(&format!("  {line}")))
}

fn conclude(plan: &Plan, needs_restart: bool, ctx: &Context) -> anyhow::Result<()> {
    ctx.output.line("")?;
    if plan.is_done() {
        return ctx.output.line("everything is as it should be; archive-wal check proves that WAL arrives");
    }
    if plan.statements().next().is_some() {
        ctx.output.line("--apply runs these statements:")?;
        for statement in plan.statements() {
            ctx.output.line(&format!("  {statement};"))?;
        }
        let restarts = plan.settings.iter().any(|setting| setting.statement.is_some() && setting.needs_restart);
        ctx.output.line(if restarts {
            "  SELECT pg_reload_conf();  and the server must be restarted"
        } else {
            "  SELECT pg_reload_conf();"
        })?;
    }
    if needs_restart {
        ctx.output.line("restart the server; then archive-wal setup says whether all is well")?;
    }
    Ok(())
}
