//! The settings that a recovery adds to `postgresql.auto.conf`, and nothing else about them.
//!
//! That file is read last, so what stands at its end wins over everything that came with the backup. Every
//! `recovery_target…` is set, the empty ones first: PostgreSQL up to 17 takes an empty one after a set one for a second
//! target (`assign_recovery_target_*` in `src/backend/access/transam/xlogrecovery.c`).

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::pg::TimelineId;
use crate::pg::control::ControlFile;
use crate::server::shell_quote;

use super::target::{Target, for_postgresql};

/// One setting: name and plain value.
pub type Setting = (&'static str, String);

/// What the server does at the target (`recovery_target_action`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TargetAction {
    /// Ends the recovery; the server takes writes on a new timeline.
    Promote,
    /// Waits, readable.
    Pause,
    /// Stops the server.
    Shutdown,
}

impl TargetAction {
    /// PostgreSQL's word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Promote => "promote",
            Self::Pause => "pause",
            Self::Shutdown => "shutdown",
        }
    }
}

/// Where replay goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replay {
    /// The command that fetches WAL; see [`restore_command`].
    pub restore_command: String,
    /// The moment.
    pub target: Target,
    /// Whether replay stops just before it.
    pub exclusive: bool,
    /// The timeline, by number.
    pub timeline: TimelineId,
    /// What happens there.
    pub action: TargetAction,
}

/// The settings that name a moment.
const TARGETS: [&str; 5] =
    ["recovery_target", "recovery_target_lsn", "recovery_target_name", "recovery_target_time", "recovery_target_xid"];

/// The settings of the recovery itself; they go once it is over.
///
/// Nothing is archived while they stand: what a recovery wrote becomes part of the archive only when it is known to be
/// good. A delay is for standbys that stay some: here it would hold each commit back for as long as it is too young.
/// Without hot standby a raised `max_connections` in the WAL does not stop replay short of the target; only a
/// pause needs it.
pub fn replay(replay: &Replay, major: u32) -> Vec<Setting> {
    let mut settings = vec![
        ("restore_command", replay.restore_command.clone()),
        ("archive_command", String::new()),
        ("archive_cleanup_command", String::new()),
        ("recovery_end_command", String::new()),
        ("primary_conninfo", String::new()),
        ("primary_slot_name", String::new()),
        ("recovery_min_apply_delay", "0".to_owned()),
        ("hot_standby", if replay.action == TargetAction::Pause { "on" } else { "off" }.to_owned()),
    ];
    if major >= 15 {
        settings.push(("archive_library", String::new()));
    }
    if major >= 17 {
        // A promotion waits for the summarizer, which does not run without hot standby.
        settings.push(("summarize_wal", "off".to_owned()));
    }
    let chosen = match &replay.target {
        Target::Time(time) => Some(("recovery_target_time", for_postgresql(time))),
        Target::Lsn(lsn) => Some(("recovery_target_lsn", lsn.to_string())),
        // PostgreSQL keeps 32 bits of it and takes the epoch from the WAL.
        Target::Xid(xid) => Some(("recovery_target_xid", (xid & 0xFFFF_FFFF).to_string())),
        Target::Name(name) => Some(("recovery_target_name", name.clone())),
        Target::Immediate => Some(("recovery_target", "immediate".to_owned())),
        Target::Latest => None,
    };
    let others = TARGETS.into_iter().filter(|name| chosen.as_ref().is_none_or(|(chosen, _)| chosen != name));
    settings.extend(others.map(|name| (name, String::new())));
    settings.extend(chosen);
    settings.push(("recovery_target_inclusive", if replay.exclusive { "off" } else { "on" }.to_owned()));
    settings.push(("recovery_target_timeline", replay.timeline.to_string()));
    settings.push(("recovery_target_action", replay.action.name().to_owned()));
    settings
}

/// What a standby is set to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standby {
    /// The command that fetches WAL; see [`restore_command`].
    pub restore_command: String,
    /// The primary that it streams from.
    pub primary_conninfo: Option<String>,
    /// The slot on it.
    pub slot: Option<String>,
    /// The timeline that it is kept on; none follows every new one.
    pub timeline: Option<TimelineId>,
    /// Its port, where that is not what the rest of the configuration says.
    pub port: Option<u16>,
}

