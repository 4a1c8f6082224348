//! The files by which a data directory tells of its server: `postmaster.pid` and `postmaster.opts`.
//!
//! A pid file outlives a crash, a copied data directory brings one of another server, and after a reboot its number
//! may be anybody's. So the process itself is asked: a postmaster's working directory is its data directory.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;

use crate::report::Cancel;
use crate::sys::clock::{Deadline, poll};
use crate::sys::process;

/// How long a pid file without a process number may be one that is just being written.
const HALF_WRITTEN_WAIT_MAX: Duration = Duration::from_secs(2);

/// Between two looks at it.
const HALF_WRITTEN_PAUSE: Duration = Duration::from_millis(20);

/// The lines of `postmaster.pid` (`src/include/utils/pidfile.h`). A server that has only begun to start has written
/// the first few.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PidFile {
    /// The postmaster's process, or that of a single-user server.
    pub pid: i32,
    /// Whether it is a single-user server, which writes its number negated.
    pub single_user: bool,
    /// The data directory.
    pub data_directory: PathBuf,
    /// When the server was started, in seconds since 1970.
    pub start_time: Option<i64>,
    /// The port.
    pub port: Option<u16>,
    /// The first socket directory; none where there are no sockets.
    pub socket_directory: Option<PathBuf>,
    /// The first listen address, `*` for all; none where there is no TCP.
    pub listen_address: Option<String>,
    /// Key and identifier of the shared memory.
    pub shared_memory: Option<String>,
    /// `starting`, `stopping`, `ready` or `standby`.
    pub status: Option<String>,
}

/// A server that runs on a data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Postmaster {
    /// What its pid file says.
    pub file: PidFile,
}

impl PidFile {
    /// Reads the file's text. It fails when there is no process number in it.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let mut lines = text.lines().map(str::trim);
        let first = lines.next().unwrap_or_default();
        let number: i32 = first.parse().ok().filter(|number| !matches!(*number, 0 | i32::MIN)).with_context(|| {
            format!("the first line is {first:?} and no process number (a server may just be starting)")
        })?;
        let mut next = || lines.next().filter(|line| !line.is_empty());
        Ok(Self {
            pid: number.abs(),
            single_user: number < 0,
            data_directory: next().unwrap_or_default().into(),
            start_time: next().and_then(|line| line.parse().ok()),
            port: next().and_then(|line| line.parse().ok()),
            socket_directory: next().map(PathBuf::from),
            listen_address: next().map(ToOwned::to_owned),
            shared_memory: next().map(ToOwned::to_owned),
            status: next().map(ToOwned::to_owned),
        })
    }

    /// The hosts by which the server is reached from here, best first: its socket's folder, then its TCP address. None of
    /// one that listens nowhere, or has not written them yet.
    pub fn hosts(&self) -> impl Iterator<Item = String> {
        let socket = self.socket_directory.as_ref().map(|folder| folder.to_string_lossy().into_owned());
        let address = self.listen_address.as_deref().map(|address| match address {
            "*" | "0.0.0.0" | "::" => "localhost".to_owned(),
            address => address.to_owned(),
        });
        socket.into_iter().chain(address)
    }
}

/// The server that runs on `pgdata`, if one does.
///
/// None when there is no pid file, its process is gone, or the process has another working directory and so is
/// somebody else. When the process can't be looked at (another user's), a postgres by name counts as running. A server
/// makes the file before it writes into it: an unreadable one is read again for two seconds.
pub fn running(pgdata: &Path) -> anyhow::Result<Option<Postmaster>> {
    let path = pgdata.join("postmaster.pid");
    let reading = || format!("read {}", path.display());
    let mut fault = None;
    let file = poll(Deadline::after(HALF_WRITTEN_WAIT_MAX), HALF_WRITTEN_PAUSE, &Cancel::default(), || {
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Some(None)),
            Err(error) => return Err(error).with_context(reading),
        };
        Ok(PidFile::parse(&text).map_err(|error| fault = Some(error)).ok().map(Some))
    })?;
    let file = match (file, fault) {
        (Some(Some(file)), _) => file,
        (None, Some(fault)) => return Err(fault).with_context(reading),
        (Some(None) | None, _) => return Ok(None),
    };
    let lives = process::alive(file.pid) && belongs(file.pid, pgdata)?;
    Ok(lives.then_some(Postmaster { file }))
}

