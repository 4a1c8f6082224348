//! Where the server's own programs lie: `postgres`, `pg_ctl` and the others of the same installation.
//!
//! Distributions keep several majors side by side and leave them out of `PATH`, so the directory is looked for and
//! its `postgres` is asked for its version before anything there is run on data.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};

use super::postmaster::StartCommand;
use crate::report::{Advice, Cancel};
use crate::sys::process;

/// `postgres --version` answers at once; a hanging file system should not hang us.
const VERSION_WAIT: Duration = Duration::from_secs(10);

/// What may say where the programs are.
#[derive(Debug, Clone, Copy, Default)]
pub struct Search<'a> {
    /// The directory that the configuration names; then no other is looked at.
    pub configured: Option<&'a Path>,
    /// A data directory, whose last server's program is taken from `postmaster.opts`.
    pub pgdata: Option<&'a Path>,
    /// The value of `PATH`.
    pub path: Option<&'a OsStr>,
}

/// The programs of one installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Programs {
    bin: PathBuf,
}

impl Programs {
    /// Finds the programs of the given major version: in the configured directory, where the data directory's last
    /// server came from, in the usual places, in `PATH`.
    ///
    /// It fails when none is found, and then names every directory that was looked at and what was wrong with it.
    pub fn find(major: u32, search: &Search<'_>, cancel: &Cancel) -> anyhow::Result<Self> {
        let mut faults = Vec::new();
        for bin in candidates(major, search)? {
            match version_of(&bin, cancel)? {
                Ok(found) if found == major => return Ok(Self { bin }),
                Ok(found) => faults.push(format!("{} is of version {found}", bin.display())),
                Err(fault) => faults.push(fault),
            }
        }
        let message = format!("the programs of PostgreSQL {major} are not found: {}", faults.join("; "));
        Err(Advice::usage(message)
            .hint(format!(
                "install the server package of PostgreSQL {major}, or configure the directory of its programs"
            ))
            .into())
    }

    /// The directory that holds them.
    pub fn bin(&self) -> &Path {
        &self.bin
    }

    /// `pg_ctl`.
    pub fn pg_ctl(&self) -> PathBuf {
        self.path("pg_ctl")
    }

    /// `postgres`.
    pub fn postgres(&self) -> PathBuf {
        self.path("postgres")
    }

    /// A client program of the installation, which may be in a package of its own; refused when it is not there.
    pub fn client(&self, name: &str) -> Result<PathBuf, Advice> {
        let path = self.path(name);
        if path.is_file() {
            return Ok(path);
        }
        Err(Advice::usage(format!("{} is not there", path.display()))
            .hint("install the client package of that version of PostgreSQL"))
    }

    /// Another program of the installation; not all packages have all.
    pub fn path(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }
}

fn candidates(major: u32, search: &Search<'_>) -> anyhow::Result<Vec<PathBuf>> {
    if let Some(configured) = search.configured {
        return Ok(vec![configured.to_owned()]);
    }
    let mut found = Vec::new();
    if let Some(last) = search.pgdata.map(StartCommand::of).transpose()?.flatten() {
        found.extend(last.program.parent().filter(|bin| bin.is_absolute()).map(Path::to_owned));
    }
    found.push(format!("/usr/lib/postgresql/{major}/bin").into());
    found.push(format!("/usr/pgsql-{major}/bin").into());
    found.push("/usr/local/pgsql/bin".into());
    // Only directories of PATH that have a server are worth a word in a message.
    let path = search.path.map(std::env::split_paths).into_iter().flatten();
    found.extend(path.filter(|bin| bin.is_absolute() && bin.join("postgres").is_file()));
    let mut seen = std::collections::HashSet::new();
    found.retain(|bin| seen.insert(bin.clone()));
    Ok(found)
}

