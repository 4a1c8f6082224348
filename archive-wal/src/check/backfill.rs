//! What a dead primary did not archive, from this server's `pg_wal` into the repositories that lack it.
//!
//! With `archive_mode = on` a promoted standby marks everything that it had received as archived (`XLogArchiveForceDone`),
//! so that its own archiver never brings it. Each file is checked as every archived one is; running it again, or beside
//! an archiver that puts the same file, changes nothing.

use anyhow::Context as _;
use common::app::Context;
use common::archive::segments::{self, Put};
use common::pg::ArchiveName;
use common::restore::salvage;
use serde::{Serialize, Serializer};

use super::gather::{Held, Server, State};

/// A file for a repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Item {
    /// Where it goes.
    pub(crate) repository: String,
    /// Which file.
    #[serde(serialize_with = "as_name")]
    pub(crate) file: ArchiveName,
    /// What became of it.
    pub(crate) result: Done,
}

/// What became of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Done {
    /// Nothing yet.
    Planned,
    /// It was put.
    Stored,
    /// Somebody else put it meanwhile.
    AlreadyThere,
    /// The server recycled it meanwhile.
    Gone,
}

impl Done {
    /// In the words of the table.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Planned => "to be put",
            Self::Stored => "put",
            Self::AlreadyThere => "there already",
            Self::Gone => "gone",
        }
    }
}

/// Everything that `pg_wal` has and a repository lacks: of each repository the histories first, then the oldest segment.
/// A repository that is not there is made by the archiver, not by this.
pub(crate) fn plan(state: &State) -> Vec<Item> {
    let lacks = |(place, held): (&String, &Held)| match held {
        Held::Wal { missing, .. } => {
            let item = |file| Item { repository: place.clone(), file, result: Done::Planned };
            missing.iter().filter(|missing| missing.here).map(|missing| item(missing.name)).collect()
        }
        Held::NoRepository | Held::Unreadable(_) => Vec::new(),
    };
    state.repositories.iter().flat_map(|seen| lacks((&seen.place, &seen.held))).collect()
}

/// Puts what was planned. Ends with the first file that a repository does not accept; what was put stays.
pub(crate) fn put(items: &mut [Item], server: &Server, ctx: &Context) -> anyhow::Result<()> {
    let pg_wal = server.pg_wal().context("the server's pg_wal is not within reach")?;
    for setting in &ctx.settings.repositories {
        let mut lacking = items.iter_mut().filter(|item| item.repository == setting.url.value).peekable();
        if lacking.peek().is_none() {
            continue;
        }
        let repository = ctx.open(setting)?;
        repository.admit(&server.identity, false, ctx.clock.now())?;
        for item in lacking {
            let path = pg_wal.join(item.file.to_string());
            item.result = match segments::put(&repository, &server.identity, item.file, &path, &ctx.cancel) {
                Ok(Put::AlreadyThere) => Done::AlreadyThere,
                Ok(Put::Stored | Put::SetAside(_)) => Done::Stored,
                Err(_) if is_gone(item.file, &path, server) => Done::Gone,
                Err(error) => return Err(error.context(format!("put {}", item.file))),
            };
        }
    }
    Ok(())
}

/// Whether the file is no longer what its name says, because the server needed it for something else.
fn is_gone(name: ArchiveName, path: &std::path::Path, server: &Server) -> bool {
    match name {
        ArchiveName::Segment(segment) => !salvage::is_genuine(path, segment, &server.identity),
        _ => !path.exists(),
    }
}

fn as_name<S: Serializer>(name: &ArchiveName, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(name)
}
