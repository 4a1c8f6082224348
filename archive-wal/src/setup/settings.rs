//! Which settings are right, which are not, and the statement that makes one right. Pure.

use std::collections::BTreeMap;

use common::server::quote_literal;
use serde::Serialize;

use super::command::Standing;

/// The WAL senders that a standby, a `pg_basebackup` and one more need.
const WAL_SENDERS_MIN: u64 = 3;

/// The server, as far as its settings decide.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    /// PostgreSQL's major version.
    pub(crate) major: u32,
    /// Whether it is in recovery.
    pub(crate) standby: bool,
    /// The settings by name.
    pub(crate) values: BTreeMap<String, Value>,
    /// What its `archive_command` does.
    pub(crate) standing: Standing,
    /// The one that serves the configuration at hand.
    pub(crate) wanted: String,
}

/// One setting of a server.
#[derive(Debug, Clone, Default)]
pub(crate) struct Value {
    /// What it is now, in its base unit.
    pub(crate) running: String,
    /// What the configuration files say, where the role may see that.
    pub(crate) configured: Option<String>,
    /// Whether a change needs a restart.
    pub(crate) restart: bool,
}

/// How a setting stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    /// As it is needed, or better.
    Ok,
    /// Written down as it is needed, but the server must be restarted for it.
    Restart,
    /// Not as it is needed.
    Differs,
    /// Another archiver has it; it stays unless it is to be replaced.
    OtherArchiver,
    /// The role may not see it.
    Hidden,
}

impl State {
    /// In the words of the table.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Restart => "needs a restart",
            Self::Differs => "differs",
            Self::OtherArchiver => "another archiver",
            Self::Hidden => "hidden",
        }
    }
}

/// A setting, what it should be, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Setting {
    /// Its name.
    pub(crate) name: &'static str,
    /// What it is, in its base unit; none when the role may not see it.
    pub(crate) running: Option<String>,
    /// What it should be: what it is, where that is good.
    pub(crate) needed: String,
    /// How it stands.
    pub(crate) state: State,
    /// Whether a change takes effect only with a restart.
    pub(crate) needs_restart: bool,
    /// Why it is needed, or what is wrong.
    pub(crate) reason: String,
    /// What makes it right.
    pub(crate) statement: Option<String>,
}

impl Setting {
    /// Whether there is nothing to do for it.
    pub(crate) fn is_ok(&self) -> bool {
        self.state == State::Ok
    }
}

/// What one setting must be.
struct Rule {
    name: &'static str,
    /// What it is set to where it is not good.
    usual: &'static str,
    /// Whether a value is as good as that.
    is_good: fn(&str) -> bool,
    reason: &'static str,
}

fn rules(server: &Server) -> Vec<Rule> {
    let mut rules = vec![
        Rule {
            name: "wal_level",
            usual: "replica",
            is_good: |value| matches!(value, "replica" | "logical"),
            reason: "the WAL of a lower level cannot be replayed onto a backup",
        },
        if server.standby {
            Rule {
                name: "archive_mode",
                usual: "always",
                is_good: |value| value == "always",
                reason: "a standby that archives what it receives leaves no hole behind a primary that died; with on it \
                         would never archive what the primary had not",
            }
        } else {
            Rule {
                name: "archive_mode",
                usual: "on",
                is_good: |value| matches!(value, "on" | "always"),
                reason: "without it nothing is archived",
            }
        },
        Rule {
            name: "archive_timeout",
            usual: "60s",
            is_good: |value| value.parse().is_ok_and(|seconds: u64| seconds > 0),
            reason: "a segment that is not full is archived after so long: with 60s, at most what was written in the last \
                     minute is lost with the server",
        },
        Rule {
            name: "max_wal_senders",
            usual: "3",
            is_good: |value| value.parse().is_ok_and(|senders: u64| senders >= WAL_SENDERS_MIN),
            reason: "a standby and pg_basebackup need some",
        },
    ];
    if server.major >= 17 {
        rules.push(Rule {
            name: "summarize_wal",
            usual: "on",
            is_good: |value| value == "on",
            reason: "incremental backups need the summaries of the time before them",
        });
    }
    rules
}

/// Decides on every setting. `replace` lets the wanted `archive_command` take the place of another archiver's.
pub(crate) fn decide(server: &Server, replace: bool) -> Vec<Setting> {
    let mut settings: Vec<Setting> = rules(server).iter().map(|rule| by_rule(rule, server)).collect();
    // Beside archive_mode, which it belongs to.
    settings.insert(2, command(server, replace));
    settings.extend(library(server, replace));
    settings
}

