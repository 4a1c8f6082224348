//! Decides what a recovery does. Pure: facts and wishes in, a plan or a refusal out.

use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use common::pg::{ArchiveName, Lsn, TimelineId};
use common::repo::BackupId;
use common::repo::chain::{Inventory, Route};
use common::repo::records::BackupRecord;
use common::report::Advice;
use common::restore::choose::{Choice, MissingFork, Wish, choose};
use common::restore::demands::Demands;
use common::restore::settings::TargetAction;
use common::restore::target::Target;
use common::restore::wal_plan::{Stretch, WalPlan};
use serde::{Deserialize, Serialize};

use crate::cli::{ConfigFrom, Role, RunArgs};
use crate::divergence::Divergence;
use crate::facts::{Directory, Facts};
use crate::place::Place;
use crate::standby::{self, Standby};

/// What a recovery does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "each answers a question of its own")]
pub(crate) struct Plan {
    /// What the directory becomes.
    pub(crate) role: Role,
    /// The data directory.
    pub(crate) pgdata: PathBuf,
    /// Whether a cluster lies there that is moved aside.
    pub(crate) replaces: bool,
    /// The backup that is unpacked.
    pub(crate) backup: BackupId,
    /// Where replay stops.
    pub(crate) target: Target,
    /// Whether it stops just before the target.
    pub(crate) exclusive: bool,
    /// What the server does there.
    pub(crate) action: TargetAction,
    /// The timeline that is replayed along.
    pub(crate) timeline: TimelineId,
    /// Where replay begins.
    pub(crate) wal_from: Lsn,
    /// How far there is WAL without a hole.
    pub(crate) wal_reaches: Lsn,
    /// How far the archive alone has it.
    pub(crate) archive_reaches: Lsn,
    /// The size of a WAL segment.
    pub(crate) segment_bytes: u64,
    /// Where replay ends, when the target was looked up in the WAL.
    pub(crate) arrival: Option<Arrival>,
    /// Where all WAL ended when it was read, of a recovery to its end; it may have gone on since.
    #[serde(default)]
    pub(crate) wal_ends: Option<Lsn>,
    /// What restore-wal must be able to fetch.
    pub(crate) wal: WalPlan,
    /// Files taken from the old cluster's own `pg_wal`, as far as is known before it stops.
    pub(crate) salvage: Vec<String>,
    /// Where each tablespace goes.
    pub(crate) tablespaces: Vec<(u32, PathBuf)>,
    /// Folders that replay makes elsewhere, in tablespaces that are younger than the backup.
    #[serde(default)]
    pub(crate) grows: Vec<PathBuf>,
    /// Where `pg_wal` lies when it is a link.
    pub(crate) pg_wal: Option<PathBuf>,
    /// The main configuration file when it is not in the data directory.
    pub(crate) config_file: Option<PathBuf>,
    /// Whose configuration files it gets.
    pub(crate) config_from: ConfigFrom,
    /// The configuration files in the data directory that the backup has otherwise.
    pub(crate) config_differs: Vec<String>,
    /// The copy's port.
    pub(crate) port: Option<u16>,
    /// Whether the server archives once the recovery is over.
    pub(crate) archives: bool,
    /// Whether the server is started.
    pub(crate) starts: bool,
    /// Bytes that are unpacked.
    pub(crate) bytes: u64,
    /// The system's major version.
    pub(crate) major: u32,
    /// When it was decided.
    pub(crate) decided: DateTime<Utc>,
    /// The settings that the server needs at least, as far as the WAL and the old cluster say.
    pub(crate) demands: Demands,
    /// Who is left behind by the cluster that is replaced.
    #[serde(default)]
    pub(crate) divergence: Divergence,
    /// Whether files of the old cluster are taken where they are the same.
    pub(crate) delta: bool,
    /// Set for a standby.
    pub(crate) standby: Option<Standby>,
    /// What the operator should know.
    pub(crate) warnings: Vec<String>,
}

/// The target, found in the WAL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Arrival {
    /// The end of the last record that is replayed.
    pub(crate) at: Lsn,
    /// The last transaction that is replayed, if there is one behind the backup's start.
    pub(crate) last_before: Option<Transaction>,
    /// The first one that is not, if there is one.
    pub(crate) first_after: Option<Transaction>,
}

