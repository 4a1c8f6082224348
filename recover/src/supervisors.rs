//! Finds who would start the server, or rebuild it, in the middle of a recovery.
//!
//! Patroni and its like watch a server and bring it back when it goes down. One that does so while its data directory is
//! being renamed destroys it. They cannot be asked all alike, so they are looked for: their processes, and what they
//! leave in the data directory. One that says for which data directory it works, in its options or in the file that these
//! name, is believed.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::app::Context;
use common::report::{Advice, Cancel};
use common::server::Postmaster;
use common::sys::process;

/// A configuration file is not larger than this.
const CONFIGURATION_BYTES_MAX: u64 = 1 << 20;

/// How long a supervisor's own program may take to answer.
const ANSWER_WAIT: Duration = Duration::from_secs(10);

/// A kind of supervisor.
struct Kind {
    name: &'static str,
    /// The names of its programs.
    programs: &'static [&'static str],
    /// Files that it leaves in the data directory.
    files: &'static [&'static str],
    /// How it is kept from acting.
    pause: &'static str,
}

const KINDS: &[Kind] = &[
    Kind {
        name: "Patroni",
        programs: &["patroni", "patroni.py"],
        files: &["patroni.dynamic.json"],
        pause: "pause it with patronictl pause --wait",
    },
    Kind {
        name: "Pacemaker",
        programs: &["pacemakerd"],
        files: &[],
        pause: "pause it with crm_attribute --name maintenance-mode --update true",
    },
    Kind { name: "repmgrd", programs: &["repmgrd"], files: &[], pause: "stop it on every node" },
    Kind {
        name: "pg_auto_failover",
        programs: &["pg_autoctl"],
        files: &["postgresql-auto-failover.conf"],
        pause: "run pg_autoctl enable maintenance, and stop its service",
    },
    Kind { name: "Stolon", programs: &["stolon-keeper"], files: &[], pause: "stop the keeper" },
];

/// Somebody who looks after the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Supervisor {
    /// What it is called.
    name: String,
    /// How it was found.
    evidence: String,
    /// Whether it leaves the server alone for now.
    paused: bool,
    /// How it is made to.
    pause: String,
}

/// Looks for everybody who looks after the server on this data directory.
pub(crate) fn look(pgdata: &Path, server: Option<&Postmaster>, ctx: &Context) -> anyhow::Result<Vec<Supervisor>> {
    let mut found = around(pgdata, server.is_some(), Path::new("/proc"));
    if found.iter().any(|it| it.name == "Pacemaker") && in_maintenance(&ctx.cancel) {
        found.iter_mut().filter(|it| it.name == "Pacemaker").for_each(|it| it.paused = true);
    }
    let service = &ctx.settings.service;
    // systemd does not start a unit again that was stopped through it.
    let stopped_by_unit = service.systemd_unit.is_some() || service.stop_command.is_some();
    if let Some(server) = server.filter(|_| !stopped_by_unit) {
        found.extend(unit_of(server.file.pid, Path::new("/proc"), &ctx.cancel));
    }
    ctx.cancel.check()?;
    Ok(found)
}

/// Refuses while somebody would act. `ignored`: the user knows better. Answers what there is to say of them.
pub(crate) fn decide(found: &[Supervisor], pgdata: &Path, ignored: bool) -> Result<Vec<String>, Advice> {
    let mut said = Vec::new();
    for Supervisor { name, evidence, paused, pause } in found {
        match (paused, ignored) {
            (true, _) => {
                said.push(format!("{name} is paused ({evidence}): let it go on only when the recovery is over"));
            }
            (false, true) => {
                said.push(format!("{name} looks after {} ({evidence}), which is ignored", pgdata.display()));
            }
            (false, false) => {
                return Err(Advice::refused(format!(
                    "{name} looks after {} ({evidence}), and would start or rebuild the server in the middle of a recovery",
                    pgdata.display()
                ))
                .hint(format!("{pause}; --ignore-supervisor goes on all the same")));
            }
        }
    }
    Ok(said)
}

/// By processes and files. What lies in the data directory counts by itself only while a server runs there: whoever
/// started that one may be out of sight, in another container.
fn around(pgdata: &Path, runs: bool, proc: &Path) -> Vec<Supervisor> {
    let processes = processes(proc);
    let mut found = Vec::new();
    for kind in KINDS {
        let process = processes.iter().find(|it| it.is(kind) && it.works_for(pgdata));
        let file = kind.files.iter().map(|name| pgdata.join(name)).find(|path| path.exists());
        let evidence = match (process, file) {
            (Some(process), _) => format!("process {}, {}", process.pid, process.arguments.join(" ")),
            (None, Some(file)) if runs => file.display().to_string(),
            (None, _) => continue,
        };
        let paused = kind.name == "Patroni" && patroni_is_paused(pgdata);
        found.push(Supervisor { name: kind.name.to_owned(), evidence, paused, pause: kind.pause.to_owned() });
    }
    found
}

