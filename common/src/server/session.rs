//! A session with a PostgreSQL server, as a blocking thing that can be interrupted.
//!
//! Inside is a tokio runtime on the caller's own thread; nothing runs while no call does. Every session begins with the
//! same settings, whatever the database or the role prescribes: no time limits that could end a backup, names looked
//! up in `pg_catalog` alone, UTF-8, ISO dates in UTC.

use std::fmt;
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::runtime::Runtime;
use tokio::time::{Instant, timeout};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use super::connect::{self, ConnectError, Connection};
use super::conninfo::Conninfo;
use crate::report::{Advice, Cancel, Interrupted};
use crate::units::Took;

/// How soon a blocking call notices that it is to stop.
const TICK: Duration = Duration::from_millis(50);
/// How long saying farewell, or asking the server to give up a statement, may take.
const FAREWELL: Duration = Duration::from_secs(2);
/// The oldest server that is supported.
const MAJOR_MIN: u32 = 14;

/// What every session begins with. Functions and types are qualified: the search path is not set yet.
const SETTINGS: &str = "\
    SET statement_timeout = 0; SET lock_timeout = 0; SET idle_session_timeout = 0; \
    SET idle_in_transaction_session_timeout = 0; SET client_encoding = 'UTF8'; SET datestyle = 'ISO'; \
    SET timezone = 'UTC'; SET bytea_output = 'hex'; SET standard_conforming_strings = on; \
    SET synchronous_commit = local; SET default_transaction_read_only = off; \
    SELECT pg_catalog.set_config('search_path', 'pg_catalog', false)";

/// A server's version number as `server_version_num` has it: 150018 is 15.18.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServerVersion {
    /// Major times 10,000 plus minor.
    pub number: u32,
}

impl ServerVersion {
    /// 15 of 15.18.
    pub fn major(self) -> u32 {
        self.number / 10_000
    }

    /// 18 of 15.18.
    pub fn minor(self) -> u32 {
        self.number % 10_000
    }
}

impl fmt::Display for ServerVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major(), self.minor())
    }
}

/// The server refused a statement. It is found in an [`anyhow::Error`] by `downcast_ref`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SqlError {
    /// The five characters of the SQLSTATE, such as `42501` for a missing permission.
    pub state: String,
    /// Severity, message and detail, in the server's language.
    pub message: String,
}

impl SqlError {
    /// The SQLSTATE of a missing permission.
    pub const INSUFFICIENT_PRIVILEGE: &'static str = "42501";

    /// The server's refusal inside an error, if that is what it is.
    pub fn find(error: &anyhow::Error) -> Option<&Self> {
        error.downcast_ref()
    }
}

/// A text as an SQL literal, safe under either setting of `standard_conforming_strings`.
pub fn quote_literal(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    if text.contains('\\') { format!(" E'{}'", doubled.replace('\\', "\\\\")) } else { format!("'{doubled}'") }
}

/// An open session. Dropping it closes it; a backup that was started in it is then aborted by the server.
pub struct Session {
    runtime: Runtime,
    connection: Option<Connection>,
    cancel: Cancel,
    limit: Option<Duration>,
    version: ServerVersion,
}

impl Session {
    /// Opens a session with the first server that accepts one, within `connect_timeout` each (30 seconds when not
    /// given), and brings it to known settings. `cancel` interrupts this and every later call.
    ///
    /// The error names the server, the user and the database, and advises. Servers older than 14 are refused.
    pub fn connect(conninfo: &Conninfo, cancel: &Cancel) -> anyhow::Result<Self> {
        Ok(Self::open(conninfo, cancel)?)
    }

