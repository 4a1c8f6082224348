//! What must hold of every parser whatever its input is, as one function for each family of formats.
//!
//! Each function takes bytes, gives them to a parser and panics when a promise is broken: what was read and is written
//! again reads the same, two ways of reading agree, numbers stay within their bounds, nothing secret is shown. The fuzzer
//! (`make fuzz`, `tests/fuzz/`) looks for such bytes; what it found interesting lies in `tests/fuzz/corpus/TARGET/` and
//! runs through the same functions in every `make test` (`tests/parsers/corpus.rs`).
//!
//! Checksums would keep a fuzzer out: where a format has one, the function also puts the right one under the input.

mod codec;
mod files;
mod input;
mod names;
mod repository;
mod settings;
mod wal;

pub use codec::{gzip, lz4, zstd};
pub use files::{control, history, label, manifest, server_files, tablespace_map};
pub use names::{segment_name, time};
pub use repository::{frames, index, part, record};
pub use settings::{configuration, connection, passfile, service};
pub use wal::{heap_page, wal_page, wal_reader, wal_record};

/// A function that panics when what the bytes are given to breaks a promise.
pub type Target = fn(&[u8]);

/// Every function by its name, which is also the name of its fuzz target and of its corpus folder.
pub const TARGETS: [(&str, Target); 23] = [
    ("configuration", configuration),
    ("connection", connection),
    ("control", control),
    ("frames", frames),
    ("gzip", gzip),
    ("heap_page", heap_page),
    ("history", history),
    ("index", index),
    ("label", label),
    ("lz4", lz4),
    ("manifest", manifest),
    ("part", part),
    ("passfile", passfile),
    ("record", record),
    ("segment_name", segment_name),
    ("server_files", server_files),
    ("service", service),
    ("tablespace_map", tablespace_map),
    ("time", time),
    ("wal_page", wal_page),
    ("wal_reader", wal_reader),
    ("wal_record", wal_record),
    ("zstd", zstd),
];
