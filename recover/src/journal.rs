//! What a recovery has done so far: written durably before each change is made.
//!
//! A step is noted before it begins and when it has ended. The journal lists every change before the first of them is
//! carried out, and each is such that looking at the file system tells whether it happened. So a crash anywhere leaves
//! enough to go on, or to undo everything.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use common::archive::identity::read_control;
use common::pg::{Lsn, TimelineId};
use common::repo::envelope::{self, Record};
use common::report::Advice;
use common::sys::lock::FileLock;
use common::sys::{durable, space};
use serde::{Deserialize, Serialize};

use crate::aside::stamp;
use crate::cli::Role;
use crate::place::{Place, beside};
use crate::plan::Plan;
use crate::preserved::Marks;
use crate::verbatim::Verbatim;

/// How far a recovery got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Stage {
    /// The plan stands; nothing is touched.
    Checked,
    /// The old server is down.
    Stopped,
    /// The old data directory is aside.
    Preserved,
    /// The backup is unpacked.
    Extracted,
    /// The settings are written.
    Configured,
    /// WAL is in place.
    Placed,
    /// The server was started on the recovered data, or may have been.
    Started,
    /// The recovery is verified and over.
    Done,
    /// It was undone.
    RolledBack,
}

/// A change to the file system that a rollback undoes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Change {
    /// A directory was renamed.
    Moved {
        /// Its name before.
        from: PathBuf,
        /// Its name since.
        to: PathBuf,
    },
    /// A link leads elsewhere.
    Relinked {
        /// The link, where it lies while the cluster is preserved.
        link: PathBuf,
        /// Where it led.
        before: PathBuf,
        /// Where it leads while the cluster is preserved.
        meanwhile: PathBuf,
    },
    /// Everything in a directory that cannot be renamed, because something is mounted there, lies in a folder of it.
    /// Until all of it does, that folder has another name: [`partial`](crate::aside::partial).
    Emptied {
        /// The directory.
        directory: PathBuf,
        /// The folder.
        into: PathBuf,
    },
    /// A directory was made for the recovered data.
    Made {
        /// The directory.
        path: PathBuf,
    },
}

/// The journal of one recovery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Journal {
    /// When it began.
    pub(crate) began: DateTime<Utc>,
    /// How far it got.
    pub(crate) stage: Stage,
    /// Where the step that was begun leads; none between two steps.
    pub(crate) toward: Option<Stage>,
    /// What was decided.
    pub(crate) plan: Plan,
    /// Whether a server ran on the old data directory.
    pub(crate) was_running: bool,
    /// The changes, in the order in which they are made; listed before the first is.
    pub(crate) changes: Vec<Change>,
    /// What tells everything that is set aside, taken with the list of changes; older journals have none.
    #[serde(default)]
    pub(crate) marks: Marks,
    /// `postgresql.auto.conf` as it shall be when the recovery is over.
    pub(crate) final_auto_conf: Verbatim,
    /// The timeline that the recovery ended on.
    pub(crate) new_timeline: Option<TimelineId>,
    /// What the last check found worth telling.
    pub(crate) notes: Vec<String>,
    /// What was found wrong and not accepted, because of which the recovery is not ended.
    #[serde(default)]
    pub(crate) withheld: Vec<String>,
    /// The `pg_wal` of the cluster itself, on this host, as it lay before anything was changed.
    pub(crate) origin_wal: Option<PathBuf>,
    /// When a rollback began: that moment names everything that it sets aside, however often it is called.
    pub(crate) undoing: Option<DateTime<Utc>>,
    /// Whether a rollback has put everything back; what is left of it concerns the server and the repository.
    pub(crate) returned: bool,
    /// How the old cluster gets a newer timeline after a rollback.
    pub(crate) renewal: Option<Renewal>,
    /// Where the old cluster stood when a new recovery undid this one and left its server down, though it ran before; none
    /// once a rollback has started it.
    #[serde(default)]
    pub(crate) left_down: Option<Lsn>,
    /// When the removal of what was set aside began: from then on nothing can be undone.
    pub(crate) cleaned: Option<DateTime<Utc>>,
}

