//! `archive-wal setup`, `check` and `stats`: a server is set up, its archive is proved, and what is wrong is named.

mod check;
mod setup;
mod stats;

use anyhow::{Context, Result};
use e2e::{Cluster, Ran, Repo};
use serde_json::Value;

/// Runs a subcommand of `archive-wal` for this server and these repositories.
pub(crate) fn tool(cluster: &Cluster, repos: &[&Repo], words: &[&str]) -> Result<Ran> {
    let connection = cluster.connection()?;
    let mut args = words.to_vec();
    for repo in repos {
        args.extend(["--repo", repo.arg()?]);
    }
    args.extend(["-D", cluster.pgdata_arg()?]);
    args.extend(connection.iter().map(String::as_str));
    cluster.sandbox().run("archive-wal", &args)
}

/// The elements of an array of a document.
pub(crate) fn list<'a>(document: &'a Value, pointer: &str) -> Result<&'a Vec<Value>> {
    let found = document.pointer(pointer).with_context(|| format!("no {pointer} in {document:#}"))?;
    found.as_array().with_context(|| format!("{pointer} is no array in {document:#}"))
}

/// The words that a field of every element holds.
pub(crate) fn texts<'a>(elements: &'a [Value], field: &str) -> Vec<&'a str> {
    elements.iter().filter_map(|element| element.get(field)?.as_str()).collect()
}

/// The element whose `field` is `text`.
pub(crate) fn element<'a>(elements: &'a [Value], field: &str, text: &str) -> Result<&'a Value> {
    let found = elements.iter().find(|element| element.get(field).and_then(Value::as_str) == Some(text));
    found.with_context(|| format!("no {field} {text:?} in {elements:#?}"))
}
