//! What the findings mean for PostgreSQL. Pure.

use common::app::message_of;
use common::archive::segments::Fetched;
use common::pg::ArchiveName;
use common::report::{Advice, ExitClass};

use crate::request::Request;
use crate::search::Finding;

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
                hint: known.and_then(|advice| advice.hint.clone()),
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
