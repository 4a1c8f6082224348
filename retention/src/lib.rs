//! Removes what the policy no longer needs, and never what a kept moment needs.
//!
//! Gather ([`facts`]) → decide ([`policy::decide`], pure) → act → report, for each configured repository on its own. `--dry-run`
//! ends after the decision. Backups go before WAL, each with its commit record first, and WAL goes from its old end: a
//! crash anywhere leaves whole backups with all their WAL and some rubbish, which the next run removes.
//!
//! There is no lock, and none is needed: a removal passes over what is gone already, and what a plan removes no backup
//! that it keeps has any use for, whoever removes it first. Two runs at once leave what both of them keep. A backup that
//! begins after the plan was made is seen before any WAL goes, and then no WAL goes. Whoever restores holds a lease on
//! the backup and its WAL, which is looked for again in the same way.

mod act;
mod cli;
pub mod facts;
pub mod policy;
mod report;
#[cfg(test)]
mod testing;
mod wal;

pub use cli::Cli;

use anyhow::Context as _;
use common::app::config::RepositorySetting;
use common::app::{Context, Outcome};
use common::report::{Advice, ExitClass, message_of};

use policy::Policy;
use report::Done;

/// Carries out one call: all repositories, even when one of them fails; the first failure decides how it ends.
pub fn run(cli: &Cli, ctx: &Context) -> anyhow::Result<Outcome> {
    let policy = policy(cli, ctx)?;
    let settings = ctx.settings.require_repositories()?;
    let mut results = Vec::new();
    for setting in settings {
        results.push((setting, one(setting, policy, cli.dry_run, ctx)));
        ctx.cancel.check()?;
    }
    report::print(&results, policy, cli.dry_run, ctx)?;
    let mut outcome = Outcome::Done;
    let mut failure = None;
    for (setting, result) in results {
        match result {
            Ok(done) if done.plan.findings.is_empty() => {}
            Ok(_) => outcome = Outcome::Class(ExitClass::Findings),
            Err(err) if failure.is_none() => failure = Some(err.context(setting.to_string())),
            Err(err) => tracing::error!("{setting}: {}", message_of(&err)),
        }
    }
    failure.map_or(Ok(outcome), Err)
}

fn policy(cli: &Cli, ctx: &Context) -> anyhow::Result<Policy> {
    let keep_last = cli.keep_last.or(ctx.settings.keep_last).and_then(std::num::NonZeroU32::new).ok_or_else(|| {
        Advice::usage("how many backups to keep is not configured").hint(
            "name a number by --keep-last N, or in the configuration file by the two lines [retention] and \
             keep-last = N",
        )
    })?;
    Ok(Policy { keep_last })
}

fn one(setting: &RepositorySetting, policy: Policy, dry_run: bool, ctx: &Context) -> anyhow::Result<Done> {
    let repository = ctx.open(setting)?;
    let catalog = facts::gather(&repository)?;
    if catalog.is_empty() {
        repository.require_cluster()?;
    }
    let plan = policy::decide(&catalog, policy, ctx.clock.now());
    let acted = if dry_run {
        act::Acted::default()
    } else {
        act::carry_out(&repository, &plan, ctx.clock.now(), &*ctx.progress, &ctx.cancel)
            .context("remove what the plan says")?
    };
    Ok(Done { plan, acted })
}
