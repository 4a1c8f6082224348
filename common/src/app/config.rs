//! Settings: flags before `HOLDFAST_*` variables before the configuration file before defaults.
//!
//! Everything that a message may have to explain keeps its [`Origin`]: "repository /x, set in
//! /etc/holdfast/holdfast.toml line 4". Nothing here touches a repository.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use super::cli::CommonArgs;
use super::config_file::{self, FileSettings};
use super::environment::Environment;
use crate::codec::Compression;
use crate::repo::ClusterName;
use crate::report::Advice;
use crate::store;
use crate::units::{ByteCount, SpaceLimit};

/// The configuration file that is read when none is named; it need not exist.
pub const DEFAULT_FILE: &str = "/etc/holdfast/holdfast.toml";

/// Where a setting comes from. `Display` continues a sentence: "the cluster is x, {origin}".
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A command line option, as it is typed.
    Flag(&'static str),
    /// An environment variable.
    Variable(&'static str),
    /// A line of a configuration file, counted from 1.
    File {
        /// The file.
        path: PathBuf,
        /// The line of the key.
        line: usize,
    },
    /// Nobody set it.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) => write!(f, "set by {name}"),
            Self::Variable(name) => write!(f, "set in {name}"),
            Self::File { path, line } => write!(f, "set in {} line {line}", path.display()),
            Self::Default => f.write_str("the default"),
        }
    }
}

/// A setting and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sourced<T> {
    /// The setting.
    pub value: T,
    /// Where it comes from.
    pub origin: Origin,
}

impl<T> Sourced<T> {
    /// A value that nobody set.
    pub fn by_default(value: T) -> Self {
        Self { value, origin: Origin::Default }
    }
}

/// One repository, as it is configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepositorySetting {
    /// Its folder: an absolute path.
    pub url: Sourced<String>,
    /// How new objects in it are compressed.
    pub compression: Compression,
    /// Whether a repository is made where there is none: always, never, or (`None`) unless there was one before.
    pub create: Option<bool>,
}

impl fmt::Display for RepositorySetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "repository {}, {}", self.url.value, self.url.origin)
    }
}

/// What a program was told. Paths are absolute; they need not exist.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The configuration file that was read, for commands that write a command line for somebody else to run.
    pub config_file: Option<PathBuf>,
    /// The repositories in their order; empty when none is configured: see [`Settings::require_repositories`].
    pub repositories: Vec<RepositorySetting>,
    /// The cluster's name.
    pub cluster: Sourced<ClusterName>,
    /// The server's data directory.
    pub pgdata: Option<Sourced<PathBuf>>,
    /// How to reach the server, in libpq's words; it may contain a password.
    pub conninfo: Option<String>,
    /// Where the server's programs are.
    pub bin_directory: Option<PathBuf>,
    /// Where a server remembers what must outlast its data directory; see [`super::Context::memory`].
    pub state_directory: Option<PathBuf>,
    /// Where acknowledgements and prefetched WAL lie; see [`super::Context::spool`].
    pub spool_directory: Option<PathBuf>,
    /// How many files one call of `archive-wal` takes on at most, from 1 to 64.
    pub batch: usize,
    /// Less free space than this under `pg_wal` is warned of.
    pub low_space: SpaceLimit,
    /// How much WAL is fetched ahead of a recovery; nothing for 0.
    pub prefetch_size: ByteCount,
    /// How long `restore-wal` waits for a segment while later ones are there already.
    pub hole_grace: Duration,
    /// How long a backup waits for a WAL segment to arrive in the repositories.
    pub archive_timeout: Duration,
    /// How many workers a backup has, from 1 to 256.
    pub jobs: Option<usize>,
    /// How the production server is stopped and started by a recovery, where it is not `pg_ctl`.
    pub service: ServiceSettings,
    /// How many backups retention keeps, at least 1.
    pub keep_last: Option<u32>,
}

