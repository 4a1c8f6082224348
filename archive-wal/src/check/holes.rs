//! What a repository lacks of a server's WAL, by names alone. Pure.
//!
//! Only the way that a recovery to this server would take is looked at ([`Route`]): at each place the segment of the newest
//! timeline that had begun there. So the half-written last segment of a timeline that was left is never wanted, nor is a
//! recycled file, whose name lies ahead of what is finished.

use std::collections::BTreeSet;

use common::pg::{ArchiveName, Lsn, TimelineId, WalSegmentName};
use common::repo::chain::{Inventory, Route};
use common::restore::salvage::Tail;

/// What is known of the server.
pub(crate) struct View<'a> {
    /// The way to where it writes.
    pub(crate) route: Route,
    /// Segments with lower numbers are finished.
    pub(crate) finished: u64,
    /// Whether it is in recovery: then its primary archives, and what comes last may be on its way.
    pub(crate) standby: bool,
    /// What waits for its archiver, which is late and not lost.
    pub(crate) waiting: BTreeSet<ArchiveName>,
    /// What its `pg_wal` holds.
    pub(crate) tail: &'a Tail,
}

/// A file that a repository lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Missing {
    /// Which one.
    pub(crate) name: ArchiveName,
    /// Whether the server's `pg_wal` has it.
    pub(crate) here: bool,
    /// Whether the server's archiver will bring it, or it lies before what the repository ever had.
    pub(crate) expected: bool,
}

