//! What `main` hands to every program.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;

use super::cli::ServerArgs;
use super::config::{RepositorySetting, Settings};
use super::environment::Environment;
use super::exit::Program;
use super::output::Output;
use crate::archive::Repository;
use crate::archive::memory::{Known, Memory};
use crate::archive::segments::{self, Sought};
use crate::archive::spool::Places;
use crate::pg::{ArchiveName, SystemIdentifier};
use crate::repo::records::IdentityRecord;
use crate::report::{Advice, Cancel, Progress, message_of};
use crate::server::{self, Conninfo};
use crate::store;
use crate::sys::clock::Clock;
use crate::sys::identity;

/// The world outside, made once and passed down.
pub struct Context {
    /// Which program this is.
    pub program: Program,
    /// What the user configured.
    pub settings: Settings,
    /// The data directory that the program works for, where it is known: what it found out itself, else what is
    /// configured.
    pub data_directory: Option<PathBuf>,
    /// Environment variables and the current directory.
    pub environment: Environment,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Standard output.
    pub output: Output,
    /// Where long work tells how far it is.
    pub progress: Arc<dyn Progress>,
    /// Set when the process is asked to stop; long work ends with [`crate::report::Interrupted`] then.
    pub cancel: Cancel,
}

impl Context {
    /// Opens the cluster's place in this repository; writes nothing.
    pub fn open(&self, setting: &RepositorySetting) -> anyhow::Result<Repository> {
        let store = store::open(&setting.url.value)?;
        Repository::open(store, self.settings.cluster.value.clone(), setting.compression)
    }

    /// Opens the cluster's place in this repository and, at the same time, one WAL file in it; writes nothing.
    pub fn seek(
        &self,
        setting: &RepositorySetting,
        system: SystemIdentifier,
        name: ArchiveName,
    ) -> anyhow::Result<(Sought, Option<IdentityRecord>)> {
        let store = store::open(&setting.url.value)?;
        segments::seek(&store, self.settings.cluster.value.clone(), setting.compression, system, name)
    }

    /// Opens the cluster's place in this repository, which is made on first use and then remembered. Refused where
    /// [`Context::may_create`] forbids it.
    pub fn open_or_create(&self, setting: &RepositorySetting) -> anyhow::Result<Repository> {
        match self.look(setting)? {
            Some(repository) => Ok(repository),
            None => self.create(setting),
        }
    }

    /// Refuses where there is no repository although one was written to before, unless the setting says otherwise: a
    /// disk is most likely not mounted. Also where the setting forbids to make one.
    pub fn may_create(&self, setting: &RepositorySetting) -> anyhow::Result<()> {
        self.look(setting).map(drop)
    }

