//! A running PostgreSQL and its programs: how it is reached, asked, backed up, stopped and started.
//!
//! Knows nothing of repositories, and reads no environment: callers pass in what it may say.

mod connect;
mod conninfo;
mod keyword;
mod parameters;
mod passfile;
mod resolve;
mod service;
mod session;
mod tls;
mod uri;

pub use conninfo::{Conninfo, Endpoint, Place, Secret};
pub use resolve::{Sources, resolve};
pub use session::{ServerVersion, Session, SqlError, quote_literal};