/// The processes that work in `pgdata`: a postmaster and its children, or children whose postmaster was killed and
/// which still write. Only processes that the caller may look at are seen.
pub fn processes(pgdata: &Path) -> anyhow::Result<Vec<i32>> {
    let mut found = process::working_in(pgdata).with_context(|| format!("find {}", pgdata.display()))?;
    found.retain(|pid| is_postgres(*pid));
    Ok(found)
}

fn belongs(pid: i32, pgdata: &Path) -> anyhow::Result<bool> {
    Ok(match working_directory(pid) {
        Ok(own) => own == canonical(pgdata)?,
        Err(_) => is_postgres(pid),
    })
}

fn working_directory(pid: i32) -> std::io::Result<PathBuf> {
    std::fs::read_link(format!("/proc/{pid}/cwd"))
}

fn is_postgres(pid: i32) -> bool {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    ["postgres", "postmaster"].iter().any(|own| name.contains(own))
}

fn canonical(pgdata: &Path) -> anyhow::Result<PathBuf> {
    pgdata.canonicalize().with_context(|| format!("find {}", pgdata.display()))
}

/// The program and its arguments, as `postmaster.opts` keeps them of the last start.
///
/// As `CreateOptsFile` of `src/backend/postmaster/postmaster.c` writes it: the program bare, each argument in double
/// quotes that nothing escapes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartCommand {
    /// The server program, usually with its full path.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
}

impl StartCommand {
    /// Reads the file's text; none when it is empty.
    pub fn parse(text: &str) -> Option<Self> {
        // The line end is the file's; one before it may be an argument's.
        let text = text.strip_suffix('\n').unwrap_or(text);
        let (program, arguments) = match text.split_once(" \"") {
            Some((program, rest)) => (program, rest.strip_suffix('"').unwrap_or(rest).split("\" \"").collect()),
            None => (text, Vec::new()),
        };
        if program.is_empty() {
            return None;
        }
        Some(Self { program: program.into(), arguments: arguments.into_iter().map(ToOwned::to_owned).collect() })
    }

