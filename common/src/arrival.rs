//! Proves that a server's WAL arrives in a repository, and says what stands in the way when it does not.
//!
//! An idle primary archives nothing by itself, so a record is written and the segment ended ([`newest_finished`]); then
//! the repository is watched until that segment is there ([`wait()`]). A standby ends no segment: there the newest whole
//! one must have come.

use std::time::Duration;

use crate::archive::Repository;
use crate::archive::segments::locate;
use crate::pg::{ArchiveName, Lsn, SegmentSize, SystemIdentifier, TimelineId, WalSegmentName};
use crate::report::{Advice, Cancel};
use crate::server::backup::{ArchiverStatus, archiver_status, switch_wal};
use crate::server::{ServerFacts, Session};
use crate::sys::clock::{Deadline, poll};
use crate::units::Took;

/// How often the repository is looked at.
const PAUSE: Duration = Duration::from_millis(100);

/// How many looks at the repository there are for one question to the server.
const LOOKS_PER_QUESTION: u32 = 10;

/// Where WAL is waited for.
#[derive(Debug, Clone, Copy)]
pub struct Watch<'a> {
    /// The repository.
    pub repository: &'a Repository,
    /// Whose WAL it is.
    pub system: SystemIdentifier,
    /// The size of its segments.
    pub size: SegmentSize,
    /// Whether the server is a standby: what its own archiver does says nothing then.
    pub standby: bool,
    /// How long nothing may happen.
    pub patience: Duration,
    /// Asked between looks.
    pub cancel: &'a Cancel,
}

/// A segment that did not arrive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    segment: WalSegmentName,
    repository: String,
    /// What the server's archiver says; none of a standby's, which does not matter.
    archiver: Option<ArchiverStatus>,
    patience: Duration,
}

/// The newest segment that the server has finished: on a primary the current one, which is ended for it; on a standby
/// the last that was received whole, none before the end of the first.
pub fn newest_finished(
    session: &mut Session,
    facts: &ServerFacts,
    size: SegmentSize,
) -> anyhow::Result<Option<WalSegmentName>> {
    if facts.in_recovery {
        return Ok(last_before(facts.timeline, facts.position, size));
    }
    Ok(Some(WalSegmentName::before(facts.timeline, switch_wal(session)?, size)))
}

/// The last segment that ends at or before `position`; none before the end of the first.
fn last_before(timeline: TimelineId, position: Lsn, size: SegmentSize) -> Option<WalSegmentName> {
    let number = (position.0 / size.bytes()).checked_sub(1)?;
    Some(WalSegmentName::numbered(timeline, number, size))
}

/// Waits until all segments from `first` to `last` are in the repository; answers the first one that does not arrive.
///
/// The wait ends when nothing has happened for as long as the patience lasts: no segment arrived here and the server
/// archived nothing. It ends at once when the server says that it archived a segment which is not here.
pub fn wait(
    watch: Watch<'_>,
    session: &mut Session,
    first: WalSegmentName,
    last: WalSegmentName,
) -> anyhow::Result<Option<Missing>> {
    let ask = |session: &mut Session| (!watch.standby).then(|| archiver_status(session)).transpose();
    let mut archiver = ask(session)?;
    let mut wanted = Some(first);
    loop {
        let before = (wanted, archiver.as_ref().map(|it| (it.archived_count, it.last_archived.clone())));
        let mut looks = 0;
        let news = poll(Deadline::after(watch.patience), PAUSE, watch.cancel, || {
            if looks % LOOKS_PER_QUESTION == 0 {
                archiver = ask(session)?;
            }
            looks += 1;
            // After the question: what the server had archived by then must be there now.
            wanted = skip_present(watch, wanted, last)?;
            let now = (wanted, archiver.as_ref().map(|it| (it.archived_count, it.last_archived.clone())));
            Ok((now != before || wanted.is_none_or(|segment| is_elsewhere(archiver.as_ref(), segment))).then_some(()))
        })?;
        let Some(segment) = wanted else { return Ok(None) };
        if news.is_none() || is_elsewhere(archiver.as_ref(), segment) {
            let repository = watch.repository.describe();
            return Ok(Some(Missing { segment, repository, archiver, patience: watch.patience }));
        }
    }
}

/// The first segment from `wanted` on that is not in the repository.
fn skip_present(
    watch: Watch<'_>,
    mut wanted: Option<WalSegmentName>,
    last: WalSegmentName,
) -> anyhow::Result<Option<WalSegmentName>> {
    while let Some(segment) = wanted.filter(|segment| *segment <= last) {
        if locate(watch.repository, watch.system, ArchiveName::Segment(segment))?.is_none() {
            return Ok(Some(segment));
        }
        wanted = segment.next(watch.size);
    }
    Ok(None)
}

