//! Adds up. Pure: files and the time in, figures out.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use common::archive::sweep::WalFile;
use common::pg::{ArchiveName, SegmentSize, TimelineId, WalSegmentName};
use common::repo::chain::Inventory;
use serde::Serialize;

use super::gather::System;

const DAY_SECONDS: f64 = 86_400.0;

/// The shortest time that a rate is told of.
const SPAN_MIN: Duration = Duration::from_hours(1);

/// The figures of one system.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Figures {
    /// Whose WAL it is, as text.
    pub(crate) system_identifier: String,
    /// PostgreSQL's major version, where the repository knows it.
    pub(crate) postgresql_major: Option<u32>,
    /// The size of a segment, where the repository knows it.
    pub(crate) segment_bytes: Option<u64>,
    /// All files.
    pub(crate) files: u64,
    /// Whole segments.
    pub(crate) segments: u64,
    /// Timeline histories.
    pub(crate) histories: u64,
    /// Last segments of timelines that were left, those set aside included.
    pub(crate) partials: u64,
    /// Backup history files.
    pub(crate) backup_histories: u64,
    /// The stored size of all files.
    pub(crate) stored_bytes: u64,
    /// The plain size of the whole segments; none when the size of a segment is not known.
    pub(crate) plain_bytes: Option<u64>,
    /// How many times smaller the whole segments are than they were; none when there is none.
    pub(crate) compression_ratio: Option<f64>,
    /// The segment that was written first.
    pub(crate) first: Option<Written>,
    /// The segment that was written last.
    pub(crate) last: Option<Written>,
    /// Each timeline that has a segment, in order.
    pub(crate) timelines: Vec<Timeline>,
    /// What came in a day.
    pub(crate) per_day: PerDay,
}

/// A segment and when its object was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Written {
    /// Which one.
    pub(crate) segment: WalSegmentName,
    /// When, by the repository's clock.
    pub(crate) at: DateTime<Utc>,
}

impl Serialize for Written {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct as _;
        let mut object = serializer.serialize_struct("Written", 2)?;
        object.serialize_field("segment", &self.segment.to_string())?;
        object.serialize_field("written_at", &self.at)?;
        object.end()
    }
}

/// The figures of one timeline.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Timeline {
    /// Which one.
    #[serde(rename = "timeline")]
    pub(crate) id: TimelineId,
    /// Whole segments.
    pub(crate) segments: u64,
    /// Their stored size.
    pub(crate) stored_bytes: u64,
    /// The first by name.
    pub(crate) first: String,
    /// The last by name.
    pub(crate) last: String,
    /// When the newest object was written.
    pub(crate) last_written_at: DateTime<Utc>,
    /// How many stretches of segments are missing between the two; none when the size of a segment is not known.
    pub(crate) holes: Option<u64>,
    /// How many segments they are.
    pub(crate) missing_segments: Option<u64>,
}

/// What came in a day.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct PerDay {
    /// Over the time from the first to the last segment's writing; none when that is less than an hour, which tells nothing of
    /// a day.
    pub(crate) whole: Option<Rate>,
    /// In the last 24 hours.
    pub(crate) last_day: Rate,
}

/// A day's WAL.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Rate {
    /// Whole segments.
    pub(crate) segments: f64,
    /// Their stored size.
    pub(crate) stored_bytes: f64,
    /// Their plain size; none when the size of a segment is not known.
    pub(crate) plain_bytes: Option<f64>,
}

