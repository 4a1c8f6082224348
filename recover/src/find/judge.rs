//! Decides what a committed transaction did to relations. Pure: its changes and the catalogs before it in, actions out.
//!
//! A commit record lists the files that go, and that is all it says: a dropped table, a truncated one and one that was
//! written anew by `VACUUM FULL`, `CLUSTER`, `ALTER TABLE` or `REINDEX` look the same there. What became of the relation
//! that a file belonged to tells them apart: its row in `pg_class` is deleted, or has another file. Where that is not
//! known, files that went and none that came are a drop; otherwise nobody knows.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap, HashSet};

use common::pg::catalog::{Catalogs, Relation};
use common::pg::wal_reader::RelFileLocator;

use super::finding::{Action, What};
use super::work::Work;

/// Actions that are kept of a commit.
pub(crate) const ACTIONS_MAX: usize = 50;

/// `FirstNormalObjectId`: what is below came with `initdb`.
const FIRST_NORMAL_OID: u32 = 16_384;
/// `DEFAULTTABLESPACE_OID`, `GLOBALTABLESPACE_OID`.
const DEFAULT_TABLESPACE: u32 = 1663;
const GLOBAL_TABLESPACE: u32 = 1664;

/// What is wanted, and what paths look like.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    /// Deleted rows are told from so many on.
    pub(crate) rows_min: u64,
    /// Whether relations that were only written anew are told, too.
    pub(crate) rewrites: bool,
    /// The folder of this server's version in a tablespace.
    pub(crate) version_directory: String,
}

/// What a transaction did that is told.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// The most drastic first.
    pub(crate) actions: Vec<Action>,
    /// How many more there were.
    pub(crate) left_out: u64,
    /// Indexes, TOAST tables and sequences beside them.
    pub(crate) companions: u64,
    /// Whether it only wrote relations anew, and is not told for that.
    pub(crate) is_rewrite: bool,
}

/// What a relation was before the transaction and is after it.
#[derive(Debug, Default)]
struct Fate<'a> {
    before: Option<&'a Relation>,
    after: Option<&'a Relation>,
    is_deleted: bool,
    /// Whether the transaction made it, as far as is known.
    is_new: bool,
}

/// The files that a commit removes, and how many more there were than are kept.
#[derive(Debug, Default)]
pub(crate) struct Gone {
    /// The files.
    pub(crate) files: Vec<RelFileLocator>,
    /// How many more.
    pub(crate) beyond: u64,
}

/// Decides. `catalogs` are those before this commit.
pub(crate) fn judge(work: &Work, gone: &Gone, catalogs: &Catalogs, rules: &Rules) -> Verdict {
    let judging = Judging { work, catalogs, rules, fates: fates(work) };
    let mut actions: Vec<Action> = work.dropped_databases.iter().map(|oid| judging.database(*oid)).collect();
    let (mut companions, mut seen) = (Vec::new(), HashSet::new());
    for file in gone.files.iter().filter(|file| !work.created.contains(file)) {
        let (owner, what) = judging.fate_of_file(*file);
        if let Some(owner) = &owner {
            seen.insert((file.database, owner.oid));
        }
        let action = judging.action(what, file.database, owner, Some(*file));
        let is_companion = owner.is_some_and(|owner| matches!(owner.kind, b'i' | b'I' | b't' | b'S'));
        if is_companion { companions.push((owner.map_or(0, |owner| owner.kind), action)) } else { actions.push(action) }
    }
    actions.extend(judging.without_files(&seen));
    // An index or a sequence that goes alone is told; that of a table goes without saying.
    let is_alone = actions.is_empty();
    let (alone, along): (Vec<_>, Vec<_>) = companions.into_iter().partition(|(kind, _)| is_alone && *kind != b't');
    actions.extend(alone.into_iter().map(|(_, action)| action));
    let had_some = !actions.is_empty();
    if !rules.rewrites {
        actions.retain(|action| action.what != What::Rewritten);
    }
    let is_rewrite = had_some && actions.is_empty();
    actions.extend(judging.deletions());
    actions.sort_by(order);
    let left_out = actions.len().saturating_sub(ACTIONS_MAX) as u64 + if actions.is_empty() { 0 } else { gone.beyond };
    actions.truncate(ACTIONS_MAX);
    Verdict { actions, left_out, companions: along.len() as u64, is_rewrite }
}

