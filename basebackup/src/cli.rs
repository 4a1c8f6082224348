//! The command line.

use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use common::app::{CommonArgs, Program, ServerArgs, exit};
use common::codec::Compression;
use common::units::parse_duration;

/// The most workers that a backup can have.
const JOBS_MAX: i64 = 256;

/// Take a base backup of a running server, or list the backups that there are.
#[derive(Debug, Parser)]
#[command(name = "basebackup", after_help = exit::table(Program::Basebackup))]
pub struct Cli {
    /// Options of every program.
    #[command(flatten)]
    pub common: CommonArgs,

    /// How to reach the server.
    #[command(flatten)]
    pub server: ServerArgs,

    /// Options of a backup.
    #[command(flatten)]
    pub take: TakeArgs,

    /// Something else than taking a backup.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What else there is to do.
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum Command {
    /// List the backups in the repository
    List,
}

/// How a backup is taken.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct TakeArgs {
    /// How many files are copied at once [default: the number of processors, at most 4]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=JOBS_MAX))]
    pub jobs: Option<u16>,

    /// What the backup is called [default: holdfast]
    #[arg(short, long, value_name = "TEXT", value_parser = label)]
    pub label: Option<String>,

    /// How the server's first checkpoint is made: at once, or spread over minutes
    #[arg(short, long, value_name = "fast|spread", value_enum, hide_possible_values = true, default_value_t)]
    pub checkpoint: Checkpoint,

    /// How the backup is compressed: zstd, lz4 or gzip, with a level such as zstd:3 [default: as the repository is
    /// configured, else zstd:1]
    #[arg(short = 'Z', long, value_name = "METHOD[:LEVEL]")]
    pub compress: Option<Compression>,

    /// How long to wait for a WAL segment to arrive in the repository while the archiver gets nowhere, such as 5min
    /// [default: as configured, else 60s]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub archive_timeout: Option<Duration>,
}

impl TakeArgs {
    /// What the backup is called.
    pub fn label(&self) -> &str {
        self.label.as_deref().unwrap_or("holdfast")
    }
}

/// How the checkpoint that begins a backup is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Checkpoint {
    /// At once, with all the writing that it takes.
    Fast,
    /// Spread over time, as the server's own checkpoints are.
    #[default]
    Spread,
}

/// A label as the server takes it: not longer than its limit (`MAXPGPATH` in `xlogbackup.c`), and one line, so that
/// `backup_label` stays readable.
fn label(text: &str) -> Result<String, String> {
    const LABEL_BYTES_MAX: usize = 1023;
    if text.len() > LABEL_BYTES_MAX {
        Err(format!("a label has at most {LABEL_BYTES_MAX} bytes"))
    } else if text.contains(char::is_control) {
        Err("a label is one line without control characters".to_owned())
    } else {
        Ok(text.to_owned())
    }
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
    fn alone_it_takes_a_backup() {
        let cli = Cli::try_parse_from(["basebackup"]).unwrap();
        assert!(cli.command.is_none());
        assert_eq!(cli.take.checkpoint, Checkpoint::Spread);
    }

    #[test]
    fn common_options_stand_on_either_side_of_the_subcommand() {
        for words in [["--json", "list"], ["list", "--json"]] {
            let cli = Cli::try_parse_from(["basebackup"].into_iter().chain(words)).unwrap();
            assert!(cli.common.json && cli.command.is_some());
        }
    }

    #[test]
    fn options_of_a_backup_are_told_from_none() {
        assert_eq!(Cli::try_parse_from(["basebackup", "list"]).unwrap().take, TakeArgs::default());
        assert_ne!(Cli::try_parse_from(["basebackup", "-l", "x", "list"]).unwrap().take, TakeArgs::default());
    }

    #[rstest]
    #[case("-j", "0")]
    #[case("-j", "257")]
    #[case("-Z", "brotli")]
    #[case("-Z", "zstd:23")]
    #[case("-c", "slow")]
    #[case("-l", "two\nlines")]
    #[case("--archive-timeout", "60")]
    fn wrong_values_are_refused(#[case] option: &str, #[case] value: &str) {
        assert!(Cli::try_parse_from(["basebackup", option, value]).is_err());
    }
}
