//! The names in a backup: its catalogs, read by range from its parts.
//!
//! A backup is a copy of a cluster at work; a row that was changed meanwhile may be missing or of either version. The log
//! from the backup's start on repeats all of that.

use common::archive::Repository;
use common::pg::catalog::{Catalog, Catalogs};
use common::pg::filenode_map::FilenodeMap;
use common::pg::heap::PAGE_BYTES;
use common::repo::index::{FileEntry, RelativePath};
use common::repo::records::BackupRecord;
use common::report::Cancel;
use common::restore::pick::{Picked, pick};

/// Databases whose catalogs are read.
const DATABASES_MAX: usize = 4096;
/// The largest `pg_filenode.map` of any version is 524 bytes.
const MAP_BYTES_MAX: u64 = 4096;

/// The folder of a database and its object id; 0 for what all share.
struct Folder {
    path: String,
    database: u32,
}

impl Folder {
    /// The folder of a file, when it is one of a database.
    fn of(path: &str) -> Option<(Self, &str)> {
        let (folder, file) = path.rsplit_once('/')?;
        let database = match folder {
            "global" => 0,
            _ if folder.starts_with("base/") || folder.starts_with("pg_tblspc/") => {
                folder.rsplit('/').next()?.parse().ok()?
            }
            _ => return None,
        };
        Some((Self { path: folder.to_owned(), database }, file))
    }
}

/// Reads the catalogs of the backup into `catalogs`. When it fails, what was read until then is there.
pub(crate) fn read(
    catalogs: &mut Catalogs,
    repository: &Repository,
    backup: &BackupRecord,
    cancel: &Cancel,
) -> anyhow::Result<()> {
    let is_map = |path: &RelativePath| path.as_bytes().ends_with(b"/pg_filenode.map");
    let maps = pick(repository, backup, DATABASES_MAX, is_map, cancel)?;
    let mut folders = Vec::new();
    for file in maps.files.iter().filter(|file| file.size <= MAP_BYTES_MAX) {
        folders.extend(read_map(catalogs, &maps, file)?);
    }
    let mut wanted = Vec::new();
    for folder in &folders {
        let shared = folder.database == 0;
        let catalogs_here = if shared { &[Catalog::Database][..] } else { &[Catalog::Class, Catalog::Namespace] };
        for catalog in catalogs_here {
            let relnumber = catalogs.file_of(folder.database, *catalog).unwrap_or(catalog.oid());
            wanted.push(format!("{}/{relnumber}", folder.path));
        }
    }
    read_files(catalogs, repository, backup, wanted, cancel)?;
    // Schemas whose catalog was written anew lie elsewhere, as pg_class says.
    let mut moved = Vec::new();
    for folder in folders.iter().filter(|folder| folder.database != 0) {
        let now = catalogs.file_of(folder.database, Catalog::Namespace).filter(|now| *now != Catalog::Namespace.oid());
        moved.extend(now.map(|relnumber| format!("{}/{relnumber}", folder.path)));
    }
    if moved.is_empty() { Ok(()) } else { read_files(catalogs, repository, backup, moved, cancel) }
}

fn read_map(catalogs: &mut Catalogs, picked: &Picked<'_>, file: &FileEntry) -> anyhow::Result<Option<Folder>> {
    let mut bytes = Vec::new();
    picked.read(file, PAGE_BYTES, &mut |piece| bytes.extend_from_slice(piece))?;
    let path = file.path.display();
    let (Some((folder, _)), Some(map)) = (Folder::of(&path), FilenodeMap::parse(&bytes)) else { return Ok(None) };
    for (catalog, relnumber) in map.iter() {
        catalogs.map(folder.database, catalog, relnumber);
    }
    Ok(Some(folder))
}

fn read_files(
    catalogs: &mut Catalogs,
    repository: &Repository,
    backup: &BackupRecord,
    mut wanted: Vec<String>,
    cancel: &Cancel,
) -> anyhow::Result<()> {
    wanted.sort_unstable();
    let is_wanted = |path: &RelativePath| {
        let path = path.as_bytes();
        wanted.binary_search_by(|known| known.as_bytes().cmp(path)).is_ok()
    };
    let picked = pick(repository, backup, wanted.len(), is_wanted, cancel)?;
    for file in &picked.files {
        cancel.check()?;
        let path = file.path.display();
        let Some((folder, name)) = Folder::of(&path) else { continue };
        let Ok(relnumber) = name.parse() else { continue };
        let mut block = 0;
        picked.read(file, PAGE_BYTES, &mut |page| {
            catalogs.load_page(folder.database, relnumber, block, page);
            block += 1;
        })?;
    }
    Ok(())
}
