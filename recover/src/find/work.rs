//! What transactions have done so far, those that are still open: nothing of it counts before the commit.

use std::collections::{HashMap, HashSet};

use common::pg::Lsn;
use common::pg::catalog::RelationChange;
use common::pg::wal_reader::RelFileLocator;

/// Open transactions, and subtransactions, that are kept in mind; the one that is longest without a new change is
/// forgotten for the next. Servers that crashed leave some that never end.
pub(crate) const TRANSACTIONS_MAX: usize = 100_000;
/// Changes that are kept in mind of all of them together, but for numbers of rows in relations that are known already.
pub(crate) const ITEMS_MAX: usize = 500_000;

/// What one transaction has done.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Work {
    /// Changes of `pg_class`, and where each is told.
    pub(crate) changes: Vec<(Lsn, RelationChange)>,
    /// Files that it made.
    pub(crate) created: HashSet<RelFileLocator>,
    /// How many rows it deleted.
    pub(crate) deleted: HashMap<RelFileLocator, u64>,
    /// The tables of `TRUNCATE`, by database and object id; told with `wal_level = logical` alone.
    pub(crate) truncated: HashSet<(u32, u32)>,
    /// Databases whose folders it removed.
    pub(crate) dropped_databases: HashSet<u32>,
    /// Where it began to remove a database.
    pub(crate) begins: Option<Lsn>,
    /// Whether there was more than could be kept in mind.
    pub(crate) is_partial: bool,
    /// Where its last change is told.
    pub(crate) last: Lsn,
}

impl Work {
    fn items(&self) -> usize {
        self.changes.len()
            + self.created.len()
            + self.deleted.len()
            + self.truncated.len()
            + self.dropped_databases.len()
    }

    /// Adds what a subtransaction did.
    pub(crate) fn add(&mut self, other: Self) {
        self.changes.extend(other.changes);
        self.changes.sort_by_key(|(lsn, _)| *lsn);
        self.created.extend(other.created);
        for (relation, count) in other.deleted {
            *self.deleted.entry(relation).or_default() += count;
        }
        self.truncated.extend(other.truncated);
        self.dropped_databases.extend(other.dropped_databases);
        self.begins = [self.begins, other.begins].into_iter().flatten().min();
        self.is_partial |= other.is_partial;
    }
}

/// All open transactions.
#[derive(Debug, Default)]
pub(crate) struct Open {
    works: HashMap<u32, Work>,
    items: usize,
    /// How many were forgotten.
    pub(crate) forgotten: u64,
}

impl Open {
    /// Notes something that this transaction did; what belongs to none is passed over.
    pub(crate) fn note(&mut self, xid: u32, at: Lsn, change: impl FnOnce(&mut Work)) {
        if xid == 0 {
            return;
        }
        if self.works.len() >= TRANSACTIONS_MAX && !self.works.contains_key(&xid) {
            self.forget_the_oldest();
        }
        let work = self.works.entry(xid).or_default();
        let before = work.items();
        work.last = at;
        if self.items >= ITEMS_MAX {
            work.is_partial = true;
            return;
        }
        change(work);
        self.items = self.items + work.items() - before;
    }

    /// One more row was deleted: the commonest of all changes.
    pub(crate) fn count_row(&mut self, xid: u32, at: Lsn, relation: RelFileLocator) {
        match self.works.get_mut(&xid).and_then(|work| work.deleted.get_mut(&relation)) {
            Some(count) => *count += 1,
            None => self.note(xid, at, |work| {
                work.deleted.insert(relation, 1);
            }),
        }
    }

    /// The transaction has ended; what it did.
    pub(crate) fn take(&mut self, xid: u32) -> Option<Work> {
        let work = self.works.remove(&xid)?;
        self.items -= work.items().min(self.items);
        Some(work)
    }

    fn forget_the_oldest(&mut self) {
        // A tenth at once, so that it is not sorted for each.
        let mut ages: Vec<(Lsn, u32)> = self.works.iter().map(|(xid, work)| (work.last, *xid)).collect();
        ages.sort_unstable();
        for (_, xid) in ages.into_iter().take(TRANSACTIONS_MAX / 10) {
            drop(self.take(xid));
            self.forgotten += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn relation(relnumber: u32) -> RelFileLocator {
        RelFileLocator { tablespace: 1663, database: 5, relnumber }
    }

    #[test]
    fn what_never_ends_is_forgotten_some_day() {
        let mut open = Open::default();
        for xid in 1..=u32::try_from(TRANSACTIONS_MAX).unwrap() + 1 {
            open.count_row(xid, Lsn(u64::from(xid)), relation(1));
        }
        assert_eq!((open.take(1), open.forgotten), (None, TRANSACTIONS_MAX as u64 / 10));
        assert!(open.take(u32::try_from(TRANSACTIONS_MAX).unwrap() + 1).is_some());
    }

    #[test]
    fn there_is_an_end_to_what_is_kept_in_mind() {
        let mut open = Open::default();
        for number in 0..=u32::try_from(ITEMS_MAX).unwrap() {
            open.count_row(7, Lsn(1), relation(number));
        }
        let work = open.take(7).unwrap();
        assert_eq!((work.deleted.len(), work.is_partial), (ITEMS_MAX, true));
        open.count_row(8, Lsn(2), relation(1));
        assert!(!open.take(8).unwrap().is_partial, "there is room again");
    }

    proptest! {
        #[test]
        fn rows_are_counted_whoever_deletes_them(steps in proptest::collection::vec((1_u32..5, 1_u32..4), 0..60)) {
            let mut open = Open::default();
            for (xid, number) in &steps {
                open.count_row(*xid, Lsn(1), relation(*number));
            }
            let mut all = Work::default();
            for xid in 1..5 {
                all.add(open.take(xid).unwrap_or_default());
            }
            for number in 1..4 {
                let expected = steps.iter().filter(|(_, of)| *of == number).count() as u64;
                prop_assert_eq!(all.deleted.get(&relation(number)).copied().unwrap_or(0), expected);
            }
            prop_assert_eq!(open.items, 0);
        }
    }
}
