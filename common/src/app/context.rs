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
use crate::report::{Cancel, Progress};
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

    /// Opens the cluster's place in this repository, which is made on first use.
    pub fn open_or_create(&self, setting: &RepositorySetting) -> anyhow::Result<Repository> {
        let store = store::open(&setting.url.value)?;
        Repository::open_or_create(store, self.settings.cluster.value.clone(), setting.compression, self.clock.now())
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