impl View<'_> {
    /// The position after the newest archived segment on the way.
    pub(crate) fn end(&self, inventory: &Inventory) -> Option<Lsn> {
        let last = self.archived(inventory).filter_map(|(_, last)| last).max()?;
        Some(Lsn((last + 1).saturating_mul(self.route.segment_size().bytes())))
    }

    /// Everything that a recovery along the way would look for in vain: histories first, then segments from the oldest.
    ///
    /// Segments count from the first that the repository has on the way, or that `pg_wal` has, to the last that is
    /// finished; of a standby to the last that the repository has, but for what `pg_wal` has.
    pub(crate) fn missing(&self, inventory: &Inventory) -> Vec<Missing> {
        let histories = self.timelines().filter(|timeline| timeline.0 > 1 && !inventory.has_history(*timeline));
        let mut missing: Vec<Missing> = histories.map(|timeline| self.history(timeline)).collect();
        let archived_first = self.archived(inventory).filter_map(|(first, _)| first).min();
        let here: Vec<u64> = self.here().collect();
        let Some(first) = archived_first.into_iter().chain(here.first().copied()).min() else { return missing };
        let archived_end = self.archived(inventory).filter_map(|(_, last)| last).max().map_or(0, |last| last + 1);
        let end = if self.standby { archived_end.max(here.last().map_or(0, |last| last + 1)) } else { self.finished };
        for number in first..end.min(self.finished) {
            let segment = self.route.segment(number);
            if !inventory.has(segment) {
                let name = ArchiveName::Segment(segment);
                let before = archived_first.is_none_or(|first| number < first);
                let behind = self.standby && number >= archived_end;
                let expected = before || behind || self.waiting.contains(&name);
                missing.push(Missing { name, here: here.binary_search(&number).is_ok(), expected });
            }
        }
        missing
    }

    fn history(&self, timeline: TimelineId) -> Missing {
        let name = ArchiveName::History(timeline);
        let here = self.tail.histories.iter().any(|history| history.timeline == timeline);
        Missing { name, here, expected: self.waiting.contains(&name) }
    }

    /// The timelines of the way, the oldest first.
    fn timelines(&self) -> impl Iterator<Item = TimelineId> + '_ {
        let history = self.route.history();
        history.ancestors.iter().map(|entry| entry.timeline).chain([history.timeline])
    }

    /// The finished segments of the way in `pg_wal`, by number, ascending.
    fn here(&self) -> impl Iterator<Item = u64> + '_ {
        let size = self.route.segment_size();
        let number =
            move |name: &WalSegmentName| name.number(size).filter(|number| self.route.segment(*number) == *name);
        // One number has one name on the way, and names of the way have the order of numbers.
        self.tail.segments.iter().filter_map(number).filter(|number| *number < self.finished)
    }

    /// The first and the last archived segment of each timeline of the way, as far as they are on it, by number.
    fn archived<'a>(&'a self, inventory: &'a Inventory) -> impl Iterator<Item = (Option<u64>, Option<u64>)> + 'a {
        let size = self.route.segment_size();
        self.timelines().filter_map(move |timeline| {
            let (first, last) = inventory.bounds(timeline)?;
            let (first, last) = (first.number(size)?, last.number(size)?);
            let on_the_way = |number: &u64| {
                inventory.has(self.route.segment(*number)) && self.route.segment(*number).timeline == timeline
            };
            Some(((first..=last).find(on_the_way), (first..=last).rev().find(on_the_way)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::pg::{SegmentSize, TimelineHistory};
    use rstest::rstest;

    const SIZE: SegmentSize = SegmentSize::DEFAULT;

    /// `1/4 2/8` are segments, `2.history` is a history of the sample way: 1 up to the middle of 7, then 2.
    fn inventory(names: &str) -> Inventory {
        let mut inventory = Inventory::new(SIZE);
        let tail = tail(names);
        tail.add_to(&mut inventory);
        inventory
    }

    fn way() -> TimelineHistory {
        TimelineHistory::parse(TimelineId(2), b"1\t0/7800000\tx\n").unwrap()
    }

    fn tail(names: &str) -> Tail {
        let mut tail = Tail::default();
        for name in names.split_whitespace() {
            match name.split_once('/') {
                Some((timeline, number)) => tail.segments.push(WalSegmentName::numbered(
                    TimelineId(timeline.parse().unwrap()),
                    number.parse().unwrap(),
                    SIZE,
                )),
                None => tail.histories.push(way()),
            }
        }
        tail.segments.sort_unstable();
        tail
    }

    fn shown(missing: &[Missing]) -> String {
        let one = |missing: &Missing| {
            let name = match missing.name {
                ArchiveName::Segment(name) => format!("{}/{}", name.timeline, name.number(SIZE).unwrap()),
                other => other.to_string(),
            };
            format!("{name}{}{}", if missing.here { "+" } else { "-" }, if missing.expected { "?" } else { "" })
        };
        missing.iter().map(one).collect::<Vec<_>>().join(" ")
    }

    #[rstest]
    #[case::nothing_at_all("", "", "", 5, "00000002.history-")]
    #[case::all_there("2.history 1/5 1/6 2/7 2/8", "", "", 9, "")]
    #[case::the_failover_hole("2.history 1/3 1/4 2/8", "1/5 1/6 2/7 2/8 2.history", "", 9, "1/5+ 1/6+ 2/7+")]
    #[case::half_of_it_is_gone("2.history 1/3 2/8", "1/6 2/7", "", 9, "1/4- 1/5- 1/6+ 2/7+")]
    #[case::nothing_of_the_child_yet(
        "1/3",
        "1/4 1/5 1/6 2/7 2.history",
        "2/7",
        8,
        "00000002.history+ 1/4+ 1/5+ 1/6+ 2/7+?"
    )]
    #[case::late_is_not_lost("2.history 1/6 2/8", "2/7 2/9", "2/7 2/9", 10, "2/7+? 2/9+?")]
    #[case::the_current_one("2.history 2/8", "2/9 2/10", "", 9, "")]
    #[case::the_parents_last("2.history 1/6 2/7 2/8", "1/7 1/8 1/9", "", 9, "")]
    #[case::before_the_first("2.history 2/8", "1/5 1/6", "", 9, "1/5+? 1/6+? 2/7-?")]
    #[case::an_empty_repository("2.history", "1/5 1/6 2/7 2/8", "2/8", 9, "1/5+? 1/6+? 2/7+? 2/8+?")]
    fn a_primary(
        #[case] archived: &str,
        #[case] here: &str,
        #[case] waiting: &str,
        #[case] finished: u64,
        #[case] expected: &str,
    ) {
        let here = tail(here);
        let waiting = tail(waiting).segments.into_iter().map(ArchiveName::Segment).collect();
        let view = View { route: Route::new(way(), SIZE), finished, standby: false, waiting, tail: &here };
        assert_eq!(shown(&view.missing(&inventory(archived))), expected);
    }

    #[rstest]
    #[case::on_its_way("1/3 1/4", "1/3 1/4 1/5", 6, "1/5+?")]
    #[case::a_hole("1/3 1/5", "1/4 1/5", 6, "1/4+")]
    #[case::received_in_part("1/3", "1/4", 4, "")]
    fn a_standby(#[case] archived: &str, #[case] here: &str, #[case] finished: u64, #[case] expected: &str) {
        let here = tail(here);
        let route = Route::new(TimelineHistory::root(TimelineId(1)), SIZE);
        let view = View { route, finished, standby: true, waiting: BTreeSet::new(), tail: &here };
        assert_eq!(shown(&view.missing(&inventory(archived))), expected);
    }

    #[test]
    fn the_end_is_that_of_the_newest_on_the_way() {
        let here = Tail::default();
        let view =
            View { route: Route::new(way(), SIZE), finished: 9, standby: false, waiting: BTreeSet::new(), tail: &here };
        assert_eq!(view.end(&inventory("1/5 1/9")), Some(Lsn(6 * SIZE.bytes())));
        assert_eq!(view.end(&inventory("1/5 2/7")), Some(Lsn(8 * SIZE.bytes())));
        assert_eq!(view.end(&inventory("")), None);
    }
}