/// The most drastic first, then by the rows, then by name.
fn order(one: &Action, other: &Action) -> Ordering {
    let by_name = || (&one.schema, &one.name, &one.path).cmp(&(&other.schema, &other.name, &other.path));
    one.what.cmp(&other.what).then(other.rows.cmp(&one.rows)).then_with(by_name)
}

fn fates(work: &Work) -> HashMap<(u32, u32), Fate<'_>> {
    let mut fates: HashMap<(u32, u32), Fate<'_>> = HashMap::new();
    for (_, change) in &work.changes {
        let Some(oid) = change.before.as_ref().or(change.after.as_ref()).map(|relation| relation.oid) else { continue };
        let is_new = change.before.is_none() && !change.is_deleted;
        let fate = fates.entry((change.database, oid)).or_insert_with(|| Fate {
            before: change.before.as_ref(),
            is_new,
            ..Fate::default()
        });
        fate.after = change.after.as_ref();
        fate.is_deleted = change.is_deleted;
    }
    fates
}

struct Judging<'a> {
    work: &'a Work,
    catalogs: &'a Catalogs,
    rules: &'a Rules,
    fates: HashMap<(u32, u32), Fate<'a>>,
}

impl<'a> Judging<'a> {
    /// Whose file it was, and what became of that relation.
    fn fate_of_file(&self, file: RelFileLocator) -> (Option<&'a Relation>, What) {
        let had_it = |relation: &&Relation| relation.filenode == file.relnumber && !relation.is_transient(None);
        let in_fates = || {
            let here = self.fates.iter().filter(|((database, _), _)| *database == file.database);
            here.filter_map(|(_, fate)| fate.before).find(had_it)
        };
        let owner = self.catalogs.owner(file).or_else(in_fates);
        let fate = owner.and_then(|owner| self.fates.get(&(file.database, owner.oid)).map(|fate| (owner, fate)));
        let what = match fate {
            // Mapped catalogs have their files' numbers elsewhere, and nobody can drop any.
            _ if owner.is_some_and(|owner| owner.oid < FIRST_NORMAL_OID) => What::Rewritten,
            Some((_, fate)) if fate.is_deleted => What::Dropped,
            Some((owner, fate)) => self.truncated_or_rewritten(file, owner, fate),
            None if self.work.created.iter().any(|made| made.database == file.database) => What::DroppedOrRewritten,
            None => What::Dropped,
        };
        (owner, what)
    }

    fn truncated_or_rewritten(&self, file: RelFileLocator, owner: &Relation, fate: &Fate<'_>) -> What {
        if self.work.truncated.contains(&(file.database, owner.oid)) {
            return What::Truncated;
        }
        match fate.after {
            // Its file went, its row did not say so.
            None => What::DroppedOrRewritten,
            Some(after) if after.filenode == file.relnumber => What::DroppedOrRewritten,
            Some(after) if after.tablespace != fate.before.map_or(after.tablespace, |before| before.tablespace) => {
                What::Rewritten
            }
            Some(_) if matches!(owner.kind, b'i' | b'I') || self.makes_transient(file.database, owner.oid) => {
                What::Rewritten
            }
            Some(_) => What::Truncated,
        }
    }

    /// Whether the transaction made the table that a rewrite of this one fills.
    fn makes_transient(&self, database: u32, oid: u32) -> bool {
        let mut changes = self.work.changes.iter().filter(|(_, change)| change.database == database);
        changes.any(|(_, change)| {
            let versions = [change.before.as_ref(), change.after.as_ref()];
            versions.into_iter().flatten().any(|relation| relation.is_transient(Some(oid)))
        })
    }

