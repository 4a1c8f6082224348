//! What others have with the running cluster that a recovery breaks: standbys, slots, subscriptions.
//!
//! A recovered cluster goes on on a new timeline from an earlier moment. Whoever has followed the old one is ahead of
//! it, and no tool tells them; so the plan does.

use std::path::Path;

use common::app::Context;
use common::report::message_of;
use common::server::{Postmaster, Session};
use serde::{Deserialize, Serialize};

use crate::cli::Cli;
use crate::steps::check;

/// Names of those that a recovery in place leaves behind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Divergence {
    /// Replication slots, which are in no backup.
    pub(crate) slots: Vec<String>,
    /// Standbys and other receivers that stream from the server now.
    pub(crate) standbys: Vec<String>,
    /// Subscriptions of the cluster to others, as `NAME in DATABASE`.
    pub(crate) subscriptions: Vec<String>,
    /// Why somebody may be missing here.
    pub(crate) unknown: Option<String>,
}

impl Divergence {
    /// Asks the server that runs on the data directory; of one that is down, its files are looked at.
    pub(crate) fn of(pgdata: &Path, server: Option<&Postmaster>, cli: &Cli, ctx: &Context) -> Self {
        let Some(server) = server else {
            let unknown = Some("the server is down: its standbys and subscriptions are not known".to_owned());
            return Self { slots: slots_in(pgdata), unknown, ..Self::default() };
        };
        let asked = check::own_connection(server, cli, ctx)
            .and_then(|conninfo| Session::connect(&conninfo, &ctx.cancel))
            .and_then(|mut session| ask(&mut session));
        asked.unwrap_or_else(|err| Self {
            slots: slots_in(pgdata),
            unknown: Some(format!("the server's standbys and subscriptions are not known: {}", message_of(&err))),
            ..Self::default()
        })
    }

    /// What it means, a line each.
    pub(crate) fn describe(&self) -> Vec<String> {
        let slot = |name| format!("replication slot {name} is lost: whoever uses it must be set up anew");
        let standby = |name| format!("{name} streams from this server and is ahead of the recovered one: rebuild it");
        let subscription = |name| {
            format!(
                "subscription {name} goes on from where its publisher's slot is: what it got since the target is lost"
            )
        };
        let lines = self.slots.iter().map(slot).chain(self.standbys.iter().map(standby));
        lines.chain(self.subscriptions.iter().map(subscription)).chain(self.unknown.clone()).collect()
    }
}

fn ask(session: &mut Session) -> anyhow::Result<Divergence> {
    let mut words = |columns: &[&str], from: &str| -> anyhow::Result<Vec<Vec<String>>> {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let rows = session.stored(columns, from)?;
        Ok(rows.into_iter().map(|row| row.into_iter().map(text).collect()).collect())
    };
    let slots = words(&["slot_name", "slot_type"], "pg_replication_slots WHERE NOT temporary ORDER BY slot_name")?;
    let standbys = words(
        &["application_name", "coalesce(host(client_addr), 'this host')"],
        "pg_stat_replication ORDER BY application_name, client_addr",
    )?;
    let subscriptions = words(
        &["subname", "datname"],
        "pg_subscription JOIN pg_database ON pg_database.oid = subdbid ORDER BY subname, datname",
    )?;
    let pairs = |rows: Vec<Vec<String>>, between: &str, end: &str| {
        rows.iter().map(|row| row.join(between) + end).collect::<Vec<_>>()
    };
    Ok(Divergence {
        slots: pairs(slots, " (", ")"),
        standbys: pairs(standbys, " on ", ""),
        subscriptions: pairs(subscriptions, " in ", ""),
        unknown: None,
    })
}

/// The slots that have a folder; none where that cannot be read.
fn slots_in(pgdata: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(pgdata.join("pg_replslot")).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let names = folders.map(|entry| entry.file_name().to_string_lossy().into_owned());
    // A slot is made, and dropped, under a name that no slot can have.
    let mut names: Vec<String> = names.filter(|name| !name.contains('.')).collect();
    names.sort_unstable();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slots_of_a_stopped_server_are_its_folders() {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["pg_replslot/standby_b", "pg_replslot/a", "pg_replslot/c.tmp"] {
            std::fs::create_dir_all(dir.path().join(folder)).unwrap();
        }
        std::fs::File::create(dir.path().join("pg_replslot/file")).unwrap();
        assert_eq!(slots_in(dir.path()), ["a", "standby_b"]);
        assert!(slots_in(&dir.path().join("missing")).is_empty());
    }

    #[test]
    fn each_has_a_line() {
        let one = |name: &str| vec![name.to_owned()];
        let all = Divergence {
            slots: one("s (logical)"),
            standbys: one("walreceiver on 10.0.0.2"),
            subscriptions: one("sub in shop"),
            unknown: Some("something".to_owned()),
        };
        let lines = all.describe();
        assert_eq!(lines.len(), 4);
        for (line, name) in lines.iter().zip(["s (logical)", "10.0.0.2", "sub in shop", "something"]) {
            assert!(line.contains(name), "{line}");
        }
        assert!(Divergence::default().describe().is_empty());
    }
}