/// How a server is stopped and started: commands for a shell, or a unit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceSettings {
    /// Starts it.
    pub start_command: Option<String>,
    /// Stops it.
    pub stop_command: Option<String>,
    /// The systemd unit, instead of both.
    pub systemd_unit: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            config_file: None,
            repositories: Vec::new(),
            cluster: Sourced::by_default(ClusterName::default()),
            pgdata: None,
            conninfo: None,
            bin_directory: None,
            state_directory: None,
            spool_directory: None,
            batch: 8,
            low_space: SpaceLimit::Percent(10),
            prefetch_size: ByteCount(256 << 20),
            hole_grace: Duration::from_secs(10),
            archive_timeout: Duration::from_mins(1),
            jobs: None,
            service: ServiceSettings::default(),
            keep_last: None,
        }
    }
}

impl Settings {
    /// Merges options, variables, the configuration file and defaults. Every error is a usage error, but for a
    /// repository inside the data directory, which is refused.
    pub fn load(args: &CommonArgs, environment: &Environment) -> Result<Self, Advice> {
        Self::load_with_default_file(args, environment, Path::new(DEFAULT_FILE))
    }

    fn load_with_default_file(
        args: &CommonArgs,
        environment: &Environment,
        default_file: &Path,
    ) -> Result<Self, Advice> {
        let named = args.config.as_deref().or_else(|| environment.get("HOLDFAST_CONFIG").map(Path::new));
        let path = named.map_or_else(|| default_file.to_owned(), |path| environment.absolute(path));
        let read = config_file::read(&path, named.is_some())?;
        let config_file = read.is_some().then_some(path);
        let file = read.unwrap_or_default();
        let defaults = Self::default();
        let settings = Self {
            config_file,
            cluster: cluster(args, environment, &file)?.unwrap_or(defaults.cluster),
            pgdata: pgdata(args, environment, &file)?,
            conninfo: environment
                .text("HOLDFAST_CONNINFO")?
                .map(str::to_owned)
                .or_else(|| file.conninfo.as_ref().map(|sourced| sourced.value.clone())),
            repositories: repositories(args, environment, &file)?,
            state_directory: directory(environment, "HOLDFAST_STATE_DIRECTORY", file.state_directory),
            spool_directory: directory(environment, "HOLDFAST_SPOOL_DIRECTORY", file.spool_directory),
            batch: variable(environment, "HOLDFAST_BATCH", config_file::batch)?
                .or(file.batch.map(|sourced| sourced.value))
                .unwrap_or(defaults.batch),
            low_space: file.low_space.map_or(defaults.low_space, |sourced| sourced.value),
            prefetch_size: variable(environment, "HOLDFAST_PREFETCH_SIZE", str::parse)?
                .or(file.prefetch_size.map(|sourced| sourced.value))
                .unwrap_or(defaults.prefetch_size),
            bin_directory: file.bin_directory.map(|sourced| sourced.value),
            hole_grace: file.hole_grace.map_or(defaults.hole_grace, |sourced| sourced.value),
            archive_timeout: file.archive_timeout.map_or(defaults.archive_timeout, |sourced| sourced.value),
            jobs: file.jobs.map(|sourced| sourced.value),
            service: ServiceSettings {
                start_command: file.start_command.map(|sourced| sourced.value),
                stop_command: file.stop_command.map(|sourced| sourced.value),
                systemd_unit: file.systemd_unit.map(|sourced| sourced.value),
            },
            keep_last: file.keep_last.map(|sourced| sourced.value),
        };
        if let Some(pgdata) = &settings.pgdata {
            settings.refuse_repository_inside(&pgdata.value)?;
        }
        Ok(settings)
    }

    /// The repositories; a usage error that names the ways to configure one when there is none.
    pub fn require_repositories(&self) -> anyhow::Result<&[RepositorySetting]> {
        if self.repositories.is_empty() {
            let hint = format!(
                "name one by --repo PATH, by the variable HOLDFAST_REPO=PATH, or in {DEFAULT_FILE} by the two lines \
                 [[repository]] and url = \"PATH\""
            );
            return Err(Advice::usage("no repository is configured").hint(hint).into());
        }
        Ok(&self.repositories)
    }