/// A process as the kernel lists it.
struct Process {
    pid: i32,
    folder: PathBuf,
    arguments: Vec<String>,
}

fn processes(proc: &Path) -> Vec<Process> {
    let entries = std::fs::read_dir(proc).into_iter().flatten().flatten();
    let mut found: Vec<Process> = entries.filter_map(|entry| Process::read(entry.path())).collect();
    found.sort_unstable_by_key(|process| process.pid);
    found
}

impl Process {
    /// `None` for what is no process, has ended, or cannot be looked at.
    fn read(folder: PathBuf) -> Option<Self> {
        let pid = folder.file_name()?.to_str()?.parse().ok()?;
        let line = std::fs::read(folder.join("cmdline")).ok()?;
        let words = line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
        let arguments: Vec<String> = words.filter(|word| !word.is_empty()).collect();
        (!arguments.is_empty()).then_some(Self { pid, folder, arguments })
    }

    /// Whether it is one of the programs, started by itself or by an interpreter.
    fn is(&self, kind: &Kind) -> bool {
        let mut words = self.arguments.iter().map(|word| word.rsplit('/').next().unwrap_or_default());
        let first = words.next().unwrap_or_default();
        let program = if first.starts_with("python") { words.find(|word| !word.starts_with('-')) } else { Some(first) };
        program.is_some_and(|program| kind.programs.contains(&program))
    }

    /// Whether it may work for this data directory: unless it names others alone.
    fn works_for(&self, pgdata: &Path) -> bool {
        let mut named = self.directories_in_options();
        for word in &self.arguments {
            let path = word.rsplit('=').next().map(Path::new).filter(|path| path.is_absolute());
            named.extend(path.map(directories_in).unwrap_or_default());
        }
        let is_ours = |named: &PathBuf| named == pgdata || named.canonicalize().is_ok_and(|found| found == pgdata);
        named.is_empty() || named.iter().any(is_ours)
    }

    fn directories_in_options(&self) -> Vec<PathBuf> {
        let words = || self.arguments.iter();
        let valued = words().filter_map(|word| word.strip_prefix("--pgdata="));
        let followed = words().zip(words().skip(1)).filter(|(option, _)| matches!(option.as_str(), "--pgdata" | "-D"));
        let environment = std::fs::read(self.folder.join("environ")).unwrap_or_default();
        let variable = environment.split(|byte| *byte == 0).find_map(|it| it.strip_prefix(b"PGDATA="));
        let variable = variable.map(|value| String::from_utf8_lossy(value).into_owned());
        valued
            .chain(followed.map(|(_, value)| value.as_str()))
            .map(PathBuf::from)
            .chain(variable.map(PathBuf::from))
            .collect()
    }
}

/// The data directories that a configuration file names, as YAML (`data_dir: /x`) or as settings (`data_directory='/x'`).
fn directories_in(path: &Path) -> Vec<PathBuf> {
    let is_readable = path.metadata().is_ok_and(|it| it.is_file() && it.len() <= CONFIGURATION_BYTES_MAX);
    let text = if is_readable { std::fs::read(path).unwrap_or_default() } else { Vec::new() };
    let text = String::from_utf8_lossy(&text);
    let value = |line: &str| {
        let (key, value) = line.split_once([':', '='])?;
        let value = value.split('#').next().unwrap_or_default().trim().trim_matches(['\'', '"']);
        let is_directory = matches!(key.trim(), "data_dir" | "data_directory" | "pgdata") && value.starts_with('/');
        is_directory.then(|| PathBuf::from(value))
    };
    text.lines().filter_map(value).collect()
}

/// Patroni keeps a copy of what all its nodes agree on in the data directory.
fn patroni_is_paused(pgdata: &Path) -> bool {
    let text = std::fs::read(pgdata.join("patroni.dynamic.json")).unwrap_or_default();
    let known: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
    known.get("pause").and_then(serde_json::Value::as_bool) == Some(true)
}

