//! Says, loudly and with numbers, when the disk under `pg_wal` is getting full.
//!
//! A server whose `pg_wal` is full stops. Some tools discard WAL before it comes to that, and with it every moment after
//! the last backup; this one never does. It tells, in time, and leaves the answer about the file as it is.

use std::path::Path;
use std::time::Duration;

use common::app::Context;
use common::sys::space;
use common::units::ByteCount;

use crate::batch;
use crate::request::Request;

/// How long nothing is said again.
const SAID_AGAIN_AFTER: Duration = Duration::from_mins(1);

/// The alarm, when it is due: free space under the limit, and not told within the last minute.
pub(crate) fn due(request: &Request, ctx: &Context) -> Option<String> {
    let pg_wal = request.pg_wal();
    let room = space::room(&pg_wal).ok()?;
    if room.available >= ctx.settings.low_space.of(room.total) {
        return None;
    }
    // Where no spool can be had, it is told every time.
    let news = |spool: &common::archive::spool::Spool| spool.is_news("low space", SAID_AGAIN_AFTER);
    if !ctx.spool(&request.pgdata).find_or_make().ok().as_ref().is_none_or(news) {
        return None;
    }
    Some(text(&pg_wal, room, batch::ready(&pg_wal).len(), request.identity.segment_size.bytes()))
}

fn text(pg_wal: &Path, room: space::Room, files: usize, segment: u64) -> String {
    let waiting = ByteCount(segment.saturating_mul(files as u64));
    format!(
        "LOW SPACE: {} of {} are free under {}, and {files} files ({waiting}) wait for the archive; \
         nothing is discarded: make room, or the server stops when it is full",
        ByteCount(room.available),
        ByteCount(room.total),
        pg_wal.display(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_the_numbers() {
        let room = space::Room { available: 96 << 20, total: 2 << 30 };
        let text = text(Path::new("pg_wal"), room, 3, 16 << 20);
        let expected = "LOW SPACE: 96.0 MiB of 2.0 GiB are free under pg_wal, and 3 files (48.0 MiB) wait";
        assert!(text.starts_with(expected), "{text}");
    }
}
