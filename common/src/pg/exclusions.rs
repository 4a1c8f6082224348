//! What of a data directory belongs into a backup (`src/backend/backup/basebackup.c`), and which of its files hold pages
//! with checksums (`src/backend/storage/file/reinit.c`, `src/common/relpath.c`).
//!
//! Paths are relative to the data directory, with tablespaces under `pg_tblspc/OID/`. Three things stay with whoever walks:
//! of a tablespace only the server's own [`tablespace_version_directory`] is the server's; `global/pg_control` comes
//! last; a tablespace that lies inside the data directory is not copied twice.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::hash::BuildHasher;
use std::path::{Component, Path};

/// What becomes of an entry of the data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It is copied, a directory with what the verdicts on its entries leave.
    Copy,
    /// The directory is made and nothing in it is looked at, but for [`wal_directories`].
    CopyEmptyDirectory,
    /// It is left out.
    Skip(SkipReason),
}

/// Why an entry is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SkipReason {
    /// A temporary file or relation: the server removes it when it starts.
    Temporary,
    /// Contents of a relation that recovery resets to its init fork.
    Unlogged,
    /// It tells of the running server, or the server makes it anew.
    RunningServer,
    /// It comes from, or belongs to, another backup; this one brings its own.
    OtherBackup,
    /// WAL, which comes from the archive.
    Wal,
    /// A file manager's.
    Foreign,
}

/// Directories whose contents are worthless after a restore (`excludeDirContents`).
const EMPTIED: [&str; 7] =
    ["pg_stat_tmp", "pg_replslot", "pg_dynshmem", "pg_notify", "pg_serial", "pg_snapshots", "pg_subtrans"];

/// Names that are left out wherever they occur (`excludeFiles`); with `true`, whatever begins so too.
const EXCLUDED: [(&str, bool, SkipReason); 10] = [
    ("postgresql.auto.conf.tmp", false, SkipReason::Temporary),
    ("current_logfiles.tmp", false, SkipReason::Temporary),
    ("pgsql_tmp", true, SkipReason::Temporary),
    ("pg_internal.init", true, SkipReason::RunningServer),
    ("postmaster.pid", false, SkipReason::RunningServer),
    ("postmaster.opts", false, SkipReason::RunningServer),
    ("backup_label", false, SkipReason::OtherBackup),
    ("tablespace_map", false, SkipReason::OtherBackup),
    ("backup_manifest", false, SkipReason::OtherBackup),
    (".DS_Store", false, SkipReason::Foreign),
];

/// The verdict on one entry by its path alone; `is_directory` follows links for `pg_wal` only, which may be one. For the
/// files of a relation [`relation_verdict`] comes after it.
pub fn verdict(relative: &Path, is_directory: bool) -> Verdict {
    let Some(name) = relative.file_name() else { return Verdict::Copy };
    let excluded = EXCLUDED.iter().find(|(known, prefix, _)| {
        if *prefix { name.as_encoded_bytes().starts_with(known.as_bytes()) } else { name == *known }
    });
    if let Some((_, _, reason)) = excluded {
        return Verdict::Skip(*reason);
    }
    if is_directory && EMPTIED.iter().any(|emptied| name == *emptied) {
        return Verdict::CopyEmptyDirectory;
    }
    if relative.starts_with("pg_wal") {
        let made = is_directory && wal_directories(u32::MAX).iter().any(|directory| relative == Path::new(directory));
        return if made { Verdict::CopyEmptyDirectory } else { Verdict::Skip(SkipReason::Wal) };
    }
    if is_temporary_relation(name) && relative.parent().is_some_and(is_relation_directory) {
        return Verdict::Skip(SkipReason::Temporary);
    }
    Verdict::Copy
}

/// The directories that a backup has of `pg_wal`, all empty, itself first.
pub fn wal_directories(major: u32) -> &'static [&'static str] {
    if major >= 17 {
        &["pg_wal", "pg_wal/archive_status", "pg_wal/summaries"]
    } else {
        &["pg_wal", "pg_wal/archive_status"]
    }
}

/// The directory in a tablespace that a server of this version keeps its files in: `PG_15_202209061`. Any other one there
/// belongs to another server.
pub fn tablespace_version_directory(major: u32, catalog_version: u32) -> String {
    format!("PG_{major}_{catalog_version}")
}

/// One of the files that a relation is stored in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RelationFile {
    /// `relfilenode`.
    pub relnumber: u32,
    /// What of the relation it holds.
    pub fork: Fork,
    /// Which piece of 1 GiB (with the usual `relseg_blocks`), from 0.
    pub segment: u32,
}

