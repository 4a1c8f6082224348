//! The catalogs of all databases as the log goes by.
//!
//! A row is known by its place, which is its own until nobody can see it any more. The log repeats a changed row, or has the
//! whole page it lies on; a deleted one is named by its place alone. So what was on a page, once seen, tells which relation
//! a deletion is about, and nothing of pruning, freezing or hints must be followed. What was never seen stays unknown, and
//! the caller is told so.

use std::collections::HashMap;

use super::rows::{Catalog, Relation, is_invalid_database, named};
use crate::pg::heap;
use crate::pg::wal_reader::{HeapChange, NewRow, Operation, Place, RelFileLocator};

/// Rows that are kept, of all databases; some 300 bytes each. What is beyond has no name.
const ROWS_MAX: usize = 200_000;
/// Bytes that are kept of a row: all columns that are read.
const ROW_BYTES_KEPT: usize = 224;

/// A change of a catalog, as far as its rows are known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CatalogChange {
    /// Of a row of `pg_class`.
    Relation(RelationChange),
    /// The row of this database is deleted; `None` for one that was never seen.
    DatabaseDeleted(Option<u32>),
    /// Nobody can connect to this database any more: it is about to be dropped. Not undone by a rollback.
    DatabaseInvalidated(u32),
}

/// A change of a row of `pg_class`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelationChange {
    /// The database.
    pub database: u32,
    /// What it said before: `None` for a new row, and for one that was never seen.
    pub before: Option<Relation>,
    /// What it says now: `None` for a deleted row, and for one that cannot be read.
    pub after: Option<Relation>,
    /// Whether it is deleted.
    pub is_deleted: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct RowKey {
    database: u32,
    relnumber: u32,
    block: u32,
    offset: u16,
}

impl RowKey {
    fn of(place: &Place) -> Self {
        let RelFileLocator { database, relnumber, .. } = place.relation;
        Self { database, relnumber, block: place.block, offset: place.offset }
    }
}

/// The beginning of a row, and its whole length.
#[derive(Debug, Clone)]
struct Stored {
    length: usize,
    head: Box<[u8]>,
}

impl Stored {
    fn new(data: &[u8]) -> Self {
        Self { length: data.len(), head: data.get(..ROW_BYTES_KEPT).unwrap_or(data).into() }
    }

    /// The row that the log describes by this one.
    fn updated(&self, row: &NewRow<'_>) -> Option<Self> {
        let length = row.prefix.checked_add(row.middle.len())?.checked_add(row.suffix)?;
        let suffix_begins = row.prefix + row.middle.len();
        let byte = |at: usize| {
            if at < row.prefix {
                self.head.get(at).copied()
            } else if at < suffix_begins {
                row.middle.get(at - row.prefix).copied()
            } else {
                self.head.get(self.length.checked_sub(row.suffix)? + (at - suffix_begins)).copied()
            }
        };
        let head = (0..length.min(ROW_BYTES_KEPT)).map(byte).collect::<Option<_>>()?;
        Some(Self { length, head })
    }
}

/// A relation, and whether nobody is known to have changed it since.
#[derive(Debug, Clone)]
struct Known {
    relation: Relation,
    is_newest: bool,
}

/// What is known of the catalogs of one cluster.
#[derive(Debug)]
pub struct Catalogs {
    major: u32,
    /// The files of the catalogs, by database and number.
    files: HashMap<(u32, u32), Catalog>,
    rows: HashMap<RowKey, Stored>,
    /// By database and object id, as of the last commit.
    relations: HashMap<(u32, u32), Known>,
    /// Whose file it is, by database and number.
    owners: HashMap<(u32, u32), u32>,
    namespaces: HashMap<(u32, u32), String>,
    databases: HashMap<u32, String>,
    is_full: bool,
}

impl Catalogs {
    /// Of a cluster of this major version, about which nothing is known but where its shared catalogs lie as a rule.
    pub fn new(major: u32) -> Self {
        let database = Catalog::Database;
        Self {
            major,
            files: HashMap::from([((0, database.oid()), database)]),
            rows: HashMap::new(),
            relations: HashMap::new(),
            owners: HashMap::new(),
            namespaces: HashMap::new(),
            databases: HashMap::new(),
            is_full: false,
        }
    }

    /// Whether there was more than there is room for: then some relations have no names.
    pub fn is_full(&self) -> bool {
        self.is_full
    }

