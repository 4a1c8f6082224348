//! What went wrong, as the one message that a program ends with.

use std::io;

use super::exit;
use crate::report::message_of;
use crate::store::StoreError;

/// A message of one line, without the program's name, and what to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

impl Failure {
    /// The chain of an error, joined by ": ", with the hint of its outermost advice.
    pub(crate) fn of_error(error: &anyhow::Error) -> Self {
        Self { message: message_of(error), hint: hint_of(error) }
    }

    /// A parser's complaint, which clap renders as paragraphs: what is wrong, tips, usage, where to find help.
    pub(crate) fn of_usage(error: &clap::Error, program: exit::Program) -> Self {
        Self::of_usage_text(&error.render().to_string(), program)
    }

    fn of_usage_text(rendered: &str, program: exit::Program) -> Self {
        let squeezed = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let mut paragraphs = rendered.split("\n\n").map(squeezed).filter(|text| !text.is_empty());
        let first = paragraphs.next().unwrap_or_default();
        let message = first.strip_prefix("error: ").unwrap_or(&first).to_owned();
        let tip = paragraphs.find_map(|text| text.strip_prefix("tip: ").map(str::to_owned));
        let help = format!("try \"{program} --help\" for more information");
        Self { message, hint: Some(tip.map_or_else(|| help.clone(), |tip| format!("{tip}; {help}"))) }
    }
}

/// What to do about an error: what its outermost advice says, else what the system's answer below it calls for.
pub fn hint_of(error: &anyhow::Error) -> Option<String> {
    let advised = exit::advice(error).and_then(|advice| advice.hint.clone());
    let of_store = || error.chain().find_map(|cause| cause.downcast_ref::<StoreError>()?.cure());
    let of_system = || error.chain().find_map(|cause| usual_cure(cause.downcast_ref::<io::Error>()?.kind()));
    advised.or_else(|| of_store().or_else(of_system).map(str::to_owned))
}

/// What helps against an answer of the system, whatever was being done.
fn usual_cure(kind: io::ErrorKind) -> Option<&'static str> {
    match kind {
        io::ErrorKind::StorageFull => Some("make room there: df -h and df -i show what is used up"),
        io::ErrorKind::QuotaExceeded => Some("make room there, or raise the quota"),
        io::ErrorKind::ReadOnlyFilesystem => Some("mount that file system for writing"),
        io::ErrorKind::PermissionDenied => Some("run as the user that owns it, or give this user the right"),
        _ => None,
    }
}

/// The text with its control characters escaped: nothing that a message quotes can begin a line of its own, or speak
/// to a terminal.
pub(crate) fn single_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() { line.extend(character.escape_default()) } else { line.push(character) }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::exit::Program;
    use crate::report::Advice;
    use anyhow::Context as _;
    use clap::Parser;
    use proptest::prelude::*;
    use rstest::rstest;

    fn denied() -> io::Error {
        io::Error::from_raw_os_error(13)
    }

    #[test]
    fn a_chain_is_said_once() {
        let store = StoreError::Io { what: "put wal/7".to_owned(), source: denied() };
        let error = anyhow::Error::from(store).context("archive 000000010000000000000007");
        let failure = Failure::of_error(&error);
        assert_eq!(failure.message, "archive 000000010000000000000007: put wal/7: permission denied");
        assert!(failure.hint.is_some_and(|hint| hint.contains("user that owns it")));
        assert_eq!(Failure::of_error(&anyhow::anyhow!("nothing to be done")).hint, None);
    }

    #[test]
    fn the_outermost_advice_gives_the_hint() {
        let error = Err::<(), _>(denied()).context(Advice::usage("read x").hint("chmod u+r x")).unwrap_err();
        let failure = Failure::of_error(&error.context("start"));
        assert_eq!(failure.message, "start: read x: permission denied");
        assert_eq!(failure.hint.as_deref(), Some("chmod u+r x"));
    }

    #[rstest]
    #[case(&["prog"], "the following required arguments were not provided: <PATH>")]
    #[case(&["prog", "a", "b"], "unexpected argument 'b' found")]
    #[case(&["prog", "a", "--level", "x"], "invalid value 'x' for '--level <LEVEL>': invalid digit found in string")]
    fn usage_errors_fit_one_line(#[case] args: &[&str], #[case] message: &str) {
        #[derive(Debug, Parser)]
        struct Cli {
            path: String,
            #[arg(long)]
            level: Option<u8>,
        }
        let failure = Failure::of_usage(&Cli::try_parse_from(args).unwrap_err(), Program::ArchiveWal);
        assert_eq!(failure.message, message);
        assert!(failure.hint.unwrap().ends_with("try \"archive-wal --help\" for more information"));
    }

    #[test]
    fn a_tip_of_the_parser_goes_into_the_hint() {
        let rendered = "error: unexpected argument '--jsn' found\n\n  tip: a similar argument exists: '--json'\n\n\
                        Usage: verify --json\n\nFor more information, try '--help'.\n";
        let failure = Failure::of_usage_text(rendered, Program::Verify);
        assert_eq!(failure.message, "unexpected argument '--jsn' found");
        let hint = "a similar argument exists: '--json'; try \"verify --help\" for more information";
        assert_eq!(failure.hint.as_deref(), Some(hint));
    }

    proptest! {
        #[test]
        fn a_line_has_no_control_characters(text in ".*") {
            let line = single_line(&text);
            prop_assert!(!line.chars().any(char::is_control));
            if !text.chars().any(char::is_control) {
                prop_assert_eq!(line, text);
            }
        }
    }
}
