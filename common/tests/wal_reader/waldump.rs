//! The log as the reader tells it and as `pg_waldump` prints it, in the same words.

use std::fs;
use std::ops::ControlFlow;

use anyhow::{Context, Result, ensure};
use common::pg::exclusions::{Fork, tablespace_version_directory};
use common::pg::wal_reader::{
    DatabaseFolder, Event, Listed, Operation, Parameters, Record, RecordKind, RecordReader, RelFileLocator, Standing,
    TransactionEnd,
};
use common::pg::{Lsn, WalSegmentName};

use crate::place::Place;
use crate::segment_size;

/// What the workload must leave: texts of [`dumped`], with anything in the place of `…`.
const KINDS: [&str; 23] = [
    " COMMIT …",
    " COMMIT … rels: base/",
    " ABORT …",
    " ABORT … rels: base/",
    "COMMIT_PREPARED … rels: pg_tblspc/",
    "COMMIT_PREPARED … rels: base/",
    "ABORT_PREPARED … rels: base/",
    "RESTORE_POINT twice",
    "CREATE … \"/",
    "PARAMETER_CHANGE max_connections=100 … wal_level=logical wal_log_hints=off track_commit_timestamp=off",
    "PARAMETER_CHANGE max_connections=77 … wal_log_hints=on track_commit_timestamp=on",
    "FPW_CHANGE false",
    "CREATE base/",
    "CREATE pg_tblspc/",
    "CREATE global/",
    "CREATE base/…_init",
    "TRUNCATE pg_tblspc/… to 1 blocks flags 7",
    "truncate nrelids 1 relids 1",
    "truncate cascade restart_seqs nrelids 2 relids 1… 1",
    "copy dir 1663/",
    "DROP dir …/… …/",
    "UPDATE database 0 tablespace 1664",
    "UPDATE database 1",
];

/// Where a record begins, and what it is and lists, when it is looked into.
type Line = (Lsn, String);

/// Whether every record of the stopped server's log is the one that `pg_waldump` prints, however the bytes come.
pub(crate) fn every_record_is_the_one_that_pg_waldump_prints(place: &Place, names: &[WalSegmentName]) -> Result<()> {
    let first = names.first().and_then(|name| name.start(segment_size().ok()?)).context("there is WAL")?;
    let mut command = place.command(&place.bin.join("pg_waldump"));
    // It ends with an error where the WAL ends.
    let output = command.args(["-p", "data/pg_wal", "-s", &first.to_string()]).output()?;
    let printed = String::from_utf8(output.stdout)?;
    every_row_lies_where_pg_waldump_says(place, names, first, &printed)?;
    let expected: Vec<Line> = printed.lines().map(dumped).collect::<Result<_>>()?;
    let control = place.control("data")?;
    let major = control.major().context("the server is of a known version")?;
    let since_15 = if major >= 15 { &["create dir "][..] } else { &[] };
    for kind in KINDS.iter().chain(since_15) {
        ensure!(expected.iter().any(|(_, text)| is_like(text, kind)), "the workload leaves no {kind:?}");
    }
    let folder = tablespace_version_directory(major, control.catalog_version);
    for piece in [100, 8192, 1 << 20] {
        let (events, standing) = read_in_depth(place, names, first, piece)?;
        ensure!(matches!(standing, Standing::Ended(_)), "the WAL has no end: {standing:?}");
        let read = described(&events, &folder);
        let different = std::iter::zip(&read, &expected).find(|(read, expected)| read != expected);
        ensure!(different.is_none(), "read and expected: {different:?}");
        ensure!(read.len() == expected.len(), "read {}, expected {} records", read.len(), expected.len());
        let records: Vec<&Record> = events.iter().filter_map(record_of).collect();
        let long = records.iter().filter(|record| record.end.0 - record.start.0 > 3 << 20).count();
        ensure!(long == 1, "{long} records are longer than three segments");
        let plain = read_records(place, names, first, piece)?;
        let same = |(plain, deep): (&Record, &&Record)| plain == *deep || plain.kind == RecordKind::Other;
        ensure!(
            plain.len() == records.len() && std::iter::zip(&plain, &records).all(same),
            "depth changes what was read"
        );
    }
    Ok(())
}

