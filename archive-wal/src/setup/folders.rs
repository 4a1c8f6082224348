//! Which repositories' folders are right, which are not, and the command that makes one right. Pure.
//!
//! A repository holds all that the data directory holds, so it belongs to the same user and is no more open to others.

use std::path::PathBuf;

use common::server::shell_quote;
use serde::Serialize;

/// Everything that others may do with a folder.
const OTHERS: u32 = 0o077;

/// Whose the server's files are, and who else may read them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Owner {
    /// The user's name.
    pub(crate) user: String,
    /// The most open mode that a repository may have: that of the data directory, without its group's right to write.
    pub(crate) mode: u32,
}

/// A folder as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    /// The repository, as it is configured: a path.
    pub(crate) repository: String,
    /// Who owns it and its permission bits; none when it is not there, the reason when it could not be looked at.
    pub(crate) folder: Result<Option<(String, u32)>, String>,
    /// Where its file system is mounted; none for the root's.
    pub(crate) mount_point: Option<PathBuf>,
}

/// How a folder stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    /// There, and its owner's alone.
    Ok,
    /// Not there yet.
    Missing,
    /// There, and something is wrong with it.
    Wrong,
}

impl State {
    /// In the words of the table.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Missing => "missing",
            Self::Wrong => "wrong",
        }
    }
}

/// What is wrong with a folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// What it is.
    pub(crate) what: String,
    /// The next thing to type.
    pub(crate) command: Option<String>,
}

/// A repository's folder, and what is to be done for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Folder {
    /// The repository, as it is configured.
    pub(crate) repository: String,
    /// How it stands.
    pub(crate) state: State,
    /// Who owns it.
    pub(crate) owner: Option<String>,
    /// Its permission bits in octal.
    pub(crate) mode: Option<String>,
    /// What is wrong; empty is good.
    pub(crate) findings: Vec<Finding>,
    /// Where its file system is mounted; none for the root's.
    pub(crate) mount_point: Option<PathBuf>,
    /// Lines for the configuration file that keep an unmounted disk from becoming a new repository.
    pub(crate) suggestion: Option<String>,
}

impl Folder {
    /// Whether there is nothing to do for it.
    pub(crate) fn is_ok(&self) -> bool {
        self.state == State::Ok
    }
}

/// Decides on one folder.
pub(crate) fn decide(found: Found, owner: &Owner) -> Folder {
    let (state, findings) = match &found.folder {
        Ok(None) => (State::Missing, Vec::new()),
        Ok(Some((user, mode))) => {
            let findings = findings(&found.repository, user, *mode, owner);
            (if findings.is_empty() { State::Ok } else { State::Wrong }, findings)
        }
        Err(reason) => (State::Wrong, vec![Finding { what: reason.clone(), command: None }]),
    };
    let seen = found.folder.ok().flatten();
    // TOML's basic strings are written as JSON's are.
    let suggestion = found.mount_point.is_some().then(|| {
        let url = serde_json::Value::from(found.repository.as_str());
        format!("[[repository]]\nurl = {url}\ncreate = false")
    });
    Folder {
        repository: found.repository,
        state,
        owner: seen.as_ref().map(|(user, _)| user.clone()),
        mode: seen.as_ref().map(|(_, mode)| format!("{mode:04o}")),
        findings,
        mount_point: found.mount_point,
        suggestion,
    }
}

fn findings(repository: &str, user: &str, mode: u32, owner: &Owner) -> Vec<Finding> {
    let quoted = shell_quote(repository);
    let chmod = || Some(format!("chmod {:o} {quoted}", owner.mode));
    let mut findings = Vec::new();
    if user != owner.user {
        findings.push(Finding {
            what: format!("it belongs to {user}, and the server runs as {}", owner.user),
            command: Some(format!("chown -R {} {quoted}", shell_quote(&owner.user))),
        });
    }
    let too_open = mode & OTHERS & !owner.mode;
    if too_open != 0 {
        let has = |bits: u32| too_open & bits != 0;
        let may = if has(0o022) { "change" } else { "read" };
        let who = if has(0o007) { "everybody" } else { "its group" };
        findings.push(Finding { what: format!("{who} may {may} what is in it (mode {mode:04o})"), command: chmod() });
    }
    if mode & 0o700 != 0o700 {
        findings.push(Finding { what: format!("its owner may not use it (mode {mode:04o})"), command: chmod() });
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn folder(user: &str, mode: u32, allowed: u32) -> Folder {
        let found =
            Found { repository: "/r s".to_owned(), folder: Ok(Some((user.to_owned(), mode))), mount_point: None };
        decide(found, &Owner { user: "postgres".to_owned(), mode: allowed })
    }

    #[rstest]
    #[case("postgres", 0o700, 0o700, &[], &[])]
    #[case("postgres", 0o750, 0o750, &[], &[])]
    #[case("postgres", 0o700, 0o750, &[], &[])]
    #[case("postgres", 0o750, 0o700, &["its group may read"], &["chmod 700 '/r s'"])]
    #[case("postgres", 0o770, 0o750, &["its group may change"], &["chmod 750 '/r s'"])]
    #[case("postgres", 0o755, 0o700, &["everybody may read"], &["chmod 700 '/r s'"])]
    #[case("postgres", 0o777, 0o700, &["everybody may change"], &["chmod 700 '/r s'"])]
    #[case("postgres", 0o500, 0o700, &["may not use"], &["chmod 700 '/r s'"])]
    #[case("root", 0o755, 0o700, &["belongs to root", "everybody"], &["chown -R 'postgres' '/r s'", "chmod 700 '/r s'"])]
    fn judges(
        #[case] user: &str,
        #[case] mode: u32,
        #[case] allowed: u32,
        #[case] words: &[&str],
        #[case] commands: &[&str],
    ) {
        let folder = folder(user, mode, allowed);
        assert_eq!(folder.is_ok(), words.is_empty());
        assert_eq!(folder.findings.len(), words.len(), "{folder:?}");
        for ((finding, words), command) in folder.findings.iter().zip(words).zip(commands) {
            assert!(finding.what.contains(words), "{finding:?}");
            assert_eq!(finding.command.as_deref(), Some(*command));
        }
    }

    #[test]
    fn a_missing_one_is_to_be_made() {
        let found = Found { repository: "/r".to_owned(), folder: Ok(None), mount_point: Some("/mnt".into()) };
        let folder = decide(found, &Owner { user: "postgres".to_owned(), mode: 0o700 });
        assert_eq!((folder.state, folder.owner, folder.mode), (State::Missing, None, None));
        assert_eq!(folder.suggestion.unwrap(), "[[repository]]\nurl = \"/r\"\ncreate = false");
    }

    #[test]
    fn what_cannot_be_seen_is_wrong() {
        let found = Found { repository: "/r".to_owned(), folder: Err("denied".to_owned()), mount_point: None };
        let folder = decide(found, &Owner { user: "postgres".to_owned(), mode: 0o700 });
        assert_eq!((folder.state, folder.suggestion), (State::Wrong, None));
    }
}