/// Adds up the files of one system.
pub(crate) fn count(system: &System, now: DateTime<Utc>) -> Figures {
    let count = |is: fn(&ArchiveName) -> bool| system.files.iter().filter(|file| is(&file.name)).count() as u64;
    let segments = segments(&system.files);
    let stored = |files: &[(WalSegmentName, &WalFile)]| files.iter().map(|(_, file)| file.bytes).sum::<u64>();
    let segment_bytes = system.segment_size.map(SegmentSize::bytes);
    let plain = |count: u64| segment_bytes.map(|bytes| bytes.saturating_mul(count));
    let plain_bytes = plain(segments.len() as u64);
    let written = |(segment, file): &(WalSegmentName, &WalFile)| Written { segment: *segment, at: file.modified };
    let first = segments.iter().min_by_key(|(name, file)| (file.modified, *name)).map(written);
    let last = segments.iter().max_by_key(|(name, file)| (file.modified, *name)).map(written);
    Figures {
        system_identifier: system.identifier.to_string(),
        postgresql_major: system.major,
        segment_bytes,
        files: system.files.len() as u64,
        segments: segments.len() as u64,
        histories: count(|name| matches!(name, ArchiveName::History(_))),
        partials: count(|name| matches!(name, ArchiveName::Partial(_))),
        backup_histories: count(|name| matches!(name, ArchiveName::BackupHistory(..))),
        stored_bytes: system.files.iter().map(|file| file.bytes).sum(),
        plain_bytes,
        compression_ratio: ratio(plain_bytes, stored(&segments)),
        timelines: timelines(&segments, system.segment_size),
        per_day: PerDay {
            whole: first.zip(last).and_then(|(first, last)| whole_rate(&segments, segment_bytes, last.at - first.at)),
            last_day: rate(&since(&segments, now - TimeDelta::days(1)), segment_bytes, 1.0),
        },
        first,
        last,
    }
}

type Segment<'a> = (WalSegmentName, &'a WalFile);

/// The whole segments, each once: one in two codecs is one.
fn segments(files: &[WalFile]) -> Vec<Segment<'_>> {
    let mut segments: BTreeMap<WalSegmentName, &WalFile> = BTreeMap::new();
    for file in files {
        if let ArchiveName::Segment(name) = file.name {
            segments.entry(name).or_insert(file);
        }
    }
    segments.into_iter().collect()
}

#[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
fn ratio(plain: Option<u64>, stored: u64) -> Option<f64> {
    plain.filter(|plain| *plain > 0 && stored > 0).map(|plain| plain as f64 / stored as f64)
}

fn since<'a>(segments: &[Segment<'a>], moment: DateTime<Utc>) -> Vec<Segment<'a>> {
    segments.iter().copied().filter(|(_, file)| file.modified > moment).collect()
}

