//! Parsers and the bytes that somebody might give them. No server.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod corpus;
mod memory;