/// The settings that make a server with a `standby.signal` this standby. They stay for as long as it is one. Its delay is
/// what the rest of the configuration says.
pub fn standby(standby: &Standby) -> Vec<Setting> {
    let mut settings = vec![
        ("restore_command", standby.restore_command.clone()),
        ("archive_cleanup_command", String::new()),
        ("recovery_end_command", String::new()),
        ("primary_conninfo", standby.primary_conninfo.clone().unwrap_or_default()),
        ("primary_slot_name", standby.slot.clone().unwrap_or_default()),
        ("hot_standby", "on".to_owned()),
    ];
    settings.extend(TARGETS.map(|name| (name, String::new())));
    let timeline = standby.timeline.map_or_else(|| "latest".to_owned(), |timeline| timeline.to_string());
    settings.push(("recovery_target_timeline", timeline));
    settings.extend(standby.port.map(|port| ("port", port.to_string())));
    settings
}

/// Where a copy lives beside its original.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopySite {
    /// Its data directory.
    pub pgdata: PathBuf,
    /// The folder with its authentication files. Not in the data directory, which holds what the backup held.
    pub folder: PathBuf,
    /// Its port.
    pub port: u16,
}

/// The authentication file of a copy, in the folder beside its data directory.
pub const COPY_HBA_FILE: &str = "pg_hba.conf";

/// The user-name map of a copy, in the folder beside its data directory.
pub const COPY_IDENT_FILE: &str = "pg_ident.conf";

/// The folder of a copy's logs, should somebody turn its logging collector on; beside its data directory.
pub const COPY_LOG_FOLDER: &str = "log";

/// What [`COPY_HBA_FILE`] says: only through the socket, which only the owner of the directory reaches.
pub const COPY_HBA: &str = "local all all trust\n";

/// The settings that keep a copy from acting on the world: it archives nothing, replicates nothing, listens only on a
/// socket in its own directory. They stay for as long as it is a copy.
pub fn copy(site: &CopySite, control: &ControlFile, major: u32) -> Vec<Setting> {
    let own = |name: &str| site.folder.join(name).display().to_string();
    let off = |name| (name, "off".to_owned());
    let empty = |name| (name, String::new());
    let mut settings = vec![
        off("archive_mode"),
        empty("archive_command"),
        empty("archive_cleanup_command"),
        empty("recovery_end_command"),
        empty("primary_conninfo"),
        empty("primary_slot_name"),
        off("hot_standby_feedback"),
        ("port", site.port.to_string()),
        empty("listen_addresses"),
        ("unix_socket_directories", site.pgdata.display().to_string()),
        empty("unix_socket_group"),
        ("unix_socket_permissions", "0700".to_owned()),
        off("bonjour"),
        ("hba_file", own(COPY_HBA_FILE)),
        ("ident_file", own(COPY_IDENT_FILE)),
        empty("external_pid_file"),
        off("ssl"),
        off("logging_collector"),
        ("log_destination", "stderr".to_owned()),
        ("log_directory", own(COPY_LOG_FOLDER)),
        // A copy beside its original may not get what that one has already.
        ("huge_pages", "try".to_owned()),
        empty("synchronous_standby_names"),
        ("max_logical_replication_workers", "0".to_owned()),
    ];
    // Replay stops at values below the original's (CheckRequiredParameterValues).
    settings.extend([
        ("max_connections", control.max_connections.to_string()),
        ("max_worker_processes", control.max_worker_processes.to_string()),
        ("max_wal_senders", control.max_wal_senders.to_string()),
        ("max_prepared_transactions", control.max_prepared_xacts.to_string()),
        ("max_locks_per_transaction", control.max_locks_per_xact.to_string()),
    ]);
    if major < 15 {
        settings.push(("stats_temp_directory", "pg_stat_tmp".to_owned()));
    } else {
        settings.push(empty("archive_library"));
    }
    if major < 16 {
        settings.push(empty("promote_trigger_file"));
    }
    if major >= 17 {
        settings.extend([off("event_triggers"), off("sync_replication_slots"), empty("synchronized_standby_slots")]);
    }
    settings.push(("timescaledb.max_background_workers", "0".to_owned()));
    settings
}

/// Libraries whose background workers act on the world by themselves: they run jobs, fetch from or write to other
/// servers, or take the copy for a node of the original's. Others stay, since WAL may need them.
const ACTING_LIBRARIES: &[&str] = &[
    "bdr",
    "citus",
    "pg_cron",
    "pg_failover_slots",
    "pg_net",
    "pg_partman_bgw",
    "pg_squeeze",
    "pg_task",
    "pgautofailover",
    "pglogical",
    "repmgr",
    "spock",
];