/// Read with rows, every row that is inserted or deleted lies at the place that `pg_waldump` prints, and every page that is in
/// the log can be unpacked.
fn every_row_lies_where_pg_waldump_says(
    place: &Place,
    names: &[WalSegmentName],
    first: Lsn,
    printed: &str,
) -> Result<()> {
    let expected: Vec<String> = printed.lines().filter_map(dumped_row).collect();
    let mut reader = RecordReader::with_rows(first, segment_size()?);
    let (mut rows, mut pages, mut strange) = (Vec::new(), 0, Vec::new());
    feed(place, names, 8192, |bytes| {
        reader.feed_all(bytes, |event| {
            if let Event::Record(Record { start, xid, kind: RecordKind::Heap(heap), .. }) = &event {
                let change = heap.change();
                let images = change.iter().flat_map(|change| change.references.iter().filter_map(|page| page.image));
                let unpacked: Vec<bool> = images.map(|image| image.page().is_some()).collect();
                pages += unpacked.len();
                if change.is_none() || unpacked.contains(&false) {
                    strange.push(*start);
                }
                let (word, at) = match change.map(|change| change.operation) {
                    Some(Operation::Insert(at, _)) => ("INSERT", at),
                    Some(Operation::Delete { place, .. }) => ("DELETE", place),
                    _ => return ControlFlow::Continue(()),
                };
                let RelFileLocator { tablespace, database, relnumber } = at.relation;
                let (block, offset) = (at.block, at.offset);
                rows.push(format!("{start} {xid} {word} {tablespace}/{database}/{relnumber} {block} {offset}"));
            }
            ControlFlow::Continue(())
        })
    })?;
    ensure!(strange.is_empty() && pages > 100, "{pages} pages, and records of an unknown form at {strange:?}");
    let different = std::iter::zip(&rows, &expected).find(|(read, expected)| read != expected);
    ensure!(different.is_none() && rows.len() == expected.len(), "read and expected rows: {different:?}");
    ensure!(rows.iter().filter(|row| row.contains("DELETE")).count() > 4000, "{} rows", rows.len());
    Ok(())
}

/// The same from a line that `pg_waldump` prints: `off 3` before 16, `off: 3` since.
fn dumped_row(line: &str) -> Option<String> {
    let rest = line.strip_prefix("rmgr: Heap ")?;
    let behind = |key: &str| {
        let (_, rest) = rest.split_once(key)?;
        rest.trim_start().split([' ', ',']).next()
    };
    let word = behind("desc: ")?.split('+').next().filter(|word| matches!(*word, "INSERT" | "DELETE"))?;
    let lsn: Lsn = behind("lsn: ")?.parse().ok()?;
    let offset = behind(" off: ").or_else(|| behind(" off "))?;
    let (xid, relation, block) = (behind("tx: ")?, behind("blkref #0: rel ")?, behind(" blk ")?);
    Some(format!("{lsn} {xid} {word} {relation} {block} {offset}"))
}

/// Whether the text has the parts between the `…` of `kind`, in this order.
fn is_like(text: &str, kind: &str) -> bool {
    let mut rest = Some(text);
    kind.split('…').all(|part| {
        rest = rest.and_then(|rest| rest.split_once(part)).map(|(_, rest)| rest);
        rest.is_some()
    })
}

fn record_of(event: &Event) -> Option<&Record> {
    if let Event::Record(record) = event { Some(record) } else { None }
}

/// Hands the segments on in pieces until the consumer wants no more.
fn feed(
    place: &Place,
    names: &[WalSegmentName],
    piece: usize,
    mut each: impl FnMut(&[u8]) -> ControlFlow<()>,
) -> Result<()> {
    for name in names {
        let bytes = fs::read(place.path("data/pg_wal").join(name.to_string()))?;
        if bytes.chunks(piece).try_for_each(&mut each).is_break() {
            break;
        }
    }
    Ok(())
}

