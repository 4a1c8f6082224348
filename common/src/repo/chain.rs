//! Which moments the archived WAL reaches, and where its holes are. Pure: names in, answers out.
//!
//! The rule for which timeline's segment a recovery reads is PostgreSQL's own (`XLogFileReadAnyTLI` in
//! `src/backend/access/transam/xlogrecovery.c`): the newest timeline of the history that had begun by that segment. A
//! segment in which a timeline forks off is read from the child; its copy holds the parent's records up to the fork.

use std::collections::{BTreeMap, BTreeSet};

use crate::pg::{Lsn, SegmentSize, TimelineHistory, TimelineId, WalSegmentName};

/// What there is of one system's WAL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inventory {
    size: SegmentSize,
    segments: BTreeMap<TimelineId, Runs>,
    histories: BTreeMap<TimelineId, TimelineHistory>,
    abandoned: BTreeSet<TimelineId>,
}

/// Segment numbers as runs without gaps: first to last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Runs(BTreeMap<u64, u64>);

impl Runs {
    fn add(&mut self, number: u64) {
        if self.run_with(number).is_some() {
            return;
        }
        let mut first = number;
        let mut last = number;
        if let Some((before, _)) = number.checked_sub(1).and_then(|previous| self.run_with(previous)) {
            first = before;
        }
        if let Some(end) = number.checked_add(1).and_then(|next| self.0.remove(&next)) {
            last = end;
        }
        self.0.insert(first, last);
    }

    /// The run that holds this number.
    fn run_with(&self, number: u64) -> Option<(u64, u64)> {
        self.0.range(..=number).next_back().map(|(first, last)| (*first, *last)).filter(|(_, last)| number <= *last)
    }

    fn first(&self) -> Option<u64> {
        self.0.first_key_value().map(|(first, _)| *first)
    }

    fn last(&self) -> Option<u64> {
        self.0.last_key_value().map(|(_, last)| *last)
    }
}

impl Inventory {
    /// An inventory with nothing in it.
    pub fn new(size: SegmentSize) -> Self {
        Self { size, segments: BTreeMap::new(), histories: BTreeMap::new(), abandoned: BTreeSet::new() }
    }

    /// The size of the segments.
    pub fn segment_size(&self) -> SegmentSize {
        self.size
    }

    /// Notes a whole segment. A name that has no position at this segment size is passed over. Twice is once.
    pub fn add_segment(&mut self, name: WalSegmentName) {
        if let Some(number) = name.number(self.size) {
            self.segments.entry(name.timeline).or_default().add(number);
        }
    }

    /// Notes a timeline's history.
    pub fn add_history(&mut self, history: TimelineHistory) {
        self.histories.insert(history.timeline, history);
    }

    /// Notes that nobody follows this timeline any more.
    pub fn abandon(&mut self, timeline: TimelineId) {
        self.abandoned.insert(timeline);
    }

    /// Whether the segment is there.
    pub fn has(&self, name: WalSegmentName) -> bool {
        name.number(self.size)
            .zip(self.segments.get(&name.timeline))
            .is_some_and(|(number, runs)| runs.run_with(number).is_some())
    }

    /// All timelines that are known by a segment or a history, in order.
    pub fn timelines(&self) -> BTreeSet<TimelineId> {
        self.segments.keys().chain(self.histories.keys()).copied().collect()
    }

    /// The first and last segment of a timeline.
    pub fn bounds(&self, timeline: TimelineId) -> Option<(WalSegmentName, WalSegmentName)> {
        let runs = self.segments.get(&timeline)?;
        let name = |number| WalSegmentName::numbered(timeline, number, self.size);
        Some((name(runs.first()?), name(runs.last()?)))
    }

    /// The segments missing between the first and the last one of a timeline: first and last of each hole.
    pub fn holes(&self, timeline: TimelineId) -> Vec<(WalSegmentName, WalSegmentName)> {
        let Some(runs) = self.segments.get(&timeline) else { return Vec::new() };
        let name = |number| WalSegmentName::numbered(timeline, number, self.size);
        let runs: Vec<(u64, u64)> = runs.0.iter().map(|(first, last)| (*first, *last)).collect();
        let gap = |pair: &[(u64, u64)]| match pair {
            [(_, end), (begin, _)] => Some((name(end + 1), name(begin - 1))),
            _ => None,
        };
        runs.windows(2).filter_map(gap).collect()
    }

