//! Whose WAL this is: what `pg_control` says of a cluster.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;

use crate::pg::control::ControlFile;
use crate::pg::wal_page::{self, Expected};
use crate::pg::{SegmentSize, SystemIdentifier};
use crate::report::{Advice, Cancel};
use crate::sys::clock::{Deadline, poll};

/// How long a control file whose checksum is wrong is read again: the server may be writing it.
const TORN_READ_WAIT_MAX: Duration = Duration::from_secs(2);

const CONTROL_FILE: &str = "global/pg_control";

/// What tells one cluster's WAL from another's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The database system identifier.
    pub system_identifier: SystemIdentifier,
    /// The size of its WAL segments.
    pub segment_size: SegmentSize,
    /// PostgreSQL's major version; `None` for one newer than this program knows.
    pub major: Option<u32>,
}

impl Identity {
    /// The identity in a control file.
    pub fn of(control: &ControlFile) -> Self {
        Self {
            system_identifier: control.system_identifier,
            segment_size: control.segment_size,
            major: control.major(),
        }
    }

    /// What the pages of its WAL must show.
    pub fn expected(&self) -> Expected {
        Expected {
            system_identifier: self.system_identifier,
            segment_size: self.segment_size,
            magic: self.major.and_then(wal_page::magic_of_major),
        }
    }
}

/// The data directory around a WAL file that PostgreSQL names (`pg_wal/…`, relative to the data directory, or an
/// absolute path): two levels above the file, else the current directory, else the configured one. The first of these
/// with a control file wins; when none has one, the directory that should have had it.
pub fn data_directory(wal_file: &Path, configured: Option<&Path>) -> PathBuf {
    let above = wal_file.parent().and_then(Path::parent).map(|path| Path::new(".").join(path));
    let around = above.unwrap_or_else(|| PathBuf::from("."));
    let candidates = [Some(around.as_path()), Some(Path::new(".")), configured];
    let has_control = |path: &&Path| path.join(CONTROL_FILE).symlink_metadata().is_ok();
    candidates.into_iter().flatten().find(has_control).or(configured).unwrap_or(&around).to_path_buf()
}

/// Reads the control file of a data directory. A checksum that does not match is read again for two seconds, since a
/// running server rewrites the file in place.
pub fn read_control(pgdata: &Path) -> anyhow::Result<ControlFile> {
    read_whole(pgdata).map(|(control, _)| control)
}

/// The bytes of the control file, read as by [`read_control`]: they parse and their checksum is right.
pub fn read_control_bytes(pgdata: &Path) -> anyhow::Result<Vec<u8>> {
    read_whole(pgdata).map(|(_, bytes)| bytes)
}

fn read_whole(pgdata: &Path) -> anyhow::Result<(ControlFile, Vec<u8>)> {
    let path = pgdata.join(CONTROL_FILE);
    let mut last = None;
    let control = poll(Deadline::after(TORN_READ_WAIT_MAX), Duration::from_millis(20), &Cancel::default(), || {
        let bytes = std::fs::read(&path).with_context(|| {
            Advice::failed(format!("read {}", path.display()))
                .hint("name the server's data directory with -D, and run as the user that owns it")
        })?;
        let control = ControlFile::parse(&bytes).map_err(|err| last = Some(err)).ok();
        Ok(control.map(|control| (control, bytes)))
    })?;
    control.ok_or_else(|| {
        let reason = last.map_or_else(String::new, |err| format!(": {err}"));
        Advice::failed(format!("{}{reason}", path.display()))
            .hint("pg_controldata shows what PostgreSQL itself makes of this file")
            .into()
    })
}