/// The `shared_preload_libraries` of a copy, and those that it leaves out; `None` when it leaves out none. The list is
/// as `SplitDirectoriesString` (`src/backend/utils/adt/varlena.c`) reads it, as far as names of libraries go.
pub fn preloaded_by_a_copy(original: &str) -> Option<(String, Vec<String>)> {
    let names = original.split(',').map(str::trim).filter(|name| !name.is_empty());
    let acts = |name: &&str| {
        let file = name.trim_matches('"').rsplit('/').next().unwrap_or_default();
        ACTING_LIBRARIES.contains(&file.trim_end_matches(".so").to_ascii_lowercase().as_str())
    };
    let (left_out, kept): (Vec<&str>, Vec<&str>) = names.partition(acts);
    let left_out: Vec<String> = left_out.into_iter().map(str::to_owned).collect();
    (!left_out.is_empty()).then(|| (kept.join(","), left_out))
}

/// A configuration file without the `recovery_target…` settings that an older recovery left in it; every other byte stays.
/// On a server that takes writes they mean nothing; they would stop the next standby made of it.
pub fn without_targets(original: &[u8]) -> Vec<u8> {
    let lines = original.split_inclusive(|byte| *byte == b'\n');
    let is_kept = |line: &&[u8]| !setting_name(&String::from_utf8_lossy(line)).starts_with("recovery_target");
    lines.filter(is_kept).flatten().copied().collect()
}

/// Whether a configuration file sets this.
pub fn sets(text: &str, name: &str) -> bool {
    text.lines().any(|line| setting_name(line) == name)
}

/// The name that a line of a configuration file sets, in lower case; nothing for any other line.
fn setting_name(line: &str) -> String {
    let name = line.trim_start().split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '.').next();
    name.unwrap_or_default().to_ascii_lowercase()
}

/// The text of a configuration file with these settings after it, under a heading. Values are quoted as
/// `GUC_scanstr` (`src/backend/utils/misc/guc-file.l`) reads them; a line ends with its line break, even in quotes.
pub fn appended(original: &str, heading: &str, settings: &[Setting]) -> String {
    let mut text = original.to_owned();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    // Writing to a string cannot fail.
    let _written = writeln!(text, "# {heading}").is_ok();
    for (name, value) in settings {
        let value = value.replace('\\', r"\\").replace('\'', "''").replace('\n', r"\n");
        let _written = writeln!(text, "{name} = '{value}'").is_ok();
    }
    text
}

/// The same of a file that need not be UTF-8: a setting's value is in whatever encoding its database had.
pub fn appended_to(original: &[u8], heading: &str, settings: &[Setting]) -> Vec<u8> {
    let mut bytes = original.to_vec();
    if !bytes.is_empty() && !bytes.ends_with(b"\n") {
        bytes.push(b'\n');
    }
    bytes.extend(appended("", heading, settings).into_bytes());
    bytes
}

/// A `restore_command` of these words: each quoted for the shell, every `%` of its own doubled; PostgreSQL's `%f %p` come
/// last.
pub fn restore_command(program: &Path, words: &[String]) -> String {
    called_by_the_server(program, words) + " %f %p"
}

/// An `archive_command` of these words, quoted like a [`restore_command`]; PostgreSQL's `%p` comes last.
pub fn archive_command(program: &Path, words: &[String]) -> String {
    called_by_the_server(program, words) + " %p"
}

