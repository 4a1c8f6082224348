//! Divides the files of a backup into parts.
//!
//! A part is what one worker copies and what one restore job unpacks. Pure and deterministic: the same files and the
//! same number of workers give the same parts.

use crate::scan::ScannedFile;

/// No part is closed for its size below this, whatever the database's size: fewer, larger objects are cheaper.
const PART_BYTES_MIN: u64 = 64 << 20;

/// Every part is closed at the first end of a file above this.
const PART_BYTES_MAX: u64 = 1 << 30;

/// How many parts each worker should have at least, so that none is left alone with the rest.
const PARTS_PER_JOB: u64 = 4;

/// A part has no more files than this: what is known of them is kept until the index is written.
const PART_FILES_MAX: usize = 4096;

/// A part that is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    /// Counted from 1.
    pub(crate) number: u32,
    /// Its files in the order in which they are written.
    pub(crate) files: Vec<ScannedFile>,
}

/// The parts that these files make, at least one, in the order in which they are to be copied.
///
/// A file as large as a part is has a part of its own; these come first, the largest at the very beginning, since
/// they decide when the last worker is done. The rest keep their order.
pub(crate) fn parts(mut files: Vec<ScannedFile>, jobs: usize) -> Vec<Part> {
    let total = files.iter().fold(0_u64, |sum, file| sum.saturating_add(file.size));
    let limit = part_limit(total, jobs);
    let mut large: Vec<_> = files.extract_if(.., |file| file.size >= limit).collect();
    // Stable: files of one size keep their order.
    large.sort_by_key(|file| std::cmp::Reverse(file.size));
    let mut groups: Vec<Vec<ScannedFile>> = large.into_iter().map(|file| vec![file]).collect();
    let only_small = groups.len();
    // Taken from the end, and given back at once: there can be millions of files, and they are never in memory twice.
    for start in starts_of_groups(&files, limit).into_iter().rev() {
        groups.push(files.split_off(start));
        files.shrink_to_fit();
    }
    groups.get_mut(only_small..).unwrap_or_default().reverse();
    if groups.is_empty() {
        groups.push(Vec::new());
    }
    (1..).zip(groups).map(|(number, files)| Part { number, files }).collect()
}

/// Where each group of files begins; all of them are below the limit.
fn starts_of_groups(files: &[ScannedFile], limit: u64) -> Vec<usize> {
    let mut starts = Vec::new();
    let (mut bytes, mut count) = (limit, 0);
    for (index, file) in files.iter().enumerate() {
        if bytes >= limit || count >= PART_FILES_MAX {
            starts.push(index);
            (bytes, count) = (0, 0);
        }
        bytes = bytes.saturating_add(file.size);
        count += 1;
    }
    starts
}

/// How many bytes of files close a part.
fn part_limit(total: u64, jobs: usize) -> u64 {
    let jobs = u64::try_from(jobs).unwrap_or(u64::MAX).max(1);
    (total / jobs.saturating_mul(PARTS_PER_JOB)).clamp(PART_BYTES_MIN, PART_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::repo::index::RelativePath;
    use proptest::prelude::*;
    use rstest::rstest;

    const MIB: u64 = 1 << 20;

    fn file(name: usize, size: u64) -> ScannedFile {
        ScannedFile { path: RelativePath::new(name.to_string()).unwrap(), size }
    }

    fn sizes(sizes: &[u64], jobs: usize) -> Vec<Vec<u64>> {
        let files = sizes.iter().enumerate().map(|(name, size)| file(name, *size)).collect();
        parts(files, jobs).iter().map(|part| part.files.iter().map(|file| file.size).collect()).collect()
    }

    #[rstest]
    #[case(0, 1, 64 * MIB)]
    #[case(1 << 30, 0, 256 * MIB)]
    #[case(1 << 30, 2, 128 * MIB)]
    #[case(1 << 30, 64, 64 * MIB)]
    #[case(1 << 40, 4, 1 << 30)]
    #[case(u64::MAX, usize::MAX, 64 * MIB)]
    fn parts_have_a_sensible_size(#[case] total: u64, #[case] jobs: usize, #[case] expected: u64) {
        assert_eq!(part_limit(total, jobs), expected);
    }

    #[test]
    fn no_files_are_one_empty_part() {
        assert_eq!(parts(Vec::new(), 4), [Part { number: 1, files: Vec::new() }]);
    }

    #[test]
    fn large_files_come_first_and_alone() {
        let given = [10 * MIB, 100 * MIB, 20 * MIB, 300 * MIB, 1];
        assert_eq!(sizes(&given, 2), [vec![300 * MIB], vec![100 * MIB], vec![10 * MIB, 20 * MIB, 1]]);
    }

    #[test]
    fn a_part_closes_behind_the_file_that_fills_it() {
        assert_eq!(sizes(&[40 * MIB; 5], 1), [vec![40 * MIB; 2], vec![40 * MIB; 2], vec![40 * MIB]]);
    }

    #[test]
    fn many_small_files_do_not_share_one_part() {
        let counts: Vec<usize> = sizes(&vec![0; PART_FILES_MAX + 1], 1).iter().map(Vec::len).collect();
        assert_eq!(counts, [PART_FILES_MAX, 1]);
    }

    proptest! {
        #[test]
        fn every_file_is_in_exactly_one_part(
            given in proptest::collection::vec(prop_oneof![0..100_u64, 0..200 * MIB, any::<u64>()], 0..200),
            jobs in 0..300_usize,
        ) {
            let files: Vec<_> = given.iter().enumerate().map(|(name, size)| file(name, *size)).collect();
            let parts = parts(files.clone(), jobs);
            let numbers: Vec<u32> = parts.iter().map(|part| part.number).collect();
            prop_assert_eq!(numbers, (1..=u32::try_from(parts.len()).unwrap()).collect::<Vec<_>>());
            let limit = part_limit(given.iter().fold(0, |sum: u64, size| sum.saturating_add(*size)), jobs);
            for part in &parts {
                let before_last = part.files.iter().rev().skip(1).map(|file| file.size).sum::<u64>();
                prop_assert!(before_last < limit);
                prop_assert!(part.files.len() <= PART_FILES_MAX);
            }
            let mut planned: Vec<_> = parts.into_iter().flat_map(|part| part.files).collect();
            planned.sort_by_key(|file| file.path.display().parse::<usize>().unwrap());
            prop_assert_eq!(planned, files);
        }
    }
}
