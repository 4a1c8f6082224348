//! Gathers everything that a plan is made of; touches nothing.

use std::path::{Component, Path, PathBuf};

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use common::app::{Context, RepositorySetting};
use common::archive::{Identity, Repository, backups, identity, inventory};
use common::pg::SystemIdentifier;
use common::pg::control::ControlFile;
use common::repo::chain::Inventory;
use common::repo::records::BackupRecord;
use common::report::Advice;
use common::restore::aim::Aim;
use common::restore::own::is_no_server_file;
use common::restore::salvage::{self, Tail};
use common::server::{self, Postmaster};
use common::sys::{identity as host, space};

use crate::place::Place;

/// What is known before anything is decided.
#[derive(Debug)]
pub(crate) struct Facts {
    /// The time.
    pub(crate) now: DateTime<Utc>,
    /// This host's name.
    pub(crate) host: String,
    /// The data directory, as it is now.
    pub(crate) directory: Directory,
    /// Data directories of the backups that are links to it.
    pub(crate) links_here: Vec<PathBuf>,
    /// The system whose backups are looked at.
    pub(crate) system: SystemIdentifier,
    /// Its whole backups, oldest first.
    pub(crate) backups: Vec<BackupRecord>,
    /// Its archived WAL.
    pub(crate) archive: Inventory,
    /// The cluster itself, where it lies on this host: in the data directory, or where the backup was taken.
    pub(crate) origin: Option<Origin>,
    /// WAL in its own `pg_wal`.
    pub(crate) tail: Tail,
    /// The backup that the WAL chose, where it was asked.
    pub(crate) aim: Option<Aim>,
}

impl Facts {
    /// All WAL at hand: the archive's, and what is in the cluster's own `pg_wal`.
    pub(crate) fn known_wal(&self) -> Inventory {
        let mut known = self.archive.clone();
        self.tail.add_to(&mut known);
        known
    }
}

/// The cluster whose backups these are, on this host.
#[derive(Debug)]
pub(crate) struct Origin {
    /// Its data directory.
    pub(crate) pgdata: PathBuf,
    /// Its control file.
    pub(crate) control: ControlFile,
    /// Its server, when one runs.
    pub(crate) server: Option<Postmaster>,
}

impl Origin {
    /// The cluster at `pgdata`, when it is this system. Unreadable ones count as somebody else's.
    fn at(pgdata: &Path, system: SystemIdentifier) -> Option<Self> {
        let control = identity::read_control(pgdata).ok().filter(|control| control.system_identifier == system)?;
        let server = server::running(pgdata).ok().flatten();
        Some(Self { pgdata: pgdata.to_path_buf(), control, server })
    }

    /// Where its WAL lies: its own `pg_wal`, and what recoveries have kept of that.
    pub(crate) fn wal_places(&self) -> Vec<PathBuf> {
        let place = Place { pgdata: self.pgdata.canonicalize().unwrap_or_else(|_| self.pgdata.clone()) };
        vec![self.pgdata.join("pg_wal"), place.tail()]
    }
}

/// What lies at the data directory.
#[derive(Debug)]
pub(crate) enum Directory {
    /// Nothing, or an empty directory.
    Free,
    /// A cluster.
    Cluster(Box<OldCluster>),
    /// Something else.
    Foreign,
}

/// A cluster that lies where the recovered one shall be.
#[derive(Debug)]
pub(crate) struct OldCluster {
    /// Its control file, when that can be read.
    pub(crate) control: Option<ControlFile>,
    /// Its server, when one runs.
    pub(crate) server: Option<Postmaster>,
    /// Where `pg_wal` leads when it is a link.
    pub(crate) pg_wal_link: Option<PathBuf>,
    /// Where the links in `pg_tblspc` lead, by object id.
    pub(crate) tablespace_links: Vec<(u32, PathBuf)>,
    /// What is mounted somewhere in the directory.
    pub(crate) mounted_below: Vec<PathBuf>,
}

impl Directory {
    /// The cluster that lies there.
    pub(crate) fn cluster(&self) -> Option<&OldCluster> {
        match self {
            Self::Cluster(cluster) => Some(cluster),
            Self::Free | Self::Foreign => None,
        }
    }
}

/// Opens the first configured repository.
pub(crate) fn open_repository(ctx: &Context) -> anyhow::Result<Repository> {
    let setting: &RepositorySetting = ctx.first_repository()?;
    ctx.open(setting)
}

/// Gathers the facts for this place, where the cluster itself may lie.
pub(crate) fn gather(place: &Place, repository: &Repository, ctx: &Context) -> anyhow::Result<Facts> {
    gather_beside(&place.pgdata, place, repository, ctx)
}

