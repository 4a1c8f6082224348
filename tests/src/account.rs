//! Who runs the servers and Holdfast's programs.
//!
//! PostgreSQL refuses to run as root, so a test started by root hands everything to the account `postgres` (or the
//! one that `HOLDFAST_TEST_USER` names) through `setpriv`, which replaces itself by the program: process ids and
//! exit statuses are the program's own.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use nix::unistd::{Gid, Uid, User};

/// An account of this machine.
#[derive(Debug, Clone)]
pub struct Account {
    name: Option<String>,
    uid: Uid,
    gid: Gid,
}

impl Account {
    /// The account that tests run servers as: the caller's own, or `postgres` when the caller is root.
    pub fn for_tests() -> Result<Self> {
        if !Uid::effective().is_root() {
            return Ok(Self { name: None, uid: Uid::effective(), gid: Gid::effective() });
        }
        let name = std::env::var("HOLDFAST_TEST_USER").unwrap_or_else(|_| "postgres".to_owned());
        let user = User::from_name(&name)
            .with_context(|| format!("look up the account {name}"))?
            .with_context(|| format!("no account {name}: run contrib/install-postgresql.sh"))?;
        Ok(Self { name: Some(name), uid: user.uid, gid: user.gid })
    }

    /// A command that runs `program` as this account.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let Some(name) = &self.name else { return Command::new(program) };
        let mut command = Command::new("setpriv");
        command.args([&format!("--reuid={name}"), &format!("--regid={}", self.gid), "--init-groups", "--"]);
        command.arg(program);
        command
    }

    /// Gives a file or folder to this account. Does nothing when the account is the caller's own.
    pub fn own(&self, path: &Path) -> Result<()> {
        if self.name.is_some() {
            let (uid, gid) = (self.uid.as_raw(), self.gid.as_raw());
            std::os::unix::fs::lchown(path, Some(uid), Some(gid))
                .with_context(|| format!("chown {}", path.display()))?;
        }
        Ok(())
    }

    /// Whether this account can execute the file at `path`.
    pub fn can_execute(&self, path: &Path) -> bool {
        self.command("test").arg("-x").arg(path).status().is_ok_and(|status| status.success())
    }
}
