//! What of the data directory and its tablespaces goes into a backup.
//!
//! The walk follows PostgreSQL's own rules ([`common::pg::exclusions`]) and happens after the server has begun the
//! backup: what is made later is in the WAL, what vanishes meanwhile is passed over. `global/pg_control` is left out
//! here, because it must be copied last. A path and a size a file is all that is kept.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::{FileType, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use common::pg::exclusions::{self, Verdict};
use common::repo::index::{DirectoryEntry, RelativePath};
use common::report::Cancel;
use common::restore::own::is_no_server_file;
use common::sys::faults;

const TABLESPACES: &str = "pg_tblspc";
const WAL: &str = "pg_wal";
/// The file that is copied last.
pub(crate) const CONTROL_FILE: &str = "global/pg_control";
/// What of a file's mode goes into a backup.
pub(crate) const PERMISSION_BITS: u32 = 0o7777;

/// Where to look.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    /// The data directory.
    pub(crate) pgdata: &'a Path,
    /// The server's major version.
    pub(crate) major: u32,
    /// The version of its catalogs, which names its directory within a tablespace.
    pub(crate) catalog_version: u32,
}

/// What there is to back up.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// Directories, each after the one that it lies in.
    pub(crate) directories: Vec<DirectoryEntry>,
    /// Files in the order of the walk.
    pub(crate) files: Vec<ScannedFile>,
    /// Tablespaces that are linked into the data directory.
    pub(crate) tablespaces: Vec<LinkedTablespace>,
    /// What is neither a file nor a directory and is left out for that: links, sockets, pipes.
    pub(crate) special: Vec<PathBuf>,
}

/// A file and how large it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ScannedFile {
    /// Below the data directory; a tablespace's files lie under `pg_tblspc/OID/`.
    pub(crate) path: RelativePath,
    /// In bytes. The file may have another size by the time it is copied.
    pub(crate) size: u64,
}

/// A tablespace that is linked into the data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LinkedTablespace {
    /// Its object id.
    pub(crate) oid: u32,
    /// Where its link leads.
    pub(crate) location: PathBuf,
}

/// Walks the data directory and the tablespaces.
pub(crate) fn scan(place: Place<'_>, cancel: &Cancel) -> anyhow::Result<Scan> {
    let tablespaces = linked_tablespaces(place.pgdata)?;
    let mut walk = Walk { place, inside: tablespaces_inside(place.pgdata, &tablespaces), found: Scan::default() };
    let mut pending = vec![PathBuf::new()];
    while let Some(directory) = pending.pop() {
        cancel.check()?;
        let below = walk.directory(&directory)?;
        // The last one pushed is walked first: the order of names.
        pending.extend(below.into_iter().rev());
    }
    for tablespace in tablespaces {
        pending.extend(walk.tablespace(&tablespace)?);
        while let Some(directory) = pending.pop() {
            cancel.check()?;
            let below = walk.directory(&directory)?;
            pending.extend(below.into_iter().rev());
        }
        walk.found.tablespaces.push(tablespace);
    }
    Ok(walk.found)
}

struct Walk<'a> {
    place: Place<'a>,
    /// Directories of the data directory that are tablespaces too, and come as such.
    inside: HashSet<PathBuf>,
    found: Scan,
}

