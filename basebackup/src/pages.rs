//! Page checksums, checked while relation files are copied.
//!
//! PostgreSQL's own check is too forgiving: a random page with a high position passes it, and so does damage below a
//! zeroed header. Here a page that fails is read again several times with a pause, since the server may have been
//! writing it; and when it still fails, being changed during the backup excuses it only if its position is one that
//! the server had really reached by then, because replay then writes the page anew from its full image in the WAL.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use common::pg::exclusions;
use common::pg::page_checksum::{PageState, examine, page_lsn};
use common::pg::{ControlFile, Lsn};
use common::report::Cancel;
use common::sys::clock::{Deadline, poll};

/// The pauses before a page is read again.
const PAUSES: [Duration; 5] = [
    Duration::from_millis(20),
    Duration::from_millis(40),
    Duration::from_millis(60),
    Duration::from_millis(80),
    Duration::from_millis(100),
];

/// After so many runs of pages that stayed bad through all pauses there is only one short one: the disk is damaged,
/// and a backup of what is left must not take days.
const PATIENCE: u32 = 64;

/// Asks the server for the position that it has reached.
pub(crate) type AskPosition<'a> = &'a dyn Fn() -> anyhow::Result<Lsn>;

/// How the pages of a cluster with checksums are checked. Shared by all workers.
#[derive(Debug)]
pub(crate) struct PageRules {
    page_bytes: usize,
    segment_blocks: u32,
    /// Where the backup begins in the WAL.
    start: Lsn,
    gave_up: AtomicU32,
}

impl PageRules {
    /// The rules for a backup from `start` on; none for a cluster without checksums.
    pub(crate) fn new(control: &ControlFile, start: Lsn) -> Option<Self> {
        let page_bytes = usize::try_from(control.block_size).ok().filter(|bytes| *bytes > 0)?;
        (control.data_checksum_version != 0).then_some(Self {
            page_bytes,
            segment_blocks: control.relseg_blocks,
            start,
            gave_up: AtomicU32::new(0),
        })
    }

    /// The check of this file; none when it holds no pages with checksums.
    pub(crate) fn check_of(&self, path: &Path) -> Option<PageCheck<'_>> {
        if !exclusions::has_page_checksums(path) {
            return None;
        }
        let file = exclusions::parse_relation_file(path.file_name()?)?;
        Some(PageCheck { rules: self, first_block: file.segment.wrapping_mul(self.segment_blocks) })
    }
}

/// The check of one file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PageCheck<'a> {
    rules: &'a PageRules,
    /// The number within the relation of the file's first block.
    first_block: u32,
}

