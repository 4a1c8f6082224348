//! A store that lives and dies with the process: for tests, and for trying things out.

use std::collections::BTreeMap;
use std::io::{self, Cursor, Read, Write};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::{Entry, Key, Published, Store, StoreError, Upload};
use crate::sys::clock::{Clock, SystemClock};

/// A [`Store`] in memory. It is always there: it never answers [`StoreError::NoRoot`].
#[derive(Debug)]
pub struct MemoryStore {
    objects: Arc<Objects>,
}

#[derive(Debug)]
struct Objects {
    clock: Box<dyn Clock>,
    by_key: Mutex<BTreeMap<String, Object>>,
}

#[derive(Debug, Clone)]
struct Object {
    bytes: Arc<[u8]>,
    modified: DateTime<Utc>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::with_clock(SystemClock)
    }

    /// An empty store that takes the times of its objects from `clock`.
    pub fn with_clock(clock: impl Clock + 'static) -> Self {
        Self { objects: Arc::new(Objects { clock: Box::new(clock), by_key: Mutex::default() }) }
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl Objects {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Object>> {
        // Every change is one insertion or removal: a thread that panicked left nothing half done.
        self.by_key.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn object(&self, bytes: &[u8]) -> Object {
        Object { bytes: Arc::from(bytes), modified: self.clock.now() }
    }

    fn find(&self, key: &Key) -> Result<Object, StoreError> {
        self.lock().get(key.as_str()).cloned().ok_or_else(|| StoreError::NotFound(key.to_string()))
    }
}

fn entry(key: &Key, object: &Object) -> Entry {
    Entry { key: key.clone(), size: object.bytes.len() as u64, modified: object.modified }
}

impl Store for MemoryStore {
    fn describe(&self) -> String {
        "memory".to_owned()
    }

    fn begin(&self, key: &Key) -> Result<Box<dyn Upload>, StoreError> {
        Ok(Box::new(MemoryUpload { objects: Arc::clone(&self.objects), key: key.clone(), bytes: Vec::new() }))
    }

    fn replace(&self, key: &Key, bytes: &[u8]) -> Result<(), StoreError> {
        let object = self.objects.object(bytes);
        self.objects.lock().insert(key.to_string(), object);
        Ok(())
    }

    fn get(&self, key: &Key) -> Result<Box<dyn Read + Send>, StoreError> {
        Ok(Box::new(Cursor::new(self.objects.find(key)?.bytes)))
    }

    fn get_range(&self, key: &Key, offset: u64, length: u64) -> Result<Box<dyn Read + Send>, StoreError> {
        let mut cursor = Cursor::new(self.objects.find(key)?.bytes);
        cursor.set_position(offset);
        Ok(Box::new(cursor.take(length)))
    }

    fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Vec<Entry>, StoreError> {
        let after = start_after.unwrap_or_default();
        let from = if after >= prefix { Bound::Excluded(after) } else { Bound::Included(prefix) };
        self.objects
            .lock()
            .range::<str, _>((from, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .take(limit)
            .map(|(key, object)| Ok(entry(&Key::new(key.as_str())?, object)))
            .collect()
    }

    fn delete(&self, keys: &[Key]) -> Result<(), StoreError> {
        let mut objects = self.objects.lock();
        for key in keys {
            objects.remove(key.as_str());
        }
        Ok(())
    }

    fn stat(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        Ok(self.objects.lock().get(key.as_str()).map(|object| entry(key, object)))
    }

    fn sweep_unpublished(&self, _age: Duration) -> Result<u64, StoreError> {
        // An upload's bytes lie in the upload itself and go with it.
        Ok(0)
    }
}

struct MemoryUpload {
    objects: Arc<Objects>,
    key: Key,
    bytes: Vec<u8>,
}

impl Write for MemoryUpload {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Upload for MemoryUpload {
    fn publish_new(self: Box<Self>) -> Result<Published, StoreError> {
        let object = self.objects.object(&self.bytes);
        let mut objects = self.objects.lock();
        if objects.contains_key(self.key.as_str()) {
            return Ok(Published::Exists);
        }
        objects.insert(self.key.to_string(), object);
        Ok(Published::Created)
    }

    fn abort(self: Box<Self>) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance;
    use crate::sys::clock::FixedClock;

    #[test]
    fn keeps_the_contract() {
        conformance::check(&MemoryStore::new());
    }

    #[test]
    fn dates_objects_by_its_clock() {
        let moment = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
        let store = MemoryStore::with_clock(FixedClock(moment));
        let key = Key::new("a/b").unwrap();
        store.replace(&key, b"1").unwrap();
        assert_eq!(store.stat(&key).unwrap().unwrap().modified, moment);
    }
}