fn by_rule(rule: &Rule, server: &Server) -> Setting {
    let Some(value) = server.values.get(rule.name) else { return hidden(rule.name, rule.usual) };
    let is_good = |text: &str| (rule.is_good)(plain(text));
    // What will be after a restart decides; a value that takes effect at once has done so.
    let next = value.configured.as_deref().filter(|_| value.restart).unwrap_or(&value.running);
    let state = match (is_good(&value.running), is_good(next)) {
        (true, true) => State::Ok,
        (false, true) => State::Restart,
        (_, false) => State::Differs,
    };
    let reason = match state {
        State::Restart => format!("the configuration says {next}; the server must be restarted for it"),
        State::Differs if is_good(&value.running) => format!("from the next restart on it is {next}: {}", rule.reason),
        _ => rule.reason.to_owned(),
    };
    Setting {
        name: rule.name,
        running: Some(value.running.clone()),
        needed: if state == State::Differs { rule.usual.to_owned() } else { next.to_owned() },
        state,
        needs_restart: value.restart,
        reason,
        statement: (state == State::Differs).then(|| statement(rule.name, rule.usual)),
    }
}

fn command(server: &Server, replace: bool) -> Setting {
    const NAME: &str = "archive_command";
    let Some(value) = server.values.get(NAME) else { return hidden(NAME, &server.wanted) };
    let (state, reason) = match &server.standing {
        Standing::Serves => (State::Ok, "it puts every WAL file into every configured repository".to_owned()),
        Standing::Empty => (State::Differs, "without it nothing is archived".to_owned()),
        Standing::Lacks(_) => (State::Differs, "not every configured repository gets the WAL".to_owned()),
        Standing::Other(why) if replace => (State::Differs, format!("{why}; --replace puts this in its place")),
        Standing::Other(why) => {
            (State::OtherArchiver, format!("{why}; two archivers may be meant: --replace puts this in its place"))
        }
    };
    Setting {
        name: NAME,
        running: Some(value.running.clone()),
        needed: if state == State::Ok { value.running.clone() } else { server.wanted.clone() },
        state,
        needs_restart: value.restart,
        reason,
        statement: (state == State::Differs).then(|| statement(NAME, &server.wanted)),
    }
}

/// An archive module (15 and later) archives in place of the command.
fn library(server: &Server, replace: bool) -> Option<Setting> {
    const NAME: &str = "archive_library";
    let value = server.values.get(NAME).filter(|value| !value.running.is_empty())?;
    let state = if replace { State::Differs } else { State::OtherArchiver };
    Some(Setting {
        name: NAME,
        running: Some(value.running.clone()),
        needed: String::new(),
        state,
        needs_restart: value.restart,
        reason: "this module archives, and archive_command is not called; --replace takes it away".to_owned(),
        statement: replace.then(|| statement(NAME, "")),
    })
}

fn hidden(name: &'static str, needed: &str) -> Setting {
    Setting {
        name,
        running: None,
        needed: needed.to_owned(),
        state: State::Hidden,
        needs_restart: false,
        reason: "the role may not see it: grant pg_read_all_settings to it".to_owned(),
        statement: None,
    }
}

/// The values that a configuration file may have for a switch, as the server prints them.
fn plain(value: &str) -> &str {
    match value {
        "true" | "yes" | "1" => "on",
        other => other,
    }
}

