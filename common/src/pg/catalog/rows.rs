//! The fixed columns of three catalogs, PostgreSQL 14 to 18 (`src/include/catalog/pg_class.h`, `pg_namespace.h`,
//! `pg_database.h`). They come first in their rows, and none of them is ever null.

use crate::pg::bytes::{i32_at, u8_at, u32_at};

/// `NAMEDATALEN`.
const NAME_BYTES: usize = 64;
/// Where the name stands in all three.
const NAME_OFFSET: usize = 4;
/// `relnamespace`, `relfilenode`, `reltablespace`.
const NAMESPACE_OFFSET: usize = 68;
const FILENODE_OFFSET: usize = 88;
const TABLESPACE_OFFSET: usize = 92;
/// `relpersistence` until 17; 18 has a column more before it. `relkind` follows.
const PERSISTENCE_OFFSET: usize = 114;
const PERSISTENCE_OFFSET_18: usize = 118;
/// `datconnlimit` in 14, and since, when the two names before it became texts at the row's end.
const CONNECTION_LIMIT_OFFSET_14: usize = 208;
const CONNECTION_LIMIT_OFFSET: usize = 80;
/// `DATCONNLIMIT_INVALID_DB`.
const INVALID_DATABASE: i32 = -2;

/// A catalog that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Catalog {
    /// `pg_class`.
    Class,
    /// `pg_namespace`.
    Namespace,
    /// `pg_database`.
    Database,
}

impl Catalog {
    /// Its object id, which is also the number of its files until it is written anew.
    pub fn oid(self) -> u32 {
        match self {
            Self::Class => 1259,
            Self::Namespace => 2615,
            Self::Database => 1262,
        }
    }
}

/// A row of `pg_class`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation {
    /// `oid`.
    pub oid: u32,
    /// `relname`; bytes that are no UTF-8 are replaced.
    pub name: String,
    /// `relnamespace`.
    pub namespace: u32,
    /// `relfilenode`: the number in its files' names; 0 without files and for mapped catalogs.
    pub filenode: u32,
    /// `reltablespace`; 0 for the database's own.
    pub tablespace: u32,
    /// `relpersistence`: `p`, `u` or `t`.
    pub persistence: u8,
    /// `relkind`.
    pub kind: u8,
}

impl Relation {
    /// The row with these columns, of this major version; `None` when they are too short.
    pub fn parse(data: &[u8], major: u32) -> Option<Self> {
        let persistence = if major < 18 { PERSISTENCE_OFFSET } else { PERSISTENCE_OFFSET_18 };
        let (oid, name) = named(data)?;
        Some(Self {
            oid,
            name,
            namespace: u32_at(data, NAMESPACE_OFFSET)?,
            filenode: u32_at(data, FILENODE_OFFSET)?,
            tablespace: u32_at(data, TABLESPACE_OFFSET)?,
            persistence: u8_at(data, persistence)?,
            kind: u8_at(data, persistence + 1)?,
        })
    }

    /// Whether it is a table that a rewrite fills and then swaps with the one of this object id (`make_new_heap` in
    /// `src/backend/commands/cluster.c`), or any such table.
    pub fn is_transient(&self, of: Option<u32>) -> bool {
        let number = self.name.strip_prefix("pg_temp_").and_then(|digits| digits.parse::<u32>().ok());
        number.is_some_and(|number| of.is_none_or(|oid| oid == number))
    }

    /// Whether its sessions alone ever see it.
    pub fn is_temporary(&self) -> bool {
        self.persistence == b't'
    }
}

/// Object id and name, with which the rows of all three begin.
pub(super) fn named(data: &[u8]) -> Option<(u32, String)> {
    let name = data.get(NAME_OFFSET..)?.get(..NAME_BYTES)?.split(|byte| *byte == 0).next()?;
    Some((u32_at(data, 0)?, String::from_utf8_lossy(name).into_owned()))
}

/// Whether the row of `pg_database` is one whose database is being dropped: nobody can connect any more. Servers do so
/// since 14.9, 15.4 and 16.
pub fn is_invalid_database(data: &[u8], major: u32) -> bool {
    let offset = if major < 15 { CONNECTION_LIMIT_OFFSET_14 } else { CONNECTION_LIMIT_OFFSET };
    i32_at(data, offset) == Some(INVALID_DATABASE)
}

/// Rows made for tests.
#[cfg(test)]
pub(super) mod testing {
    use super::*;

    /// The columns of a relation, as version 15 has them.
    pub(in crate::pg::catalog) fn relation(oid: u32, name: &str, filenode: u32, kind: u8) -> Vec<u8> {
        let mut data = vec![0; 144];
        data[..4].copy_from_slice(&oid.to_ne_bytes());
        data[4..4 + name.len()].copy_from_slice(name.as_bytes());
        data[NAMESPACE_OFFSET..][..4].copy_from_slice(&2200_u32.to_ne_bytes());
        data[FILENODE_OFFSET..][..4].copy_from_slice(&filenode.to_ne_bytes());
        data[PERSISTENCE_OFFSET] = b'p';
        data[PERSISTENCE_OFFSET + 1] = kind;
        data
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    #[test]
    fn a_relation_is_read() {
        let mut data = testing::relation(16_385, "orders", 16_390, b'r');
        let relation = Relation::parse(&data, 17).unwrap();
        assert_eq!((relation.oid, &relation.name[..], relation.filenode), (16_385, "orders", 16_390));
        assert_eq!((relation.namespace, relation.persistence, relation.kind), (2200, b'p', b'r'));
        data.splice(108..108, [0; 4]);
        assert_eq!(Relation::parse(&data, 18), Some(relation));
        assert_eq!(Relation::parse(&data[..100], 18), None);
    }

    #[rstest]
    #[case("pg_temp_16385", true, true)]
    #[case("pg_temp_16386", true, false)]
    #[case("pg_temp_", false, false)]
    #[case("orders", false, false)]
    fn a_transient_table_names_the_one_it_is_for(#[case] name: &str, #[case] any: bool, #[case] this: bool) {
        let relation = Relation::parse(&testing::relation(1, name, 1, b'r'), 15).unwrap();
        assert_eq!((relation.is_transient(None), relation.is_transient(Some(16_385))), (any, this));
    }

    #[rstest]
    #[case(14, 208)]
    #[case(15, 80)]
    #[case(18, 80)]
    fn a_database_on_its_way_out_is_known(#[case] major: u32, #[case] offset: usize) {
        let mut data = vec![0; 220];
        assert!(!is_invalid_database(&data, major));
        data[offset..offset + 4].copy_from_slice(&(-2_i32).to_ne_bytes());
        assert!(is_invalid_database(&data, major));
    }

    proptest! {
        #[test]
        fn never_panics(data: Vec<u8>, major in 14_u32..19) {
            drop(Relation::parse(&data, major));
            let _ = is_invalid_database(&data, major);
        }
    }
}
