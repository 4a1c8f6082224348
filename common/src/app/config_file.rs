//! The configuration file: TOML in, values with their lines out.
//!
//! The document is walked by hand rather than deserialised, because every complaint names the line and what was
//! expected there, and a key that is not known is an error that names the nearest one that is: a setting that is
//! silently ignored costs somebody a backup.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::ops::Range;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::config::{Origin, Sourced};
use super::suggest;
use crate::codec::Compression;
use crate::repo::ClusterName;
use crate::report::Advice;
use crate::units::{self, ByteCount, SpaceLimit};

/// The largest file that is read.
const BYTES_MAX: u64 = 1 << 20;

/// How much of an unknown key is shown, in characters.
const WORD_SHOWN_MAX: usize = 64;

/// The most workers that `backup.jobs` can ask for.
const JOBS_MAX: i64 = 256;

/// The most files that one call of `archive-wal` takes on.
const BATCH_MAX: i64 = 64;

/// Every section with its keys; the first is the top level.
const SCHEMA: [(&str, &[&str]); 8] = [
    (
        "",
        &[
            "cluster",
            "state-directory",
            "spool-directory",
            "repository",
            "postgresql",
            "archive",
            "restore",
            "backup",
            "recovery",
            "retention",
        ],
    ),
    ("repository", &["url", "compression", "create"]),
    ("postgresql", &["pgdata", "conninfo", "bin-directory"]),
    ("archive", &["batch", "low-space"]),
    ("restore", &["hole-grace", "prefetch-size"]),
    ("backup", &["jobs", "archive-timeout"]),
    ("recovery", &["start-command", "stop-command", "systemd-unit"]),
    ("retention", &["keep-last"]),
];

/// What a configuration file says; absent keys are `None`. Relative paths have become relative to the file.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct FileSettings {
    pub(crate) cluster: Option<Sourced<ClusterName>>,
    pub(crate) state_directory: Option<Sourced<PathBuf>>,
    pub(crate) spool_directory: Option<Sourced<PathBuf>>,
    pub(crate) repositories: Vec<FileRepository>,
    pub(crate) pgdata: Option<Sourced<PathBuf>>,
    pub(crate) conninfo: Option<Sourced<String>>,
    pub(crate) bin_directory: Option<Sourced<PathBuf>>,
    pub(crate) batch: Option<Sourced<usize>>,
    pub(crate) low_space: Option<Sourced<SpaceLimit>>,
    pub(crate) hole_grace: Option<Sourced<Duration>>,
    pub(crate) prefetch_size: Option<Sourced<ByteCount>>,
    pub(crate) jobs: Option<Sourced<usize>>,
    pub(crate) archive_timeout: Option<Sourced<Duration>>,
    pub(crate) start_command: Option<Sourced<String>>,
    pub(crate) stop_command: Option<Sourced<String>>,
    pub(crate) systemd_unit: Option<Sourced<String>>,
    pub(crate) keep_last: Option<Sourced<u32>>,
}

/// One `[[repository]]`.
#[derive(Debug, PartialEq)]
pub(crate) struct FileRepository {
    pub(crate) url: Sourced<String>,
    pub(crate) compression: Option<Compression>,
    pub(crate) create: Option<bool>,
}

