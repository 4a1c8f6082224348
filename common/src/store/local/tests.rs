use super::*;
use crate::store::conformance;
use crate::sys::identity::{become_owner_of, is_root};
use crate::sys::rerun;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn create(store: &LocalStore, name: &str) -> Result<Published, StoreError> {
    let mut upload = store.begin(&key(name))?;
    upload.write_all(name.as_bytes()).unwrap();
    upload.publish_new()
}

fn names(store: &LocalStore) -> Vec<String> {
    store.list("", None, 100).unwrap().into_iter().map(|entry| entry.key.to_string()).collect()
}

struct Fixture {
    dir: tempfile::TempDir,
    store: LocalStore,
}

/// A store with the one object `main/wal/1`.
fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalStore::open(dir.path().join("repo"));
    create(&store, "main/wal/1").unwrap();
    Fixture { dir, store }
}

impl Fixture {
    fn at(&self, name: &str) -> PathBuf {
        self.store.root.join(name)
    }
}

#[test]
fn keeps_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    conformance::check(&LocalStore::open(dir.path().join("not/there/yet")));
}

#[test]
fn a_mount_point_s_lost_and_found_is_no_part_of_the_store() {
    let Fixture { dir: _dir, store } = fixture();
    let lost = store.root.join("lost+found");
    fs::create_dir(&lost).unwrap();
    for name in ["#12", ".holdfast-1-0.tmp"] {
        assert!(durable::write_new(&lost.join(name), b"found", FILE_MODE).unwrap());
    }
    create(&store, "main/lost+found/1").unwrap();
    assert_eq!(names(&store), ["main/lost+found/1", "main/wal/1"]);
    assert_eq!(store.sweep_unpublished(Duration::ZERO).unwrap(), 0);
}

#[test]
fn a_missing_root_is_never_an_empty_store() {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalStore::open(dir.path().join("repo"));
    assert!(matches!(store.list("", None, 1), Err(StoreError::NoRoot(_))));
    assert!(matches!(store.list("main/wal/", None, 1), Err(StoreError::NoRoot(_))));
    assert!(matches!(store.stat(&key("a/b")), Err(StoreError::NoRoot(_))));
    assert!(matches!(store.get(&key("a/b")), Err(StoreError::NoRoot(_))));
    assert!(matches!(store.delete(&[key("a/b")]), Err(StoreError::NoRoot(_))));
    assert_eq!(store.sweep_unpublished(Duration::ZERO).unwrap(), 0);
    assert!(!store.root.exists());
    fs::create_dir(&store.root).unwrap();
    assert_eq!(store.list("main/wal/", None, 1).unwrap(), []);
    assert_eq!(store.stat(&key("a/b")).unwrap(), None);
}

#[test]
fn nothing_is_open_to_everybody() {
    let fixture = fixture();
    for name in ["", "main", "main/wal", "main/wal/1"] {
        assert_eq!(fs::metadata(fixture.at(name)).unwrap().mode() & 0o007, 0, "{name}");
    }
}

#[test]
fn a_file_where_a_folder_should_be_is_no_absence() {
    let fixture = fixture();
    let store = &fixture.store;
    for below in ["main/wal/1/2", "main/wal/1/2/3"] {
        assert!(matches!(store.stat(&key(below)), Err(StoreError::Io { .. })), "{below}");
        assert!(matches!(store.get(&key(below)), Err(StoreError::Io { .. })), "{below}");
        assert!(matches!(create(store, below), Err(StoreError::Io { .. })), "{below}");
        assert!(matches!(store.list(&format!("{below}/"), None, 1), Err(StoreError::Io { .. })), "{below}");
    }
    let root_is_file = LocalStore::open(store.root.join("main/wal/1"));
    assert!(matches!(root_is_file.list("", None, 1), Err(StoreError::Io { .. })));
    assert!(matches!(root_is_file.stat(&key("a")), Err(StoreError::Io { .. })));
}

#[test]
fn a_folder_where_an_object_should_be_is_an_error() {
    let fixture = fixture();
    let store = &fixture.store;
    for error in [
        store.stat(&key("main/wal")).unwrap_err(),
        store.get(&key("main/wal")).err().unwrap(),
        create(store, "main/wal").unwrap_err(),
        store.replace(&key("main/wal"), b"").unwrap_err(),
        store.delete(&[key("main/wal")]).unwrap_err(),
    ] {
        assert!(error.to_string().ends_with("main/wal"), "{error}");
    }
    assert_eq!(names(store), ["main/wal/1"]);
}

#[test]
fn links_are_not_followed() {
    let fixture = fixture();
    let store = &fixture.store;
    let outside = fixture.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    durable::write_new(&outside.join("1"), b"secret", 0o600).unwrap();
    symlink(&outside, fixture.at("linked")).unwrap();
    symlink(outside.join("1"), fixture.at("main/wal/2")).unwrap();
    symlink(outside.join("none"), fixture.at("main/wal/3")).unwrap();
    assert_eq!(names(store), ["main/wal/1"]);
    assert!(store.list("linked/", None, 9).is_err());
    for name in ["linked/1", "linked/deep/new", "main/wal/2", "main/wal/3"] {
        let error = anyhow::Error::new(store.get(&key(name)).err().unwrap());
        assert!(format!("{error:#}").contains("symbolic link"), "{name}");
        assert!(store.stat(&key(name)).is_err(), "{name}");
        assert!(create(store, name).is_err(), "{name}");
    }
    assert!(store.delete(&[key("linked/1")]).is_err());
    store.delete(&[key("main/wal/2")]).unwrap();
    assert_eq!(fs::read(outside.join("1")).unwrap(), b"secret");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
}

