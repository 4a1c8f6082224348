//! What one call of `archive-wal` leaves for the later ones: that it has archived their files too.
//!
//! PostgreSQL asks for one file at a time. A call that finds more of them ready archives several at once and leaves an
//! acknowledgement for each; the call for that file then only has to prove that the file is still the one that was
//! archived, and that it went to the very repositories that are configured now. An acknowledgement that is lost, or
//! doubted, costs another look into the repository, never data.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::spool::Spool;
use crate::codec::read_full;
use crate::pg::wal_page::LongHeader;
use crate::pg::{ArchiveName, SystemIdentifier};
use crate::repo::ClusterName;
use crate::repo::envelope::{self, Record};
use crate::repo::records::as_text;
use crate::sys::{faults, passing};

/// The clock of a file system ticks up to every 10 ms: a change right after this could show the same time.
const SETTLED_AFTER: Duration = Duration::from_millis(20);

/// Which file it was, byte for byte, as far as can be told without reading it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    /// The header of the first page in hexadecimal; of a shorter file, all of it.
    header: String,
}

impl Proof {
    /// The proof of the file at `path`. `None` while it is so young that a change could still go unnoticed.
    pub fn of(path: &Path) -> io::Result<Option<Self>> {
        let mut file = faults::call("open", path, || File::open(path))?;
        let metadata = file.metadata()?;
        let mut header = [0; LongHeader::SIZE];
        let count = read_full(&mut file, &mut header)?;
        // A file from the future has not settled either.
        if metadata.modified()?.elapsed().unwrap_or_default() < SETTLED_AFTER {
            return Ok(None);
        }
        Ok(Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            header: hex::encode(header.get(..count).unwrap_or_default()),
        }))
    }
}

/// That a file has been archived. Two are equal when one can stand for the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acknowledgement {
    /// The system whose WAL it is.
    #[serde(with = "as_text")]
    pub system_identifier: SystemIdentifier,
    /// The cluster's name in the repositories.
    pub cluster: ClusterName,
    /// The [`Repository::id`](super::Repository::id)s of all repositories that accepted it, in order.
    pub repositories: Vec<String>,
    /// The file, before it was read.
    pub file: Proof,
}

impl Record for Acknowledgement {
    const KIND: &'static str = "acknowledgement";
    const MENDING: &'static str = "remove it";
}

/// The acknowledgements in one spool: `acknowledged/<name>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acknowledgements {
    folder: PathBuf,
}

impl Acknowledgements {
    /// Those in this spool; the folder need not exist.
    pub fn within(spool: &Spool) -> Self {
        Self { folder: spool.path("acknowledged") }
    }

    /// Leaves an acknowledgement, in place of an older one.
    pub fn give(spool: &Spool, name: ArchiveName, acknowledgement: &Acknowledgement) -> io::Result<()> {
        let bytes = envelope::seal(acknowledgement).map_err(io::Error::other)?;
        passing::replace(&spool.folder("acknowledged")?.join(name.to_string()), &bytes, 0o600)
    }

    /// Takes away the acknowledgement of this file; `None` when there is none that can be read. It is gone afterwards,
    /// whatever it is worth.
    pub fn take(&self, name: ArchiveName) -> Option<Acknowledgement> {
        let path = self.folder.join(name.to_string());
        let bytes = faults::call("read", &path, || std::fs::read(&path)).ok()?;
        passing::remove(&path).ok()?;
        envelope::open(&bytes).ok()
    }

    /// The files that are acknowledged, as far as their names tell.
    pub fn names(&self) -> Vec<ArchiveName> {
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten().filter_map(Result::ok);
        entries.filter_map(|entry| ArchiveName::parse(entry.file_name().to_str()?)).collect()
    }

    /// Forgets a file; nothing happens where there is no acknowledgement.
    pub fn forget(&self, name: ArchiveName) {
        drop(passing::remove(&self.folder.join(name.to_string())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::spool::Places;
    use crate::sys::durable;
    use std::fs;
    use std::io::{Seek as _, SeekFrom, Write as _};

    const NAME: &str = "000000010000000000000007";

    struct Scene {
        folder: tempfile::TempDir,
        spool: Spool,
    }

    impl Scene {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let pgdata = folder.path().join("data");
            fs::create_dir_all(pgdata.join("pg_wal")).unwrap();
            let spool = Places::of(&pgdata, None, None).find_or_make().unwrap();
            let scene = Self { folder, spool };
            durable::replace(&scene.path(), &[7; 4096], 0o600).unwrap();
            scene
        }

        fn path(&self) -> PathBuf {
            self.folder.path().join("data/pg_wal").join(NAME)
        }

        fn acknowledgement(&self) -> Acknowledgement {
            let file = loop {
                if let Some(proof) = Proof::of(&self.path()).unwrap() {
                    break proof;
                }
            };
            let repositories = vec!["a".to_owned(), "b".to_owned()];
            Acknowledgement { system_identifier: 7, cluster: ClusterName::default(), repositories, file }
        }
    }

    fn name() -> ArchiveName {
        ArchiveName::parse(NAME).unwrap()
    }

    #[test]
    fn is_taken_once() {
        let scene = Scene::new();
        let (given, acknowledged) = (scene.acknowledgement(), Acknowledgements::within(&scene.spool));
        assert_eq!(acknowledged.take(name()), None);
        Acknowledgements::give(&scene.spool, name(), &given).unwrap();
        assert_eq!(acknowledged.names(), [name()]);
        assert_eq!(acknowledged.take(name()), Some(given));
        assert_eq!(acknowledged.take(name()), None);
        assert!(acknowledged.names().is_empty());
    }

    #[test]
    fn a_young_file_proves_nothing() {
        let scene = Scene::new();
        let file = File::options().write(true).open(scene.path()).unwrap();
        file.set_modified(std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(u32::MAX.into())).unwrap();
        assert_eq!(Proof::of(&scene.path()).unwrap(), None);
    }

    #[test]
    fn any_change_of_the_file_shows() {
        let scene = Scene::new();
        let before = scene.acknowledgement();
        assert_eq!(scene.acknowledgement(), before);
        // The same bytes again, in place.
        let mut file = File::options().write(true).open(scene.path()).unwrap();
        file.write_all(&[7; 4096]).unwrap();
        let rewritten = scene.acknowledgement();
        assert_ne!(rewritten, before);
        // Other bytes in the header, with the old time.
        let time = fs::metadata(scene.path()).unwrap().modified().unwrap();
        file.seek(SeekFrom::Start(10)).unwrap();
        file.write_all(&[8]).unwrap();
        file.set_modified(time).unwrap();
        let forged = scene.acknowledgement();
        assert_eq!(forged.file.modified, rewritten.file.modified);
        assert_ne!(forged, rewritten);
        // The same bytes in another file of that name.
        let bytes = fs::read(scene.path()).unwrap();
        durable::replace(&scene.path(), &bytes, 0o600).unwrap();
        assert_ne!(scene.acknowledgement(), forged);
    }

    #[test]
    fn what_cannot_be_read_is_none() {
        let scene = Scene::new();
        let folder = scene.spool.folder("acknowledged").unwrap();
        durable::replace(&folder.join(NAME), b"{\"format\":1}", 0o600).unwrap();
        let acknowledged = Acknowledgements::within(&scene.spool);
        assert_eq!(acknowledged.take(name()), None);
        assert!(acknowledged.names().is_empty());
    }
}
