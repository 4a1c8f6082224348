//! What Holdfast's programs share.
//!
//! Modules, lowest first; a module uses only those above it in this list:
//!
//! | module | holds |
//! |---|---|
//! | [`units`] | byte counts and durations, parsed and printed |
//! | [`report`] | what lower layers say (advice, progress, cancellation) and `app` renders |
//! | [`codec`] | digests and compression over `std::io` |
//! | [`pg`] | PostgreSQL's own formats: bytes in, values out |
//! | [`repo`] | the repository format: keys, records, parts, the index, the WAL chain |
//! | [`sys`] | clock, durable file operations, locks, child processes, signals; calls that fail on purpose, for tests |
//! | [`store`] | where a repository's bytes lie |
//! | [`archive`] | segments and backups: the vocabulary that the binaries share |
//! | [`server`] | a running PostgreSQL: connection strings, sessions, programs |
//! | [`arrival`] | a server's WAL on its way into a repository |
//! | [`restore`] | the engine that brings a cluster back |
//! | [`app`] | configuration, logging, output, exit codes |

mod serde_text;

pub mod app;
pub mod archive;
pub mod arrival;
pub mod codec;
pub mod pg;
pub mod repo;
pub mod report;
pub mod restore;
pub mod server;
pub mod store;
pub mod sys;
pub mod units;
