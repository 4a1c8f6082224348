//! What PostgreSQL's own tools say of a cluster that came back. Nothing of Holdfast decides whether it is whole.

use std::path::Path;

use anyhow::{Result, bail};

use crate::{Cluster, Sandbox, StopMode};

/// Everything that a cluster holds, as `pg_dumpall` writes it, but for the rows of unlogged tables.
pub fn dump(cluster: &Cluster) -> Result<String> {
    let connection = cluster.connection()?;
    let mut args = vec!["--no-unlogged-table-data"];
    args.extend(connection.iter().map(String::as_str));
    let text = cluster.sandbox().run_other("pg_dumpall", &args)?.success()?.stdout;
    // A key that is new in every dump; what asks for a certain one (`--restrict-key`) came with a minor version.
    let is_key = |line: &&str| line.starts_with("\\restrict ") || line.starts_with("\\unrestrict ");
    Ok(text.split_inclusive('\n').filter(|line| !is_key(line)).collect())
}

/// Fails at the first line in which two dumps differ.
pub fn same_dump(found: &str, expected: &str) -> Result<()> {
    let (mut left, mut right) = (found.lines(), expected.lines());
    for number in 1.. {
        match (left.next(), right.next()) {
            (None, None) => break,
            (found, expected) if found == expected => {}
            (found, expected) => bail!("line {number} of the dump is {found:?}, not {expected:?}"),
        }
    }
    Ok(())
}

/// `pg_verifybackup` on a tree that no server was started on yet; its WAL is looked for in `wal`, or left alone.
pub fn verify_tree(sandbox: &Sandbox, tree: &Path, wal: Option<&Path>) -> Result<()> {
    let mut command = sandbox.command("pg_verifybackup")?;
    match wal {
        Some(wal) => command.arg("-w").arg(wal),
        None => command.arg("-n"),
    };
    crate::process::run(command.arg(tree), "")?.success().map(drop)
}

/// `pg_amcheck` on every relation of the running server, then `pg_checksums` on what it leaves when it has stopped.
pub fn check_and_stop(cluster: &Cluster) -> Result<()> {
    let connection = cluster.connection()?;
    let mut args = vec!["--all", "--install-missing", "--heapallindexed"];
    args.extend(connection.iter().map(String::as_str));
    cluster.sandbox().run_other("pg_amcheck", &args)?.success()?;
    cluster.stop(StopMode::Fast)?;
    cluster.sandbox().run_other("pg_checksums", &["--check", "-D", cluster.pgdata_arg()?])?.success().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dumps_differ_at_a_line() {
        assert!(same_dump("a\nb\n", "a\nb\n").is_ok());
        for other in ["a\nc\n", "a\n", "a\nb\nc\n"] {
            assert!(same_dump("a\nb\n", other).unwrap_err().to_string().starts_with("line "), "{other:?}");
        }
    }
}
