//! Where PostgreSQL's programs are.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Result, bail};

/// The folder of the server's programs: what `HOLDFAST_TEST_PG_BIN` says, else Debian's 15, else the newest of the
/// usual places, else the one that `pg_config` names.
pub fn bin_dir() -> Result<&'static Path> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    match FOUND.get_or_init(find) {
        Some(dir) => Ok(dir),
        None => bail!("no PostgreSQL server programs on this machine: run contrib/install-postgresql.sh"),
    }
}

/// The major version of the server's programs.
pub fn major() -> Result<u32> {
    let output = Command::new(bin_dir()?.join("postgres")).arg("--version").output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let digits: String = text.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
    Ok(digits.parse()?)
}

fn find() -> Option<PathBuf> {
    let named = std::env::var_os("HOLDFAST_TEST_PG_BIN").map(PathBuf::from);
    if named.is_some() {
        return named;
    }
    let debian = |major: u32| PathBuf::from(format!("/usr/lib/postgresql/{major}/bin"));
    let others = (14..=18).rev().flat_map(|major| [debian(major), PathBuf::from(format!("/usr/pgsql-{major}/bin"))]);
    std::iter::once(debian(15)).chain(others).chain(pg_config()).find(|dir| dir.join("initdb").exists())
}

fn pg_config() -> Option<PathBuf> {
    let output = Command::new("pg_config").arg("--bindir").output().ok()?;
    Some(PathBuf::from(String::from_utf8(output.stdout).ok()?.trim()))
}
