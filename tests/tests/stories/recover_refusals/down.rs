//! While no server runs.

use std::net::{Ipv4Addr, TcpListener};

use e2e::cluster::Recipe;
use e2e::layout::Layout;
use e2e::{Disk, Repo, Sandbox, StopMode, disk, settings};

use super::*;
use crate::onward::recover;

/// Somebody else has the port; a crash has left a pid file, which is said and stops nobody.
#[test]
fn a_port_that_is_taken() -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = listener.local_addr()?.port().to_string();
    let scene = Scene::new(|recipe| recipe.set("port", &port))?;
    scene.cluster.kill9()?;
    scene.refused_here(&[], &["somebody listens on port", &port])?;
    drop(listener);
    let ran = scene.check(&[])?.success()?;
    ensure!(ran.stdout.contains("a crash left it"), "{ran}");
    Ok(())
}

/// The place has no room for the backup.
#[test]
fn a_disk_that_is_too_small() -> Result<()> {
    if !settings::has_root("a_disk_that_is_too_small") {
        return Ok(());
    }
    disk::in_private(|| {
        let scene = Scene::new(|recipe| recipe)?;
        scene.cluster.stop(StopMode::Fast)?;
        let disk = Disk::new(&scene.sandbox, "small", "size=10m")?;
        let pgdata = disk.path().join("copy").display().to_string();
        scene.refused(&pgdata, &["--as", "copy", "-p", "5999"], 20, &["has room for", "the backup needs"])?;
        ensure!(std::fs::read_dir(disk.path())?.next().is_none(), "something was made on the small disk");
        Ok(())
    })
}

/// The port that must be free is the one that the recovered server will have, not the one that the backup tells of.
#[test]
fn a_port_that_changed_since_the_backup() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let repo = Repo::new(&sandbox, "repo")?;
    let [old, new] = Sandbox::tcp_ports()?;
    let cluster = Recipe::new("pg").segment_mb(1).archived_to(&repo).set("port", &old.to_string()).start(&sandbox)?;
    cluster.backup(&[])?;
    cluster.stop(StopMode::Fast)?;
    cluster.configure(&[("port".to_owned(), new.to_string())])?;
    let (backup, preserved) = (["--target-immediate"], ["--target-immediate", "--config-from", "preserved"]);
    for (taken, allowed, refused) in [(old, &preserved[..], &backup[..]), (new, &backup[..], &preserved[..])] {
        let _listener = TcpListener::bind((Ipv4Addr::LOCALHOST, taken))?;
        recover(&cluster, "check", allowed)?.success()?;
        recover(&cluster, "check", refused)?.expect_code(20)?.says(&[&format!("listens on port {taken}")])?;
    }
    // A server that runs has only its own.
    cluster.start()?;
    let _listener = TcpListener::bind((Ipv4Addr::LOCALHOST, old))?;
    recover(&cluster, "check", &preserved)?.success()?;
    recover(&cluster, "check", &backup)?.expect_code(20)?;
    cluster.stop(StopMode::Fast)
}

/// The same where the configuration lies outside the data directory.
#[test]
fn a_port_that_changed_in_debians_configuration() -> Result<()> {
    Layout::Debian.tell(|| {
        let sandbox = Sandbox::new()?;
        let repo = Repo::new(&sandbox, "repo")?;
        let laid = Layout::Debian.build(&sandbox, &repo)?;
        let old = laid.cluster.port()?;
        let [new] = Sandbox::tcp_ports()?;
        laid.cluster.backup(&[])?;
        laid.ctl("stop")?.success()?;
        let folder = sandbox.path().join(format!("etc/{}/main/conf.d", e2e::postgres::major()?));
        sandbox.write(&folder.join("zz.conf"), format!("port = {new}\n").as_bytes())?;
        let check = || recover(&laid.cluster, "check", &["--target-immediate"]);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, old))?;
        check()?.success()?;
        drop(listener);
        let _listener = TcpListener::bind((Ipv4Addr::LOCALHOST, new))?;
        check()?.expect_code(20)?.says(&[&format!("listens on port {new}")]).map(drop)
    })
}
