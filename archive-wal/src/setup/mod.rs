//! `archive-wal setup`: what a server needs so that its WAL is archived here, what it has, and what is to be done.
//!
//! [`gather`] asks the server and looks at the repositories' folders; [`settings`] and [`folders`] decide, purely, what is
//! right, what is not, and by which statement or command it becomes right; [`act`] does that when it is asked to;
//! [`report`] prints it. After `--apply` everything is gathered anew: what is printed is what is there then.
//!
//! It never lowers anything: `wal_level = logical`, `archive_mode = always`, more WAL senders, another `archive_timeout`
//! stay. An `archive_command` that serves other repositories or is another tool's stays unless `--replace` is given,
//! since two archivers may be meant.

mod act;
mod command;
mod folders;
mod gather;
mod report;
mod settings;

use common::app::{Context, Outcome};
use common::report::ExitClass;
use common::server::Session;
use serde::Serialize;

use crate::cli::SetupArgs;
use folders::Folder;
use settings::Setting;

/// What is there and what is needed; what each part lacks is said in it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Plan {
    /// The server's settings.
    pub(crate) settings: Vec<Setting>,
    /// The repositories' folders.
    pub(crate) repositories: Vec<Folder>,
}

impl Plan {
    /// Whether nothing is left to do.
    pub(crate) fn is_done(&self) -> bool {
        self.settings.iter().all(Setting::is_ok) && self.repositories.iter().all(Folder::is_ok)
    }

    /// The statements that bring the settings about.
    pub(crate) fn statements(&self) -> impl Iterator<Item = &str> {
        self.settings.iter().filter_map(|setting| setting.statement.as_deref())
    }
}

/// Carries out `archive-wal setup`. Without `--apply` nothing is changed.
pub(crate) fn run(args: &SetupArgs, ctx: &Context) -> anyhow::Result<Outcome> {
    ctx.settings.require_repositories()?;
    let mut session = ctx.connect(&args.server)?;
    let site = gather::site(&mut session, ctx)?;
    let mut plan = decide(&site, &gather::server(&mut session, &site)?, args, ctx);
    let mut applied = false;
    if args.apply {
        applied = act::apply(&plan, &site, args.create, &mut session, ctx)?;
        let look = |session: &mut Session| Ok(decide(&site, &gather::server(session, &site)?, args, ctx));
        plan = if applied { act::settled(&mut session, ctx, look)? } else { look(&mut session)? };
    }
    report::print(&plan, &site, applied, ctx)?;
    Ok(if plan.is_done() { Outcome::Done } else { Outcome::Class(ExitClass::Findings) })
}

fn decide(site: &gather::Site, server: &settings::Server, args: &SetupArgs, ctx: &Context) -> Plan {
    Plan {
        settings: settings::decide(server, args.replace),
        repositories: gather::folders(site, ctx).into_iter().map(|found| folders::decide(found, &site.owner)).collect(),
    }
}
