//! The command line.

use clap::Parser;
use common::app::{CommonArgs, Program, exit};

/// Remove the backups that the policy no longer needs, and the WAL that nothing needs any more.
#[derive(Debug, Parser)]
#[command(name = "retention", after_help = exit::table(Program::Retention))]
pub struct Cli {
    /// Options that every program knows.
    #[command(flatten)]
    pub common: CommonArgs,

    /// How many good backups to keep, at least 1 [default: keep-last of the configuration]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub keep_last: Option<u32>,

    /// Show what would be kept and removed, and why; remove nothing
    #[arg(long)]
    pub dry_run: bool,
}