/// The settings in the file at `path`; `None` when there is none and it need not exist.
///
/// A regular file that everybody may write is refused: who writes it decides where the backups go.
pub(crate) fn read(path: &Path, must_exist: bool) -> Result<Option<FileSettings>, Advice> {
    let wrong = |what: &str| Advice::usage(format!("read {}: {what}", path.display()));
    let failed = |error: io::Error| wrong(&crate::report::system_error(&error));
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if !must_exist && error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let metadata = file.metadata().map_err(failed)?;
    if metadata.is_file() && metadata.mode() & 0o002 != 0 {
        return Err(Advice::usage(format!("{}: everybody may write this file", path.display()))
            .hint(format!("chmod o-w {}", path.display())));
    }
    let mut text = String::new();
    file.take(BYTES_MAX + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > BYTES_MAX {
        return Err(wrong(&format!("longer than {BYTES_MAX} bytes")));
    }
    parse(path, &text).map(Some)
}

/// The settings in `text`, which is said to lie at `path`.
pub(crate) fn parse(path: &Path, text: &str) -> Result<FileSettings, Advice> {
    let document = Document { path, text };
    let root = DeTable::parse(text)
        .map_err(|error| document.complaint(&error.span().unwrap_or_default(), error.message().trim_end()))?;
    let top = document.section("", root.get_ref())?;
    let mut settings = FileSettings {
        cluster: top.parsed("cluster", "text", str::parse)?,
        state_directory: top.path("state-directory")?,
        spool_directory: top.path("spool-directory")?,
        ..FileSettings::default()
    };
    if let Some((value, _)) = top.value("repository") {
        settings.repositories = document.repositories(value)?;
    }
    if let Some(section) = top.section("postgresql")? {
        settings.pgdata = section.path("pgdata")?;
        settings.conninfo = section.parsed("conninfo", "text", not_empty)?;
        settings.bin_directory = section.path("bin-directory")?;
    }
    if let Some(section) = top.section("archive")? {
        settings.batch = section.whole_number("batch", BATCH_MAX)?;
        settings.low_space = section.parsed("low-space", "a share or a size such as \"10%\"", str::parse)?;
    }
    if let Some(section) = top.section("restore")? {
        settings.hole_grace = section.duration("hole-grace")?;
        settings.prefetch_size = section.parsed("prefetch-size", "a size such as \"128 MiB\"", str::parse)?;
    }
    if let Some(section) = top.section("backup")? {
        settings.jobs = section.whole_number("jobs", JOBS_MAX)?;
        settings.archive_timeout = section.duration("archive-timeout")?;
    }
    if let Some(section) = top.section("recovery")? {
        settings.start_command = section.parsed("start-command", "text", not_empty)?;
        settings.stop_command = section.parsed("stop-command", "text", not_empty)?;
        settings.systemd_unit = section.parsed("systemd-unit", "text", unit)?;
        if let (Some(unit), Some(_)) =
            (&settings.systemd_unit, settings.start_command.as_ref().or(settings.stop_command.as_ref()))
        {
            return Err(Advice::usage(format!("systemd-unit{}: commands of its own are configured too", unit.origin))
                .hint("keep the unit, or start-command and stop-command"));
        }
    }
    if let Some(section) = top.section("retention")? {
        settings.keep_last = section.whole_number("keep-last", i64::from(u32::MAX))?;
    }
    Ok(settings)
}

/// The number of files in a batch, outside of a file.
pub(crate) fn batch(text: &str) -> Result<usize, String> {
    let number = text.trim().parse().ok().filter(|number| (1..=BATCH_MAX).contains(number));
    let fitting = number.and_then(|number| usize::try_from(number).ok());
    fitting.ok_or_else(|| format!("{text:?} is no whole number from 1 to {BATCH_MAX}"))
}

fn not_empty(text: &str) -> Result<String, &'static str> {
    if text.is_empty() { Err("it is empty") } else { Ok(text.to_owned()) }
}

/// The name of a systemd unit.
fn unit(text: &str) -> Result<String, &'static str> {
    let text = not_empty(text)?;
    let good = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
    if text.chars().all(good) && !text.starts_with('-') { Ok(text) } else { Err("that is no unit's name") }
}

#[derive(Clone, Copy)]
struct Document<'d> {
    path: &'d Path,
    text: &'d str,
}

impl<'d> Document<'d> {
    /// The line, counted from 1, in which `span` begins.
    fn line(self, span: &Range<usize>) -> usize {
        1 + self.text.get(..span.start).unwrap_or(self.text).matches('\n').count()
    }

    fn complaint(self, span: &Range<usize>, message: impl fmt::Display) -> Advice {
        Advice::usage(format!("{} line {}: {message}", self.path.display(), self.line(span)))
    }

