//! The password file, `~/.pgpass`: lines `host:port:database:user:password`.
//!
//! As `passwordFromFile` of `src/interfaces/libpq/fe-connect.c`: the first matching line wins, `*` alone matches
//! anything, a backslash takes the next character literally, a line that begins with `#` is a comment. A file that
//! others can read is not used.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::conninfo::Secret;

/// A larger file is not a password file; libpq has no such limit.
const BYTES_MAX: u64 = 1024 * 1024;

/// The contents of a password file. `Debug` shows no password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PassFile {
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    host: Pattern,
    port: Pattern,
    dbname: Pattern,
    user: Pattern,
    password: Secret,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Pattern {
    Any,
    Exactly(String),
}

impl Pattern {
    fn matches(&self, text: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exactly(own) => own == text,
        }
    }
}

impl PassFile {
    /// Reads the file. None when it does not exist or is not used; then the warning says why.
    pub(super) fn read(path: &Path) -> (Option<Self>, Option<String>) {
        let ignored = |why: String| (None, Some(format!("password file {} is ignored: {why}", path.display())));
        // Not a plain file is said before it is opened: opening a pipe would wait for its writer.
        match path.metadata() {
            Ok(metadata) if !metadata.is_file() => return ignored("it is not a plain file".to_owned()),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return (None, None),
            Err(error) => return ignored(error.to_string()),
        }
        let mut contents = Vec::new();
        let mode = File::open(path).and_then(|file| {
            let mode = file.metadata()?.permissions().mode();
            file.take(BYTES_MAX).read_to_end(&mut contents)?;
            Ok(mode)
        });
        match mode {
            Ok(mode) if mode & 0o077 != 0 => {
                ignored("group or others can access it; its mode must be 0600 or less".to_owned())
            }
            Ok(_) => (Some(Self::parse(&String::from_utf8_lossy(&contents))), None),
            Err(error) => ignored(error.to_string()),
        }
    }

    /// Reads the lines; one that has not five fields matches nothing and is left out.
    fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        Self { entries: lines.filter_map(parse_line).collect() }
    }

    /// The password of the first line that matches.
    pub(super) fn password(&self, host: &str, port: u16, dbname: &str, user: &str) -> Option<Secret> {
        let port = port.to_string();
        let matches = |entry: &&Entry| {
            entry.host.matches(host)
                && entry.port.matches(&port)
                && entry.dbname.matches(dbname)
                && entry.user.matches(user)
        };
        // An empty password is none, as in libpq.
        self.entries.iter().find(matches).map(|entry| entry.password.clone()).filter(|p| !p.expose().is_empty())
    }
}

fn parse_line(line: &str) -> Option<Entry> {
    let (host, rest) = pattern(line)?;
    let (port, rest) = pattern(rest)?;
    let (dbname, rest) = pattern(rest)?;
    let (user, rest) = pattern(rest)?;
    // What follows another bare colon is not part of the password.
    let (password, _) = field(rest);
    Some(Entry { host, port, dbname, user, password: Secret::new(password) })
}

/// One of the first four fields, and what follows its colon.
fn pattern(text: &str) -> Option<(Pattern, &str)> {
    if let Some(rest) = text.strip_prefix("*:") {
        return Some((Pattern::Any, rest));
    }
    let (value, rest) = field(text);
    Some((Pattern::Exactly(value), rest?))
}

/// The unescaped text up to the next bare colon, and what follows that where there is one.
fn field(text: &str) -> (String, Option<&str>) {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => value.push(chars.next().map_or('\\', |(_, escaped)| escaped)),
            ':' => return (value, text.get(at + 1..)),
            c => value.push(c),
        }
    }
    (value, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    #[rstest]
    #[case("h:5432:d:u:pw", Some("pw"))]
    #[case("*:*:*:*:pw", Some("pw"))]
    #[case("h:*:d:u:p\\:w\\\\", Some("p:w\\"))]
    #[case("h:5432:d:u:pw:rest", Some("pw"))]
    #[case("h:5432:d:u:first\nh:5432:d:u:second", Some("first"))]
    #[case("x:5432:d:u:no\r\nh:5432:d:u:yes\r\n", Some("yes"))]
    #[case("#h:5432:d:u:pw", None)]
    #[case("h:5432:d:u:", None)]
    #[case("h:5432:d:pw", None)]
    #[case("h:5433:d:u:pw", None)]
    #[case("\\*:5432:d:u:pw", None)]
    #[case("\\h:5432:d:u:pw", Some("pw"))]
    #[case("h*:5432:d:u:pw", None)]
    #[case("", None)]
    fn finds(#[case] text: &str, #[case] expected: Option<&str>) {
        let found = PassFile::parse(text).password("h", 5432, "d", "u");
        assert_eq!(found.as_ref().map(Secret::expose), expected);
    }

    #[rstest]
    #[case(0o600, true)]
    #[case(0o400, true)]
    #[case(0o640, false)]
    #[case(0o604, false)]
    #[case(0o610, false)]
    fn checks_the_mode(#[case] mode: u32, #[case] used: bool) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, b"*:*:*:*:hush\n").unwrap();
        file.as_file().set_permissions(std::fs::Permissions::from_mode(mode)).unwrap();
        let (read, warning) = PassFile::read(file.path());
        assert_eq!((read.is_some(), warning.is_none()), (used, used));
        assert!(!format!("{read:?}").contains("hush"));
    }

    #[test]
    fn ignores_what_is_no_file() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(PassFile::read(&directory.path().join("absent")), (None, None));
        assert!(PassFile::read(directory.path()).1.unwrap().contains("not a plain file"));
    }

    proptest! {
        #[test]
        fn never_panics(text in ".*", likely in "[a:*\\\\\n#]{0,20}") {
            for text in [text, likely] {
                drop(PassFile::parse(&text).password("a", 1, "a", "a"));
            }
        }

        #[test]
        fn unescapes(value in "[^\\x00\r\n]{1,20}") {
            let escaped = value.replace('\\', "\\\\").replace(':', "\\:");
            let file = PassFile::parse(&format!("x{escaped}:*:*:*:{escaped}"));
            let found = file.password(&format!("x{value}"), 1, "d", "u");
            prop_assert_eq!(found.as_ref().map(Secret::expose), Some(value.as_str()));
        }
    }
}
