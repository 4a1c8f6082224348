//! Where connection parameters come from, and which source wins.
//!
//! As libpq and `psql`, strongest first: a connection string given as the database name · the flags for host, port,
//! user and database name · the connection string of Holdfast's configuration · the service file · the `PG*`
//! variables · defaults. `psql`, `pg_basebackup` and the others also let a connection string beat the flags beside
//! it, and libpq also lets the service beat the environment.

use std::path::{Path, PathBuf};

use super::conninfo::{Conninfo, DEFAULT_PORT};
use super::keyword::KEYWORDS;
use super::parameters::Parameters;
use super::passfile::PassFile;
use super::service::{self, Places};

/// The database when nobody names one. libpq takes the user's name, which few operators' databases bear.
const DEFAULT_DBNAME: &str = "postgres";

/// Everything that may say how to reach the server. Nothing else is read but the files it leads to.
pub struct Sources<'a> {
    /// The environment: the value of a variable.
    pub environment: &'a dyn Fn(&str) -> Option<String>,
    /// `-d`: a database's name or a connection string; a connection string overrides the other flags.
    pub dbname: Option<String>,
    /// `-h`: a host or a socket directory.
    pub host: Option<String>,
    /// `-p`.
    pub port: Option<String>,
    /// `-U`.
    pub user: Option<String>,
    /// The connection string of the configuration file; the flags override it.
    pub configured: Option<String>,
    /// The operating-system user, who is the role when nobody names one.
    pub default_user: String,
    /// The user's folder, which may hold `.pgpass`, `.pg_service.conf` and `.postgresql/`.
    pub home: PathBuf,
}

/// The parameters to connect with: complete, checked in form, the password file read.
///
/// It fails on an unknown keyword, a service that is not defined, lists that do not match. A password file that can't
/// be used is no error but one of [`Conninfo::warnings`].
pub fn resolve(sources: &Sources<'_>) -> anyhow::Result<Conninfo> {
    let variable = |name: &str| (sources.environment)(name);
    let mut info = explicit(sources)?;
    let service = info.get("service").map(ToOwned::to_owned).or_else(|| variable("PGSERVICE"));
    if let Some(service) = service.filter(|name| !name.is_empty()) {
        let named = info.get("servicefile").map(ToOwned::to_owned).or_else(|| variable("PGSERVICEFILE"));
        let places = Places {
            named: named.filter(|path| !path.is_empty()).map(PathBuf::from),
            home: sources.home.clone(),
            system: variable("PGSYSCONFDIR").filter(|path| !path.is_empty()).map(PathBuf::from),
        };
        info.fill_from(service::find(&service, &places)?);
    }
    info.fill_from(environment(&variable)?);
    defaults(&mut info, sources)?;
    info.endpoints()?;
    Parameters::of(&info)?;
    Ok(info)
}

/// The flags and connection strings.
fn explicit(sources: &Sources<'_>) -> anyhow::Result<Conninfo> {
    let mut info = Conninfo::default();
    let mut dbname = sources.dbname.as_deref().filter(|name| !name.is_empty());
    if let Some(text) = dbname.filter(|name| Conninfo::is_connection_string(name)) {
        info = Conninfo::parse(text)?;
        dbname = None;
    }
    let mut flags = Conninfo::default();
    let given = [
        ("host", sources.host.as_deref()),
        ("port", sources.port.as_deref()),
        ("user", sources.user.as_deref()),
        ("dbname", dbname),
    ];
    for (keyword, value) in given {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            flags.set(keyword, value)?;
        }
    }
    info.fill_from(flags);
    if let Some(text) = &sources.configured {
        info.fill_from(Conninfo::parse(text)?);
    }
    Ok(info)
}

fn environment(variable: &dyn Fn(&str) -> Option<String>) -> anyhow::Result<Conninfo> {
    let mut info = Conninfo::default();
    for keyword in KEYWORDS {
        if let Some(value) = keyword.variable.and_then(variable) {
            info.set(keyword.name, value)?;
        }
    }
    if !info.is_set("sslmode") && variable("PGREQUIRESSL").is_some_and(|value| value.starts_with('1')) {
        info.set("sslmode", "require")?;
    }
    Ok(info)
}