/// A commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Transaction {
    /// Its transaction id.
    pub(crate) xid: u32,
    /// When it committed, by the server's clock.
    pub(crate) time: DateTime<Utc>,
    /// Where its commit record begins.
    pub(crate) lsn: Lsn,
}

impl Plan {
    /// Notes where replay ends: nothing behind that must be had.
    pub(crate) fn arrive(&mut self, arrival: Arrival) {
        for stretch in &mut self.wal.stretches {
            stretch.to = Some(stretch.to.map_or(arrival.at, |to| to.min(arrival.at)));
        }
        self.arrival = Some(arrival);
    }
}

/// A plan with the records that it rests on.
#[derive(Debug)]
pub(crate) struct Decision {
    /// The plan.
    pub(crate) plan: Plan,
    /// The backup's record.
    pub(crate) backup: BackupRecord,
    /// The way through the WAL.
    pub(crate) route: Route,
    /// Set when the target must turn out to lie before this fork.
    pub(crate) missing_fork: Option<MissingFork>,
}

/// Decides, or says why it is refused.
pub(crate) fn decide(facts: &Facts, args: &RunArgs, port: Option<u16>, place: &Place) -> Result<Decision, Advice> {
    let known = facts.known_wal();
    let wish = Wish { target: args.moment.target(), timeline: args.moment.timeline(), backup: args.moment.backup };
    let Choice { backup, route, missing_fork } = match &facts.aim {
        Some(aim) => aim.choice.clone(),
        None => choose(&facts.backups, &known, &wish)?,
    };
    let role = role(facts, args, place, &backup)?;
    if wish.target == Target::Latest && args.action() != TargetAction::Promote {
        return Err(Advice::usage(format!(
            "--target-action {} needs a target: at the end of all WAL a server is always promoted",
            args.action().name()
        ))
        .hint("add --target-time, --target-lsn, --target-xid, --target-name or --target-immediate"));
    }
    if wish.target == Target::Latest && args.moment.is_exclusive() {
        return Err(Advice::usage("--target-exclusive needs a target: nothing lies behind the end of all WAL")
            .hint("add --target-time, --target-lsn or --target-xid"));
    }
    if args.config_from == ConfigFrom::Preserved && facts.directory.cluster().is_none() {
        return Err(Advice::usage(format!(
            "no cluster in {} is set aside, whose configuration could be kept",
            place.pgdata.display()
        ))
        .hint("leave --config-from away: the backup has its own configuration files"));
    }
    let reaches = prove_wal(&known, &backup, &route, &wish.target)?;
    let mut warnings = Vec::new();
    if let Some(warning) = hole_warning(&known, &route, reaches) {
        warnings.push(warning);
    }
    if backup.damaged_page_count > 0 {
        let count = backup.damaged_page_count;
        warnings.push(format!("{count} pages of {} had wrong checksums when it was taken", backup.id));
    }
    if args.delta && facts.directory.cluster().is_none() {
        warnings.push("--delta finds no cluster there: everything is fetched".to_owned());
    }
    if let Some(cluster) = facts.directory.cluster() {
        let own = cluster.control.as_ref().map(|control| control.system_identifier);
        if own.is_some_and(|own| own != facts.system) {
            warnings.push(format!("the cluster in {} is another system than the backup's", place.pgdata.display()));
        }
    }
    let salvage = facts.tail.missing_from(&facts.archive);
    let elsewhere = backup.source.data_directory != place.pgdata;
    let standby = standby::wanted(role, args, port, route.history().timeline, elsewhere, facts)?;
    let plan = Plan {
        role,
        pgdata: place.pgdata.clone(),
        replaces: facts.directory.cluster().is_some(),
        backup: backup.id,
        wal: wal_plan(&route, &backup, &wish.target, facts.system),
        target: wish.target,
        exclusive: args.moment.is_exclusive(),
        action: args.action(),
        timeline: route.history().timeline,
        wal_from: backup.span.start_lsn,
        wal_reaches: reaches,
        archive_reaches: route.reaches(&facts.archive, backup.span.start_lsn),
        wal_ends: None,
        grows: Vec::new(),
        segment_bytes: backup.source.segment_size.bytes(),
        arrival: None,
        salvage: salvage.iter().map(ArchiveName::to_string).collect(),
        tablespaces: tablespaces(&backup, role, args, place)?,
        pg_wal: facts.directory.cluster().and_then(|cluster| cluster.pg_wal_link.clone()),
        config_file: outside_config(&backup, role),
        config_from: args.config_from,
        config_differs: Vec::new(),
        port: (role == Role::Copy).then(|| port.unwrap_or(backup.source.port)),
        archives: role == Role::Production,
        starts: !args.no_start,
        bytes: backup.plain_bytes,
        major: backup.source.version_number / 10_000,
        decided: facts.now,
        demands: facts.origin.as_ref().map(|origin| Demands::of_control(&origin.control)).unwrap_or_default(),
        divergence: Divergence::default(),
        delta: args.delta,
        standby,
        warnings,
    };
    Ok(Decision { plan, backup, route, missing_fork })
}

