//! The repository format: how objects are named, what the records say, how parts and the index are built.
//!
//! `docs/FORMAT.md` is the contract; this module is its only implementation. It knows nothing of how bytes are stored.

pub mod chain;
pub mod envelope;
mod ids;
pub mod index;
pub mod layout;
pub mod listing;
pub mod part;
pub mod plausible;
pub mod records;

pub use ids::{BackupId, ClusterName, NameError};
pub use layout::Layout;

/// The format that this version writes, and the newest that it reads.
pub const FORMAT: u32 = 1;