/// Whether Pacemaker leaves all resources alone. Without an answer it does not.
fn in_maintenance(cancel: &Cancel) -> bool {
    let mut command = Command::new("crm_attribute");
    command.args(["--type", "crm_config", "--name", "maintenance-mode", "--query", "--quiet"]);
    process::run(command, ANSWER_WAIT, cancel).is_ok_and(|done| done.status.success() && done.stdout.trim() == "true")
}

/// The systemd unit that this postmaster is the main process of, when systemd starts it again by itself.
fn unit_of(pid: i32, proc: &Path, cancel: &Cancel) -> Option<Supervisor> {
    let groups = std::fs::read_to_string(proc.join(pid.to_string()).join("cgroup")).ok()?;
    let unit = unit_in(&groups)?;
    let mut command = Command::new("systemctl");
    command.args(["show", "--property=MainPID,Restart", &unit]);
    let answer = process::run(command, ANSWER_WAIT, cancel).ok().filter(|done| done.status.success())?;
    let restart = restarts(&answer.stdout, pid)?;
    Some(Supervisor {
        name: "systemd".to_owned(),
        evidence: format!("{unit}, Restart={restart}"),
        paused: false,
        pause: format!(
            "configure systemd-unit = \"{unit}\", so that the server is stopped through it, or stop it with systemctl stop \
             {unit}"
        ),
    })
}

/// The service in a process' control groups.
fn unit_in(groups: &str) -> Option<String> {
    let paths = groups.lines().filter_map(|line| line.rsplit(':').next());
    let mut units = paths.filter_map(|path| path.rsplit('/').find(|name| name.ends_with(".service")));
    units.next().map(str::to_owned)
}