impl Walk<'_> {
    /// Notes what lies in this directory (the data directory itself when empty) and answers the directories in it.
    fn directory(&mut self, relative: &Path) -> anyhow::Result<Vec<PathBuf>> {
        let entries = entries(&self.place.pgdata.join(relative))?;
        let unlogged = if exclusions::is_relation_directory(relative) {
            exclusions::unlogged_relations(entries.iter().map(|(name, _)| name))
        } else {
            HashSet::new()
        };
        let mut below = Vec::new();
        for (name, kind) in entries {
            let path = relative.join(&name);
            if relative.as_os_str().is_empty() && is_no_server_file(&name) {
                continue;
            }
            let is_wal = path == Path::new(WAL);
            let is_directory = kind.is_dir() || is_wal;
            match exclusions::verdict(&path, is_directory) {
                Verdict::Skip(_) => {}
                Verdict::CopyEmptyDirectory if is_wal => self.wal_directories()?,
                Verdict::CopyEmptyDirectory => drop(self.note_directory(&path)?),
                Verdict::Copy if kind.is_dir() => {
                    if !self.inside.contains(&path) && self.note_directory(&path)? {
                        below.push(path);
                    }
                }
                Verdict::Copy if kind.is_file() => {
                    let relation = exclusions::is_relation_directory(relative)
                        .then(|| exclusions::parse_relation_file(&name))
                        .flatten();
                    let is_left_out =
                        relation.is_some_and(|file| exclusions::relation_verdict(file, &unlogged) != Verdict::Copy);
                    if !is_left_out && path != Path::new(CONTROL_FILE) {
                        self.note_file(&path)?;
                    }
                }
                Verdict::Copy if is_tablespace_link(relative, &name, kind) => {}
                Verdict::Copy => self.found.special.push(path),
            }
        }
        Ok(below)
    }

    /// A tablespace's own directory and that of this server's version in it, which is the one to walk.
    fn tablespace(&mut self, tablespace: &LinkedTablespace) -> anyhow::Result<Option<PathBuf>> {
        let root = Path::new(TABLESPACES).join(tablespace.oid.to_string());
        let version = exclusions::tablespace_version_directory(self.place.major, self.place.catalog_version);
        let version = root.join(version);
        Ok((self.note_directory(&root)? && self.note_directory(&version)?).then_some(version))
    }

    /// The empty `pg_wal` of a backup, wherever the server's own lies.
    fn wal_directories(&mut self) -> anyhow::Result<()> {
        let Some(metadata) = stat(&self.place.pgdata.join(WAL), Path::metadata)? else { return Ok(()) };
        let mode = metadata.permissions().mode() & PERMISSION_BITS;
        for path in exclusions::wal_directories(self.place.major) {
            self.found.directories.push(DirectoryEntry { path: RelativePath::new(*path)?, mode });
        }
        Ok(())
    }

    /// Whether the directory is still there.
    fn note_directory(&mut self, path: &Path) -> anyhow::Result<bool> {
        // Links are followed: only a tablespace's is ever asked for.
        let Some(metadata) = stat(&self.place.pgdata.join(path), Path::metadata)? else { return Ok(false) };
        let mode = metadata.permissions().mode() & PERMISSION_BITS;
        self.found.directories.push(DirectoryEntry { path: relative_path(path)?, mode });
        Ok(true)
    }

    fn note_file(&mut self, path: &Path) -> anyhow::Result<()> {
        if let Some(metadata) = stat(&self.place.pgdata.join(path), Path::symlink_metadata)? {
            self.found.files.push(ScannedFile { path: relative_path(path)?, size: metadata.len() });
        }
        Ok(())
    }
}

fn relative_path(path: &Path) -> anyhow::Result<RelativePath> {
    Ok(RelativePath::new(path.as_os_str().as_bytes())?)
}

/// The entries of a directory in the order of their names; none when it has vanished.
fn entries(path: &Path) -> anyhow::Result<Vec<(OsString, FileType)>> {
    let reading = || format!("read the directory {}", path.display());
    let listing = match faults::call("list", path, || std::fs::read_dir(path)) {
        Ok(listing) => listing,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(err) => return Err(err).with_context(reading),
    };
    let mut entries = Vec::new();
    for entry in listing {
        let entry = entry.with_context(reading)?;
        match entry.file_type() {
            Ok(kind) => entries.push((entry.file_name(), kind)),
            Err(err) if err.kind() == io::ErrorKind::NotFound => {}
            Err(err) => return Err(err).with_context(|| format!("look at {}", entry.path().display())),
        }
    }
    // No two have one name, and a stable sort would take half as much memory again.
    entries.sort_unstable_by(|(left, _), (right, _)| left.cmp(right));
    Ok(entries)
}

