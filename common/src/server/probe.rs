//! Whether a server takes sessions yet: one question, for callers that poll.

use std::time::Duration;

use anyhow::Context as _;

use super::connect::ConnectError;
use super::conninfo::Conninfo;
use super::session::Session;
use crate::report::Cancel;
use crate::sys::clock::{Deadline, poll};

/// Between two questions of [`await_session`].
const PAUSE: Duration = Duration::from_millis(50);

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

/// Asks until the server takes sessions, for `wait` at most. The error is what [`probe`]'s is, or why it still takes none.
pub fn await_session(conninfo: &Conninfo, wait: Duration, cancel: &Cancel) -> anyhow::Result<Session> {
    let mut reason = String::new();
    let session = poll(Deadline::after(wait), PAUSE, cancel, || {
        Ok(match probe(conninfo, cancel)? {
            Probe::Accepting(session) => Some(session),
            Probe::NotReady(why) | Probe::NoServer(why) => {
                reason = why;
                None
            }
        })
    })?;
    Ok(*session.context(reason)?)
}
