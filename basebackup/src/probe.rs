//! Proves, before anything is copied, that this cluster's WAL reaches this repository.

use common::arrival::{self, Watch};

use crate::preflight::Subject;

/// Waits for the proof; a refusal with the reason when it does not come.
pub(crate) fn probe(subject: &mut Subject, watch: Watch<'_>) -> anyhow::Result<()> {
    let Subject { session, facts, .. } = subject;
    let Some(segment) = arrival::newest_finished(session, facts, watch.size)? else { return Ok(()) };
    tracing::debug!("waiting for WAL segment {segment} in {}", watch.repository.describe());
    match arrival::wait(watch, session, segment, segment)? {
        None => Ok(()),
        Some(missing) => Err(missing.advice(facts.archive_command()).into()),
    }
}
