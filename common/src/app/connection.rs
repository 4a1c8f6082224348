//! Reaches the server that the user means.

use std::path::Path;

use anyhow::Context as _;

use super::cli::ServerArgs;
use super::context::Context;
use crate::server::{self, Conninfo, Session};

/// Variables of libpq that say where a server is.
const PLACE_VARIABLES: [&str; 5] = ["PGHOST", "PGHOSTADDR", "PGPORT", "PGSERVICE", "PGSERVICEFILE"];

impl Context {
    /// Opens a session as libpq would. Where nobody says where the server is but the data directory is known, the one
    /// that runs there is meant, on whatever port and socket.
    pub fn connect(&self, args: &ServerArgs) -> anyhow::Result<Session> {
        let mut sources = self.connection_sources(args);
        let place_is_said = sources.host.is_some()
            || sources.port.is_some()
            || sources.configured.is_some()
            || sources.dbname.as_deref().is_some_and(Conninfo::is_connection_string)
            || PLACE_VARIABLES.iter().any(|name| self.environment.get(name).is_some());
        if let (false, Some(pgdata)) = (place_is_said, &self.data_directory) {
            (sources.host, sources.port) = running_server(pgdata).unzip();
        }
        let conninfo = self.resolve(sources).context("understand how to reach the server")?;
        Session::connect(&conninfo, &self.cancel)
    }
}

/// The host and the port of the server of this data directory, by its `postmaster.pid`; none when that
/// does not say.
fn running_server(pgdata: &Path) -> Option<(String, String)> {
    // Any doubt leads to libpq's defaults, whose error then names the place that was tried.
    let file = server::running(pgdata).ok()??.file;
    Some((file.hosts().next()?, file.port?.to_string()))
}
