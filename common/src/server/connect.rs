//! Opening a connection: which server, with or without TLS, for how long; and what to say when none answers.
//!
//! Servers are tried in their order. One that can't be reached, or that is still starting, is passed over; one that
//! answers and refuses ends the search, as in libpq.

use std::path::Path;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio_postgres::config::{SslMode as Wire, SslNegotiation};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::conninfo::{Conninfo, Endpoint, Place};
use super::parameters::{Parameters, SslMode, TargetSession};
use super::session::Wait;
use super::tls;
use crate::report::{Advice, Cancel};
use crate::units::Took;

/// The name under which Holdfast appears in `pg_stat_activity` when the parameters say none.
const APPLICATION_NAME: &str = "holdfast";

/// A connection and what drives it.
pub(super) struct Connection {
    pub(super) client: Client,
    pub(super) driver: JoinHandle<Result<(), tokio_postgres::Error>>,
    /// What a cancel request connects with; none on a connection without TLS.
    pub(super) tls: Option<MakeRustlsConnect>,
}

/// Why there is no session.
#[derive(Debug)]
pub(super) enum ConnectError {
    /// Nothing listens there.
    NoServer(anyhow::Error),
    /// A server listens and takes no sessions now: it is starting, recovering or shutting down.
    NotReady(anyhow::Error),
    /// Anything else: refused, misconfigured, interrupted.
    Failed(anyhow::Error),
}

impl From<ConnectError> for anyhow::Error {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::NoServer(error) | ConnectError::NotReady(error) | ConnectError::Failed(error) => error,
        }
    }
}

/// Tries the servers one after the other.
pub(super) fn open(runtime: &Runtime, info: &Conninfo, cancel: &Cancel) -> Result<Connection, ConnectError> {
    let parameters = Parameters::of(info).map_err(ConnectError::Failed)?;
    let mut endpoints = info.endpoints().map_err(ConnectError::Failed)?;
    if parameters.random_order {
        fastrand::shuffle(&mut endpoints);
    }
    let opener = Opener { runtime, info, parameters: &parameters, cancel };
    if parameters.target == TargetSession::PreferStandby {
        if let Ok(found) = opener.first(&endpoints, TargetSession::Standby) {
            return Ok(found);
        }
        return opener.first(&endpoints, TargetSession::Any);
    }
    opener.first(&endpoints, parameters.target)
}

struct Opener<'a> {
    runtime: &'a Runtime,
    info: &'a Conninfo,
    parameters: &'a Parameters,
    cancel: &'a Cancel,
}

/// How one attempt ended, before it is put into words.
enum Refusal {
    Io(tokio_postgres::Error),
    WrongKind,
    TimedOut(Duration),
    Other(anyhow::Error),
}

