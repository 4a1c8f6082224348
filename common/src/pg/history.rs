//! Timeline history files: which timeline a cluster's log runs along (`src/backend/access/transam/timeline.c`).

use super::{Lsn, TimelineId};

/// The way from the first timeline to one of them, as its history file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimelineHistory {
    /// The timeline whose history it is.
    pub timeline: TimelineId,
    /// The timelines before it, oldest first, with increasing ids.
    pub ancestors: Vec<HistoryEntry>,
}

/// One line of a history file: a timeline that was left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryEntry {
    /// The timeline.
    pub timeline: TimelineId,
    /// The first position that is not on it any more.
    pub switch: Lsn,
    /// PostgreSQL's remark; bytes that are no UTF-8 are replaced.
    pub reason: String,
}

/// Why the bytes are no history of that timeline. Lines count from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    /// The line is not `timeline position reason`.
    #[error("line {0} of the timeline history is not a timeline, a position and a reason")]
    Syntax(usize),
    /// Timelines do not increase from line to line.
    #[error("line {line} of the timeline history names timeline {found}, not one after {before}")]
    NotIncreasing {
        /// Which line.
        line: usize,
        /// Its timeline.
        found: TimelineId,
        /// The line before it has this one, or 0.
        before: TimelineId,
    },
    /// An ancestor with the id of the timeline itself or a later one.
    #[error("the history of timeline {timeline} names timeline {found} as an ancestor")]
    NotBelow {
        /// Whose history it is.
        timeline: TimelineId,
        /// The ancestor.
        found: TimelineId,
    },
    /// No ancestor at all: PostgreSQL writes no such file, a crash or a full disk makes one.
    #[error("the history of timeline {0} is empty")]
    Empty(TimelineId),
}