/// The first segment's own time is not part of the span, so it is not counted either.
fn whole_rate(segments: &[Segment<'_>], segment_bytes: Option<u64>, span: TimeDelta) -> Option<Rate> {
    let span = span.to_std().ok().filter(|span| *span >= SPAN_MIN)?;
    let first = segments.iter().map(|(_, file)| file.modified).min()?;
    Some(rate(&since(segments, first), segment_bytes, span.as_secs_f64() / DAY_SECONDS))
}

#[expect(clippy::cast_precision_loss, reason = "rates for people")]
fn rate(segments: &[Segment<'_>], segment_bytes: Option<u64>, days: f64) -> Rate {
    let stored: u64 = segments.iter().map(|(_, file)| file.bytes).sum();
    let count = segments.len() as f64;
    Rate {
        segments: count / days,
        stored_bytes: stored as f64 / days,
        plain_bytes: segment_bytes.map(|bytes| count * bytes as f64 / days),
    }
}

fn timelines(segments: &[Segment<'_>], size: Option<SegmentSize>) -> Vec<Timeline> {
    let of_one = |group: &[Segment<'_>]| {
        let ((first, _), (last, _)) = (group.first()?, group.last()?);
        let holes = size.map(|size| holes(group, size));
        Some(Timeline {
            id: first.timeline,
            segments: group.len() as u64,
            stored_bytes: group.iter().map(|(_, file)| file.bytes).sum(),
            first: first.to_string(),
            last: last.to_string(),
            last_written_at: group.iter().map(|(_, file)| file.modified).max()?,
            holes: holes.map(|(holes, _)| holes),
            missing_segments: holes.map(|(_, missing)| missing),
        })
    };
    segments.chunk_by(|(one, _), (next, _)| one.timeline == next.timeline).filter_map(of_one).collect()
}

/// How many holes a timeline has, and how many segments they are.
fn holes(group: &[Segment<'_>], size: SegmentSize) -> (u64, u64) {
    let mut inventory = Inventory::new(size);
    for (name, _) in group {
        inventory.add_segment(*name);
    }
    let timeline = group.first().map_or(TimelineId(0), |(name, _)| name.timeline);
    let holes = inventory.holes(timeline);
    let length = |(first, last): &(WalSegmentName, WalSegmentName)| {
        last.number(size).zip(first.number(size)).map_or(0, |(last, first)| last - first + 1)
    };
    (holes.len() as u64, holes.iter().map(length).sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::store::Key;

    fn moment(hours: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000, 0).unwrap() + TimeDelta::hours(hours)
    }

    fn file(name: &str, bytes: u64, hours: i64) -> WalFile {
        let key = Key::new(format!("main/wal/7/x/{name}.zst")).unwrap();
        WalFile { key, name: ArchiveName::parse(name).unwrap(), bytes, modified: moment(hours) }
    }

    fn system(files: Vec<WalFile>) -> System {
        System { identifier: 7, major: Some(15), segment_size: SegmentSize::new(1 << 20), files }
    }

    #[test]
    fn an_empty_system_has_no_figures_but_zeros() {
        let figures = count(&system(Vec::new()), moment(0));
        assert_eq!((figures.files, figures.stored_bytes, figures.plain_bytes), (0, 0, Some(0)));
        assert_eq!((figures.compression_ratio, figures.first, figures.last), (None, None, None));
        assert_eq!((figures.per_day.whole, figures.timelines.len()), (None, 0));
    }

    #[test]
    fn everything_is_counted_once() {
        let mut again = file("000000010000000000000001", 9999, 0);
        again.key = Key::new("main/wal/7/x/000000010000000000000001.lz4").unwrap();
        let figures = count(
            &system(vec![
                file("000000010000000000000001", 1 << 18, 0),
                again,
                file("000000010000000000000002", 1 << 18, 24),
                file("000000010000000000000005", 1 << 18, 36),
                file("000000010000000000000005.00000028.backup", 100, 36),
                file("000000010000000000000006.partial", 100, 36),
                file("00000002.history", 100, 36),
                file("000000020000000000000006", 1 << 18, 48),
            ]),
            moment(49),
        );
        assert_eq!((figures.files, figures.segments, figures.histories), (8, 4, 1));
        assert_eq!((figures.partials, figures.backup_histories), (1, 1));
        assert_eq!(figures.stored_bytes, (4 << 18) + 9999 + 300);
        assert_eq!((figures.plain_bytes, figures.compression_ratio), (Some(4 << 20), Some(4.0)));
        assert_eq!(figures.first.unwrap().at, moment(0));
        assert_eq!(figures.last.unwrap().segment.to_string(), "000000020000000000000006");
        let holes: Vec<_> = figures.timelines.iter().map(|it| (it.segments, it.holes, it.missing_segments)).collect();
        assert_eq!(holes, [(3, Some(1), Some(2)), (1, Some(0), Some(0))]);
        // Three came in the two days after the first, two in the last 24 hours.
        let whole = figures.per_day.whole.unwrap();
        assert_eq!((whole.segments, whole.plain_bytes), (1.5, Some(1.5 * f64::from(1 << 20))));
        let size = f64::from(1 << 20);
        let last_day = Rate { segments: 2.0, stored_bytes: size / 2.0, plain_bytes: Some(2.0 * size) };
        assert_eq!(figures.per_day.last_day, last_day);
    }

    #[test]
    fn without_a_record_sizes_are_not_guessed() {
        let unknown = System { segment_size: None, ..system(vec![file("000000010000000000000001", 5, 0)]) };
        let figures = count(&unknown, moment(1));
        assert_eq!((figures.plain_bytes, figures.compression_ratio, figures.timelines[0].holes), (None, None, None));
        assert_eq!(figures.per_day.last_day.plain_bytes, None);
    }
}
