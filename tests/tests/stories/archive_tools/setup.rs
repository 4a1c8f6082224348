//! A server becomes one that archives, and nothing that somebody else meant is changed on the way.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result, ensure};
use e2e::cluster::Recipe;
use e2e::{Cluster, Disk, Repo, Sandbox, StopMode, disk, postgres, settings};
use serde_json::Value;

use super::{element, list, texts, tool};

/// A repository whose folder is still to be made.
fn future_repo(sandbox: &Sandbox) -> Result<Repo> {
    let repo = Repo::new(sandbox, "repo")?;
    fs::remove_dir(repo.path())?;
    Ok(repo)
}

/// A server that needs only what a story leaves out: the summaries, which came with 17, are on.
fn summarizing(recipe: Recipe) -> Result<Recipe> {
    Ok(if postgres::major()? >= 17 { recipe.set("summarize_wal", "on") } else { recipe })
}

fn states(document: &Value) -> Result<Vec<(&str, &str)>> {
    let settings = list(document, "/settings")?;
    Ok(texts(settings, "name").into_iter().zip(texts(settings, "state")).collect())
}

/// From initdb to a proved archive and a backup: what is missing is named, made, and not asked for again.
#[test]
fn a_fresh_server_is_set_up() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let repo = future_repo(&sandbox)?;
    let server =
        Recipe::new("pg").segment_mb(1).set("wal_level", "minimal").set("max_wal_senders", "0").start(&sandbox)?;
    let cluster = Cluster::at(&sandbox, server.pgdata(), Some(&repo));

    let before = tool(&cluster, &[&repo], &["setup", "--json"])?.expect_code(3)?.json()?;
    let lacking = ["wal_level", "archive_mode", "archive_command", "archive_timeout", "max_wal_senders"];
    for name in lacking {
        let setting = element(list(&before, "/settings")?, "name", name)?;
        ensure!(setting["state"] == "differs" && setting["statement"].is_string(), "{setting:#}");
    }
    ensure!(list(&before, "/repositories")?.iter().all(|folder| folder["state"] == "missing"), "{before:#}");
    ensure!(!repo.path().exists() && cluster.sql("show archive_mode")? == "off", "setup alone changed something");
    tool(&cluster, &[&repo], &["setup"])?.expect_code(3)?;
    let off = tool(&cluster, &[&repo], &["check", "--json"])?.expect_code(3)?.json()?;
    ensure!(texts(list(&off, "/findings")?, "kind").contains(&"archiving_off"), "{off:#}");

    let applied = tool(&cluster, &[&repo], &["setup", "--apply", "--json"])?.expect_code(3)?.json()?;
    ensure!(applied["applied"] == true && applied["needs_restart"] == true && applied["ok"] == false, "{applied:#}");
    let expected = [
        ("wal_level", "restart"),
        ("archive_mode", "restart"),
        ("archive_command", "ok"),
        ("archive_timeout", "ok"),
        ("max_wal_senders", "restart"),
    ];
    let found = states(&applied)?;
    ensure!(expected.iter().all(|wanted| found.contains(wanted)), "{found:?}");
    ensure!(fs::metadata(repo.path())?.permissions().mode() & 0o7777 == 0o700);
    // Nothing is left to apply, only to restart for.
    let again = tool(&cluster, &[&repo], &["setup", "--apply", "--json"])?.expect_code(3)?.json()?;
    ensure!(again["applied"] == false && again["needs_restart"] == true, "{again:#}");

    cluster.restart()?;
    let done = tool(&cluster, &[&repo], &["setup", "--json"])?.success()?.json()?;
    ensure!(done["ok"] == true && done["format"] == 1 && done["cluster"] == "main", "{done:#}");
    tool(&cluster, &[&repo], &["setup"])?.success()?;
    let proved = tool(&cluster, &[&repo], &["check", "--json"])?.success()?.json()?;
    ensure!(list(&proved, "/proof/repositories")?.iter().all(|it| it["result"] == "same"), "{proved:#}");
    cluster.backup(&[]).map(drop)
}

/// Another tool's command is named and stays, with everything else, until it is said that it is to go.
#[test]
fn another_archiver_is_not_replaced_unasked() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let repo = future_repo(&sandbox)?;
    let other = "test -f %p && true";
    let cluster =
        Recipe::new("pg").segment_mb(1).set("archive_mode", "on").set("archive_command", other).start(&sandbox)?;
    let seen = tool(&cluster, &[&repo], &["setup", "--json"])?.expect_code(3)?.json()?;
    ensure!(states(&seen)?.contains(&("archive_command", "other_archiver")), "{seen:#}");

    tool(&cluster, &[&repo], &["setup", "--apply"])?.expect_code(20)?.says(&[
        other,
        "--replace",
        "nothing was changed",
    ])?;
    ensure!(cluster.sql("show archive_command")? == other && cluster.sql("show archive_timeout")? == "0");
    ensure!(!repo.path().exists());

    tool(&cluster, &[&repo], &["setup", "--apply", "--replace"])?.success()?;
    ensure!(cluster.sql("show archive_command")?.contains("archive-wal"));
    // A further repository is added without a question, none is dropped without one.
    let second = Repo::new(&sandbox, "second")?;
    tool(&cluster, &[&repo, &second], &["setup"])?.expect_code(3)?;
    tool(&cluster, &[&repo, &second], &["setup", "--apply"])?.success()?;
    let message = tool(&cluster, &[&repo], &["setup", "--apply"])?.expect_code(20)?;
    message.says(&[second.arg()?, "--replace"])?;
    tool(&cluster, &[&repo, &second], &["check"])?.success().map(drop)
}

