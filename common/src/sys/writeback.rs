//! Starts writing a growing file to disk before anybody waits for it.
//!
//! Left alone, Linux keeps gigabytes of written pages in memory until somebody syncs them, and then the disk works
//! while the processors wait. Told early, both work at once. Only a hint: what is durable is decided by `fsync` alone,
//! which also brings up every error.

use std::fs::File;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::libc::off_t;

/// So much is written between two hints: few enough calls, and little is left for the end.
const STEP_BYTES: u64 = 8 << 20;

/// How far a file is written, and how far the system was told so.
#[derive(Debug, Default)]
pub struct Writeback {
    written: u64,
    told: u64,
}

impl Writeback {
    /// Notes that `count` more bytes were written to the end of `file`. Never waits for the disk, never fails.
    pub fn advance(&mut self, file: &File, count: u64) {
        self.written = self.written.saturating_add(count);
        let fresh = self.written - self.told;
        if fresh < STEP_BYTES {
            return;
        }
        if let (Ok(start), Ok(length)) = (off_t::try_from(self.told), off_t::try_from(fresh)) {
            // For pages that are not on disk yet, "not needed" begins to write them (mm/fadvise.c in Linux; pg_flush_data
            // in PostgreSQL's fd.c uses it so). A file system that knows no advice writes when it is synced.
            let _hint = posix_fadvise(file, start, length, PosixFadviseAdvice::POSIX_FADV_DONTNEED).is_ok();
        }
        self.told = self.written;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_once_a_step_and_never_twice_of_the_same_bytes() {
        let file = tempfile::tempfile().unwrap();
        let mut writeback = Writeback::default();
        writeback.advance(&file, STEP_BYTES - 1);
        assert_eq!((writeback.written, writeback.told), (STEP_BYTES - 1, 0));
        writeback.advance(&file, 1);
        assert_eq!(writeback.told, STEP_BYTES);
        writeback.advance(&file, 3 * STEP_BYTES);
        assert_eq!(writeback.told, 4 * STEP_BYTES);
        writeback.advance(&file, u64::MAX);
        assert_eq!(writeback.told, u64::MAX);
    }
}
