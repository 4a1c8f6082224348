//! WAL that is in a server's own `pg_wal` and in no repository: a crashed server's last transactions.
//!
//! Copied, never moved: the directory that it comes from must stay whole for a rollback. A server takes away what it
//! believes to be archived, its last checkpoint before a stop more than any other; so what counts is
//! [secured](secure) before the server is stopped.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::archive::{Identity, Repository, inventory};
use crate::pg::history::TimelineHistory;
use crate::pg::wal_page::first_page_matches;
use crate::pg::{ArchiveName, Lsn, PageHeader, TimelineId, WalSegmentName};
use crate::repo::chain::Inventory;
use crate::sys::durable::{self, TemporaryFile};
use crate::sys::{faults, passing};

/// The bytes of a segment's first page that tell what it is.
const FIRST_PAGE_BYTES: usize = 8192;

/// How many segments that wait to be archived are copied where they cannot be linked.
const WAITING_COPIED_MAX: usize = 16;

/// What a `pg_wal` holds that belongs to the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tail {
    /// Segments whose first page is what their name says; recycled ones, which wait under a future name with old
    /// contents, are not among them, nor those of an older timeline behind its end. The last may be written only in part.
    pub segments: Vec<WalSegmentName>,
    /// Timeline histories.
    pub histories: Vec<TimelineHistory>,
}

/// Looks through a `pg_wal`. Files that are something else are passed over; files that vanish meanwhile too. A
/// directory that does not exist has no tail.
pub fn survey(pg_wal: &Path, identity: &Identity) -> anyhow::Result<Tail> {
    let mut tail = Tail::default();
    let mut segments = Vec::new();
    let entries = match std::fs::read_dir(pg_wal) {
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(tail),
        entries => entries.with_context(|| format!("read {}", pg_wal.display()))?,
    };
    for entry in entries {
        let entry = entry.with_context(|| format!("read {}", pg_wal.display()))?;
        match entry.file_name().to_str().and_then(ArchiveName::parse) {
            Some(ArchiveName::Segment(segment)) => {
                let begun_on = begun_on(&entry.path(), segment, identity);
                segments.extend(begun_on.map(|timeline| (segment, timeline)));
            }
            Some(ArchiveName::History(timeline)) => {
                let bytes = std::fs::read(entry.path()).unwrap_or_default();
                tail.histories.extend(TimelineHistory::parse(timeline, &bytes).ok());
            }
            _ => {}
        }
    }
    // The first segment of a timeline is begun by the one before it, as far as that went; no later one is.
    let is_own = |(name, begun_on): &(WalSegmentName, TimelineId)| {
        let begins =
            tail.histories.iter().find(|history| history.timeline == name.timeline).map(TimelineHistory::begins);
        let first = begins.map(|begins| WalSegmentName::containing(name.timeline, begins, identity.segment_size));
        *begun_on == name.timeline || first.is_none_or(|first| first == *name)
    };
    segments.retain(is_own);
    tail.segments = segments.into_iter().map(|(name, _)| name).collect();
    tail.segments.sort_unstable();
    Ok(tail)
}

/// Whether the file is a segment of this name, by its size and first page. Unreadable ones are not.
pub fn is_genuine(path: &Path, name: WalSegmentName, identity: &Identity) -> bool {
    begun_on(path, name, identity).is_some()
}