/// How the old cluster gets a newer timeline than the recovery's, which is in the archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Renewal {
    /// `postgresql.auto.conf` as it was, and will be again.
    pub(crate) auto_conf: Verbatim,
    /// The timeline that the old cluster was on.
    pub(crate) from: TimelineId,
    /// Whether its server was started for it, or may have been.
    pub(crate) launched: bool,
    /// The timeline that it is on now.
    pub(crate) to: Option<TimelineId>,
}

impl Record for Journal {
    const KIND: &'static str = "recovery-journal";
}

impl Journal {
    /// Reads the journal of this place; `None` when no recovery was ever begun there.
    pub(crate) fn read(place: &Place) -> anyhow::Result<Option<Self>> {
        let path = place.journal();
        match std::fs::read(&path) {
            Ok(bytes) => {
                let journal: Self = envelope::open(&bytes).with_context(|| {
                    Advice::failed(format!("the journal {} cannot be read", path.display())).hint(format!(
                        "nothing is undone without it: look for {0}.before-… beside {0}, put things right by hand, then \
                         move the journal away",
                        place.pgdata.display()
                    ))
                })?;
                journal.require_of(place)?;
                Ok(Some(journal))
            }
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(err) => Err(err).with_context(|| format!("read {}", path.display())),
        }
    }

    /// Refuses a journal of another place: its folder was copied or moved, and what it names is somebody else's.
    pub(crate) fn require_of(&self, place: &Place) -> Result<(), Advice> {
        let own = Place { pgdata: self.plan.pgdata.clone() };
        // By a bind mount, one place has two names.
        if own == *place || space::is_same(&own.folder(), &place.folder()) {
            return Ok(());
        }
        let folder = place.folder();
        Err(Advice::refused(format!(
            "{} tells of a recovery of {}, not of {}: nothing is done with what it names",
            folder.display(),
            own.pgdata.display(),
            place.pgdata.display()
        ))
        .hint(format!(
            "it was copied, or moved with its data directory; move {} away, if nobody needs it",
            folder.display()
        )))
    }

    /// Reads the journal while nobody else works on the place; `None` when no recovery was ever begun there.
    pub(crate) fn lock(place: &Place) -> anyhow::Result<Option<(FileLock, Self)>> {
        if !place.journal().exists() {
            return Ok(None);
        }
        let lock = place.lock()?;
        Ok(Self::read(place)?.map(|journal| (lock, journal)))
    }

    /// Writes the journal durably.
    pub(crate) fn write(&self, place: &Place) -> anyhow::Result<()> {
        let path = place.journal();
        durable::replace(&path, &envelope::seal(self)?, 0o600).with_context(|| format!("write {}", path.display()))
    }

    /// Notes that the step that leads to this stage begins.
    pub(crate) fn set_out(&mut self, stage: Stage, place: &Place) -> anyhow::Result<()> {
        self.toward = Some(stage);
        self.write(place)
    }

    /// Notes that the recovery got this far.
    pub(crate) fn reach(&mut self, stage: Stage, place: &Place) -> anyhow::Result<()> {
        self.stage = stage;
        self.toward = None;
        self.write(place)
    }

    /// Whether the step that leads to this stage was begun before and did not end.
    pub(crate) fn is_repeated(&self, stage: Stage) -> bool {
        self.toward == Some(stage)
    }

    /// Whether anything was changed, or may have been.
    pub(crate) fn is_touched(&self) -> bool {
        self.stage > Stage::Checked || self.toward.is_some()
    }

