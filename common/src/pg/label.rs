//! `backup_label`, and the backup history file that is the same text with a few lines more.
//!
//! Written by `build_backup_content` (`src/backend/access/transam/xlogbackup.c`), read by `read_backup_label`
//! (`xlogrecovery.c`). It is only ever read here: a backup holds the server's own bytes.

use super::{Lsn, TimelineId, WalSegmentName};

/// What a label says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupLabel {
    /// Where replay must begin.
    pub start_wal_location: Lsn,
    /// The segment that holds it.
    pub start_wal_file: WalSegmentName,
    /// The checkpoint that the backup began with.
    pub checkpoint_location: Lsn,
    /// `streamed` with every supported version.
    pub backup_method: String,
    /// `primary` or `standby`.
    pub backup_from: String,
    /// As the server prints it, in its `log_timezone`.
    pub start_time: String,
    /// The text that whoever took the backup gave, line breaks included; bytes that are no UTF-8 are replaced.
    pub label: String,
    /// The timeline that the backup began on.
    pub start_timeline: TimelineId,
    /// Only in a backup history file: how it ended.
    pub stop: Option<StopInfo>,
    /// Only of an incremental backup: the start position and start timeline of the backup that it builds on.
    pub incremental_from: Option<(Lsn, TimelineId)>,
}

/// The lines that a backup history file has more than a label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StopInfo {
    /// How far replay must get.
    pub stop_wal_location: Lsn,
    /// As the server prints it, in its `log_timezone`.
    pub stop_time: String,
    /// The timeline that the backup ended on.
    pub stop_timeline: TimelineId,
}

/// Why the text is no label.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// A line is absent, or not where it belongs.
    #[error("the backup label has no line {0:?} where one belongs")]
    Missing(&'static str),
    /// A line is there and says nothing sensible.
    #[error("the backup label's line {field:?} says {value:?}")]
    Malformed {
        /// The line's beginning.
        field: &'static str,
        /// What follows, cut to 100 characters.
        value: String,
    },
    /// Behind the last known line comes another.
    #[error("the backup label ends in the unknown line {0:?}")]
    Unknown(String),
}

const START_WAL: &str = "START WAL LOCATION: ";
const STOP_WAL: &str = "STOP WAL LOCATION: ";
const CHECKPOINT: &str = "CHECKPOINT LOCATION: ";
const METHOD: &str = "BACKUP METHOD: ";
const FROM: &str = "BACKUP FROM: ";
const START_TIME: &str = "START TIME: ";
const LABEL: &str = "LABEL: ";
const START_TIMELINE: &str = "START TIMELINE: ";
const STOP_TIME: &str = "STOP TIME: ";
const STOP_TIMELINE: &str = "STOP TIMELINE: ";
const INCREMENTAL_LSN: &str = "INCREMENTAL FROM LSN: ";
const INCREMENTAL_TLI: &str = "INCREMENTAL FROM TLI: ";

impl BackupLabel {
    /// Reads a `backup_label` or a backup history file.
    pub fn parse(bytes: &[u8]) -> Result<Self, LabelError> {
        let text = String::from_utf8_lossy(bytes);
        // The label's text may hold line breaks, and after them anything, lines like the server's included. The server's
        // own lines come before it in a fixed order, and after it beginning with the last START TIMELINE.
        let (head, rest) = text.split_once("\nLABEL: ").ok_or(LabelError::Missing(LABEL))?;
        let (label, tail) = rest.rsplit_once("\nSTART TIMELINE: ").ok_or(LabelError::Missing(START_TIMELINE))?;

        let mut head = Lines(head);
        let (start_wal_location, start_wal_file) = head.location(START_WAL)?;
        let stop_wal = if head.begins(STOP_WAL) { Some(head.location(STOP_WAL)?) } else { None };
        let checkpoint_location = head.value(CHECKPOINT)?;
        let backup_method = head.text(METHOD)?.to_owned();
        let backup_from = head.text(FROM)?.to_owned();
        let start_time = head.text(START_TIME)?.to_owned();
        head.end()?;

        let mut tail = Lines(tail);
        let start_timeline = TimelineId(tail.value("").map_err(|error| error.on(START_TIMELINE))?);
        let stop = match stop_wal {
            Some((stop_wal_location, _)) => Some(StopInfo {
                stop_wal_location,
                stop_time: tail.text(STOP_TIME)?.to_owned(),
                stop_timeline: TimelineId(tail.value(STOP_TIMELINE)?),
            }),
            None => None,
        };
        let incremental_from = if tail.begins(INCREMENTAL_LSN) {
            Some((tail.value(INCREMENTAL_LSN)?, TimelineId(tail.value(INCREMENTAL_TLI)?)))
        } else {
            None
        };
        tail.end()?;

        Ok(Self {
            start_wal_location,
            start_wal_file,
            checkpoint_location,
            backup_method,
            backup_from,
            start_time,
            label: label.to_owned(),
            start_timeline,
            stop,
            incremental_from,
        })
    }
}

