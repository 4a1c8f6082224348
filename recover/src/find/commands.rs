//! The commands that go to the moment before a finding, ready to be typed.

use std::path::{Path, PathBuf};

use common::app::Context;
use common::app::config::Origin;
use common::pg::Lsn;
use common::repo::chain::Inventory;
use common::repo::records::BackupRecord;
use common::report::Advice;
use common::restore::choose::{Choice, WantedTimeline, Wish, choose};
use common::restore::target::Target;
use common::server::{Conninfo, shell_quote};

use super::finding::{Action, Finding, What};
use crate::cli::{Cli, Role};
use crate::facts::{Directory, Facts};
use crate::journal::Journal;
use crate::place::Place;

/// Tables that are named in a command; with more of them the whole database is brought.
const TABLES_MAX: usize = 20;

/// What is the same in all commands.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    /// How this program was told where the repository is.
    pub(crate) settings: Vec<String>,
    /// What is recovered.
    pub(crate) goal: Goal,
    /// The timeline, where one was asked for.
    pub(crate) timeline: WantedTimeline,
}

/// What the directory can become.
#[derive(Debug, Clone)]
pub(crate) struct Goal {
    /// The directory.
    pub(crate) pgdata: PathBuf,
    /// What it becomes, where that must be said.
    pub(crate) role: Option<Role>,
    /// Whether somebody has it already: a copy goes beside it.
    pub(crate) occupied: bool,
    /// The port of a copy, where the original's is taken.
    pub(crate) port: Option<String>,
}

impl Goal {
    /// What `recover run` accepts there. A copy is no production, not even where it lies in the original's place.
    pub(crate) fn of(place: &Place, facts: &Facts, newest: &BackupRecord, cli: &Cli) -> Self {
        let recorded = &newest.source.data_directory;
        let same_host = newest.source.host == facts.host;
        let same_path = *recorded == place.pgdata || facts.links_here.contains(recorded);
        // What is not known to be a copy is the cluster itself, in another place or after a failover.
        let is_copy = || Journal::read(place).ok().flatten().is_some_and(|journal| journal.is_copy());
        let (role, occupied) = match &facts.directory {
            _ if same_path && same_host => (None, false),
            Directory::Free => (Some(Role::Copy), false),
            Directory::Cluster(_) if !is_copy() => (Some(Role::Production), false),
            Directory::Cluster(_) | Directory::Foreign => (Some(Role::Copy), true),
        };
        let is_taken = facts.origin.as_ref().is_some_and(|origin| origin.server.is_some());
        let next = || is_taken.then(|| newest.source.port.checked_add(1).map(|port| port.to_string())).flatten();
        let port = (role == Some(Role::Copy)).then(|| cli.server.port.clone().or_else(next)).flatten();
        Self { pgdata: place.pgdata.clone(), role, occupied, port }
    }

    fn words(&self, xid: u32, backup: &BackupRecord) -> Vec<String> {
        let mut pgdata = self.pgdata.to_string_lossy().into_owned();
        if self.occupied {
            pgdata = format!("{pgdata}_before_{xid}");
        }
        let mut words = vec!["-D".to_owned(), pgdata.clone()];
        match self.role {
            Some(Role::Copy) => words.extend(["--as", "copy"].map(str::to_owned)),
            Some(Role::Production) => words.extend(["--as", "production"].map(str::to_owned)),
            Some(Role::Standby) | None => {}
        }
        if let Some(port) = &self.port {
            words.extend(["--port".to_owned(), port.clone()]);
        }
        let escaped = |path: &Path| path.to_string_lossy().replace('=', "\\=");
        for tablespace in backup.tablespaces.iter().filter(|_| self.role == Some(Role::Copy)) {
            let place = format!("{pgdata}_tablespace_{}", tablespace.oid);
            words
                .extend(["-T".to_owned(), format!("{}={}", escaped(&tablespace.location), escaped(Path::new(&place)))]);
        }
        words
    }
}

