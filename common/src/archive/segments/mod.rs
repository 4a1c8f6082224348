//! WAL files into a repository and back.
//!
//! What both directions share: how a file is checked while it streams by ([`Check`]), and where its object lies.

mod fetch;
mod put;
mod seek;

pub use fetch::{Fetched, read_back};
pub use put::{Put, put, put_missing_histories};
pub use seek::{Sought, seek};

use crate::codec::Codec;
use crate::pg::history::TimelineHistory;
use crate::pg::label::BackupLabel;
use crate::pg::wal_page::{SegmentCheck, SegmentError, Wholeness};
use crate::pg::{ArchiveName, SystemIdentifier};
use crate::repo::Layout;
use crate::store::{Key, Store, StoreError};

use super::{Identity, Repository};

/// The largest history or backup history file that is believed, in bytes.
pub const TEXT_FILE_BYTES_MAX: u64 = 1 << 20;

/// Checks a WAL file as its bytes stream by.
pub struct Check {
    kind: Kind,
}

enum Kind {
    Segment(SegmentCheck),
    Text { name: ArchiveName, identity: Identity, bytes: Vec<u8> },
}

/// Why a file is not what its name says.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// A segment's contents are not this cluster's WAL at this place.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// A history or backup history file that cannot be read as one.
    #[error("{0}")]
    Text(String),
}

impl Check {
    /// A check of the file that has this name in the cluster of this identity.
    pub fn new(name: ArchiveName, identity: Identity) -> Self {
        let segment = |segment, wholeness| Kind::Segment(SegmentCheck::new(segment, identity.expected(), wholeness));
        let kind = match name {
            ArchiveName::Segment(name) => segment(name, Wholeness::Whole),
            ArchiveName::Partial(name) => segment(name, Wholeness::Partial),
            ArchiveName::History(_) | ArchiveName::BackupHistory(..) => {
                Kind::Text { name, identity, bytes: Vec::new() }
            }
        };
        Self { kind }
    }

    /// The next bytes of the file.
    pub fn update(&mut self, chunk: &[u8]) -> Result<(), CheckError> {
        match &mut self.kind {
            Kind::Segment(check) => Ok(check.update(chunk)?),
            Kind::Text { name, bytes, .. } => {
                if (bytes.len() + chunk.len()) as u64 > TEXT_FILE_BYTES_MAX {
                    return Err(CheckError::Text(format!("larger than any {name} that PostgreSQL writes")));
                }
                bytes.extend_from_slice(chunk);
                Ok(())
            }
        }
    }

    /// The file is at its end.
    pub fn finish(self) -> Result<(), CheckError> {
        match self.kind {
            Kind::Segment(check) => Ok(check.finish()?),
            Kind::Text { name: ArchiveName::History(timeline), bytes, .. } => {
                let history = TimelineHistory::parse(timeline, &bytes)
                    .map_err(|err| CheckError::Text(format!("not a timeline history: {err}")))?;
                if history.ancestors.is_empty() {
                    return Err(CheckError::Text("not a timeline history: it names no parent timeline".to_owned()));
                }
                Ok(())
            }
            Kind::Text { name, identity, bytes } => check_backup_history(name, &identity, &bytes),
        }
    }
}

fn check_backup_history(name: ArchiveName, identity: &Identity, bytes: &[u8]) -> Result<(), CheckError> {
    let label =
        BackupLabel::parse(bytes).map_err(|err| CheckError::Text(format!("not a backup history file: {err}")))?;
    let offset = u32::try_from(label.start_wal_location.0 % identity.segment_size.bytes()).unwrap_or(u32::MAX);
    let said = ArchiveName::BackupHistory(label.start_wal_file, offset);
    if said != name {
        return Err(CheckError::Text(format!("the backup history inside belongs to {said}")));
    }
    if label.stop.is_none() {
        return Err(CheckError::Text("not a backup history file: it has no end".to_owned()));
    }
    Ok(())
}

/// The object that holds a WAL file, whatever its codec; the repository's own codec is looked for first.
pub fn locate(
    repository: &Repository,
    system: SystemIdentifier,
    name: ArchiveName,
) -> Result<Option<(Key, Codec)>, StoreError> {
    for (key, codec) in candidates(repository, system, name)? {
        if repository.store().stat(&key)?.is_some() {
            return Ok(Some((key, codec)));
        }
    }
    Ok(None)
}

/// The keys under which a WAL file can lie, the likeliest first.
fn candidates(
    repository: &Repository,
    system: SystemIdentifier,
    name: ArchiveName,
) -> Result<Vec<(Key, Codec)>, StoreError> {
    let usual = repository.compression().codec;
    let others = Codec::ALL.into_iter().filter(|codec| *codec != usual);
    let key = |codec| Ok((repository.layout().wal_file(system, name, codec)?, codec));
    std::iter::once(usual).chain(others).map(key).collect()
}

/// The timelines whose history files are archived.
pub fn archived_histories(
    store: &dyn Store,
    layout: &Layout,
    system: SystemIdentifier,
) -> Result<Vec<crate::pg::TimelineId>, StoreError> {
    let mut found = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let page = store.list(&layout.histories(system), after.as_deref(), 1000)?;
        found.extend(page.iter().filter_map(|entry| {
            match crate::repo::layout::parse_wal_object(entry.key.file_name())?.name {
                ArchiveName::History(timeline) => Some(timeline),
                _ => None,
            }
        }));
        match page.last() {
            Some(last) if page.len() == 1000 => after = Some(last.key.as_str().to_owned()),
            _ => return Ok(found),
        }
    }
}
