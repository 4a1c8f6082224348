//! The lease that a recovery holds on its backup, so that retention keeps what it still needs.

use common::app::Context;
use common::archive::Repository;
use common::archive::leases::{self, Holder, LEFT_HOLDS, Lease};
use common::repo::records::BackupRecord;
use common::report::message_of;
use common::sys::identity::host_name;

use crate::facts;
use crate::journal::{Journal, Stage};
use crate::place::Place;

/// The lease of a run. When the run is over it is given up; where a server goes on fetching WAL without this program, it
/// is left to expire a day later instead. When the recovery is over, so is what earlier runs have left for it.
pub(crate) struct Hold<'a> {
    lease: Option<Lease>,
    repository: &'a Repository,
    place: &'a Place,
}

impl<'a> Hold<'a> {
    /// Takes the lease; `purpose` is the command. A repository that cannot be written to is no reason not to recover from it: then nobody keeps
    /// retention from removing what is needed, and that is said.
    pub(crate) fn take(
        repository: &'a Repository,
        backup: &BackupRecord,
        place: &'a Place,
        purpose: &str,
        ctx: &Context,
    ) -> Self {
        let host = host_name();
        let holder = Holder { host: &host, data_directory: &place.pgdata, purpose };
        let lease = Lease::take(repository, backup, &holder, &ctx.clock)
            .inspect_err(|err| {
                tracing::warn!("{} is not protected from retention meanwhile: {}", backup.id, message_of(err));
            })
            .ok();
        Self { lease, repository, place }
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        let Some(lease) = self.lease.take() else { return };
        let journal = Journal::read(self.place).ok().flatten();
        if journal.as_ref().is_some_and(goes_on) {
            return told(lease.leave(LEFT_HOLDS));
        }
        told(lease.release());
        if journal.is_some_and(|journal| journal.is_over()) {
            end_left(self.repository, self.place);
        }
    }
}

/// Whether a server fetches WAL, or will, though the run has ended.
fn goes_on(journal: &Journal) -> bool {
    let first = if journal.plan.starts { Stage::Started } else { Stage::Placed };
    !journal.is_over() && journal.stage >= first
}

/// Gives up what earlier runs left for this place: the recovery is over.
pub(crate) fn end_left(repository: &Repository, place: &Place) {
    told(leases::release_all(repository, &host_name(), &place.pgdata).map(drop));
}

/// As [`end_left`], of the repository that is configured.
pub(crate) fn end_configured(place: &Place, ctx: &Context) {
    match facts::open_repository(ctx) {
        Ok(repository) => end_left(&repository, place),
        Err(err) => told(Err(err)),
    }
}

fn told(ended: anyhow::Result<()>) {
    if let Err(err) = ended {
        tracing::warn!("the recovery's lease stays until it expires: {}", message_of(&err));
    }
}
