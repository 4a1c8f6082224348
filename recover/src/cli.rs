//! The command line.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use common::app::{CommonArgs, Program, ServerArgs, exit};
use common::pg::{Lsn, TimelineId};
use common::repo::BackupId;
use common::restore::choose::WantedTimeline;
use common::restore::settings::TargetAction;
use common::restore::target::{ParseTimeError, Target, parse_time};
use common::units::ByteCount;

use crate::standby::parse_slot;

/// How many bytes of relations are looked at when nobody says.
const PAGE_SAMPLE_BYTES: u64 = 64 << 20;

use crate::extract::names::TableName;
pub(crate) use crate::find::FindArgs;

/// Bring a PostgreSQL cluster back to a moment.
#[derive(Debug, Parser)]
#[command(name = "recover", after_help = exit::table(Program::Recover))]
pub struct Cli {
    /// Options that every program knows.
    #[command(flatten)]
    pub common: CommonArgs,

    /// How the recovered server is reached for its last check.
    #[command(flatten)]
    pub server: ServerArgs,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the backups
    List,
    /// Show which moments can be reached, and where WAL is missing
    Windows,
    /// Prove that `recover run` with the same options would succeed; change nothing
    Check(Box<CheckArgs>),
    /// Recover the cluster in -D DIR, or make a copy there, in eight steps
    Run(Box<RunArgs>),
    /// Check a recovered server that somebody else started, and let it archive again
    Finish(FinishArgs),
    /// Find out when something was dropped, truncated or deleted, and how to get it back
    Find(FindArgs),
    /// Go on with a recovery whose server waits or has stopped: to the same target, or to a later one
    Continue(ContinueArgs),
    /// End a recovery whose server waits at its target or has stopped there: the server takes writes
    Promote(FinishArgs),
    /// Print how many rows each table of a running server has, for --row-counts
    RowCounts,
    /// Undo a recovery: put the preserved data directory back
    Rollback(RollbackArgs),
    /// Tell where a recovery stands, and what can be done next
    Status,
    /// Remove what recoveries have set aside, once they are over; nothing can be undone after that
    Cleanup(CleanupArgs),
    /// Write tables, or one database, as of a moment to a file, without touching the server
    Extract(Box<ExtractArgs>),
    /// Make a copy the production server, on a timeline that nobody else has
    Adopt(AdoptArgs),
}

/// Which moment.
#[derive(Debug, Clone, Default, Args)]
#[expect(clippy::struct_field_names, reason = "they are called as the options are")]
pub struct TargetArgs {
    /// Recover up to this time, such as "2026-11-20 03:15:00"; local time unless it has an offset
    #[arg(long, value_name = "TIME", value_parser = parse_time_argument, group = "target")]
    target_time: Option<Target>,

    /// Recover up to this WAL position
    #[arg(long, value_name = "LSN", group = "target")]
    target_lsn: Option<Lsn>,

    /// Recover up to the end of this transaction
    #[arg(long, value_name = "XID", group = "target")]
    target_xid: Option<u64>,

    /// Recover up to this restore point, made with `pg_create_restore_point`
    #[arg(long, value_name = "NAME", group = "target")]
    target_name: Option<String>,

    /// Recover only until the backup is consistent
    #[arg(long, group = "target")]
    target_immediate: bool,

    /// Recover to the end of all WAL (the default)
    #[arg(long, group = "target")]
    target_latest: bool,

    /// Stop just before the target, not just after it
    #[arg(long, conflicts_with_all = ["target_name", "target_immediate", "target_latest"])]
    pub target_exclusive: bool,
}

/// Which moment, and from which backup.
#[derive(Debug, Clone, Default, Args)]
pub struct MomentArgs {
    /// Which moment.
    #[command(flatten)]
    pub target: TargetArgs,

    /// The timeline to recover along: a number, "latest" or "current" (the backup's) [default: latest]
    #[arg(long, value_name = "TIMELINE", value_parser = parse_timeline)]
    target_timeline: Option<Timeline>,