/// Production only where the backup came from, or where the user says so; anywhere else a copy.
fn role(facts: &Facts, args: &RunArgs, place: &Place, backup: &BackupRecord) -> Result<Role, Advice> {
    let pgdata = place.pgdata.display();
    let recorded = &backup.source.data_directory;
    let same_path = *recorded == place.pgdata || facts.links_here.contains(recorded);
    let same_host = backup.source.host == facts.host;
    let role = match args.wanted_role() {
        Some(role) => role,
        None if same_path && same_host => Role::Production,
        None if same_path => {
            return Err(Advice::refused(format!(
                "{pgdata} is the data directory of the backup, but this host is {} and the backup's was {}",
                facts.host, backup.source.host
            ))
            .hint(
                "say which it is: --as production replaces that server, --as copy makes a copy that archives nothing",
            ));
        }
        None => Role::Copy,
    };
    let origin = &backup.source.data_directory;
    if !same_path && same_host && place.pgdata.starts_with(origin) {
        return Err(Advice::refused(format!("{pgdata} lies in the original's data directory {}", origin.display()))
            .hint("name a directory outside it with -D"));
    }
    if role == Role::Standby && same_host && !same_path && outside_config(backup, role).is_some() {
        return Err(Advice::refused(format!(
            "the configuration lies outside {}, and a standby beside it would run with the same",
            origin.display()
        ))
        .hint("make the standby on another host, or move the configuration into the data directory"));
    }
    match (&facts.directory, role) {
        (Directory::Foreign, _) => Err(Advice::refused(format!("{pgdata} is neither empty nor a data directory"))
            .hint("name the data directory, or a directory that does not exist yet, with -D")),
        (Directory::Cluster(_), Role::Copy) => Err(Advice::refused(format!("{pgdata} holds a cluster already"))
            .hint("a copy needs a directory that is empty or does not exist; --as production replaces this cluster")),
        (Directory::Cluster(cluster), Role::Production | Role::Standby) => match cluster.mounted_below.first() {
            // A link from the data directory is another thing: its target is set aside where it lies.
            Some(mounted) => Err(Advice::refused(format!(
                "something is mounted on {}, in the data directory: that cannot be set aside with it",
                mounted.display()
            ))
            .hint("mount it elsewhere and lead a symbolic link there, or recover to another directory with -D")),
            None => Ok(role),
        },
        _ => Ok(role),
    }
}

/// Proves that replay can go from the backup's start to the target, as far as positions tell; answers how far there is
/// WAL. A hole on the way to the end of all WAL is refused where the WAL is read: only then it is known what lies before it.
pub(crate) fn prove_wal(
    known: &Inventory,
    backup: &BackupRecord,
    route: &Route,
    target: &Target,
) -> Result<Lsn, Advice> {
    let span = &backup.span;
    let needed = match target {
        Target::Lsn(lsn) => Lsn(lsn.0.saturating_add(1)).max(span.stop_lsn),
        _ => span.stop_lsn,
    };
    let reaches = route.reaches(known, span.start_lsn);
    let Some(missing) = route.first_missing(known, span.start_lsn, needed) else {
        return Ok(reaches);
    };
    let within_backup = route.first_missing(known, span.start_lsn, span.stop_lsn).is_some();
    let message = if within_backup {
        format!("{missing} is in no repository, and without it {} does not become consistent", backup.id)
    } else {
        format!("{target} cannot be reached: {missing} is in no repository, the WAL ends at {reaches}")
    };
    Err(Advice::refused(message).hint("recover windows shows which moments can be reached"))
}

