//! Whether a server takes sessions yet: one question, for callers that poll.

use super::connect::ConnectError;
use super::conninfo::Conninfo;
use super::session::Session;
use crate::report::Cancel;

/// The answer of [`probe`].
#[derive(Debug)]
pub enum Probe {
    /// It takes sessions; here is one.
    Accepting(Box<Session>),
    /// A server is there and takes none now: it is starting, recovering without hot standby, or shutting down.
    NotReady(String),
    /// Nothing answers there.
    NoServer(String),
}

/// Asks once. An error is what waiting would not mend: a refused role, a wrong password, an interruption.
pub fn probe(conninfo: &Conninfo, cancel: &Cancel) -> anyhow::Result<Probe> {
    match Session::open(conninfo, cancel) {
        Ok(session) => Ok(Probe::Accepting(Box::new(session))),
        Err(ConnectError::NotReady(error)) => Ok(Probe::NotReady(format!("{error:#}"))),
        Err(ConnectError::NoServer(error)) => Ok(Probe::NoServer(format!("{error:#}"))),
        Err(ConnectError::Failed(error)) => Err(error),
    }
}
