//! Reaches the server that is to be backed up.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use common::app::{Context, ServerArgs};
use common::server::{self, Conninfo, Session, Sources};
use common::sys::identity;

/// Variables of libpq that say where a server is.
const PLACE_VARIABLES: [&str; 5] = ["PGHOST", "PGHOSTADDR", "PGPORT", "PGSERVICE", "PGSERVICEFILE"];

/// Opens a session as libpq would. Where nobody says where the server is but the data directory is known, the one
/// that runs there is meant, on whatever port and socket.
pub(crate) fn open(args: &ServerArgs, ctx: &Context) -> anyhow::Result<Session> {
    let variable = |name: &str| ctx.environment.get(name)?.to_str().map(str::to_owned);
    let mut configured = ctx.settings.conninfo.clone();
    let asked = args.host.is_some()
        || args.port.is_some()
        || args.dbname.as_deref().is_some_and(Conninfo::is_connection_string);
    let place_is_known = asked || configured.is_some() || PLACE_VARIABLES.iter().any(|name| variable(name).is_some());
    if let (false, Some(pgdata)) = (place_is_known, &ctx.data_directory) {
        configured = running_server(pgdata);
    }
    let sources = Sources {
        environment: &variable,
        dbname: args.dbname.clone(),
        host: args.host.clone(),
        port: args.port.clone(),
        user: args.username.clone(),
        configured,
        default_user: identity::user_name(),
        home: variable("HOME").map_or_else(PathBuf::new, PathBuf::from),
    };
    let conninfo = server::resolve(&sources).context("understand how to reach the server")?;
    for warning in conninfo.warnings() {
        tracing::warn!("{warning}");
    }
    Session::connect(&conninfo, &ctx.cancel)
}

/// Where the server of this data directory listens, by its `postmaster.pid`; none when that does not say.
fn running_server(pgdata: &Path) -> Option<String> {
    // Any doubt leads to libpq's defaults, whose error then names the place that was tried.
    let file = server::running(pgdata).ok()??.file;
    let (directory, port) = (file.socket_directory?, file.port?);
    let directory = directory.to_str()?.replace('\\', "\\\\").replace('\'', "\\'");
    Some(format!("host='{directory}' port={port}"))
}
