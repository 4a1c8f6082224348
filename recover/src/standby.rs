//! `recover run --standby`: what makes a recovered cluster a standby.
//!
//! Its settings stay, so nothing secret may be among them: a password on a command line is seen by everybody on the host,
//! in `postgresql.auto.conf` by every backup, and in this program's journal. It belongs into a password file.

use anyhow::Context as _;
use common::pg::{Lsn, TimelineId};
use common::report::Advice;
use common::restore::follow::causes::help;
use common::restore::target::Target;
use common::server::Conninfo;
use serde::{Deserialize, Serialize};

use crate::cli::{Role, RunArgs};
use crate::facts::Facts;

/// What a standby is set to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Standby {
    /// The primary that it streams from; none follows the archive alone.
    pub(crate) primary_conninfo: Option<String>,
    /// The slot on the primary.
    pub(crate) slot: Option<String>,
    /// The timeline that it is kept on; none follows every new one.
    pub(crate) timeline: Option<TimelineId>,
    /// Its port, where that is not the original's.
    pub(crate) port: Option<u16>,
    /// Whether it lies in another directory than the original.
    pub(crate) elsewhere: bool,
}

/// The longest name of a slot (`NAMEDATALEN` less one).
const SLOT_BYTES_MAX: usize = 63;

/// Refuses a connection string that is none, or that has a secret in it, and shows neither. The parser of the command line
/// would show what it refuses.
pub(crate) fn check_primary(text: &str) -> anyhow::Result<()> {
    let wrong = || Advice::usage("--primary-conninfo is no connection string");
    let conninfo = Conninfo::parse(text).with_context(wrong)?;
    match ["password", "sslpassword"].into_iter().find(|keyword| conninfo.get(keyword).is_some()) {
        None => Ok(()),
        Some(secret) => Err(Advice::usage(format!(
            "a {secret} does not belong into --primary-conninfo: everybody on this host sees it"
        ))
        .hint("put it into a file that only the server's user can read, and name that with passfile=FILE, or into ~/.pgpass")
        .into()),
    }
}

/// Reads the name of a slot.
pub(crate) fn parse_slot(text: &str) -> Result<String, String> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if !text.is_empty() && text.len() <= SLOT_BYTES_MAX && text.chars().all(good) {
        return Ok(text.to_owned());
    }
    Err(format!("a slot's name has 1 to {SLOT_BYTES_MAX} of a-z 0-9 _"))
}

/// What was asked for; `None` unless it is a standby. `along`: the timeline that the recovery takes; `elsewhere`:
/// whether the directory is another than the original's.
pub(crate) fn wanted(
    role: Role,
    args: &RunArgs,
    port: Option<u16>,
    along: TimelineId,
    elsewhere: bool,
    facts: &Facts,
) -> Result<Option<Standby>, Advice> {
    if role != Role::Standby {
        if args.primary_conninfo.is_some() || args.slot.is_some() {
            return Err(Advice::usage("--primary-conninfo and --slot are for a standby").hint("add --standby"));
        }
        return Ok(None);
    }
    if args.moment.target() != Target::Latest || args.moment.is_exclusive() || args.asks_for_action() {
        return Err(Advice::usage("a standby has no target: it follows the WAL for as long as it is one")
            .hint("leave out --target-…, or leave out --standby"));
    }
    if args.slot.is_some() && args.primary_conninfo.is_none() {
        return Err(Advice::usage("a slot is used by streaming alone").hint("add --primary-conninfo"));
    }
    // A server by itself follows the newest timeline, also one that was abandoned.
    let newest = facts.archive.timelines().last().copied().unwrap_or(along);
    let timeline = (args.moment.names_timeline() || newest > along).then_some(along);
    Ok(Some(Standby {
        primary_conninfo: args.primary_conninfo.clone(),
        slot: args.slot.clone(),
        timeline,
        port,
        elsewhere,
    }))
}

impl Standby {
    /// In words.
    pub(crate) fn describe(&self) -> String {
        let from = match (&self.primary_conninfo, &self.slot) {
            (None, _) => "follows the archive".to_owned(),
            (Some(primary), None) => format!("streams from {primary}"),
            (Some(primary), Some(slot)) => format!("streams from {primary}, slot {slot}"),
        };
        match self.timeline {
            None => format!("{from}, along every new timeline"),
            Some(timeline) => format!("{from}, along timeline {timeline} alone"),
        }
    }
}

/// Why a standby does not stream, with the server's last words.
pub(crate) fn silence(at: Lsn, words: &str) -> String {
    let help = help(words).map(|help| format!(": {help}")).unwrap_or_default();
    let words = if words.is_empty() { "its log has no word of it" } else { words };
    format!("the standby runs, stands at {at}, and does not stream from its primary{help} ({words})")
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("host=db1 user=replicator passfile=/etc/x", true)]
    #[case("postgresql://replicator@db1:5432/?application_name=x", true)]
    #[case("host=db1 password=hush", false)]
    #[case("postgresql://replicator:hush@db1", false)]
    #[case("host=db1 sslpassword=hush", false)]
    #[case("host=db1 nonsense=1", false)]
    fn no_secret_is_taken(#[case] text: &str, #[case] good: bool) {
        match check_primary(text) {
            Ok(()) => assert!(good),
            Err(err) => assert!(!good && !format!("{err:#}").contains("hush"), "{err:#}"),
        }
    }

    #[rstest]
    #[case("standby_1", true)]
    #[case("", false)]
    #[case("Standby", false)]
    #[case("a-b", false)]
    fn reads_a_slot(#[case] text: &str, #[case] good: bool) {
        assert_eq!(parse_slot(text).is_ok(), good);
    }
}