/// The part of a relation that a file belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fork {
    /// The contents.
    Main,
    /// The free space map.
    Fsm,
    /// The visibility map.
    Vm,
    /// What an unlogged relation is reset to.
    Init,
}

/// `parse_filename_for_nontemp_relation`: what a file in a relation directory is by its name; `None` for any other file,
/// numbers with leading zeros included.
pub fn parse_relation_file(name: impl AsRef<OsStr>) -> Option<RelationFile> {
    let name = name.as_ref().to_str()?;
    let (rest, segment) = match name.split_once('.') {
        Some((rest, segment)) => (rest, number(segment)?),
        None => (name, 0),
    };
    let (relnumber, fork) = match rest.split_once('_') {
        Some((relnumber, fork)) => (relnumber, fork_by_name(fork)?),
        None => (rest, Fork::Main),
    };
    Some(RelationFile { relnumber: number(relnumber)?, fork, segment })
}

/// A number from 1 in the one way to write it.
fn number(digits: &str) -> Option<u32> {
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.starts_with('0');
    if plain { digits.parse().ok() } else { None }
}

fn fork_by_name(name: &str) -> Option<Fork> {
    Some(match name {
        "fsm" => Fork::Fsm,
        "vm" => Fork::Vm,
        "init" => Fork::Init,
        _ => return None,
    })
}

/// `looks_like_temp_rel_name` (`src/backend/storage/file/fd.c`): `t3_16384`, `t3_16384_fsm.1`.
pub fn is_temporary_relation(name: impl AsRef<OsStr>) -> bool {
    let parse = |name: &str| {
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let (backend, rest) = name.strip_prefix('t')?.split_once('_')?;
        let (rest, segment) = rest.split_once('.').map_or((rest, None), |(rest, segment)| (rest, Some(segment)));
        let (relation, fork) = rest.split_once('_').map_or((rest, None), |(rest, fork)| (rest, Some(fork)));
        let named = fork.is_none_or(|fork| fork_by_name(fork).is_some());
        Some(digits(backend) && digits(relation) && named && segment.is_none_or(digits))
    };
    name.as_ref().to_str().and_then(parse).unwrap_or(false)
}

/// The relations among the files of one directory that are unlogged: those with an init fork.
///
/// List the directory once for this, then again for the copying (as PostgreSQL does): a relation that is made or becomes
/// unlogged between the two is put right by the WAL.
pub fn unlogged_relations<N: AsRef<OsStr>>(names: impl IntoIterator<Item = N>) -> HashSet<u32> {
    names
        .into_iter()
        .filter_map(parse_relation_file)
        .filter(|file| file.fork == Fork::Init)
        .map(|file| file.relnumber)
        .collect()
}

/// The verdict on a relation's file in a directory with these [`unlogged_relations`]: only the init fork of an unlogged
/// relation is kept.
pub fn relation_verdict<S: BuildHasher>(file: RelationFile, unlogged: &HashSet<u32, S>) -> Verdict {
    if file.fork != Fork::Init && unlogged.contains(&file.relnumber) {
        Verdict::Skip(SkipReason::Unlogged)
    } else {
        Verdict::Copy
    }
}

/// Whether relations are stored in this directory: `global`, `base/N`, `pg_tblspc/OID/PG_…/N`.
pub fn is_relation_directory(relative: &Path) -> bool {
    let mut names = Vec::with_capacity(4);
    for component in relative.components() {
        match component {
            Component::Normal(name) if names.len() < 5 => names.push(name.to_str().unwrap_or_default()),
            _ => return false,
        }
    }
    let numeric = |name: &str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit());
    match names.as_slice() {
        ["global"] => true,
        ["base", database] => numeric(database),
        ["pg_tblspc", tablespace, version, database] => {
            numeric(tablespace) && version.starts_with("PG_") && numeric(database)
        }
        _ => false,
    }
}