    /// The backup to begin with [default: the newest one before the target]
    #[arg(long, value_name = "ID")]
    pub backup: Option<BackupId>,

    /// How many parts are unpacked at once [default: the number of processors, at most 4]
    #[arg(short = 'j', long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub jobs: Option<u16>,
}

/// Options of `recover run`.
#[derive(Debug, Default, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub struct RunArgs {
    /// Which moment, and from which backup.
    #[command(flatten)]
    pub moment: MomentArgs,

    /// What the server does at the target [default: promote]
    #[arg(long, value_name = "ACTION", value_enum)]
    target_action: Option<Action>,

    /// What DIR becomes [default: production when it is the backup's own data directory, else a copy]
    #[arg(long = "as", value_name = "KIND", value_enum)]
    pub role: Option<Role>,

    /// Make a standby, which follows the archive and, with --primary-conninfo, streams; the same as --as standby
    #[arg(long, conflicts_with = "role")]
    standby: bool,

    /// How a standby reaches its primary; a password belongs into a file that passfile= names
    #[arg(long, value_name = "CONNINFO")]
    pub primary_conninfo: Option<String>,

    /// The slot on the primary that a standby streams by
    #[arg(long, value_name = "NAME", value_parser = parse_slot)]
    pub slot: Option<String>,

    /// Put the tablespace of OLD into NEW; once for each tablespace
    #[arg(short = 'T', long = "tablespace-mapping", value_name = "OLD=NEW", value_parser = parse_mapping)]
    pub tablespace_mapping: Vec<(PathBuf, PathBuf)>,

    /// Whose configuration the recovered server gets, where it lies in the data directory: `postgresql.conf`,
    /// `postgresql.auto.conf`, `pg_hba.conf` and `pg_ident.conf`
    #[arg(long, value_name = "WHOSE", value_enum, default_value = "backup")]
    pub config_from: ConfigFrom,

    /// Take from the cluster that lies there what is the same, and fetch only the rest
    #[arg(long)]
    pub delta: bool,

    /// How the recovered server is checked.
    #[command(flatten)]
    pub verify: VerifyArgs,

    /// Stop before the server is started; `recover finish` ends the work once it runs
    #[arg(long)]
    pub no_start: bool,

    /// Go on although somebody (Patroni, Pacemaker, systemd) looks after the server
    #[arg(long)]
    pub ignore_supervisor: bool,
    /// Go on with a recovery that was cut short, from the step that it had reached
    #[arg(long, conflicts_with_all = [
        "target", "target_exclusive", "target_timeline", "target_action", "backup", "role", "tablespace_mapping",
        "config_from", "no_start", "dry_run",
    ])]
    pub resume: bool,

    /// Print the plan and change nothing
    #[arg(long)]
    pub dry_run: bool,

    /// Do not ask before the data directory is replaced
    #[arg(long)]
    pub yes: bool,

    /// Where all tablespaces go, each into a folder of its own: a scratch cluster's.
    #[arg(skip)]
    pub tablespaces_below: Option<PathBuf>,
}

/// Options of `recover extract`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("what").required(true).args(["tables", "database"])))]
#[expect(clippy::doc_markdown, reason = "the comments are help texts")]
pub struct ExtractArgs {
    /// Which moment, and from which backup.
    #[command(flatten)]
    pub moment: MomentArgs,

    /// Bring back this table of the database that -d names, written as in SQL; once for each table
    #[arg(short = 't', long = "table", value_name = "SCHEMA.NAME")]
    pub tables: Vec<TableName>,

    /// Bring back this whole database
    #[arg(long, value_name = "NAME")]
    pub database: Option<String>,

    /// The file to write, which must not be there yet; "-" is the standard output
    #[arg(long, value_name = "FILE")]
    pub output: PathBuf,

    /// How it is written, in pg_dump's letters: p is SQL for psql, c is for pg_restore
    #[arg(short = 'F', long, value_name = "p|c", value_enum, default_value = "p", hide_possible_values = true)]
    pub format: Format,

