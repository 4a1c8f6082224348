//! A set of libpq's connection parameters: parsed, kept and printed without its secrets.
//!
//! [`Conninfo::parse`] reads both forms that libpq reads, `key=value` pairs and `postgresql://` URIs; where the
//! values come from otherwise (flags, service file, environment, defaults) is the work of [`resolve()`](super::resolve()).

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::keyword::{self, Keyword};
use super::passfile::PassFile;
use super::uri;
use crate::report::Advice;

/// Where servers put their sockets when nobody says otherwise: Debian's and Red Hat's folder, then upstream's.
pub(super) const DEFAULT_SOCKET_DIRECTORIES: [&str; 2] = ["/var/run/postgresql", "/tmp"];
/// The port when nobody says otherwise.
pub(super) const DEFAULT_PORT: u16 = 5432;

/// A text that is never shown: [`fmt::Debug`] prints stars and there is no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

const HIDDEN: &str = "********";

/// How a server is reached: libpq's connection parameters.
///
/// `Display` prints a connection string that [`Conninfo::parse`] reads back to the same parameters, but for secrets,
/// which it and `Debug` print as stars.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Conninfo {
    /// What was given, empty values included: an empty one still hides what a weaker source says.
    values: BTreeMap<&'static str, String>,
    passfile: Option<PassFile>,
    warnings: Vec<String>,
}

/// One server to try, and the password for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The socket directory or the host.
    pub place: Place,
    /// The port, which also is part of a socket's name.
    pub port: u16,
    /// The given password, or the password file's for this host, port, database and user.
    pub password: Option<Secret>,
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A directory that holds the socket `.s.PGSQL.PORT`.
    Socket(PathBuf),
    /// A host: its name, which certificates are checked against, and its address where it is given.
    Tcp {
        /// The name, or the address as text when only that is known.
        name: String,
        /// The address, which saves the look-up of the name.
        address: Option<IpAddr>,
    },
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Socket(directory) => write!(f, "socket {}/.s.PGSQL.{}", directory.display(), self.port),
            Place::Tcp { name, address: Some(address) } if *name != address.to_string() => {
                write!(f, "host {name} ({address}), port {}", self.port)
            }
            Place::Tcp { name, .. } => write!(f, "host {name}, port {}", self.port),
        }
    }
}