    /// Relations without files that were dropped: views, partitioned and foreign tables.
    fn without_files(&self, seen: &HashSet<(u32, u32)>) -> Vec<Action> {
        let dropped = self.fates.iter().filter(|(key, fate)| fate.is_deleted && !fate.is_new && !seen.contains(key));
        dropped
            .filter_map(|((database, _), fate)| Some((*database, fate.before?)))
            .filter(|(_, relation)| matches!(relation.kind, b'v' | b'p' | b'f') && !relation.is_temporary())
            .map(|(database, relation)| self.action(What::Dropped, database, Some(relation), None))
            .collect()
    }

    /// Relations of which many rows were deleted.
    fn deletions(&self) -> Vec<Action> {
        let mut counts: BTreeMap<(u32, u32, u32), u64> = BTreeMap::new();
        for (file, count) in &self.work.deleted {
            let owner = self.catalogs.owner(*file);
            let is_ours = match owner {
                Some(owner) => owner.oid >= FIRST_NORMAL_OID && owner.kind != b't' && !owner.is_temporary(),
                None => file.relnumber >= FIRST_NORMAL_OID && file.database != 0,
            };
            if is_ours && !self.work.created.contains(file) {
                *counts.entry((file.tablespace, file.database, file.relnumber)).or_default() += count;
            }
        }
        let many = counts.values().sum::<u64>() >= self.rules.rows_min && !counts.is_empty();
        let actions = counts.into_iter().filter(|_| many).map(|((tablespace, database, relnumber), rows)| {
            let file = RelFileLocator { tablespace, database, relnumber };
            let owner = self.catalogs.owner(file);
            Action { rows: Some(rows), ..self.action(What::RowsDeleted, database, owner, Some(file)) }
        });
        actions.collect()
    }

    fn database(&self, oid: u32) -> Action {
        let mut action = self.action(What::DatabaseDropped, oid, None, None);
        action.path = None;
        action
    }

    fn action(&self, what: What, database: u32, relation: Option<&Relation>, file: Option<RelFileLocator>) -> Action {
        let schema = relation.and_then(|relation| self.catalogs.namespace(database, relation.namespace));
        Action {
            what,
            database_oid: database,
            database: self.catalogs.database(database).map(str::to_owned),
            schema: schema.map(str::to_owned),
            name: relation.map(|relation| relation.name.clone()),
            kind: relation.and_then(|relation| kind(relation.kind)),
            path: file.map(|file| self.path(file)),
            rows: None,
        }
    }

    fn path(&self, file: RelFileLocator) -> String {
        let RelFileLocator { tablespace, database, relnumber } = file;
        match tablespace {
            DEFAULT_TABLESPACE => format!("base/{database}/{relnumber}"),
            GLOBAL_TABLESPACE => format!("global/{relnumber}"),
            _ => format!("pg_tblspc/{tablespace}/{}/{database}/{relnumber}", self.rules.version_directory),
        }
    }
}