/// What the file system says of a path; none when it has vanished.
fn stat(path: &Path, look: impl Fn(&Path) -> io::Result<Metadata>) -> anyhow::Result<Option<Metadata>> {
    match faults::call("look at", path, || look(path)) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(err) => Err(err).with_context(|| format!("look at {}", path.display())),
    }
}

fn is_tablespace_link(directory: &Path, name: &OsStr, kind: FileType) -> bool {
    directory == Path::new(TABLESPACES) && kind.is_symlink() && oid(name).is_some()
}

fn oid(name: &OsStr) -> Option<u32> {
    name.to_str()?.parse().ok()
}

/// The tablespaces that are links; those in place are directories like any other.
fn linked_tablespaces(pgdata: &Path) -> anyhow::Result<Vec<LinkedTablespace>> {
    let directory = pgdata.join(TABLESPACES);
    let mut found = Vec::new();
    for (name, kind) in entries(&directory)? {
        let (true, Some(oid)) = (kind.is_symlink(), oid(&name)) else { continue };
        let link = directory.join(&name);
        match std::fs::read_link(&link) {
            // A relative target (nobody should make one) counts from the directory of the link.
            Ok(target) => found.push(LinkedTablespace { oid, location: directory.join(target) }),
            Err(err) if err.kind() == io::ErrorKind::NotFound => {}
            Err(err) => return Err(err).with_context(|| format!("read the link {}", link.display())),
        }
    }
    Ok(found)
}

