//! The kit of the stories: real PostgreSQL clusters, the real programs, damage and an oracle.
//!
//! A story (`tests/stories/`) makes a [`Sandbox`], a [`Repo`] and a [`Cluster`] in it, runs Holdfast's programs
//! through [`Sandbox::run`] or the cluster's short forms, and compares what came back with what the WAL says
//! ([`Oracle`]). Nothing is mocked. Started by root, the servers and the programs run as the account `postgres`, as
//! they would on a server; started by anyone else, as that user.
//!
//! | module | holds |
//! |---|---|
//! | [`account`] | who runs the servers and programs |
//! | [`faults`] | the programs' own calls of files and stores, and faults planned at them |
//! | `syscalls` | the programs' system calls, and faults at each of them; on x86-64 |
//! | [`process`] | child processes with deadlines, and processes found by number |
//! | [`sandbox`] | a temporary folder that leaves neither files nor servers behind |
//! | [`postgres`] | where PostgreSQL's programs are |
//! | [`cluster`] | a cluster: made, started, killed, asked |
//! | [`repository`] | a repository's objects, and damage done to them |
//! | [`forge`] | a backup with bad contents and digests that agree with them |
//! | [`disk`] | file systems of a story's own: small, or read-only |
//! | [`layout`] | the places that a cluster's files lie in, on real servers |
//! | [`power`] | a disk whose power can be cut |
//! | [`workload`] | an application that writes while the story goes on |
//! | [`stock`] | what PostgreSQL's own tools say of a cluster that came back |
//! | [`oracle`] | which transactions a moment holds, read from the WAL by `pg_waldump` |
//! | [`bench`](mod@bench) | `make bench`: figures beside a shell pipe's and a rival's |
//! | [`fuzzing`] | what must hold of every parser, whatever the bytes |
//! | [`wait`] | waiting for a condition, never for a time |
//! | [`settings`] | seeds, rounds, and tests that must be skipped |
//!
//! Every function returns an error rather than panicking, those of [`fuzzing`] apart; a story ends with `?`.

pub mod account;
pub mod bench;
pub mod cluster;
pub mod disk;
pub mod faults;
pub mod forge;
pub mod fuzzing;
pub mod layout;
pub mod oracle;
pub mod postgres;
pub mod power;
pub mod process;
pub mod repository;
pub mod sandbox;
pub mod settings;
pub mod stock;
#[cfg(target_arch = "x86_64")]
pub mod syscalls;
pub mod wait;
pub mod workload;

pub use cluster::{Cluster, StopMode};
pub use disk::Disk;
pub use forge::Forge;
pub use oracle::Oracle;
pub use process::Ran;
pub use repository::Repo;
pub use sandbox::Sandbox;
pub use workload::Workload;
