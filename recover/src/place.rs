//! Where a recovery keeps its own files: beside the data directory, never in it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use common::app::Context;
use common::report::{Advice, ExitClass};
use common::sys::lock::FileLock;
use common::sys::{durable, identity};

/// The data directory and the folder beside it, `DIR.holdfast`, which holds the journal, the plan for restore-wal and
/// the log of the first start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// The data directory: absolute, links followed as far as it exists.
    pub(crate) pgdata: PathBuf,
}

impl Place {
    /// The place of the configured data directory. As root, the process becomes the owner of the directory, or of the
    /// nearest one above it that exists, since PostgreSQL refuses to run as root.
    pub(crate) fn of(ctx: &Context) -> anyhow::Result<Self> {
        let configured = ctx.settings.pgdata.as_ref().map(|pgdata| ctx.environment.absolute(&pgdata.value));
        let wanted = configured.ok_or_else(|| {
            Advice::usage("no data directory is named").hint("name it with -D DIR, or by the variable PGDATA")
        })?;
        let existing = wanted.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
        identity::become_owner_of(existing)?;
        if identity::is_root() {
            return Err(Advice::refused(format!(
                "{} belongs to root, and PostgreSQL does not run as root",
                existing.display()
            ))
            .hint("make the folder, give it to the user that runs PostgreSQL, and run recover as that user")
            .into());
        }
        let resolved = existing.canonicalize().with_context(|| format!("find {}", existing.display()))?;
        let rest = wanted.strip_prefix(existing).unwrap_or(Path::new(""));
        let pgdata = if rest.as_os_str().is_empty() { resolved } else { resolved.join(rest) };
        anyhow::ensure!(
            pgdata.parent().is_some() && pgdata.file_name().is_some(),
            Advice::usage(format!("{} cannot be a data directory", pgdata.display()))
        );
        Ok(Self { pgdata })
    }

    /// The folder beside the data directory.
    pub(crate) fn folder(&self) -> PathBuf {
        beside(&self.pgdata, ".holdfast")
    }

    /// Makes that folder.
    pub(crate) fn make_folder(&self) -> anyhow::Result<()> {
        let folder = self.folder();
        durable::create_dir_all(&folder, 0o700).with_context(|| format!("make {}", folder.display()))
    }

    /// Keeps everybody else away from this place for as long as the answer lives; makes the folder.
    pub(crate) fn lock(&self) -> anyhow::Result<FileLock> {
        self.make_folder()?;
        let path = self.folder().join("lock");
        let held = FileLock::try_exclusive(&path).with_context(|| format!("lock {}", path.display()))?;
        held.with_context(|| {
            Advice::new(ExitClass::Locked, format!("another recover works on {}", self.pgdata.display()))
                .hint("wait until it has ended")
        })
    }

    /// The journal.
    pub(crate) fn journal(&self) -> PathBuf {
        self.folder().join("journal.json")
    }

    /// The plan that restore-wal reads.
    pub(crate) fn wal_plan(&self) -> PathBuf {
        self.folder().join("wal-plan.json")
    }

    /// The log of the recovered server's first start.
    pub(crate) fn start_log(&self) -> PathBuf {
        self.folder().join("server.log")
    }
}

/// The path with something after its last component.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().map(OsString::from).unwrap_or_default();
    name.push(suffix);
    path.with_file_name(name)
}
