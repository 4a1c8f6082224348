//! Started by root, a program becomes the owner of the data directory before it touches a repository.

use std::os::unix::fs::MetadataExt;
use std::process::Command;

use anyhow::{Result, ensure};
use e2e::cluster::Recipe;
use e2e::{Repo, Sandbox, process, settings};

#[test]
fn nothing_of_roots_is_left_in_the_repository() -> Result<()> {
    if !settings::has_root("nothing_of_roots_is_left_in_the_repository") {
        return Ok(());
    }
    let sandbox = Sandbox::new()?;
    let repo = Repo::new(&sandbox, "repo")?;
    let cluster = Recipe::new("pg").archived_to(&repo).start(&sandbox)?;
    let connection = cluster.connection()?;
    let mut command = Command::new(sandbox.program("basebackup"));
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", sandbox.path());
    command.args(["--repo", repo.arg()?, "-D", cluster.pgdata_arg()?, "-c", "fast"]).args(connection);
    process::run(&mut command, "")?.success()?;

    let owner = std::fs::metadata(cluster.pgdata())?.uid();
    for path in e2e::sandbox::walk(repo.path()) {
        let found = std::fs::symlink_metadata(&path)?.uid();
        ensure!(found == owner, "{} belongs to {found}, the data directory to {owner}", path.display());
    }
    ensure!(repo.backups().len() == 1);
    Ok(())
}