impl PageCheck<'_> {
    /// Checks the whole pages in `chunk`, which was read from `offset` of `file`, a multiple of the page size. Pages
    /// that are read again are replaced in `chunk`. Answers the blocks (within the file) that stay bad.
    pub(crate) fn check(
        &self,
        file: &File,
        offset: u64,
        chunk: &mut [u8],
        ask_position: AskPosition<'_>,
        cancel: &Cancel,
    ) -> anyhow::Result<Vec<u64>> {
        let page_bytes = self.rules.page_bytes;
        let first = offset / page_bytes as u64;
        let numbered = (0..).zip(chunk.chunks_exact(page_bytes));
        let mut bad: Vec<usize> =
            numbered.filter(|(at, page)| self.is_bad(first, *at, page)).map(|(at, _)| at).collect();
        if bad.is_empty() {
            return Ok(Vec::new());
        }
        let few = self.rules.gave_up.load(Ordering::Relaxed) >= PATIENCE;
        for pause in PAUSES.into_iter().take(if few { 1 } else { PAUSES.len() }) {
            poll(Deadline::after(pause), pause, cancel, || Ok(None::<()>))?;
            bad.retain(|&at| self.read_again(file, first, at, chunk));
            if bad.is_empty() {
                return Ok(Vec::new());
            }
        }
        let reached = ask_position()?;
        let excused = |at: &usize| {
            let page = chunk.chunks_exact(page_bytes).nth(*at).unwrap_or_default();
            (self.rules.start..=reached).contains(&page_lsn(page))
        };
        bad.retain(|at| !excused(at));
        if !bad.is_empty() {
            self.rules.gave_up.fetch_add(1, Ordering::Relaxed);
        }
        Ok(bad.into_iter().map(|at| first + at as u64).collect())
    }

    /// Reads the page into its place in the chunk once more; whether it is still bad. A page that the file does not
    /// have any more was cut off by the server and is no damage.
    fn read_again(&self, file: &File, first: u64, at: usize, chunk: &mut [u8]) -> bool {
        let page_bytes = self.rules.page_bytes;
        let Some(page) = chunk.chunks_exact_mut(page_bytes).nth(at) else { return false };
        match file.read_exact_at(page, (first + at as u64) * page_bytes as u64) {
            Ok(()) => self.is_bad(first, at, page),
            Err(err) if err.kind() == io::ErrorKind::UnexpectedEof => {
                page.fill(0);
                false
            }
            // The disk gave the page a moment ago; what it gave stays, and counts as bad.
            Err(_) => true,
        }
    }

    fn is_bad(&self, first: u64, at: usize, page: &[u8]) -> bool {
        // A file has at most `segment_blocks` blocks, so the number fits; for one that is larger it wraps as in the
        // server.
        let within = u32::try_from((first + at as u64) & u64::from(u32::MAX)).unwrap_or_default();
        matches!(examine(page, self.first_block.wrapping_add(within)), PageState::Bad { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::io::Write as _;

    use common::pg::page_checksum::page_checksum;

    const PAGE: usize = 8192;
    const START: Lsn = Lsn(0x100);
    const REACHED: Lsn = Lsn(0x200);

    fn rules() -> PageRules {
        PageRules { page_bytes: PAGE, segment_blocks: 131_072, start: START, gave_up: AtomicU32::new(0) }
    }

    /// A page with this position and the right checksum as block `block` of its relation.
    fn page(lsn: Lsn, block: u32) -> Vec<u8> {
        let mut page = vec![7; PAGE];
        let (high, low) = (u32::try_from(lsn.0 >> 32).unwrap(), u32::try_from(lsn.0 & 0xFFFF_FFFF).unwrap());
        page[..4].copy_from_slice(&high.to_ne_bytes());
        page[4..8].copy_from_slice(&low.to_ne_bytes());
        let checksum = page_checksum(&page, block).unwrap();
        page[8..10].copy_from_slice(&checksum.to_ne_bytes());
        page
    }

    fn damaged(lsn: Lsn, block: u32) -> Vec<u8> {
        let mut page = page(lsn, block);
        page[5000] ^= 1;
        page
    }

    /// What a check of `chunk` answers when the file holds `on_disk`; and whether the server was asked.
    fn check(path: &str, chunk: &mut [u8], on_disk: &[u8]) -> (Vec<u64>, bool) {
        let rules = rules();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(on_disk).unwrap();
        let asked = Cell::new(false);
        let ask = || {
            asked.set(true);
            Ok(REACHED)
        };
        let check = rules.check_of(Path::new(path)).unwrap();
        let bad = check.check(&file, 0, chunk, &ask, &Cancel::default()).unwrap();
        (bad, asked.get())
    }

    #[test]
    fn only_relations_are_checked() {
        assert!(rules().check_of(Path::new("base/5/1259")).is_some());
        assert!(rules().check_of(Path::new("base/5/pg_filenode.map")).is_none());
        assert!(rules().check_of(Path::new("postgresql.conf")).is_none());
    }

    #[test]
    fn good_and_new_pages_ask_nobody() {
        let mut chunk = [page(Lsn(1), 0), vec![0; PAGE], page(Lsn(u64::MAX), 2), vec![1; 100]].concat();
        assert_eq!(check("base/5/1259", &mut chunk, &[]), (vec![], false));
    }

    #[test]
    fn the_blocks_of_later_segments_count_on() {
        let mut chunk = page(Lsn(1), 2 * 131_072);
        assert_eq!(check("base/5/1259.2", &mut chunk, &[]), (vec![], false));
        let disk = chunk.clone();
        assert_eq!(check("base/5/1259", &mut chunk, &disk), (vec![0], true));
    }

    #[test]
    fn a_page_that_was_being_written_is_read_again() {
        let disk = [page(Lsn(1), 0), page(Lsn(2), 1)].concat();
        let mut chunk = [page(Lsn(1), 0), damaged(Lsn(2), 1)].concat();
        assert_eq!(check("base/5/1259", &mut chunk, &disk), (vec![], false));
        assert_eq!(chunk, disk, "what is stored is what was read last");
    }

    #[test]
    fn a_page_that_was_cut_off_is_no_damage() {
        let mut chunk = [page(Lsn(1), 0), damaged(Lsn(2), 1)].concat();
        assert_eq!(check("base/5/1259", &mut chunk, &page(Lsn(1), 0)), (vec![], false));
        assert!(chunk[PAGE..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn the_position_excuses_only_what_replay_writes_anew() {
        let positions = [Lsn(START.0 - 1), START, REACHED, Lsn(REACHED.0 + 1), Lsn(u64::MAX)];
        let disk: Vec<u8> = (0..).zip(positions).flat_map(|(block, lsn)| damaged(lsn, block)).collect();
        let mut chunk = disk.clone();
        assert_eq!(check("base/5/1259", &mut chunk, &disk), (vec![0, 3, 4], true));
    }

    #[test]
    fn a_zeroed_header_hides_nothing() {
        let mut disk = page(Lsn(1), 0);
        disk[..24].fill(0);
        let mut chunk = disk.clone();
        assert_eq!(check("base/5/1259", &mut chunk, &disk).0, [0]);
    }
}