    /// Where the scratch cluster lies for the time of the work [default: TMPDIR, else beside the file, else /var/tmp]
    #[arg(long, value_name = "DIR")]
    pub scratch: Option<PathBuf>,
}

/// How an extract is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// SQL.
    #[value(name = "p", alias = "plain")]
    Plain,
    /// `pg_dump`'s own.
    #[value(name = "c", alias = "custom")]
    Custom,
}

/// How a recovered server is checked.
#[derive(Debug, Clone, Default, Args)]
pub struct VerifyArgs {
    /// Check the page checksums of relations, at places drawn by chance, up to this size; 0 checks none [default: 64 MiB]
    #[arg(long, value_name = "SIZE")]
    page_sample: Option<ByteCount>,

    /// Draw by this number, to look at the same places once more
    #[arg(long, value_name = "NUMBER")]
    pub sample_seed: Option<u64>,

    /// Check B-tree indexes where the extension amcheck is installed: a sample of each database, or all
    #[arg(long, value_name = "sample|all", value_enum, num_args = 0..=1, require_equals = true, default_missing_value = "sample", hide_possible_values = true)]
    pub amcheck: Option<Amcheck>,

    /// Compare the rows of tables with this file, lines of DATABASE SCHEMA.TABLE COUNT; recover row-counts makes one
    #[arg(long, value_name = "FILE")]
    pub row_counts: Option<PathBuf>,

    /// Write a report to FILE, in JSON, and to FILE.txt, to be read
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
}

/// Which indexes are checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Amcheck {
    /// A few of each database.
    Sample,
    /// All.
    All,
}

/// Options of `recover finish` and `recover promote`.
#[derive(Debug, Args)]
pub struct FinishArgs {
    /// How the server is checked.
    #[command(flatten)]
    pub verify: VerifyArgs,

    /// End the recovery although the check found something wrong
    #[arg(long)]
    pub accept_findings: bool,
}

/// Options of `recover continue`.
#[derive(Debug, Args)]
pub struct ContinueArgs {
    /// Which moment; without one, the same as before.
    #[command(flatten)]
    pub target: TargetArgs,

    /// What the server does at the target [default: the same as before]
    #[arg(long, value_name = "ACTION", value_enum)]
    target_action: Option<Action>,

    /// How the server is checked.
    #[command(flatten)]
    pub verify: VerifyArgs,
}

/// Options of `recover check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// What `recover run` would be told.
    #[command(flatten)]
    pub run: RunArgs,

    /// Read every byte of the backup, and every WAL segment up to the target
    #[arg(long)]
    pub deep: bool,
}

/// Options of `recover adopt`.
#[derive(Debug, Args)]
pub struct AdoptArgs {
    /// Do not ask whether the old production server is down for good
    #[arg(long)]
    pub yes: bool,
}

/// Options of `recover rollback`.
#[derive(Debug, Args)]
pub struct RollbackArgs {
    /// Do not ask before what the recovered server wrote is set aside
    #[arg(long)]
    pub yes: bool,
}

/// Options of `recover cleanup`.
#[derive(Debug, Args)]
pub struct CleanupArgs {
    /// Do not ask before anything is removed
    #[arg(long)]
    pub yes: bool,
}

/// Whose configuration files a recovered server gets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConfigFrom {
    /// The backup's.
    #[default]
    Backup,
    /// Those of the cluster that is set aside.
    Preserved,
}

/// What a recovered data directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The cluster itself: it archives again once the recovery is verified.
    Production,
    /// A copy beside it: it archives nothing and has its own port and socket.
    Copy,
    /// A standby of it.
    Standby,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Action {
    #[default]
    Promote,
    Pause,
    Shutdown,
}

/// A wanted timeline as an argument.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timeline(pub(crate) WantedTimeline);