impl Conninfo {
    /// Reads `key=value` pairs (libpq's quoting rules) or a URI that begins with `postgresql://` or `postgres://`.
    /// Nothing is filled in. An unknown keyword is an error that names it; no error shows a secret.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        match uri::strip_prefix(text) {
            Some(rest) => uri::parse(rest),
            None => parse_pairs(text),
        }
    }

    /// The parameters of a server on this machine, reached by its socket.
    pub fn local(socket_directory: &Path, port: u16, user: &str, dbname: &str) -> Self {
        let values = [
            ("host", socket_directory.to_string_lossy().into_owned()),
            ("port", port.to_string()),
            ("user", user.to_owned()),
            ("dbname", dbname.to_owned()),
        ];
        Self { values: values.into_iter().collect(), ..Self::default() }
    }

    /// Whether libpq takes `text`, given as a database name, for a connection string.
    pub fn is_connection_string(text: &str) -> bool {
        uri::strip_prefix(text).is_some() || text.contains('=')
    }

    /// The value of a parameter; an empty one counts as not given, as in libpq.
    pub fn get(&self, keyword: &str) -> Option<&str> {
        self.values.get(keyword).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Sets a parameter, replacing its value. An unknown keyword is an error that names it.
    pub fn set(&mut self, keyword: &str, value: impl Into<String>) -> anyhow::Result<()> {
        self.store(keyword, value.into()).map(drop).map_err(|Unknown| unknown(keyword))
    }

    /// The role to connect as.
    pub fn user(&self) -> Option<&str> {
        self.get("user")
    }

    /// The database to connect to.
    pub fn dbname(&self) -> Option<&str> {
        self.get("dbname")
    }

    /// What the user should hear about, such as a password file that anybody can read and that is ignored therefore.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The servers to try, in their order: `host`, `hostaddr` and `port` are lists with commas. No host at all means
    /// the usual socket directories, one after the other.
    ///
    /// It fails when the lists differ in length or a port or address is none.
    pub fn endpoints(&self) -> anyhow::Result<Vec<Endpoint>> {
        let hosts = self.list("host");
        let addresses = self.list("hostaddr");
        let ports = self.list("port");
        if !hosts.is_empty() && !addresses.is_empty() && hosts.len() != addresses.len() {
            let (hosts, addresses) = (hosts.len(), addresses.len());
            return Err(Advice::usage(format!("{hosts} host names do not match {addresses} hostaddr values")).into());
        }
        let count = hosts.len().max(addresses.len()).max(1);
        if ports.len() > 1 && ports.len() != count {
            return Err(Advice::usage(format!("{} port numbers do not match {count} hosts", ports.len())).into());
        }
        let mut endpoints = Vec::new();
        for i in 0..count {
            let port = parse_port(ports.get(i).or(ports.first()).copied().unwrap_or_default())?;
            let name = hosts.get(i).copied().unwrap_or_default();
            let address = addresses.get(i).copied().unwrap_or_default();
            for place in places(name, address)? {
                let password = self.password_for(&place, port);
                endpoints.push(Endpoint { place, port, password });
            }
        }
        Ok(endpoints)
    }

    fn list(&self, keyword: &str) -> Vec<&str> {
        self.get(keyword).map(|list| list.split(',').map(str::trim).collect()).unwrap_or_default()
    }

    fn password_for(&self, place: &Place, port: u16) -> Option<Secret> {
        if let Some(password) = self.get("password") {
            return Some(Secret::new(password));
        }
        let host = match place {
            Place::Socket(directory)
                if DEFAULT_SOCKET_DIRECTORIES.iter().any(|usual| directory.as_os_str() == *usual) =>
            {
                "localhost".to_owned()
            }
            Place::Socket(directory) => directory.to_string_lossy().into_owned(),
            Place::Tcp { name, .. } => name.clone(),
        };
        self.passfile.as_ref()?.password(&host, port, self.dbname()?, self.user()?)
    }

    /// Whether a password of the password file would be used.
    pub(super) fn uses_passfile(&self) -> bool {
        self.get("password").is_none() && self.passfile.is_some()
    }

    pub(super) fn is_set(&self, keyword: &str) -> bool {
        self.values.contains_key(keyword)
    }

    /// Takes the other's values for every parameter that is not set here, empty or not.
    pub(super) fn fill_from(&mut self, other: Self) {
        for (keyword, value) in other.values {
            self.values.entry(keyword).or_insert(value);
        }
    }

    pub(super) fn set_passfile(&mut self, passfile: Option<PassFile>) {
        self.passfile = passfile;
    }

    pub(super) fn warn(&mut self, warning: String) {
        self.warnings.push(warning);
    }

    /// As libpq's `conninfo_storeval`: the last value wins, `requiressl` is translated.
    pub(super) fn store(&mut self, keyword: &str, value: String) -> Result<&'static Keyword, Unknown> {
        let (keyword, value) = match keyword {
            "requiressl" if value.starts_with('1') => ("sslmode", "require".to_owned()),
            "requiressl" => ("sslmode", "prefer".to_owned()),
            other => (other, value),
        };
        let keyword = keyword::find(keyword).ok_or(Unknown)?;
        self.values.insert(keyword.name, value);
        Ok(keyword)
    }
}

/// The keyword is not one of libpq's.
#[derive(Debug)]
pub(super) struct Unknown;

/// The error for a keyword that is not libpq's.
pub(super) fn unknown(keyword: &str) -> anyhow::Error {
    let advice = Advice::usage(format!("unknown connection parameter {keyword:?}"));
    match keyword::nearest(keyword) {
        Some(near) => advice.hint(format!("did you mean {near}?")).into(),
        None => advice.into(),
    }
}

fn parse_port(text: &str) -> anyhow::Result<u16> {
    if text.is_empty() {
        return Ok(DEFAULT_PORT);
    }
    text.parse().ok().filter(|port| *port > 0).with_context(|| Advice::usage(format!("invalid port number {text:?}")))
}