/// What a hole behind the WAL at hand means for a target that is not known by position.
fn hole_warning(known: &Inventory, route: &Route, reaches: Lsn) -> Option<String> {
    let missing = route.segment(reaches.0 / known.segment_size().bytes());
    route
        .continues_after(known, reaches)
        .then(|| format!("{missing} is missing from the archive: no moment behind {reaches} can be reached"))
}

/// The stretches of WAL that must be had, a timeline each.
pub(crate) fn wal_plan(route: &Route, backup: &BackupRecord, target: &Target, system: u64) -> WalPlan {
    let end = match target {
        Target::Lsn(lsn) => Some(Lsn(lsn.0.saturating_add(1))),
        Target::Immediate => Some(backup.span.stop_lsn),
        _ => None,
    };
    let size = backup.source.segment_size.bytes();
    let mut stretches = Vec::new();
    let mut from = backup.span.start_lsn;
    let history = route.history();
    let timelines = history.ancestors.iter().map(|entry| entry.timeline);
    for timeline in timelines.skip_while(|timeline| *timeline != backup.span.timeline) {
        // The segment of the fork is read from the child.
        let to = Lsn(history.switch_of(timeline).unwrap_or_default().0 / size * size);
        stretches.push(Stretch { timeline, from, to: Some(end.map_or(to, |end| end.min(to))) });
        from = to;
    }
    stretches.push(Stretch { timeline: history.timeline, from, to: end });
    WalPlan { system_identifier: system, stretches }
}

/// Where each tablespace goes. A copy never shares a place with its original.
fn tablespaces(
    backup: &BackupRecord,
    role: Role,
    args: &RunArgs,
    place: &Place,
) -> Result<Vec<(u32, PathBuf)>, Advice> {
    if let Some(below) = &args.tablespaces_below {
        let place = |oid: u32| (oid, below.join(oid.to_string()));
        return Ok(backup.tablespaces.iter().map(|tablespace| place(tablespace.oid)).collect());
    }
    let locations: Vec<&Path> = backup.tablespaces.iter().map(|tablespace| tablespace.location.as_path()).collect();
    for (old, _) in &args.tablespace_mapping {
        if !locations.contains(&old.as_path()) {
            return Err(Advice::usage(format!("the backup has no tablespace at {}", old.display()))
                .hint(format!("it has {}", list(&locations))));
        }
    }
    let mut mapped: Vec<(u32, PathBuf)> = Vec::new();
    for tablespace in &backup.tablespaces {
        let given = args.tablespace_mapping.iter().find(|(old, _)| *old == tablespace.location).map(|(_, new)| new);
        let new = match (given, role) {
            (Some(new), _) => new.clone(),
            (None, Role::Production | Role::Standby) => tablespace.location.clone(),
            (None, Role::Copy) => {
                return Err(Advice::usage(format!(
                    "a copy needs a place of its own for tablespace \"{}\"",
                    tablespace.name
                ))
                .hint(format!("say where with -T {}=NEW", tablespace.location.display())));
            }
        };
        let shared = role == Role::Copy && locations.contains(&new.as_path());
        let twice = mapped.iter().any(|(_, other)| *other == new);
        if shared || twice || new.starts_with(&place.pgdata) {
            return Err(Advice::refused(format!("tablespace \"{}\" cannot go to {}", tablespace.name, new.display()))
                .hint(
                    "each tablespace needs a directory of its own, outside the data directory and not the original's",
                ));
        }
        mapped.push((tablespace.oid, new));
    }
    Ok(mapped)
}