/// The timeline that the first page of a genuine segment was written on.
fn begun_on(path: &Path, name: WalSegmentName, identity: &Identity) -> Option<TimelineId> {
    let mut page = Vec::with_capacity(FIRST_PAGE_BYTES);
    let read = File::open(path).and_then(|file| {
        let right_size = file.metadata()?.len() == identity.segment_size.bytes();
        file.take(FIRST_PAGE_BYTES as u64).read_to_end(&mut page)?;
        Ok(right_size)
    });
    let is_genuine = read.unwrap_or(false) && first_page_matches(&page, name, &identity.expected()).is_ok();
    PageHeader::parse(&page).filter(|_| is_genuine).map(|header| header.timeline)
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

/// Looks through several folders, as [`survey`] does through one. What one has counts.
pub fn survey_all(folders: &[PathBuf], identity: &Identity) -> anyhow::Result<Tail> {
    let mut all = Tail::default();
    for folder in folders {
        let found = survey(folder, identity)?;
        all.segments.extend(found.segments);
        let known: BTreeSet<_> = all.histories.iter().map(|history| history.timeline).collect();
        all.histories.extend(found.histories.into_iter().filter(|history| !known.contains(&history.timeline)));
    }
    all.segments.sort_unstable();
    all.segments.dedup();
    Ok(all)
}

/// Copies what these folders have and the repository lacks to a `pg_wal`, what several have from the first of them;
/// answers what that is. The server whose it is may run.
pub fn bring(
    repository: &Repository,
    identity: &Identity,
    from: &[PathBuf],
    to: &Path,
) -> anyhow::Result<Vec<ArchiveName>> {
    let archive = inventory::read(repository, identity.system_identifier, identity.segment_size)?;
    let mut brought = BTreeSet::new();
    for folder in from {
        let missing = survey(folder, identity)?.missing_from(&archive);
        copy(&missing, folder, to)?;
        brought.extend(missing);
    }
    Ok(brought.into_iter().collect())
}

/// Keeps what a `pg_wal` has from `needed_from` on and the repository lacks in a folder beside it, durably, so that it
/// outlasts its server's next checkpoint. Makes the folder if there is anything to keep. Safe to repeat.
///
/// A segment that waits to be archived is linked, which needs no room: its server keeps it, unless its
/// `archive_command` forgets it from now on, and then the link does. All else is copied, and waiting segments too where
/// they cannot be linked, if they are few: of many it is plain that their server keeps them.
pub fn secure(
    repository: &Repository,
    identity: &Identity,
    needed_from: Lsn,
    pg_wal: &Path,
    folder: &Path,
) -> anyhow::Result<()> {
    let archive = inventory::read(repository, identity.system_identifier, identity.segment_size)?;
    let size = identity.segment_size;
    let is_needed = |name: &ArchiveName| match name {
        ArchiveName::Segment(segment) => {
            segment.start(size).is_some_and(|start| start.0.saturating_add(size.bytes()) > needed_from.0)
        }
        _ => true,
    };
    let mut missing = survey(pg_wal, identity)?.missing_from(&archive);
    missing.retain(is_needed);
    if missing.is_empty() {
        return Ok(());
    }
    durable::create_dir_all(folder, 0o700).with_context(|| format!("make {}", folder.display()))?;
    for name in &missing {
        // What was linked earlier may have become another segment meanwhile.
        let kept = folder.join(name.to_string());
        if let ArchiveName::Segment(segment) = name
            && kept.exists()
            && !is_genuine(&kept, *segment, identity)
        {
            passing::remove(&kept).with_context(|| format!("remove {}", kept.display()))?;
        }
    }
    let waits = |name: &ArchiveName| pg_wal.join(format!("archive_status/{name}.ready")).exists();
    let (mut waiting, mut copied): (Vec<_>, Vec<_>) = missing.into_iter().partition(waits);
    waiting.retain(|name| {
        let name = name.to_string();
        durable::link_new(&pg_wal.join(&name), &folder.join(&name)).is_err()
    });
    if waiting.len() <= WAITING_COPIED_MAX {
        copied.append(&mut waiting);
    }
    copy(&copied, pg_wal, folder)
}

/// Those of the files that are neither in the repository nor in this `pg_wal`.
pub fn lost(
    repository: &Repository,
    identity: &Identity,
    names: &[ArchiveName],
    pg_wal: &Path,
) -> anyhow::Result<Vec<ArchiveName>> {
    let archive = inventory::read(repository, identity.system_identifier, identity.segment_size)?;
    let is_archived = |name: &ArchiveName| match name {
        ArchiveName::Segment(segment) => archive.has(*segment),
        ArchiveName::History(timeline) => archive.has_history(*timeline),
        _ => true,
    };
    let is_lost = |name: &&ArchiveName| !pg_wal.join(name.to_string()).exists() && !is_archived(name);
    Ok(names.iter().filter(is_lost).copied().collect())
}

/// Copies these files from one folder to another, durably; one that is there stays as it is. Safe to repeat. One that is
/// gone meanwhile is passed over.
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
    use crate::pg::SegmentSize;
    use std::io::Write as _;

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

    /// A server recycles a segment of an older timeline under a name whose place happens to be that segment's own.
    #[test]
    fn a_recycled_segment_at_its_old_place_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let identity =
            Identity { system_identifier: 7, segment_size: SegmentSize::new(1 << 20).unwrap(), major: Some(15) };
        for (number, begun_on) in [(3_u32, 1_u32), (4, 2), (5, 1)] {
            let place = u64::from(number) << 20;
            let header =
                [&0xD110_u16.to_ne_bytes()[..], &[2, 0], &begun_on.to_ne_bytes(), &place.to_ne_bytes(), &[0; 8]];
            let long = [&7_u64.to_ne_bytes()[..], &(1_u32 << 20).to_ne_bytes(), &8192_u32.to_ne_bytes()];
            let mut file = File::create(dir.path().join(format!("0000000200000000{number:08X}"))).unwrap();
            file.write_all(&[header.concat(), long.concat()].concat()).unwrap();
            file.set_len(1 << 20).unwrap();
        }
        let numbers = || {
            let tail = survey(dir.path(), &identity).unwrap();
            tail.segments.iter().filter_map(|name| name.number(identity.segment_size)).collect::<Vec<_>>()
        };
        assert_eq!(numbers(), [3, 4, 5], "nobody knows where the timeline begins");
        File::create(dir.path().join("00000002.history")).unwrap().write_all(b"1\t0/300100\tx\n").unwrap();
        assert_eq!(numbers(), [3, 4]);
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