/// Gathers the facts for this place, while the cluster itself may lie in `production`.
pub(crate) fn gather_beside(
    production: &Path,
    place: &Place,
    repository: &Repository,
    ctx: &Context,
) -> anyhow::Result<Facts> {
    let directory = look_at(&place.pgdata)?;
    let all = backups::complete(repository)?;
    if all.is_empty() {
        repository.require_cluster()?;
    }
    let own = identity::read_control(production).ok().map(|control| control.system_identifier);
    let newest = all.last().map(|backup| backup.source.system_identifier);
    let known = own.filter(|system| all.iter().any(|backup| backup.source.system_identifier == *system));
    let system = known.or(newest).ok_or_else(|| {
        Advice::failed(format!(
            "there is no whole backup of cluster \"{}\" in {}",
            ctx.settings.cluster.value,
            repository.describe()
        ))
        .hint("basebackup list shows what there is; another --cluster or --repo may hold it")
    })?;
    let backups: Vec<_> = all.into_iter().filter(|backup| backup.source.system_identifier == system).collect();
    let size = backups.first().map(|backup| backup.source.segment_size).context("no backup is left")?;
    let archive = inventory::read(repository, system, size)?;
    let host = host::host_name();
    let source = backups.last().map(|backup| &backup.source).filter(|source| source.host == host);
    let origin =
        Origin::at(production, system).or_else(|| source.and_then(|source| Origin::at(&source.data_directory, system)));
    let tail = match &origin {
        Some(origin) => salvage::survey_all(&origin.wal_places(), &Identity::of(&origin.control))?,
        None => Tail::default(),
    };
    let recorded = backups.iter().map(|backup| &backup.source.data_directory);
    let links_here = recorded.filter(|path| leads_to(path, &place.pgdata)).cloned().collect();
    Ok(Facts { now: ctx.clock.now(), host, directory, links_here, system, backups, archive, origin, tail, aim: None })
}

/// Whether the path is another name of this place, which need not be there any more.
fn leads_to(path: &Path, pgdata: &Path) -> bool {
    let target = std::fs::read_link(path).map(|target| path.parent().unwrap_or(path).join(target));
    path.canonicalize().or(target).is_ok_and(|found| found == pgdata)
}

/// What lies there now.
pub(crate) fn look_at(pgdata: &Path) -> anyhow::Result<Directory> {
    let looking = || format!("look into {}", pgdata.display());
    let entries = match std::fs::read_dir(pgdata) {
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(Directory::Free),
        entries => entries.with_context(looking)?,
    };
    if !pgdata.join("PG_VERSION").exists() && !pgdata.join("global/pg_control").exists() {
        // Only of a mount point is it certain that such names are ours, or the file system's.
        let is_mount_point = crate::place::is_mount_point(pgdata);
        for entry in entries {
            if !(is_mount_point && is_no_server_file(&entry.with_context(looking)?.file_name())) {
                return Ok(Directory::Foreign);
            }
        }
        return Ok(Directory::Free);
    }
    Ok(Directory::Cluster(Box::new(OldCluster {
        control: identity::read_control(pgdata).ok(),
        server: server::running(pgdata)?,
        pg_wal_link: link_target(&pgdata.join("pg_wal"), pgdata)?,
        tablespace_links: tablespace_links(pgdata)?,
        mounted_below: space::mount_points_below(pgdata).with_context(looking)?,
    })))
}

/// Where a link leads; none when it is no link. A path through the data directory leads nowhere once that is renamed:
/// `../wal` in `/srv/data` is `/srv/wal`.
fn link_target(link: &Path, pgdata: &Path) -> anyhow::Result<Option<PathBuf>> {
    match std::fs::read_link(link) {
        Ok(target) if target.is_absolute() && !target.starts_with(pgdata) => Ok(Some(target)),
        Ok(target) => Ok(Some(without_detours(&link.parent().unwrap_or(link).join(target)))),
        Err(err) if matches!(err.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::InvalidInput) => Ok(None),
        Err(err) => Err(err).with_context(|| format!("read the link {}", link.display())),
    }
}

/// The absolute path without `.` and `..`; what is above a link is what is above the place that it leads to.
fn without_detours(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                plain = plain.canonicalize().unwrap_or(plain);
                plain.pop();
            }
            other => plain.push(other),
        }
    }
    plain
}

fn tablespace_links(pgdata: &Path) -> anyhow::Result<Vec<(u32, PathBuf)>> {
    let pg_tblspc = &pgdata.join("pg_tblspc");
    let mut links = Vec::new();
    let entries = match std::fs::read_dir(pg_tblspc) {
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(links),
        entries => entries.with_context(|| format!("read {}", pg_tblspc.display()))?,
    };
    for entry in entries {
        let entry = entry.with_context(|| format!("read {}", pg_tblspc.display()))?;
        let oid = entry.file_name().to_str().and_then(|name| name.parse().ok());
        if let Some((oid, target)) = oid.zip(link_target(&entry.path(), pgdata)?) {
            links.push((oid, target));
        }
    }
    links.sort_unstable();
    Ok(links)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use std::os::unix::fs::symlink;

    #[rstest]
    #[case("../wal", "wal")]
    #[case(".././wal", "wal")]
    #[case("away/../wal", "disk/wal")]
    #[case("ROOT/data/../wal", "wal")]
    #[case("ROOT/away/../wal", "away/../wal")]
    #[case("../missing/../wal", "wal")]
    #[case("inside", "data/inside")]
    fn a_link_is_read_where_it_lies(#[case] text: &str, #[case] expected: &str) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let (data, disk) = (root.join("data"), root.join("disk/folder"));
        std::fs::create_dir_all(&data).unwrap();
        std::fs::create_dir_all(&disk).unwrap();
        symlink(&disk, data.join("away")).unwrap();
        let link = data.join("pg_wal");
        symlink(text.replace("ROOT", root.to_str().unwrap()), &link).unwrap();
        assert_eq!(link_target(&link, &data).unwrap(), Some(root.join(expected)));
        assert_eq!(link_target(&data, &data).unwrap(), None);
    }

    #[test]
    fn a_link_leads_to_its_target_even_when_that_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let (real, link) = (root.join("real"), root.join("link"));
        symlink(&real, &link).unwrap();
        assert!(leads_to(&link, &real));
        std::fs::create_dir(&real).unwrap();
        assert!(leads_to(&link, &real));
        assert!(leads_to(&real, &real));
        assert!(!leads_to(&root, &real));
        assert!(!leads_to(&root.join("missing"), &real));
    }
}
