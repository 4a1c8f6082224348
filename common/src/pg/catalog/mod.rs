//! What the catalogs say of relations and databases: their fixed columns, and how they change as the log goes by.
//!
//! The log names files by numbers. Which relation a file belonged to, and whether a relation is gone or only has another
//! file, stands in `pg_class` alone; its rows are read from a backup's pages and kept up to date from the log's records.

mod rows;
mod tracker;

pub use rows::{Catalog, Relation, is_invalid_database};
pub use tracker::{CatalogChange, Catalogs, RelationChange};
