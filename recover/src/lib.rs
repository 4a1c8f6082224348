//! Brings a cluster back to a moment, or a copy of it to another place.
//!
//! `recover run` goes through eight steps: check, stop, preserve, extract, configure, place, start, verify. The first
//! touches nothing and proves the plan; what the third moves aside stays whole and startable; every change is in the
//! journal before it is made, so that `recover rollback` undoes from wherever a run ended. Nothing is archived from the
//! recovered server before the eighth step has passed, and no run reports success short of its target.
//!
//! `recover extract` does the first step and then lets a scratch cluster in a private folder go to the same moment, for
//! `pg_dump` to read.
//!
//! Data flows one way: `cli` → `facts` (gather) → `plan` (decide, pure) → `steps` (act) → `report`.

mod adopt;
mod aside;
mod ask;
mod check;
mod cleanup;
mod cli;
mod counts;
mod divergence;
mod extract;
mod facts;
mod find;
mod finish;
mod journal;
mod lease;
mod list;
mod onward;
mod place;
mod plan;
mod preserved;
mod renew;
mod report;
mod report_file;
mod restart;
mod resume;
mod rollback;
mod run;
mod service;
mod standby;
mod status;
mod steps;
mod supervisors;
mod undo;
mod unseen;
mod verbatim;
mod windows;

pub use cli::Cli;

use common::app::{Context, Outcome};

use crate::cli::Command;

/// Carries out one command.
pub fn run(cli: &Cli, ctx: &Context) -> anyhow::Result<Outcome> {
    match &cli.command {
        Command::List => list::run(ctx),
        Command::Windows => windows::run(ctx),
        Command::Check(args) => check::run(args, cli, ctx),
        Command::Run(args) => run::run(args, cli, ctx),
        Command::Finish(_) => finish::run(cli, ctx),
        Command::Find(args) => find::run(args, cli, ctx),
        Command::Continue(args) => onward::go_on(args, cli, ctx),
        Command::Promote(_) => onward::promote(cli, ctx),
        Command::Adopt(args) => adopt::run(args, cli, ctx),
        Command::Rollback(args) => rollback::run(args, cli, ctx),
        Command::Status => status::run(ctx),
        Command::Cleanup(args) => cleanup::run(args, ctx),
        Command::Extract(args) => extract::run(args, cli, ctx),
        Command::RowCounts => counts::run(cli, ctx),
    }
}