/// What PostgreSQL calls a relation of this `relkind`.
fn kind(relkind: u8) -> Option<&'static str> {
    Some(match relkind {
        b'r' => "table",
        b'p' => "partitioned table",
        b'm' => "materialized view",
        b'v' => "view",
        b'f' => "foreign table",
        b'i' => "index",
        b'I' => "partitioned index",
        b'S' => "sequence",
        b't' => "TOAST table",
        b'c' => "composite type",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::pg::Lsn;
    use common::pg::catalog::RelationChange;
    use proptest::prelude::*;
    use rstest::rstest;

    const DATABASE: u32 = 5;

    fn file(relnumber: u32) -> RelFileLocator {
        RelFileLocator { tablespace: DEFAULT_TABLESPACE, database: DATABASE, relnumber }
    }

    fn relation(oid: u32, name: &str, filenode: u32, kind: u8) -> Relation {
        Relation { oid, name: name.to_owned(), namespace: 2200, filenode, tablespace: 0, persistence: b'p', kind }
    }

    fn orders(filenode: u32) -> Relation {
        relation(16_385, "orders", filenode, b'r')
    }

    fn index(filenode: u32) -> Relation {
        relation(16_390, "orders_pkey", filenode, b'i')
    }

    fn changed(before: Option<Relation>, after: Option<Relation>) -> (Lsn, RelationChange) {
        let is_deleted = after.is_none();
        (Lsn(1), RelationChange { database: DATABASE, before, after, is_deleted })
    }

    fn rules() -> Rules {
        Rules { rows_min: 100, rewrites: false, version_directory: "PG_15_202209061".to_owned() }
    }

    fn verdict(changes: Vec<(Lsn, RelationChange)>, created: &[u32], gone: &[u32], rewrites: bool) -> Verdict {
        let work = Work { changes, created: created.iter().map(|number| file(*number)).collect(), ..Work::default() };
        let gone = Gone { files: gone.iter().map(|number| file(*number)).collect(), beyond: 0 };
        judge(&work, &gone, &Catalogs::new(15), &Rules { rewrites, ..rules() })
    }

    fn said(verdict: &Verdict) -> Vec<(What, Option<&str>)> {
        verdict.actions.iter().map(|action| (action.what, action.name.as_deref())).collect()
    }

    #[test]
    fn a_dropped_table_takes_its_index_along() {
        let changes = vec![changed(Some(index(16_391)), None), changed(Some(orders(16_386)), None)];
        let verdict = verdict(changes, &[], &[16_386, 16_391], false);
        assert_eq!((said(&verdict), verdict.companions), (vec![(What::Dropped, Some("orders"))], 1));
        assert_eq!(verdict.actions[0].path.as_deref(), Some("base/5/16386"));
    }

    #[test]
    fn a_truncated_table_has_a_new_file() {
        let changes = vec![changed(Some(orders(16_386)), Some(orders(16_400)))];
        let verdict = verdict(changes, &[16_400], &[16_386], false);
        assert_eq!(said(&verdict), [(What::Truncated, Some("orders"))]);
    }

    /// As `VACUUM FULL` does: another table is filled, the two swap their files, the other is dropped.
    #[test]
    fn a_table_written_anew_is_no_loss() {
        let transient = |filenode| relation(16_400, "pg_temp_16385", filenode, b'r');
        let changes = vec![
            changed(None, Some(transient(16_400))),
            changed(Some(orders(16_386)), Some(orders(16_400))),
            changed(Some(transient(16_400)), Some(transient(16_386))),
            changed(Some(transient(16_386)), None),
        ];
        let hidden = verdict(changes.clone(), &[16_400], &[16_386], false);
        assert_eq!((said(&hidden), hidden.is_rewrite), (vec![], true));
        assert_eq!(said(&verdict(changes, &[16_400], &[16_386], true)), [(What::Rewritten, Some("orders"))]);
    }

    #[rstest]
    #[case::another_tablespace(Relation { tablespace: 16_500, ..orders(16_400) }, What::Rewritten)]
    #[case::the_same_file(orders(16_386), What::DroppedOrRewritten)]
    fn what_becomes_of_a_file_is_in_its_relations_row(#[case] after: Relation, #[case] what: What) {
        let changes = vec![changed(Some(orders(16_386)), Some(after))];
        assert_eq!(said(&verdict(changes, &[16_400], &[16_386], true)), [(what, Some("orders"))]);
    }

    #[test]
    fn an_index_alone_is_told() {
        let dropped = verdict(vec![changed(Some(index(16_391)), None)], &[], &[16_391], false);
        assert_eq!(said(&dropped), [(What::Dropped, Some("orders_pkey"))]);
        let rebuilt = verdict(vec![changed(Some(index(16_391)), Some(index(16_400)))], &[16_400], &[16_391], false);
        assert_eq!((said(&rebuilt), rebuilt.is_rewrite), (vec![], true));
    }

    #[test]
    fn a_catalog_is_never_dropped() {
        let mut catalogs = Catalogs::new(15);
        let row = (
            Lsn(1),
            RelationChange {
                database: DATABASE,
                before: None,
                after: Some(relation(1259, "pg_class", 0, b'r')),
                is_deleted: false,
            },
        );
        catalogs.commit([&row.1]);
        catalogs.map(DATABASE, 1259, 16_386);
        let work = Work { created: [file(16_400)].into(), ..Work::default() };
        let gone = Gone { files: vec![file(16_386)], beyond: 0 };
        assert!(judge(&work, &gone, &catalogs, &rules()).is_rewrite);
    }

    /// Without any row of `pg_class`: files that go and none that come are a drop; otherwise nobody knows.
    #[rstest]
    #[case(&[], What::Dropped)]
    #[case(&[16_400], What::DroppedOrRewritten)]
    fn what_is_not_known_is_said_so(#[case] created: &[u32], #[case] what: What) {
        assert_eq!(said(&verdict(Vec::new(), created, &[16_386], false)), [(what, None)]);
    }

    #[test]
    fn what_a_transaction_made_itself_is_no_loss() {
        let changes = vec![changed(None, Some(orders(16_386))), changed(Some(orders(16_386)), None)];
        assert_eq!(verdict(changes, &[16_386], &[16_386], true), Verdict::default());
    }

    #[test]
    fn views_are_dropped_without_a_file_and_temporary_ones_unsaid() {
        let view = |persistence| Relation { persistence, ..relation(16_410, "totals", 0, b'v') };
        let verdict_of = |persistence| verdict(vec![changed(Some(view(persistence)), None)], &[], &[], false);
        assert_eq!(said(&verdict_of(b'p')), [(What::Dropped, Some("totals"))]);
        assert_eq!(said(&verdict_of(b't')), []);
    }

    #[test]
    fn truncate_says_itself_with_logical_decoding() {
        let transient = changed(None, Some(relation(16_400, "pg_temp_16385", 16_400, b'r')));
        let changes = vec![transient, changed(Some(orders(16_386)), Some(orders(16_400)))];
        let work = Work { changes, truncated: [(DATABASE, 16_385)].into(), ..Work::default() };
        let gone = Gone { files: vec![file(16_386)], beyond: 0 };
        assert_eq!(said(&judge(&work, &gone, &Catalogs::new(15), &rules())), [(What::Truncated, Some("orders"))]);
    }

    #[test]
    fn many_deleted_rows_are_told_but_those_of_catalogs() {
        let deleted = |rows| Work { deleted: [(file(16_386), rows), (file(1249), 900)].into(), ..Work::default() };
        let verdict_of = |rows| judge(&deleted(rows), &Gone::default(), &Catalogs::new(15), &rules());
        assert_eq!(verdict_of(99), Verdict::default());
        let verdict = verdict_of(100);
        assert_eq!(verdict.actions[0].rows, Some(100));
        assert_eq!((said(&verdict), verdict.is_rewrite), (vec![(What::RowsDeleted, None)], false));
    }

    #[test]
    fn there_is_an_end_to_what_is_told_of_a_commit() {
        let all: Vec<u32> = (20_000..20_060).collect();
        let gone = Gone { files: all.iter().map(|number| file(*number)).collect(), beyond: 7 };
        let verdict = judge(&Work::default(), &gone, &Catalogs::new(15), &rules());
        assert_eq!((verdict.actions.len(), verdict.left_out), (ACTIONS_MAX, 17));
    }

    proptest! {
        #[test]
        fn no_lost_file_goes_unsaid(created in proptest::collection::btree_set(16_384_u32..16_400, 0..8), gone in proptest::collection::btree_set(16_384_u32..16_400, 0..8)) {
            let lost = gone.difference(&created).count();
            let (created, gone) = (created.into_iter().collect::<Vec<_>>(), gone.into_iter().collect::<Vec<_>>());
            let verdict = verdict(Vec::new(), &created, &gone, false);
            prop_assert_eq!(verdict.actions.len(), lost);
            prop_assert!(verdict.actions.iter().all(|action| (action.what == What::Dropped) == created.is_empty()));
        }
    }
}
