//! The `archive_command`: what it must be, and whether the one that the server has is as good.
//!
//! A command is judged by what it does, not by its text: it is taken apart as the shell would, and its options are
//! read by the very parser and the very configuration that it would meet itself.

use std::collections::BTreeSet;
use std::path::Path;

use clap::{Parser as _, ValueEnum as _};
use common::app::{Environment, Origin, Settings};
use common::restore::settings::archive_command;

use crate::Cli;

/// The path that stands for PostgreSQL's `%p`.
const ANY_PATH: &str = "pg_wal/000000010000000000000001";

/// What an `archive_command` does, seen from the configuration at hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Standing {
    /// There is none.
    Empty,
    /// It puts WAL into exactly the repositories that are configured.
    Serves,
    /// It puts WAL into some of them, and nowhere else. A longer command keeps these options of it.
    Lacks(Vec<String>),
    /// It does something else: what.
    Other(String),
}

/// The command that calls `program` with the configuration at hand. What the configuration file says is left to that file,
/// so that a change there takes effect; secrets are in no option. `kept` are options that the present command has.
pub(crate) fn wanted(program: &Path, settings: &Settings, kept: &[String]) -> String {
    let mut words = Vec::new();
    if let Some(file) = &settings.config_file {
        words.extend(["--config".to_owned(), file.display().to_string()]);
    }
    let in_file = |origin: &Origin| matches!(origin, Origin::File { .. });
    for repository in settings.repositories.iter().filter(|repository| !in_file(&repository.url.origin)) {
        words.extend(["--repo".to_owned(), repository.url.value.clone()]);
    }
    if matches!(settings.cluster.origin, Origin::Flag(_) | Origin::Variable(_)) {
        words.extend(["--cluster".to_owned(), settings.cluster.value.to_string()]);
    }
    words.extend_from_slice(kept);
    archive_command(program, &words)
}

/// The options of a call that say neither where the WAL goes nor whose it is. `--after-upgrade` is for once.
fn own_options(cli: &Cli) -> Vec<String> {
    let mut words = Vec::new();
    if let Some(batch) = cli.batch {
        words.extend(["--batch".to_owned(), batch.to_string()]);
    }
    if let Some(format) = cli.common.log_format.and_then(|format| format.to_possible_value()) {
        words.extend(["--log-format".to_owned(), format.get_name().to_owned()]);
    }
    words.extend((0..cli.common.verbose).map(|_| "--verbose".to_owned()));
    words.extend(cli.common.quiet.then(|| "--quiet".to_owned()));
    words
}

/// What `command` does. The server runs it in `pgdata`; what its environment adds is not known and taken for nothing.
pub(crate) fn standing(command: &str, wanted: &Settings, pgdata: &Path) -> Standing {
    if command.trim().is_empty() {
        return Standing::Empty;
    }
    let no_call = || Standing::Other("it is not a plain call of archive-wal".to_owned());
    let Some(words) = words(&replaced(command)) else { return no_call() };
    let is_ours = words.first().is_some_and(|program| Path::new(program).ends_with("archive-wal"));
    let Some(cli) = Cli::try_parse_from(&words).ok().filter(|_| is_ours) else { return no_call() };
    if cli.command.is_some() || cli.path() != Path::new(ANY_PATH) {
        return no_call();
    }
    let environment = Environment::default().in_directory(pgdata);
    let theirs = match Settings::load(&cli.common, &environment) {
        Ok(settings) => settings,
        Err(advice) => return Standing::Other(format!("its configuration is wrong: {}", advice.message)),
    };
    if !theirs.repositories.is_empty() && theirs.cluster.value != wanted.cluster.value {
        return Standing::Other(format!("it archives as cluster \"{}\"", theirs.cluster.value));
    }
    let (theirs, ours) = (places(&theirs), places(wanted));
    match theirs.difference(&ours).next() {
        Some(further) => Standing::Other(format!("it archives into {further}, which is not configured here")),
        None if theirs == ours => Standing::Serves,
        None => Standing::Lacks(own_options(&cli)),
    }
}

fn places(settings: &Settings) -> BTreeSet<&str> {
    settings.repositories.iter().map(|repository| repository.url.value.as_str()).collect()
}

/// The command as PostgreSQL hands it to the shell (`shell_archive_file` in `src/backend/archive/shell_archive.c`).
fn replaced(command: &str) -> String {
    let mut text = String::new();
    let mut chars = command.chars();
    while let Some(c) = chars.next() {
        match (c, chars.clone().next()) {
            ('%', Some('p')) => text.push_str(ANY_PATH),
            ('%', Some('f')) => text.push_str(ANY_PATH.trim_start_matches("pg_wal/")),
            ('%', Some('%')) => text.push('%'),
            _ => {
                text.push(c);
                continue;
            }
        }
        chars.next();
    }
    text
}

