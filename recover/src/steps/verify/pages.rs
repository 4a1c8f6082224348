//! Page checksums of a sample: relation files read from disk while the server may be writing them.
//!
//! Where to look is drawn by chance, each byte of all relations as likely as any other, from a seed that is told: the
//! same seed looks at the same places. A page that the server is writing, or has cut off, is no damage: a wrong one is
//! read again, with pauses, before it counts.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use common::pg::exclusions;
use common::pg::page_checksum::{PageState, examine};
use common::report::Cancel;
use common::sys::clock::{Deadline, poll};
use common::units::ByteCount;
use serde::Serialize;

/// What is read at one place, in bytes: a multiple of every page size.
const PLACE_BYTES: u64 = 1 << 20;

/// The pauses before a wrong page is read again.
const PAUSES: [Duration; 5] = [
    Duration::from_millis(20),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
];

/// How many wrong pages are named.
const NAMED_MAX: usize = 20;

/// How a cluster's relations lie in files.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    /// Bytes of a page.
    pub(crate) page_bytes: u32,
    /// Pages of a full file.
    pub(crate) file_blocks: u32,
}

/// What was looked at and found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Sampled {
    /// The seed that chose the places.
    pub(crate) seed: u64,
    /// Bytes of all relation files.
    pub(crate) total_bytes: u64,
    /// Bytes that were looked at.
    pub(crate) bytes: u64,
    /// Files that they lie in.
    pub(crate) files: u64,
    /// How many pages have a wrong checksum.
    pub(crate) bad: u64,
    /// The first of them: the file, relative to the data directory, and the block within it.
    pub(crate) first_bad: Vec<(PathBuf, u64)>,
}

impl Sampled {
    /// In words.
    pub(crate) fn describe(&self) -> String {
        let Self { seed, total_bytes, bytes, files, bad, .. } = self;
        let (seen, total) = (ByteCount(*bytes), ByteCount(*total_bytes));
        let good = match bad {
            0 => "right".to_owned(),
            count => format!("wrong on {count} pages"),
        };
        format!("checksums {good} in {seen} of {total} ({files} files, --sample-seed {seed})")
    }
}

/// Looks at up to `limit` bytes of the relations in `pgdata`.
pub(crate) fn sample(pgdata: &Path, layout: Layout, limit: u64, seed: u64, cancel: &Cancel) -> anyhow::Result<Sampled> {
    let mut sampled = Sampled { seed, ..Sampled::default() };
    each_file(pgdata, &mut |_, size| {
        sampled.total_bytes += size;
        Ok(())
    })?;
    let everything = limit >= sampled.total_bytes;
    let places = if everything { Vec::new() } else { draw(sampled.total_bytes, limit, seed) };
    let mut next = places.into_iter().peekable();
    let mut before = 0_u64;
    let mut buffer = vec![0; usize::try_from(PLACE_BYTES).unwrap_or_default()];
    each_file(pgdata, &mut |relative, size| {
        cancel.check()?;
        let end = before.saturating_add(size);
        let mut looked = None;
        let mut look_at = |at: u64| {
            if looked.is_none_or(|last| last < at) {
                sampled.files += u64::from(looked.is_none());
                looked = Some(at);
                look(pgdata, relative, at, layout, &mut buffer, &mut sampled, cancel)?;
            }
            anyhow::Ok(())
        };
        if everything {
            (0..size.div_ceil(PLACE_BYTES)).try_for_each(|number| look_at(number * PLACE_BYTES))?;
        }
        while let Some(place) = next.next_if(|place| *place < end) {
            look_at(place.saturating_sub(before) / PLACE_BYTES * PLACE_BYTES)?;
        }
        before = end;
        Ok(())
    })?;
    Ok(sampled)
}

/// Places among `total` bytes, in order, where together about `limit` bytes are read.
fn draw(total: u64, limit: u64, seed: u64) -> Vec<u64> {
    let count = if total == 0 { 0 } else { limit.div_ceil(PLACE_BYTES) };
    let mut random = fastrand::Rng::with_seed(seed);
    let mut places: Vec<u64> = (0..count).map(|_| random.u64(0..total)).collect();
    places.sort_unstable();
    places
}

/// Reads one place of a file and counts the pages that are wrong. A file that is gone was dropped.
fn look(
    pgdata: &Path,
    relative: &Path,
    at: u64,
    layout: Layout,
    buffer: &mut [u8],
    sampled: &mut Sampled,
    cancel: &Cancel,
) -> anyhow::Result<()> {
    let path = pgdata.join(relative);
    let file = match File::open(&path) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(()),
        file => file.with_context(|| format!("read {}", path.display()))?,
    };
    let count = read_at(&file, buffer, at).with_context(|| format!("read {}", path.display()))?;
    let bytes = buffer.get(..count).unwrap_or_default();
    sampled.bytes += count as u64;
    let page_bytes = usize::try_from(layout.page_bytes).unwrap_or(usize::MAX);
    let segment = relative.file_name().and_then(exclusions::parse_relation_file).map_or(0, |file| file.segment);
    let first = at / u64::from(layout.page_bytes.max(1));
    for (number, page) in (first..).zip(bytes.chunks_exact(page_bytes)) {
        let block = segment.wrapping_mul(layout.file_blocks).wrapping_add(u32::try_from(number).unwrap_or(u32::MAX));
        if is_bad(page, block) && stays_bad(&file, number * page_bytes as u64, page_bytes, block, cancel)? {
            sampled.bad += 1;
            if sampled.first_bad.len() < NAMED_MAX {
                sampled.first_bad.push((relative.to_path_buf(), number));
            }
        }
    }
    Ok(())
}