/// A standby is told to archive always; what is better than needed stays.
#[test]
fn a_standby_is_to_archive_always() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let repo = Repo::new(&sandbox, "repo")?;
    let recipe =
        Recipe::new("pg").segment_mb(1).archived_to(&repo).set("wal_level", "logical").set("archive_timeout", "1h");
    let primary = summarizing(recipe)?.start(&sandbox)?;
    tool(&primary, &[&repo], &["setup"])?.success()?;
    let standby = primary.standby("standby", true)?;
    let seen = tool(&standby, &[&repo], &["setup", "--json"])?.expect_code(3)?.json()?;
    let mode = element(list(&seen, "/settings")?, "name", "archive_mode")?;
    ensure!(mode["needed"] == "always" && mode["state"] == "differs", "{mode:#}");
    ensure!(mode["reason"].as_str().is_some_and(|reason| reason.contains("primary")), "{mode:#}");
    primary.switch_wal()?;
    tool(&standby, &[&repo], &["check"])?.success()?;

    tool(&standby, &[&repo], &["setup", "--apply"])?.expect_code(3)?;
    standby.stop(StopMode::Fast)?;
    standby.start()?;
    let done = tool(&standby, &[&repo], &["setup", "--json"])?.success()?.json()?;
    let level = element(list(&done, "/settings")?, "name", "wal_level")?;
    ensure!(level["running"] == "logical" && level["needed"] == "logical", "{level:#}");
    ensure!(standby.sql("show archive_mode")? == "always" && standby.sql("show archive_timeout")? == "1h");
    Ok(())
}

/// A role without the rights sees the statements and changes no setting; no password goes anywhere.
#[test]
fn secrets_stay_and_rights_are_needed() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let repo = Repo::new(&sandbox, "repo")?;
    let cluster = Recipe::new("pg").segment_mb(1).start(&sandbox)?;
    cluster.sql("create role watcher login in role pg_monitor")?;
    let connection = cluster.connection()?;
    let place = connection.get(1).zip(connection.get(3)).context("a socket and a port")?;
    let conninfo = |user: &str| format!("host={} port={} user={user} password=hush-hush", place.0, place.1);
    let setup = |user: &str| -> Result<e2e::Ran> {
        let conninfo = conninfo(user);
        let words = ["setup", "--apply", "--repo", repo.arg()?, "-D", cluster.pgdata_arg()?, "-d", &conninfo];
        sandbox.run("archive-wal", &words)
    };
    let ran = setup("watcher")?.expect_code(3)?.says(&["superuser"])?;
    ensure!(ran.stdout.contains("ALTER SYSTEM SET archive_mode = 'on'") && !ran.stdout.contains("hush"), "{ran}");
    ensure!(cluster.sql("show archive_timeout")? == "0");
    let ran = setup("postgres")?.expect_code(3)?;
    let written = fs::read_to_string(cluster.pgdata().join("postgresql.auto.conf"))?;
    ensure!(written.contains("archive_command") && !written.contains("hush"), "{written}");
    ensure!(!ran.stdout.contains("hush") && !ran.stderr.contains("hush"), "{ran}");
    Ok(())
}

/// A folder that others can read is named with the command that closes it, and that command does.
#[test]
fn an_open_folder_is_named() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let repo = Repo::new(&sandbox, "re po")?;
    let command = format!("{} --repo '{}' %p", sandbox.program("archive-wal").display(), repo.arg()?);
    let recipe = Recipe::new("pg")
        .segment_mb(1)
        .set("archive_mode", "on")
        .set("archive_command", &command)
        .set("archive_timeout", "60s");
    let cluster = summarizing(recipe)?.start(&sandbox)?;
    tool(&cluster, &[&repo], &["setup"])?.success()?;
    fs::set_permissions(repo.path(), fs::Permissions::from_mode(0o755))?;
    let seen = tool(&cluster, &[&repo], &["setup", "--json"])?.expect_code(3)?.json()?;
    let finding = list(&seen, "/repositories/0/findings")?.first().context("a finding")?;
    let chmod = finding["command"].as_str().context("a command")?;
    ensure!(chmod == format!("chmod 700 '{}'", repo.arg()?), "{finding:#}");
    sandbox.run_other("sh", &["-c", chmod])?.success()?;
    tool(&cluster, &[&repo], &["setup"])?.success().map(drop)
}

/// A repository on a disk of its own: the lines that keep an unmounted disk from becoming a new repository are shown.
#[test]
fn a_mounted_repository_gets_a_hint() -> Result<()> {
    if !settings::has_root("archive_tools::setup::a_mounted_repository_gets_a_hint") {
        return Ok(());
    }
    disk::in_private(|| {
        let sandbox = Sandbox::new()?;
        let mounted = Disk::new(&sandbox, "disk", "size=50m")?;
        let repo = Repo::new(&sandbox, "disk/repo")?;
        let cluster = Recipe::new("pg").segment_mb(1).start(&sandbox)?;
        let seen = tool(&cluster, &[&repo], &["setup", "--json"])?.expect_code(3)?.json()?;
        let folder = list(&seen, "/repositories")?.first().context("a repository")?;
        ensure!(folder["mount_point"].as_str() == mounted.path().to_str(), "{folder:#}");
        let lines = folder["suggestion"].as_str().context("a suggestion")?;
        ensure!(lines.contains("create = false") && lines.contains(repo.arg()?), "{lines}");
        let ran = tool(&cluster, &[&repo], &["setup"])?.expect_code(3)?;
        ensure!(ran.stdout.contains("create = false"), "{ran}");
        Ok(())
    })
}
