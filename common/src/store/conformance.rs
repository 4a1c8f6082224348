//! The contract of [`Store`], as one suite that every implementation passes.

use std::io::{Read, Write};
use std::thread;
use std::time::Duration;

use super::{Key, Published, Store, StoreError};

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn create(store: &dyn Store, name: &str, bytes: &[u8]) -> Published {
    let mut upload = store.begin(&key(name)).unwrap();
    upload.write_all(bytes).unwrap();
    upload.publish_new().unwrap()
}

fn read(store: &dyn Store, name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    store.get(&key(name)).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

fn read_range(store: &dyn Store, name: &str, offset: u64, length: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    store.get_range(&key(name), offset, length).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

fn names(store: &dyn Store, prefix: &str, start_after: Option<&str>, limit: usize) -> Vec<String> {
    store.list(prefix, start_after, limit).unwrap().into_iter().map(|entry| entry.key.to_string()).collect()
}

/// Panics unless `store`, which is empty (or not there yet), keeps the contract. Leaves it empty.
pub(super) fn check(store: &dyn Store) {
    creates_once(store);
    shows_nothing_unpublished(store);
    replaces_small_objects(store);
    reads_ranges(store);
    lists_in_byte_order(store);
    deletes(store);
    one_of_many_creates(store);
    store.delete(&store.list("", None, usize::MAX).unwrap().into_iter().map(|e| e.key).collect::<Vec<_>>()).unwrap();
    assert_eq!(names(store, "", None, 9), [""; 0]);
}

fn creates_once(store: &dyn Store) {
    assert_eq!(create(store, "main/wal/0001", b"first"), Published::Created);
    assert_eq!(create(store, "main/wal/0001", b"second"), Published::Exists);
    assert_eq!(create(store, "main/wal/0001", b"first"), Published::Exists);
    assert_eq!(read(store, "main/wal/0001"), b"first");
    assert_eq!(create(store, "empty", b""), Published::Created);
    assert_eq!(read(store, "empty"), b"");
    let entry = store.stat(&key("main/wal/0001")).unwrap().unwrap();
    assert_eq!((entry.key, entry.size), (key("main/wal/0001"), 5));
    assert_eq!(store.stat(&key("main/wal/0002")).unwrap(), None);
    assert_eq!(store.stat(&key("nowhere/wal/0002")).unwrap(), None);
    assert!(matches!(store.get(&key("main/wal/0002")), Err(StoreError::NotFound(_))));
    assert!(matches!(store.get_range(&key("main/none/0002"), 0, 1), Err(StoreError::NotFound(_))));
}

fn shows_nothing_unpublished(store: &dyn Store) {
    let mut dropped = store.begin(&key("main/wal/dropped")).unwrap();
    let mut aborted = store.begin(&key("main/new/aborted")).unwrap();
    dropped.write_all(b"half").unwrap();
    aborted.write_all(b"half").unwrap();
    assert_eq!(names(store, "", None, 9), ["empty", "main/wal/0001"]);
    assert_eq!(store.stat(&key("main/wal/dropped")).unwrap(), None);
    drop(dropped);
    aborted.abort();
    assert_eq!(names(store, "", None, 9), ["empty", "main/wal/0001"]);
    assert_eq!(store.sweep_unpublished(Duration::ZERO).unwrap(), 0);
}

fn replaces_small_objects(store: &dyn Store) {
    store.replace(&key("main/record"), b"one").unwrap();
    store.replace(&key("main/record"), b"two, longer").unwrap();
    assert_eq!(read(store, "main/record"), b"two, longer");
    let mut reader = store.get(&key("main/record")).unwrap();
    store.replace(&key("main/record"), b"3").unwrap();
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).unwrap();
    assert!(bytes == b"two, longer" || bytes == b"3", "a reader sees one whole object");
}

fn reads_ranges(store: &dyn Store) {
    create(store, "digits", b"0123456789");
    assert_eq!(read_range(store, "digits", 0, 10), b"0123456789");
    assert_eq!(read_range(store, "digits", 3, 4), b"3456");
    assert_eq!(read_range(store, "digits", 8, 100), b"89");
    assert_eq!(read_range(store, "digits", 10, 1), b"");
    assert_eq!(read_range(store, "digits", 11, u64::MAX), b"");
    assert_eq!(read_range(store, "digits", 5, 0), b"");
}

fn lists_in_byte_order(store: &dyn Store) {
    let sorted = ["l/a-b/1", "l/a.b", "l/a/1", "l/a/2/x", "l/a/2/y", "l/a/3", "l/a0", "l/b/1", "l/b1"];
    for name in sorted.iter().rev() {
        create(store, name, name.as_bytes());
    }
    assert_eq!(names(store, "l/", None, 100), sorted);
    for (i, name) in sorted.iter().enumerate() {
        assert_eq!(names(store, "l/", Some(name), 100), sorted[i + 1..], "after {name}");
        assert_eq!(names(store, "l/", None, i), sorted[..i], "{i} at most");
        assert_eq!(names(store, "l/", Some(name), 2), sorted[i + 1..(i + 3).min(sorted.len())], "2 after {name}");
    }
    for prefix in
        ["l", "l/a", "l/a/", "l/a/2", "l/a/2/", "l/a.", "l/b1", "l/c", "l/c/d", "n", "/", "../", "l/../l", "l//"]
    {
        let matching: Vec<_> = sorted.iter().copied().filter(|name| name.starts_with(prefix)).collect();
        assert_eq!(names(store, prefix, None, 100), matching, "{prefix:?}");
        for after in ["", "l/a", "l/a/", "l/a/2", "l/a/2/xx", "l/a/4", "l/zzz", "k", "m"] {
            let rest: Vec<_> = matching.iter().copied().filter(|name| *name > after).collect();
            assert_eq!(names(store, prefix, Some(after), 100), rest, "{prefix:?} after {after:?}");
        }
    }
    let sizes: Vec<_> = store.list("l/a/", None, 100).unwrap().into_iter().map(|entry| entry.size).collect();
    assert_eq!(sizes, [5, 7, 7, 5]);
}

fn deletes(store: &dyn Store) {
    store.delete(&[key("l/a/1"), key("l/a/none"), key("none/x"), key("l/a/2/x")]).unwrap();
    assert_eq!(names(store, "l/a/", None, 9), ["l/a/2/y", "l/a/3"]);
    store.delete(&[key("l/a/2/y")]).unwrap();
    store.delete(&[]).unwrap();
    assert_eq!(names(store, "l/a/", None, 9), ["l/a/3"]);
    assert_eq!(create(store, "l/a/2/y", b"again"), Published::Created);
}

fn one_of_many_creates(store: &dyn Store) {
    let answers: Vec<(u8, Published)> = thread::scope(|scope| {
        let threads: Vec<_> =
            (0..8).map(|i| scope.spawn(move || (i, create(store, "race/deep/object", &[i; 1000])))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let winners: Vec<_> = answers.iter().filter(|(_, answer)| *answer == Published::Created).map(|(i, _)| *i).collect();
    assert_eq!(winners.len(), 1);
    assert_eq!(read(store, "race/deep/object"), [winners[0]; 1000]);
    // Removing empty folders and making objects in them get in each other's way; neither may fail for it.
    thread::scope(|scope| {
        for i in 0..4 {
            scope.spawn(move || {
                for _ in 0..50 {
                    let name = format!("churn/deep/{i}");
                    assert_eq!(create(store, &name, b"x"), Published::Created);
                    store.delete(&[key(&name)]).unwrap();
                    store.replace(&key(&name), b"y").unwrap();
                    store.delete(&[key(&name)]).unwrap();
                    names(store, "churn/", None, 9);
                }
            });
        }
    });
}
