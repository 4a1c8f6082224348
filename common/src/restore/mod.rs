//! The engine that brings a cluster back; shared by recovery and restore tests. Knows nothing of the command line.

pub mod wal_plan;