    /// Notes where a mapped catalog of a database lies from now on (`pg_filenode.map`; database 0 for the shared ones).
    pub fn map(&mut self, database: u32, catalog: u32, relnumber: u32) {
        self.owners.insert((database, relnumber), catalog);
        let found = if database == 0 { Catalog::Database } else { Catalog::Class };
        if found.oid() != catalog {
            return;
        }
        self.files.retain(|(of, _), known| *of != database || *known != found);
        self.files.insert((database, relnumber), found);
        if database != 0 && self.file_of(database, Catalog::Namespace).is_none() {
            // A new database is a copy of another, whose schemas may have moved; its own pg_class tells only later.
            let elsewhere =
                self.files.iter().filter(|(_, known)| **known == Catalog::Namespace).map(|((_, it), _)| *it);
            let numbers: Vec<u32> = elsewhere.chain([Catalog::Namespace.oid()]).collect();
            self.files.extend(numbers.into_iter().map(|relnumber| ((database, relnumber), Catalog::Namespace)));
        }
    }

    /// The number of the files of a database's catalog, as far as is known.
    pub fn file_of(&self, database: u32, catalog: Catalog) -> Option<u32> {
        let found = self.files.iter().find(|((of, _), known)| *of == database && **known == catalog);
        found.map(|((_, relnumber), _)| *relnumber)
    }

    /// Replay copied the whole folder of one database to another's: its catalogs say the same.
    pub fn copy_database(&mut self, from: u32, to: u32) {
        let copied: Vec<_> =
            self.files.iter().filter(|((of, _), _)| *of == from).map(|(key, it)| (key.1, *it)).collect();
        self.files.extend(copied.into_iter().map(|(relnumber, catalog)| ((to, relnumber), catalog)));
        copy_entries(&mut self.relations, from, to);
        copy_entries(&mut self.owners, from, to);
        copy_entries(&mut self.namespaces, from, to);
        let rows: Vec<_> =
            self.rows.iter().filter(|(key, _)| key.database == from).map(|(key, row)| (*key, row.clone())).collect();
        for (key, row) in rows {
            self.keep(RowKey { database: to, ..key }, row);
        }
    }

    /// Takes in a page of a catalog, such as a backup has it or the log.
    pub fn load_page(&mut self, database: u32, relnumber: u32, block: u32, page: &[u8]) {
        let Some(catalog) = self.files.get(&(database, relnumber)).copied() else { return };
        for row in heap::rows(page) {
            self.keep(RowKey { database, relnumber, block, offset: row.offset }, Stored::new(row.data));
            if !row.is_rolled_back {
                self.learn(catalog, database, row.data, row.is_newest);
            }
        }
    }

    /// Takes in a change that the log tells; answers what it means, which for `pg_class` counts from the commit on:
    /// [`Catalogs::commit`].
    pub fn apply(&mut self, change: &HeapChange<'_>) -> Option<CatalogChange> {
        for page in change.references.iter().filter(|page| page.is_main_fork) {
            let RelFileLocator { database, relnumber, .. } = page.relation;
            if self.files.contains_key(&(database, relnumber))
                && let Some(bytes) = page.image.and_then(|image| image.page())
            {
                self.load_page(database, relnumber, page.block, &bytes);
            }
        }
        match change.operation {
            Operation::Insert(place, data) => {
                let catalog = self.catalog_at(&place)?;
                if let Some(data) = data {
                    self.keep(RowKey::of(&place), Stored::new(data));
                }
                self.changed(catalog, &place, None, Some(place))
            }
            Operation::Update { old, new, row } => {
                let catalog = self.catalog_at(&old)?;
                let stored = self.rows.get(&RowKey::of(&old)).cloned();
                if let Some(row) = row {
                    let plain = (row.prefix == 0 && row.suffix == 0).then(|| Stored::new(row.middle));
                    let updated = plain.or_else(|| stored.as_ref()?.updated(&row));
                    match updated {
                        Some(updated) => self.keep(RowKey::of(&new), updated),
                        None => drop(self.rows.remove(&RowKey::of(&new))),
                    }
                }
                self.changed(catalog, &old, Some(old), Some(new))
            }
            Operation::Delete { place, .. } => {
                let catalog = self.catalog_at(&place)?;
                self.changed(catalog, &place, Some(place), None)
            }
            Operation::InPlace(place, data) => {
                let catalog = self.catalog_at(&place)?;
                if let Some(data) = data {
                    self.keep(RowKey::of(&place), Stored::new(data));
                }
                let row = self.rows.get(&RowKey::of(&place)).filter(|_| catalog == Catalog::Database)?;
                let invalid = is_invalid_database(&row.head, self.major);
                let (oid, _) = named(&row.head).filter(|_| invalid)?;
                Some(CatalogChange::DatabaseInvalidated(oid))
            }
            Operation::Other => None,
        }
    }