    /// Refuses a repository that lies in this data directory: it would be backed up into itself, and be gone together
    /// with the server. Links are followed on both sides; a folder that does not exist yet counts where it would be.
    pub fn refuse_repository_inside(&self, pgdata: &Path) -> Result<(), Advice> {
        let data_directory = resolved(pgdata);
        match self.repositories.iter().find(|it| resolved(Path::new(&it.url.value)).starts_with(&data_directory)) {
            None => Ok(()),
            Some(repository) => {
                let message = format!("{repository}, lies inside the data directory {}", pgdata.display());
                Err(Advice::refused(message).hint("choose a folder outside of it, best on another machine's disks"))
            }
        }
    }
}

/// The path with links followed as far as it exists.
fn resolved(path: &Path) -> PathBuf {
    path.ancestors().find_map(|ancestor| resolved_below(ancestor, path)).unwrap_or_else(|| path.to_owned())
}

fn resolved_below(ancestor: &Path, path: &Path) -> Option<PathBuf> {
    let mut resolved = ancestor.canonicalize().ok()?;
    for component in path.strip_prefix(ancestor).ok()?.components() {
        // What does not exist yet has no links: `..` is the folder above.
        if component == Component::ParentDir {
            resolved.pop();
        } else {
            resolved.push(component);
        }
    }
    Some(resolved)
}

fn cluster(
    args: &CommonArgs,
    environment: &Environment,
    file: &FileSettings,
) -> Result<Option<Sourced<ClusterName>>, Advice> {
    const VARIABLE: &str = "HOLDFAST_CLUSTER";
    if let Some(name) = &args.cluster {
        return Ok(Some(Sourced { value: name.clone(), origin: Origin::Flag("--cluster") }));
    }
    let named = variable(environment, VARIABLE, str::parse)?;
    if let Some(value) = named {
        return Ok(Some(Sourced { value, origin: Origin::Variable(VARIABLE) }));
    }
    Ok(file.cluster.clone())
}

fn pgdata(
    args: &CommonArgs,
    environment: &Environment,
    file: &FileSettings,
) -> Result<Option<Sourced<PathBuf>>, Advice> {
    if let Some(path) = &args.pgdata {
        if path.as_os_str().is_empty() {
            return Err(Advice::usage("--pgdata is empty"));
        }
        return Ok(Some(Sourced { value: environment.absolute(path), origin: Origin::Flag("--pgdata") }));
    }
    let variable = |name: &'static str| {
        let path = Path::new(environment.get(name)?);
        Some(Sourced { value: environment.absolute(path), origin: Origin::Variable(name) })
    };
    Ok(variable("HOLDFAST_PGDATA").or_else(|| variable("PGDATA")).or_else(|| file.pgdata.clone()))
}

fn directory(environment: &Environment, variable: &str, in_file: Option<Sourced<PathBuf>>) -> Option<PathBuf> {
    let named = environment.get(variable).map(|path| environment.absolute(Path::new(path)));
    named.or_else(|| in_file.map(|sourced| sourced.value))
}

