//! The engine that brings a cluster back; shared by recovery and restore tests. Knows nothing of the command line.

pub mod aim;
pub mod choose;
pub mod demands;
pub mod extract;
pub mod follow;
pub mod own;
pub mod pick;
pub mod salvage;
pub mod scratch;
pub mod settings;
pub mod target;
pub mod wal_plan;
