//! The places that a cluster's files lie in, on real servers.

use std::fmt::Write as _;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::unistd::Uid;

use crate::cluster::Recipe;
use crate::disk::{Disk, in_private};
use crate::{Cluster, Ran, Repo, Sandbox, postgres, process, settings};

/// How large a mounted disk of a layout may become.
const DISK: &str = "size=600m";

/// What Debian's cluster is called.
const DEBIAN_NAME: &str = "main";

/// Where the files of a cluster lie, and where the recovered one's go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// In a directory, which is recovered in place.
    InPlace,
    /// The data directory is a mount point, with a `lost+found`. Needs root.
    MountPoint,
    /// The data directory is a symbolic link.
    LinkedPgdata,
    /// `pg_wal` leads to another disk; mounted, with root.
    LinkedWal,
    /// There are tablespaces on other disks; mounted, with root.
    Tablespaces,
    /// The configuration lies below `/etc`, as `pg_createcluster` puts it.
    Debian,
    /// In a directory; what is recovered is a copy in another.
    SideBySide,
}

/// All layouts.
pub const ALL: [Layout; 7] = [
    Layout::InPlace,
    Layout::MountPoint,
    Layout::LinkedPgdata,
    Layout::LinkedWal,
    Layout::Tablespaces,
    Layout::Debian,
    Layout::SideBySide,
];

/// A cluster in its layout.
#[derive(Debug)]
pub struct Laid {
    /// The cluster; its server runs.
    pub cluster: Cluster,
    /// The tablespaces' folders.
    pub spaces: Vec<PathBuf>,
    /// Taken away last: the sandbox ends what works on them.
    sandbox: Sandbox,
    _disks: Vec<Disk>,
}

impl Layout {
    /// Its place in [`ALL`].
    pub fn index(self) -> usize {
        ALL.iter().position(|layout| *layout == self).unwrap_or_default()
    }

    /// Tells a story of this layout where what it mounts is seen by nobody else; skipped where this machine lacks what it
    /// needs.
    pub fn tell(self, story: impl FnOnce() -> Result<()> + Send) -> Result<()> {
        if self == Self::MountPoint && !settings::has_root("a data directory that is a mount point") {
            return Ok(());
        }
        if self == Self::Debian && !(Path::new("/usr/bin/pg_createcluster").exists() && is_debians()?) {
            settings::tell("skipped: needs Debian's pg_createcluster and its PostgreSQL");
            return Ok(());
        }
        if Uid::effective().is_root() { in_private(story) } else { story() }
    }

    /// Makes a cluster of small segments, archived to `repo`, and starts it.
    pub fn build(self, sandbox: &Sandbox, repo: &Repo) -> Result<Laid> {
        let recipe = Recipe::new("pg").segment_mb(1).set("max_wal_size", "16MB").set("min_wal_size", "2MB");
        let recipe = recipe.archived_to(repo);
        let mut disks = Vec::new();
        let mut spaces = Vec::new();
        let cluster = match self {
            Self::InPlace | Self::SideBySide => recipe.start(sandbox)?,
            Self::MountPoint => {
                disks.push(Disk::new(sandbox, "pg", DISK)?);
                let cluster = recipe.start(sandbox)?;
                lost_and_found(cluster.pgdata())?;
                cluster
            }
            Self::LinkedPgdata => {
                sandbox.folder("disk")?;
                let (real, link) = (sandbox.folder("disk/pg")?, sandbox.path().join("pg"));
                symlink(&real, &link)?;
                sandbox.account().own(&link)?;
                recipe.start(sandbox)?
            }
            Self::LinkedWal => {
                let folder = disk(sandbox, "wal", &mut disks)?;
                let cluster = recipe.wal_dir(&folder).start(sandbox)?;
                lost_and_found(&folder)?;
                cluster
            }
            Self::Tablespaces => {
                let cluster = recipe.start(sandbox)?;
                for name in ["fast", "slow"] {
                    let folder = disk(sandbox, name, &mut disks)?;
                    lost_and_found(&folder)?;
                    cluster.sql(&format!("create tablespace {name} location '{}'", folder.display()))?;
                    spaces.push(folder);
                }
                cluster
            }
            Self::Debian => debian(sandbox, repo, &recipe)?,
        };
        Ok(Laid { cluster, spaces, sandbox: sandbox.clone(), _disks: disks })
    }
}

impl Laid {
    /// Runs `pg_ctlcluster` on Debian's cluster.
    pub fn ctl(&self, action: &str) -> Result<Ran> {
        ctl(&self.sandbox, action)
    }
}

/// Whether the tested server is the one that Debian's tools manage.
fn is_debians() -> Result<bool> {
    Ok(postgres::bin_dir()?.starts_with("/usr/lib/postgresql"))
}

/// A folder for something that lies elsewhere: on a disk of its own where one can be mounted.
fn disk(sandbox: &Sandbox, name: &str, disks: &mut Vec<Disk>) -> Result<PathBuf> {
    if !Uid::effective().is_root() {
        return sandbox.folder(name);
    }
    let disk = Disk::new(sandbox, name, DISK)?;
    let path = disk.path().to_owned();
    disks.push(disk);
    Ok(path)
}

/// What ext4 has where it is mounted, and nobody but root reads.
fn lost_and_found(folder: &Path) -> Result<()> {
    if Uid::effective().is_root() {
        let path = folder.join("lost+found");
        std::fs::create_dir(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

fn conf_root(sandbox: &Sandbox) -> PathBuf {
    sandbox.path().join("etc")
}

fn debians(sandbox: &Sandbox, program: &str, args: &[&str]) -> Result<Ran> {
    let mut command = sandbox.command(program)?;
    process::run(command.env("PG_CLUSTER_CONF_ROOT", conf_root(sandbox)).args(args), "")
}

fn ctl(sandbox: &Sandbox, action: &str) -> Result<Ran> {
    let major = postgres::major()?.to_string();
    debians(sandbox, "pg_ctlcluster", &["--skip-systemctl-redirect", &major, DEBIAN_NAME, action])
}

fn debian(sandbox: &Sandbox, repo: &Repo, recipe: &Recipe) -> Result<Cluster> {
    sandbox.folder("etc")?;
    let (data, major) = (sandbox.folder("pg")?, postgres::major()?.to_string());
    let (log, port) = (sandbox.path().join("pg.log"), sandbox.new_port().to_string());
    let text = |path: &Path| path.to_str().map(str::to_owned).context("a path of a test is text");
    let (data_text, sockets) = (text(&data)?, text(&sandbox.sockets())?);
    let mut args = vec!["-d", &data_text, "-s", &sockets, "-p", &port];
    let log = text(&log)?;
    args.extend(["-l", &log, &major, DEBIAN_NAME, "--", "--wal-segsize=1", "-U", "postgres", "-A", "trust", "-k"]);
    args.extend(["-E", "UTF8", "--locale=C.UTF-8", "--no-sync"]);
    debians(sandbox, "pg_createcluster", &args)?.success()?;
    let conf = conf_root(sandbox).join(&major).join(DEBIAN_NAME).join("conf.d/test.conf");
    let mut lines = String::new();
    for (name, value) in recipe.lines(sandbox)?.iter().filter(|(name, _)| name != "port") {
        writeln!(lines, "{name} = '{}'", value.replace('\'', "''"))?;
    }
    lines.push_str("external_pid_file = ''\n");
    sandbox.write(&conf, lines.as_bytes())?;
    ctl(sandbox, "start")?.success()?;
    Ok(Cluster::at(sandbox, &data, Some(repo)))
}
