//! The command line.

use std::path::PathBuf;

use clap::Parser;
use common::app::{CommonArgs, Program, exit};
use common::units::ByteCount;

/// Bring one WAL file back, or say truthfully that it does not exist.
#[derive(Debug, Parser)]
#[command(name = "restore-wal", after_help = after_help())]
#[expect(clippy::doc_markdown, reason = "the comments are help texts")]
pub struct Cli {
    /// Options that every program knows.
    #[command(flatten)]
    pub common: CommonArgs,

    /// The plan of a recovery: only the segments that it names must be had
    #[arg(long, value_name = "FILE")]
    pub plan: Option<PathBuf>,

    /// How much WAL to fetch ahead of a server in recovery; nothing for 0 [env: HOLDFAST_PREFETCH_SIZE] [default: 256MiB]
    #[arg(long, value_name = "SIZE")]
    pub prefetch_size: Option<ByteCount>,

    /// Be the process that fetches ahead
    #[arg(long, hide = true)]
    pub prefetcher: bool,

    /// The file's name: PostgreSQL puts it in place of %f
    #[arg(value_name = "FILE")]
    pub file: String,

    /// Where it belongs: PostgreSQL puts it in place of %p
    #[arg(value_name = "DEST")]
    pub destination: PathBuf,
}

fn after_help() -> String {
    format!(
        "For postgresql.conf:\n  restore_command = 'restore-wal --repo /var/lib/holdfast %f %p'\n\n{}",
        exit::table(Program::RestoreWal)
    )
}