    fn sourced<T>(self, value: T, span: &Range<usize>) -> Sourced<T> {
        Sourced { value, origin: Origin::File { path: self.path.to_owned(), line: self.line(span) } }
    }

    /// A relative path counts from the file's folder.
    fn resolve(self, path: &str) -> PathBuf {
        self.path.parent().unwrap_or(Path::new("")).join(path).components().collect()
    }

    /// Like [`Document::resolve`], but a URL stays as it is.
    fn place(self, url: &str) -> Result<String, &'static str> {
        let url = not_empty(url)?;
        if url.contains("://") {
            return Ok(url);
        }
        self.resolve(&url).into_os_string().into_string().map_err(|_| "the path is not valid UTF-8")
    }

    /// The section `name` with its keys checked against the schema.
    fn section<'t>(self, name: &'static str, table: &'t DeTable<'d>) -> Result<Section<'d, 't>, Advice> {
        let known = keys_of(name);
        match table.keys().find(|key| !known.contains(&key.get_ref().as_ref())) {
            None => Ok(Section { document: self, table }),
            Some(key) => {
                let word = key.get_ref().as_ref();
                // Nobody wants to read an endless one, nor compare it with every key.
                let word: String = word.chars().take(WORD_SHOWN_MAX).collect();
                let within = if name.is_empty() { String::new() } else { format!(" in [{name}]") };
                let complaint = self.complaint(&key.span(), format_args!("unknown key {word:?}{within}"));
                Err(complaint.hint(hint_for(&word, name)))
            }
        }
    }

    fn repositories(self, value: &Spanned<DeValue<'d>>) -> Result<Vec<FileRepository>, Advice> {
        let wanted = |span: &Range<usize>| {
            self.complaint(span, "a repository is a section of its own").hint("write [[repository]] above its url")
        };
        let list = value.get_ref().as_array().ok_or_else(|| wanted(&value.span()))?;
        list.iter()
            .map(|item| {
                let table = item.get_ref().as_table().ok_or_else(|| wanted(&item.span()))?;
                let section = self.section("repository", table)?;
                let url = section
                    .parsed("url", "a path", |text| self.place(text))?
                    .ok_or_else(|| self.complaint(&item.span(), "this repository has no url"))?;
                let compression = section.parsed("compression", "text such as \"zstd:1\"", str::parse)?;
                let create = section.switch("create")?;
                Ok(FileRepository { url, compression: compression.map(|sourced| sourced.value), create })
            })
            .collect()
    }
}

struct Section<'d, 't> {
    document: Document<'d>,
    table: &'t DeTable<'d>,
}

impl<'d, 't> Section<'d, 't> {
    fn value(&self, key: &str) -> Option<(&'t Spanned<DeValue<'d>>, Range<usize>)> {
        self.table.iter().find(|(name, _)| name.get_ref() == key).map(|(name, value)| (value, name.span()))
    }

    fn section(&self, name: &'static str) -> Result<Option<Self>, Advice> {
        let Some((value, span)) = self.value(name) else { return Ok(None) };
        let table = value.get_ref().as_table().ok_or_else(|| {
            self.document.complaint(&span, format_args!("{name} is a section")).hint(format!("write [{name}]"))
        })?;
        self.document.section(name, table).map(Some)
    }

