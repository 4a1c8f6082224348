//! PostgreSQL's own small files.

use std::fmt::Write as _;

use common::codec::Digest;
use common::pg::control::CONTROL_FILE_SIZE;
use common::pg::{
    BackupLabel, ControlError, ControlFile, Lsn, Manifest, ManifestWriter, TimelineHistory, TimelineId,
    tablespace_map as map,
};
use common::server::{PidFile, StartCommand};

use super::input;

/// `pg_control`: read as it is, and with zeros to its size and the right checksum.
pub fn control(bytes: &[u8]) {
    check_control(bytes).ok();
    let mut whole = bytes.to_vec();
    whole.resize(CONTROL_FILE_SIZE, 0);
    let (version, _) = input::number(whole.get(8..).unwrap_or_default());
    let crc_offset = if version == 1800 { 292 } else { 288 };
    let crc = crc32c::crc32c(whole.get(..crc_offset).unwrap_or_default());
    if let Some(place) = whole.get_mut(crc_offset..crc_offset + 4) {
        place.copy_from_slice(&crc.to_ne_bytes());
    }
    let outcome = check_control(&whole);
    assert!(!matches!(outcome, Err(ControlError::WrongChecksum { .. } | ControlError::WrongSize(_))), "{outcome:?}");
}

fn check_control(bytes: &[u8]) -> Result<ControlFile, ControlError> {
    let outcome = ControlFile::parse(bytes);
    if let Ok(control) = &outcome {
        let (system, _) = input::long(bytes);
        let (checkpoint, _) = input::long(bytes.get(32..).unwrap_or_default());
        assert_eq!((control.system_identifier, control.checkpoint), (system, Lsn(checkpoint)));
        assert!(matches!(control.pg_control_version, 1300 | 1700 | 1800));
        assert!(control.segment_size.bytes().is_power_of_two());
        assert!(control.major().is_none_or(|major| (14..=18).contains(&major)));
    }
    outcome
}

/// A timeline history: its timeline, then the file.
pub fn history(bytes: &[u8]) {
    let (timeline, text) = input::number(bytes);
    let Ok(history) = TimelineHistory::parse(TimelineId(timeline), text) else { return };
    let ids: Vec<_> = history.ancestors.iter().map(|entry| entry.timeline).collect();
    assert!(ids.is_sorted_by(|before, after| before < after) && ids.iter().all(|id| id.0 > 0 && id.0 < timeline));
    assert_eq!(history.ancestors.last().map(|entry| entry.switch), Some(history.begins()));
    for entry in &history.ancestors {
        for position in [entry.switch.0.saturating_sub(1), entry.switch.0, entry.switch.0.saturating_add(1)] {
            assert!(history.contains(history.timeline_at(Lsn(position))));
        }
        let left = history.switch_of(entry.timeline).unwrap_or(Lsn(u64::MAX));
        assert!(left <= entry.switch && history.timeline_at(left) > entry.timeline);
        assert!(left == Lsn(0) || history.timeline_at(Lsn(left.0 - 1)) <= entry.timeline);
    }
    assert_eq!(history.timeline_at(Lsn(u64::MAX)), history.timeline);
    assert_eq!(TimelineHistory::parse(TimelineId(timeline), history.to_text().as_bytes()), Ok(history));
}

/// A backup label or a backup history file.
pub fn label(bytes: &[u8]) {
    let Ok(label) = BackupLabel::parse(bytes) else { return };
    let again = label_text(&label).unwrap_or_default();
    assert_eq!(BackupLabel::parse(again.as_bytes()), Ok(label), "{again:?}");
}

/// The label as PostgreSQL writes it (`build_backup_content`).
fn label_text(label: &BackupLabel) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    let file = label.start_wal_file;
    writeln!(text, "START WAL LOCATION: {} (file {file})", label.start_wal_location)?;
    if let Some(stop) = &label.stop {
        writeln!(text, "STOP WAL LOCATION: {} (file {file})", stop.stop_wal_location)?;
    }
    writeln!(text, "CHECKPOINT LOCATION: {}", label.checkpoint_location)?;
    writeln!(text, "BACKUP METHOD: {}\nBACKUP FROM: {}", label.backup_method, label.backup_from)?;
    writeln!(text, "START TIME: {}\nLABEL: {}", label.start_time, label.label)?;
    writeln!(text, "START TIMELINE: {}", label.start_timeline)?;
    if let Some(stop) = &label.stop {
        writeln!(text, "STOP TIME: {}\nSTOP TIMELINE: {}", stop.stop_time, stop.stop_timeline)?;
    }
    if let Some((lsn, timeline)) = label.incremental_from {
        writeln!(text, "INCREMENTAL FROM LSN: {lsn}\nINCREMENTAL FROM TLI: {timeline}")?;
    }
    Ok(text)
}

/// `tablespace_map`.
pub fn tablespace_map(bytes: &[u8]) {
    let Ok(entries) = map::parse(bytes) else { return };
    assert!(entries.iter().all(|(_, path)| !path.as_os_str().is_empty()));
    let written = map::format(&entries);
    assert_eq!(map::parse(&written).as_ref(), Ok(&entries));
}

/// `backup_manifest`: read as it is, and with the right checksum in its last line.
pub fn manifest(bytes: &[u8]) {
    drop(Manifest::parse(bytes));
    let sealed = seal_manifest(bytes);
    let Ok(manifest) = Manifest::parse(&sealed) else { return };
    let Ok(written) = write_manifest(&manifest) else { unreachable!("a vector takes everything") };
    let mut again =
        Manifest::parse(&written).unwrap_or_else(|error| unreachable!("{error} in a manifest written here"));
    // A system identifier is what makes a manifest one of version 2.
    if manifest.system_identifier.is_some() {
        again.version = manifest.version;
    }
    assert_eq!(again, manifest);
}

/// The text with its last line put right.
fn seal_manifest(bytes: &[u8]) -> Vec<u8> {
    const FIELD: &[u8] = b"\"Manifest-Checksum\": \"";
    let end = bytes.windows(FIELD.len()).rposition(|window| window == FIELD).unwrap_or(bytes.len());
    let body = bytes.get(..end).unwrap_or_default();
    [body, FIELD, Digest::of(body).to_string().as_bytes(), b"\"}\n"].concat()
}

fn write_manifest(manifest: &Manifest) -> std::io::Result<Vec<u8>> {
    let mut writer = ManifestWriter::new(Vec::new(), manifest.system_identifier)?;
    for file in &manifest.files {
        writer.add(&file.as_file())?;
    }
    writer.finish(&manifest.ranges)
}

/// `postmaster.pid` and `postmaster.opts`.
pub fn server_files(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(file) = PidFile::parse(&text) {
        assert!(file.pid > 0, "{}", file.pid);
    }
    if let Some(command) = StartCommand::parse(&text) {
        assert!(!command.program.as_os_str().is_empty());
    }
}