impl TargetArgs {
    /// The moment that was asked for, if one was.
    pub fn given(&self) -> Option<Target> {
        self.target_time
            .clone()
            .or(self.target_lsn.map(Target::Lsn))
            .or(self.target_xid.map(Target::Xid))
            .or(self.target_name.clone().map(Target::Name))
            .or(self.target_immediate.then_some(Target::Immediate))
            .or(self.target_latest.then_some(Target::Latest))
    }
}

impl MomentArgs {
    /// The moment that was asked for.
    pub fn target(&self) -> Target {
        self.target.given().unwrap_or(Target::Latest)
    }

    /// Whether a timeline was asked for by its number.
    pub fn names_timeline(&self) -> bool {
        matches!(self.timeline(), WantedTimeline::Number(_))
    }

    /// Whether replay is to stop just before it.
    pub fn is_exclusive(&self) -> bool {
        self.target.target_exclusive
    }

    /// The timeline that was asked for.
    pub fn timeline(&self) -> WantedTimeline {
        self.target_timeline.map_or(WantedTimeline::Newest, |timeline| timeline.0)
    }
}

impl ExtractArgs {
    /// The recovery of a scratch cluster whose tablespaces lie below this folder.
    pub fn as_run(&self, tablespaces_below: PathBuf) -> RunArgs {
        RunArgs {
            moment: self.moment.clone(),
            role: Some(Role::Copy),
            tablespaces_below: Some(tablespaces_below),
            ..RunArgs::default()
        }
    }
}

impl Cli {
    /// How a server is to be checked.
    pub fn verify(&self) -> VerifyArgs {
        match &self.command {
            Command::Run(args) => args.verify.clone(),
            Command::Continue(args) => args.verify.clone(),
            Command::Finish(args) | Command::Promote(args) => args.verify.clone(),
            _ => VerifyArgs::default(),
        }
    }

    /// Whether the recovery may end although something wrong was found.
    pub fn accepts_findings(&self) -> bool {
        matches!(&self.command, Command::Finish(args) | Command::Promote(args) if args.accept_findings)
    }
}

impl VerifyArgs {
    /// How many bytes of relations are looked at.
    pub fn page_sample_bytes(&self) -> u64 {
        self.page_sample.map_or(PAGE_SAMPLE_BYTES, |sample| sample.0)
    }
}

impl RunArgs {
    /// What happens at the target.
    pub fn action(&self) -> TargetAction {
        self.target_action.unwrap_or_default().into()
    }

    /// Whether something was said of what happens at the target.
    pub fn asks_for_action(&self) -> bool {
        self.target_action.is_some()
    }

    /// What the directory is to become, where that was said.
    pub fn wanted_role(&self) -> Option<Role> {
        if self.standby { Some(Role::Standby) } else { self.role }
    }
}

impl ContinueArgs {
    /// What happens at the target, when that is to change.
    pub fn action(&self) -> Option<TargetAction> {
        self.target_action.map(TargetAction::from)
    }
}

impl From<Action> for TargetAction {
    fn from(action: Action) -> Self {
        match action {
            Action::Promote => Self::Promote,
            Action::Pause => Self::Pause,
            Action::Shutdown => Self::Shutdown,
        }
    }
}

pub(crate) fn parse_time_argument(text: &str) -> Result<Target, ParseTimeError> {
    parse_time(text).map(Target::Time)
}

pub(crate) fn parse_timeline(text: &str) -> Result<Timeline, String> {
    let number = match text {
        "latest" => return Ok(Timeline(WantedTimeline::Newest)),
        "current" => return Ok(Timeline(WantedTimeline::OfBackup)),
        _ => text.strip_prefix("0x").map_or_else(|| text.parse(), |hex| u32::from_str_radix(hex, 16)),
    };
    match number {
        Ok(number) if number > 0 => Ok(Timeline(WantedTimeline::Number(TimelineId(number)))),
        _ => Err("a timeline is a number from 1 on, \"latest\" or \"current\"".to_owned()),
    }
}