/// When the unit is restarted, if this process is its main one and it ever is.
fn restarts(properties: &str, pid: i32) -> Option<String> {
    let value = |name: &str| properties.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    let is_main = value("MainPID")?.trim().parse() == Ok(pid);
    value("Restart").map(str::trim).filter(|restart| is_main && *restart != "no").map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::sys::durable;
    use proptest::prelude::*;
    use rstest::rstest;

    struct World {
        dir: tempfile::TempDir,
    }

    impl World {
        fn new() -> Self {
            let world = Self { dir: tempfile::tempdir().unwrap() };
            for folder in ["proc/7", "proc/self", "data"] {
                std::fs::create_dir_all(world.path(folder)).unwrap();
            }
            world
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().canonicalize().unwrap().join(name)
        }

        fn put(&self, name: &str, text: &str) -> String {
            durable::replace(&self.path(name), text.as_bytes(), 0o600).unwrap();
            self.path(name).display().to_string()
        }

        fn runs(&self, words: &[&str]) {
            self.put("proc/7/cmdline", &(words.join("\0") + "\0"));
        }

        fn found(&self, runs: bool) -> Vec<(String, bool)> {
            let found = around(&self.path("data"), runs, &self.path("proc"));
            found.into_iter().map(|it| (it.name, it.paused)).collect()
        }
    }

    #[rstest]
    #[case(&["/usr/bin/python3", "-u", "/usr/bin/patroni", "/etc/patroni.yml"], "Patroni")]
    #[case(&["repmgrd", "-f", "/etc/repmgr.conf"], "repmgrd")]
    #[case(&["/usr/bin/pg_autoctl", "run"], "pg_auto_failover")]
    #[case(&["/usr/sbin/pacemakerd"], "Pacemaker")]
    #[case(&["stolon-keeper"], "Stolon")]
    fn a_process_that_names_no_directory_counts(#[case] words: &[&str], #[case] name: &str) {
        let world = World::new();
        world.runs(words);
        assert_eq!(world.found(false), [(name.to_owned(), false)]);
    }

    #[rstest]
    #[case(&["vim", "/usr/bin/patroni"])]
    #[case(&["python3", "/opt/script.py", "patroni"])]
    #[case(&["postgres", "-D", "/data"])]
    fn others_do_not(#[case] words: &[&str]) {
        let world = World::new();
        world.runs(words);
        assert_eq!(world.found(true), []);
    }

    #[test]
    fn one_that_names_its_directory_is_believed() {
        let world = World::new();
        let data = world.path("data").display().to_string();
        let other = world.put("other.yml", "postgresql:\n  data_dir: /somewhere/else\n");
        world.runs(&["python3", "/bin/patroni", &other]);
        assert_eq!(world.found(false), []);
        let ours = world.put("ours.yml", &format!("postgresql:\n  data_dir: \"{data}\" # here\n"));
        world.runs(&["python3", "/bin/patroni", &ours]);
        assert_eq!(world.found(false), [("Patroni".to_owned(), false)]);
        let conf = world.put("repmgr.conf", &format!("node_id=1\ndata_directory = '{data}'\n"));
        world.runs(&["repmgrd", &format!("--config-file={conf}")]);
        assert_eq!(world.found(false), [("repmgrd".to_owned(), false)]);
        for words in [vec!["pg_autoctl", "run", "--pgdata", "/other"], vec!["pg_autoctl", "run", "--pgdata=/other"]] {
            world.runs(&words);
            assert_eq!(world.found(false), []);
        }
        world.put("proc/7/environ", &format!("A=1\0PGDATA={data}\0"));
        world.runs(&["pg_autoctl", "run"]);
        assert_eq!(world.found(false), [("pg_auto_failover".to_owned(), false)]);
    }

    #[test]
    fn patronis_own_file_tells_of_it_and_of_a_pause() {
        let world = World::new();
        let patroni = |paused| [("Patroni".to_owned(), paused)];
        world.put("data/patroni.dynamic.json", r#"{"ttl": 30}"#);
        assert_eq!(world.found(false), []);
        assert_eq!(world.found(true), patroni(false));
        world.put("data/patroni.dynamic.json", r#"{"ttl": 30, "pause": true}"#);
        assert_eq!(world.found(true), patroni(true));
        world.put("data/patroni.dynamic.json", r#"{"pause": false"#);
        assert_eq!(world.found(true), patroni(false));
    }

    #[test]
    fn nobody_who_would_act_is_passed_over() {
        let of = |paused| {
            let text = |text: &str| text.to_owned();
            Supervisor { name: text("Patroni"), evidence: text("process 7"), paused, pause: text("pause it") }
        };
        let decide = |found: &[Supervisor], ignored| decide(found, Path::new("/data"), ignored);
        assert_eq!(decide(&[], false), Ok(vec![]));
        let refusal = decide(&[of(true), of(false)], false).unwrap_err();
        assert!(refusal.message.contains("Patroni looks after /data (process 7)"), "{refusal}");
        assert!(refusal.hint.unwrap().starts_with("pause it; --ignore-supervisor"));
        assert_eq!(decide(&[of(true)], false).unwrap().len(), 1);
        assert_eq!(decide(&[of(false)], true).unwrap().len(), 1);
    }

    #[rstest]
    #[case("0::/system.slice/system-postgresql.slice/postgresql@15-main.service\n", Some("postgresql@15-main.service"))]
    #[case("1:name=systemd:/system.slice/pg.service/child\n0::/\n", Some("pg.service"))]
    #[case("0::/user.slice/user-0.slice/session-1.scope\n", None)]
    #[case("", None)]
    fn a_unit_is_read_from_the_control_groups(#[case] groups: &str, #[case] expected: Option<&str>) {
        assert_eq!(unit_in(groups).as_deref(), expected);
    }

    #[rstest]
    #[case("MainPID=7\nRestart=always\n", Some("always"))]
    #[case("Restart=on-failure\nMainPID=7\n", Some("on-failure"))]
    #[case("MainPID=7\nRestart=no\n", None)]
    #[case("MainPID=8\nRestart=always\n", None)]
    #[case("Restart=always\n", None)]
    fn a_unit_counts_when_it_restarts_this_server(#[case] properties: &str, #[case] expected: Option<&str>) {
        assert_eq!(restarts(properties, 7).as_deref(), expected);
    }

    proptest! {
        #[test]
        fn never_panics(words in proptest::collection::vec("[-a-z=/.\n:']{0,12}", 0..5), text in "([a-z_]{0,15}[:=#]?[ '/a-z]{0,9}\n){0,5}") {
            let world = World::new();
            let file = world.put("file", &text);
            let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
            words.push(&file);
            world.runs(&words);
            around(&world.path("data"), true, &world.path("proc"));
            unit_in(&text);
            restarts(&text, 7);
        }

        /// Whoever acts and is not ignored stops the recovery; anybody else gets a line.
        #[test]
        fn every_supervisor_is_decided_on(pauses: Vec<bool>, ignored: bool) {
            let found: Vec<Supervisor> = pauses.iter().map(|paused| Supervisor {
                name: "x".to_owned(), evidence: String::new(), paused: *paused, pause: String::new(),
            }).collect();
            let decided = decide(&found, Path::new("/data"), ignored);
            match decided {
                Ok(lines) => prop_assert!(lines.len() == found.len() && (ignored || pauses.iter().all(|paused| *paused))),
                Err(_) => prop_assert!(!ignored && pauses.contains(&false)),
            }
        }
    }
}
