//! The vocabulary that the binaries share: repositories, WAL files, backups.
//!
//! Joins the repository format ([`crate::repo`]) to a place where bytes lie ([`crate::store`]). Knows nothing of the
//! command line.

pub mod acknowledgement;
pub mod backups;
mod heartbeat;
pub mod identity;
pub mod inspect;
pub mod inventory;
pub mod leases;
pub mod memory;
pub mod moments;
mod repository;
pub mod segments;
pub mod spool;
pub mod sweep;
#[cfg(test)]
pub(crate) mod testing;
pub mod walk;

pub use identity::Identity;
pub use repository::Repository;