fn read_in_depth(place: &Place, names: &[WalSegmentName], first: Lsn, piece: usize) -> Result<(Vec<Event>, Standing)> {
    let mut reader = RecordReader::in_depth(first, segment_size()?);
    let mut events = Vec::new();
    feed(place, names, piece, |bytes| {
        reader.feed_all(bytes, |event| {
            events.push(event);
            ControlFlow::Continue(())
        })
    })?;
    Ok((events, reader.standing()))
}

fn read_records(place: &Place, names: &[WalSegmentName], first: Lsn, piece: usize) -> Result<Vec<Record>> {
    let mut reader = RecordReader::new(first, segment_size()?);
    let mut records = Vec::new();
    feed(place, names, piece, |bytes| {
        reader.feed(bytes, |record| {
            records.push(record);
            ControlFlow::Continue(())
        })
    })?;
    Ok(records)
}

/// The records in `pg_waldump`'s words; `folder` is the server's in a tablespace.
fn described(events: &[Event], folder: &str) -> Vec<Line> {
    let (mut lines, mut items) = (Vec::new(), Vec::new());
    for event in events {
        match event {
            Event::Listed(item) => items.push(*item),
            Event::Record(record) => {
                lines.push((record.start, description(&record.kind, &items, folder)));
                items.clear();
            }
        }
    }
    lines
}

fn description(kind: &RecordKind, items: &[Listed], folder: &str) -> String {
    let ended =
        |end: &TransactionEnd| format!("{}{}", end.time.format("%Y-%m-%d %H:%M:%S%.6f UTC"), rels(items, folder));
    let in_tablespace = |folder: &DatabaseFolder| format!("{}/{}", folder.tablespace, folder.database);
    match kind {
        RecordKind::Commit(end) => format!("{} COMMIT {}", end.xid, ended(end)),
        RecordKind::Abort(end) => format!("{} ABORT {}", end.xid, ended(end)),
        RecordKind::CommitPrepared(end) => format!("COMMIT_PREPARED {}: {}", end.xid, ended(end)),
        RecordKind::AbortPrepared(end) => format!("ABORT_PREPARED {}: {}", end.xid, ended(end)),
        RecordKind::RestorePoint { name, .. } => format!("RESTORE_POINT {name}"),
        RecordKind::TablespaceCreated { oid, location } => format!("CREATE {oid} \"{}\"", location.display()),
        RecordKind::ParametersChanged(to) => parameters(to),
        RecordKind::FullPageWritesChanged(on) => format!("FPW_CHANGE {on}"),
        RecordKind::RelationCreated { relation, fork } => format!("CREATE {}", path(*relation, *fork, folder)),
        RecordKind::RelationTruncated { relation, blocks, forks } => {
            format!("TRUNCATE {} to {blocks} blocks flags {forks}", path(*relation, Fork::Main, folder))
        }
        RecordKind::TablesTruncated { tables, cascade, restart_identity, .. } => {
            let said = [(*cascade, " cascade"), (*restart_identity, " restart_seqs")];
            let said: String = said.into_iter().filter(|(said, _)| *said).map(|(_, word)| word).collect();
            format!("truncate{said} nrelids {tables} relids {}", oids(items).join(" "))
        }
        RecordKind::DatabaseCreated { folder, copied: Some(from) } => {
            format!("copy dir {} to {}", in_tablespace(from), in_tablespace(folder))
        }
        RecordKind::DatabaseCreated { folder, copied: None } => format!("create dir {}", in_tablespace(folder)),
        RecordKind::DatabaseDropped { database, tablespaces } => {
            assert_eq!(usize::try_from(*tablespaces), Ok(items.len()));
            format!("DROP dir {}/{database}", oids(items).join(&format!("/{database} ")))
        }
        RecordKind::MapUpdated(of) => format!("UPDATE database {} tablespace {}", of.database, of.tablespace),
        RecordKind::Heap(_) | RecordKind::Other => String::new(),
    }
}

