//! The command line.

use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};
use common::app::{CommonArgs, Program, ServerArgs, exit};

/// Put one finished WAL file into the repository, durably, once; set a server up for that, and check that it works.
#[derive(Debug, Parser)]
#[command(name = "archive-wal", subcommand_negates_reqs = true, after_help = after_help())]
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
    #[arg(value_name = "PATH", required = true)]
    pub path: Option<PathBuf>,

    /// Something else than putting a file.
    #[command(subcommand)]
    pub command: Option<Command>,
}

impl Cli {
    /// The WAL file; empty beside a subcommand.
    pub(crate) fn path(&self) -> &Path {
        self.path.as_deref().unwrap_or(Path::new(""))
    }
}

/// What else there is to do.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Show which settings the server needs so that its WAL is archived, and which it has; change them with --apply
    Setup(SetupArgs),
    /// Prove that the server's WAL arrives in every repository; show the backlog, and holes
    Check(CheckArgs),
    /// Show how much WAL the repositories hold, and how much comes in a day; no server is needed
    Stats,
}

/// What `setup` may do.
#[derive(Debug, Clone, Args)]
pub struct SetupArgs {
    /// How to reach the server.
    #[command(flatten)]
    pub server: ServerArgs,

    /// Make a repository also where there was one before and is none now, or where create = false: with --apply
    #[arg(long, requires = "apply")]
    pub create: bool,

    /// Make the repositories and change the settings with ALTER SYSTEM; without it nothing is changed
    #[arg(long)]
    pub apply: bool,

    /// Put archive-wal in the place of another `archive_command`
    #[arg(long)]
    pub replace: bool,
}

/// What `check` looks at and does.
#[derive(Debug, Clone, Args)]
pub struct CheckArgs {
    /// How to reach the server.
    #[command(flatten)]
    pub server: ServerArgs,

    /// End no WAL segment and wait for nothing: look alone, for monitoring
    #[arg(long)]
    pub no_switch: bool,

    /// Put what the repositories lack and this server's `pg_wal` still has: what a dead primary did not archive
    #[arg(long)]
    pub backfill: bool,

    /// With --backfill: show what would be put, put nothing; implies --no-switch
    #[arg(long, requires = "backfill")]
    pub dry_run: bool,
}

fn after_help() -> String {
    format!(
        "For postgresql.conf; archive-wal setup writes it for you:\n  \
         archive_command = 'archive-wal --repo /var/lib/holdfast %p'\n\n{}",
        exit::table(Program::ArchiveWal)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;
    use rstest::rstest;

    #[test]
    fn the_parser_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_path_is_a_path() {
        let cli = Cli::try_parse_from(["archive-wal", "--repo", "/r", "pg_wal/000000010000000000000001"]).unwrap();
        assert!(cli.command.is_none());
        assert_eq!(cli.path(), Path::new("pg_wal/000000010000000000000001"));
    }

    #[rstest]
    #[case(&["archive-wal", "--json", "--repo", "/r", "stats"])]
    #[case(&["archive-wal", "stats", "--json", "--repo", "/r"])]
    fn common_options_stand_on_either_side_of_the_subcommand(#[case] words: &[&str]) {
        let cli = Cli::try_parse_from(words).unwrap();
        assert!(cli.common.json && cli.path.is_none() && matches!(cli.command, Some(Command::Stats)));
        assert_eq!(cli.common.repositories, ["/r"]);
    }

    #[rstest]
    #[case(&["archive-wal"])]
    #[case(&["archive-wal", "check", "--dry-run"])]
    #[case(&["archive-wal", "setup", "--backfill"])]
    #[case(&["archive-wal", "stats", "-h", "x"])]
    #[case(&["archive-wal", "-h", "x", "pg_wal/000000010000000000000001"])]
    fn refuses(#[case] words: &[&str]) {
        assert!(Cli::try_parse_from(words).is_err());
    }
}
