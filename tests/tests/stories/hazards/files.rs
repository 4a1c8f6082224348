//! H20, H21: a backup whose WAL goes elsewhere, and configuration that is not in the data directory.

use anyhow::{Context, Result, ensure};
use e2e::cluster::{Recipe, archive_command};
use e2e::{Repo, Sandbox};

/// Nothing happens on this server; the backup neither waits for traffic nor takes the archive on trust.
#[test]
fn hazard_20_an_idle_primary() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let repo = Repo::new(&sandbox, "repo")?;
    let cluster = Recipe::new("pg").archived_to(&repo).start(&sandbox)?;
    for count in 1..=3 {
        let before = repo.segments().len();
        let id = cluster.backup(&[])?;
        ensure!(repo.backups().len() == count);
        ensure!(repo.segments().len() > before, "nothing proved that WAL arrives");
        sandbox.run("verify", &["backup", &id, "--repo", repo.arg()?])?.success()?;
    }
    Ok(())
}

/// An `archive_command` that says yes and does nothing, or archives somewhere else.
#[test]
fn hazard_20_an_archive_that_lies() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let (repo, other) = (Repo::new(&sandbox, "repo")?, Repo::new(&sandbox, "other")?);
    let cluster = Recipe::new("pg").archived_to(&repo).start(&sandbox)?;
    cluster.sql("create table t as select generate_series(1, 100000) as n")?;
    for command in ["/bin/true".to_owned(), archive_command(&sandbox, &other)?] {
        cluster.set("archive_command", &command)?;
        let ran = cluster.try_backup(&[])?.expect_code(20)?.says(&["archive_command"])?;
        ensure!(ran.took.as_secs() < 30, "it takes no timeout to see this: {:?}", ran.took);
        let copied = |path: &std::path::PathBuf| path.iter().any(|part| part == "backup");
        let left: Vec<_> = e2e::sandbox::walk(repo.path()).into_iter().filter(copied).collect();
        ensure!(left.is_empty(), "something was copied: {left:?}");
    }
    // An archive that fails is waited for, as long as was said, and no longer.
    cluster.set("archive_command", "/bin/false")?;
    cluster.try_backup(&["--archive-timeout", "2s"])?.expect_code(20)?.says(&["archive_command"])?;
    ensure!(repo.backups().is_empty());
    Ok(())
}

/// As on Debian: the authentication files and an included one lie elsewhere, and so does the server's private key.
#[test]
fn hazard_21_configuration_outside_the_data_directory() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let repo = Repo::new(&sandbox, "repo")?;
    let folder = sandbox.folder("etc")?;
    let key = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIA==\n-----END PRIVATE KEY-----\n";
    let files = [
        ("pg_hba.conf", "local all all trust # of this cluster\n"),
        ("pg_ident.conf", "# nobody is somebody else\n"),
        ("extra.conf", "work_mem = '5MB'\n"),
        ("server.key", key),
    ];
    for (name, text) in files {
        sandbox.write(&folder.join(name), text.as_bytes())?;
    }
    let at = |name: &str| folder.join(name).display().to_string();
    let cluster = Recipe::new("pg")
        .archived_to(&repo)
        .set("hba_file", &at("pg_hba.conf"))
        .set("ident_file", &at("pg_ident.conf"))
        .set("ssl_key_file", &at("server.key"))
        .set("include", &at("extra.conf"))
        .start(&sandbox)?;
    ensure!(cluster.sql("show work_mem")? == "5MB");
    let id = cluster.backup(&[])?;

    let archive = sandbox.path().join("config.tar");
    sandbox.write(&archive, &repo.unpack(&repo.backup_object(&id, "config.tar")?)?)?;
    let archive = archive.to_str().context("text")?;
    let list = sandbox.run_other("tar", &["-tf", archive])?.success()?.stdout;
    let mut listed: Vec<&str> = list.lines().collect();
    listed.sort_unstable();
    let expected =
        ["extra.conf", "pg_hba.conf", "pg_ident.conf"].map(|name| at(name).trim_start_matches('/').to_owned());
    ensure!(listed == expected, "{listed:?} is not {expected:?}");
    let content = sandbox.run_other("tar", &["-xOf", archive])?.success()?.stdout;
    ensure!(content.contains("of this cluster") && content.contains("work_mem") && !content.contains("PRIVATE KEY"));

    // Nor does a key that somebody keeps in a file of another name.
    let strange = format!("work_mem = '6MB'\n# {}\n", key.trim_end().replace('\n', "\n# "));
    sandbox.write(&folder.join("extra.conf"), strange.as_bytes())?;
    let second = cluster.try_backup(&[])?.success()?.says(&["extra.conf", "private key"])?;
    let archive = repo.unpack(&repo.backup_object(second.stdout.trim(), "config.tar")?)?;
    ensure!(!String::from_utf8_lossy(&archive).contains("PRIVATE KEY"));
    Ok(())
}
