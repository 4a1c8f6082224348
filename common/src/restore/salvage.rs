//! WAL that is in a server's own `pg_wal` and in no repository: a crashed server's last transactions.
//!
//! Copied, never moved: the directory that it comes from must stay whole for a rollback.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::Context as _;

use crate::archive::{Identity, Repository, inventory};
use crate::pg::history::TimelineHistory;
use crate::pg::wal_page::first_page_matches;
use crate::pg::{ArchiveName, WalSegmentName};
use crate::repo::chain::Inventory;
use crate::sys::durable::TemporaryFile;
use crate::sys::faults;

/// The bytes of a segment's first page that tell what it is.
const FIRST_PAGE_BYTES: usize = 8192;

/// What a `pg_wal` holds that belongs to the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tail {
    /// Segments whose first page is what their name says; recycled ones, which wait under a future name with old
    /// contents, are not among them. The last may be written only in part.
    pub segments: Vec<WalSegmentName>,
    /// Timeline histories.
    pub histories: Vec<TimelineHistory>,
}

/// Looks through a `pg_wal`. Files that are something else are passed over; files that vanish meanwhile too. A
/// directory that does not exist has no tail.
pub fn survey(pg_wal: &Path, identity: &Identity) -> anyhow::Result<Tail> {
    let mut tail = Tail::default();
    let entries = match std::fs::read_dir(pg_wal) {
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(tail),
        entries => entries.with_context(|| format!("read {}", pg_wal.display()))?,
    };
    for entry in entries {
        let entry = entry.with_context(|| format!("read {}", pg_wal.display()))?;
        match entry.file_name().to_str().and_then(ArchiveName::parse) {
            Some(ArchiveName::Segment(segment)) if is_genuine(&entry.path(), segment, identity) => {
                tail.segments.push(segment);
            }
            Some(ArchiveName::History(timeline)) => {
                let bytes = std::fs::read(entry.path()).unwrap_or_default();
                tail.histories.extend(TimelineHistory::parse(timeline, &bytes).ok());
            }
            _ => {}
        }
    }
    tail.segments.sort_unstable();
    Ok(tail)
}

/// Whether the file is a segment of this name, by its size and first page. Unreadable ones are not.
pub fn is_genuine(path: &Path, name: WalSegmentName, identity: &Identity) -> bool {
    let mut page = Vec::with_capacity(FIRST_PAGE_BYTES);
    let read = File::open(path).and_then(|file| {
        let right_size = file.metadata()?.len() == identity.segment_size.bytes();
        file.take(FIRST_PAGE_BYTES as u64).read_to_end(&mut page)?;
        Ok(right_size)
    });
    read.unwrap_or(false) && first_page_matches(&page, name, &identity.expected()).is_ok()
}

impl Tail {
    /// Adds what is here to an inventory, so that the plan counts on it.
    pub fn add_to(&self, inventory: &mut Inventory) {
        for segment in &self.segments {
            inventory.add_segment(*segment);
        }
        for history in &self.histories {
            if !inventory.has_history(history.timeline) {
                inventory.add_history(history.clone());
            }
        }
    }

    /// The names of the files that the archive lacks: segments first, then histories.
    pub fn missing_from(&self, archive: &Inventory) -> Vec<ArchiveName> {
        let segments = self.segments.iter().filter(|name| !archive.has(**name)).map(|name| ArchiveName::Segment(*name));
        let histories = self
            .histories
            .iter()
            .filter(|history| !archive.has_history(history.timeline))
            .map(|history| ArchiveName::History(history.timeline));
        segments.chain(histories).collect()
    }
}

/// Copies what one `pg_wal` has and the repository lacks to another `pg_wal`; answers what that is. The server whose it is
/// may run.
pub fn bring(repository: &Repository, identity: &Identity, from: &Path, to: &Path) -> anyhow::Result<Vec<ArchiveName>> {
    let archive = inventory::read(repository, identity.system_identifier, identity.segment_size)?;
    let missing = survey(from, identity)?.missing_from(&archive);
    copy(&missing, from, to)?;
    Ok(missing)
}

/// Copies these files from one `pg_wal` to another, durably; one that is there stays as it is. Safe to repeat.
///
/// One that is gone meanwhile is passed over: a server takes no file away before it is archived.
pub fn copy(names: &[ArchiveName], from: &Path, to: &Path) -> anyhow::Result<()> {
    for name in names.iter().map(ToString::to_string) {
        let source = from.join(&name);
        let copying = || format!("copy {} to {}", source.display(), to.display());
        let mut file = match faults::call("open", &source, || File::open(&source)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            opened => opened.with_context(copying)?,
        };
        let mut copy = TemporaryFile::create_in(to, 0o600).with_context(copying)?;
        std::io::copy(&mut file, &mut copy).with_context(copying)?;
        copy.publish_new(&to.join(&name)).with_context(copying)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::{SegmentSize, TimelineId};

    #[test]
    fn a_missing_directory_has_no_tail() {
        let dir = tempfile::tempdir().unwrap();
        let identity = Identity { system_identifier: 1, segment_size: SegmentSize::DEFAULT, major: Some(15) };
        assert_eq!(survey(&dir.path().join("pg_wal"), &identity).unwrap(), Tail::default());
    }

    #[test]
    fn what_is_no_wal_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let identity = Identity { system_identifier: 1, segment_size: SegmentSize::DEFAULT, major: Some(15) };
        File::create(dir.path().join("000000010000000000000001")).unwrap().set_len(16 << 20).unwrap();
        File::create(dir.path().join("notes.txt")).unwrap();
        File::create(dir.path().join("00000002.history")).unwrap();
        let tail = survey(dir.path(), &identity).unwrap();
        assert_eq!(tail.segments, []);
        assert!(tail.histories.iter().all(|history| history.timeline == TimelineId(2)));
    }

    #[test]
    fn copies_and_never_replaces() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let name = ArchiveName::parse("00000002.history").unwrap();
        for (dir, length) in [(&from, 3), (&to, 5)] {
            File::create(dir.path().join("00000002.history")).unwrap().set_len(length).unwrap();
        }
        let gone = ArchiveName::parse("00000003.history").unwrap();
        copy(&[gone, name], from.path(), to.path()).unwrap();
        assert_eq!(std::fs::metadata(to.path().join("00000002.history")).unwrap().len(), 5);
    }
}