/// Whether, in a cluster with checksums, every page of this file has one: it is a relation's file. That is the rule of
/// PostgreSQL 17 and later; the ones before judge by a list of names and come to the same for what servers write.
pub fn has_page_checksums(relative: &Path) -> bool {
    let is_relation = |name| parse_relation_file(name).is_some();
    relative.parent().is_some_and(is_relation_directory) && relative.file_name().is_some_and(is_relation)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;
    use std::os::unix::ffi::OsStrExt;

    #[rstest]
    #[case("", Verdict::Copy)]
    #[case("PG_VERSION", Verdict::Copy)]
    #[case("postgresql.auto.conf", Verdict::Copy)]
    #[case("postgresql.auto.conf.tmp", Verdict::Skip(SkipReason::Temporary))]
    #[case("current_logfiles", Verdict::Copy)]
    #[case("current_logfiles.tmp", Verdict::Skip(SkipReason::Temporary))]
    #[case("postmaster.pid", Verdict::Skip(SkipReason::RunningServer))]
    #[case("postmaster.opts", Verdict::Skip(SkipReason::RunningServer))]
    #[case("backup_label", Verdict::Skip(SkipReason::OtherBackup))]
    #[case("backup_label.old", Verdict::Copy)]
    #[case("tablespace_map", Verdict::Skip(SkipReason::OtherBackup))]
    #[case("backup_manifest", Verdict::Skip(SkipReason::OtherBackup))]
    #[case("global/pg_control", Verdict::Copy)]
    #[case("global/pg_internal.init", Verdict::Skip(SkipReason::RunningServer))]
    #[case("base/5/pg_internal.init.4711", Verdict::Skip(SkipReason::RunningServer))]
    #[case("base/5/pg_filenode.map", Verdict::Copy)]
    #[case("base/5/16384", Verdict::Copy)]
    #[case("base/5/t3_16384", Verdict::Skip(SkipReason::Temporary))]
    #[case("base/5/t3_16384_fsm.1", Verdict::Skip(SkipReason::Temporary))]
    #[case("pg_tblspc/16385/PG_15_202209061/5/t3_16384", Verdict::Skip(SkipReason::Temporary))]
    #[case("t3_16384", Verdict::Copy)]
    #[case("base/t3_16384", Verdict::Copy)]
    #[case("pg_stat/.DS_Store", Verdict::Skip(SkipReason::Foreign))]
    #[case("pg_stat_tmp", Verdict::Copy)]
    #[case("pg_wal/000000010000000000000001", Verdict::Skip(SkipReason::Wal))]
    #[case("pg_wal/archive_status/000000010000000000000001.done", Verdict::Skip(SkipReason::Wal))]
    #[case("pg_walx", Verdict::Copy)]
    fn files_are_judged_by_their_names(#[case] path: &str, #[case] expected: Verdict) {
        assert_eq!(verdict(Path::new(path), false), expected);
    }

    #[rstest]
    #[case("base", Verdict::Copy)]
    #[case("base/pgsql_tmp", Verdict::Skip(SkipReason::Temporary))]
    #[case("base/pgsql_tmp123.0.sharedfileset", Verdict::Skip(SkipReason::Temporary))]
    #[case("pg_tblspc/16385/PG_15_202209061/pgsql_tmp", Verdict::Skip(SkipReason::Temporary))]
    #[case("pg_stat_tmp", Verdict::CopyEmptyDirectory)]
    #[case("pg_replslot", Verdict::CopyEmptyDirectory)]
    #[case("pg_dynshmem", Verdict::CopyEmptyDirectory)]
    #[case("pg_notify", Verdict::CopyEmptyDirectory)]
    #[case("pg_serial", Verdict::CopyEmptyDirectory)]
    #[case("pg_snapshots", Verdict::CopyEmptyDirectory)]
    #[case("pg_subtrans", Verdict::CopyEmptyDirectory)]
    #[case("pg_stat", Verdict::Copy)]
    #[case("pg_wal", Verdict::CopyEmptyDirectory)]
    #[case("pg_wal/archive_status", Verdict::CopyEmptyDirectory)]
    #[case("pg_wal/summaries", Verdict::CopyEmptyDirectory)]
    #[case("pg_wal/mine", Verdict::Skip(SkipReason::Wal))]
    #[case("log", Verdict::Copy)]
    fn directories_are_judged_by_their_names(#[case] path: &str, #[case] expected: Verdict) {
        assert_eq!(verdict(Path::new(path), true), expected);
    }

    #[test]
    fn versions_have_their_directories() {
        assert_eq!(wal_directories(16), ["pg_wal", "pg_wal/archive_status"]);
        assert_eq!(wal_directories(17), ["pg_wal", "pg_wal/archive_status", "pg_wal/summaries"]);
        assert_eq!(tablespace_version_directory(15, 202_209_061), "PG_15_202209061");
    }

    #[rstest]
    #[case("1259", 1259, Fork::Main, 0)]
    #[case("4294967295.131071", u32::MAX, Fork::Main, 131_071)]
    #[case("16384_fsm", 16384, Fork::Fsm, 0)]
    #[case("16384_vm.3", 16384, Fork::Vm, 3)]
    #[case("16384_init", 16384, Fork::Init, 0)]
    fn relation_files_have_a_form(
        #[case] name: &str,
        #[case] relnumber: u32,
        #[case] fork: Fork,
        #[case] segment: u32,
    ) {
        assert_eq!(parse_relation_file(name), Some(RelationFile { relnumber, fork, segment }));
    }

    #[rstest]
    #[case("")]
    #[case("0")]
    #[case("017")]
    #[case("4294967296")]
    #[case("+1")]
    #[case("1259.0")]
    #[case("1259.01")]
    #[case("1259.")]
    #[case("1259.1.2")]
    #[case("1259_")]
    #[case("1259_main")]
    #[case("1259_fsmx")]
    #[case("1259_fsm_vm")]
    #[case("1259.1_fsm")]
    #[case("t3_16384")]
    #[case("pg_filenode.map")]
    #[case("PG_VERSION")]
    #[case("INCREMENTAL.1259")]
    fn other_files_are_no_relations(#[case] name: &str) {
        assert_eq!(parse_relation_file(name), None);
    }

    #[rstest]
    #[case("t3_16384", true)]
    #[case("t12_16384_vm", true)]
    #[case("t3_16384.2", true)]
    #[case("t3_16384_init.2", true)]
    #[case("t3_16384_", false)]
    #[case("t3_16384.", false)]
    #[case("t3_16384_x", false)]
    #[case("t_16384", false)]
    #[case("t3_", false)]
    #[case("t3", false)]
    #[case("16384", false)]
    #[case("t-1_16384", false)]
    fn temporary_relations_have_a_form(#[case] name: &str, #[case] expected: bool) {
        assert_eq!(is_temporary_relation(name), expected);
    }

    #[rstest]
    #[case("5", Verdict::Skip(SkipReason::Unlogged))]
    #[case("5.1", Verdict::Skip(SkipReason::Unlogged))]
    #[case("5_fsm", Verdict::Skip(SkipReason::Unlogged))]
    #[case("5_init", Verdict::Copy)]
    #[case("6", Verdict::Copy)]
    #[case("7", Verdict::Copy)]
    fn of_unlogged_relations_the_init_fork_is_kept(#[case] name: &str, #[case] expected: Verdict) {
        let unlogged = unlogged_relations(["5", "5_init", "5.1", "5_fsm", "6", "7_initx", "t3_7_init"]);
        assert_eq!(relation_verdict(parse_relation_file(name).unwrap(), &unlogged), expected);
    }

    #[rstest]
    #[case("base/5/1259", true)]
    #[case("base/5/1259_vm", true)]
    #[case("global/1262.1", true)]
    #[case("pg_tblspc/16385/PG_15_202209061/5/16390_init", true)]
    #[case("global/pg_control", false)]
    #[case("global/pg_filenode.map", false)]
    #[case("base/5/pg_filenode.map", false)]
    #[case("base/5/PG_VERSION", false)]
    #[case("global/pg_internal.init", false)]
    #[case("base/1259", false)]
    #[case("base/x/1259", false)]
    #[case("base/5/6/1259", false)]
    #[case("../base/5/1259", false)]
    #[case("/base/5/1259", false)]
    #[case("pg_xact/0000", false)]
    #[case("pg_tblspc/16385/other/5/16390", false)]
    #[case("pg_tblspc/16385/PG_15_202209061/16390", false)]
    #[case("1259", false)]
    #[case("", false)]
    fn pages_are_in_relation_files(#[case] path: &str, #[case] expected: bool) {
        assert_eq!(has_page_checksums(Path::new(path)), expected);
    }

    #[test]
    fn names_that_are_no_utf8_are_copied() {
        let name = OsStr::from_bytes(b"base/5/\xFF");
        assert_eq!(verdict(Path::new(name), false), Verdict::Copy);
        assert!(!has_page_checksums(Path::new(name)));
    }

    proptest! {
        #[test]
        fn relation_files_have_one_name(relnumber in 1_u32.., fork in 0_usize..4, segment: u32) {
            let suffix = ["", "_fsm", "_vm", "_init"][fork];
            let dot = if segment == 0 { String::new() } else { format!(".{segment}") };
            let parsed = parse_relation_file(format!("{relnumber}{suffix}{dot}")).unwrap();
            let fork = [Fork::Main, Fork::Fsm, Fork::Vm, Fork::Init][fork];
            prop_assert_eq!(parsed, RelationFile { relnumber, fork, segment });
        }

        #[test]
        fn never_panics(bytes in proptest::collection::vec(proptest::sample::select(&b"/._019tfsminit\xFF"[..]), 0..40), directory: bool) {
            let path = Path::new(OsStr::from_bytes(&bytes));
            verdict(path, directory);
            has_page_checksums(path);
            is_temporary_relation(path);
        }
    }
}