    fn parsed<T, E: fmt::Display>(
        &self,
        key: &str,
        expected: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<Option<Sourced<T>>, Advice> {
        let Some((value, span)) = self.value(key) else { return Ok(None) };
        let text = value.get_ref().as_str().ok_or_else(|| {
            let found = value.get_ref().type_str();
            self.document.complaint(&span, format_args!("{key} must be {expected} in quotes, not of type {found}"))
        })?;
        let parsed = parse(text).map_err(|error| self.document.complaint(&span, format_args!("{key}: {error}")))?;
        Ok(Some(self.document.sourced(parsed, &span)))
    }

    fn path(&self, key: &str) -> Result<Option<Sourced<PathBuf>>, Advice> {
        self.parsed(key, "a path", |text| not_empty(text).map(|path| self.document.resolve(&path)))
    }

    /// `true` or `false`.
    fn switch(&self, key: &str) -> Result<Option<bool>, Advice> {
        let Some((value, span)) = self.value(key) else { return Ok(None) };
        let wrong = || self.document.complaint(&span, format_args!("{key} must be true or false, without quotes"));
        value.get_ref().as_bool().map(Some).ok_or_else(wrong)
    }

    fn duration(&self, key: &str) -> Result<Option<Sourced<Duration>>, Advice> {
        self.parsed(key, "a duration such as \"10s\"", units::parse_duration)
    }

    /// A whole number from 1 to `max`.
    fn whole_number<T: TryFrom<i64>>(&self, key: &str, max: i64) -> Result<Option<Sourced<T>>, Advice> {
        let Some((value, span)) = self.value(key) else { return Ok(None) };
        let wrong = || self.document.complaint(&span, format_args!("{key} must be a whole number from 1 to {max}"));
        let integer = value.get_ref().as_integer().ok_or_else(wrong)?;
        let number = i64::from_str_radix(integer.as_str(), integer.radix()).map_err(|_| wrong())?;
        let fitting = Some(number).filter(|number| (1..=max).contains(number));
        let value = fitting.and_then(|number| T::try_from(number).ok()).ok_or_else(wrong)?;
        Ok(Some(self.document.sourced(value, &span)))
    }
}

fn keys_of(section: &str) -> &'static [&'static str] {
    SCHEMA.iter().find(|(name, _)| *name == section).map_or(&[], |(_, keys)| keys)
}

