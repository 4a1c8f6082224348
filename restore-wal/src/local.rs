//! The server's own copy of a segment.

use std::io::Read;

use common::archive::segments::Check;
use common::pg::ArchiveName;

use crate::request::Request;

/// How much is read and checked at a time.
const CHUNK_BYTES: usize = 256 << 10;

/// Whether the asked-for segment lies whole and valid in the server's own `pg_wal`; PostgreSQL uses it when the
/// `restore_command` answers 1. Anything unreadable counts as not there.
pub(crate) fn has_valid(request: &Request) -> bool {
    matches!(request.name, ArchiveName::Segment(_)) && check(request).is_some()
}

fn check(request: &Request) -> Option<()> {
    let mut file = std::fs::File::open(request.pgdata.join("pg_wal").join(request.name.to_string())).ok()?;
    let mut check = Check::new(request.name, request.identity);
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let count = file.read(&mut buffer).ok()?;
        match buffer.get(..count)? {
            [] => return check.finish().ok(),
            chunk => check.update(chunk).ok()?,
        }
    }
}
