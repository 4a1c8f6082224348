//! Which segments a server will ask for next. Pure.

use common::pg::{SegmentSize, TimelineHistory, TimelineId, WalSegmentName};

/// The `count` places in the WAL after `segment` on the way of `history`; for each the segments that may hold it, in the
/// order in which PostgreSQL asks for them (`XLogFileReadAnyTLI` in `src/backend/access/transam/xlogrecovery.c`): the
/// newest timeline that has begun by its end first, never an older timeline than the last segment's.
pub(crate) fn after(
    segment: WalSegmentName,
    history: &TimelineHistory,
    size: SegmentSize,
    count: u64,
) -> Vec<Vec<WalSegmentName>> {
    let Some(number) = segment.number(size) else { return Vec::new() };
    (1..=count)
        .filter_map(|ahead| number.checked_add(ahead))
        .map(|number| on_the_way(number, segment.timeline, history, size))
        .collect()
}

fn on_the_way(number: u64, oldest: TimelineId, history: &TimelineHistory, size: SegmentSize) -> Vec<WalSegmentName> {
    // A timeline begins where the one before it was left, the first at 0.
    let begins = std::iter::once(0).chain(history.ancestors.iter().map(|entry| entry.switch.0));
    let timelines = history.ancestors.iter().map(|entry| entry.timeline).chain([history.timeline]);
    let begun = |(timeline, begin): (TimelineId, u64)| {
        (timeline >= oldest && begin / size.bytes() <= number).then_some(timeline)
    };
    let mut names: Vec<WalSegmentName> = timelines
        .zip(begins)
        .filter_map(begun)
        .map(|timeline| WalSegmentName::numbered(timeline, number, size))
        .collect();
    names.reverse();
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    const SIZE: SegmentSize = SegmentSize::DEFAULT;

    fn names(lists: &[Vec<WalSegmentName>]) -> Vec<Vec<String>> {
        lists.iter().map(|names| names.iter().map(ToString::to_string).collect()).collect()
    }

    fn history(text: &str) -> TimelineHistory {
        TimelineHistory::parse(TimelineId(3), text.as_bytes()).unwrap()
    }

    #[test]
    fn goes_on_along_one_timeline() {
        let last = WalSegmentName::parse("0000000100000000000000FE").unwrap();
        let found = after(last, &TimelineHistory::root(TimelineId(1)), SIZE, 2);
        assert_eq!(names(&found), [["0000000100000000000000FF"], ["000000010000000100000000"]]);
    }

    /// Timeline 2 forks off in segment 5, timeline 3 in segment 6.
    #[rstest]
    #[case("000000010000000000000003", &["000000010000000000000004"])]
    #[case("000000010000000000000004", &["000000020000000000000005", "000000010000000000000005"])]
    #[case("000000020000000000000005", &["000000030000000000000006", "000000020000000000000006"])]
    #[case("000000030000000000000006", &["000000030000000000000007"])]
    fn follows_the_history(#[case] last: &str, #[case] expected: &[&str]) {
        let way = history("1\t0/5000028\tx\n2\t0/6000028\tx\n");
        let found = after(WalSegmentName::parse(last).unwrap(), &way, SIZE, 1);
        assert_eq!(names(&found), [expected]);
    }

    proptest! {
        #[test]
        fn never_more_than_asked_for(number in 0..u64::from(u32::MAX), count in 0_u64..20, size in 20_u32..=30) {
            let size = SegmentSize::new(1 << size).unwrap();
            let last = WalSegmentName::numbered(TimelineId(1), number % (size.per_log() << 20), size);
            let found = after(last, &history("1\t0/5000028\tx\n2\t0/6000028\tx\n"), size, count);
            prop_assert_eq!(found.len() as u64, count);
            for (ahead, names) in found.iter().enumerate() {
                for name in names {
                    prop_assert_eq!(name.number(size).unwrap(), last.number(size).unwrap() + ahead as u64 + 1);
                }
            }
        }
    }
}