    pub(super) fn open(conninfo: &Conninfo, cancel: &Cancel) -> Result<Self, ConnectError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("start the connection's runtime").map_err(ConnectError::Failed)?;
        let connection = match connect::open(&runtime, conninfo, cancel) {
            Ok(connection) => connection,
            Err(error) => {
                // A host name's look-up may still be under way; nobody waits for it.
                runtime.shutdown_background();
                return Err(error);
            }
        };
        let mut session = Self {
            runtime,
            connection: Some(connection),
            cancel: cancel.clone(),
            limit: None,
            version: ServerVersion { number: 0 },
        };
        session.prepare().map_err(ConnectError::Failed)?;
        Ok(session)
    }

    fn prepare(&mut self) -> anyhow::Result<()> {
        self.execute(SETTINGS).context("bring the session to known settings")?;
        let number = self.value("SHOW server_version_num")?.unwrap_or_default();
        let number = number.parse().with_context(|| format!("understand the server's version {number:?}"))?;
        self.version = ServerVersion { number };
        let advice = || Advice::refused(format!("the server is PostgreSQL {}, which is too old", self.version));
        ensure!(self.version.major() >= MAJOR_MIN, advice().hint("Holdfast needs PostgreSQL 14 or newer"));
        if self.version.major() >= 17 {
            self.execute("SET transaction_timeout = 0")?;
        }
        Ok(())
    }

    /// The server's version.
    pub fn version(&self) -> ServerVersion {
        self.version
    }

    /// Bounds every later call; none lets it take as long as it takes, which is how a session begins. A call that
    /// exceeds the limit fails, and its statement is cancelled.
    pub fn set_limit(&mut self, limit: Option<Duration>) {
        self.limit = limit;
    }

    /// Runs one or more statements and answers all their rows, values as text. Give it bounded results only.
    ///
    /// A refusal of the server is an error with an [`SqlError`] in it; the session stays usable. An interrupted call
    /// asks the server to cancel the statement.
    pub fn rows(&mut self, sql: &str) -> anyhow::Result<Vec<Vec<Option<String>>>> {
        let client = self.client()?;
        let answer = wait(&self.runtime, &self.cancel, self.limit, client.simple_query(sql));
        match answer {
            Wait::Done(Ok(messages)) => messages
                .iter()
                .filter_map(row)
                .collect::<Result<_, _>>()
                .with_context(|| format!("run {:?}: the answer is no UTF-8", shorten(sql))),
            Wait::Done(Err(error)) => Err(explain(&error, sql)),
            Wait::Interrupted(interrupted) => {
                self.cancel_statement();
                Err(interrupted.into())
            }
            Wait::TimedOut(limit) => {
                self.cancel_statement();
                let shown = shorten(sql);
                Err(Advice::failed(format!("run {shown:?}: no answer within {}", Took(limit))).into())
            }
        }
    }

    /// Asks for `columns` `from` somewhere and answers the bytes of their text as the server has them; nulls are left out.
    ///
    /// For names that people gave: the server keeps a name in the encoding of the database in which it was given, and in
    /// any other one it need not be text.
    pub fn stored(&mut self, columns: &[&str], from: &str) -> anyhow::Result<Vec<Vec<Vec<u8>>>> {
        let columns: Vec<_> =
            columns.iter().map(|column| format!("encode(textsend(({column})::text), 'hex')")).collect();
        let sql = format!("SELECT {} FROM {from}", columns.join(", "));
        // In any other encoding the server would convert the bytes, or refuse to. An error takes the setting back.
        let rows = self.rows(&format!("SET client_encoding = 'SQL_ASCII'; {sql}; SET client_encoding = 'UTF8'"))?;
        let decode = |row: Vec<Option<String>>| row.into_iter().flatten().map(hex::decode).collect::<Result<_, _>>();
        rows.into_iter().map(decode).collect::<Result<_, _>>().with_context(|| format!("run {:?}", shorten(&sql)))
    }

    /// The first column of the first row; none when there is no row or it is null.
    pub fn value(&mut self, sql: &str) -> anyhow::Result<Option<String>> {
        Ok(self.rows(sql)?.into_iter().next().and_then(|row| row.into_iter().next().flatten()))
    }

    /// Runs one or more statements for their effect.
    pub fn execute(&mut self, sql: &str) -> anyhow::Result<()> {
        self.rows(sql).map(|_| ())
    }

    /// Whether the connection has ended, as far as this side has heard. A backup's session that is closed has lost
    /// its backup.
    pub fn is_closed(&self) -> bool {
        // Nothing reads from the socket between calls: let the driver look once. It runs whenever this task yields.
        self.runtime.block_on(async {
            for _ in 0..4 {
                tokio::task::yield_now().await;
            }
        });
        self.connection.as_ref().is_none_or(|connection| connection.client.is_closed())
    }

    /// Ends the session properly. Dropping it does the same.
    pub fn close(mut self) {
        self.end();
    }

    fn client(&self) -> anyhow::Result<&Client> {
        self.connection.as_ref().map(|connection| &connection.client).context("the session is closed")
    }

    /// The statement may run on when nobody waits for it, so the server is asked to stop it. Whether it hears is not
    /// waited for beyond [`FAREWELL`]: the caller was told to stop.
    fn cancel_statement(&self) {
        let Some(Connection { client, tls, .. }) = &self.connection else { return };
        let token = client.cancel_token();
        let asked = async {
            match tls {
                Some(tls) => token.cancel_query(tls.clone()).await,
                None => token.cancel_query(NoTls).await,
            }
        };
        // A request that fails changes nothing: the session ends all the same.
        drop(self.runtime.block_on(async { timeout(FAREWELL, asked).await }));
    }

    /// Says farewell, so that the server ends the backend now and logs no broken connection.
    fn end(&mut self) {
        if let Some(Connection { client, driver, .. }) = self.connection.take() {
            drop(client);
            // What the driver answers is of no interest any more.
            drop(self.runtime.block_on(async { timeout(FAREWELL, driver).await }));
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.end();
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("version", &self.version.to_string()).finish_non_exhaustive()
    }
}

