//! `recover row-counts`: how many rows each table of a running server has, in the lines that `--row-counts` reads.

use common::app::{Context, Outcome};
use common::server::{self, Session};

use crate::cli::Cli;
use crate::place::Place;
use crate::steps::check;
use crate::steps::verify::{databases, rows};

/// Prints a line a table; each database's as of one moment.
pub(crate) fn run(cli: &Cli, ctx: &Context) -> anyhow::Result<Outcome> {
    let place = Place::of(ctx)?;
    let server = server::running(&place.pgdata)?;
    let conninfo = check::connection(server.as_ref().map(|server| &server.file), cli, ctx)?;
    let mut session = Session::connect(&conninfo, &ctx.cancel)?;
    let templates = session.value("SELECT string_agg(datname, '/') FROM pg_database WHERE datistemplate")?;
    let templates = templates.unwrap_or_default();
    let names: Vec<String> = databases(&mut session)?.into_iter().flatten().collect();
    let mut counts = Vec::new();
    for name in names.iter().filter(|name| !templates.split('/').any(|template| template == *name)) {
        let mut conninfo = conninfo.clone();
        conninfo.set("dbname", name.clone())?;
        counts.extend(rows::count(name, &conninfo, &ctx.cancel)?);
    }
    for count in &counts {
        ctx.output.line(&count.to_string())?;
    }
    if ctx.output.is_json() {
        ctx.output.json(&serde_json::json!({ "tables": counts }))?;
    }
    Ok(Outcome::Done)
}
