//! What Holdfast asks of the operating system: time, durable files, locks, child processes, signals, identity, space;
//! and, for tests, how calls of it fail on purpose.
//!
//! The only module that knows `nix`, and the only one that may rename, replace or remove trees. Knows nothing of
//! PostgreSQL.

pub mod clock;
pub mod durable;
pub mod faults;
pub mod identity;
pub mod lock;
pub mod passing;
pub mod private;
pub mod process;
pub mod signals;
pub mod space;
pub mod tree;
pub mod writeback;

#[cfg(test)]
pub(crate) mod rerun;