/// How waiting for something ended.
pub(super) enum Wait<T> {
    Done(T),
    Interrupted(Interrupted),
    TimedOut(Duration),
}

/// Runs `future` until it is done, the limit is over or the stop is asked for.
pub(super) fn wait<T>(
    runtime: &Runtime,
    cancel: &Cancel,
    limit: Option<Duration>,
    future: impl Future<Output = T>,
) -> Wait<T> {
    runtime.block_on(async {
        let begun = Instant::now();
        let mut future = pin!(future);
        loop {
            if let Err(interrupted) = cancel.check() {
                return Wait::Interrupted(interrupted);
            }
            let left = limit.map_or(TICK, |limit| limit.saturating_sub(begun.elapsed()).min(TICK));
            if let Ok(value) = timeout(left, future.as_mut()).await {
                return Wait::Done(value);
            }
            if let Some(limit) = limit.filter(|limit| begun.elapsed() >= *limit) {
                return Wait::TimedOut(limit);
            }
        }
    })
}

fn row(message: &SimpleQueryMessage) -> Option<Result<Vec<Option<String>>, tokio_postgres::Error>> {
    match message {
        SimpleQueryMessage::Row(row) => {
            let value = |i| row.try_get(i).map(|value: Option<&str>| value.map(ToOwned::to_owned));
            Some((0..row.len()).map(value).collect())
        }
        _ => None,
    }
}

fn explain(error: &tokio_postgres::Error, sql: &str) -> anyhow::Error {
    let message = connect::describe(error);
    let context = format!("run {:?}", shorten(sql));
    match error.code() {
        Some(code) => anyhow::Error::new(SqlError { state: code.code().to_owned(), message }).context(context),
        None => anyhow::anyhow!("{message}").context(context),
    }
}

/// Enough of a statement to recognise it in a message.
fn shorten(sql: &str) -> String {
    let words: Vec<&str> = sql.split_whitespace().collect();
    let line = words.join(" ");
    match line.char_indices().nth(100) {
        Some((end, _)) => format!("{}…", line.get(..end).unwrap_or_default()),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("", "''")]
    #[case("a", "'a'")]
    #[case("it's", "'it''s'")]
    #[case("a\\'b", " E'a\\\\''b'")]
    fn quotes(#[case] text: &str, #[case] expected: &str) {
        assert_eq!(quote_literal(text), expected);
    }

    #[rstest]
    #[case(150_018, 15, 18, "15.18")]
    #[case(180_000, 18, 0, "18.0")]
    fn splits_versions(#[case] number: u32, #[case] major: u32, #[case] minor: u32, #[case] text: &str) {
        let version = ServerVersion { number };
        assert_eq!((version.major(), version.minor(), version.to_string().as_str()), (major, minor, text));
    }

    #[test]
    fn says_where_nobody_listens() {
        let directory = tempfile::tempdir().unwrap();
        let text = format!("host={} port=7 user=u dbname=d", directory.path().display());
        let error = Session::connect(&Conninfo::parse(&text).unwrap(), &Cancel::default()).unwrap_err();
        let socket = directory.path().join(".s.PGSQL.7");
        let expected = format!("connect to the server at socket {} as user \"u\", database \"d\": ", socket.display());
        assert!(error.to_string().starts_with(&expected), "{error:#}");
        assert!(error.downcast_ref::<Advice>().unwrap().hint.as_ref().unwrap().contains("-p"));
    }

    #[test]
    fn gives_up_on_a_server_that_never_answers() {
        let directory = tempfile::tempdir().unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(directory.path().join(".s.PGSQL.5432")).unwrap();
        let text = format!("host={} user=u dbname=d connect_timeout=1", directory.path().display());
        let error = Session::connect(&Conninfo::parse(&text).unwrap(), &Cancel::default()).unwrap_err();
        assert!(error.to_string().ends_with("no answer within 1.0 s"), "{error:#}");
    }

    #[test]
    fn is_interrupted_while_it_connects() {
        let directory = tempfile::tempdir().unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(directory.path().join(".s.PGSQL.5432")).unwrap();
        let text = format!("host={} user=u dbname=d connect_timeout=0", directory.path().display());
        let cancel = Cancel::default();
        cancel.cancel();
        let error = Session::connect(&Conninfo::parse(&text).unwrap(), &cancel).unwrap_err();
        assert!(error.chain().any(<dyn std::error::Error>::is::<Interrupted>), "{error:#}");
    }
}
