//! Service files: named sets of connection parameters in `pg_service.conf`.
//!
//! As `parseServiceFile` of `src/interfaces/libpq/fe-connect.c`: `[name]` opens a section, `key=value` lines follow,
//! `#` begins a comment line, the first section of the name counts. LDAP look-ups are not supported.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::conninfo::{Conninfo, Unknown, is_blank};
use crate::report::Advice;

/// Where the system's file lies when `PGSYSCONFDIR` is not set: Debian's place, Red Hat's, upstream's.
const SYSTEM_DIRECTORIES: [&str; 3] = ["/etc/postgresql-common", "/etc/sysconfig/pgsql", "/usr/local/pgsql/etc"];

/// A larger file is not a service file; libpq has no such limit.
const BYTES_MAX: u64 = 1 << 20;

/// Where to look for a service.
pub(super) struct Places {
    /// The file that was named (`servicefile`, `PGSERVICEFILE`); it must exist then.
    pub(super) named: Option<PathBuf>,
    /// The user's folder, whose `.pg_service.conf` is read when no file was named.
    pub(super) home: PathBuf,
    /// `PGSYSCONFDIR`.
    pub(super) system: Option<PathBuf>,
}

/// The parameters of the service, from the user's file, else from the system's. It is an error when no file has it.
pub(super) fn find(service: &str, places: &Places) -> anyhow::Result<Conninfo> {
    let user = places.named.clone().unwrap_or_else(|| places.home.join(".pg_service.conf"));
    if let Some(found) = read(service, &user, places.named.is_some())? {
        return Ok(found);
    }
    let system: Vec<PathBuf> = match &places.system {
        Some(directory) => vec![directory.clone()],
        None => SYSTEM_DIRECTORIES.iter().map(PathBuf::from).collect(),
    };
    for directory in system {
        if let Some(found) = read(service, &directory.join("pg_service.conf"), false)? {
            return Ok(found);
        }
    }
    Err(Advice::usage(format!("connection service {service:?} is defined in no service file"))
        .hint(format!("add a section [{service}] to {}", user.display()))
        .into())
}

fn read(service: &str, path: &Path, must_exist: bool) -> anyhow::Result<Option<Conninfo>> {
    let reading = || format!("read service file {}", path.display());
    let mut bytes = Vec::new();
    match File::open(path).and_then(|file| file.take(BYTES_MAX + 1).read_to_end(&mut bytes)) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !must_exist => return Ok(None),
        Err(error) => return Err(error).with_context(reading),
    }
    if bytes.len() as u64 > BYTES_MAX {
        return Err(Advice::usage(format!("longer than {BYTES_MAX} bytes"))).with_context(reading);
    }
    parse(service, &String::from_utf8_lossy(&bytes)).with_context(reading)
}

/// The service's section, if the text has one.
fn parse(service: &str, text: &str) -> anyhow::Result<Option<Conninfo>> {
    let mut found: Option<Conninfo> = None;
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim_matches(is_blank);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(header) = line.strip_prefix('[') {
            if found.is_some() {
                break;
            }
            if header.strip_prefix(service).is_some_and(|rest| rest.starts_with(']')) {
                found = Some(Conninfo::default());
            }
        } else if let Some(info) = &mut found {
            store(line, info).with_context(|| Advice::usage(format!("line {number}")))?;
        }
    }
    Ok(found)
}

fn store(line: &str, info: &mut Conninfo) -> anyhow::Result<()> {
    let Some((name, value)) = line.split_once('=') else {
        return Err(Advice::usage("missing \"=\"").into());
    };
    if name == "service" || name == "servicefile" {
        return Err(Advice::usage(format!("{name} can't be set inside a service")).into());
    }
    // The first value of a keyword counts here, other than in a connection string.
    if !info.is_set(name) {
        info.store(name, value.to_owned()).map_err(|Unknown| super::conninfo::unknown(name))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::keyword::KEYWORDS;
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    #[rstest]
    #[case("[a]\nhost=h\n", Some("host=h"))]
    #[case("host=ignored\n[b]\nwrong\n[a]\n# note\n\n  host=h  \nport=1\n[c]\nhost=x", Some("host=h port=1"))]
    #[case("[a]\n[b]\nhost=x", Some(""))]
    #[case("[a]\nhost=first\nhost=second", Some("host=first"))]
    #[case("[a]\r\nhost=h\r\n", Some("host=h"))]
    #[case("[ab]\nhost=h", None)]
    #[case("", None)]
    fn reads(#[case] text: &str, #[case] expected: Option<&str>) {
        let found = parse("a", text).unwrap();
        assert_eq!(found.map(|info| info.to_string()).as_deref(), expected);
    }

    #[rstest]
    #[case("[a]\nhost")]
    #[case("[a]\nhots=h")]
    #[case("[a]\nservice=b")]
    #[case("[a]\nhost =h")]
    fn refuses(#[case] text: &str) {
        let error = parse("a", text).unwrap_err();
        assert!(format!("{error:#}").starts_with("line 2: "), "{error:#}");
    }

    #[test]
    fn an_endless_file_is_not_read_to_its_end() {
        let error = read("a", Path::new("/dev/zero"), true).unwrap_err();
        assert_eq!(format!("{error:#}"), "read service file /dev/zero: longer than 1048576 bytes");
    }

    proptest! {
        #[test]
        fn values_read_back(at in 2..KEYWORDS.len(), value in "[!-~\u{e9}]([ -~\u{e9}]{0,9}[!-~\u{e9}])?") {
            let name = KEYWORDS[at].name;
            let info = parse("a", &format!("[b]\n{name}=other\n[a]\n# note\n  {name}={value}\t\n[a]\nx")).unwrap().unwrap();
            prop_assert_eq!(info.get(name), Some(&value[..]));
        }

        #[test]
        fn never_panics(text in ".*", likely in "[a\\[\\]=\n# ]{0,20}") {
            drop(parse("a", &text));
            drop(parse("a", &likely));
        }
    }
}
