//! What the findings mean for PostgreSQL. Pure.

use common::app::hint_of;
use common::archive::segments::Fetched;
use common::pg::ArchiveName;
use common::report::{Advice, ExitClass, message_of};

use crate::request::Request;
use crate::search::Finding;
use crate::shelf::Note;

/// What restore-wal answers.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The file is in place.
    Delivered,
    /// PostgreSQL may take it that the archive does not have the file.
    Absent {
        /// A line for the log, where the answer is not the plain end of the archive.
        log: Option<String>,
    },
    /// PostgreSQL must stop.
    Stop(Advice),
}

/// Decides. `local` says whether the server's own `pg_wal` holds the segment whole.
pub(crate) fn decide(request: &Request, findings: &[Finding], local: bool) -> Answer {
    if findings.iter().any(|finding| matches!(finding.fetched, Fetched::Delivered)) {
        return Answer::Delivered;
    }
    let Some(stop) = findings.iter().filter_map(|finding| failure(request.name, finding)).max_by_key(severity) else {
        return Answer::Absent { log: None };
    };
    if is_hole_everywhere(findings) && local {
        let log = format!("{stop}; PostgreSQL uses the one in its own pg_wal");
        return Answer::Absent { log: Some(log) };
    }
    if request.is_needed() {
        Answer::Stop(stop)
    } else {
        Answer::Absent { log: Some(format!("{stop}; the recovery does not need it")) }
    }
}

/// What is to be told of the repositories that were asked before one delivered: why the first that should have had the
/// file did not. `None` where all is as it should be, and where the file is only missing: it may be older than that
/// repository.
pub(crate) fn passed_over(name: ArchiveName, findings: &[Finding]) -> Option<Note> {
    let is_fault = |finding: &&Finding| matches!(finding.fetched, Fetched::Damaged(_) | Fetched::Unreachable(_));
    let finding = findings.iter().find(is_fault)?;
    let text = format!("{}; another repository has it", failure(name, finding)?);
    // Every damaged file is news, a repository that is away only the first time.
    let is_damaged = matches!(finding.fetched, Fetched::Damaged(_));
    let what = if is_damaged { text.replace('\n', " ") } else { format!("{} is away", finding.place) };
    Some(Note { what, text })
}

/// Every repository answered and none has the segment.
fn is_hole_everywhere(findings: &[Finding]) -> bool {
    findings.iter().all(|finding| matches!(finding.fetched, Fetched::Hole(_) | Fetched::Absent))
}

/// Why this repository's answer is no proof of absence; `None` when it is one.
fn failure(name: ArchiveName, finding: &Finding) -> Option<Advice> {
    let place = &finding.place;
    match &finding.fetched {
        Fetched::Delivered | Fetched::Absent => None,
        Fetched::Hole(later) => Some(
            Advice::failed(format!(
                "{name} is missing from {place}, which has {later}: there is a hole in the archive"
            ))
            .hint(format!("bring {name} into the repository with archive-wal, from the old server's pg_wal or a copy")),
        ),
        Fetched::Damaged(reason) => Some(
            Advice::failed(format!("{name} in {place} is damaged: {reason}"))
                .hint("add a repository with a good copy, or recover to a moment before this segment"),
        ),
        Fetched::Unreachable(err) => {
            let known = err.downcast_ref::<Advice>();
            Some(Advice {
                class: known.map_or(ExitClass::Failed, |advice| advice.class),
                message: format!("restore {name} from {place}: {}", message_of(err)),
                hint: hint_of(err),
            })
        }
    }
}

