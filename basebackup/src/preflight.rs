//! What must hold before a backup can begin, found out without changing anything on the server.

use std::path::PathBuf;

use common::app::{Context, RepositorySetting, ServerArgs, server_files};
use common::archive::{Identity, Repository, segments};
use common::pg::ControlFile;
use common::report::Advice;
use common::server::{self, ServerFacts, Session};

use crate::cli::TakeArgs;

/// The newest server whose files are known.
const MAJOR_MAX: u32 = 18;

/// A server that can be backed up, and where to.
pub(crate) struct Subject {
    /// The session that the backup is taken in.
    pub(crate) session: Session,
    /// What the server says of itself.
    pub(crate) facts: ServerFacts,
    /// Its data directory, seen from here.
    pub(crate) pgdata: PathBuf,
    /// What its control file says.
    pub(crate) control: ControlFile,
    /// Whose WAL it is.
    pub(crate) identity: Identity,
    /// Where the backup goes.
    pub(crate) repository: Repository,
}

/// Connects, checks everything that can be checked from outside, and opens the repository, which is made when it is
/// not there.
pub(crate) fn check(server: &ServerArgs, take: &TakeArgs, ctx: &Context) -> anyhow::Result<Subject> {
    let setting = choose_repository(ctx)?;
    let mut session = ctx.connect(server)?;
    let facts = server::facts(&mut session)?;
    if let Some(advice) = objection(&Archiving::of(&facts), &setting.url.value) {
        return Err(advice.into());
    }
    let (pgdata, control) = server_files::reach(&facts, ctx)?;
    let repository = ctx.open_or_create(setting)?;
    let repository = repository.with_compression(take.compress.unwrap_or(setting.compression));
    let identity = Identity::of(&control);
    repository.admit(&identity, false, ctx.clock.now())?;
    segments::put_missing_histories(&repository, &identity, facts.timeline, &pgdata.join("pg_wal"), &ctx.cancel)?;
    Ok(Subject { session, facts, pgdata, control, identity, repository })
}

/// The first repository of the settings.
fn choose_repository(ctx: &Context) -> anyhow::Result<&RepositorySetting> {
    let first = ctx.first_repository()?;
    let count = ctx.settings.repositories.len();
    if count > 1 {
        tracing::info!("of {count} repositories the backup goes to the first: {}", first.url.value);
    }
    Ok(first)
}

/// The server's settings that decide whether its WAL can reach a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Archiving<'a> {
    major: u32,
    in_recovery: bool,
    wal_level: Option<&'a str>,
    archive_mode: Option<&'a str>,
    archive_command: Option<&'a str>,
    archive_library: Option<&'a str>,
}

impl<'a> Archiving<'a> {
    fn of(facts: &'a ServerFacts) -> Self {
        Self {
            major: facts.version.major(),
            in_recovery: facts.in_recovery,
            wal_level: facts.setting("wal_level"),
            archive_mode: facts.setting("archive_mode"),
            archive_command: facts.setting("archive_command"),
            archive_library: facts.setting("archive_library"),
        }
    }
}

/// Why a server that is set like this cannot be backed up; none when it can. What the role may not see is taken for
/// right: the proof is the WAL that arrives.
fn objection(server: &Archiving<'_>, repository: &str) -> Option<Advice> {
    if server.major > MAJOR_MAX {
        let message = format!("the server is PostgreSQL {}, which this version does not know", server.major);
        return Some(Advice::refused(message).hint(format!("Holdfast backs up PostgreSQL 14 to {MAJOR_MAX}")));
    }
    if server.wal_level == Some("minimal") {
        return Some(
            Advice::refused("wal_level is minimal: no backup can be restored from such WAL")
                .hint("write wal_level = replica and archive_mode = on into postgresql.conf and restart the server"),
        );
    }
    if server.in_recovery {
        return None;
    }
    let command = format!("archive_command = 'archive-wal --repo {repository} %p'");
    if server.archive_mode == Some("off") {
        return Some(
            Advice::refused("archive_mode is off: the WAL that a backup needs would not be kept")
                .hint(format!("write archive_mode = on and {command} into postgresql.conf and restart the server")),
        );
    }
    let is_empty = |setting: Option<&str>| setting.is_none_or(str::is_empty);
    if server.archive_command == Some("") && is_empty(server.archive_library) {
        return Some(
            Advice::refused("archive_command is empty: the WAL that a backup needs would not be kept")
                .hint(format!("write {command} into postgresql.conf and reload the server")),
        );
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn good() -> Archiving<'static> {
        Archiving {
            major: 15,
            in_recovery: false,
            wal_level: Some("replica"),
            archive_mode: Some("on"),
            archive_command: Some("archive-wal %p"),
            archive_library: Some(""),
        }
    }

    #[rstest]
    #[case::as_it_should_be(good(), None)]
    #[case::newer(Archiving { major: 19, ..good() }, Some("PostgreSQL 19"))]
    #[case::minimal(Archiving { wal_level: Some("minimal"), ..good() }, Some("wal_level is minimal"))]
    #[case::off(Archiving { archive_mode: Some("off"), ..good() }, Some("archive_mode is off"))]
    #[case::empty(Archiving { archive_command: Some(""), ..good() }, Some("archive_command is empty"))]
    #[case::empty_14(Archiving { archive_command: Some(""), archive_library: None, ..good() }, Some("is empty"))]
    #[case::library(Archiving { archive_command: Some(""), archive_library: Some("x"), ..good() }, None)]
    #[case::standby(Archiving { in_recovery: true, archive_mode: Some("off"), ..good() }, None)]
    #[case::standby_minimal(Archiving { in_recovery: true, wal_level: Some("minimal"), ..good() }, Some("minimal"))]
    #[case::always(Archiving { archive_mode: Some("always"), ..good() }, None)]
    #[case::unseen(Archiving { archive_mode: None, archive_command: None, ..good() }, None)]
    fn objects_to_settings(#[case] server: Archiving<'_>, #[case] expected: Option<&str>) {
        let advice = objection(&server, "/repo");
        assert_eq!(advice.is_some(), expected.is_some(), "{advice:?}");
        if let (Some(advice), Some(words)) = (advice, expected) {
            assert!(advice.message.contains(words), "{advice}");
            assert!(advice.hint.is_some());
        }
    }
}