    /// The history of a timeline: the archived one; for a timeline without one, a history without ancestors.
    pub fn history(&self, timeline: TimelineId) -> TimelineHistory {
        self.histories.get(&timeline).cloned().unwrap_or_else(|| TimelineHistory::root(timeline))
    }

    /// Whether the timeline's history file is known.
    pub fn has_history(&self, timeline: TimelineId) -> bool {
        self.histories.contains_key(&timeline)
    }

    /// Whether a recovery onto this timeline was rolled back.
    pub fn is_abandoned(&self, timeline: TimelineId) -> bool {
        self.abandoned.contains(&timeline)
    }

    /// The timelines that a backup taken on `timeline` and complete at `stop` can be recovered along, oldest first;
    /// abandoned ones are left out, but never the backup's own.
    pub fn descendants(&self, timeline: TimelineId, stop: Lsn) -> Vec<TimelineId> {
        let follows = |candidate: &TimelineId| {
            *candidate == timeline
                || (!self.is_abandoned(*candidate)
                    && self.history(*candidate).switch_of(timeline).is_some_and(|switch| stop <= switch))
        };
        let mut found: BTreeSet<TimelineId> = self.timelines().into_iter().filter(follows).collect();
        found.insert(timeline);
        found.into_iter().collect()
    }
}

/// The way of a recovery through the WAL: along one timeline's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    history: TimelineHistory,
    size: SegmentSize,
}

impl Route {
    /// The way to this history's timeline.
    pub fn new(history: TimelineHistory, size: SegmentSize) -> Self {
        Self { history, size }
    }

    /// The history that the way follows.
    pub fn history(&self) -> &TimelineHistory {
        &self.history
    }

    /// The size of the segments.
    pub fn segment_size(&self) -> SegmentSize {
        self.size
    }

    /// The segment that PostgreSQL reads at this number.
    pub fn segment(&self, number: u64) -> WalSegmentName {
        let mut timeline = self.history.timeline;
        for ancestor in self.history.ancestors.iter().rev() {
            if number >= ancestor.switch.0 / self.size.bytes() {
                break;
            }
            timeline = ancestor.timeline;
        }
        WalSegmentName::numbered(timeline, number, self.size)
    }