impl Opener<'_> {
    fn first(&self, endpoints: &[Endpoint], target: TargetSession) -> Result<Connection, ConnectError> {
        let mut seen: Vec<ConnectError> = Vec::new();
        for endpoint in endpoints {
            match self.one(endpoint, target) {
                Ok(found) => return Ok(found),
                Err(error @ ConnectError::Failed(_)) => return Err(error),
                Err(error) => seen.push(error),
            }
        }
        // A server that is not ready is more worth telling than one that is not there; of equals the first is.
        let ready = seen.iter().position(|error| matches!(error, ConnectError::NotReady(_))).unwrap_or(0);
        let others = seen.len().saturating_sub(1);
        let chosen = seen.into_iter().nth(ready);
        let chosen = chosen.unwrap_or_else(|| ConnectError::Failed(anyhow::anyhow!("there is no server to try")));
        Err(if others == 0 { chosen } else { with_list(chosen, endpoints) })
    }

    /// One server: each way of encryption that the mode allows, until one works.
    fn one(&self, endpoint: &Endpoint, target: TargetSession) -> Result<Connection, ConnectError> {
        let ways = ways(self.parameters.sslmode, &endpoint.place);
        let mut last = None;
        for way in ways {
            match self.attempt(endpoint, *way, target) {
                Ok(connection) => return Ok(connection),
                Err(Refusal::Io(error)) if other_way_may_help(&error) => {
                    // The first way is the preferred one: its failure is the one to report.
                    last.get_or_insert(Refusal::Io(error));
                }
                Err(refusal) => return Err(self.explain(endpoint, last.unwrap_or(refusal))),
            }
        }
        let refusal = last.unwrap_or_else(|| Refusal::Other(anyhow::anyhow!("no way of encryption is allowed")));
        Err(self.explain(endpoint, refusal))
    }

    fn attempt(&self, endpoint: &Endpoint, wire: Wire, target: TargetSession) -> Result<Connection, Refusal> {
        let tls = match wire {
            Wire::Disable => None,
            _ => Some(tls::connector(self.info, self.parameters.sslmode).map_err(Refusal::Other)?),
        };
        let config = self.config(endpoint, wire);
        let opening = async {
            let (client, driver) = match tls.clone() {
                None => {
                    let (client, connection) = config.connect(NoTls).await.map_err(Refusal::Io)?;
                    (client, self.runtime.spawn(connection))
                }
                Some(tls) => {
                    let (client, connection) = config.connect(tls).await.map_err(Refusal::Io)?;
                    (client, self.runtime.spawn(connection))
                }
            };
            if !fits(&client, target).await.map_err(Refusal::Io)? {
                return Err(Refusal::WrongKind);
            }
            Ok(Connection { client, driver, tls })
        };
        let limit = self.parameters.timeout;
        match super::session::wait(self.runtime, self.cancel, limit, opening) {
            Wait::Done(result) => result,
            Wait::Interrupted(interrupted) => Err(Refusal::Other(interrupted.into())),
            Wait::TimedOut(limit) => Err(Refusal::TimedOut(limit)),
        }
    }

    fn config(&self, endpoint: &Endpoint, wire: Wire) -> Config {
        let mut config = Config::new();
        match &endpoint.place {
            Place::Socket(directory) => {
                config.host_path(directory);
            }
            Place::Tcp { name, address } => {
                config.host(name);
                if let Some(address) = address {
                    config.hostaddr(*address);
                }
            }
        }
        config.port(endpoint.port).ssl_mode(wire).channel_binding(self.parameters.channel_binding);
        if let Some(password) = &endpoint.password {
            config.password(password.expose());
        }
        if let Some(user) = self.info.user() {
            config.user(user);
        }
        if let Some(dbname) = self.info.dbname() {
            config.dbname(dbname);
        }
        if let Some(options) = self.info.get("options") {
            config.options(options);
        }
        let name = self.info.get("application_name").or(self.info.get("fallback_application_name"));
        config.application_name(name.unwrap_or(APPLICATION_NAME));
        if self.parameters.direct_tls && wire == Wire::Require {
            config.ssl_negotiation(SslNegotiation::Direct);
        }
        self.tune(&mut config);
        config
    }

    fn tune(&self, config: &mut Config) {
        config.keepalives(self.parameters.keepalives);
        if let Some(idle) = self.parameters.keepalives_idle {
            config.keepalives_idle(idle);
        }
        if let Some(interval) = self.parameters.keepalives_interval {
            config.keepalives_interval(interval);
        }
        if let Some(count) = self.parameters.keepalives_count {
            config.keepalives_retries(count);
        }
        if let Some(timeout) = self.parameters.tcp_user_timeout {
            config.tcp_user_timeout(timeout);
        }
    }

    /// The refusal in words: where, as whom, why, and what to do about it.
    fn explain(&self, endpoint: &Endpoint, refusal: Refusal) -> ConnectError {
        let place = format!(
            "connect to the server at {endpoint} as user {:?}, database {:?}",
            self.info.user().unwrap_or_default(),
            self.info.dbname().unwrap_or_default()
        );
        let advise = |why: String, hint: Option<String>| {
            let advice = Advice::failed(format!("{place}: {why}"));
            anyhow::Error::from(match hint {
                Some(hint) => advice.hint(hint),
                None => advice,
            })
        };
        match refusal {
            Refusal::Other(error) => ConnectError::Failed(error.context(place)),
            Refusal::WrongKind => {
                let why = "it is not the kind of server that target_session_attrs asks for".to_owned();
                ConnectError::NotReady(advise(why, None))
            }
            Refusal::TimedOut(limit) => {
                let why = format!("no answer within {}", Took(limit));
                let hint = "connect_timeout sets the limit; a firewall may be in between".to_owned();
                ConnectError::NoServer(advise(why, Some(hint)))
            }
            Refusal::Io(error) => {
                let why = describe(&error);
                let hint = hint(&error, endpoint, self.info);
                match severity(&error) {
                    Severity::NoServer => ConnectError::NoServer(advise(why, hint)),
                    Severity::NotReady => ConnectError::NotReady(advise(why, hint)),
                    Severity::Refused => ConnectError::Failed(advise(why, hint)),
                }
            }
        }
    }
}

