//! The configuration files in a data directory: those of the backup, or those of the cluster that was set aside.
//!
//! A backup brings them as they were when it was taken. Since then somebody may have changed a port, a password rule or the
//! memory, and the recovered server would not be the one that clients know. So the plan says which files differ, the
//! user chooses, and what differs is told.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::Context as _;
use common::archive::Repository;
use common::archive::inspect::IndexReader;
use common::codec::Digest;
use common::repo::index::IndexEntry;
use common::repo::records::BackupRecord;
use common::sys::durable;

use super::configure::{AUTO_CONF, read_if_there};
use crate::cli::ConfigFrom;

/// The files that PostgreSQL reads its configuration from, where they lie in the data directory.
const FILES: [&str; 4] = ["postgresql.conf", AUTO_CONF, "pg_hba.conf", "pg_ident.conf"];

/// How many differences of one file are told.
const TOLD_MAX: usize = 10;

/// The files that a backup has otherwise than the data directory; one that only either has differs too.
pub(crate) fn differing(repository: &Repository, backup: &BackupRecord, pgdata: &Path) -> anyhow::Result<Vec<String>> {
    let mut backed_up = BTreeMap::new();
    let mut index = IndexReader::open(repository, backup)?;
    for entry in index.entries() {
        if let IndexEntry::File(file) = entry?
            && let Some(name) = FILES.into_iter().find(|name| file.path.as_bytes() == name.as_bytes())
        {
            backed_up.insert(name, file.sha256);
        }
    }
    let mut differing = Vec::new();
    for name in FILES {
        let path = pgdata.join(name);
        let here = path.exists().then(|| std::fs::read(&path)).transpose();
        let here = here.with_context(|| format!("read {}", path.display()))?.map(|bytes| Digest::of(&bytes));
        if here.as_ref() != backed_up.get(name) {
            differing.push(name.to_owned());
        }
    }
    Ok(differing)
}

/// Puts the files in place and tells what differs, a line each. Safe to repeat.
pub(crate) fn choose(from: ConfigFrom, preserved: &Path, pgdata: &Path) -> anyhow::Result<Vec<String>> {
    let mut lines = Vec::new();
    for name in FILES {
        let (old, new) = (read_if_there(&preserved.join(name))?, read_if_there(&pgdata.join(name))?);
        if old == new {
            continue;
        }
        lines.extend(differences(name, &String::from_utf8_lossy(&old), &String::from_utf8_lossy(&new)));
        if from == ConfigFrom::Preserved && preserved.join(name).exists() {
            let path = pgdata.join(name);
            let mode = preserved.join(name).metadata().map_or(0o600, |metadata| metadata.permissions().mode() & 0o777);
            durable::replace(&path, &old, mode).with_context(|| format!("write {}", path.display()))?;
        }
    }
    Ok(lines)
}

/// What the lines of two files say otherwise; comments count nothing.
fn differences(name: &str, preserved: &str, backup: &str) -> Vec<String> {
    let meaning = |text: &str| -> Vec<String> {
        let lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
        lines.filter(|line| !line.is_empty() && !line.starts_with('#')).collect()
    };
    let (old, new) = (meaning(preserved), meaning(backup));
    let only = |these: &[String], those: &[String], whose: &str| -> Vec<String> {
        let lines = these.iter().filter(|line| !those.contains(line));
        lines.map(|line| format!("{name}: only {whose} has: {}", without_secrets(line))).collect()
    };
    let mut lines = only(&old, &new, "the cluster set aside");
    lines.extend(only(&new, &old, "the backup"));
    if lines.len() > TOLD_MAX {
        let more = lines.len() - TOLD_MAX;
        lines.truncate(TOLD_MAX);
        lines.push(format!("{name}: and {more} more"));
    }
    lines
}

/// The line as it may be shown: connection strings hold passwords, and so may commands.
fn without_secrets(line: &str) -> &str {
    let lower = line.to_ascii_lowercase();
    if !lower.contains("password") && !lower.contains("passphrase") && !lower.contains("secret") {
        return line;
    }
    line.split(['=', ' ']).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_told_without_passwords() {
        let old = "# a\nport = 5433\nwork_mem = 8MB\nprimary_conninfo = 'host=a password=x'\n";
        let new = "port = 5432\nwork_mem  =  8MB # no\nwork_mem = 8MB\n";
        let lines = differences("postgresql.conf", old, new);
        assert_eq!(
            lines,
            [
                "postgresql.conf: only the cluster set aside has: port = 5433",
                "postgresql.conf: only the cluster set aside has: primary_conninfo",
                "postgresql.conf: only the backup has: port = 5432",
                "postgresql.conf: only the backup has: work_mem = 8MB # no",
            ]
        );
        let many = ["x = 1"; 30].join("\n");
        assert_eq!(differences("a", &many, "").len(), TOLD_MAX + 1);
    }

    #[test]
    fn the_chosen_files_are_in_place() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (dir.path().join("old"), dir.path().join("new"));
        for (folder, text) in [(&old, "port = 1\n"), (&new, "port = 2\n")] {
            std::fs::create_dir(folder).unwrap();
            durable::replace(&folder.join("postgresql.conf"), text.as_bytes(), 0o600).unwrap();
        }
        durable::replace(&new.join("pg_hba.conf"), b"local all all trust\n", 0o600).unwrap();
        let conf = || std::fs::read_to_string(new.join("postgresql.conf")).unwrap();
        assert_eq!(choose(ConfigFrom::Backup, &old, &new).unwrap().len(), 3);
        assert_eq!(conf(), "port = 2\n");
        assert_eq!(choose(ConfigFrom::Preserved, &old, &new).unwrap().len(), 3);
        assert_eq!(conf(), "port = 1\n");
        // What only the backup has stays.
        assert!(new.join("pg_hba.conf").exists());
    }
}
