//! What there is: the server's settings and the repositories' folders.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use common::app::{Context, RepositorySetting, server_files};
use common::server::{self, ServerVersion, Session, SqlError, quote_literal};
use common::sys::{identity, space};

use super::command::{self, Standing};
use super::folders::{Found, Owner};
use super::settings::{Server, Value};

const NAMES: [&str; 7] = [
    "archive_command",
    "archive_library",
    "archive_mode",
    "archive_timeout",
    "max_wal_senders",
    "summarize_wal",
    "wal_level",
];

/// What does not change while the program runs.
pub(crate) struct Site {
    /// The server's version.
    pub(crate) version: ServerVersion,
    /// Whether it is in recovery.
    pub(crate) standby: bool,
    /// Its data directory, which is on this host.
    pub(crate) pgdata: PathBuf,
    /// Whose that is.
    pub(crate) owner: Owner,
    /// Whether the role may change settings.
    pub(crate) superuser: bool,
    /// Where this program is.
    program: PathBuf,
    /// What the configuration at hand says.
    settings: common::app::Settings,
}

/// Looks at the server that the session leads to. It must be on this host: the command and the repositories are.
pub(crate) fn site(session: &mut Session, ctx: &Context) -> anyhow::Result<Site> {
    let facts = server::facts(session)?;
    let (pgdata, _) = server_files::reach(&facts, ctx)?;
    let metadata = pgdata.metadata().with_context(|| format!("look at {}", pgdata.display()))?;
    let owner = Owner { user: identity::name_of_user(metadata.uid()), mode: 0o700 | metadata.mode() & 0o050 };
    let superuser = session.value("SELECT current_setting('is_superuser')")?.as_deref() == Some("on");
    Ok(Site {
        version: facts.version,
        standby: facts.in_recovery,
        owner,
        superuser,
        program: std::env::current_exe().context("find out where this program is")?,
        settings: ctx.settings.clone(),
        pgdata,
    })
}

/// Reads the settings.
pub(crate) fn server(session: &mut Session, site: &Site) -> anyhow::Result<Server> {
    let values = values(session).context("read the server's settings")?;
    let standing = values
        .get("archive_command")
        .map_or(Standing::Empty, |value| command::standing(&value.running, &site.settings, &site.pgdata));
    let kept = if let Standing::Lacks(kept) = &standing { &kept[..] } else { &[] };
    let wanted = command::wanted(&site.program, &site.settings, kept);
    Ok(Server { major: site.version.major(), standby: site.standby, values, standing, wanted })
}

fn values(session: &mut Session) -> anyhow::Result<BTreeMap<String, Value>> {
    let names: Vec<String> = NAMES.iter().map(|name| quote_literal(name)).collect();
    let names = names.join(", ");
    // While archive_mode is off the server shows another text in the place of its archive_command.
    let running = session.rows(&format!(
        "SELECT name, CASE name WHEN 'archive_command' THEN reset_val ELSE setting END, context = 'postmaster' \
         FROM pg_settings WHERE name IN ({names})"
    ))?;
    let configured = configured(session, &names)?;
    let value = |row: Vec<Option<String>>| {
        let [name, running, restart] = <[Option<String>; 3]>::try_from(row).ok()?;
        let name = name?;
        let restart = restart.as_deref() == Some("t");
        let value = Value { running: running.unwrap_or_default(), configured: configured.get(&name).cloned(), restart };
        Some((name, value))
    };
    Ok(running.into_iter().filter_map(value).collect())
}

/// What the configuration files say, the last line of each name; nothing when the role may not see it.
fn configured(session: &mut Session, names: &str) -> anyhow::Result<BTreeMap<String, String>> {
    let asked = session.rows(&format!(
        "SELECT lower(name), lower(setting) FROM pg_file_settings WHERE lower(name) IN ({names}) ORDER BY seqno"
    ));
    let rows = match asked {
        Err(error) if SqlError::find(&error).is_some_and(|it| it.state == SqlError::INSUFFICIENT_PRIVILEGE) => {
            return Ok(BTreeMap::new());
        }
        asked => asked?,
    };
    let pair = |row: Vec<Option<String>>| {
        let [name, setting] = <[Option<String>; 2]>::try_from(row).ok()?;
        Some((name?, setting?))
    };
    // A later line replaces an earlier one.
    Ok(rows.into_iter().filter_map(pair).collect())
}

/// Looks at the folders of all repositories.
pub(crate) fn folders(site: &Site, ctx: &Context) -> Vec<Found> {
    ctx.settings.repositories.iter().map(|repository| folder(repository, &site.pgdata)).collect()
}

fn folder(setting: &RepositorySetting, pgdata: &Path) -> Found {
    let path = Path::new(&setting.url.value);
    let seen = match path.metadata() {
        Ok(metadata) if !metadata.is_dir() => Err("it is not a folder".to_owned()),
        Ok(metadata) => Ok(Some((identity::name_of_user(metadata.uid()), metadata.mode() & 0o7777))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("it cannot be looked at: {error}")),
    };
    // What cannot be found out is not suggested. A disk that the data directory is on is there when the server is.
    let mount_point = space::mount_point_of(path).ok().filter(|mounted| mounted != Path::new("/"));
    let apart = |mounted: &PathBuf| space::mount_point_of(pgdata).is_ok_and(|other| other != *mounted);
    Found { repository: setting.url.value.clone(), folder: seen, mount_point: mount_point.filter(apart) }
}