/// The places below the data directory that tablespaces lead to.
fn tablespaces_inside(pgdata: &Path, tablespaces: &[LinkedTablespace]) -> HashSet<PathBuf> {
    // What cannot be resolved is not below the data directory.
    let Ok(root) = pgdata.canonicalize() else { return HashSet::new() };
    let below = |tablespace: &LinkedTablespace| {
        Some(tablespace.location.canonicalize().ok()?.strip_prefix(&root).ok()?.to_owned())
    };
    tablespaces.iter().filter_map(below).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;
    use tempfile::TempDir;

    struct Tree(TempDir);

    impl Tree {
        fn new(files: &[&str]) -> Self {
            let tree = Self(tempfile::tempdir().unwrap());
            for directory in ["base/5", "global", "pg_tblspc", "pg_wal/archive_status"] {
                std::fs::create_dir_all(tree.path(directory)).unwrap();
            }
            for file in files {
                tree.file(file);
            }
            tree
        }

        fn path(&self, relative: &str) -> PathBuf {
            self.0.path().join("data").join(relative)
        }

        fn file(&self, relative: &str) {
            let path = self.path(relative);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::File::create(path).unwrap().set_len(3).unwrap();
        }

        fn scan(&self, major: u32) -> Scan {
            let place = Place { pgdata: &self.path(""), major, catalog_version: 202_209_061 };
            scan(place, &Cancel::default()).unwrap()
        }
    }

    fn files(scan: &Scan) -> Vec<String> {
        scan.files.iter().map(|file| file.path.display()).collect()
    }

    fn directories(scan: &Scan) -> Vec<String> {
        scan.directories.iter().map(|directory| directory.path.display()).collect()
    }

    #[test]
    fn takes_what_postgresql_takes() {
        let tree = Tree::new(&[
            "PG_VERSION",
            "postmaster.pid",
            ".holdfast-spool/acknowledged/x",
            "backup_label",
            "global/pg_control",
            "global/1262",
            "global/pg_internal.init",
            "base/5/1259",
            "base/5/16384",
            "base/5/16384_init",
            "base/5/16384_fsm",
            "base/5/t3_16385",
            "base/pgsql_tmp/pgsql_tmp1.0",
            "pg_replslot/slot/state",
            "pg_wal/000000010000000000000001",
        ]);
        let found = tree.scan(15);
        assert_eq!(files(&found), ["PG_VERSION", "base/5/1259", "base/5/16384_init", "global/1262"]);
        assert_eq!(
            directories(&found),
            ["base", "global", "pg_replslot", "pg_tblspc", "pg_wal", "pg_wal/archive_status", "base/5"]
        );
        assert!(found.files.iter().all(|file| file.size == 3));
        assert_eq!(found.special, Vec::<PathBuf>::new());
    }

    #[test]
    fn every_directory_comes_after_its_parent() {
        let tree = Tree::new(&["a/b/c/d", "a/e/f", "base/5/1"]);
        let seen = directories(&tree.scan(17));
        for (index, directory) in seen.iter().enumerate() {
            if let Some((parent, _)) = directory.rsplit_once('/') {
                assert!(seen[..index].iter().any(|earlier| earlier == parent), "{directory} in {seen:?}");
            }
        }
        assert!(seen.contains(&"pg_wal/summaries".to_owned()));
    }

    #[test]
    fn a_linked_pg_wal_is_an_empty_directory() {
        let tree = Tree::new(&[]);
        std::fs::create_dir(tree.0.path().join("wal")).unwrap();
        std::fs::remove_dir(tree.path("pg_wal/archive_status")).unwrap();
        std::fs::remove_dir(tree.path("pg_wal")).unwrap();
        symlink(tree.0.path().join("wal"), tree.path("pg_wal")).unwrap();
        let found = tree.scan(15);
        assert_eq!(directories(&found), ["base", "global", "pg_tblspc", "pg_wal", "pg_wal/archive_status", "base/5"]);
        assert_eq!(found.special, Vec::<PathBuf>::new());
    }

    #[test]
    fn of_a_tablespace_the_servers_own_directory_is_taken() {
        let tree = Tree::new(&["pg_tblspc/17000/PG_15_202209061/5/1"]);
        let location = tree.0.path().join("space");
        for file in ["PG_15_202209061/5/16390", "PG_14_202107181/5/16390", "lost+found/x"] {
            let path = location.join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::File::create(path).unwrap();
        }
        symlink(&location, tree.path("pg_tblspc/16385")).unwrap();
        let found = tree.scan(15);
        assert_eq!(found.tablespaces, [LinkedTablespace { oid: 16385, location }]);
        assert_eq!(
            files(&found),
            ["pg_tblspc/17000/PG_15_202209061/5/1", "pg_tblspc/16385/PG_15_202209061/5/16390"],
            "the first one is in place"
        );
        assert!(directories(&found).contains(&"pg_tblspc/16385".to_owned()));
        assert_eq!(found.special, Vec::<PathBuf>::new());
    }

    #[test]
    fn a_tablespace_inside_the_data_directory_comes_once() {
        let tree = Tree::new(&["spaces/one/PG_15_202209061/5/16390", "spaces/note"]);
        symlink(tree.path("spaces/one"), tree.path("pg_tblspc/16385")).unwrap();
        let found = tree.scan(15);
        assert_eq!(files(&found), ["spaces/note", "pg_tblspc/16385/PG_15_202209061/5/16390"]);
    }

    #[test]
    fn what_is_no_file_is_left_out_and_named() {
        let tree = Tree::new(&["elsewhere.conf"]);
        symlink(tree.path("elsewhere.conf"), tree.path("postgresql.conf")).unwrap();
        let _socket = UnixListener::bind(tree.path("s")).unwrap();
        let found = tree.scan(15);
        assert_eq!(files(&found), ["elsewhere.conf"]);
        assert_eq!(found.special, [PathBuf::from("postgresql.conf"), PathBuf::from("s")]);
    }

    #[test]
    fn a_cancelled_walk_ends() {
        let tree = Tree::new(&[]);
        let cancel = Cancel::default();
        cancel.cancel();
        let place = Place { pgdata: &tree.path(""), major: 15, catalog_version: 1 };
        assert!(scan(place, &cancel).unwrap_err().is::<common::report::Interrupted>());
    }
}