#[test]
fn the_root_may_be_a_link() {
    let fixture = fixture();
    let link = fixture.dir.path().join("link");
    symlink(&fixture.store.root, &link).unwrap();
    let store = LocalStore::open(link);
    create(&store, "main/wal/2").unwrap();
    assert_eq!(create(&store, "main/wal/2").unwrap(), Published::Exists);
    assert_eq!(names(&store), ["main/wal/1", "main/wal/2"]);
}

#[test]
fn hidden_and_foreign_names_are_passed_over() {
    let fixture = fixture();
    fs::create_dir(fixture.at(".snapshot")).unwrap();
    durable::write_new(&fixture.at(".snapshot/1"), b"", 0o600).unwrap();
    durable::write_new(&fixture.at("main/.hidden"), b"", 0o600).unwrap();
    durable::write_new(&fixture.at("main/with space"), b"", 0o600).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(fixture.at("main/socket")).unwrap();
    assert_eq!(names(&fixture.store), ["main/wal/1"]);
    assert!(fixture.store.get(&key("main/socket")).is_err());
}

#[test]
fn sweeps_what_dead_uploads_left() {
    let fixture = fixture();
    let store = &fixture.store;
    let left = fixture.at("main/wal/.holdfast-1-0123456789abcdef.tmp");
    durable::write_new(&left, b"half", 0o600).unwrap();
    durable::write_new(&fixture.at("main/wal/.other.tmp"), b"", 0o600).unwrap();
    assert_eq!(store.sweep_unpublished(Duration::from_hours(1)).unwrap(), 0);
    assert_eq!(store.sweep_unpublished(Duration::ZERO).unwrap(), 1);
    assert!(!left.exists() && fixture.at("main/wal/.other.tmp").exists());
    assert_eq!(names(store), ["main/wal/1"]);
}

#[test]
fn deleting_removes_folders_that_become_empty_but_not_the_root() {
    let fixture = fixture();
    create(&fixture.store, "main/kept").unwrap();
    fixture.store.delete(&[key("main/wal/1")]).unwrap();
    assert!(!fixture.at("main/wal").exists() && fixture.at("main").exists());
    fixture.store.delete(&[key("main/kept")]).unwrap();
    assert_eq!(fs::read_dir(&fixture.store.root).unwrap().count(), 0);
}

#[test]
fn an_upload_keeps_its_folder() {
    let fixture = fixture();
    let store = &fixture.store;
    let mut upload = store.begin(&key("main/wal/2")).unwrap();
    upload.write_all(b"2").unwrap();
    store.delete(&[key("main/wal/1")]).unwrap();
    assert_eq!(upload.publish_new().unwrap(), Published::Created);
    assert_eq!(names(store), ["main/wal/2"]);
}

/// Root may look everywhere, so that it must become somebody else first, in a process of its own.
#[test]
fn what_may_not_be_looked_at_is_no_absence() {
    if let Some(root) = rerun::role() {
        become_owner_of(Path::new(&root)).unwrap();
        return check_closed_folder(&LocalStore::open(root.into()));
    }
    let fixture = fixture();
    if !is_root() {
        return check_closed_folder(&fixture.store);
    }
    for path in [fixture.dir.path(), &fixture.store.root, &fixture.at("main"), &fixture.at("main/wal")] {
        chown(path, Some(54_321), Some(54_321)).unwrap();
    }
    let test = "store::local::tests::what_may_not_be_looked_at_is_no_absence";
    let output = rerun::run(test, fixture.store.root.to_str().unwrap());
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "{output:?}");
}

fn check_closed_folder(store: &LocalStore) {
    let closed = store.root.join("main/wal");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
    for (name, prefix) in [("main/wal/1", "main/wal/"), ("main/wal/none", ""), ("main/wal/deep/none", "main/wal/deep/")]
    {
        assert!(matches!(store.stat(&key(name)), Err(StoreError::Io { .. })), "{name}");
        assert!(matches!(store.get(&key(name)), Err(StoreError::Io { .. })), "{name}");
        assert!(matches!(store.list(prefix, None, 9), Err(StoreError::Io { .. })), "{prefix}");
        assert!(store.delete(&[key(name)]).unwrap_err().is_permanent());
        assert!(create(store, name).unwrap_err().is_permanent());
    }
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o750)).unwrap();
    assert_eq!(names(store), ["main/wal/1"]);
}

/// A disk that is unmounted while somebody writes to it.
#[test]
fn a_root_that_vanished_is_not_made_again() {
    let fixture = fixture();
    durable::rename(&fixture.at(""), &fixture.dir.path().join("away")).unwrap();
    let error = create(&fixture.store, "main/wal/2").unwrap_err();
    assert!(matches!(error, StoreError::NoRoot(_)), "{error}");
    assert!(!fixture.at("").exists());
}