fn is_bad(page: &[u8], block: u32) -> bool {
    matches!(examine(page, block), PageState::Bad { .. })
}

/// Whether the page is wrong each time that it is read. One that the file does not have any more was cut off.
fn stays_bad(file: &File, at: u64, page_bytes: usize, block: u32, cancel: &Cancel) -> anyhow::Result<bool> {
    let mut page = vec![0; page_bytes];
    for pause in PAUSES {
        poll(Deadline::after(pause), pause, cancel, || Ok(None::<()>))?;
        let count = read_at(file, &mut page, at)?;
        if count < page_bytes || !is_bad(&page, block) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Fills the buffer from there on; fewer bytes where the file ends.
fn read_at(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut done = 0;
    while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, at + done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(err),
        }
    }
    Ok(done)
}

/// Every relation file with its size, always in the same order. What vanishes meanwhile is passed over.
fn each_file(pgdata: &Path, act: &mut dyn FnMut(&Path, u64) -> anyhow::Result<()>) -> anyhow::Result<()> {
    for root in ["global", "base", "pg_tblspc"] {
        walk(pgdata, Path::new(root), act)?;
    }
    Ok(())
}

/// Whether relations lie in or below this directory. What else lies in a tablespace's place is not the server's.
fn leads_to_relations(relative: &Path) -> bool {
    let components: Vec<_> = relative.iter().map(|part| part.to_string_lossy()).collect();
    match &components[..] {
        [root, _] if root == "pg_tblspc" => true,
        [root, _, version] if root == "pg_tblspc" => version.starts_with("PG_"),
        _ => exclusions::is_relation_directory(relative),
    }
}

fn walk(pgdata: &Path, relative: &Path, act: &mut dyn FnMut(&Path, u64) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let reading = || format!("read {}", pgdata.join(relative).display());
    let entries = match std::fs::read_dir(pgdata.join(relative)) {
        Err(err) if matches!(err.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(()),
        entries => entries.with_context(reading)?,
    };
    let mut names: Vec<_> =
        entries.map(|entry| entry.map(|entry| entry.file_name())).collect::<Result<_, _>>().with_context(reading)?;
    names.sort_unstable();
    for name in names {
        let path = relative.join(name);
        if exclusions::has_page_checksums(&path) {
            if let Ok(metadata) = std::fs::metadata(pgdata.join(&path)) {
                act(&path, metadata.len())?;
            }
        } else if leads_to_relations(&path) && pgdata.join(&path).is_dir() {
            walk(pgdata, &path, act)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::pg::page_checksum::page_checksum;
    use common::sys::durable;
    use proptest::prelude::*;

    const PAGE: usize = 8192;

    const LAYOUT: Layout = Layout { page_bytes: 8192, file_blocks: 131_072 };

    /// A file of pages with the right checksums, from this block of its relation on.
    fn pages(count: u32, first: u32) -> Vec<u8> {
        (first..first + count)
            .flat_map(|block| {
                let mut page = vec![7; PAGE];
                let checksum = page_checksum(&page, block).unwrap();
                page[8..10].copy_from_slice(&checksum.to_ne_bytes());
                page
            })
            .collect()
    }

    fn cluster() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["global", "base/5", "pg_tblspc"] {
            std::fs::create_dir_all(dir.path().join(folder)).unwrap();
        }
        let write = |name: &str, bytes: &[u8]| durable::replace(&dir.path().join(name), bytes, 0o600).unwrap();
        write("base/5/16384", &pages(300, 0));
        write("base/5/16384.1", &pages(3, LAYOUT.file_blocks));
        write("base/5/16385", &pages(1, 0));
        write("base/5/t3_16386", b"nonsense");
        write("base/5/PG_VERSION", b"15\n");
        std::fs::create_dir_all(dir.path().join("pg_tblspc/16400/lost+found/5")).unwrap();
        write("pg_tblspc/16400/lost+found/5/16401", b"nonsense");
        write("global/1262", &pages(2, 0));
        dir
    }

    fn look_at(dir: &Path, limit: u64, seed: u64) -> Sampled {
        sample(dir, LAYOUT, limit, seed, &Cancel::default()).unwrap()
    }

    #[test]
    fn all_is_looked_at_where_the_limit_allows() {
        let dir = cluster();
        let sampled = look_at(dir.path(), u64::MAX, 1);
        assert_eq!((sampled.files, sampled.bytes, sampled.bad), (4, 306 * PAGE as u64, 0));
        assert_eq!(sampled.bytes, sampled.total_bytes);
        assert_eq!(look_at(dir.path(), 0, 1).bytes, 0);
    }

    #[test]
    fn a_wrong_page_is_named() {
        let dir = cluster();
        let path = dir.path().join("base/5/16384");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[130 * PAGE + 5000] ^= 1;
        durable::replace(&path, &bytes, 0o600).unwrap();
        let sampled = look_at(dir.path(), u64::MAX, 1);
        assert_eq!((sampled.bad, sampled.first_bad), (1, vec![("base/5/16384".into(), 130)]));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20))]
        #[test]
        fn the_same_seed_looks_at_the_same(seed: u64, limit in 1_u64..1 << 21) {
            let dir = cluster();
            let sampled = look_at(dir.path(), limit, seed);
            prop_assert_eq!(&sampled, &look_at(dir.path(), limit, seed));
            prop_assert!(sampled.bytes > 0 && sampled.bytes <= limit.next_multiple_of(PLACE_BYTES) + PLACE_BYTES);
        }

        #[test]
        fn places_are_in_order_and_inside(total: u64, limit in 0_u64..1 << 30, seed: u64) {
            let places = draw(total, limit, seed);
            prop_assert!(places.is_sorted());
            prop_assert!(places.iter().all(|place| *place < total));
        }
    }
}
