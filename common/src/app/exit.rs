//! The one table of exit codes.
//!
//! PostgreSQL reads the codes of two of the programs. The archiver takes 1 to 125 as "try again later" and dies of
//! more (`pgarch.c`); recovery takes 1 to 125 as "there is no such file", which ends recovery and promotes, and stops
//! the server at anything above (`xlogarchive.c`, `RestoreArchivedFile`). So `restore-wal` says 1 only when a file is
//! provably absent and adds 200 to everything else, and `archive-wal` never goes above 125.

use std::fmt;

use crate::report::{Advice, ExitClass, Interrupted};

/// One of Holdfast's programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Program {
    /// PostgreSQL's `archive_command`.
    ArchiveWal,
    /// PostgreSQL's `restore_command`.
    RestoreWal,
    /// Takes base backups.
    Basebackup,
    /// Brings a cluster back.
    Recover,
    /// Removes what the policy no longer needs.
    Retention,
    /// Proves that backups restore.
    Verify,
}

impl Program {
    /// The program's name, as it is typed.
    pub fn name(self) -> &'static str {
        match self {
            Self::ArchiveWal => "archive-wal",
            Self::RestoreWal => "restore-wal",
            Self::Basebackup => "basebackup",
            Self::Recover => "recover",
            Self::Retention => "retention",
            Self::Verify => "verify",
        }
    }

    /// Whether PostgreSQL calls it and its standard error is the server's log.
    pub fn speaks_into_the_servers_log(self) -> bool {
        matches!(self, Self::ArchiveWal | Self::RestoreWal)
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What `restore-wal` adds to every failure.
const RESTORE_WAL_FAILURE: u8 = 200;

/// `restore-wal`'s answer for a file that no repository has and nothing later needs; also its answer to every failure
/// in a standby's directory.
pub(crate) const ABSENT: u8 = 1;

const TABLE: [(ExitClass, u8, &str); 9] = [
    (ExitClass::Done, 0, "done"),
    (ExitClass::Failed, 1, "failed"),
    (ExitClass::Usage, 2, "wrong arguments or configuration"),
    (ExitClass::Findings, 3, "finished, and found something bad"),
    (ExitClass::PartDone, 4, "done in part"),
    (ExitClass::NoRepository, 10, "no repository, or no such cluster in it"),
    (ExitClass::Locked, 11, "somebody else is at work on the same thing"),
    (ExitClass::CannotDecrypt, 12, "cannot decrypt"),
    (ExitClass::Refused, 20, "refused, because going on could lose data"),
];

/// The number with which `program` ends for `class`. A caller must treat a number that it does not know as a failure.
pub fn code(class: ExitClass, program: Program) -> u8 {
    let number = TABLE.iter().find(|(listed, ..)| *listed == class).map_or(1, |(_, number, _)| *number);
    if program == Program::RestoreWal && class != ExitClass::Done { RESTORE_WAL_FAILURE + number } else { number }
}

/// The number with which `program` ends after an internal error.
pub(crate) fn panic_code(program: Program) -> u8 {
    match program {
        Program::ArchiveWal => 125,
        Program::RestoreWal => 250,
        Program::Basebackup | Program::Recover | Program::Retention | Program::Verify => {
            code(ExitClass::Failed, program)
        }
    }
}

/// The class of an error that reached `main`: that of its outermost [`Advice`], else [`ExitClass::Failed`].
pub fn of_error(error: &anyhow::Error) -> ExitClass {
    advice(error).map_or(ExitClass::Failed, |advice| advice.class)
}

/// The outermost advice in an error, be it a context or a cause.
pub(crate) fn advice(error: &anyhow::Error) -> Option<&Advice> {
    // anyhow alone can look into its contexts; the chain alone reaches the sources of other error types.
    error.downcast_ref().or_else(|| error.chain().find_map(|cause| cause.downcast_ref()))
}

/// Whether the error says that work stopped because it was asked to.
pub fn is_interrupted(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Interrupted>().is_some() || error.chain().any(<dyn std::error::Error>::is::<Interrupted>)
}

/// The table of `program`, for the end of its help: `#[command(after_help = exit::table(Program::Verify))]`.
pub fn table(program: Program) -> String {
    let mut lines = vec!["Exit codes:".to_owned()];
    let mut line = |code: &str, meaning: &str| lines.push(format!("  {code:<5}  {meaning}"));
    for (class, _, meaning) in TABLE {
        if program == Program::RestoreWal && class == ExitClass::Failed {
            line("1", "no such file in the archive; in a standby's directory also every failure");
        }
        line(&code(class, program).to_string(), meaning);
    }
    match program {
        Program::ArchiveWal => line("125", "internal error"),
        Program::RestoreWal => line("250", "internal error"),
        Program::Basebackup | Program::Recover | Program::Retention | Program::Verify => {
            line("128+n", "ended by signal n");
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;
    use rstest::rstest;

    const PROGRAMS: [Program; 6] = [
        Program::ArchiveWal,
        Program::RestoreWal,
        Program::Basebackup,
        Program::Recover,
        Program::Retention,
        Program::Verify,
    ];

    #[rstest]
    #[case(ExitClass::Done, 0, 0)]
    #[case(ExitClass::Failed, 1, 201)]
    #[case(ExitClass::Usage, 2, 202)]
    #[case(ExitClass::Findings, 3, 203)]
    #[case(ExitClass::PartDone, 4, 204)]
    #[case(ExitClass::NoRepository, 10, 210)]
    #[case(ExitClass::Locked, 11, 211)]
    #[case(ExitClass::CannotDecrypt, 12, 212)]
    #[case(ExitClass::Refused, 20, 220)]
    fn the_table(#[case] class: ExitClass, #[case] usual: u8, #[case] restore_wal: u8) {
        for program in PROGRAMS {
            let expected = if program == Program::RestoreWal { restore_wal } else { usual };
            assert_eq!(code(class, program), expected, "{program}");
        }
    }

    #[test]
    fn the_archiver_survives_every_code_of_archive_wal() {
        let highest = TABLE.iter().map(|(class, ..)| code(*class, Program::ArchiveWal)).max();
        assert!(highest < Some(126));
        assert!(panic_code(Program::ArchiveWal) < 126);
    }

    #[test]
    fn no_failure_of_restore_wal_reads_as_absence() {
        for (class, ..) in TABLE {
            let code = code(class, Program::RestoreWal);
            assert!(code == 0 || code > 125, "{class:?}");
        }
        assert_eq!(panic_code(Program::RestoreWal), 250);
    }

    #[test]
    fn the_outermost_advice_decides() {
        let error = anyhow::Error::from(Advice::refused("inner")).context("between").context(Advice::usage("outer"));
        assert_eq!(of_error(&error), ExitClass::Usage);
        let error = anyhow::Error::from(Advice::refused("inner")).context("outer");
        assert_eq!(of_error(&error), ExitClass::Refused);
        assert_eq!(of_error(&anyhow::anyhow!("plain")), ExitClass::Failed);
    }

    #[test]
    fn an_advice_below_another_error_type_counts() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer")]
        struct Outer(#[source] Advice);
        let error = anyhow::Error::from(Outer(Advice::no_repository("none")));
        assert_eq!(of_error(&error), ExitClass::NoRepository);
    }

    #[test]
    fn an_interruption_is_found_below_contexts() {
        let error = Err::<(), _>(Interrupted).context("copy part 7").context(Advice::failed("backup")).unwrap_err();
        assert!(is_interrupted(&error));
        assert!(!is_interrupted(&anyhow::anyhow!("interrupted")));
    }

    #[test]
    fn the_help_table_names_restore_wals_codes() {
        let table = table(Program::RestoreWal);
        for wanted in ["  0      done", "  1      no such file", "  202 ", "  250 "] {
            assert!(table.contains(wanted), "{table}");
        }
        assert!(!table.contains("128+n"));
    }
}
