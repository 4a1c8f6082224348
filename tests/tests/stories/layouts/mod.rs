//! A recovery in every real layout, to every kind of target, killed at each of its steps.
//!
//! One story for each layout: it has one backup. First the recovery is killed at its steps, and gone on with or undone;
//! each time the old cluster comes back. Then it goes to each kind of target.

mod killed;
mod scene;
mod targets;

use anyhow::Result;
use e2e::layout::Layout;

use scene::Scene;

fn tell(layout: Layout) -> Result<()> {
    layout.tell(|| {
        let scene = Scene::new(layout)?;
        killed::at_its_steps(&scene)?;
        targets::of_every_kind(&scene)
    })
}

#[test]
fn in_place() -> Result<()> {
    tell(Layout::InPlace)
}

#[test]
fn a_mount_point() -> Result<()> {
    tell(Layout::MountPoint)
}

#[test]
fn a_linked_data_directory() -> Result<()> {
    tell(Layout::LinkedPgdata)
}

#[test]
fn a_linked_pg_wal() -> Result<()> {
    tell(Layout::LinkedWal)
}

#[test]
fn tablespaces() -> Result<()> {
    tell(Layout::Tablespaces)
}

#[test]
fn debians_split_configuration() -> Result<()> {
    tell(Layout::Debian)
}

#[test]
fn side_by_side() -> Result<()> {
    tell(Layout::SideBySide)
}