    /// Reads `postmaster.opts` of a data directory; none when no server was started there yet.
    pub fn of(pgdata: &Path) -> anyhow::Result<Option<Self>> {
        let path = pgdata.join("postmaster.opts");
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Self::parse(&text)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    const WHOLE: &str = "123\n/data\n1700000000\n5433\n/tmp\nlocalhost\n  5433001   7\nready   \n";

    fn put(path: PathBuf, text: &str) {
        std::io::Write::write_all(&mut std::fs::File::create(path).unwrap(), text.as_bytes()).unwrap();
    }

    #[rstest]
    #[case("/tmp", "localhost", &["/tmp", "localhost"])]
    #[case("", "10.0.0.7", &["10.0.0.7"])]
    #[case("", "*", &["localhost"])]
    #[case("", "0.0.0.0", &["localhost"])]
    #[case("", "::", &["localhost"])]
    #[case("/tmp", "", &["/tmp"])]
    #[case("", "", &[])]
    fn knows_its_hosts(#[case] socket: &str, #[case] address: &str, #[case] expected: &[&str]) {
        let file = PidFile::parse(&format!("1\n/data\n2\n5433\n{socket}\n{address}\n\nready\n")).unwrap();
        assert_eq!(file.hosts().collect::<Vec<_>>(), expected);
        assert_eq!((file.port, file.status.as_deref()), (Some(5433), Some("ready")));
    }

    #[test]
    fn reads_a_whole_file() {
        let expected = PidFile {
            pid: 123,
            single_user: false,
            data_directory: "/data".into(),
            start_time: Some(1_700_000_000),
            port: Some(5433),
            socket_directory: Some("/tmp".into()),
            listen_address: Some("localhost".to_owned()),
            shared_memory: Some("5433001   7".to_owned()),
            status: Some("ready".to_owned()),
        };
        assert_eq!(PidFile::parse(WHOLE).unwrap(), expected);
    }

    #[test]
    fn reads_what_there_is() {
        let file = PidFile::parse("-9\n/data\n1\n5432\n\n\n").unwrap();
        assert_eq!((file.pid, file.single_user, file.socket_directory, file.status), (9, true, None, None));
        assert_eq!(PidFile::parse("9").unwrap().port, None);
    }

    #[rstest]
    #[case("")]
    #[case("0\n")]
    #[case("x\n/data\n")]
    #[case("99999999999\n")]
    #[case("-2147483648\n")]
    fn refuses(#[case] text: &str) {
        assert!(PidFile::parse(text).is_err());
    }

    #[test]
    fn sees_no_server_where_none_runs() {
        let directory = tempfile::tempdir().unwrap();
        let pgdata = directory.path();
        assert_eq!(running(pgdata).unwrap(), None);
        // This very process lives, but works elsewhere: the number was reused.
        put(pgdata.join("postmaster.pid"), &format!("{}\n{}\n1\n5432\n", std::process::id(), pgdata.display()));
        assert_eq!(running(pgdata).unwrap(), None);
        put(pgdata.join("postmaster.pid"), "");
        assert!(running(pgdata).is_err());
    }

    #[test]
    fn sees_a_process_that_works_there() {
        let directory = tempfile::tempdir().unwrap();
        let pgdata = directory.path();
        // `cat` reads from a pipe that stays open, so it waits until it is killed.
        let mut child = std::process::Command::new("cat")
            .current_dir(pgdata)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        put(pgdata.join("postmaster.pid"), &format!("{}\n{}\n", child.id(), pgdata.display()));
        let found = running(pgdata).unwrap();
        assert!(processes(pgdata).unwrap().is_empty());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(found.is_some());
        assert_eq!(running(pgdata).unwrap(), None);
    }

    #[rstest]
    #[case("/usr/bin/postgres \"-D\" \"/a b\"\n", "/usr/bin/postgres", &["-D", "/a b"])]
    #[case("/with space/postgres \"-c\" \"a=\"b\"\"\n", "/with space/postgres", &["-c", "a=\"b\""])]
    #[case("/usr/bin/postgres\n", "/usr/bin/postgres", &[])]
    #[case("postgres \"-c\" \"\"\n", "postgres", &["-c", ""])]
    fn reads_options(#[case] text: &str, #[case] program: &str, #[case] arguments: &[&str]) {
        let found = StartCommand::parse(text).unwrap();
        assert_eq!(
            (found.program.as_path(), found.arguments),
            (Path::new(program), arguments.iter().map(|a| (*a).to_owned()).collect())
        );
    }

    proptest! {
        #[test]
        fn never_panics(text in ".*", lines in "(-?[0-9]{0,11}\n?){0,9}", options in "[a \"\n]{0,20}") {
            drop(PidFile::parse(&text));
            drop(PidFile::parse(&lines));
            drop(StartCommand::parse(&text));
            drop(StartCommand::parse(&options));
        }

        #[test]
        fn round_trips_options(arguments in proptest::collection::vec("[^\"]{0,9}", 0..5)) {
            let mut line = vec!["/bin/postgres".to_owned()];
            line.extend(arguments.iter().map(|argument| format!("\"{argument}\"")));
            let found = StartCommand::parse(&(line.join(" ") + "\n")).unwrap();
            prop_assert_eq!(found.arguments, arguments);
        }
    }
}