/// The repositories of the first of flags, variable and file that names any. One that the file knows too keeps what
/// the file says of it.
fn repositories(
    args: &CommonArgs,
    environment: &Environment,
    file: &FileSettings,
) -> Result<Vec<RepositorySetting>, Advice> {
    const VARIABLE: &str = "HOLDFAST_REPO";
    let for_all: Option<Compression> = variable(environment, "HOLDFAST_COMPRESSION", str::parse)?;
    let place = |text: &str, origin: Origin| place(text, origin, environment);
    let in_file = file.repositories.iter().map(|repository| {
        let url = place(&repository.url.value, repository.url.origin.clone())?;
        let compression = for_all.or(repository.compression).unwrap_or_default();
        Ok(RepositorySetting { url, compression, create: repository.create })
    });
    let in_file: Vec<_> = in_file.collect::<Result<_, Advice>>()?;
    let named = if !args.repositories.is_empty() {
        args.repositories.iter().map(|text| place(text, Origin::Flag("--repo"))).collect::<Result<_, _>>()?
    } else if let Some(text) = environment.text(VARIABLE)? {
        vec![place(text, Origin::Variable(VARIABLE))?]
    } else {
        return without_repetition(in_file);
    };
    let with_compression = |url: Sourced<String>| {
        let known = in_file.iter().find(|known| known.url.value == url.value);
        RepositorySetting {
            url,
            compression: known.map_or(for_all.unwrap_or_default(), |known| known.compression),
            create: known.and_then(|known| known.create),
        }
    };
    without_repetition(named.into_iter().map(with_compression).collect())
}

/// The absolute path that a path or a URL of the local file system means.
fn place(text: &str, origin: Origin, environment: &Environment) -> Result<Sourced<String>, Advice> {
    if text.is_empty() {
        return Err(Advice::usage(format!("the repository {origin} is empty")));
    }
    let value = if text.contains("://") {
        let place = store::open(text).map(|store| store.describe());
        place.map_err(|advice| Advice { message: format!("repository {origin}: {advice}"), ..advice })?
    } else {
        let path = environment.absolute(Path::new(text)).into_os_string();
        path.into_string().map_err(|_| Advice::usage(format!("repository {text}, {origin}: not valid UTF-8")))?
    };
    Ok(Sourced { value, origin })
}

fn without_repetition(list: Vec<RepositorySetting>) -> Result<Vec<RepositorySetting>, Advice> {
    let mut seen = BTreeSet::new();
    match list.iter().find(|repository| !seen.insert(&repository.url.value)) {
        Some(again) => Err(Advice::usage(format!("{again}, is named twice"))),
        None => Ok(list),
    }
}