    /// Whether the recovery is over, one way or the other.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Done | Stage::RolledBack) || !self.is_touched()
    }

    /// Where the old cluster lies while it is preserved.
    pub(crate) fn preserved(&self) -> Option<&Path> {
        self.changes.iter().find_map(|change| match change {
            Change::Moved { from, to } if *from == self.plan.pgdata => Some(to.as_path()),
            Change::Emptied { directory, into } if *directory == self.plan.pgdata => Some(into.as_path()),
            _ => None,
        })
    }

    /// Whether it ended early: before any server has run on what it made, and before it was ready for one that somebody
    /// else starts.
    pub(crate) fn is_cut_short(&self) -> bool {
        let last = if self.plan.starts { Stage::Placed } else { Stage::Configured };
        !self.is_over() && self.stage <= last
    }

    /// Whether a new recovery undid this one and nobody has started the old server since: then it is down only because
    /// that recovery did not come about.
    pub(crate) fn is_left_down(&self) -> bool {
        self.stage == Stage::RolledBack && self.left_down.is_some_and(|at| at == self.stands_at())
    }

    /// The last checkpoint of the cluster that lies in the data directory: every start leads to another one.
    pub(crate) fn stands_at(&self) -> Lsn {
        // One without a control file that can be read starts no server.
        read_control(&self.plan.pgdata).map(|control| control.checkpoint).unwrap_or_default()
    }

    /// Refuses a new recovery while an old one is not over; answers the old one's journal.
    pub(crate) fn refuse_unfinished(place: &Place) -> anyhow::Result<Option<Self>> {
        match Self::read(place)? {
            Some(old) if !old.is_over() => Err(Advice::refused(format!(
                "a recovery of {} that began {} is not over",
                place.pgdata.display(),
                old.began.format("%Y-%m-%d %H:%M:%SZ")
            ))
            .hint(format!(
                "recover status -D {0} tells where it stands; recover run --resume -D {0} goes on with it, recover \
                 rollback -D {0} undoes it, recover finish -D {0} ends it when its server takes writes",
                place.pgdata.display()
            ))
            .into()),
            old => Ok(old),
        }
    }

    /// Keeps the journal of an older recovery under another name.
    pub(crate) fn keep_old(place: &Place) -> anyhow::Result<()> {
        let Some(old) = Self::read(place)? else { return Ok(()) };
        let kept = beside(&place.journal(), &format!(".{}", stamp(old.began)));
        durable::rename(&place.journal(), &kept).with_context(|| format!("keep {}", kept.display()))
    }

    /// Whether the recovered directory is a copy.
    pub(crate) fn is_copy(&self) -> bool {
        self.plan.role == Role::Copy
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::cli::ConfigFrom;
    use crate::divergence::Divergence;
    use crate::plan::{Arrival, Transaction};
    use crate::preserved::Mark;
    use crate::standby::Standby;
    use common::restore::demands::Demands;
    use common::restore::settings::TargetAction;
    use common::restore::target::Target;
    use common::restore::wal_plan::{Stretch, WalPlan};
    use proptest::prelude::*;
    use std::os::unix::fs::symlink;

    /// A journal with these texts and numbers in its places.
    pub(crate) fn journal(text: &str, number: u64, target: Target) -> Journal {
        let time = DateTime::from_timestamp(1_700_000_000, 123_456_789).unwrap();
        let (path, lsn, timeline) = (PathBuf::from(text), Lsn(number), TimelineId(7));
        let commit = Transaction { xid: 7, time, lsn };
        let plan = Plan {
            role: Role::Copy,
            pgdata: path.clone(),
            replaces: false,
            backup: "backup_20261120_031500".parse().unwrap(),
            target,
            exclusive: true,
            action: TargetAction::Pause,
            timeline,
            wal_from: lsn,
            wal_reaches: lsn,
            archive_reaches: lsn,
            wal_ends: Some(lsn),
            grows: vec![path.clone()],
            segment_bytes: number,
            arrival: Some(Arrival { at: lsn, last_before: Some(commit), first_after: None }),
            wal: WalPlan { system_identifier: number, stretches: vec![Stretch { timeline, from: lsn, to: None }] },
            salvage: vec![text.to_owned()],
            tablespaces: vec![(7, path.clone())],
            pg_wal: Some(path.clone()),
            config_file: None,
            config_from: ConfigFrom::Backup,
            config_differs: vec![text.to_owned()],
            port: Some(5433),
            archives: false,
            starts: true,
            bytes: number,
            major: 15,
            decided: time,
            delta: true,
            standby: Some(Standby {
                primary_conninfo: Some(text.to_owned()),
                slot: None,
                timeline: Some(timeline),
                port: Some(7),
                elsewhere: true,
            }),
            demands: Demands { max_connections: 7, ..Demands::default() },
            divergence: Divergence { slots: vec![text.to_owned()], ..Divergence::default() },
            warnings: vec![text.to_owned()],
        };
        let changes = vec![
            Change::Moved { from: path.clone(), to: path.clone() },
            Change::Relinked { link: path.clone(), before: path.clone(), meanwhile: path.clone() },
            Change::Emptied { directory: path.clone(), into: path.clone() },
            Change::Made { path: path.clone() },
        ];
        Journal {
            began: time,
            stage: Stage::Preserved,
            toward: Some(Stage::Extracted),
            plan,
            was_running: true,
            changes,
            marks: [(path.clone(), Mark::of(Path::new("/")).unwrap())].into(),
            final_auto_conf: Verbatim(vec![0xE9, 7]),
            new_timeline: Some(timeline),
            notes: vec![text.to_owned()],
            withheld: vec![text.to_owned()],
            origin_wal: Some(path),
            undoing: Some(time),
            returned: true,
            renewal: Some(Renewal {
                auto_conf: Verbatim(text.as_bytes().to_vec()),
                from: timeline,
                launched: true,
                to: Some(timeline),
            }),
            left_down: Some(lsn),
            cleaned: None,
        }
    }

    proptest! {
        #[test]
        fn round_trips(text: String, number: u64, target in prop_oneof![
            any::<u64>().prop_map(|lsn| Target::Lsn(Lsn(lsn))),
            any::<String>().prop_map(Target::Name),
            Just(Target::Latest),
        ]) {
            let written = journal(&text, number, target);
            prop_assert_eq!(envelope::open::<Journal>(&envelope::seal(&written).unwrap()).unwrap(), written);
        }

        #[test]
        fn damage_never_panics_nor_changes_it(at in 0_usize..2000, value: u8, cut: bool) {
            let whole = journal("/data", 7, Target::Immediate);
            let mut bytes = envelope::seal(&whole).unwrap();
            let at = at % bytes.len();
            bytes[at] = value;
            if cut {
                bytes.truncate(at);
            }
            if let Ok(read) = envelope::open::<Journal>(&bytes) {
                prop_assert_eq!(read, whole);
            }
        }
    }

    #[test]
    fn an_older_journal_is_read() {
        let mut written = journal("/data", 7, Target::Latest);
        let mut older = serde_json::to_value(&written).unwrap();
        for field in ["marks", "left_down"] {
            assert!(older.as_object_mut().unwrap().remove(field).is_some());
        }
        (written.marks, written.left_down) = (Marks::new(), None);
        assert_eq!(serde_json::from_value::<Journal>(older).unwrap(), written);
    }

    #[test]
    fn a_journal_that_was_copied_is_of_another_place() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| Place { pgdata: dir.path().join(name).join("data") };
        let (one, two, linked) = (at("one"), at("two"), at("linked"));
        std::fs::create_dir(dir.path().join("one")).unwrap();
        symlink("one", dir.path().join("linked")).unwrap();
        let written = journal(one.pgdata.to_str().unwrap(), 7, Target::Latest);
        for place in [&one, &two] {
            place.make_folder().unwrap();
            written.write(place).unwrap();
        }
        assert_eq!(Journal::read(&one).unwrap().as_ref(), Some(&written));
        assert_eq!(Journal::read(&linked).unwrap().as_ref(), Some(&written));
        assert!(Journal::read(&two).is_err());
        // Of what was moved there is no first one any more.
        durable::remove_tree(&one.folder()).unwrap();
        assert!(Journal::read(&two).is_err());
    }

    #[test]
    fn a_place_is_worked_on_by_one() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place { pgdata: dir.path().join("data") };
        assert!(Journal::lock(&place).unwrap().is_none());
        assert!(!place.folder().exists());
        let held = place.lock().unwrap();
        assert!(place.lock().is_err());
        drop(held);
        durable::replace(&place.journal(), b"{", 0o600).unwrap();
        assert!(Journal::lock(&place).is_err());
        assert!(place.lock().is_ok());
    }
}