fn places(name: &str, address: &str) -> anyhow::Result<Vec<Place>> {
    if !address.is_empty() {
        let parsed = address.parse().with_context(|| Advice::usage(format!("invalid hostaddr {address:?}")))?;
        let name = if name.is_empty() { address } else { name }.to_owned();
        return Ok(vec![Place::Tcp { name, address: Some(parsed) }]);
    }
    Ok(match name {
        "" => DEFAULT_SOCKET_DIRECTORIES.iter().map(|directory| Place::Socket(directory.into())).collect(),
        path if path.starts_with('/') => vec![Place::Socket(path.into())],
        name => vec![Place::Tcp { name: name.to_owned(), address: None }],
    })
}

/// What C's `isspace` takes for a blank.
pub(super) fn is_blank(c: char) -> bool {
    c.is_ascii_whitespace() || c == '\x0b'
}

/// `conninfo_parse` of `fe-connect.c`.
fn parse_pairs(text: &str) -> anyhow::Result<Conninfo> {
    let mut info = Conninfo::default();
    let mut rest = text.trim_start_matches(is_blank);
    let mut after_secret = false;
    while !rest.is_empty() {
        let end = rest.find(|c| c == '=' || is_blank(c)).unwrap_or(rest.len());
        let (name, tail) = rest.split_at(end);
        let Some(tail) = tail.trim_start_matches(is_blank).strip_prefix('=') else {
            return Err(missing_equals(name, after_secret));
        };
        let (value, tail) = take_value(tail.trim_start_matches(is_blank))?;
        match info.store(name, value) {
            Ok(keyword) => after_secret = keyword.secret,
            Err(Unknown) if after_secret => return Err(missing_equals(name, true)),
            Err(Unknown) => return Err(unknown(name)),
        }
        rest = tail.trim_start_matches(is_blank);
    }
    Ok(info)
}

/// A word after a password with a blank in it may be the password's rest, and is not shown.
fn missing_equals(word: &str, after_secret: bool) -> anyhow::Error {
    let message = if after_secret {
        "unexpected text after the password in the connection string".to_owned()
    } else {
        format!("missing \"=\" after {word:?} in the connection string")
    };
    Advice::usage(message).hint("put values that contain blanks in single quotes").into()
}

/// Takes one value, quoted or not, and answers it with the text after it.
fn take_value(text: &str) -> anyhow::Result<(String, &str)> {
    let (quoted, text) = match text.strip_prefix('\'') {
        Some(inner) => (true, inner),
        None => (false, text),
    };
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            '\'' if quoted => return Ok((value, text.get(at + 1..).unwrap_or_default())),
            c if !quoted && is_blank(c) => return Ok((value, text.get(at..).unwrap_or_default())),
            c => value.push(c),
        }
    }
    if quoted {
        return Err(Advice::usage("unterminated quoted value in the connection string").into());
    }
    Ok((value, ""))
}

impl fmt::Display for Conninfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (name, value) in &self.values {
            let secret = keyword::find(name).is_none_or(|keyword| keyword.secret);
            write!(f, "{separator}{name}={}", if secret { HIDDEN.to_owned() } else { quote(value) })?;
            separator = " ";
        }
        Ok(())
    }
}

impl fmt::Debug for Conninfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Conninfo({self})")
    }
}

