//! A cluster that is brought back to a moment for a look and then thrown away, beside a production server that must not
//! notice.
//!
//! It lives in a private folder of its own, tablespaces included, runs from a configuration that is written here and not
//! the original's, speaks through a socket in its own data directory alone, archives nothing, replicates nothing and lets
//! no background worker of a library run. Only the original's `shared_preload_libraries` are loaded: their WAL records
//! may have to be replayed. What it writes need not last, so nothing is synced.
//!
//! The caller has chosen backup, way and target, and proved that all of it is there. Then: [`Folder::make`],
//! [`Revival::secure`], [`Revival::unpack`], [`Revival::replay`], [`session()`], [`Folder::remove`], whatever came of the others.

mod configuration;
mod folder;
mod session;

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::archive::{Identity, Repository};
use crate::pg::Lsn;
use crate::repo::records::BackupRecord;
use crate::report::Cancel;
use crate::server::{self, Programs, StartOptions};
use crate::sys::durable;

use super::demands::Demands;
use super::extract::{Destination, Extracted, Means, extract_unsynced};
use super::follow::{Arrival, RECOVERY_SIGNAL, Recovery, STANDBY_SIGNAL};
use super::salvage;
use super::settings::Replay;
use super::wal_plan::WalPlan;

pub use folder::{Folder, choose, clear_leftovers, pgdata, tablespaces};
pub use session::{Entrance, session};

/// The port of a scratch server: a part of its socket's name, and its socket is in a folder of its own.
pub const PORT: u16 = 5432;

/// What is brought back, and with what.
#[derive(Clone, Copy)]
pub struct Revival<'a> {
    /// Where everything comes from.
    pub repository: &'a Repository,
    /// The backup.
    pub backup: &'a BackupRecord,
    /// Where replay goes; it must promote at the target.
    pub replay: &'a Replay,
    /// The WAL that restore-wal must be able to fetch. The `restore_command` names [`Folder::wal_plan`].
    pub wal: &'a WalPlan,
    /// The settings that replay meets on the way, as the WAL tells.
    pub demands: Demands,
    /// Where replay will end, for the progress.
    pub until: Option<Lsn>,
    /// Where WAL of the original lies on this host, its own `pg_wal` first, for what is in no repository. It is read and
    /// nothing else.
    pub live: Option<(&'a [PathBuf], Identity)>,
    /// The programs of the backup's version.
    pub programs: &'a Programs,
    /// How the backup is unpacked; its progress and cancellation are those of the replay, too.
    pub means: Means<'a>,
}

impl Revival<'_> {
    /// Unpacks the backup into the folder, every file checked. Nothing is synced.
    pub fn unpack(&self, folder: &Folder) -> anyhow::Result<Extracted> {
        let below = tablespaces(folder.path());
        let of_oid = |oid: u32| (oid, below.join(oid.to_string()));
        let tablespaces = self.backup.tablespaces.iter().map(|tablespace| of_oid(tablespace.oid)).collect();
        let destination = Destination { pgdata: folder.pgdata(), pg_wal: None, tablespaces };
        extract_unsynced(self.repository, self.backup, &destination, self.means)
    }

    /// Starts the server on what was unpacked, and follows it to the target, where it is promoted to a timeline that
    /// nobody else will see. Whether it came to the planned position is the caller's to compare. After an error the
    /// server may run on: [`Folder::remove`] ends it.
    pub fn replay(&self, folder: &Folder) -> anyhow::Result<Arrival> {
        let pgdata = folder.pgdata();
        for signal in [STANDBY_SIGNAL, RECOVERY_SIGNAL] {
            match durable::remove_file(&pgdata.join(signal)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("remove {signal} from {}", pgdata.display()));
                }
                _ => {}
            }
        }
        durable::create_dir_all(&folder.beside(), 0o700)
            .with_context(|| format!("make {}", folder.beside().display()))?;
        configuration::write(self, folder)?;
        self.wal.write(&folder.wal_plan())?;
        self.bring_live_wal(folder)?;
        put(&folder.log(), "")?;
        put(&pgdata.join(RECOVERY_SIGNAL), "")?;
        let settings = vec![("data_directory".to_owned(), pgdata.display().to_string())];
        let options = StartOptions { config_file: None, settings, log: folder.log() };
        server::start(self.programs, &pgdata, &options, self.cancel())?;
        let recovery = Recovery {
            pgdata: &pgdata,
            log: &folder.log(),
            timeline: self.replay.timeline,
            action: self.replay.action,
            standby: None,
            conninfo: &|| anyhow::bail!("a scratch server does not pause"),
            segment_bytes: self.backup.source.segment_size.bytes(),
            from: self.backup.span.start_lsn,
            until: self.until,
            progress: self.means.progress,
            cancel: self.cancel(),
        };
        recovery.follow()
    }

    fn cancel(&self) -> &Cancel {
        self.means.cancel
    }

    /// Keeps what the original has in its own `pg_wal` and no repository has, before its next checkpoint takes it away.
    pub fn secure(&self, folder: &Folder) -> anyhow::Result<()> {
        let Some(([pg_wal, ..], identity)) = &self.live else { return Ok(()) };
        salvage::secure(self.repository, identity, self.backup.span.start_lsn, pg_wal, &folder.tail())
    }

    /// Copies what the original has, or had before, and no repository has.
    fn bring_live_wal(&self, folder: &Folder) -> anyhow::Result<()> {
        let Some((places, identity)) = &self.live else { return Ok(()) };
        let from = [places, &[folder.tail()][..]].concat();
        salvage::bring(self.repository, identity, &from, &folder.pgdata().join("pg_wal")).map(drop)
    }

    /// The major version.
    fn major(&self) -> u32 {
        self.backup.source.version_number / 10_000
    }
}

fn put(path: &Path, text: &str) -> anyhow::Result<()> {
    durable::replace(path, text.as_bytes(), 0o600).with_context(|| format!("write {}", path.display()))
}
