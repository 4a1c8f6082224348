//! The options that every program knows.
//!
//! Defaults and variables are not clap's business: [`super::config`] merges them, so that every setting keeps its
//! origin and nothing but [`super::environment`] reads the environment. `-?` and `--help` ask for help, because `-h`
//! is the host in PostgreSQL's own programs.

use std::path::PathBuf;

use clap::{ArgAction, Args, ValueEnum};

use super::environment::Environment;
use crate::repo::ClusterName;
use crate::report::Advice;

// On every option rather than on the whole: a heading of the whole would go on into the options that follow it.
const COMMON: &str = "Common options";
const CONNECTION: &str = "Connection options";

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum LogFormat {
    /// `program: message`
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What every program can be told. Flatten it into the program's parser.
#[derive(Debug, Clone, Default, Args)]
#[command(disable_help_flag = true, disable_version_flag = true, disable_help_subcommand = true, version = VERSION, propagate_version = true)]
#[expect(clippy::doc_markdown, reason = "the comments are help texts")]
pub struct CommonArgs {
    /// Configuration file [env: HOLDFAST_CONFIG] [default: /etc/holdfast/holdfast.toml, when it exists]
    #[arg(long, value_name = "FILE", global = true, help_heading = COMMON)]
    pub config: Option<PathBuf>,

    /// Where a repository is; give it again for each further one [env: HOLDFAST_REPO (one)]
    #[arg(long = "repo", value_name = "PATH-OR-URL", global = true, help_heading = COMMON)]
    pub repositories: Vec<String>,

    /// The cluster's name in the repositories [env: HOLDFAST_CLUSTER] [default: main]
    #[arg(long, value_name = "NAME", global = true, help_heading = COMMON)]
    pub cluster: Option<ClusterName>,

    /// The server's data directory [env: HOLDFAST_PGDATA, PGDATA]
    #[arg(short = 'D', long, value_name = "DIR", global = true, help_heading = COMMON)]
    pub pgdata: Option<PathBuf>,

    /// Print one JSON document instead of text [env: HOLDFAST_JSON]
    #[arg(long, global = true, help_heading = COMMON)]
    pub json: bool,

    /// How log lines on standard error look [env: HOLDFAST_LOG_FORMAT] [default: text]
    #[arg(long, value_name = "text|json", value_enum, hide_possible_values = true, global = true, help_heading = COMMON)]
    pub log_format: Option<LogFormat>,

    /// Say more; twice: everything [env: HOLDFAST_VERBOSE (1 or 2)]
    #[arg(short, long, action = ArgAction::Count, global = true, help_heading = COMMON)]
    pub verbose: u8,

    /// Say less: no progress, and of the log only what is wrong [env: HOLDFAST_QUIET]
    #[arg(short, long, global = true, help_heading = COMMON, conflicts_with = "verbose")]
    pub quiet: bool,

    /// Show no progress [env: HOLDFAST_NO_PROGRESS]
    #[arg(long, global = true, help_heading = COMMON)]
    pub no_progress: bool,

    /// Print help
    #[arg(short = '?', long, action = ArgAction::Help, global = true, help_heading = COMMON)]
    pub help: Option<bool>,

    /// Print the version
    #[arg(short = 'V', long, action = ArgAction::Version, global = true, help_heading = COMMON)]
    pub version: Option<bool>,
}

impl CommonArgs {
    /// The same with what the environment says of output: a variable speaks where its flag is silent. A value that is
    /// neither yes nor no is a usage error.
    pub(crate) fn completed(&self, environment: &Environment) -> Result<Self, Advice> {
        let mut args = self.clone();
        args.json |= is_set(environment, "HOLDFAST_JSON")?;
        args.no_progress |= is_set(environment, "HOLDFAST_NO_PROGRESS")?;
        if !args.quiet && args.verbose == 0 {
            args.verbose = match environment.text("HOLDFAST_VERBOSE")? {
                Some("2") => 2,
                _ => u8::from(is_set(environment, "HOLDFAST_VERBOSE")?),
            };
            args.quiet = args.verbose == 0 && is_set(environment, "HOLDFAST_QUIET")?;
        }
        Ok(args)
    }
}

fn is_set(environment: &Environment, name: &str) -> Result<bool, Advice> {
    match environment.text(name)? {
        Some("1" | "true" | "yes" | "on") => Ok(true),
        None | Some("0" | "false" | "no" | "off") => Ok(false),
        Some(other) => Err(Advice::usage(format!("{name}: {other:?} is neither \"1\" nor \"0\""))),
    }
}

const VERSION: &str = concat!("(Holdfast) ", env!("CARGO_PKG_VERSION"));

/// How to reach the server, as in PostgreSQL's own programs. What is absent comes from the settings, then from libpq's
/// variables and defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
#[expect(clippy::doc_markdown, reason = "the comments are help texts")]
pub struct ServerArgs {
    /// Connection string or database name [env: HOLDFAST_CONNINFO]
    #[arg(short = 'd', long, value_name = "CONNINFO", global = true, help_heading = CONNECTION)]
    pub dbname: Option<String>,

    /// The server's host, or the directory of its socket [env: PGHOST]
    #[arg(short = 'h', long, value_name = "HOST", global = true, help_heading = CONNECTION)]
    pub host: Option<String>,

    /// The server's port [env: PGPORT]
    #[arg(short = 'p', long, value_name = "PORT", global = true, help_heading = CONNECTION)]
    pub port: Option<String>,

    /// The user to connect as [env: PGUSER]
    #[arg(short = 'U', long, value_name = "NAME", global = true, help_heading = CONNECTION)]
    pub username: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::error::ErrorKind;
    use clap::{CommandFactory as _, Parser, Subcommand};
    use rstest::rstest;

    /// Does the thing.
    #[derive(Debug, Parser)]
    #[command(name = "prog")]
    struct Cli {
        #[command(flatten)]
        common: CommonArgs,
        #[command(flatten)]
        server: ServerArgs,
        /// How fast
        #[arg(short = 'c')]
        checkpoint: Option<String>,
        /// What to read
        path: Option<String>,
        #[command(subcommand)]
        command: Option<Sub>,
    }

    #[derive(Debug, Subcommand)]
    enum Sub {
        /// List them
        List {
            #[arg(short = 'n')]
            number: Option<u32>,
        },
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_variable_speaks_where_its_flag_is_silent() {
        let environment =
            Environment::of([("HOLDFAST_JSON", "1"), ("HOLDFAST_VERBOSE", "2"), ("HOLDFAST_QUIET", "yes")]);
        let args = CommonArgs::default().completed(&environment).unwrap();
        assert!(args.json && args.verbose == 2 && !args.quiet && !args.no_progress);
        let quiet = CommonArgs { quiet: true, ..CommonArgs::default() }.completed(&environment).unwrap();
        assert!(quiet.quiet && quiet.verbose == 0);
        let wrong = Environment::of([("HOLDFAST_NO_PROGRESS", "maybe")]);
        let refusal = CommonArgs::default().completed(&wrong).unwrap_err();
        assert!(refusal.message.contains("HOLDFAST_NO_PROGRESS"), "{refusal}");
    }

    #[rstest]
    #[case(&["prog", "-?"], ErrorKind::DisplayHelp)]
    #[case(&["prog", "--help"], ErrorKind::DisplayHelp)]
    #[case(&["prog", "list", "-?"], ErrorKind::DisplayHelp)]
    #[case(&["prog", "-V"], ErrorKind::DisplayVersion)]
    #[case(&["prog", "list", "--version"], ErrorKind::DisplayVersion)]
    #[case(&["prog", "--cluster", "a/b"], ErrorKind::ValueValidation)]
    #[case(&["prog", "-q", "-v"], ErrorKind::ArgumentConflict)]
    fn answers_without_running(#[case] args: &[&str], #[case] kind: ErrorKind) {
        assert_eq!(Cli::try_parse_from(args).unwrap_err().kind(), kind);
    }

    #[rstest]
    #[case(&["prog", "--repo", "/a", "--repo", "/b", "-h", "db1", "-D", "/pg", "--json", "-vv", "list"])]
    #[case(&["prog", "list", "--repo", "/a", "--repo", "/b", "-h", "db1", "-D", "/pg", "--json", "-vv"])]
    fn options_stand_before_or_after_a_subcommand(#[case] args: &[&str]) {
        let cli = Cli::try_parse_from(args).unwrap();
        assert_eq!(cli.common.repositories, ["/a", "/b"]);
        assert_eq!(cli.server.host.as_deref(), Some("db1"));
        assert_eq!(cli.common.pgdata, Some("/pg".into()));
        assert!(cli.common.json);
        assert_eq!(cli.common.verbose, 2);
        assert!(matches!(cli.command, Some(Sub::List { number: None })) && cli.checkpoint.is_none());
    }

    #[test]
    fn flattening_keeps_the_programs_own_description() {
        let mut command = Cli::command();
        assert_eq!(command.get_about().unwrap().to_string(), "Does the thing");
        let help = command.render_help().to_string();
        let common = help.find("Common options:").unwrap();
        for own in ["How fast", "What to read"] {
            assert!(help.find(own).unwrap() < common, "{help}");
        }
        for shared in ["--repo <PATH-OR-URL>", "-?, --help", "-V, --version", "-h, --host"] {
            assert!(help.find(shared).unwrap() > common, "{help}");
        }
        assert!(command.render_version().starts_with("prog (Holdfast) "));
    }
}
