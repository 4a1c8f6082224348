//! The files of the server that a session leads to, for programs that must run on its host.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::context::Context;
use crate::archive::identity;
use crate::pg::ControlFile;
use crate::report::Advice;
use crate::server::ServerFacts;
use crate::sys::identity::become_owner_of;

/// The server's data directory and what its control file says.
///
/// It must be the directory that was named, if one was, lie on this host and be this server's, and no repository may lie
/// in it or in a tablespace; everything else is refused. Started by root, the process becomes the directory's owner.
pub fn reach(facts: &ServerFacts, ctx: &Context) -> anyhow::Result<(PathBuf, ControlFile)> {
    let pgdata = data_directory(facts, ctx)?;
    let local = || format!("run {} on the server's host, as the user that owns the server's files", ctx.program);
    if !pgdata.exists() {
        let message = format!("the server's data directory {} is not on this host", pgdata.display());
        return Err(Advice::refused(message).hint(local()).into());
    }
    become_owner_of(&pgdata)?;
    let control = identity::read_control(&pgdata)?;
    if control.system_identifier != facts.system_identifier {
        return Err(Advice::refused(format!(
            "{} is not the data directory of this server: its system identifier is {}, the server's {}",
            pgdata.display(),
            control.system_identifier,
            facts.system_identifier
        ))
        .hint(local())
        .into());
    }
    refuse_repository_inside(&pgdata, facts, ctx)?;
    Ok((pgdata, control))
}

/// The server's data directory, which must be the one that was named.
fn data_directory(facts: &ServerFacts, ctx: &Context) -> anyhow::Result<PathBuf> {
    let named = ctx.settings.pgdata.as_ref();
    let Some(said) = facts.data_directory() else {
        let named = named.map(|named| named.value.clone());
        return named.context(
            Advice::usage("the role may not see where the server's data directory is")
                .hint("name it with -D, or grant pg_read_all_settings to the role"),
        );
    };
    let Some(named) = named else { return Ok(said) };
    let resolved = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    if resolved(&said) != resolved(&named.value) {
        return Err(Advice::refused(format!(
            "the server's data directory is {}, not {}, {}",
            said.display(),
            named.value.display(),
            named.origin
        ))
        .hint("name the right server with -h and -p, or the right data directory with -D")
        .into());
    }
    Ok(named.value.clone())
}

/// A repository in the server's own directories would be backed up into itself, or at least be lost with the server.
fn refuse_repository_inside(pgdata: &Path, facts: &ServerFacts, ctx: &Context) -> anyhow::Result<()> {
    ctx.settings.refuse_repository_inside(pgdata)?;
    ctx.settings.refuse_repository_inside(&pgdata.join("pg_wal"))?;
    for tablespace in &facts.tablespaces {
        ctx.settings.refuse_repository_inside(&pgdata.join(&tablespace.location))?;
    }
    Ok(())
}