fn quote(value: &str) -> String {
    let bare = !value.is_empty() && !value.contains(|c| is_blank(c) || c == '\'' || c == '\\');
    if bare {
        return value.to_owned();
    }
    let escaped = value.replace('\\', r"\\").replace('\'', r"\'");
    format!("'{escaped}'")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    #[rstest]
    #[case("", "")]
    #[case("host=a port=1", "host=a port=1")]
    #[case("  host = a\tport\n=\n1 ", "host=a port=1")]
    #[case("host='a b'", "host='a b'")]
    #[case(r"host=a\ b", "host='a b'")]
    #[case(r"options='-c a=\'x\\y\''", r"options='-c a=\'x\\y\''")]
    #[case("host=", "host=''")]
    #[case("host=''port=1", "host='' port=1")]
    #[case("host=a host=b", "host=b")]
    #[case("host=a'b", r"host='a\'b'")]
    #[case("dbname=a=b", "dbname=a=b")]
    #[case("requiressl=1", "sslmode=require")]
    #[case("requiressl=0", "sslmode=prefer")]
    #[case(r"host=a\", "host=a")]
    #[case("host='a\u{e4}' user=\u{fc}", "host=a\u{e4} user=\u{fc}")]
    #[case("password=x user=u", "password=******** user=u")]
    fn reads_pairs(#[case] text: &str, #[case] printed: &str) {
        assert_eq!(Conninfo::parse(text).unwrap().to_string(), printed);
    }

    #[rstest]
    #[case("host", "missing \"=\" after \"host\" in the connection string")]
    #[case("host a=b", "missing \"=\" after \"host\" in the connection string")]
    #[case("host='a", "unterminated quoted value in the connection string")]
    #[case("hots=a", "unknown connection parameter \"hots\"")]
    #[case("Host=a", "unknown connection parameter \"Host\"")]
    #[case("=a", "unknown connection parameter \"\"")]
    #[case("password=se cret", "unexpected text after the password in the connection string")]
    #[case("password=se cr=et", "unexpected text after the password in the connection string")]
    fn refuses(#[case] text: &str, #[case] message: &str) {
        assert_eq!(Conninfo::parse(text).unwrap_err().to_string(), message);
    }

    #[test]
    fn suggests_the_nearest_keyword() {
        let error = Conninfo::parse("hots=a").unwrap_err();
        assert_eq!(error.downcast_ref::<Advice>().unwrap().hint.as_deref(), Some("did you mean host?"));
    }

    #[rstest]
    #[case("", &["socket /var/run/postgresql/.s.PGSQL.5432", "socket /tmp/.s.PGSQL.5432"])]
    #[case("port=1", &["socket /var/run/postgresql/.s.PGSQL.1", "socket /tmp/.s.PGSQL.1"])]
    #[case("host=/s port=''", &["socket /s/.s.PGSQL.5432"])]
    #[case("host=a,b port=1,2", &["host a, port 1", "host b, port 2"])]
    #[case("host=a,/s port=7", &["host a, port 7", "socket /s/.s.PGSQL.7"])]
    #[case("host=a,b port=1,", &["host a, port 1", "host b, port 5432"])]
    #[case("host=a hostaddr=::1", &["host a (::1), port 5432"])]
    #[case("hostaddr=127.0.0.1,::1", &["host 127.0.0.1, port 5432", "host ::1, port 5432"])]
    #[case("host=a,b hostaddr=,::1", &["host a, port 5432", "host b (::1), port 5432"])]
    fn lists_endpoints(#[case] text: &str, #[case] expected: &[&str]) {
        let endpoints = Conninfo::parse(text).unwrap().endpoints().unwrap();
        assert_eq!(endpoints.iter().map(ToString::to_string).collect::<Vec<_>>(), expected);
    }

    #[rstest]
    #[case("host=a,b hostaddr=::1")]
    #[case("host=a,b port=1,2,3")]
    #[case("port=0")]
    #[case("port=65536")]
    #[case("port=x")]
    #[case("hostaddr=localhost")]
    fn refuses_endpoints(#[case] text: &str) {
        assert!(Conninfo::parse(text).unwrap().endpoints().is_err());
    }

    #[test]
    fn shows_no_secret() {
        let info = Conninfo::parse("password=hush sslpassword=hush oauth_client_secret=hush").unwrap();
        let shown = format!("{info} {info:?} {:?}", info.endpoints().unwrap());
        assert!(!shown.contains("hush"), "{shown}");
        assert_eq!(info.endpoints().unwrap()[0].password.as_ref().unwrap().expose(), "hush");
    }

    proptest! {
        #[test]
        fn round_trips(values in proptest::collection::btree_map(0..keyword::KEYWORDS.len(), any::<String>(), 0..8)) {
            let mut info = Conninfo::default();
            for (i, value) in values {
                if !keyword::KEYWORDS[i].secret {
                    info.set(keyword::KEYWORDS[i].name, value).unwrap();
                }
            }
            prop_assert_eq!(Conninfo::parse(&info.to_string()).unwrap(), info);
        }

        #[test]
        fn never_panics(text in ".*", pairs in "([a-z]{0,4} ?= ?['\\\\a ]{0,6} ?){0,4}") {
            for text in [text, pairs] {
                if let Ok(info) = Conninfo::parse(&text) {
                    drop(info.endpoints());
                }
            }
        }
    }
}