/// The major version of the directory's `postgres`, or what is wrong with it. An error is an interruption.
fn version_of(bin: &Path, cancel: &Cancel) -> anyhow::Result<Result<u32, String>> {
    cancel.check()?;
    let postgres = bin.join("postgres");
    if !postgres.is_file() {
        return Ok(Err(format!("{} does not exist", postgres.display())));
    }
    let mut command = Command::new(&postgres);
    command.arg("--version");
    let finished = match process::run(command, VERSION_WAIT, cancel) {
        Ok(finished) => finished,
        Err(error) => {
            cancel.check()?;
            return Ok(Err(format!("{error:#}")));
        }
    };
    let version = finished.status.success().then(|| parse_version(&finished.stdout)).flatten();
    Ok(version.ok_or_else(|| format!("{} --version gives no version", postgres.display())))
}

/// The major version in `postgres (PostgreSQL) 15.18 (Debian …)`; also of development versions such as `18rc1`.
fn parse_version(text: &str) -> Option<u32> {
    let number = text.split_once("(PostgreSQL)")?.1.trim_start();
    let end = number.find(|c: char| !c.is_ascii_digit()).unwrap_or(number.len());
    number.get(..end)?.parse().ok()
}

/// The major version of a data directory, from its `PG_VERSION`.
pub fn major_of(pgdata: &Path) -> anyhow::Result<u32> {
    let path = pgdata.join("PG_VERSION");
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let major = text.trim().parse().with_context(|| format!("{} holds no version", path.display()))?;
    ensure!(major >= 10, Advice::refused(format!("{} is of PostgreSQL {major}, which is too old", pgdata.display())));
    Ok(major)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;
    use std::os::unix::fs::PermissionsExt;

    fn put(path: &Path, text: &str, mode: u32) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::io::Write::write_all(&mut std::fs::File::create(path).unwrap(), text.as_bytes()).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[rstest]
    #[case("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n", Some(15))]
    #[case("postgres (PostgreSQL) 18rc1", Some(18))]
    #[case("postgres (PostgreSQL) 17devel", Some(17))]
    #[case("postgres (PostgreSQL) ", None)]
    #[case("cat 9.1", None)]
    fn reads_versions(#[case] text: &str, #[case] expected: Option<u32>) {
        assert_eq!(parse_version(text), expected);
    }

    #[test]
    fn looks_where_it_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let configured = Path::new("/opt/pg/bin");
        let pgdata = directory.path();
        put(&pgdata.join("postmaster.opts"), "/srv/pg/bin/postgres \"-D\" \"/x\"\n", 0o600);
        put(&pgdata.join("own/postgres"), "", 0o755);
        let path = std::ffi::OsString::from(format!("/nowhere:relative:{}", pgdata.join("own").display()));
        let search = Search { configured: None, pgdata: Some(pgdata), path: Some(&path) };
        let expected = ["/srv/pg/bin", "/usr/lib/postgresql/16/bin", "/usr/pgsql-16/bin", "/usr/local/pgsql/bin"];
        let mut expected: Vec<PathBuf> = expected.iter().map(PathBuf::from).collect();
        expected.push(pgdata.join("own"));
        assert_eq!(candidates(16, &search).unwrap(), expected);
        let search = Search { configured: Some(configured), ..search };
        assert_eq!(candidates(16, &search).unwrap(), [configured]);
    }

    #[test]
    fn takes_the_right_major_only() {
        let directory = tempfile::tempdir().unwrap();
        put(&directory.path().join("postgres"), "#!/bin/sh\necho 'postgres (PostgreSQL) 99.1'\n", 0o755);
        let search = Search { configured: Some(directory.path()), ..Search::default() };
        let found = Programs::find(99, &search, &Cancel::default()).unwrap();
        assert_eq!(found.pg_ctl(), directory.path().join("pg_ctl"));
        let error = Programs::find(98, &search, &Cancel::default()).unwrap_err();
        assert!(error.to_string().contains("is of version 99"), "{error:#}");
    }

    #[test]
    fn reads_the_major_of_a_data_directory() {
        let directory = tempfile::tempdir().unwrap();
        assert!(major_of(directory.path()).is_err());
        put(&directory.path().join("PG_VERSION"), "16\n", 0o600);
        assert_eq!(major_of(directory.path()).unwrap(), 16);
    }

    proptest! {
        #[test]
        fn never_panics(text in ".*", tail in ".*") {
            let _ = parse_version(&text);
            let _ = parse_version(&format!("postgres (PostgreSQL) {tail}"));
        }
    }
}
