//! Whose WAL this is: what `pg_control` says of a cluster.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;

use crate::pg::control::{ControlError, ControlFile};
use crate::pg::wal_page::{self, Expected};
use crate::pg::{SegmentSize, SystemIdentifier, WalSegmentName};
use crate::report::{Advice, Cancel};
use crate::sys::clock::{Deadline, poll};
use crate::sys::faults;

/// How long a control file whose checksum is wrong is read again: the server may be writing it.
const TORN_READ_WAIT_MAX: Duration = Duration::from_secs(2);

/// The newest version of the control file that [`ControlFile`] reads (PostgreSQL 18).
const NEWEST_CONTROL_VERSION: u32 = 1800;

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

/// The identity of the cluster in a data directory.
///
/// A server newer than this program is no reason to stop archiving: of a control file of a later version its first
/// eight bytes are believed, the system identifier since PostgreSQL has one, and the size of its segments is that of
/// the files in `pg_wal`.
pub fn read(pgdata: &Path) -> anyhow::Result<Identity> {
    let bytes = read_file(pgdata)?;
    match ControlFile::parse(&bytes) {
        Err(ControlError::UnknownVersion(version)) if version > NEWEST_CONTROL_VERSION => {
            newer(&bytes, version, pgdata)
        }
        _ => read_control(pgdata).map(|control| Identity::of(&control)),
    }
}

fn newer(control: &[u8], version: u32, pgdata: &Path) -> anyhow::Result<Identity> {
    let unknown = || {
        Advice::failed(format!("{} is of the unknown version {version}", pgdata.join(CONTROL_FILE).display()))
            .hint("this server is newer than this program: install a newer Holdfast")
    };
    let system = control.first_chunk().map(|first| SystemIdentifier::from_ne_bytes(*first)).with_context(unknown)?;
    let pg_wal = pgdata.join("pg_wal");
    let entries = std::fs::read_dir(&pg_wal).with_context(|| format!("read {}", pg_wal.display()))?;
    let segment = |entry: std::fs::DirEntry| {
        WalSegmentName::parse(entry.file_name().to_str()?)?;
        SegmentSize::new(u32::try_from(entry.metadata().ok()?.len()).ok()?)
    };
    let size = entries.filter_map(Result::ok).find_map(segment).with_context(unknown)?;
    Ok(Identity { system_identifier: system, segment_size: size, major: None })
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
    let mut torn = None;
    let control = poll(Deadline::after(TORN_READ_WAIT_MAX), Duration::from_millis(20), &Cancel::default(), || {
        let bytes = read_file(pgdata)?;
        match ControlFile::parse(&bytes) {
            Ok(control) => Ok(Some((control, bytes))),
            Err(err @ ControlError::WrongChecksum { .. }) => {
                torn = Some(err);
                Ok(None)
            }
            Err(err) => Err(unreadable(pgdata, &err)),
        }
    })?;
    match (control, torn) {
        (Some(control), _) => Ok(control),
        (None, Some(err)) => Err(unreadable(pgdata, &err)),
        (None, None) => anyhow::bail!("read {}", pgdata.join(CONTROL_FILE).display()),
    }
}

fn read_file(pgdata: &Path) -> anyhow::Result<Vec<u8>> {
    let path = pgdata.join(CONTROL_FILE);
    faults::call("read", &path, || std::fs::read(&path)).with_context(|| {
        Advice::failed(format!("read {}", path.display()))
            .hint("name the server's data directory with -D, and run as the user that owns it")
    })
}

fn unreadable(pgdata: &Path, err: &ControlError) -> anyhow::Error {
    Advice::failed(format!("{}: {err}", pgdata.join(CONTROL_FILE).display()))
        .hint("pg_controldata shows what PostgreSQL itself makes of this file")
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::durable;

    #[test]
    fn a_newer_server_still_has_an_identity() {
        let pgdata = tempfile::tempdir().unwrap();
        std::fs::create_dir(pgdata.path().join("global")).unwrap();
        std::fs::create_dir(pgdata.path().join("pg_wal")).unwrap();
        let mut control = vec![0; 8192];
        control[..8].copy_from_slice(&77_u64.to_ne_bytes());
        control[8..12].copy_from_slice(&1900_u32.to_ne_bytes());
        durable::replace(&pgdata.path().join(CONTROL_FILE), &control, 0o600).unwrap();
        let refusal = read(pgdata.path()).unwrap_err().to_string();
        assert!(refusal.contains("unknown version 1900"), "{refusal}");

        let segment = pgdata.path().join("pg_wal/000000010000000000000001");
        std::fs::File::create(segment).unwrap().set_len(64 << 20).unwrap();
        let expected =
            Identity { system_identifier: 77, segment_size: SegmentSize::new(64 << 20).unwrap(), major: None };
        assert_eq!(read(pgdata.path()).unwrap(), expected);
        assert_eq!(expected.expected().magic, None);
        assert!(read_control(pgdata.path()).is_err());
    }
}
