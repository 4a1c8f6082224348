//! Decides onto which timeline a copy goes, and what becomes of its settings. Pure, but for its own record.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use common::pg::TimelineId;
use common::pg::control::ControlFile;
use common::repo::chain::Inventory;
use common::repo::envelope::{self, Record};
use common::report::Advice;
use common::sys::durable;
use serde::{Deserialize, Serialize};

use crate::place::Place;
use crate::steps::configure::{BARE_HEADING, COPY_HEADING};

/// A copy that can be adopted.
#[derive(Debug, Clone)]
pub(super) struct Copy {
    /// What it says of itself.
    pub(super) control: ControlFile,
    /// The server's major version.
    pub(super) major: u32,
}

/// The cluster itself, on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rival {
    /// Its data directory.
    pub(super) pgdata: PathBuf,
    /// Whether its server runs.
    pub(super) runs: bool,
}

/// How far an adoption got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Step {
    /// The plan stands.
    Planned,
    /// The copy is on its new timeline, and down.
    Promoted,
    /// It has its own settings and runs.
    Released,
}

/// An adoption and how far it got.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Adoption {
    /// When it was decided.
    pub(super) began: DateTime<Utc>,
    /// How far it got.
    pub(super) step: Step,
    /// The server's major version.
    pub(super) major: u32,
    /// The timeline that the copy is on.
    pub(super) old: TimelineId,
    /// The timeline that the copy is moved to before it is promoted, where somebody else has its own number too.
    pub(super) bridge: Option<TimelineId>,
    /// The timeline that it is promoted to.
    pub(super) new: TimelineId,
    /// Whether it archives, once that is known.
    pub(super) archives: Option<bool>,
}

impl Record for Adoption {
    const KIND: &'static str = "adoption";
}

impl Adoption {
    fn path(place: &Place) -> PathBuf {
        place.folder().join("adoption.json")
    }

    /// The one that was begun for this place, if any.
    pub(super) fn read(place: &Place) -> anyhow::Result<Option<Self>> {
        let path = Self::path(place);
        match super::read_if_there(&path)? {
            bytes if bytes.is_empty() => Ok(None),
            bytes => envelope::open(&bytes).map(Some).with_context(|| format!("read {}", path.display())),
        }
    }

    /// Writes it down durably.
    pub(super) fn write(&self, place: &Place) -> anyhow::Result<()> {
        let path = Self::path(place);
        durable::replace(&path, &envelope::seal(self)?, 0o600).with_context(|| format!("write {}", path.display()))
    }

    /// Forgets it: the directory is a copy no more.
    pub(super) fn forget(place: &Place) -> anyhow::Result<()> {
        let path = Self::path(place);
        durable::remove_file(&path).with_context(|| format!("remove {}", path.display()))
    }

    /// The timeline that the copy is promoted from.
    pub(super) fn from(&self) -> TimelineId {
        self.bridge.unwrap_or(self.old)
    }

    /// The plan in words.
    pub(super) fn describe(&self) -> Vec<String> {
        let mut lines = vec![format!("timeline        from {} to {}, which nobody else has", self.old, self.new)];
        if self.bridge.is_some() {
            lines.push(format!(
                "history         timeline {} is taken by the cluster itself: no older backup leads to timeline {}",
                self.old, self.new
            ));
        }
        lines.push("archiving       on, as the cluster's own configuration says".to_owned());
        lines
    }

    /// What there is to say at the end.
    pub(super) fn conclusion(&self, pgdata: &str) -> Vec<String> {
        let mut lines = vec![format!("{pgdata} is the production server now, on timeline {}", self.new)];
        lines.push(match self.archives {
            Some(true) => "its WAL arrives in the repository".to_owned(),
            _ => "it archives nothing: archive-wal setup --apply -D shows what is missing and does it".to_owned(),
        });
        lines.push("take a new base backup now: basebackup".to_owned());
        lines
    }
}

/// Decides. `known`: all timelines of the repository and of the cluster's own servers here.
///
/// Whoever has the copy's own number has another way under it, since a copy archives nothing: then the copy's history must
/// not name it.
pub(super) fn decide(copy: &Copy, known: &Inventory, now: DateTime<Utc>) -> Result<Adoption, Advice> {
    let old = copy.control.checkpoint_timeline;
    let timelines = known.timelines();
    let highest = timelines.iter().copied().max().unwrap_or(old).max(old);
    let next = |timeline: TimelineId| {
        timeline.0.checked_add(1).map(TimelineId).ok_or_else(|| Advice::refused("there is no timeline left"))
    };
    let bridge = timelines.contains(&old).then(|| next(highest)).transpose()?;
    let new = next(bridge.unwrap_or(highest))?;
    Ok(Adoption { began: now, step: Step::Planned, major: copy.major, old, bridge, new, archives: None })
}

/// Whether this is the configuration of a copy whose original's lies outside its data directory.
pub(super) fn is_bare(file: &Path) -> bool {
    std::fs::read(file).is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(BARE_HEADING))
}