/// `OLD=NEW` as `pg_basebackup` takes it: both absolute, a `=` of the path itself written `\=`.
fn parse_mapping(text: &str) -> Result<(PathBuf, PathBuf), String> {
    let mut parts = vec![String::new()];
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\\' if characters.peek() == Some(&'=') => {
                characters.next();
                parts.last_mut().map(|part| part.push('=')).unwrap_or_default();
            }
            '=' => parts.push(String::new()),
            other => parts.last_mut().map(|part| part.push(other)).unwrap_or_default(),
        }
    }
    match &parts[..] {
        [old, new] if old.starts_with('/') && new.starts_with('/') => Ok((tidy(old), tidy(new))),
        _ => Err("write it as OLD=NEW, two absolute paths; \\= stands for a = in a path".to_owned()),
    }
}

fn tidy(path: &str) -> PathBuf {
    std::path::Path::new(path).components().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use proptest::prelude::*;
    use rstest::rstest;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[rstest]
    #[case("/a=/b", "/a", "/b")]
    #[case(r"/a\=x=/b/", "/a=x", "/b")]
    fn reads_a_mapping(#[case] text: &str, #[case] old: &str, #[case] new: &str) {
        assert_eq!(parse_mapping(text).unwrap(), (old.into(), new.into()));
    }

    #[rstest]
    #[case("/a")]
    #[case("a=/b")]
    #[case("/a=b")]
    #[case("/a=/b=/c")]
    #[case("")]
    fn refuses_half_a_mapping(#[case] text: &str) {
        assert!(parse_mapping(text).is_err());
    }

    #[rstest]
    #[case(&["--target-lsn", "0/16B3748"], Target::Lsn(Lsn(0x16B_3748)))]
    #[case(&["--target-xid", "750"], Target::Xid(750))]
    #[case(&["--target-name", "before"], Target::Name("before".into()))]
    #[case(&["--target-immediate"], Target::Immediate)]
    #[case(&["--target-latest"], Target::Latest)]
    #[case(&[], Target::Latest)]
    fn one_target_at_a_time(#[case] args: &[&str], #[case] expected: Target) {
        let line = ["recover", "run", "-D", "/x"].iter().chain(args);
        let Command::Run(run) = Cli::try_parse_from(line).unwrap().command else { panic!("not run") };
        assert_eq!(run.moment.target(), expected);
        let twice = ["recover", "run", "-D", "/x", "--target-lsn", "0/1", "--target-xid", "1"];
        assert!(Cli::try_parse_from(twice).is_err());
    }

    #[rstest]
    #[case("latest", WantedTimeline::Newest)]
    #[case("current", WantedTimeline::OfBackup)]
    #[case("3", WantedTimeline::Number(TimelineId(3)))]
    #[case("0x1A", WantedTimeline::Number(TimelineId(26)))]
    fn reads_a_timeline(#[case] text: &str, #[case] expected: WantedTimeline) {
        assert_eq!(parse_timeline(text).unwrap().0, expected);
        assert!(parse_timeline("0").is_err());
    }

    proptest! {
        #[test]
        fn timelines_and_mappings_read_back(number in 1_u32.., old in "/[a-z=. ]{0,9}", new in "/[a-z=. ]{0,9}") {
            for text in [number.to_string(), format!("{number:#x}")] {
                prop_assert_eq!(parse_timeline(&text).unwrap().0, WantedTimeline::Number(TimelineId(number)));
            }
            let mapping = format!("{}={}", old.replace('=', "\\="), new.replace('=', "\\="));
            prop_assert_eq!(parse_mapping(&mapping).unwrap(), (old.into(), new.into()));
        }

        #[test]
        fn never_panics(text in ".*", likely in "[-+0x1-9a-f/=\\\\]{0,12}") {
            for text in [text, likely] {
                drop(parse_timeline(&text));
                if let Ok((old, new)) = parse_mapping(&text) {
                    prop_assert!(old.is_absolute() && new.is_absolute());
                }
            }
        }
    }
}
