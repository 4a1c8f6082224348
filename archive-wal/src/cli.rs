//! The command line.

use std::path::PathBuf;

use clap::Parser;
use common::app::{CommonArgs, Program, exit};

/// Put one finished WAL file into the repository, durably, once.
#[derive(Debug, Parser)]
#[command(name = "archive-wal", after_help = after_help())]
#[expect(clippy::doc_markdown, reason = "the comments are help texts")]
pub struct Cli {
    /// Options that every program knows.
    #[command(flatten)]
    pub common: CommonArgs,

    /// Accept a system identifier that the cluster does not have yet: once, after `pg_upgrade`
    #[arg(long)]
    pub after_upgrade: bool,

    /// Archive up to so many files that are ready, this one among them [env: HOLDFAST_BATCH] [default: 8]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    pub batch: Option<u8>,

    /// The WAL file: PostgreSQL puts it in place of %p
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
}

fn after_help() -> String {
    format!(
        "For postgresql.conf:\n  archive_command = 'archive-wal --repo /var/lib/holdfast %p'\n\n{}",
        exit::table(Program::ArchiveWal)
    )
}
