//! The command line.

use clap::{Args, Parser, Subcommand};
use common::app::{CommonArgs, Program, exit};
use common::repo::BackupId;

/// The most workers that an inspection can have.
const JOBS_MAX: i64 = 256;

/// Prove that the backups in the repository can be restored.
#[derive(Debug, Parser)]
#[command(name = "verify", after_help = exit::table(Program::Verify))]
pub struct Cli {
    /// Options that every program knows.
    #[command(flatten)]
    pub common: CommonArgs,

    /// What to prove.
    #[command(subcommand)]
    pub command: Command,
}

/// What to prove.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Check every stored byte of a backup, or of all, and of the WAL that makes it consistent
    Backup(BackupArgs),
}

/// What is checked of which backups.
#[derive(Debug, Clone, Args)]
pub struct BackupArgs {
    /// The backup: `basebackup list` shows them
    #[arg(value_name = "ID", required_unless_present = "all")]
    pub id: Option<BackupId>,

    /// All backups in the repository
    #[arg(long, conflicts_with = "id")]
    pub all: bool,

    /// Look at records, names and sizes alone: finds what is missing or cut off, and reads no contents
    #[arg(long)]
    pub quick: bool,

    /// How many objects are read at once [default: jobs of the configuration, else the number of processors, at most 4]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=JOBS_MAX))]
    pub jobs: Option<u16>,
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

    #[rstest]
    #[case(&["verify"])]
    #[case(&["verify", "backup"])]
    #[case(&["verify", "backup", "last"])]
    #[case(&["verify", "backup", "backup_20261120_031500", "--all"])]
    #[case(&["verify", "backup", "--all", "-j", "0"])]
    fn refuses(#[case] args: &[&str]) {
        assert!(Cli::try_parse_from(args).is_err());
    }
}