    /// The changes of a transaction count from here on.
    pub fn commit<'a>(&mut self, changes: impl IntoIterator<Item = &'a RelationChange>) {
        for change in changes {
            if let Some(after) = change.after.as_ref().filter(|after| !after.is_transient(None)) {
                self.note(change.database, after.clone(), true);
                self.owners.insert((change.database, after.filenode), after.oid);
            }
        }
    }

    /// The relation that these files belong to.
    pub fn owner(&self, file: RelFileLocator) -> Option<&Relation> {
        let oid = self.owners.get(&(file.database, file.relnumber))?;
        let relation = self.relation(file.database, *oid)?;
        (relation.tablespace == 0 || relation.tablespace == file.tablespace).then_some(relation)
    }

    /// The relation of this object id; also one that was dropped since.
    pub fn relation(&self, database: u32, oid: u32) -> Option<&Relation> {
        self.relations.get(&(database, oid)).map(|known| &known.relation)
    }

    /// The name of a schema.
    pub fn namespace(&self, database: u32, oid: u32) -> Option<&str> {
        self.namespaces.get(&(database, oid)).map(String::as_str)
    }

    /// The name of a database; also of one that was dropped since.
    pub fn database(&self, oid: u32) -> Option<&str> {
        self.databases.get(&oid).map(String::as_str)
    }

    fn catalog_at(&self, place: &Place) -> Option<Catalog> {
        self.files.get(&(place.relation.database, place.relation.relnumber)).copied()
    }

    fn keep(&mut self, key: RowKey, row: Stored) {
        if self.rows.len() < ROWS_MAX || self.rows.contains_key(&key) {
            self.rows.insert(key, row);
        } else {
            self.is_full = true;
        }
    }

    fn changed(
        &mut self,
        catalog: Catalog,
        at: &Place,
        old: Option<Place>,
        new: Option<Place>,
    ) -> Option<CatalogChange> {
        let database = at.relation.database;
        let head = |place: Place| self.rows.get(&RowKey::of(&place)).map(|row| row.head.clone());
        let (before, after) = (old.and_then(head), new.and_then(head));
        if catalog == Catalog::Class {
            let relation = |head: Option<Box<[u8]>>| Relation::parse(&head?, self.major);
            let (before, after) = (relation(before), relation(after));
            let is_deleted = new.is_none();
            return Some(CatalogChange::Relation(RelationChange { database, before, after, is_deleted }));
        }
        if let Some(after) = after {
            // A name that is rolled back stays; the row's own keeps its number.
            self.learn(catalog, database, &after, true);
        }
        let is_deletion = catalog == Catalog::Database && new.is_none();
        is_deletion.then(|| CatalogChange::DatabaseDeleted(before.and_then(|head| named(&head)).map(|(oid, _)| oid)))
    }

    /// Learns names from a row that may be an old one.
    fn learn(&mut self, catalog: Catalog, database: u32, data: &[u8], is_newest: bool) {
        match catalog {
            Catalog::Class => {
                let relation = Relation::parse(data, self.major);
                if let Some(relation) = relation.filter(|relation| !relation.is_transient(None)) {
                    self.owners.entry((database, relation.filenode)).or_insert(relation.oid);
                    let is_known = self.relations.get(&(database, relation.oid)).is_some_and(|known| known.is_newest);
                    if !is_known {
                        self.note(database, relation, is_newest);
                    }
                }
            }
            Catalog::Namespace => {
                if let Some((oid, name)) = named(data) {
                    let known = self.namespaces.entry((database, oid)).or_insert_with(|| name.clone());
                    if is_newest {
                        *known = name;
                    }
                }
            }
            Catalog::Database => {
                if let Some((oid, name)) = named(data) {
                    let known = self.databases.entry(oid).or_insert_with(|| name.clone());
                    if is_newest {
                        *known = name;
                    }
                }
            }
        }
    }

    /// Notes what a relation is.
    fn note(&mut self, database: u32, relation: Relation, is_newest: bool) {
        if relation.oid == Catalog::Namespace.oid() && is_newest {
            self.files.retain(|(of, _), known| *of != database || *known != Catalog::Namespace);
            self.files.insert((database, relation.filenode), Catalog::Namespace);
        }
        if self.relations.len() >= ROWS_MAX {
            self.is_full = true;
            return;
        }
        self.relations.insert((database, relation.oid), Known { relation, is_newest });
    }
}

