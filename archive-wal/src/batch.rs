//! Which files one call takes on: the one that it was called for, and others that wait.

use std::path::{Path, PathBuf};

use common::pg::ArchiveName;

/// A file to archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WalFile {
    /// What its name stands for.
    pub(crate) name: ArchiveName,
    /// Where it lies.
    pub(crate) path: PathBuf,
}

/// The files that PostgreSQL has marked as ready in this `pg_wal`; none where that cannot be seen. The marks are the
/// server's: they are read and never touched.
pub(crate) fn ready(pg_wal: &Path) -> Vec<ArchiveName> {
    let marks = std::fs::read_dir(pg_wal.join("archive_status")).into_iter().flatten().filter_map(Result::ok);
    marks.filter_map(|mark| ArchiveName::parse(mark.file_name().to_str()?.strip_suffix(".ready")?)).collect()
}

/// At most `limit` names: the requested one, then those that PostgreSQL's archiver would ask for next, in its order
/// (`ready_file_comparator` in `src/backend/postmaster/pgarch.c`): histories, then the oldest. What is acknowledged
/// already waits only to be asked for.
pub(crate) fn choose(
    requested: ArchiveName,
    mut ready: Vec<ArchiveName>,
    acknowledged: &[ArchiveName],
    limit: usize,
) -> Vec<ArchiveName> {
    ready.retain(|name| *name != requested && !acknowledged.contains(name));
    ready.sort_unstable_by_key(|name| (!matches!(name, ArchiveName::History(_)), name.to_string()));
    ready.insert(0, requested);
    ready.truncate(limit.max(1));
    ready
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<ArchiveName> {
        names.iter().map(|name| ArchiveName::parse(name).unwrap()).collect()
    }

    const WAITING: [&str; 6] = [
        "000000020000000000000009",
        "000000010000000000000008.partial",
        "00000003.history",
        "000000010000000000000007",
        "000000010000000000000006.00000028.backup",
        "000000010000000000000005",
    ];

    #[test]
    fn takes_what_the_archiver_would_ask_for_next() {
        let requested = names(&WAITING[5..])[0];
        let chosen = |limit| choose(requested, names(&WAITING), &[], limit);
        let all = names(&[WAITING[5], WAITING[2], WAITING[4], WAITING[3], WAITING[1], WAITING[0]]);
        assert_eq!(chosen(64), all);
        assert_eq!(chosen(3), all[..3]);
        assert_eq!(chosen(1), all[..1]);
    }

    #[test]
    fn passes_over_what_is_acknowledged() {
        let all = names(&WAITING);
        assert_eq!(choose(all[5], all.clone(), &all[..5], 8), all[5..]);
        assert_eq!(choose(all[5], all.clone(), &all, 8), all[5..], "the requested one was doubted");
    }

    #[test]
    fn a_file_without_a_mark_goes_alone() {
        let requested = names(&WAITING)[0];
        assert_eq!(choose(requested, ready(Path::new("no/pg_wal")), &[], 8), [requested]);
    }
}