fn with_list(error: ConnectError, endpoints: &[Endpoint]) -> ConnectError {
    let tried: Vec<String> = endpoints.iter().map(ToString::to_string).collect();
    let add = |error: anyhow::Error| {
        let hint = error.downcast_ref::<Advice>().and_then(|advice| advice.hint.clone());
        let advice = Advice::failed(format!("{error:#} (tried: {})", tried.join("; ")));
        anyhow::Error::from(match hint {
            Some(hint) => advice.hint(hint),
            None => advice,
        })
    };
    match error {
        ConnectError::NoServer(error) => ConnectError::NoServer(add(error)),
        ConnectError::NotReady(error) => ConnectError::NotReady(add(error)),
        failed @ ConnectError::Failed(_) => failed,
    }
}

/// The ways of encryption to try. `sslmode` says nothing about sockets.
fn ways(mode: SslMode, place: &Place) -> &'static [Wire] {
    match (place, mode) {
        (Place::Socket(_), _) | (_, SslMode::Disable) => &[Wire::Disable],
        (_, SslMode::Allow) => &[Wire::Disable, Wire::Require],
        (_, SslMode::Prefer) => &[Wire::Prefer, Wire::Disable],
        _ => &[Wire::Require],
    }
}

/// Whether the same server may accept another way of encryption: the handshake failed, or `pg_hba.conf` refused. A
/// wrong password is not sent again in the clear.
fn other_way_may_help(error: &tokio_postgres::Error) -> bool {
    match error.code() {
        Some(code) => *code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
        // The library tells its kinds of errors apart by these words alone.
        None => error.to_string() == "error performing TLS handshake",
    }
}

/// Whether the server is of the kind that is asked for.
async fn fits(client: &Client, target: TargetSession) -> Result<bool, tokio_postgres::Error> {
    let (question, wanted) = match target {
        TargetSession::Any | TargetSession::PreferStandby => return Ok(true),
        TargetSession::ReadWrite => ("SHOW transaction_read_only", "off"),
        TargetSession::ReadOnly => ("SHOW transaction_read_only", "on"),
        TargetSession::Primary => ("SELECT pg_catalog.pg_is_in_recovery()", "f"),
        TargetSession::Standby => ("SELECT pg_catalog.pg_is_in_recovery()", "t"),
    };
    let answer = client.simple_query(question).await?;
    Ok(answer.iter().any(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0) == Some(wanted),
        _ => false,
    }))
}

/// What an error of the connection says about the server.
enum Severity {
    NoServer,
    NotReady,
    Refused,
}

fn severity(error: &tokio_postgres::Error) -> Severity {
    use std::io::ErrorKind::{InvalidData, InvalidInput, PermissionDenied, UnexpectedEof};
    // A server that goes down closes connections, with or without a word.
    let going = [SqlState::CANNOT_CONNECT_NOW, SqlState::ADMIN_SHUTDOWN, SqlState::CRASH_SHUTDOWN];
    match (error.code(), io_kind(error)) {
        (Some(code), _) if going.contains(code) => Severity::NotReady,
        (None, Some(UnexpectedEof)) => Severity::NotReady,
        (None, None) if error.is_closed() => Severity::NotReady,
        // The peer was reached; its answer, a certificate, a name or a permission is what is wrong.
        (Some(_), _) | (None, None | Some(InvalidData | InvalidInput | PermissionDenied)) => Severity::Refused,
        (None, Some(_)) => Severity::NoServer,
    }
}

