//! `common::server` against a real PostgreSQL, with `psql` as the oracle for connection parameters.
//!
//! A server does not run as root: started by root, each test runs itself again as an unprivileged user. The programs
//! are those in `HOLDFAST_TEST_PG_BIN`, else the newest under `/usr/lib/postgresql`; without any, the tests say
//! `skipped: …` and pass.

#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "helpers of tests are tests")]

mod cluster;
mod control;
mod resolve;
mod session;
mod tls;