fn statement(name: &str, value: &str) -> String {
    format!("ALTER SYSTEM SET {name} = {}", quote_literal(value).trim_start())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    const WANTED: &str = "'/b/archive-wal' '--repo' '/r' %p";

    fn server(standby: bool, major: u32, values: &[(&str, &str, Option<&str>)]) -> Server {
        let restart = ["wal_level", "archive_mode", "max_wal_senders"];
        let value = |(name, running, configured): &(&str, &str, Option<&str>)| {
            let configured = configured.map(str::to_owned);
            ((*name).to_owned(), Value { running: (*running).to_owned(), configured, restart: restart.contains(name) })
        };
        let values = values.iter().map(value).collect();
        Server { major, standby, values, standing: Standing::Serves, wanted: WANTED.to_owned() }
    }

    fn state_of(settings: &[Setting], name: &str) -> State {
        settings.iter().find(|setting| setting.name == name).unwrap().state
    }

    const FRESH: [(&str, &str, Option<&str>); 5] = [
        ("wal_level", "replica", None),
        ("archive_mode", "off", None),
        ("archive_command", "", None),
        ("archive_timeout", "0", None),
        ("max_wal_senders", "10", None),
    ];

    #[test]
    fn a_fresh_server_lacks_three() {
        let server = Server { standing: Standing::Empty, ..server(false, 15, &FRESH) };
        let settings = decide(&server, false);
        let statements: Vec<_> = settings.iter().filter_map(|setting| setting.statement.as_deref()).collect();
        assert_eq!(
            statements,
            [
                "ALTER SYSTEM SET archive_mode = 'on'",
                "ALTER SYSTEM SET archive_command = '''/b/archive-wal'' ''--repo'' ''/r'' %p'",
                "ALTER SYSTEM SET archive_timeout = '60s'",
            ]
        );
        let names: Vec<_> = settings.iter().map(|setting| setting.name).collect();
        assert_eq!(names, ["wal_level", "archive_mode", "archive_command", "archive_timeout", "max_wal_senders"]);
    }

    #[rstest]
    #[case::level_lower(false, "wal_level", "minimal", None, State::Differs)]
    #[case::level_stays(false, "wal_level", "logical", None, State::Ok)]
    #[case::level_waits(false, "wal_level", "minimal", Some("replica"), State::Restart)]
    #[case::mode_waits(false, "archive_mode", "off", Some("yes"), State::Restart)]
    #[case::mode_stays(false, "archive_mode", "always", None, State::Ok)]
    #[case::mode_will_go(false, "archive_mode", "on", Some("off"), State::Differs)]
    #[case::standby(true, "archive_mode", "on", None, State::Differs)]
    #[case::standby_always(true, "archive_mode", "always", None, State::Ok)]
    #[case::timeout_stays(false, "archive_timeout", "3600", None, State::Ok)]
    #[case::timeout_off(false, "archive_timeout", "0", None, State::Differs)]
    #[case::timeout_file_does_not_count(false, "archive_timeout", "0", Some("1h"), State::Differs)]
    #[case::senders(false, "max_wal_senders", "2", None, State::Differs)]
    #[case::senders_enough(false, "max_wal_senders", "3", None, State::Ok)]
    fn judges(
        #[case] standby: bool,
        #[case] name: &str,
        #[case] running: &str,
        #[case] configured: Option<&str>,
        #[case] expected: State,
    ) {
        let settings = decide(&server(standby, 15, &[(name, running, configured)]), false);
        let setting = settings.iter().find(|setting| setting.name == name).unwrap();
        assert_eq!(setting.state, expected, "{setting:?}");
        assert_eq!(setting.statement.is_some(), expected == State::Differs);
        if expected == State::Ok {
            assert_eq!(setting.needed, running);
        }
    }

    #[rstest]
    #[case(Standing::Serves, false, State::Ok)]
    #[case(Standing::Empty, false, State::Differs)]
    #[case(Standing::Lacks(Vec::new()), false, State::Differs)]
    #[case(Standing::Other("x".to_owned()), false, State::OtherArchiver)]
    #[case(Standing::Other("x".to_owned()), true, State::Differs)]
    fn another_archiver_stays_unless_told(#[case] standing: Standing, #[case] replace: bool, #[case] expected: State) {
        let server = Server { standing, ..server(false, 15, &[("archive_command", "cp", None)]) };
        assert_eq!(state_of(&decide(&server, replace), "archive_command"), expected);
    }

    #[rstest]
    #[case(false, State::OtherArchiver, None)]
    #[case(true, State::Differs, Some("ALTER SYSTEM SET archive_library = ''"))]
    fn an_archive_module_is_an_archiver(#[case] replace: bool, #[case] state: State, #[case] statement: Option<&str>) {
        let server = server(false, 15, &[("archive_library", "basic_archive", None)]);
        let settings = decide(&server, replace);
        let library = settings.last().unwrap();
        assert_eq!((library.name, library.state, library.statement.as_deref()), ("archive_library", state, statement));
    }

    #[test]
    fn summaries_came_with_17() {
        for (major, expected) in [(16, false), (17, true)] {
            let settings = decide(&server(false, major, &[("summarize_wal", "off", None)]), false);
            assert_eq!(settings.iter().any(|setting| setting.name == "summarize_wal"), expected);
        }
    }

    #[test]
    fn what_cannot_be_seen_is_not_guessed() {
        let settings = decide(&server(false, 15, &[]), false);
        assert!(settings.iter().all(|setting| setting.state == State::Hidden && setting.statement.is_none()));
    }

    #[test]
    fn values_are_quoted() {
        assert_eq!(statement("archive_command", r"it's \ %p"), r"ALTER SYSTEM SET archive_command = E'it''s \\ %p'");
    }
}