impl Frame {
    /// As this program was called.
    pub(crate) fn new(cli: &Cli, ctx: &Context, goal: Goal, timeline: WantedTimeline) -> Self {
        let mut settings = Vec::new();
        let mut add = |option: &str, value: &str| settings.extend(with_value(option, value));
        if let Some(config) = &cli.common.config {
            add("--config", &ctx.environment.absolute(config).to_string_lossy());
        }
        let repository = ctx.settings.repositories.first().filter(|it| matches!(it.url.origin, Origin::Flag(_)));
        if let Some(repository) = repository {
            add("--repo", &repository.url.value);
        }
        if matches!(ctx.settings.cluster.origin, Origin::Flag(_)) {
            add("--cluster", &ctx.settings.cluster.value.to_string());
        }
        if let Some(user) = &cli.server.username {
            add(if user.starts_with('-') { "--username" } else { "-U" }, user);
        }
        Self { settings, goal, timeline }
    }

    /// Puts the commands of a finding into it, or why there are none.
    pub(crate) fn complete(&self, finding: &mut Finding, backups: &[BackupRecord], known: &Inventory) {
        match reaches(finding.target_lsn, self.timeline, backups, known) {
            Ok(backup) => {
                finding.recover_run = Some(self.run(finding, &backup));
                finding.recover_extract = self.extract(finding);
            }
            Err(advice) => finding.unreachable = Some(advice.message),
        }
    }

    fn run(&self, finding: &Finding, backup: &BackupRecord) -> String {
        let mut words = vec!["recover".to_owned(), "run".to_owned()];
        words.extend(self.settings.iter().cloned());
        words.extend(self.goal.words(finding.xid, backup));
        words.extend(self.target(finding.target_lsn));
        line(&words)
    }

    /// Brings the lost tables, or the whole database where they have no names or are too many.
    fn extract(&self, finding: &Finding) -> Option<String> {
        let lost = || finding.actions.iter().filter(|action| is_extracted(action));
        let database = lost().next()?.database.clone()?;
        let mut words = vec!["recover".to_owned(), "extract".to_owned()];
        words.extend(self.settings.iter().cloned());
        let is_database = lost().any(|action| action.what == What::DatabaseDropped);
        let tables: Vec<Option<String>> = lost().map(Action::qualified_name).collect();
        let is_one_database = lost().all(|action| action.database.as_ref() == Some(&database));
        let by_name = !is_database && is_one_database && tables.len() <= TABLES_MAX && finding.actions_left_out == 0;
        match tables.into_iter().collect::<Option<Vec<String>>>().filter(|_| by_name) {
            Some(tables) => {
                words
                    .extend(with_value(if database.starts_with('-') { "--dbname" } else { "-d" }, &literal(&database)));
                words.extend(tables.into_iter().flat_map(|table| ["--table".to_owned(), table]));
            }
            None => words.extend(with_value("--database", &database)),
        }
        words.extend(self.target(finding.target_lsn));
        words.extend(["--output".to_owned(), format!("before_{}.sql", finding.xid)]);
        Some(line(&words))
    }

    fn target(&self, target: Lsn) -> Vec<String> {
        let mut words = match self.timeline {
            WantedTimeline::Newest => Vec::new(),
            WantedTimeline::OfBackup => vec!["--target-timeline".to_owned(), "current".to_owned()],
            WantedTimeline::Number(timeline) => vec!["--target-timeline".to_owned(), timeline.to_string()],
        };
        words.extend(["--target-lsn".to_owned(), target.to_string(), "--target-exclusive".to_owned()]);
        words
    }
}

/// Whether it is something that a dump can hold.
fn is_extracted(action: &Action) -> bool {
    let is_relation = !matches!(action.kind, Some("index" | "partitioned index" | "TOAST table"));
    action.what != What::Rewritten && is_relation
}

/// An option with its value, which may look like an option itself.
fn with_value(option: &str, value: &str) -> Vec<String> {
    if value.starts_with('-') { vec![format!("{option}={value}")] } else { vec![option.to_owned(), value.to_owned()] }
}

/// A database's name for `-d`, which takes connection strings, too.
fn literal(database: &str) -> String {
    let mut conninfo = Conninfo::default();
    if Conninfo::is_connection_string(database) && conninfo.set("dbname", database).is_ok() {
        return conninfo.to_string();
    }
    database.to_owned()
}