impl LabelError {
    /// The same error about another line.
    fn on(self, field: &'static str) -> Self {
        match self {
            Self::Missing(_) => Self::Missing(field),
            Self::Malformed { value, .. } => Self::Malformed { field, value },
            Self::Unknown(line) => Self::Unknown(line),
        }
    }
}

/// The lines that are still to be read.
struct Lines<'a>(&'a str);

impl<'a> Lines<'a> {
    fn begins(&self, field: &str) -> bool {
        self.0.starts_with(field)
    }

    /// The next line, which must be this field's.
    fn text(&mut self, field: &'static str) -> Result<&'a str, LabelError> {
        let rest = self.0.strip_prefix(field).ok_or(LabelError::Missing(field))?;
        let (line, rest) = rest.split_once('\n').unwrap_or((rest, ""));
        self.0 = rest;
        Ok(line)
    }

    fn value<T: std::str::FromStr>(&mut self, field: &'static str) -> Result<T, LabelError> {
        let text = self.text(field)?;
        text.parse().map_err(|_| LabelError::Malformed { field, value: excerpt(text) })
    }

    /// `0/2000028 (file 000000010000000000000002)`.
    fn location(&mut self, field: &'static str) -> Result<(Lsn, WalSegmentName), LabelError> {
        let text = self.text(field)?;
        let parse = || {
            let (position, file) = text.strip_suffix(')')?.split_once(" (file ")?;
            Some((position.parse().ok()?, WalSegmentName::parse(file)?))
        };
        parse().ok_or_else(|| LabelError::Malformed { field, value: excerpt(text) })
    }

    fn end(&self) -> Result<(), LabelError> {
        match self.0.lines().next() {
            None => Ok(()),
            Some(line) => Err(LabelError::Unknown(excerpt(line))),
        }
    }
}

/// What an error message can hold of a line.
fn excerpt(text: &str) -> String {
    text.chars().take(100).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    const STREAMED: &str = "START WAL LOCATION: 0/3000028 (file 000000010000000000000003)\n\
        CHECKPOINT LOCATION: 0/3000060\n\
        BACKUP METHOD: streamed\n\
        BACKUP FROM: primary\n\
        START TIME: 2026-11-20 14:25:55 UTC\n\
        LABEL: la\"b e\\l \u{fc}\n\
        START TIMELINE: 1\n";

    const HISTORY: &str = "START WAL LOCATION: 0/3000028 (file 000000010000000000000003)\n\
        STOP WAL LOCATION: 0/3000100 (file 000000010000000000000003)\n\
        CHECKPOINT LOCATION: 0/3000060\n\
        BACKUP METHOD: streamed\n\
        BACKUP FROM: primary\n\
        START TIME: 2026-11-20 14:25:55 UTC\n\
        LABEL: la\"b e\\l \u{fc}\n\
        START TIMELINE: 1\n\
        STOP TIME: 2026-11-20 14:25:55 UTC\n\
        STOP TIMELINE: 2\n";

    fn streamed() -> BackupLabel {
        BackupLabel {
            start_wal_location: Lsn(0x0300_0028),
            start_wal_file: WalSegmentName::parse("000000010000000000000003").unwrap(),
            checkpoint_location: Lsn(0x0300_0060),
            backup_method: "streamed".into(),
            backup_from: "primary".into(),
            start_time: "2026-11-20 14:25:55 UTC".into(),
            label: "la\"b e\\l \u{fc}".into(),
            start_timeline: TimelineId(1),
            stop: None,
            incremental_from: None,
        }
    }

    #[test]
    fn reads_a_servers_label() {
        assert_eq!(BackupLabel::parse(STREAMED.as_bytes()), Ok(streamed()));
    }

    #[test]
    fn reads_a_servers_backup_history_file() {
        let stop = StopInfo {
            stop_wal_location: Lsn(0x0300_0100),
            stop_time: "2026-11-20 14:25:55 UTC".into(),
            stop_timeline: TimelineId(2),
        };
        let expected = BackupLabel { stop: Some(stop), ..streamed() };
        assert_eq!(BackupLabel::parse(HISTORY.as_bytes()), Ok(expected));
    }

    #[test]
    fn reads_an_incremental_backups_label() {
        let text = format!("{STREAMED}INCREMENTAL FROM LSN: 0/1000028\nINCREMENTAL FROM TLI: 4\n");
        let expected = BackupLabel { incremental_from: Some((Lsn(0x0100_0028), TimelineId(4))), ..streamed() };
        assert_eq!(BackupLabel::parse(text.as_bytes()), Ok(expected));
    }

    #[rstest]
    #[case("")]
    #[case("two\nlines")]
    #[case("x\nSTART TIMELINE: 7\nSTOP TIME: never\nLABEL: y")]
    #[case("x\nINCREMENTAL FROM LSN: 0/1\n")]
    #[case("LABEL: \nLABEL: ")]
    fn a_label_cannot_pass_for_the_servers_lines(#[case] label: &str) {
        let text = STREAMED.replace("la\"b e\\l \u{fc}", label);
        let expected = BackupLabel { label: label.into(), ..streamed() };
        assert_eq!(BackupLabel::parse(text.as_bytes()), Ok(expected));
    }

    #[test]
    fn a_label_in_another_encoding_is_read() {
        let mut bytes = STREAMED.as_bytes().to_vec();
        let at = bytes.iter().position(|byte| *byte == 0xC3).unwrap();
        bytes.splice(at..at + 2, [0xFC]);
        assert_eq!(BackupLabel::parse(&bytes).unwrap().label, "la\"b e\\l \u{FFFD}");
    }

    #[rstest]
    #[case(STREAMED, "CHECKPOINT LOCATION: 0/3000060\n", "", "has no line \"CHECKPOINT LOCATION: \" where one belongs")]
    #[case(STREAMED, "LABEL: ", "LABLE: ", "has no line \"LABEL: \" where one belongs")]
    #[case(STREAMED, "\nSTART TIMELINE: 1\n", "", "has no line \"START TIMELINE: \" where one belongs")]
    #[case(STREAMED, "LINE: 1", "LINE: one", "'s line \"START TIMELINE: \" says \"one\"")]
    #[case(STREAMED, "LINE: 1\n", "LINE: 1\nMORE: 1\n", " ends in the unknown line \"MORE: 1\"")]
    #[case(
        STREAMED,
        "0/3000028 ",
        "3000028 ",
        "'s line \"START WAL LOCATION: \" says \"3000028 (file 000000010000000000000003)\""
    )]
    #[case(HISTORY, "STOP TIMELINE: 2\n", "", "has no line \"STOP TIMELINE: \" where one belongs")]
    #[case(
        STREAMED,
        "LINE: 1\n",
        "LINE: 1\nINCREMENTAL FROM LSN: 0/1\n",
        "has no line \"INCREMENTAL FROM TLI: \" where one belongs"
    )]
    #[case(STREAMED, "LABEL", "EXTRA: 1\nLABEL", " ends in the unknown line \"EXTRA: 1\"")]
    fn faults_are_named(#[case] text: &str, #[case] from: &str, #[case] to: &str, #[case] message: &str) {
        let error = BackupLabel::parse(text.replace(from, to).as_bytes()).unwrap_err().to_string();
        assert_eq!(error.strip_prefix("the backup label").map(str::trim_start), Some(message.trim_start()));
    }

    proptest! {
        #[test]
        fn any_label_text_is_given_back(label in "[a-zA-Z: \n\\\\\"/0-9\u{e9}]{0,80}") {
            let text = HISTORY.replace("la\"b e\\l \u{fc}", &label);
            prop_assert_eq!(BackupLabel::parse(text.as_bytes()).unwrap().label, label);
        }

        #[test]
        fn never_panics(cut in 0_usize..400, junk in proptest::collection::vec(any::<u8>(), 0..40)) {
            let mut bytes = HISTORY.as_bytes().to_vec();
            bytes.truncate(cut);
            bytes.extend(junk);
            BackupLabel::parse(&bytes).ok();
        }
    }
}