/// Repeats what is known of one database for another.
fn copy_entries<V: Clone>(map: &mut HashMap<(u32, u32), V>, from: u32, to: u32) {
    let copied: Vec<_> =
        map.iter().filter(|((of, _), _)| *of == from).map(|((_, key), it)| (*key, it.clone())).collect();
    map.extend(copied.into_iter().map(|(key, value)| ((to, key), value)));
}

#[cfg(test)]
mod tests {
    use super::super::rows::testing::relation;
    use super::*;
    use crate::pg::heap::testing::page;
    use proptest::prelude::*;

    const DATABASE: u32 = 5;
    const NEWEST: u16 = 0x0800;

    fn file(relnumber: u32) -> RelFileLocator {
        RelFileLocator { tablespace: 1663, database: DATABASE, relnumber }
    }

    fn place(offset: u16) -> Place {
        Place { relation: file(1259), block: 0, offset }
    }

    fn apply(catalogs: &mut Catalogs, operation: Operation<'_>) -> RelationChange {
        match catalogs.apply(&HeapChange { operation, references: Vec::new() }) {
            Some(CatalogChange::Relation(change)) => change,
            other => panic!("{other:?}"),
        }
    }

    /// A database with two tables, one of them in an old version, too.
    fn catalogs() -> Catalogs {
        let mut catalogs = Catalogs::new(15);
        catalogs.map(DATABASE, 1259, 1259);
        let rows = [
            relation(16_385, "old", 16_385, b'r'),
            relation(16_385, "orders", 16_385, b'r'),
            relation(16_390, "kept", 16_390, b'r'),
        ];
        catalogs.load_page(DATABASE, 1259, 0, &page(&[(0, &rows[0]), (NEWEST, &rows[1]), (NEWEST, &rows[2])]));
        catalogs
    }

    #[test]
    fn files_have_owners_with_their_newest_names() {
        let catalogs = catalogs();
        let name = |relnumber| catalogs.owner(file(relnumber)).map(|relation| relation.name.as_str());
        assert_eq!((name(16_385), name(16_390), name(1)), (Some("orders"), Some("kept"), None));
        assert_eq!(catalogs.owner(RelFileLocator { database: 6, ..file(16_385) }), None);
    }

    #[test]
    fn a_deletion_is_about_the_row_at_its_place() {
        let mut catalogs = catalogs();
        let change = apply(&mut catalogs, Operation::Delete { place: place(2), is_loss: true });
        assert!(change.is_deleted && change.after.is_none());
        assert_eq!(change.before.map(|relation| relation.oid), Some(16_385));
        let unknown = apply(&mut catalogs, Operation::Delete { place: place(9), is_loss: true });
        assert_eq!((unknown.before, unknown.is_deleted), (None, true));
    }

    /// The log repeats what lies between the first and last bytes that are the same.
    #[test]
    fn a_new_version_counts_from_the_commit_on() {
        let mut catalogs = catalogs();
        let middle = 16_400_u32.to_ne_bytes();
        let row = Some(NewRow { prefix: 88, middle: &middle, suffix: 52 });
        let change = apply(&mut catalogs, Operation::Update { old: place(2), new: place(4), row });
        let filenode = |relation: &Option<Relation>| relation.as_ref().map(|relation| relation.filenode);
        assert_eq!((filenode(&change.before), filenode(&change.after)), (Some(16_385), Some(16_400)));
        assert_eq!(catalogs.owner(file(16_400)), None);
        catalogs.commit([&change]);
        for relnumber in [16_385, 16_400] {
            assert_eq!(catalogs.owner(file(relnumber)).map(|relation| relation.filenode), Some(16_400));
        }
        let row = Some(NewRow { prefix: 88, middle: &middle, suffix: 52 });
        let unknown = apply(&mut catalogs, Operation::Update { old: place(20), new: place(21), row });
        assert_eq!((unknown.before, unknown.after, unknown.is_deleted), (None, None, false));
    }