/// Which of several failures is told: what is certain before what may pass.
fn severity(advice: &Advice) -> u8 {
    match advice.class {
        ExitClass::NoRepository => 0,
        ExitClass::Failed => 1,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::archive::Identity;
    use common::pg::{Lsn, SegmentSize, TimelineId};
    use common::restore::wal_plan::{Stretch, WalPlan};
    use rstest::rstest;

    #[derive(Debug, Clone, Copy)]
    enum Said {
        Delivered,
        Absent,
        Hole,
        Damaged,
        Unreachable,
        NoRepository,
    }

    fn finding(said: Said) -> Finding {
        let later = ArchiveName::parse("000000010000000000000009");
        let fetched = match said {
            Said::Delivered => Fetched::Delivered,
            Said::Absent => Fetched::Absent,
            Said::Hole => Fetched::Hole(later.unwrap()),
            Said::Damaged => Fetched::Damaged("torn".to_owned()),
            Said::Unreachable => Fetched::Unreachable(anyhow::anyhow!("no answer")),
            Said::NoRepository => Fetched::Unreachable(Advice::no_repository("nothing there").into()),
        };
        Finding { place: "/repo".to_owned(), fetched }
    }

    fn request(planned_up_to: Option<u64>) -> Request {
        let stretch = |to| Stretch { timeline: TimelineId(1), from: Lsn(0), to: Some(Lsn(to)) };
        Request {
            name: ArchiveName::parse("000000010000000000000007").unwrap(),
            destination: "pg_wal/RECOVERYXLOG".into(),
            pgdata: ".".into(),
            identity: Identity { system_identifier: 1, segment_size: SegmentSize::DEFAULT, major: Some(15) },
            plan: planned_up_to.map(|to| WalPlan { system_identifier: 1, stretches: vec![stretch(to)] }),
            hole_grace: std::time::Duration::ZERO,
            prefetch: common::units::ByteCount(0),
        }
    }

    /// The answer in a word: what PostgreSQL makes of it.
    fn word(request: &Request, said: &[Said], local: bool) -> &'static str {
        let findings: Vec<Finding> = said.iter().copied().map(finding).collect();
        match decide(request, &findings, local) {
            Answer::Delivered => "delivered",
            Answer::Absent { log: None } => "absent",
            Answer::Absent { log: Some(_) } => "absent, told",
            Answer::Stop(_) => "stop",
        }
    }

    #[rstest]
    #[case(&[Said::Delivered], false, "delivered")]
    #[case(&[Said::Damaged, Said::Delivered], false, "delivered")]
    #[case(&[Said::Absent], false, "absent")]
    #[case(&[Said::Absent, Said::Absent], true, "absent")]
    #[case(&[Said::Hole], false, "stop")]
    #[case(&[Said::Hole], true, "absent, told")]
    #[case(&[Said::Absent, Said::Hole], true, "absent, told")]
    #[case(&[Said::Damaged], false, "stop")]
    #[case(&[Said::Damaged], true, "stop")]
    #[case(&[Said::Absent, Said::Damaged], true, "stop")]
    #[case(&[Said::Unreachable], true, "stop")]
    #[case(&[Said::Absent, Said::Unreachable], false, "stop")]
    #[case(&[Said::NoRepository], false, "stop")]
    fn only_proof_is_absence(#[case] said: &[Said], #[case] local: bool, #[case] expected: &str) {
        assert_eq!(word(&request(None), said, local), expected);
    }

    #[rstest]
    #[case(Said::Hole)]
    #[case(Said::Damaged)]
    #[case(Said::Unreachable)]
    fn a_plan_narrows_what_must_be_had(#[case] said: Said) {
        let segment = SegmentSize::DEFAULT.bytes();
        assert_eq!(word(&request(Some(7 * segment)), &[said], false), "absent, told");
        assert_eq!(word(&request(Some(7 * segment + 1)), &[said], false), "stop");
    }

    #[rstest]
    #[case(&[], None)]
    #[case(&[Said::Absent], None)]
    #[case(&[Said::Hole], None)]
    #[case(&[Said::Absent, Said::Damaged], Some("torn"))]
    #[case(&[Said::Unreachable, Said::Damaged], Some("no answer"))]
    fn what_was_passed_over_is_told(#[case] said: &[Said], #[case] word: Option<&str>) {
        let findings: Vec<Finding> = said.iter().copied().map(finding).collect();
        let told = passed_over(request(None).name, &findings);
        assert_eq!(told.is_some(), word.is_some());
        assert!(told.is_none_or(|told| told.text.contains(word.unwrap()) && told.text.contains("another repository")));
    }

    #[test]
    fn what_is_certain_is_told_first() {
        let findings = [finding(Said::NoRepository), finding(Said::Damaged)];
        let Answer::Stop(advice) = decide(&request(None), &findings, false) else { panic!("it must stop") };
        assert!(advice.message.contains("torn"), "{advice}");
    }
}
