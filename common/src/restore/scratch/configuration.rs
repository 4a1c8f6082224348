//! The whole configuration of a scratch server. Nothing of the original's is read by it but the libraries that it
//! preloaded.

use std::path::Path;

use crate::archive::identity::read_control;
use crate::restore::settings::{self, COPY_HBA, COPY_HBA_FILE, COPY_IDENT_FILE, CopySite, Setting, appended};
use crate::server::configured;

use super::{Folder, PORT, Revival, put};

/// Writes the configuration and the authentication files, in place of those that came with the backup.
pub(super) fn write(revival: &Revival<'_>, folder: &Folder) -> anyhow::Result<()> {
    let pgdata = folder.pgdata();
    let libraries = preloaded(revival, &pgdata)?;
    put(&folder.beside().join(COPY_HBA_FILE), COPY_HBA)?;
    put(&folder.beside().join(COPY_IDENT_FILE), "")?;
    let site = CopySite { pgdata: pgdata.clone(), folder: folder.beside(), port: PORT };
    let mut all = own(revival.backup.source.segment_size.bytes(), libraries);
    all.extend(settings::copy(&site, &revival.demands.raise(&read_control(&pgdata)?), revival.major()));
    all.extend(restraints());
    all.extend(settings::replay(revival.replay, revival.major()));
    put(&pgdata.join("postgresql.conf"), &appended("", "A scratch server's.", &all))?;
    put(&pgdata.join("postgresql.auto.conf"), "")
}

/// What a server needs that is thrown away: sizes in segments, since it does not start when they are too small for them,
/// and nothing that lasts.
fn own(segment_bytes: u64, libraries: String) -> Vec<Setting> {
    let segments = |count: u64| format!("{}MB", count * (segment_bytes >> 20));
    let off = |name| (name, "off".to_owned());
    vec![
        ("shared_preload_libraries", libraries),
        ("min_wal_size", segments(2)),
        ("max_wal_size", segments(16)),
        ("shared_buffers", "128MB".to_owned()),
        off("huge_pages"),
        off("fsync"),
        off("full_page_writes"),
        off("synchronous_commit"),
        off("autovacuum"),
        off("restart_after_crash"),
        ("lc_messages", "C".to_owned()),
    ]
}

/// What keeps libraries from acting on the world, over what a copy would have: without room for background workers none
/// of them gets one. Their original's number counts only for hot standby, which a scratch server never is.
fn restraints() -> Vec<Setting> {
    let nothing = |name| (name, "0".to_owned());
    vec![nothing("max_worker_processes"), nothing("max_parallel_workers"), nothing("max_wal_senders")]
}

/// The libraries that the original loaded at its start, as its own configuration says. Without them the replay of a
/// record that is theirs fails aloud, so a configuration that cannot be read is no reason to stop here.
fn preloaded(revival: &Revival<'_>, pgdata: &Path) -> anyhow::Result<String> {
    let recorded = &revival.backup.source.config_file;
    let own = pgdata.join("postgresql.conf");
    let file = if own.exists() { &own } else { recorded };
    if !file.exists() {
        return Ok(String::new());
    }
    let known = configured(revival.programs, pgdata, Some(file), "shared_preload_libraries", revival.cancel())?;
    if known.is_none() {
        tracing::warn!("the original's preloaded libraries are not known: {} cannot be read", file.display());
    }
    Ok(known.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_s_sizes_fit_its_segments() {
        let size = |segment_bytes: u64| {
            let own = own(segment_bytes, String::new());
            own.iter().find(|(name, _)| *name == "min_wal_size").map(|(_, value)| value.clone()).unwrap()
        };
        assert_eq!((size(1 << 20), size(1 << 30)), ("2MB".to_owned(), "2048MB".to_owned()));
    }
}