/// The system's error at the root, if there is one.
fn io_kind(error: &tokio_postgres::Error) -> Option<std::io::ErrorKind> {
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        if let Some(io) = inner.downcast_ref::<std::io::Error>() {
            return Some(io.kind());
        }
        source = inner.source();
    }
    None
}

/// What went wrong, in the server's words where it said something.
pub(super) fn describe(error: &tokio_postgres::Error) -> String {
    if let Some(db) = error.as_db_error() {
        let detail = db.detail().map(|detail| format!(" ({detail})")).unwrap_or_default();
        return format!("{}: {}{detail}", db.severity(), db.message());
    }
    // The outermost words only say that something went wrong.
    let mut words = Vec::new();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        let text = inner.to_string();
        if words.last() != Some(&text) {
            words.push(text);
        }
        source = inner.source();
    }
    if words.is_empty() { error.to_string() } else { words.join(": ") }
}

fn hint(error: &tokio_postgres::Error, endpoint: &Endpoint, info: &Conninfo) -> Option<String> {
    let user = info.user().unwrap_or_default();
    if let Some(code) = error.code() {
        return hint_for_state(code, endpoint, info, user);
    }
    if describe(error) == "password missing" {
        return Some(
            "put the password into ~/.pgpass (mode 0600), or set PGPASSWORD, or add it to a service file".to_owned(),
        );
    }
    match (io_kind(error)?, &endpoint.place) {
        (std::io::ErrorKind::NotFound, Place::Socket(directory)) => Some(missing_socket(directory)),
        (std::io::ErrorKind::PermissionDenied, Place::Socket(_)) => {
            Some("run as a user who may enter the socket's directory".to_owned())
        }
        (std::io::ErrorKind::ConnectionRefused, Place::Socket(_)) => {
            Some("the socket is a left-over: the server is not running".to_owned())
        }
        (std::io::ErrorKind::ConnectionRefused, Place::Tcp { .. }) => {
            Some("is the server running there, with listen_addresses and port as used here?".to_owned())
        }
        _ => None,
    }
}

fn missing_socket(directory: &Path) -> String {
    format!(
        "no server has a socket in {}; start it, or name its socket directory with -h and its port with -p",
        directory.display()
    )
}

fn hint_for_state(code: &SqlState, endpoint: &Endpoint, info: &Conninfo, user: &str) -> Option<String> {
    if *code == SqlState::INVALID_PASSWORD {
        let from =
            if endpoint.password.is_some() && info.uses_passfile() { ", taken from the password file," } else { "" };
        return Some(format!(
            "the password{from} is not that of role {user:?}; correct it, or name another role with -U"
        ));
    }
    if *code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION {
        return Some(match endpoint.place {
            Place::Socket(_) => {
                format!(
                    "run as the operating-system user of role {user:?}, or name a role with -U, or allow it in pg_hba.conf"
                )
            }
            Place::Tcp { .. } => {
                format!("allow role {user:?} from this host in the server's pg_hba.conf and reload it")
            }
        });
    }
    if *code == SqlState::INVALID_CATALOG_NAME {
        return Some("name another database with -d".to_owned());
    }
    if *code == SqlState::CANNOT_CONNECT_NOW {
        return Some("the server is starting, recovering or shutting down; try again later".to_owned());
    }
    if *code == SqlState::TOO_MANY_CONNECTIONS {
        return Some("close other sessions, or raise max_connections".to_owned());
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case(SslMode::Disable, &[Wire::Disable])]
    #[case(SslMode::Allow, &[Wire::Disable, Wire::Require])]
    #[case(SslMode::Prefer, &[Wire::Prefer, Wire::Disable])]
    #[case(SslMode::VerifyFull, &[Wire::Require])]
    fn tries_what_the_mode_allows(#[case] mode: SslMode, #[case] expected: &[Wire]) {
        assert_eq!(ways(mode, &Place::Tcp { name: "h".to_owned(), address: None }), expected);
        assert_eq!(ways(mode, &Place::Socket("/tmp".into())), &[Wire::Disable]);
    }
}