/// `postgresql.auto.conf` without what made the server a copy. `ALTER SYSTEM` on the copy has thrown the heading away and
/// each setting's earlier value: then the settings themselves are known by their values.
pub(super) fn without_isolation(text: &[u8], copy_settings: &[(String, String)]) -> Vec<u8> {
    let lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
    let heading = format!("# {COPY_HEADING}");
    let headed = lines.iter().position(|line| line.trim_ascii_end() == heading.as_bytes());
    let isolates = |(place, line): &(usize, &&[u8])| {
        let line = String::from_utf8_lossy(line);
        let Some((name, value)) = line.split_once('=') else { return headed == Some(*place) };
        let (name, value) = (name.trim(), value.trim().trim_matches('\''));
        let of_copy = copy_settings.iter().find(|(known, _)| known == name);
        match headed {
            Some(heading) => *place >= heading && of_copy.is_some(),
            None => of_copy.is_some_and(|(_, known)| known == value),
        }
    };
    lines.iter().enumerate().filter(|line| !isolates(line)).flat_map(|(_, line)| line.iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::pg::control::CONTROL_FILE_SIZE;
    use common::pg::{SegmentSize, TimelineHistory, WalSegmentName};
    use proptest::prelude::*;
    use rstest::rstest;

    fn copy_on(timeline: u32) -> Copy {
        let mut server = include_bytes!("../../../tests/fuzz/corpus/control/server_15").to_vec();
        server.resize(CONTROL_FILE_SIZE, 0);
        let control = ControlFile { checkpoint_timeline: TimelineId(timeline), ..ControlFile::parse(&server).unwrap() };
        Copy { control, major: 15 }
    }

    fn known(timelines: &[u32]) -> Inventory {
        let mut known = Inventory::new(SegmentSize::DEFAULT);
        for timeline in timelines {
            known.add_segment(WalSegmentName::numbered(TimelineId(*timeline), 7, SegmentSize::DEFAULT));
        }
        known
    }

    #[rstest]
    #[case::nobody_else_was_promoted(2, &[1], None, 3)]
    #[case::others_have_higher_numbers(2, &[1, 5], None, 6)]
    #[case::the_number_is_taken(2, &[1, 2], Some(3), 4)]
    #[case::the_number_is_taken_and_more(2, &[1, 2, 7], Some(8), 9)]
    #[case::nothing_is_known(4, &[], None, 5)]
    fn a_fresh_timeline_is_higher_than_all(
        #[case] own: u32,
        #[case] others: &[u32],
        #[case] bridge: Option<u32>,
        #[case] new: u32,
    ) {
        let adoption = decide(&copy_on(own), &known(others), DateTime::UNIX_EPOCH).unwrap();
        assert_eq!((adoption.bridge, adoption.new), (bridge.map(TimelineId), TimelineId(new)));
        assert_eq!(adoption.describe().len(), if bridge.is_some() { 3 } else { 2 });
    }

    #[test]
    fn a_history_alone_takes_a_number() {
        let mut known = known(&[1]);
        known.add_history(TimelineHistory::parse(TimelineId(2), b"1\t0/4800000\tx\n").unwrap());
        let adoption = decide(&copy_on(2), &known, DateTime::UNIX_EPOCH).unwrap();
        assert_eq!(adoption.bridge, Some(TimelineId(3)));
    }

    #[test]
    fn the_last_timeline_is_refused() {
        assert!(decide(&copy_on(u32::MAX), &known(&[1]), DateTime::UNIX_EPOCH).is_err());
    }

    fn settings() -> Vec<(String, String)> {
        [("archive_mode", "off"), ("port", "5433"), ("listen_addresses", "")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec()
    }

    #[test]
    fn what_made_it_a_copy_goes_and_all_else_stays() {
        let original = "# Do not edit\narchive_mode = 'on'\nwork_mem = '\u{e9}'\n";
        let copied = format!(
            "{original}# {COPY_HEADING}\narchive_mode = 'off'\nport = '5433'\nlisten_addresses = ''\nshared_buffers = '1GB'\n"
        );
        let kept = without_isolation(copied.as_bytes(), &settings());
        assert_eq!(String::from_utf8(kept).unwrap(), format!("{original}shared_buffers = '1GB'\n"));
    }

    #[test]
    fn after_alter_system_the_values_tell() {
        let rewritten = "# Do not edit\nwork_mem = '1GB'\narchive_mode = 'off'\nport = '5432'\nlisten_addresses = ''\n";
        let kept = without_isolation(rewritten.as_bytes(), &settings());
        assert_eq!(String::from_utf8(kept).unwrap(), "# Do not edit\nwork_mem = '1GB'\nport = '5432'\n");
    }

    proptest! {
        #[test]
        fn the_new_timeline_is_nobodys(own in 1_u32..100, others in proptest::collection::btree_set(1_u32..100, 0..8)) {
            let others: Vec<u32> = others.into_iter().collect();
            let adoption = decide(&copy_on(own), &known(&others), DateTime::UNIX_EPOCH).unwrap();
            let taken = |timeline: TimelineId| others.contains(&timeline.0);
            prop_assert!(!taken(adoption.new) && !taken(adoption.from()) && adoption.new > adoption.from());
            prop_assert_eq!(adoption.bridge.is_some(), taken(TimelineId(own)));
            let sealed = envelope::seal(&adoption).unwrap();
            prop_assert_eq!(envelope::open::<Adoption>(&sealed).unwrap(), adoption);
        }

        #[test]
        fn no_line_of_the_original_is_lost(lines in proptest::collection::vec("[a-z_]{1,9} = '[a-z0-9]{0,4}'", 0..6)) {
            let original = lines.into_iter().fold(String::new(), |text, line| text + &line + "\n");
            let copied = format!("{original}# {COPY_HEADING}\narchive_mode = 'off'\nport = '5433'\n");
            prop_assert_eq!(without_isolation(copied.as_bytes(), &settings()), original.as_bytes());
        }
    }
}