/// The words of one plain command; none for anything that a shell would do more with than calling it.
fn words(command: &str) -> Option<Vec<String>> {
    const SPECIAL: &str = "|&;<>()$`*?[]#~{}!\n";
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = command.chars();
    while let Some(c) = chars.next() {
        match c {
            ' ' | '\t' => words.extend(word.take()),
            '\'' | '"' => {
                let open = word.get_or_insert_default();
                loop {
                    match chars.next()? {
                        end if end == c => break,
                        '$' | '`' | '\\' if c == '"' => return None,
                        inside => open.push(inside),
                    }
                }
            }
            '\\' => word.get_or_insert_default().push(chars.next()?),
            // A word with it before the program's name would set a variable.
            '=' if words.is_empty() => return None,
            special if SPECIAL.contains(special) => return None,
            plain => word.get_or_insert_default().push(plain),
        }
    }
    words.extend(word);
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::app::config::{RepositorySetting, Sourced};
    use proptest::prelude::*;
    use rstest::rstest;

    fn settings(repositories: &[&str], origin: &Origin) -> Settings {
        let repository = |url: &&str| RepositorySetting {
            url: Sourced { value: (*url).to_owned(), origin: origin.clone() },
            compression: "zstd:1".parse().unwrap(),
            create: None,
        };
        Settings { repositories: repositories.iter().map(repository).collect(), ..Settings::default() }
    }

    fn by_flag(repositories: &[&str]) -> Settings {
        settings(repositories, &Origin::Flag("--repo"))
    }

    #[rstest]
    #[case("", Standing::Empty)]
    #[case(" ", Standing::Empty)]
    #[case("archive-wal --repo /a --repo /b %p", Standing::Serves)]
    #[case("/usr/bin/archive-wal --repo=/b --repo '/a' \"%p\"", Standing::Serves)]
    #[case("archive-wal --repo /a %p", Standing::Lacks(Vec::new()))]
    #[case("archive-wal -v --repo file:///a --repo /b/ %p", Standing::Serves)]
    fn commands_of_ours(#[case] command: &str, #[case] expected: Standing) {
        assert_eq!(standing(command, &by_flag(&["/a", "/b"]), Path::new("/pg")), expected);
    }

    #[rstest]
    #[case("archive-wal -b4 --repo /a -vv --log-format=json %p", "--batch 4 --log-format json --verbose --verbose")]
    #[case("archive-wal --after-upgrade --repo /a --quiet %p --batch 1", "--batch 1 --quiet")]
    fn a_longer_command_keeps_options(#[case] command: &str, #[case] options: &str) {
        let kept = words(options).unwrap();
        assert_eq!(standing(command, &by_flag(&["/a", "/b"]), Path::new("/pg")), Standing::Lacks(kept));
    }

    #[rstest]
    #[case("/bin/false", "no plain call")]
    #[case("pgbackrest --stanza=main archive-push %p", "no plain call")]
    #[case("cp %p /archive/%f", "no plain call")]
    #[case("archive-wal --repo /a %p && touch /tmp/x", "no plain call")]
    #[case("archive-wal --repo $REPO %p", "no plain call")]
    #[case("HOLDFAST_REPO=/a archive-wal %p", "no plain call")]
    #[case("archive-wal --repo /a pg_wal/%f", "")]
    #[case("archive-wal --repo /a", "no plain call")]
    #[case("archive-wal --repo /a stats", "no plain call")]
    #[case("archive-wal --repo '/a %p", "no plain call")]
    #[case("archive-wal --repo /other %p", "/other")]
    #[case("archive-wal --repo /a --cluster x %p", "cluster \"x\"")]
    #[case("archive-wal --config /no/such/file %p", "configuration")]
    fn other_commands(#[case] command: &str, #[case] words: &str) {
        let found = standing(command, &by_flag(&["/a"]), Path::new("/pg"));
        match (found, words) {
            // The name in pg_wal is what %p is, too.
            (found, "") => assert_eq!(found, Standing::Serves),
            (Standing::Other(why), "no plain call") => assert_eq!(why, "it is not a plain call of archive-wal"),
            (Standing::Other(why), words) => assert!(why.contains(words), "{why}"),
            (found, _) => panic!("{command} is {found:?}"),
        }
    }

    #[test]
    fn the_configuration_file_speaks_for_itself() {
        let in_file = Origin::File { path: "/etc/h.toml".into(), line: 3 };
        let mut settings = settings(&["/a"], &in_file);
        settings.config_file = Some("/etc/h.toml".into());
        settings.conninfo = Some("host=x password=hush".to_owned());
        assert_eq!(wanted(Path::new("/b/archive-wal"), &settings, &[]), "'/b/archive-wal' '--config' '/etc/h.toml' %p");
        settings.cluster = Sourced { value: "x".parse().unwrap(), origin: Origin::Flag("--cluster") };
        assert_eq!(
            wanted(Path::new("/b/archive-wal"), &settings, &[]),
            "'/b/archive-wal' '--config' '/etc/h.toml' '--cluster' 'x' %p"
        );
    }

    proptest! {
        #[test]
        fn what_is_wanted_serves_itself(
            program in "/[a-z '%\"$]{0,9}",
            urls in proptest::collection::btree_set("/[a-z '%\\\\\"$`&]{0,9}[a-z]", 1..4),
            kept in prop_oneof![Just(Vec::new()), Just(vec!["--batch".to_owned(), "4".to_owned()])],
        ) {
            let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
            let settings = by_flag(&urls);
            let command = wanted(&Path::new(&program).join("archive-wal"), &settings, &kept);
            prop_assert_eq!(standing(&command, &settings, Path::new("/pg")), Standing::Serves, "{}", command);
        }

        #[test]
        fn no_command_breaks_it(command in ".*", likely in "(archive-wal|'|\"|%|%p|--repo|/a| |\\\\|=){0,9}") {
            for command in [command, likely] {
                drop(standing(&command, &by_flag(&["/a"]), Path::new("/pg")));
            }
        }
    }
}
