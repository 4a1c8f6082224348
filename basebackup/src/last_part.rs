//! The last part of a backup: `backup_label`, and `global/pg_control` as it was after everything else was copied.
//!
//! The label comes first: whoever unpacks the part by hand and is interrupted never has a control file without it,
//! from which PostgreSQL would start as if after a crash.

use std::io::Write as _;
use std::path::Path;

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use common::archive::identity::read_control_bytes;
use common::codec::Digest;
use common::repo::index::{FileEntry, RelativePath};
use common::repo::layout::backup_object;
use common::repo::part::{Attributes, PartWriter};

use crate::copy::{CopiedPart, attributes};
use crate::object::Target;
use crate::scan::CONTROL_FILE;

/// PostgreSQL's own mode for the files that it writes.
const LABEL_MODE: u32 = 0o600;

/// A small file that is held in memory.
#[derive(Debug, Clone)]
pub(crate) struct MemoryFile {
    path: &'static str,
    bytes: Vec<u8>,
    attributes: Attributes,
}

/// The control file, read whole and with the right checksum.
pub(crate) fn control_file(pgdata: &Path) -> anyhow::Result<MemoryFile> {
    let path = pgdata.join(CONTROL_FILE);
    let bytes = read_control_bytes(pgdata)?;
    let metadata = path.metadata().with_context(|| format!("look at {}", path.display()))?;
    Ok(MemoryFile { path: CONTROL_FILE, bytes, attributes: attributes(&metadata) })
}

/// The label exactly as the server gave it.
pub(crate) fn label_file(bytes: &[u8], time: DateTime<Utc>) -> MemoryFile {
    let attributes = Attributes { mode: LABEL_MODE, modified: u64::try_from(time.timestamp()).unwrap_or_default() };
    MemoryFile { path: "backup_label", bytes: bytes.to_vec(), attributes }
}

/// Writes the part.
pub(crate) fn write(target: Target<'_>, number: u32, files: &[MemoryFile]) -> anyhow::Result<CopiedPart> {
    let object = target.begin(&backup_object::part(number, target.codec()))?;
    let what = object.describe();
    let writing = || format!("write {what}");
    let mut writer = PartWriter::new(number, object, target.compression());
    let mut entries = Vec::with_capacity(files.len());
    for MemoryFile { path, bytes, attributes } in files {
        let (path, size) = (RelativePath::new(*path)?, bytes.len() as u64);
        let offset = writer.file(path.as_bytes(), size, *attributes).with_context(writing)?;
        writer.contents(bytes).with_context(writing)?;
        let Attributes { mode, modified } = *attributes;
        entries.push(FileEntry { path, part: number, offset, size, mode, modified, sha256: Digest::of(bytes) });
    }
    let (mut object, frames, record) = writer.finish().with_context(writing)?;
    object.flush().with_context(writing)?;
    object.publish()?;
    Ok(CopiedPart { record, frames, files: entries, damaged: Vec::new(), damaged_count: 0 })
}