/// Whether the archiver says that it has archived this segment, which is not here. It archives a timeline's segments
/// in their order.
fn is_elsewhere(archiver: Option<&ArchiverStatus>, segment: WalSegmentName) -> bool {
    let last = archiver.and_then(|archiver| archiver.last_archived.as_deref()).and_then(ArchiveName::parse);
    matches!(last, Some(ArchiveName::Segment(last)) if last.timeline == segment.timeline && last >= segment)
}

impl Missing {
    /// What happened and what to look at. `command` is the server's `archive_command`, where it has one.
    pub fn advice(&self, command: Option<&str>) -> Advice {
        let Self { segment, repository, archiver, patience } = self;
        let elsewhere = is_elsewhere(archiver.as_ref(), *segment);
        let mut message = if elsewhere {
            format!("the server has archived WAL segment {segment}, but not into {repository}")
        } else {
            format!("WAL segment {segment} did not arrive in {repository}: nothing happened for {}", Took(*patience))
        };
        let failure = archiver.as_ref().filter(|_| !elsewhere);
        if let Some((archiver, file)) = failure.and_then(|archiver| Some((archiver, archiver.last_failed.as_ref()?))) {
            let when = archiver.last_failed_time.map(|time| format!(" at {}", time.format("%F %T UTC")));
            let (count, when) = (archiver.failed_count, when.unwrap_or_default());
            message = format!("{message}; the archiver failed {count} times, last on {file}{when}");
        }
        let hint = match (archiver, command) {
            (None, _) => format!(
                "the WAL of a standby is archived by its primary: see that it archives into {repository}, and let it \
                 end its segment (SELECT pg_switch_wal() there, or a low archive_timeout)"
            ),
            (Some(_), Some(command)) => format!(
                "archive_command is '{command}'; it must call archive-wal for this repository and cluster, and the \
                 server's log has what it said"
            ),
            (Some(_), None) => "the server's log has what its archiver said".to_owned(),
        };
        Advice::refused(message).hint(hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn archiver(last_archived: Option<&str>, last_failed: Option<&str>) -> ArchiverStatus {
        ArchiverStatus {
            archived_count: 1,
            last_archived: last_archived.map(str::to_owned),
            last_archived_time: None,
            failed_count: 3,
            last_failed: last_failed.map(str::to_owned),
            last_failed_time: None,
        }
    }

    #[rstest]
    #[case(0x00FF_FFFF, None)]
    #[case(0x0100_0000, Some("000000030000000000000000"))]
    #[case(0x0100_0001, Some("000000030000000000000000"))]
    #[case(0x0200_0000, Some("000000030000000000000001"))]
    fn only_whole_segments_count(#[case] position: u64, #[case] expected: Option<&str>) {
        let segment = last_before(TimelineId(3), Lsn(position), SegmentSize::DEFAULT);
        assert_eq!(segment.map(|segment| segment.to_string()).as_deref(), expected);
    }

    fn segment() -> WalSegmentName {
        WalSegmentName::parse("000000020000000000000007").unwrap()
    }

    #[rstest]
    #[case(None, false)]
    #[case(Some("000000020000000000000006"), false)]
    #[case(Some("000000020000000000000007"), true)]
    #[case(Some("000000020000000000000008"), true)]
    #[case(Some("000000010000000000000008"), false)]
    #[case(Some("000000020000000000000007.00000028.backup"), false)]
    #[case(Some("00000002.history"), false)]
    fn knows_what_the_server_archived(#[case] last: Option<&str>, #[case] expected: bool) {
        assert_eq!(is_elsewhere(Some(&archiver(last, None)), segment()), expected);
    }

    #[test]
    fn says_what_stands_in_the_way() {
        let missing = |archiver| Missing {
            segment: segment(),
            repository: "/repo".to_owned(),
            archiver,
            patience: Duration::from_mins(1),
        };
        let failing = missing(Some(archiver(None, Some("000000020000000000000005")))).advice(Some("false"));
        assert_eq!(
            failing.message,
            "WAL segment 000000020000000000000007 did not arrive in /repo: nothing happened for 1 min 00 s; \
             the archiver failed 3 times, last on 000000020000000000000005"
        );
        assert!(failing.hint.unwrap().starts_with("archive_command is 'false'"));
        let elsewhere = missing(Some(archiver(Some("000000020000000000000007"), Some("x")))).advice(None);
        assert_eq!(
            elsewhere.message,
            "the server has archived WAL segment 000000020000000000000007, but not into /repo"
        );
        assert!(missing(None).advice(None).hint.unwrap().contains("primary"));
    }
}