/// The backup from which a recovery can go there, as far as backups and the names of segments tell.
fn reaches(
    lsn: Lsn,
    timeline: WantedTimeline,
    backups: &[BackupRecord],
    known: &Inventory,
) -> Result<BackupRecord, Advice> {
    let wish = Wish { target: Target::Lsn(lsn), timeline, backup: None };
    let Choice { backup, route, .. } = choose(backups, known, &wish)?;
    match route.first_missing(known, backup.span.start_lsn, Lsn(lsn.0.saturating_add(1))) {
        None => Ok(backup),
        Some(missing) => Err(Advice::refused(format!("{missing} is missing on the way from {}", backup.id))),
    }
}

/// One line for a shell.
fn line(words: &[String]) -> String {
    let is_plain =
        |word: &str| !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || "_-./:=@%+,".contains(c));
    let quoted: Vec<String> =
        words.iter().map(|word| if is_plain(word) { word.clone() } else { shell_quote(word) }).collect();
    quoted.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::DateTime;
    use clap::Parser as _;
    use common::pg::{SegmentSize, TimelineId, WalSegmentName};
    use common::repo::records::Tablespace;
    use common::repo::records::testing::backup;
    use rstest::rstest;

    use crate::cli::Command;
    use crate::extract::wanted::Wanted;

    const SEG: u64 = 16 << 20;

    fn action(what: What, name: Option<&str>) -> Action {
        Action {
            what,
            database_oid: 5,
            database: Some("shop".to_owned()),
            schema: Some("public".to_owned()),
            name: name.map(str::to_owned),
            kind: Some("table"),
            path: None,
            rows: None,
        }
    }

    fn finding(actions: Vec<Action>) -> Finding {
        Finding {
            xid: 745,
            time: DateTime::UNIX_EPOCH,
            lsn: Lsn(3 * SEG),
            timeline: TimelineId(1),
            prepared: false,
            actions,
            actions_left_out: 0,
            companions: 0,
            target_lsn: Lsn(3 * SEG),
            recover_run: None,
            recover_extract: None,
            unreachable: None,
        }
    }

    fn goal(role: Option<Role>, occupied: bool) -> Goal {
        Goal { pgdata: "/pg".into(), role, occupied, port: None }
    }

    fn frame() -> Frame {
        let settings = ["--repo", "/srv/my repo"].map(str::to_owned).to_vec();
        Frame { settings, goal: goal(None, false), timeline: WantedTimeline::Newest }
    }

    fn known() -> Inventory {
        let mut known = Inventory::new(SegmentSize::DEFAULT);
        (1..=4).for_each(|n| known.add_segment(WalSegmentName::numbered(TimelineId(1), n, SegmentSize::DEFAULT)));
        known
    }

    fn completed(frame: &Frame, mut finding: Finding) -> Finding {
        frame.complete(&mut finding, &[backup(1, 2 * SEG, 100)], &known());
        finding
    }

    #[test]
    fn the_commands_go_to_the_moment_before() {
        let found = completed(&frame(), finding(vec![action(What::Dropped, Some("Orders"))]));
        let run = "recover run --repo '/srv/my repo' -D /pg --target-lsn 0/3000000 --target-exclusive";
        assert_eq!(found.recover_run.as_deref(), Some(run));
        let extract = "recover extract --repo '/srv/my repo' -d shop --table 'public.\"Orders\"' --target-lsn 0/3000000 \
                       --target-exclusive --output before_745.sql";
        assert_eq!(found.recover_extract.as_deref(), Some(extract));
    }

    #[test]
    fn a_copy_and_a_timeline_are_said() {
        let goal = goal(Some(Role::Copy), false);
        let frame = Frame { goal, timeline: WantedTimeline::Number(TimelineId(1)), ..frame() };
        let run = completed(&frame, finding(vec![action(What::Dropped, Some("x"))])).recover_run.unwrap();
        assert!(
            run.ends_with("-D /pg --as copy --target-timeline 1 --target-lsn 0/3000000 --target-exclusive"),
            "{run}"
        );
    }

    #[rstest]
    #[case::production(goal(Some(Role::Production), false), "-D /pg --as production")]
    #[case::beside_a_copy(
        goal(Some(Role::Copy), true),
        "-D /pg_before_745 --as copy -T '/t\\=s=/pg_before_745_tablespace_16384'"
    )]
    #[case::beside_a_running_server(Goal { port: Some("5433".to_owned()), ..goal(Some(Role::Copy), false) },
        "-D /pg --as copy --port 5433 -T '/t\\=s=/pg_tablespace_16384'")]
    #[case::an_odd_place(Goal { pgdata: "/sp ace'q".into(), ..goal(None, false) }, r"-D '/sp ace'\''q'")]
    fn what_the_directory_becomes_is_said(#[case] goal: Goal, #[case] words: &str) {
        let mut backup = backup(1, 2 * SEG, 100);
        let location = "/t=s".into();
        backup.tablespaces = vec![Tablespace { oid: 16_384, name: "fast".to_owned(), location, bytes: 1 }];
        let mut finding = finding(vec![action(What::Dropped, Some("x"))]);
        Frame { goal, ..frame() }.complete(&mut finding, &[backup], &known());
        let run = finding.recover_run.unwrap();
        assert!(run.contains(&format!("repo' {words} --target-lsn")), "{run}");
    }

    /// What is printed is read as it was meant.
    #[rstest]
    #[case("shop")]
    #[case("-d evil")]
    #[case("--help")]
    #[case("a=b")]
    #[case("-a=b'\\c d")]
    #[case("postgresql://h")]
    #[case("dbname=other")]
    fn a_database_may_be_called_anything(#[case] name: &str) {
        for what in [What::Dropped, What::DatabaseDropped] {
            let lost = Action { database: Some(name.to_owned()), ..action(what, Some("x")) };
            let command = completed(&frame(), finding(vec![lost])).recover_extract.unwrap();
            let words = std::process::Command::new("sh").args(["-c", &format!("printf '%s\\0' {command}")]).output();
            let words = String::from_utf8(words.unwrap().stdout).unwrap();
            let cli = Cli::try_parse_from(words.split_terminator('\0')).unwrap();
            let Command::Extract(args) = &cli.command else { panic!("not extract: {command}") };
            assert_eq!(Wanted::of(args, &cli).unwrap().database, name, "{command}");
        }
    }

    #[rstest]
    #[case::no_name(vec![action(What::Dropped, None)], Some("--database shop"))]
    #[case::a_database(vec![action(What::DatabaseDropped, None)], Some("--database shop"))]
    #[case::too_many(vec![action(What::Dropped, Some("x")); 21], Some("--database shop"))]
    #[case::two(vec![action(What::Dropped, Some("x")), action(What::Truncated, Some("y"))], Some("--table public.x --table public.y"))]
    #[case::an_index(vec![Action { kind: Some("index"), ..action(What::Dropped, Some("x")) }], None)]
    #[case::a_rewrite(vec![action(What::Rewritten, Some("x"))], None)]
    #[case::nowhere(vec![Action { database: None, ..action(What::Dropped, Some("x")) }], None)]
    fn what_is_lost_is_brought_alone(#[case] actions: Vec<Action>, #[case] words: Option<&str>) {
        let extract = completed(&frame(), finding(actions)).recover_extract;
        assert_eq!(extract.is_some(), words.is_some());
        assert!(words.is_none_or(|words| extract.is_some_and(|extract| extract.contains(words))));
    }

    #[rstest]
    #[case::before_all_backups(SEG)]
    #[case::behind_a_hole(6 * SEG)]
    fn what_cannot_be_reached_has_no_commands(#[case] lsn: u64) {
        let mut finding = finding(vec![action(What::Dropped, Some("x"))]);
        finding.target_lsn = Lsn(lsn);
        let finding = completed(&frame(), finding);
        assert!(finding.recover_run.is_none() && finding.recover_extract.is_none() && finding.unreachable.is_some());
    }
}