    /// The repository that is there; `None` where one may be made.
    fn look(&self, setting: &RepositorySetting) -> anyhow::Result<Option<Repository>> {
        let store = store::open(&setting.url.value)?;
        let place = store.describe();
        // Recalled before it is looked for: what somebody else makes and writes down meanwhile was not there before.
        let known = self.memory().map(|memory| memory.recall(&place));
        match Repository::open(store, self.settings.cluster.value.clone(), setting.compression) {
            Ok(repository) => {
                self.remember(&repository);
                Ok(Some(repository))
            }
            Err(missing) if Repository::is_missing(&missing) => {
                may_be_made(setting, &place, known)?;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Opens the cluster's place in this repository and makes the repository first where there is none, whatever is
    /// remembered of that place.
    pub fn create(&self, setting: &RepositorySetting) -> anyhow::Result<Repository> {
        let store = store::open(&setting.url.value)?;
        let cluster = self.settings.cluster.value.clone();
        let repository = Repository::open_or_create(store, cluster, setting.compression, self.clock.now())?;
        self.remember(&repository);
        Ok(repository)
    }

    /// What this server remembers of its repositories; `None` where the user has neither a state directory nor a home.
    pub fn memory(&self) -> Option<Memory> {
        Some(Memory::in_directory(&self.state_directory()?))
    }

    fn state_directory(&self) -> Option<PathBuf> {
        let home = || identity::home_directory(self.environment.get("HOME").map(Path::new));
        self.settings.state_directory.clone().or_else(|| Some(home()?.join(".local/state/holdfast")))
    }

    /// Where the spool of this data directory may lie.
    pub fn spool(&self, pgdata: &Path) -> Places {
        Places::of(pgdata, self.settings.spool_directory.as_deref(), self.state_directory().as_deref())
    }

    /// Writes down that this repository was seen, once. Without a memory an empty folder is taken for a new repository
    /// some day; that is no reason to stop archiving now.
    fn remember(&self, repository: &Repository) {
        let Some(memory) = self.memory() else { return };
        let place = repository.describe();
        let known = memory.recall(&place);
        if matches!(&known, Ok(Some(known)) if known.id == repository.id()) {
            return;
        }
        if let Ok(Some(before)) = &known {
            tracing::warn!(
                "the repository at {place} is another one than before: {} instead of {}",
                repository.id(),
                before.id
            );
        }
        let known = Known { place, id: repository.id().to_owned(), since: self.clock.now() };
        if let Err(error) = memory.note(&known) {
            tracing::debug!("{}", message_of(&error));
        }
    }

    /// The first configured repository: the one that backups go to and come from.
    pub fn first_repository(&self) -> anyhow::Result<&RepositorySetting> {
        self.settings.require_repositories()?.first().context("no repository is configured")
    }

    /// What the user said of how to reach the server; [`Context::resolve`] turns it into parameters.
    pub fn connection_sources(&self, server: &ServerArgs) -> ConnectionSources {
        ConnectionSources {
            dbname: server.dbname.clone(),
            host: server.host.clone(),
            port: server.port.clone(),
            user: server.username.clone(),
            configured: self.settings.conninfo.clone(),
        }
    }

    /// The parameters to connect with, by libpq's rules: flags, the configuration, service and password files, the
    /// `PG*` variables. Warnings about the password file are logged.
    pub fn resolve(&self, sources: ConnectionSources) -> anyhow::Result<Conninfo> {
        let home = identity::home_directory(self.environment.get("HOME").map(Path::new)).unwrap_or_default();
        let conninfo = server::resolve(&server::Sources {
            environment: &|name| self.environment.text(name).ok().flatten().map(ToOwned::to_owned),
            dbname: sources.dbname,
            host: sources.host,
            port: sources.port,
            user: sources.user,
            configured: sources.configured,
            default_user: identity::user_name(),
            home,
        })?;
        for warning in conninfo.warnings() {
            tracing::warn!("{warning}");
        }
        Ok(conninfo)
    }
}

/// Whether a repository may be made at a place that has none.
fn may_be_made(
    setting: &RepositorySetting,
    place: &str,
    known: Option<anyhow::Result<Option<Known>>>,
) -> Result<(), Advice> {
    let anew = "if it is gone for good, archive-wal setup --apply --create makes a new one";
    match (setting.create, known) {
        (Some(true), _) | (None, None | Some(Ok(None))) => Ok(()),
        (Some(false), _) => Err(Advice::no_repository(format!(
            "there is no repository at {place}, and create = false forbids to make one"
        ))
        .hint(format!("mount its file system; {anew}"))),
        (None, Some(Ok(Some(known)))) => Err(Advice::no_repository(format!(
            "there is no repository at {place}, where there was one since {}",
            known.since.format("%Y-%m-%d")
        ))
        .hint(format!("mount its file system; {anew}"))),
        (None, Some(Err(error))) => Err(Advice::no_repository(message_of(&error))
            .hint("mend or remove that file: it tells whether a repository is missing here")),
    }
}

/// How to reach the server, as far as flags and the configuration say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConnectionSources {
    /// A database or a connection string.
    pub dbname: Option<String>,
    /// A host or a socket directory.
    pub host: Option<String>,
    /// The port.
    pub port: Option<String>,
    /// The role.
    pub user: Option<String>,
    /// The connection string of the configuration.
    pub configured: Option<String>,
}
