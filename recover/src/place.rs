//! Where a recovery keeps its own files: beside the data directory; in it only where something is mounted there, since
//! what lies beside a mount point is on another disk, or somebody else's.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use common::app::Context;
use common::report::{Advice, ExitClass};
use common::restore::own::FOLDER_AMONG_OTHERS;
use common::sys::lock::FileLock;
use common::sys::{durable, identity, space};

/// How many links one after the other are followed to a directory that is not there, as the kernel does.
const LINKS_MAX: u32 = 40;

/// The data directory and the folder beside it, `DIR.holdfast` (for a mount point in it, `DIR/.holdfast`), which holds the
/// journal, the plan for restore-wal and the log of the first start.
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
        let wanted = past_links(wanted);
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

    /// The folder of the recovery's own files.
    pub(crate) fn folder(&self) -> PathBuf {
        if is_mount_point(&self.pgdata) {
            self.pgdata.join(FOLDER_AMONG_OTHERS)
        } else {
            beside(&self.pgdata, ".holdfast")
        }
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

    /// WAL that the old server's `pg_wal` had and the repository had not, before the server was stopped.
    pub(crate) fn tail(&self) -> PathBuf {
        self.folder().join("tail")
    }

    /// The log of the old server's first start after a rollback.
    pub(crate) fn rollback_log(&self) -> PathBuf {
        self.folder().join("rollback.log")
    }

    /// The log of the recovered server's first start.
    pub(crate) fn start_log(&self) -> PathBuf {
        self.folder().join("server.log")
    }
}

/// Whether something is mounted there. What is not there yet is no mount point.
pub(crate) fn is_mount_point(path: &Path) -> bool {
    space::is_mount_point(path).unwrap_or(false)
}

/// The path itself or, where it is a link to a directory that is not there, that directory: in the middle of a recovery
/// a data directory that is a link leads nowhere for a moment.
fn past_links(mut path: PathBuf) -> PathBuf {
    for _ in 0..LINKS_MAX {
        match std::fs::read_link(&path) {
            Ok(target) if !path.exists() => path = path.parent().unwrap_or(Path::new("/")).join(target),
            _ => break,
        }
    }
    path
}

/// The path with something after its last component.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().map(OsString::from).unwrap_or_default();
    name.push(suffix);
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_link_to_what_is_gone_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (real, link, second) = (dir.path().join("real"), dir.path().join("link"), dir.path().join("second"));
        symlink("real", &link).unwrap();
        symlink(&link, &second).unwrap();
        assert_eq!(past_links(second.clone()), real);
        std::fs::create_dir(&real).unwrap();
        assert_eq!(past_links(second.clone()), second);
        assert_eq!(past_links(dir.path().join("nothing")), dir.path().join("nothing"));
        let around = dir.path().join("around");
        symlink(&around, &around).unwrap();
        assert_eq!(past_links(around.clone()), around);
    }

    #[test]
    fn the_folder_lies_beside_the_data_directory_unless_that_is_a_mount_point() {
        let folder = |pgdata: &str| Place { pgdata: pgdata.into() }.folder();
        assert_eq!(folder("/srv/none/data"), Path::new("/srv/none/data.holdfast"));
        assert_eq!(folder("/proc"), Path::new("/proc/.holdfast"));
    }
}
