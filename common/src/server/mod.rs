//! A running PostgreSQL and its programs: how it is reached, asked, backed up, stopped and started.
//!
//! Knows nothing of repositories, and reads no environment: callers pass in what it may say.
//!
//! [`resolve()`] turns flags, files and variables into a [`Conninfo`], [`Session::connect`] opens a session with it;
//! [`backup`], [`facts()`] and [`backlog()`] work through sessions. [`Programs`] finds the installation whose `pg_ctl` [`stop`] and
//! [`start`] use, and [`running`] tells from the files of a data directory whether a server is at work there.

mod backlog;
pub mod backup;
mod connect;
mod conninfo;
mod control;
mod facts;
mod keyword;
mod parameters;
mod passfile;
mod postmaster;
mod probe;
mod programs;
mod resolve;
mod service;
mod session;
mod tls;
mod uri;

pub use backlog::{Backlog, Waiting, backlog};
pub use conninfo::{Conninfo, Endpoint, Place, Secret};
pub use control::{StartOptions, StopMode, StopOutcome, configured, refuse_path, shell_quote, start, stop};
pub use facts::{ServerFacts, Tablespace, facts};
pub use postmaster::{PidFile, Postmaster, StartCommand, processes, running};
pub use probe::{Probe, await_session, probe};
pub use programs::{Programs, Search, major_of};
pub use resolve::{Sources, resolve};
pub use session::{ServerVersion, Session, SqlError, quote_literal};
