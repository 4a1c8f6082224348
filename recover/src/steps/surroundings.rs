//! What lies around the directory that a recovery makes: its owner, its port, a server out of sight, supervisors, and
//! those who follow the cluster that is replaced.

use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::Context as _;
use common::report::Advice;
use common::server::configured;
use common::sys::identity;

use super::Site;
use crate::cli::{ConfigFrom, Role, RunArgs};
use crate::divergence::Divergence;
use crate::facts::Facts;
use crate::plan::Plan;
use crate::{supervisors, unseen};

/// Refuses where something around stands in the way; adds to the plan what the user should know.
pub(super) fn look(facts: &Facts, plan: &mut Plan, args: &RunArgs, site: &Site<'_>) -> anyhow::Result<()> {
    let (cli, ctx) = (site.cli, site.ctx);
    let server = facts.directory.cluster().and_then(|cluster| cluster.server.as_ref());
    owned(&plan.pgdata)?;
    for (_, place) in &plan.tablespaces {
        owned(place)?;
    }
    if plan.role != Role::Production {
        return Ok(());
    }
    plan.warnings.extend(unseen::refuse(&plan.pgdata, facts.system, server, cli, ctx)?);
    let found = supervisors::look(&plan.pgdata, server, ctx)?;
    plan.warnings.extend(supervisors::decide(&found, &plan.pgdata, args.ignore_supervisor)?);
    if plan.replaces {
        plan.divergence = Divergence::of(&plan.pgdata, server, cli, ctx);
    }
    if let Some(origin) = facts.origin.as_ref().filter(|origin| origin.pgdata != plan.pgdata && plan.starts)
        && origin.server.is_some()
    {
        return Err(Advice::refused(format!(
            "the cluster's own server runs on {}: two of them must not archive as one",
            origin.pgdata.display()
        ))
        .hint("stop it first, or make a copy with --as copy")
        .into());
    }
    if plan.starts {
        let port = future_port(facts, plan, site)?;
        if server.is_none_or(|server| server.file.port != Some(port)) {
            port_is_free(port)?;
        }
    }
    Ok(())
}

/// The port that the recovered server will have: that of the configuration that it will be started with, which is the
/// backup's only where its files come from there. What lies outside the data directory is read with the
/// `postgresql.auto.conf` of now.
fn future_port(facts: &Facts, plan: &Plan, site: &Site<'_>) -> anyhow::Result<u16> {
    let recorded = facts.backups.iter().find(|backup| backup.id == plan.backup).map(|backup| backup.source.port);
    let recorded = recorded.unwrap_or_default();
    let file = plan.config_file.as_deref();
    if file.is_none() && plan.config_from == ConfigFrom::Backup {
        return Ok(recorded);
    }
    // Where there is no data directory yet, the configuration's own folder is one to look from.
    let folder = if plan.pgdata.exists() { Some(&*plan.pgdata) } else { file.and_then(Path::parent) };
    let Some(folder) = folder else { return Ok(recorded) };
    let found = configured(&site.programs, folder, file, "port", &site.ctx.cancel)?;
    Ok(found.and_then(|port| port.parse().ok()).unwrap_or(recorded))
}

/// PostgreSQL takes no data directory, and no tablespace's, of another user.
fn owned(path: &Path) -> anyhow::Result<()> {
    let metadata = match path.metadata() {
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        metadata => metadata.with_context(|| format!("look at {}", path.display()))?,
    };
    let (owner, own) = (identity::name_of_user(metadata.uid()), identity::user_name());
    anyhow::ensure!(
        owner == own,
        Advice::refused(format!("{} belongs to {owner}, and PostgreSQL would run as {own}", path.display()))
            .hint(format!("run recover as {owner}, or give the directory to {own}"))
    );
    Ok(())
}

/// Somebody else may listen where the recovered server will.
fn port_is_free(port: u16) -> anyhow::Result<()> {
    if port == 0 {
        return Ok(());
    }
    match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
        Err(err) if err.kind() == std::io::ErrorKind::AddrInUse => {
            Err(Advice::refused(format!("somebody listens on port {port}, which the recovered server needs"))
                .hint("stop that server, or recover with --no-start and change the port")
                .into())
        }
        // No network at all is the server's affair.
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_seen() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        assert!(port_is_free(port).is_err());
        assert!(port_is_free(0).is_ok());
    }

    #[test]
    fn what_is_not_there_belongs_to_nobody() {
        let dir = tempfile::tempdir().unwrap();
        assert!(owned(&dir.path().join("missing")).is_ok());
        assert!(owned(dir.path()).is_ok());
        if identity::is_root() {
            std::os::unix::fs::chown(dir.path(), Some(1), None).unwrap();
            let refusal = owned(dir.path()).unwrap_err().to_string();
            assert!(refusal.contains("belongs to"), "{refusal}");
        }
    }
}