fn list(paths: &[&Path]) -> String {
    if paths.is_empty() {
        return "none".to_owned();
    }
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// The configuration file of a server whose configuration lies elsewhere, as Debian's does.
fn outside_config(backup: &BackupRecord, role: Role) -> Option<PathBuf> {
    let file = &backup.source.config_file;
    (role != Role::Copy && !file.starts_with(&backup.source.data_directory)).then(|| file.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;
    use common::pg::{SegmentSize, TimelineHistory, TimelineId, WalSegmentName};
    use common::repo::records::Tablespace;
    use common::repo::records::testing::backup;
    use common::restore::salvage::Tail;
    use rstest::rstest;

    use crate::cli::{Cli, Command};
    use crate::facts::OldCluster;

    const SEG: u64 = 16 << 20;

    /// A backup of `/data` on `db1`, complete at the end of segment 2, and these segments archived.
    fn facts(host: &str, directory: Directory, segments: &[u64]) -> Facts {
        let mut archive = Inventory::new(SegmentSize::DEFAULT);
        for number in segments {
            archive.add_segment(WalSegmentName::numbered(TimelineId(1), *number, SegmentSize::DEFAULT));
        }
        Facts {
            now: DateTime::UNIX_EPOCH,
            host: host.to_owned(),
            directory,
            links_here: Vec::new(),
            system: 7,
            backups: vec![backup(1, 3 * SEG, 100)],
            archive,
            origin: None,
            tail: Tail::default(),
            aim: None,
        }
    }

    fn old_cluster() -> Directory {
        Directory::Cluster(Box::new(OldCluster {
            control: None,
            server: None,
            pg_wal_link: None,
            tablespace_links: Vec::new(),
            mounted_below: Vec::new(),
        }))
    }

    fn decide_at(pgdata: &str, facts: &Facts, options: &[&str]) -> Result<Plan, Advice> {
        let line = ["recover", "run"].iter().chain(options);
        let Command::Run(args) = Cli::try_parse_from(line).unwrap().command else { panic!("not run") };
        decide(facts, &args, None, &Place { pgdata: pgdata.into() }).map(|decision| decision.plan)
    }

    #[rstest]
    #[case("/data", "db1", &[], Ok(Role::Production))]
    #[case("/other", "db1", &[], Ok(Role::Copy))]
    #[case("/other", "db2", &[], Ok(Role::Copy))]
    #[case("/data", "db2", &[], Err("this host is db2"))]
    #[case("/data", "db2", &["--as", "production"], Ok(Role::Production))]
    #[case("/data", "db2", &["--as", "copy"], Ok(Role::Copy))]
    #[case("/other", "db1", &["--as", "production"], Ok(Role::Production))]
    fn production_is_where_the_backup_came_from(
        #[case] pgdata: &str,
        #[case] host: &str,
        #[case] options: &[&str],
        #[case] expected: Result<Role, &str>,
    ) {
        match (decide_at(pgdata, &facts(host, Directory::Free, &[2, 3]), options), expected) {
            (Ok(plan), Ok(role)) => {
                assert_eq!(plan.role, role);
                assert_eq!(plan.archives, role == Role::Production);
                assert_eq!(plan.port.is_some(), role == Role::Copy);
            }
            (Err(refusal), Err(text)) => assert!(refusal.message.contains(text), "{refusal}"),
            (decided, expected) => panic!("{decided:?}, not {expected:?}"),
        }
    }

    #[test]
    fn a_configuration_is_kept_where_there_is_one() {
        let keep = ["--config-from", "preserved"];
        assert!(decide_at("/data", &facts("db1", Directory::Free, &[2, 3]), &keep).is_err());
        let plan = decide_at("/data", &facts("db1", old_cluster(), &[2, 3]), &keep).unwrap();
        assert_eq!(plan.config_from, ConfigFrom::Preserved);
    }

    #[test]
    fn nothing_foreign_is_replaced() {
        assert!(decide_at("/data", &facts("db1", Directory::Foreign, &[2, 3]), &[]).is_err());
        assert!(decide_at("/other", &facts("db1", old_cluster(), &[2, 3]), &[]).is_err());
        assert!(decide_at("/data", &facts("db1", old_cluster(), &[2, 3]), &[]).unwrap().replaces);
    }

    #[rstest]
    #[case(&[2, 3], &[], Ok(4 * SEG))]
    #[case(&[3], &[], Err("000000010000000000000002"))]
    #[case::refused_once_the_wal_is_read(&[2, 3, 5], &[], Ok(4 * SEG))]
    #[case(&[2, 3, 5], &["--target-immediate"], Ok(4 * SEG))]
    #[case(&[2, 3], &["--target-lsn", "0/3800000"], Ok(4 * SEG))]
    #[case(&[2, 3], &["--target-lsn", "0/4800000"], Err("000000010000000000000004"))]
    fn the_wal_is_proved(#[case] segments: &[u64], #[case] options: &[&str], #[case] expected: Result<u64, &str>) {
        match (decide_at("/data", &facts("db1", Directory::Free, segments), options), expected) {
            (Ok(plan), Ok(reaches)) => assert_eq!(plan.wal_reaches, Lsn(reaches)),
            (Err(refusal), Err(segment)) => assert!(refusal.message.contains(segment), "{refusal}"),
            (decided, expected) => panic!("{decided:?}, not {expected:?}"),
        }
    }

    #[test]
    fn a_hole_behind_an_unknown_target_is_told() {
        let plan = decide_at("/data", &facts("db1", Directory::Free, &[2, 3, 5]), &["--target-name", "x"]).unwrap();
        assert!(plan.warnings.iter().any(|warning| warning.contains("000000010000000000000004")), "{plan:?}");
    }

    #[rstest]
    #[case("/data", &[], Ok("/ts"))]
    #[case("/other", &[], Err("a place of its own"))]
    #[case("/other", &["-T", "/ts=/new"], Ok("/new"))]
    #[case("/other", &["-T", "/ts=/ts"], Err("cannot go to /ts"))]
    #[case("/other", &["-T", "/ts=/other/inside"], Err("cannot go to"))]
    #[case("/other", &["-T", "/wrong=/new"], Err("no tablespace at /wrong"))]
    fn a_copy_never_shares_a_tablespace(
        #[case] pgdata: &str,
        #[case] options: &[&str],
        #[case] expected: Result<&str, &str>,
    ) {
        let mut facts = facts("db1", Directory::Free, &[2, 3]);
        let tablespace = Tablespace { oid: 16_384, name: "fast".to_owned(), location: "/ts".into(), bytes: 1 };
        facts.backups.iter_mut().for_each(|backup| backup.tablespaces = vec![tablespace.clone()]);
        match (decide_at(pgdata, &facts, options), expected) {
            (Ok(plan), Ok(place)) => assert_eq!(plan.tablespaces, [(16_384, place.into())]),
            (Err(refusal), Err(text)) => assert!(refusal.message.contains(text), "{refusal}"),
            (decided, expected) => panic!("{decided:?}, not {expected:?}"),
        }
    }

    #[test]
    fn the_wal_plan_ends_where_the_replay_does() {
        let facts = facts("db1", Directory::Free, &[2, 3, 4]);
        let mut plan = decide_at("/data", &facts, &["--target-name", "x"]).unwrap();
        let segment = |number| WalSegmentName::numbered(TimelineId(1), number, SegmentSize::DEFAULT);
        assert!(plan.wal.needs(segment(4), SegmentSize::DEFAULT));
        plan.arrive(Arrival { at: Lsn(4 * SEG), last_before: None, first_after: None });
        assert!(plan.wal.needs(segment(3), SegmentSize::DEFAULT));
        assert!(!plan.wal.needs(segment(4), SegmentSize::DEFAULT));
    }
    /// Timeline 3 was asked for along timeline 2, to a moment before that one began: nothing of 1 behind it is needed.
    #[test]
    fn the_wal_plan_leaves_every_ancestor_at_the_earliest_fork() {
        let history = TimelineHistory::parse(TimelineId(3), b"1\t0/8000000\tx\n\n2\t0/4800000\ty\n").unwrap();
        let route = Route::new(history, SegmentSize::DEFAULT);
        let plan = wal_plan(&route, &backup(1, 2 * SEG, 100), &Target::Latest, 7);
        let needs = |timeline, number| {
            plan.needs(
                WalSegmentName::numbered(TimelineId(timeline), number, SegmentSize::DEFAULT),
                SegmentSize::DEFAULT,
            )
        };
        assert_eq!(
            [needs(1, 3), needs(1, 4), needs(2, 8), needs(3, 3), needs(3, 4)],
            [true, false, false, false, true]
        );
    }
}
