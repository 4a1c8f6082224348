//! What `main` hands to every program.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;

use super::config::{RepositorySetting, Settings};
use super::environment::Environment;
use super::exit::Program;
use super::output::Output;
use crate::archive::Repository;
use crate::report::{Cancel, Progress};
use crate::store;
use crate::sys::clock::Clock;

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
}
