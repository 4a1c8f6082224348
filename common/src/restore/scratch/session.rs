//! The way into a scratch server: by its socket, as whoever is its superuser.

use std::time::Duration;

use crate::report::{Advice, Cancel, message_of};
use crate::server::{Conninfo, Session, await_session};

use super::{Folder, PORT};

/// How long a server that takes writes may take to answer.
const ANSWER_WAIT_MAX: Duration = Duration::from_mins(1);

/// Where one may look around when the database that is wanted cannot be had.
const OTHER_DATABASES: [&str; 2] = ["postgres", "template1"];

/// A session, and how one comes to another like it.
#[derive(Debug)]
pub struct Entrance {
    /// The open session, of a superuser.
    pub session: Session,
    /// The parameters.
    pub conninfo: Conninfo,
    /// Why it is in another database than the one that was wanted, when it is.
    pub elsewhere: Option<String>,
}

/// Opens a session of a superuser with the promoted server of this folder. The server trusts whoever reaches its socket,
/// so all it takes is a name: the `users` are tried one after the other. When `database` takes no sessions, the answer is
/// one in another database, and says why.
pub fn session(folder: &Folder, database: &str, users: &[String], cancel: &Cancel) -> anyhow::Result<Entrance> {
    let mut refusals = Vec::new();
    let mut elsewhere = None;
    for name in std::iter::once(database).chain(OTHER_DATABASES) {
        for user in users {
            let conninfo = Conninfo::local(&folder.pgdata(), PORT, user, name);
            match open(&conninfo, cancel) {
                Ok(session) => return Ok(Entrance { session, conninfo, elsewhere }),
                Err(error) => {
                    cancel.check()?;
                    refusals.push(message_of(&error));
                }
            }
        }
        elsewhere = elsewhere.or_else(|| refusals.last().cloned());
    }
    let first = refusals.into_iter().next().unwrap_or_default();
    Err(Advice::failed(format!("the scratch server cannot be asked: {first}"))
        .hint("name a superuser of that cluster with -U")
        .into())
}

/// Opens a session of a superuser as soon as the server takes any.
fn open(conninfo: &Conninfo, cancel: &Cancel) -> anyhow::Result<Session> {
    let mut session = await_session(conninfo, ANSWER_WAIT_MAX, cancel)?;
    let is_superuser = session.value("SHOW is_superuser")?.as_deref() == Some("on");
    anyhow::ensure!(is_superuser, "{:?} is no superuser", conninfo.user().unwrap_or_default());
    Ok(session)
}
