//! What WAL a planned recovery needs: a small file that `recover` writes and its `restore_command` reads.
//!
//! With read-ahead (`recovery_prefetch`, PostgreSQL 15) a server asks for segments behind its target. One that is
//! missing or damaged there must not stop a recovery that does not need it; one before the target must.

use std::path::Path;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::pg::{Lsn, SegmentSize, SystemIdentifier, TimelineId, WalSegmentName};
use crate::repo::envelope::{self, Record};
use crate::repo::records::as_text;
use crate::sys::durable;

/// The stretches of WAL that a recovery needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalPlan {
    /// The system whose WAL it is.
    #[serde(with = "as_text")]
    pub system_identifier: SystemIdentifier,
    /// One stretch a timeline.
    pub stretches: Vec<Stretch>,
}

/// A stretch of one timeline's WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stretch {
    /// The timeline that the segments are named after.
    pub timeline: TimelineId,
    /// Its first byte.
    pub from: Lsn,
    /// The byte after its last; `None` where the target is not known by position: then all there is must be had.
    pub to: Option<Lsn>,
}

impl Record for WalPlan {
    const KIND: &'static str = "wal-plan";
}

impl WalPlan {
    /// Whether the recovery needs bytes of this segment. A name that has no position counts as needed.
    pub fn needs(&self, segment: WalSegmentName, size: SegmentSize) -> bool {
        let Some(start) = segment.start(size) else { return true };
        let overlaps = |stretch: &Stretch| {
            stretch.timeline == segment.timeline
                && start.0.saturating_add(size.bytes()) > stretch.from.0
                && stretch.to.is_none_or(|to| start < to)
        };
        self.stretches.iter().any(overlaps)
    }

    /// Reads the plan at `path`.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let bytes = std::fs::read(path).with_context(|| format!("read the recovery's plan {}", path.display()))?;
        envelope::open(&bytes).with_context(|| format!("the recovery's plan {}", path.display()))
    }

    /// Writes the plan durably, in place of an older one.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        durable::replace(path, &envelope::seal(self)?, 0o600).with_context(|| format!("write {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    #[rstest]
    #[case("000000010000000000000001", false)]
    #[case("000000010000000000000002", true)]
    #[case("000000010000000000000004", true)]
    #[case("000000010000000000000005", false)]
    #[case("000000020000000000000004", false)]
    #[case("000000030000000000000009", true)]
    fn knows_what_is_needed(#[case] name: &str, #[case] needed: bool) {
        let plan = WalPlan {
            system_identifier: 1,
            stretches: vec![
                Stretch { timeline: TimelineId(1), from: Lsn(0x0200_0028), to: Some(Lsn(0x0500_0000)) },
                Stretch { timeline: TimelineId(3), from: Lsn(0x0600_0000), to: None },
            ],
        };
        assert_eq!(plan.needs(WalSegmentName::parse(name).unwrap(), SegmentSize::DEFAULT), needed);
    }

    proptest! {
        #[test]
        fn round_trips_and_needs_what_it_names(system_identifier: u64, given: Vec<(u32, u64, Option<u64>)>, shift in 20_u32..=30) {
            let size = SegmentSize::new(1 << shift).unwrap();
            let stretch = |(timeline, from, to): (u32, u64, Option<u64>)| Stretch {
                timeline: TimelineId(timeline),
                from: Lsn(from),
                to: to.map(Lsn),
            };
            let plan = WalPlan { system_identifier, stretches: given.into_iter().map(stretch).collect() };
            prop_assert_eq!(&envelope::open::<WalPlan>(&envelope::seal(&plan).unwrap()).unwrap(), &plan);
            for stretch in &plan.stretches {
                if stretch.to.is_none_or(|to| stretch.from < to) {
                    prop_assert!(plan.needs(WalSegmentName::containing(stretch.timeline, stretch.from, size), size));
                }
                if let Some(to) = stretch.to.filter(|to| stretch.from < *to) {
                    prop_assert!(plan.needs(WalSegmentName::before(stretch.timeline, to, size), size));
                }
            }
        }
    }
}
