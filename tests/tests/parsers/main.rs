//! Parsers and the bytes that somebody might give them. No server.

mod corpus;
mod memory;
