//! While no server runs.

use std::net::{Ipv4Addr, TcpListener};

use e2e::{Disk, StopMode, disk, settings};

use super::*;

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