fn defaults(info: &mut Conninfo, sources: &Sources<'_>) -> anyhow::Result<()> {
    let own = |name: &str| sources.home.join(".postgresql").join(name);
    let fill = |info: &mut Conninfo, keyword: &str, value: &str| match info.get(keyword) {
        None => info.set(keyword, value),
        Some(_) => Ok(()),
    };
    // A list of hosts with an empty port list stays: its port is the default one anyway.
    fill(info, "port", &DEFAULT_PORT.to_string())?;
    fill(info, "user", &sources.default_user)?;
    fill(info, "dbname", DEFAULT_DBNAME)?;
    fill(info, "sslmode", if info.get("sslrootcert") == Some("system") { "verify-full" } else { "prefer" })?;
    for (keyword, name) in [("sslrootcert", "root.crt"), ("sslcrl", "root.crl")] {
        if own(name).is_file() {
            fill(info, keyword, &own(name).to_string_lossy())?;
        }
    }
    if info.get("sslcert").is_none() && own("postgresql.crt").is_file() {
        fill(info, "sslcert", &own("postgresql.crt").to_string_lossy())?;
    }
    if info.get("sslcert").is_some() {
        fill(info, "sslkey", &own("postgresql.key").to_string_lossy())?;
    }
    if info.get("password").is_none() {
        let path = info.get("passfile").map_or_else(|| sources.home.join(".pgpass"), |path| Path::new(path).to_owned());
        let (passfile, warning) = PassFile::read(&path);
        info.set_passfile(passfile);
        if let Some(warning) = warning {
            info.warn(warning);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use std::collections::HashMap;
    use std::os::unix::fs::PermissionsExt;

    fn put(path: &Path, text: &str, mode: u32) {
        std::io::Write::write_all(&mut std::fs::File::create(path).unwrap(), text.as_bytes()).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    /// `flags` is `d|h|p|U|configured`.
    fn resolved(flags: &str, variables: &[(&str, &str)], home: &Path) -> anyhow::Result<Conninfo> {
        let variables: HashMap<_, _> = variables.iter().copied().collect();
        let environment = |name: &str| variables.get(name).map(|value| (*value).to_owned());
        let mut flags = flags.split('|').map(|flag| (!flag.is_empty()).then(|| flag.to_owned()));
        let mut next = || flags.next().flatten();
        resolve(&Sources {
            environment: &environment,
            dbname: next(),
            host: next(),
            port: next(),
            user: next(),
            configured: next(),
            default_user: "me".to_owned(),
            home: home.to_owned(),
        })
    }

    #[rstest]
    #[case::nothing("", &[], ["", "5432", "me", "postgres"])]
    #[case::environment("", &[("PGHOST", "e"), ("PGPORT", "2"), ("PGUSER", "eu"), ("PGDATABASE", "ed")], ["e", "2", "eu", "ed"])]
    #[case::empty_variables("", &[("PGHOST", ""), ("PGPORT", ""), ("PGUSER", "")], ["", "5432", "me", "postgres"])]
    #[case::flags("fd|f|1|fu", &[("PGHOST", "e"), ("PGPORT", "2"), ("PGUSER", "eu"), ("PGDATABASE", "ed")], ["f", "1", "fu", "fd"])]
    #[case::string_beats_flags("host=s|f|1|fu", &[("PGDATABASE", "ed")], ["s", "1", "fu", "ed"])]
    #[case::uri("postgresql://s:7/sd|f||fu", &[("PGPORT", "2")], ["s", "7", "fu", "sd"])]
    #[case::flags_beat_configured("|f||||host=c dbname=cd", &[], ["f", "5432", "me", "postgres"])]
    #[case::configured("|f|||host=c dbname=cd", &[("PGPORT", "2")], ["f", "2", "me", "cd"])]
    #[case::service("service=s1", &[("PGPORT", "2"), ("PGUSER", "eu")], ["sh", "9", "eu", "postgres"])]
    #[case::service_variable("|f", &[("PGSERVICE", "s1")], ["f", "9", "me", "postgres"])]
    #[case::empty_hides("host='' dbname=''", &[("PGHOST", "e"), ("PGDATABASE", "ed")], ["", "5432", "me", "postgres"])]
    fn obeys_precedence(#[case] flags: &str, #[case] variables: &[(&str, &str)], #[case] expected: [&str; 4]) {
        let home = tempfile::tempdir().unwrap();
        put(&home.path().join(".pg_service.conf"), "[s1]\nhost=sh\nport=9\n", 0o644);
        let info = resolved(flags, variables, home.path()).unwrap();
        let found = ["host", "port", "user", "dbname"].map(|keyword| info.get(keyword).unwrap_or_default().to_owned());
        assert_eq!(found, expected);
    }

    #[rstest]
    #[case::no_such_service("service=absent", &[("PGSYSCONFDIR", "/nowhere")])]
    #[case::no_such_service_file("service=s1", &[("PGSERVICEFILE", "/nowhere/file")])]
    #[case::port("|||x", &[("PGPORT", "x")])]
    #[case::sslmode("", &[("PGSSLMODE", "perhaps")])]
    #[case::weak_with_system("sslrootcert=system sslmode=require", &[])]
    #[case::replication("replication=true", &[])]
    fn refuses(#[case] flags: &str, #[case] variables: &[(&str, &str)]) {
        let home = tempfile::tempdir().unwrap();
        assert!(resolved(flags, variables, home.path()).is_err());
    }

    #[test]
    fn system_service_file_is_the_second_place() {
        let (home, system) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        put(&home.path().join(".pg_service.conf"), "[other]\nhost=x\n", 0o644);
        put(&system.path().join("pg_service.conf"), "[s1]\nhost=sys\n", 0o644);
        let variables = [("PGSYSCONFDIR", system.path().to_str().unwrap())];
        assert_eq!(resolved("service=s1", &variables, home.path()).unwrap().get("host"), Some("sys"));
    }

    #[rstest]
    #[case("|h", "h:5432:postgres:me:file", Some("file"))]
    #[case("|h,g", "g:*:*:*:other\nh:*:*:*:file", Some("file"))]
    #[case("", "localhost:*:*:*:file", Some("file"))]
    #[case("|/tmp", "localhost:*:*:*:file", Some("file"))]
    #[case("|/other", "/other:*:*:*:file", Some("file"))]
    #[case("hostaddr=::1", "\\:\\:1:*:*:*:file", Some("file"))]
    #[case("password=own", "*:*:*:*:file", Some("own"))]
    #[case("|h", "g:*:*:*:file", None)]
    fn takes_the_password_file(#[case] flags: &str, #[case] file: &str, #[case] expected: Option<&str>) {
        let home = tempfile::tempdir().unwrap();
        put(&home.path().join(".pgpass"), file, 0o600);
        let info = resolved(flags, &[], home.path()).unwrap();
        let endpoints = info.endpoints().unwrap();
        assert_eq!(endpoints[0].password.as_ref().map(super::super::Secret::expose), expected);
        assert!(!format!("{info:?}{info}").contains("file"));
    }

    #[test]
    fn warns_of_an_open_password_file() {
        let home = tempfile::tempdir().unwrap();
        put(&home.path().join("pass"), "*:*:*:*:hush", 0o644);
        let path = home.path().join("pass");
        let info = resolved("", &[("PGPASSFILE", path.to_str().unwrap())], home.path()).unwrap();
        assert_eq!(info.endpoints().unwrap()[0].password, None);
        assert!(matches!(info.warnings(), [warning] if warning.contains("0600")));
    }

    #[test]
    fn trusts_the_system_only_with_full_verification() {
        let home = tempfile::tempdir().unwrap();
        let info = resolved("sslrootcert=system", &[], home.path()).unwrap();
        assert_eq!(info.get("sslmode"), Some("verify-full"));
    }
}