fn rels(items: &[Listed], folder: &str) -> String {
    let paths: Vec<String> = items
        .iter()
        .map(|item| match item {
            Listed::Relation(relation) => path(*relation, Fork::Main, folder),
            other => format!("{other:?}"),
        })
        .collect();
    if paths.is_empty() { String::new() } else { format!(" rels: {}", paths.join(" ")) }
}

fn oids(items: &[Listed]) -> Vec<String> {
    let number = |item: &Listed| match item {
        Listed::Tablespace(oid) | Listed::Table(oid) => oid.to_string(),
        Listed::Relation(_) | Listed::Subtransaction(_) | Listed::Mapping { .. } => format!("{item:?}"),
    };
    items.iter().map(number).collect()
}

fn parameters(to: &Parameters) -> String {
    let switch = |on: bool| if on { "on" } else { "off" };
    let level = ["minimal", "replica", "logical"].get(usize::try_from(to.wal_level).unwrap_or(usize::MAX));
    format!(
        "PARAMETER_CHANGE max_connections={} max_worker_processes={} max_wal_senders={} max_prepared_xacts={} \
         max_locks_per_xact={} wal_level={} wal_log_hints={} track_commit_timestamp={}",
        to.max_connections,
        to.max_worker_processes,
        to.max_wal_senders,
        to.max_prepared_xacts,
        to.max_locks_per_xact,
        level.unwrap_or(&"?"),
        switch(to.wal_log_hints),
        switch(to.track_commit_timestamp),
    )
}

/// A file's path in the data directory.
fn path(relation: RelFileLocator, fork: Fork, folder: &str) -> String {
    let RelFileLocator { tablespace, database, relnumber } = relation;
    let suffix = match fork {
        Fork::Main => "",
        Fork::Fsm => "_fsm",
        Fork::Vm => "_vm",
        Fork::Init => "_init",
    };
    match tablespace {
        1663 => format!("base/{database}/{relnumber}{suffix}"),
        1664 => format!("global/{relnumber}{suffix}"),
        _ => format!("pg_tblspc/{tablespace}/{folder}/{database}/{relnumber}{suffix}"),
    }
}

/// The same from a line that `pg_waldump` prints.
fn dumped(line: &str) -> Result<Line> {
    let field = |key: &str, end: char| {
        let value = line.split_once(key).and_then(|(_, rest)| rest.split_once(end)).map(|(value, _)| value.trim());
        value.with_context(|| format!("{key:?} in {line:?}"))
    };
    let (_, description) = line.split_once("desc: ").with_context(|| format!("desc in {line:?}"))?;
    let mut parts = description.split(';').map(str::trim);
    let first = parts.next().unwrap_or_default();
    let rels = parts.find(|part| part.starts_with("rels:")).map(|rels| format!(" {rels}")).unwrap_or_default();
    let (operation, rest) = first.split_once(' ').unwrap_or((first, ""));
    let text = match (field("rmgr: ", ' ')?, operation) {
        ("Transaction", "COMMIT" | "ABORT") => format!("{} {first}{rels}", field("tx: ", ',')?),
        ("Transaction", "COMMIT_PREPARED" | "ABORT_PREPARED") => format!("{first}{rels}"),
        ("XLOG", "RESTORE_POINT" | "PARAMETER_CHANGE" | "FPW_CHANGE") | ("Storage", _) | ("Database", "DROP") => {
            first.to_owned()
        }
        ("Tablespace", "CREATE") => first.to_owned(),
        // 14 has one operation where later versions have two.
        ("Database", _) => rest.to_owned(),
        ("RelMap", "UPDATE") => first.split(" size ").next().unwrap_or_default().to_owned(),
        // `cascade nrelids 1 relids 5` before 16, `flags: [CASCADE], nrelids: 1, relids: [5]` since.
        ("Heap", "TRUNCATE") => {
            let words = first.split([' ', '[', ']', ',', ':']).filter(|word| !word.is_empty() && *word != "flags");
            words.collect::<Vec<_>>().join(" ").to_lowercase()
        }
        _ => String::new(),
    };
    Ok((field("lsn: ", ',')?.parse()?, text))
}