    /// The names of all segments with bytes from `from` up to `to`, in order.
    pub fn segments(&self, from: Lsn, to: Lsn) -> impl Iterator<Item = WalSegmentName> + '_ {
        let first = from.0 / self.size.bytes();
        let end = to.0.div_ceil(self.size.bytes()).max(first);
        (first..end).map(|number| self.segment(number))
    }

    /// The first segment missing on the way from `from` up to `to`.
    pub fn first_missing(&self, inventory: &Inventory, from: Lsn, to: Lsn) -> Option<WalSegmentName> {
        self.segments(from, to).find(|name| !inventory.has(*name))
    }

    /// How far the WAL reaches from `from` on without a hole: the position after the last segment's end, or `from`
    /// itself when the very first segment is missing.
    pub fn reaches(&self, inventory: &Inventory, from: Lsn) -> Lsn {
        let first = from.0 / self.size.bytes();
        // No name stands for a segment beyond the last position.
        let end = (first..=u64::MAX / self.size.bytes()).find(|number| !inventory.has(self.segment(*number)));
        match end {
            Some(end) if end == first => from,
            Some(end) => Lsn(end.saturating_mul(self.size.bytes())),
            None => Lsn(u64::MAX),
        }
    }

    /// Whether segments of this way exist beyond `position`: then what is missing there is a hole, not the end.
    pub fn continues_after(&self, inventory: &Inventory, position: Lsn) -> bool {
        let number = position.0 / self.size.bytes();
        self.history
            .ancestors
            .iter()
            .map(|entry| entry.timeline)
            .chain([self.history.timeline])
            .filter_map(|timeline| inventory.segments.get(&timeline).and_then(Runs::last).map(|last| (timeline, last)))
            .any(|(timeline, last)| last > number && self.segment(last).timeline == timeline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const SIZE: SegmentSize = SegmentSize::DEFAULT;
    const SEG: u64 = 16 << 20;

    fn inventory(segments: &[(u32, std::ops::RangeInclusive<u64>)]) -> Inventory {
        let mut inventory = Inventory::new(SIZE);
        for (timeline, numbers) in segments {
            for number in numbers.clone() {
                inventory.add_segment(WalSegmentName::numbered(TimelineId(*timeline), number, SIZE));
            }
        }
        inventory
    }

    fn history(timeline: u32, text: &str) -> TimelineHistory {
        TimelineHistory::parse(TimelineId(timeline), text.as_bytes()).unwrap()
    }

    #[test]
    fn the_segment_of_a_fork_is_read_from_the_child() {
        let route = Route::new(history(3, "1\t0/3500000\tx\n2\t0/6000000\ty\n"), SIZE);
        let timelines: Vec<u32> = (1..8).map(|number| route.segment(number).timeline.0).collect();
        assert_eq!(timelines, [1, 1, 2, 2, 2, 3, 3]);
    }

    #[test]
    fn finds_the_hole_and_the_end() {
        let inventory = inventory(&[(1, 1..=4), (1, 6..=7)]);
        let route = Route::new(TimelineHistory::root(TimelineId(1)), SIZE);
        assert_eq!(route.reaches(&inventory, Lsn(SEG + 40)), Lsn(5 * SEG));
        assert_eq!(route.reaches(&inventory, Lsn(9 * SEG + 40)), Lsn(9 * SEG + 40));
        assert!(route.continues_after(&inventory, Lsn(5 * SEG)));
        assert!(!route.continues_after(&inventory, Lsn(8 * SEG)));
        let missing = route.first_missing(&inventory, Lsn(SEG), Lsn(7 * SEG)).unwrap();
        assert_eq!(missing.to_string(), "000000010000000000000005");
        assert_eq!(route.first_missing(&inventory, Lsn(SEG), Lsn(5 * SEG)), None);
        assert_eq!(inventory.holes(TimelineId(1)), vec![(missing, missing)]);
    }

    #[test]
    fn the_last_segment_of_all_is_an_end() {
        let last = u64::MAX / SEG;
        let inventory = inventory(&[(1, last - 255..=last)]);
        let route = Route::new(TimelineHistory::root(TimelineId(1)), SIZE);
        assert_eq!(route.reaches(&inventory, Lsn(last * SEG)), Lsn(u64::MAX));
        assert_eq!(route.first_missing(&inventory, Lsn(last * SEG), Lsn(u64::MAX)), None);
    }

    #[test]
    fn a_backup_after_the_fork_does_not_lead_to_the_child() {
        let mut inventory = inventory(&[(1, 1..=9), (2, 4..=6)]);
        inventory.add_history(history(2, "1\t0/4500000\tx\n"));
        assert_eq!(inventory.descendants(TimelineId(1), Lsn(0x0400_0000)), [TimelineId(1), TimelineId(2)]);
        assert_eq!(inventory.descendants(TimelineId(1), Lsn(0x0460_0000)), [TimelineId(1)]);
        inventory.abandon(TimelineId(2));
        assert_eq!(inventory.descendants(TimelineId(1), Lsn(0x0400_0000)), [TimelineId(1)]);
    }

    proptest! {
        #[test]
        fn runs_hold_exactly_what_was_added(numbers in proptest::collection::vec(0_u64..60, 0..60)) {
            let mut runs = Runs::default();
            for number in &numbers {
                runs.add(*number);
            }
            let set: BTreeSet<u64> = numbers.into_iter().collect();
            for number in 0..60 {
                prop_assert_eq!(runs.run_with(number).is_some(), set.contains(&number));
            }
            let joined = runs.0.iter().zip(runs.0.iter().skip(1)).all(|((_, end), (begin, _))| end + 1 < *begin);
            prop_assert!(joined);
        }

        #[test]
        fn a_route_never_runs_backwards(first in 1_u64..50, second in 1_u64..50, count in 1_u64..60) {
            let (a, b) = (first.min(second) * SEG / 2, first.max(second) * SEG / 2 + 1);
            let text = format!("1\t{}\tx\n2\t{}\ty\n", Lsn(a), Lsn(b));
            let route = Route::new(history(3, &text), SIZE);
            let timelines: Vec<_> = (0..count).map(|number| route.segment(number).timeline).collect();
            prop_assert!(timelines.is_sorted());
        }
    }
}
