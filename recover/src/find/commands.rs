//! The commands that go to the moment before a finding, ready to be typed.

use std::path::PathBuf;

use common::app::Context;
use common::app::config::Origin;
use common::pg::Lsn;
use common::repo::chain::Inventory;
use common::repo::records::BackupRecord;
use common::report::Advice;
use common::restore::choose::{Choice, WantedTimeline, Wish, choose};
use common::restore::target::Target;
use common::server::shell_quote;

use super::finding::{Action, Finding, What};
use crate::cli::Cli;

/// Tables that are named in a command; with more of them the whole database is brought.
const TABLES_MAX: usize = 20;

/// What is the same in all commands.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    /// How this program was told where the repository is.
    pub(crate) settings: Vec<String>,
    /// The directory that is recovered.
    pub(crate) pgdata: PathBuf,
    /// Whether that is the cluster's own, on its own host; else a copy is made there.
    pub(crate) in_place: bool,
    /// The timeline, where one was asked for.
    pub(crate) timeline: WantedTimeline,
}

impl Frame {
    /// As this program was called.
    pub(crate) fn new(cli: &Cli, ctx: &Context, pgdata: PathBuf, in_place: bool, timeline: WantedTimeline) -> Self {
        let mut settings = Vec::new();
        let mut add = |option: &str, value: &str| settings.extend([option.to_owned(), value.to_owned()]);
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
            add("-U", user);
        }
        Self { settings, pgdata, in_place, timeline }
    }

    /// Puts the commands of a finding into it, or why there are none.
    pub(crate) fn complete(&self, finding: &mut Finding, backups: &[BackupRecord], known: &Inventory) {
        match reaches(finding.target_lsn, self.timeline, backups, known) {
            Ok(()) => {
                finding.recover_run = Some(self.run(finding.target_lsn));
                finding.recover_extract = self.extract(finding);
            }
            Err(advice) => finding.unreachable = Some(advice.message),
        }
    }

    fn run(&self, target: Lsn) -> String {
        let mut words = vec!["recover".to_owned(), "run".to_owned()];
        words.extend(self.settings.iter().cloned());
        words.extend(["-D".to_owned(), self.pgdata.to_string_lossy().into_owned()]);
        if !self.in_place {
            words.extend(["--as", "copy"].map(str::to_owned));
        }
        words.extend(self.target(target));
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
                words.extend(["-d".to_owned(), database]);
                words.extend(tables.into_iter().flat_map(|table| ["--table".to_owned(), table]));
            }
            None => words.extend(["--database".to_owned(), database]),
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

/// Whether a recovery can go there, as far as backups and the names of segments tell.
fn reaches(lsn: Lsn, timeline: WantedTimeline, backups: &[BackupRecord], known: &Inventory) -> Result<(), Advice> {
    let wish = Wish { target: Target::Lsn(lsn), timeline, backup: None };
    let Choice { backup, route, .. } = choose(backups, known, &wish)?;
    match route.first_missing(known, backup.span.start_lsn, Lsn(lsn.0.saturating_add(1))) {
        None => Ok(()),
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
    use common::pg::{SegmentSize, TimelineId, WalSegmentName};
    use common::repo::records::testing::backup;
    use rstest::rstest;

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

    fn frame() -> Frame {
        let settings = ["--repo", "/srv/my repo"].map(str::to_owned).to_vec();
        Frame { settings, pgdata: "/pg".into(), in_place: true, timeline: WantedTimeline::Newest }
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
        let frame = Frame { in_place: false, timeline: WantedTimeline::Number(TimelineId(1)), ..frame() };
        let run = completed(&frame, finding(vec![action(What::Dropped, Some("x"))])).recover_run.unwrap();
        assert!(
            run.ends_with("-D /pg --as copy --target-timeline 1 --target-lsn 0/3000000 --target-exclusive"),
            "{run}"
        );
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