/// What a variable says, parsed; `None` where it says nothing.
fn variable<T, E: fmt::Display>(
    environment: &Environment,
    name: &str,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<Option<T>, Advice> {
    environment
        .text(name)?
        .map(|text| parse(text).map_err(|error| Advice::usage(format!("{name}: {error}"))))
        .transpose()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::ExitClass;
    use rstest::rstest;
    use std::io::Write as _;

    const FILE: &str = r#"
cluster = "from-file"
[[repository]]
url = "backup"
compression = "zstd:7"
[postgresql]
pgdata = "/pg/file"
conninfo = "host=file"
"#;

    struct Case {
        folder: tempfile::TempDir,
        args: CommonArgs,
        variables: Vec<(&'static str, String)>,
    }

    impl Case {
        fn new(file: Option<&str>) -> Self {
            let folder = tempfile::tempdir().unwrap();
            if let Some(text) = file {
                std::fs::File::create(folder.path().join("h.toml")).unwrap().write_all(text.as_bytes()).unwrap();
            }
            Self { folder, args: CommonArgs::default(), variables: Vec::new() }
        }

        fn file(&self) -> PathBuf {
            self.folder.path().join("h.toml")
        }

        fn load(&self) -> Result<Settings, Advice> {
            let environment = Environment::of(self.variables.clone()).in_directory(self.folder.path());
            Settings::load_with_default_file(&self.args, &environment, &self.file())
        }

        fn urls(&self) -> Vec<Sourced<String>> {
            self.load().unwrap().repositories.into_iter().map(|repository| repository.url).collect()
        }
    }

    #[test]
    fn with_nothing_said_everything_has_its_default() {
        let settings = Case::new(None).load().unwrap();
        assert_eq!(settings, Settings::default());
        assert_eq!(settings.cluster.value.as_str(), "main");
    }

    #[test]
    fn the_nearer_source_wins() {
        let mut case = Case::new(Some(FILE));
        let at = |line| Origin::File { path: case.file(), line };
        let settings = case.load().unwrap();
        assert_eq!(settings.config_file, Some(case.file()));
        assert_eq!(settings.cluster, Sourced { value: "from-file".parse().unwrap(), origin: at(2) });
        assert_eq!(settings.pgdata, Some(Sourced { value: "/pg/file".into(), origin: at(7) }));
        assert_eq!(settings.conninfo.as_deref(), Some("host=file"));

        case.variables = vec![("PGDATA", "/pg/plain".to_owned())];
        assert_eq!(case.load().unwrap().pgdata.unwrap().origin, Origin::Variable("PGDATA"));
        case.variables.extend([
            ("HOLDFAST_CLUSTER", "from-variable".to_owned()),
            ("HOLDFAST_PGDATA", "/pg/variable".to_owned()),
            ("HOLDFAST_CONNINFO", "host=variable".to_owned()),
        ]);
        let settings = case.load().unwrap();
        let origin = Origin::Variable("HOLDFAST_CLUSTER");
        assert_eq!(settings.cluster, Sourced { value: "from-variable".parse().unwrap(), origin });
        let origin = Origin::Variable("HOLDFAST_PGDATA");
        assert_eq!(settings.pgdata, Some(Sourced { value: "/pg/variable".into(), origin }));
        assert_eq!(settings.conninfo.as_deref(), Some("host=variable"));

        case.args.cluster = Some("from-flag".parse().unwrap());
        case.args.pgdata = Some("flag".into());
        let settings = case.load().unwrap();
        let origin = Origin::Flag("--cluster");
        assert_eq!(settings.cluster, Sourced { value: "from-flag".parse().unwrap(), origin });
        let origin = Origin::Flag("--pgdata");
        assert_eq!(settings.pgdata, Some(Sourced { value: case.folder.path().join("flag"), origin }));
    }

    #[test]
    fn repositories_come_from_one_source_alone() {
        let mut case = Case::new(Some(FILE));
        let in_folder = |name: &str| case.folder.path().join(name).to_str().unwrap().to_owned();
        let (backup, other) = (in_folder("backup"), in_folder("other"));
        let origin = Origin::File { path: case.file(), line: 4 };
        assert_eq!(case.urls(), [Sourced { value: backup.clone(), origin }]);
        case.variables = vec![("HOLDFAST_REPO", "other".to_owned())];
        let origin = Origin::Variable("HOLDFAST_REPO");
        assert_eq!(case.urls(), [Sourced { value: other, origin }]);
        case.args.repositories = vec!["./backup".to_owned(), "/z".to_owned()];
        let from_flag = |value: &str| Sourced { value: value.to_owned(), origin: Origin::Flag("--repo") };
        assert_eq!(case.urls(), [from_flag(&backup), from_flag("/z")]);
    }

    #[test]
    fn a_repository_keeps_the_files_compression_however_it_is_named() {
        let mut case = Case::new(Some(FILE));
        let compressions = |case: &Case| -> Vec<Compression> {
            case.load().unwrap().repositories.iter().map(|repository| repository.compression).collect()
        };
        let level_7: Compression = "zstd:7".parse().unwrap();
        assert_eq!(compressions(&case), [level_7]);
        case.args.repositories = vec!["backup".to_owned(), "/z".to_owned()];
        assert_eq!(compressions(&case), [level_7, Compression::default()]);
        case.variables = vec![("HOLDFAST_COMPRESSION", "lz4".to_owned())];
        let lz4: Compression = "lz4".parse().unwrap();
        assert_eq!(compressions(&case), [lz4, lz4]);
    }

    #[test]
    fn an_empty_variable_is_unset() {
        let mut case = Case::new(Some(FILE));
        let names = ["CONFIG", "REPO", "CLUSTER", "PGDATA", "CONNINFO", "COMPRESSION"];
        let before = case.load().unwrap();
        for name in names {
            case.variables.push((String::leak(format!("HOLDFAST_{name}")), String::new()));
        }
        assert_eq!(case.load().unwrap(), before);
    }

    #[test]
    fn a_named_file_replaces_the_default_one_and_must_exist() {
        let mut case = Case::new(Some(FILE));
        let other = case.folder.path().join("other.toml");
        case.variables = vec![("HOLDFAST_CONFIG", "other.toml".to_owned())];
        assert!(case.load().unwrap_err().message.starts_with(&format!("read {}: ", other.display())));
        std::fs::File::create(&other).unwrap();
        let settings = case.load().unwrap();
        assert_eq!((settings.config_file, settings.cluster.value.as_str()), (Some(other), "main"));
        case.args.config = Some(case.file());
        assert_eq!(case.load().unwrap().cluster.value.as_str(), "from-file");
    }

    #[rstest]
    #[case("HOLDFAST_CLUSTER", "a b", "HOLDFAST_CLUSTER: \"a b\" cannot name a cluster")]
    #[case("HOLDFAST_COMPRESSION", "rar", "HOLDFAST_COMPRESSION: ")]
    #[case(
        "HOLDFAST_REPO",
        "s3://k:secret@b",
        "repository set in HOLDFAST_REPO: this build knows no s3:// repositories"
    )]
    fn wrong_variables_are_named(#[case] name: &'static str, #[case] value: &str, #[case] message: &str) {
        let mut case = Case::new(None);
        case.variables = vec![(name, value.to_owned())];
        let advice = case.load().unwrap_err();
        assert_eq!(advice.class, ExitClass::Usage);
        assert!(advice.message.starts_with(message), "{}", advice.message);
    }

    #[rstest]
    #[case(&[""], "the repository set by --repo is empty")]
    #[case(&["/a", "/a/"], "repository /a, set by --repo, is named twice")]
    #[case(&["/a b", "file:///a%20b"], "repository /a b, set by --repo, is named twice")]
    fn wrong_repositories_are_named(#[case] urls: &[&str], #[case] message: &str) {
        let mut case = Case::new(None);
        case.args.repositories = urls.iter().map(|&url| url.to_owned()).collect();
        assert_eq!(case.load().unwrap_err().message, message);
    }

    #[test]
    fn without_a_repository_the_hint_names_the_ways_to_name_one() {
        let error = Settings::default().require_repositories().unwrap_err();
        let advice: &Advice = error.downcast_ref().unwrap();
        assert_eq!((advice.class, advice.message.as_str()), (ExitClass::Usage, "no repository is configured"));
        for way in ["--repo", "HOLDFAST_REPO", "/etc/holdfast/holdfast.toml"] {
            assert!(advice.hint.as_ref().unwrap().contains(way), "{way}");
        }
    }

    #[rstest]
    #[case::itself("data", true)]
    #[case::below("data/backup", true)]
    #[case::through_a_link("link/backup", true)]
    #[case::not_there_yet("data/a/b/c", true)]
    #[case::up_and_down("new/../data/x", true)]
    #[case::beside("data-backup", false)]
    #[case::as_a_url("file://{folder}/data/x", true)]
    #[case::above(".", false)]
    fn a_repository_inside_the_data_directory_is_refused(#[case] repository: &str, #[case] refused: bool) {
        let mut case = Case::new(None);
        std::fs::create_dir(case.folder.path().join("data")).unwrap();
        std::os::unix::fs::symlink("data", case.folder.path().join("link")).unwrap();
        case.args.repositories = vec![repository.replace("{folder}", case.folder.path().to_str().unwrap())];
        for pgdata in ["data", "link"] {
            case.args.pgdata = Some(pgdata.into());
            let class = case.load().err().map(|advice| advice.class);
            assert_eq!(class, refused.then_some(ExitClass::Refused), "{pgdata}");
        }
    }
}
