//! Takes a full backup of a running server through PostgreSQL's low-level interface, from its local files.
//!
//! The order is what makes a backup one: `preflight` finds out whether the server can be backed up at all; `probe`
//! proves that its WAL reaches the repository; a name is claimed there; the server begins the backup; `scan` walks the
//! data directory; `plan` divides the files into parts; `copy` writes the parts with several workers and checks the
//! pages on the way (`pages`), while `catalog` writes the index and the manifest; the control file is read last; the
//! server ends the backup; `last_part` takes its label; `config_files` adds what lies outside the data directory;
//! it is waited until every segment that a restore needs has arrived; only then the commit record is written, without
//! which nobody takes the rest for a backup. An error or a signal anywhere removes what was written; a crash leaves it
//! unlisted, for retention to remove.

mod catalog;
pub mod cli;
mod config_files;
mod copy;
mod hole;
mod last_part;
mod list;
mod object;
mod pages;
mod plan;
mod preflight;
mod probe;
mod scan;
mod server_state;
mod summary;
mod take;

use common::app::{Context, Outcome};
use common::report::Advice;

use cli::{Cli, Command, TakeArgs};

/// Takes a backup, or does what the subcommand says.
pub fn run(cli: &Cli, ctx: &Context) -> anyhow::Result<Outcome> {
    match cli.command {
        None => take::take(&cli.take, &cli.server, ctx),
        Some(Command::List) if cli.take != TakeArgs::default() => {
            Err(Advice::usage("list takes no options of a backup").into())
        }
        Some(Command::List) => list::list(ctx),
    }
}