fn called_by_the_server(program: &Path, words: &[String]) -> String {
    let quoted = |word: &str| shell_quote(word).replace('%', "%%");
    let mut command = quoted(&program.display().to_string());
    for word in words {
        command.push(' ');
        command.push_str(&quoted(word));
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::Lsn;
    use crate::pg::control::CONTROL_FILE_SIZE;
    use proptest::prelude::*;
    use rstest::rstest;

    fn replay_to(target: Target, major: u32) -> Vec<Setting> {
        let replay = Replay {
            restore_command: "x".to_owned(),
            target,
            exclusive: true,
            timeline: TimelineId(3),
            action: TargetAction::Promote,
        };
        super::replay(&replay, major)
    }

    #[test]
    fn what_is_no_target_stays_to_the_byte() {
        let plain = b"a = '\xE9'\r\n\n# recovery_target\nb = 1".as_slice();
        assert_eq!(without_targets(plain), plain);
        assert_eq!(without_targets(b"a = 1\r\nrecovery_target_xid = 7\nb = 2"), b"a = 1\r\nb = 2");
        assert_eq!(appended_to(b"a = 1", "x", &[("b", "2".to_owned())]), b"a = 1\n# x\nb = '2'\n");
    }

    #[test]
    fn every_other_target_is_emptied_before_the_chosen_one() {
        let settings = replay_to(Target::Lsn(Lsn(0x16B_3748)), 15);
        let names: Vec<_> = settings.iter().map(|(name, _)| *name).collect();
        let place = |name| names.iter().position(|found| *found == name).unwrap();
        for other in ["recovery_target", "recovery_target_name", "recovery_target_time", "recovery_target_xid"] {
            assert!(place(other) < place("recovery_target_lsn"), "{other}");
            assert_eq!(settings[place(other)].1, "");
        }
        assert_eq!(settings[place("recovery_target_lsn")].1, "0/16B3748");
        assert_eq!(settings[place("recovery_target_timeline")].1, "3");
        assert_eq!(settings[place("recovery_target_inclusive")].1, "off");
    }

    #[test]
    fn a_standby_alone_is_delayed() {
        let delay = |settings: Vec<Setting>| {
            settings.into_iter().find(|(name, _)| *name == "recovery_min_apply_delay").map(|(_, value)| value)
        };
        let standby =
            Standby { restore_command: "x".into(), primary_conninfo: None, slot: None, timeline: None, port: None };
        assert_eq!(delay(replay_to(Target::Latest, 15)).as_deref(), Some("0"));
        assert_eq!(delay(super::standby(&standby)), None);
    }

    #[test]
    fn the_latest_has_no_target() {
        let settings = replay_to(Target::Latest, 14);
        assert!(settings.iter().filter(|(name, _)| *name == "recovery_target_time").all(|(_, value)| value.is_empty()));
        assert!(!settings.iter().any(|(name, _)| *name == "archive_library"));
    }

    #[test]
    fn values_are_quoted_as_postgresql_reads_them() {
        let text = appended("a = 1", "by a test", &[("restore_command", r"it's \ here".to_owned())]);
        assert_eq!(text, "a = 1\n# by a test\nrestore_command = 'it''s \\\\ here'\n");
    }

    #[test]
    fn targets_of_an_older_recovery_go() {
        let text = "# x\nrecovery_target_name = 'a'\n Recovery_Target='immediate'\nport = 1\n#recovery_target_xid = 1";
        assert_eq!(without_targets(text.as_bytes()), b"# x\nport = 1\n#recovery_target_xid = 1");
        assert!(sets(text, "port"));
        assert!(!sets(text, "x"));
    }

    #[test]
    fn a_restore_command_survives_odd_paths() {
        let command = restore_command(Path::new("/opt/a b/restore-wal"), &["--repo".into(), "/x/100%'s".into()]);
        assert_eq!(command, r"'/opt/a b/restore-wal' '--repo' '/x/100%%'\''s' %f %p");
        let command = archive_command(Path::new("/opt/a b/archive-wal"), &["--cluster".into(), "x".into()]);
        assert_eq!(command, "'/opt/a b/archive-wal' '--cluster' 'x' %p");
    }

    fn of_copy(major: u32) -> Vec<Setting> {
        let site = CopySite { pgdata: "/copy".into(), folder: "/copy.holdfast".into(), port: 5433 };
        let mut server = include_bytes!("../../../tests/fuzz/corpus/control/server_15").to_vec();
        server.resize(CONTROL_FILE_SIZE, 0);
        let control = ControlFile { max_prepared_xacts: 7, ..ControlFile::parse(&server).unwrap() };
        copy(&site, &control, major)
    }

    /// Each acts on the world outside, or leads out of the copy's own place, when it is what the original has.
    #[test]
    fn a_copy_keeps_to_itself() {
        for major in [14, 15, 16, 17, 18] {
            let settings = of_copy(major);
            let value = |name: &str| settings.iter().find(|(found, _)| *found == name).map(|(_, value)| value.as_str());
            for off in ["archive_mode", "ssl", "logging_collector", "hot_standby_feedback", "bonjour"] {
                assert_eq!(value(off), Some("off"), "{off} on {major}");
            }
            for empty in [
                "listen_addresses",
                "archive_command",
                "archive_cleanup_command",
                "recovery_end_command",
                "primary_conninfo",
                "primary_slot_name",
                "synchronous_standby_names",
                "external_pid_file",
            ] {
                assert_eq!(value(empty), Some(""), "{empty} on {major}");
            }
            assert_eq!(value("max_logical_replication_workers"), Some("0"));
            assert_eq!(value("unix_socket_directories"), Some("/copy"));
            assert_eq!(value("hba_file"), Some("/copy.holdfast/pg_hba.conf"));
            assert_eq!(value("ident_file"), Some("/copy.holdfast/pg_ident.conf"));
            assert_eq!(value("log_directory"), Some("/copy.holdfast/log"));
            assert_eq!(value("max_prepared_transactions"), Some("7"));
            assert_eq!(value("event_triggers"), (major >= 17).then_some("off"));
            assert_eq!(value("stats_temp_directory"), (major < 15).then_some("pg_stat_tmp"));
            assert_eq!(value("archive_library"), (major >= 15).then_some(""));
            assert_eq!(value("promote_trigger_file"), (major < 16).then_some(""));
        }
    }

    #[rstest]
    #[case("", None)]
    #[case("pg_stat_statements, auto_explain", None)]
    #[case("pg_stat_statements, pg_cron", Some(("pg_stat_statements", "pg_cron")))]
    #[case("\"pg_cron\",$libdir/pglogical.so ,x", Some(("x", "\"pg_cron\" $libdir/pglogical.so")))]
    #[case("PG_CRON", Some(("", "PG_CRON")))]
    fn libraries_that_act_are_left_out(#[case] original: &str, #[case] expected: Option<(&str, &str)>) {
        let found = preloaded_by_a_copy(original);
        let found = found.as_ref().map(|(kept, left)| (kept.as_str(), left.join(" ")));
        assert_eq!(found, expected.map(|(kept, left)| (kept, left.to_owned())));
    }

    /// What PostgreSQL reads in a line `name = 'value'` (`GUC_scanstr`).
    fn as_postgresql_reads(line: &str) -> Option<String> {
        let quoted = line.split_once(" = '")?.1.strip_suffix('\'')?;
        let mut value = String::new();
        let mut chars = quoted.chars();
        while let Some(c) = chars.next() {
            value.push(match (c, c == '\\' || c == '\'') {
                (_, false) => c,
                (_, true) => match (c, chars.next()?) {
                    ('\\', 'n') => '\n',
                    ('\\', '\\') => '\\',
                    ('\'', '\'') => '\'',
                    _ => return None,
                },
            });
        }
        Some(value)
    }

    /// The words of a command as a shell reads it, as far as only single quotes and backslashes are concerned.
    fn words(command: &str) -> Vec<String> {
        let mut words = vec![String::new()];
        let mut chars = command.chars();
        let mut quoted = false;
        while let Some(c) = chars.next() {
            match c {
                '\'' => quoted = !quoted,
                ' ' if !quoted => words.push(String::new()),
                '\\' if !quoted => words.last_mut().unwrap().extend(chars.next()),
                c => words.last_mut().unwrap().push(c),
            }
        }
        words
    }

    proptest! {
        #[test]
        fn every_value_reads_back(values in proptest::collection::vec("[a\\\\'\n\r\t#= \u{e9}]{0,12}|[^\\x00]{0,20}", 1..4), original in "[a-z =#\n']{0,30}") {
            let settings: Vec<Setting> = values.iter().map(|value| ("restore_command", value.clone())).collect();
            let text = appended(&original, "by a test", &settings);
            prop_assert!(text.starts_with(&original));
            let lines: Vec<_> = text.split('\n').rev().skip(1).take(values.len()).map(as_postgresql_reads).collect();
            prop_assert_eq!(lines.into_iter().rev().collect::<Option<Vec<_>>>(), Some(values));
            prop_assert!(sets(&text, "restore_command"));
        }

        #[test]
        fn every_word_of_a_restore_command_reaches_the_program(given in proptest::collection::vec("[a '\\\\%\n$`\"]{0,9}", 0..4)) {
            let command = restore_command(Path::new("/bin/restore-wal"), &given);
            let (own, placeholders) = command.split_at(command.len() - " %f %p".len());
            prop_assert_eq!(placeholders, " %f %p");
            // PostgreSQL replaces placeholders first.
            prop_assert_eq!(own.replace("%%", "").matches('%').count(), 0);
            let given: Vec<String> = std::iter::once("/bin/restore-wal".to_owned()).chain(given).collect();
            prop_assert_eq!(words(&own.replace("%%", "%")), given);
        }

        #[test]
        fn no_target_is_left(lines in proptest::collection::vec("( ?(recovery_target(_(xid|name|time))?|Recovery_Target|port|#recovery_target) ?=? ?'?[a-z]{0,3}'?)?", 0..6)) {
            let kept = String::from_utf8(without_targets(lines.join("\n").as_bytes())).unwrap();
            prop_assert!(!kept.lines().any(|line| line.trim_start().to_lowercase().starts_with("recovery_target")));
            let others = |text: &str| text.lines().filter(|line| line.contains("port") || line.contains('#')).count();
            prop_assert_eq!(others(&kept), others(&lines.join("\n")));
        }
    }
}