    #[test]
    fn a_table_that_a_rewrite_fills_owns_nothing() {
        let mut catalogs = catalogs();
        let row = relation(16_395, "pg_temp_16385", 16_395, b'r');
        let change = apply(&mut catalogs, Operation::Insert(place(5), Some(&row)));
        catalogs.commit([&change]);
        assert_eq!(catalogs.owner(file(16_395)), None);
    }

    #[test]
    fn a_copied_database_has_the_same_relations() {
        let mut catalogs = catalogs();
        catalogs.copy_database(DATABASE, 6);
        let there = RelFileLocator { database: 6, ..file(16_385) };
        assert_eq!(catalogs.owner(there).map(|relation| relation.oid), Some(16_385));
        let change = apply(
            &mut catalogs,
            Operation::Delete {
                place: Place { relation: RelFileLocator { database: 6, ..file(1259) }, ..place(2) },
                is_loss: true,
            },
        );
        assert_eq!((change.database, change.before.map(|relation| relation.oid)), (6, Some(16_385)));
    }

    #[test]
    fn schemas_and_databases_have_names() {
        let mut catalogs = catalogs();
        assert_eq!(catalogs.file_of(DATABASE, Catalog::Namespace), Some(2615));
        catalogs.load_page(DATABASE, 2615, 0, &page(&[(NEWEST, &relation(2200, "public", 0, 0))]));
        let moved = relation(2615, "pg_namespace", 16_420, b'r');
        catalogs.load_page(DATABASE, 1259, 1, &page(&[(NEWEST, &moved)]));
        assert_eq!(catalogs.file_of(DATABASE, Catalog::Namespace), Some(16_420));
        catalogs.load_page(DATABASE, 16_420, 0, &page(&[(NEWEST, &relation(16_500, "sales", 0, 0))]));
        assert_eq!(
            (catalogs.namespace(DATABASE, 2200), catalogs.namespace(DATABASE, 16_500)),
            (Some("public"), Some("sales"))
        );
        let mut row = relation(16_384, "shop", 0, 0);
        row[80..84].copy_from_slice(&(-2_i32).to_ne_bytes());
        let at =
            Place { relation: RelFileLocator { tablespace: 1664, database: 0, relnumber: 1262 }, block: 0, offset: 1 };
        let insert = HeapChange { operation: Operation::Insert(at, Some(&row)), references: Vec::new() };
        assert_eq!(catalogs.apply(&insert), None);
        assert_eq!(catalogs.database(16_384), Some("shop"));
        let in_place = HeapChange { operation: Operation::InPlace(at, Some(&row)), references: Vec::new() };
        assert_eq!(catalogs.apply(&in_place), Some(CatalogChange::DatabaseInvalidated(16_384)));
        let delete = HeapChange { operation: Operation::Delete { place: at, is_loss: true }, references: Vec::new() };
        assert_eq!(catalogs.apply(&delete), Some(CatalogChange::DatabaseDeleted(Some(16_384))));
    }

    #[test]
    fn a_catalog_that_is_written_anew_lies_elsewhere() {
        let mut catalogs = catalogs();
        catalogs.map(DATABASE, 1259, 16_430);
        let change =
            HeapChange { operation: Operation::Delete { place: place(2), is_loss: true }, references: Vec::new() };
        assert_eq!(catalogs.apply(&change), None, "the old file is none any more");
        assert_eq!(catalogs.owner(file(16_385)).map(|relation| relation.oid), Some(16_385), "names stay");
    }

    proptest! {
        #[test]
        fn an_updated_row_is_the_whole_row(old in proptest::collection::vec(any::<u8>(), 100..400), new in proptest::collection::vec(any::<u8>(), 0..50), prefix in 0_usize..100, suffix in 0_usize..100) {
            let (prefix, suffix) = (prefix.min(old.len() / 2), suffix.min(old.len() / 2));
            let expected = [&old[..prefix], &new, &old[old.len() - suffix..]].concat();
            let updated = Stored::new(&old).updated(&NewRow { prefix, middle: &new, suffix });
            match updated {
                Some(updated) => {
                    prop_assert_eq!(updated.length, expected.len());
                    prop_assert_eq!(&updated.head[..], &expected[..expected.len().min(ROW_BYTES_KEPT)]);
                }
                // What it would need was not kept.
                None => prop_assert!(old.len() > ROW_BYTES_KEPT),
            }
        }
    }
}