/// What may have been meant by an unknown `word` in `section`: a key of this section, the same key of another, or
/// else the list of what is known here.
fn hint_for(word: &str, section: &str) -> String {
    let known = keys_of(section);
    let elsewhere = SCHEMA.iter().find(|(_, keys)| keys.contains(&word)).map(|(name, _)| *name);
    match (suggest::nearest(word, known.iter().copied()), elsewhere) {
        (_, Some("")) => format!("{word:?} belongs above the first section"),
        (_, Some(name)) => format!("{word:?} belongs in [{name}]"),
        (Some(nearest), None) => format!("did you mean {nearest:?}?"),
        (None, None) => format!("known here: {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;
    use std::os::unix::fs::PermissionsExt as _;

    const PATH: &str = "/etc/holdfast/holdfast.toml";

    fn parsed(text: &str) -> Result<FileSettings, Advice> {
        parse(Path::new(PATH), text)
    }

    #[test]
    fn every_key_is_read_with_its_line() {
        let text = r#"# one
cluster = "orders"

[[repository]]
url = "/backup"
compression = "zstd:3"

[[repository]]
url = "second"

[postgresql]
pgdata = "../pg/./data"
conninfo = "host=/run/postgresql"
bin-directory = "/usr/lib/postgresql/15/bin"

[restore]
hole-grace = "10s"

[backup]
jobs = 4
archive-timeout = "2m"

[retention]
keep-last = 7

[recovery]
systemd-unit = "postgresql@15-main.service"
"#;
        let settings = parsed(text).unwrap();
        let at = |line| Origin::File { path: PATH.into(), line };
        assert_eq!(settings.cluster, Some(Sourced { value: "orders".parse().unwrap(), origin: at(2) }));
        let urls: Vec<_> = settings.repositories.iter().map(|repository| repository.url.clone()).collect();
        assert_eq!(
            urls,
            [
                Sourced { value: "/backup".to_owned(), origin: at(5) },
                Sourced { value: "/etc/holdfast/second".to_owned(), origin: at(9) },
            ]
        );
        let compressions: Vec<_> = settings.repositories.iter().map(|repository| repository.compression).collect();
        assert_eq!(compressions, [Some("zstd:3".parse().unwrap()), None]);
        let pgdata = settings.pgdata.unwrap();
        assert_eq!(pgdata, Sourced { value: "/etc/holdfast/../pg/data".into(), origin: at(12) });
        assert_eq!(settings.conninfo.unwrap().value, "host=/run/postgresql");
        assert_eq!(settings.bin_directory.unwrap().value, Path::new("/usr/lib/postgresql/15/bin"));
        assert_eq!(settings.hole_grace.unwrap().value, Duration::from_secs(10));
        assert_eq!(settings.jobs.unwrap().value, 4);
        assert_eq!(settings.archive_timeout.unwrap().value, Duration::from_mins(2));
        assert_eq!(settings.keep_last.unwrap(), Sourced { value: 7, origin: at(24) });
        assert_eq!(settings.systemd_unit.unwrap().value, "postgresql@15-main.service");
    }

    #[rstest]
    #[case("systemd-unit = \"a b\"", "no unit's name")]
    #[case("systemd-unit = \"--root=/\"", "no unit's name")]
    #[case("start-command = \"\"", "it is empty")]
    #[case("systemd-unit = \"pg\"\nstop-command = \"true\"", "commands of its own")]
    fn a_server_is_started_in_one_way(#[case] lines: &str, #[case] complaint: &str) {
        let advice = parsed(&format!("[recovery]\n{lines}")).unwrap_err();
        assert!(advice.message.contains(complaint), "{}", advice.message);
    }

    #[test]
    fn an_empty_file_says_nothing() {
        assert_eq!(parsed("").unwrap(), FileSettings::default());
    }

    #[rstest]
    #[case("\nclustr = \"a\"", 2, "unknown key \"clustr\"", Some("did you mean \"cluster\"?"))]
    #[case(
        "[retention]\nkeep_last = 1",
        2,
        "unknown key \"keep_last\" in [retention]",
        Some("did you mean \"keep-last\"?")
    )]
    #[case("pgdata = \"/x\"", 1, "unknown key \"pgdata\"", Some("\"pgdata\" belongs in [postgresql]"))]
    #[case(
        "[backup]\ncluster = \"x\"",
        2,
        "unknown key \"cluster\" in [backup]",
        Some("\"cluster\" belongs above the first section")
    )]
    #[case(
        "[restore]\ncolour = 1",
        2,
        "unknown key \"colour\" in [restore]",
        Some("known here: hole-grace, prefetch-size")
    )]
    #[case("[postgres]\npgdata = \"/x\"", 1, "unknown key \"postgres\"", Some("did you mean \"postgresql\"?"))]
    #[case("cluster = 5", 1, "cluster must be text in quotes, not of type integer", None)]
    #[case(
        "cluster = \"a/b\"",
        1,
        "cluster: \"a/b\" cannot name a cluster: use 1 to 64 letters, digits, _ and -, beginning with a letter or a digit",
        None
    )]
    #[case("[backup]\njobs = \"4\"", 2, "jobs must be a whole number from 1 to 256", None)]
    #[case("[backup]\njobs = 0", 2, "jobs must be a whole number from 1 to 256", None)]
    #[case("[retention]\nkeep-last = -1", 2, "keep-last must be a whole number from 1 to 4294967295", None)]
    #[case("[postgresql]\n\npgdata = \"\"", 3, "pgdata: it is empty", None)]
    #[case("postgresql = 1", 1, "postgresql is a section", Some("write [postgresql]"))]
    #[case(
        "[repository]\nurl = \"/x\"",
        1,
        "a repository is a section of its own",
        Some("write [[repository]] above its url")
    )]
    #[case("[[repository]]\ncompression = \"lz4\"", 1, "this repository has no url", None)]
    #[case("[[repository]]\nurl = 1", 2, "url must be a path in quotes, not of type integer", None)]
    fn complaints(#[case] text: &str, #[case] line: usize, #[case] message: &str, #[case] hint: Option<&str>) {
        let advice = parsed(text).unwrap_err();
        assert_eq!(advice.message, format!("{PATH} line {line}: {message}"));
        assert_eq!(advice.hint.as_deref(), hint);
        assert_eq!(advice.class, crate::report::ExitClass::Usage);
    }

    #[rstest]
    #[case("cluster = \"a\"\ncluster = \"b\"\n", 2)]
    #[case("\n\n[backup\n", 3)]
    #[case("[restore]\nhole-grace = \"soon\"", 2)]
    #[case("[[repository]]\nurl = \"/x\"\ncompression = \"rar\"", 3)]
    fn complaints_name_the_line(#[case] text: &str, #[case] line: usize) {
        let message = parsed(text).unwrap_err().message;
        assert!(message.starts_with(&format!("{PATH} line {line}: ")), "{message}");
        assert!(!message.contains('\n'), "{message}");
    }

    #[test]
    fn a_file_that_everybody_may_write_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("holdfast.toml");
        File::create(&path).unwrap();
        let set_mode = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        set_mode(0o664);
        assert_eq!(read(&path, true).unwrap(), Some(FileSettings::default()));
        set_mode(0o666);
        let advice = read(&path, true).unwrap_err();
        assert!(advice.message.ends_with("everybody may write this file"), "{}", advice.message);
        assert!(read(Path::new("/dev/null"), true).unwrap().is_some());
    }

    #[test]
    fn only_a_file_that_was_named_must_exist() {
        let path = Path::new("/nonexistent/holdfast.toml");
        assert_eq!(read(path, false).unwrap(), None);
        assert!(read(path, true).unwrap_err().message.starts_with("read /nonexistent/holdfast.toml: "));
    }

    #[test]
    fn an_endless_file_is_not_read_to_its_end() {
        assert!(read(Path::new("/dev/zero"), true).unwrap_err().message.contains("longer than"));
    }

    #[test]
    fn an_endless_key_is_cut_off() {
        let advice = parsed(&format!("{} = 1", "cluster".repeat(100_000))).unwrap_err();
        assert!(advice.message.len() < 200, "{}", advice.message);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            cluster in "[A-Za-z0-9][A-Za-z0-9_-]{0,63}",
            urls in proptest::collection::vec("[^\\p{Cc}:]{1,12}", 0..4),
            conninfo in "[^\\p{Cc}]{1,20}",
            jobs in 1_usize..=256,
            keep_last in 1_u32..,
            seconds in 0_u64..1 << 40,
        ) {
            let quoted = |text: &str| serde_json::to_string(text).unwrap();
            let lines = [
                format!("cluster = {}", quoted(&cluster)),
                urls.iter().flat_map(|url| ["[[repository]]\nurl = ", &quoted(url), "\n"].map(str::to_owned)).collect(),
                format!("[postgresql]\nconninfo = {}", quoted(&conninfo)),
                format!("[backup]\njobs = {jobs}\n[retention]\nkeep-last = {keep_last:#x}"),
                format!("[restore]\nhole-grace = \"{seconds}s\""),
            ];
            let settings = parsed(&lines.join("\n")).unwrap();
            prop_assert_eq!(settings.cluster.unwrap().value.to_string(), cluster);
            let read: Vec<_> = settings.repositories.iter().map(|repository| PathBuf::from(&repository.url.value)).collect();
            let expected: Vec<_> = urls.iter().map(|url| Path::new("/etc/holdfast").join(url)).collect();
            prop_assert_eq!(read, expected);
            prop_assert_eq!(settings.conninfo.unwrap().value, conninfo);
            prop_assert_eq!((settings.jobs.unwrap().value, settings.keep_last.unwrap().value), (jobs, keep_last));
            prop_assert_eq!(settings.hole_grace.unwrap().value, Duration::from_secs(seconds));
        }

        #[test]
        fn every_text_is_parsed_or_complained_of(text in "(\\[|\\]|=|\"|\n|#|cluster|repository|url|backup|jobs|[a-z0-9]| |\\.|\u{e9}){0,40}") {
            if let Err(advice) = parsed(&text) {
                prop_assert!(advice.message.starts_with(PATH), "{}", advice.message);
            }
        }
    }
}