impl TimelineHistory {
    /// Reads the contents of `timeline`'s history file.
    ///
    /// The rules are those of `readTimeLineHistory`, but for one: PostgreSQL takes an empty file for a timeline without
    /// ancestors, which would send a recovery down the wrong way without a word; here it is [`HistoryError::Empty`].
    pub fn parse(timeline: TimelineId, bytes: &[u8]) -> Result<Self, HistoryError> {
        let mut ancestors = Vec::new();
        let mut before = TimelineId(0);
        for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
            let line = line.trim_ascii();
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            let entry = HistoryEntry::parse(line).ok_or(HistoryError::Syntax(index + 1))?;
            let found = entry.timeline;
            if found <= before {
                return Err(HistoryError::NotIncreasing { line: index + 1, found, before });
            }
            if found >= timeline {
                return Err(HistoryError::NotBelow { timeline, found });
            }
            before = found;
            ancestors.push(entry);
        }
        if ancestors.is_empty() {
            return Err(HistoryError::Empty(timeline));
        }
        Ok(Self { timeline, ancestors })
    }

    /// The history of a timeline that has no history file: it begins at 0/0.
    pub fn root(timeline: TimelineId) -> Self {
        Self { timeline, ancestors: Vec::new() }
    }

    /// The timeline that the byte at `position` belongs to (`tliOfPointInHistory`).
    pub fn timeline_at(&self, position: Lsn) -> TimelineId {
        // Newest first: after a recovery to before the parent's own beginning, switch points do not increase, and
        // then the newer one counts.
        let left_before = self.ancestors.iter().rposition(|entry| entry.switch <= position);
        let next = left_before.map_or(0, |index| index + 1);
        self.ancestors.get(next).map_or(self.timeline, |entry| entry.timeline)
    }

    /// Where the timeline itself begins; 0/0 for a root.
    pub fn begins(&self) -> Lsn {
        self.ancestors.last().map_or(Lsn(0), |parent| parent.switch)
    }

    /// The first position that is not on `ancestor` any more; `None` unless it is an ancestor.
    ///
    /// Mostly what its line says (`tliSwitchPoint`). But a recovery along the newest timeline to a moment before that
    /// one began leaves all of its ancestors there, and writes only that into the new history's last line.
    pub fn switch_of(&self, ancestor: TimelineId) -> Option<Lsn> {
        let from = self.ancestors.iter().position(|entry| entry.timeline == ancestor)?;
        self.ancestors.get(from..)?.iter().map(|entry| entry.switch).min()
    }

    /// Whether `timeline` is this one or an ancestor of it (`tliInHistory`).
    pub fn contains(&self, timeline: TimelineId) -> bool {
        self.timeline == timeline || self.switch_of(timeline).is_some()
    }

    /// The file as PostgreSQL would write it, empty lines included; empty for a root, which has no file.
    pub fn to_text(&self) -> String {
        let line = |entry: &HistoryEntry| format!("{}\t{}\t{}\n", entry.timeline, entry.switch, entry.reason);
        // `writeTimeLineHistory` copies the parent's file and puts a line break before its own line, in case that file
        // should lack its last one.
        self.ancestors.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

impl HistoryEntry {
    /// `sscanf("%u\t%X/%X")`, in which a tab stands for any white space, and the rest of the line.
    fn parse(line: &[u8]) -> Option<Self> {
        let (timeline, rest) = number(line, 10)?;
        let (high, rest) = number(rest.trim_ascii_start(), 16)?;
        let (low, rest) = number(rest.strip_prefix(b"/")?, 16)?;
        Some(Self {
            timeline: TimelineId(timeline),
            switch: Lsn(u64::from(high) << 32 | u64::from(low)),
            reason: String::from_utf8_lossy(rest.trim_ascii_start()).into_owned(),
        })
    }
}

/// The number that the text begins with, and what follows it.
fn number(text: &[u8], radix: u32) -> Option<(u32, &[u8])> {
    let length = text.iter().take_while(|byte| char::from(**byte).is_digit(radix)).count();
    let (digits, rest) = text.split_at_checked(length)?;
    let value = u32::from_str_radix(std::str::from_utf8(digits).ok()?, radix).ok()?;
    Some((value, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    fn history(timeline: u32, text: &str) -> TimelineHistory {
        TimelineHistory::parse(TimelineId(timeline), text.as_bytes()).unwrap()
    }

    /// As a server wrote it that was recovered twice.
    const TWICE: &str = "1\t0/6000000\tno recovery target specified\n\n2\t0/6100090\tafter LSN 0/6100050\n";

    #[test]
    fn reads_and_writes_what_the_server_writes() {
        let history = history(3, TWICE);
        let first = HistoryEntry {
            timeline: TimelineId(1),
            switch: Lsn(0x0600_0000),
            reason: "no recovery target specified".into(),
        };
        assert_eq!(history.ancestors.first(), Some(&first));
        assert_eq!(history.ancestors.len(), 2);
        assert_eq!(history.to_text(), TWICE);
    }

    #[rstest]
    #[case(0, 1)]
    #[case(0x05FF_FFFF, 1)]
    #[case(0x0600_0000, 2)]
    #[case(0x0610_008F, 2)]
    #[case(0x0610_0090, 3)]
    #[case(u64::MAX, 3)]
    fn every_position_has_one_timeline(#[case] position: u64, #[case] timeline: u32) {
        assert_eq!(history(3, TWICE).timeline_at(Lsn(position)), TimelineId(timeline));
    }

    #[rstest]
    #[case(0x1FFF, 1)]
    #[case(0x2000, 3)]
    #[case(0x3000, 3)]
    #[case(0x5000, 3)]
    fn a_recovery_to_before_the_parents_beginning_leaves_it_nothing(#[case] position: u64, #[case] timeline: u32) {
        let history = history(3, "1\t0/3000\tx\n\n2\t0/2000\ty\n");
        assert_eq!(history.timeline_at(Lsn(position)), TimelineId(timeline));
        for ancestor in [1, 2] {
            assert_eq!(history.switch_of(TimelineId(ancestor)), Some(Lsn(0x2000)));
        }
    }

    #[test]
    fn knows_its_ancestors() {
        let history = history(5, "1 0/10 a\n4 1/20 b\n");
        assert_eq!(history.begins(), Lsn(0x1_0000_0020));
        assert_eq!(history.switch_of(TimelineId(1)), Some(Lsn(0x10)));
        assert_eq!(history.switch_of(TimelineId(5)), None);
        let contained: Vec<u32> = (0..7).filter(|timeline| history.contains(TimelineId(*timeline))).collect();
        assert_eq!(contained, [1, 4, 5]);
    }

    #[test]
    fn a_root_has_no_ancestors() {
        let root = TimelineHistory::root(TimelineId(1));
        assert_eq!(root.begins(), Lsn(0));
        assert_eq!(root.timeline_at(Lsn(7)), TimelineId(1));
        assert_eq!(root.to_text(), "");
    }

    #[rstest]
    #[case("# a comment\n\n  # another\n1\t0/10\tx")]
    #[case("   1   0/10   x\r\n")]
    #[case("1\t0/10\tx\n   \n")]
    #[case("1\t00000000/00000010\tx")]
    #[case("1 0/10x")]
    fn comments_and_spacing_do_not_matter(#[case] text: &str) {
        let entry = HistoryEntry { timeline: TimelineId(1), switch: Lsn(0x10), reason: "x".into() };
        assert_eq!(history(2, text).ancestors, [entry]);
    }

    #[rstest]
    #[case("", HistoryError::Empty(TimelineId(3)))]
    #[case("# nothing\n", HistoryError::Empty(TimelineId(3)))]
    #[case("one\t0/0\tx", HistoryError::Syntax(1))]
    #[case("1\n", HistoryError::Syntax(1))]
    #[case("1\t0/10\tx\n\n2\t0-20\ty", HistoryError::Syntax(3))]
    #[case("1\t0/100000000\tx", HistoryError::Syntax(1))]
    #[case("4294967296\t0/1\tx", HistoryError::Syntax(1))]
    #[case("-1\t0/1\tx", HistoryError::Syntax(1))]
    #[case("1\t0/1\n1\t0/2", HistoryError::NotIncreasing { line: 2, found: TimelineId(1), before: TimelineId(1) })]
    #[case("0\t0/1", HistoryError::NotIncreasing { line: 1, found: TimelineId(0), before: TimelineId(0) })]
    #[case("1\t0/1\n3\t0/2", HistoryError::NotBelow { timeline: TimelineId(3), found: TimelineId(3) })]
    fn faults_are_named(#[case] text: &str, #[case] error: HistoryError) {
        assert_eq!(TimelineHistory::parse(TimelineId(3), text.as_bytes()), Err(error));
    }

    proptest! {
        #[test]
        fn round_trips(entries in proptest::collection::btree_map(1_u32..1000, (any::<u64>(), "[a-z\" é]{0,20}"), 1..10)) {
            let ancestors = entries
                .into_iter()
                .map(|(timeline, (switch, reason))| HistoryEntry {
                    timeline: TimelineId(timeline),
                    switch: Lsn(switch),
                    reason: format!("({reason})"),
                })
                .collect();
            let history = TimelineHistory { timeline: TimelineId(1000), ancestors };
            let text = history.to_text();
            prop_assert_eq!(TimelineHistory::parse(history.timeline, text.as_bytes()).unwrap(), history);
        }

        #[test]
        fn never_panics(bytes in proptest::collection::vec(proptest::sample::select(&b"19AF/\t\n #x\xFF"[..]), 0..80), timeline: u32) {
            if let Ok(history) = TimelineHistory::parse(TimelineId(timeline), &bytes) {
                prop_assert!(history.contains(history.timeline_at(Lsn(0x99))));
            }
        }
    }
}
