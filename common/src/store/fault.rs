//! A store that goes wrong on purpose, at one call chosen in advance.
//!
//! For loops over every place where something can go wrong: run once without a plan and ask [`FaultStore::calls`],
//! then once for each number up to that.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use super::{Entry, Key, Published, Store, StoreError, Upload};
use crate::sys::faults::{Counter, Fault, FaultPlan};

/// Hands every call on to another store, and counts them: the store's own, each write and publication of an upload,
/// each read of a reader.
#[derive(Debug)]
pub struct FaultStore<S> {
    inner: S,
    counter: Arc<Counter>,
}

impl<S: Store> FaultStore<S> {
    /// Counts, and never fails.
    pub fn new(inner: S) -> Self {
        Self::counted_by(inner, Arc::new(Counter::new(None)))
    }

    /// Carries out the plan.
    pub fn with_plan(inner: S, plan: FaultPlan) -> Self {
        Self::counted_by(inner, Arc::new(Counter::new(Some(plan))))
    }

    /// Does what the counter says, which may count for others too.
    pub fn counted_by(inner: S, counter: Arc<Counter>) -> Self {
        Self { inner, counter }
    }

    /// How many calls there were so far.
    pub fn calls(&self) -> u64 {
        self.counter.calls()
    }

    /// The store below.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    fn reader(
        &self,
        what: &str,
        key: &Key,
        get: impl FnOnce() -> Result<Box<dyn Read + Send>, StoreError>,
    ) -> Result<Box<dyn Read + Send>, StoreError> {
        let fault = self.counter.next(what, key);
        let inner = explained(&fault, what, key.as_str(), get)?;
        let (name, counter) = (key.to_string(), Arc::clone(&self.counter));
        Ok(Box::new(FaultReader { inner, name, counter, left: fault.truncated() }))
    }

    fn around<T>(&self, what: &str, name: &str, call: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
        explained(&self.counter.next(what, &name), what, name, call)
    }
}

/// The call with its fault; an error names what was done to which object.
fn explained<T>(
    fault: &Fault,
    what: &str,
    name: &str,
    call: impl FnOnce() -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    fault.around(call, |source| StoreError::Io { what: format!("{what} {name}"), source })
}

/// As many of the bytes as `left` allows.
fn shortened(bytes: &[u8], left: Option<u64>) -> &[u8] {
    left.and_then(|left| bytes.get(..usize::try_from(left).ok()?)).unwrap_or(bytes)
}

impl<S: Store> Store for FaultStore<S> {
    fn describe(&self) -> String {
        self.inner.describe()
    }

    fn begin(&self, key: &Key) -> Result<Box<dyn Upload>, StoreError> {
        let inner = self.around("begin", key.as_str(), || self.inner.begin(key))?;
        Ok(Box::new(FaultUpload { inner, name: key.to_string(), counter: Arc::clone(&self.counter), deaf: false }))
    }

    fn replace(&self, key: &Key, bytes: &[u8]) -> Result<(), StoreError> {
        let fault = self.counter.next("replace", key);
        explained(&fault, "replace", key.as_str(), || self.inner.replace(key, shortened(bytes, fault.truncated())))
    }

    fn get(&self, key: &Key) -> Result<Box<dyn Read + Send>, StoreError> {
        self.reader("get", key, || self.inner.get(key))
    }

    fn get_range(&self, key: &Key, offset: u64, length: u64) -> Result<Box<dyn Read + Send>, StoreError> {
        self.reader("get a range of", key, || self.inner.get_range(key, offset, length))
    }

    fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Vec<Entry>, StoreError> {
        self.around("list", prefix, || self.inner.list(prefix, start_after, limit))
    }

    fn delete(&self, keys: &[Key]) -> Result<(), StoreError> {
        let name = keys.first().map(Key::as_str).unwrap_or_default();
        self.around("delete", name, || self.inner.delete(keys))
    }

    fn stat(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        self.around("stat", key.as_str(), || self.inner.stat(key))
    }

    fn sweep_unpublished(&self, age: Duration) -> Result<u64, StoreError> {
        self.around("sweep", "uploads", || self.inner.sweep_unpublished(age))
    }
}

struct FaultReader {
    inner: Box<dyn Read + Send>,
    name: String,
    counter: Arc<Counter>,
    /// How many bytes are still delivered; `None` for all.
    left: Option<u64>,
}

impl Read for FaultReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let fault = self.counter.next("read", &self.name);
        self.left = self.left.or(fault.truncated());
        let count = fault.around_read(buffer, |buffer| match self.left {
            Some(left) => self.inner.by_ref().take(left).read(buffer),
            None => self.inner.read(buffer),
        })?;
        self.left = if fault.is_short() { Some(0) } else { self.left.map(|left| left.saturating_sub(count as u64)) };
        Ok(count)
    }
}

struct FaultUpload {
    inner: Box<dyn Upload>,
    name: String,
    counter: Arc<Counter>,
    /// Whether everything that is still written vanishes.
    deaf: bool,
}

impl Write for FaultUpload {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let fault = self.counter.next("write", &self.name);
        let left = if self.deaf { Some(0) } else { fault.truncated() };
        if left.is_none() {
            return fault.around_write(bytes, |bytes| self.inner.write(bytes));
        }
        self.deaf = true;
        fault.around_io(|| self.inner.write_all(shortened(bytes, left)))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl Upload for FaultUpload {
    fn publish_new(self: Box<Self>) -> Result<Published, StoreError> {
        let Self { inner, name, counter, .. } = *self;
        explained(&counter.next("publish", &name), "publish", &name, || inner.publish_new())
    }

    fn abort(self: Box<Self>) {
        self.inner.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{MemoryStore, conformance};
    use crate::sys::faults::FaultKind;
    use std::sync::Mutex;

    fn put_and_read(store: &dyn Store) -> anyhow::Result<Vec<u8>> {
        let key = Key::new("a/b")?;
        let mut upload = store.begin(&key)?;
        upload.write_all(b"0123")?;
        upload.write_all(b"4567")?;
        upload.publish_new()?;
        store.replace(&Key::new("record")?, b"abc")?;
        anyhow::ensure!(store.list("", None, 9)?.len() == 2);
        anyhow::ensure!(store.stat(&key)?.is_some());
        let mut bytes = Vec::new();
        store.get(&key)?.read_to_end(&mut bytes)?;
        store.get_range(&Key::new("record")?, 0, 9)?.read_to_end(&mut bytes)?;
        store.delete(&[key])?;
        store.sweep_unpublished(Duration::ZERO)?;
        Ok(bytes)
    }

    fn with(at: u64, kind: FaultKind) -> FaultStore<Arc<MemoryStore>> {
        FaultStore::with_plan(Arc::new(MemoryStore::new()), FaultPlan { at, kind })
    }

    fn calls() -> u64 {
        let store = FaultStore::new(MemoryStore::new());
        assert_eq!(put_and_read(&store).unwrap(), b"01234567abc");
        store.calls()
    }

    #[test]
    fn without_a_plan_it_keeps_the_contract() {
        conformance::check(&FaultStore::new(MemoryStore::new()));
    }

    #[test]
    fn every_call_can_fail() {
        for at in 1..=calls() {
            for kind in [FaultKind::Fail(io::ErrorKind::TimedOut), FaultKind::FailAfter(io::ErrorKind::TimedOut)] {
                let error = put_and_read(&with(at, kind.clone())).expect_err(&format!("{kind:?} at {at}"));
                assert!(format!("{error:#}").contains("timed out"), "{error:#}");
            }
        }
        assert!(put_and_read(&with(calls() + 1, FaultKind::Fail(io::ErrorKind::TimedOut))).is_ok());
    }

    #[test]
    fn a_lost_answer_is_lost_after_the_deed() {
        let (before, after) =
            (with(4, FaultKind::Fail(io::ErrorKind::TimedOut)), with(4, FaultKind::FailAfter(io::ErrorKind::TimedOut)));
        assert!(put_and_read(&before).is_err() && put_and_read(&after).is_err());
        assert_eq!(before.inner().list("", None, 9).unwrap().len(), 0);
        assert_eq!(after.inner().list("", None, 9).unwrap().len(), 1);
    }

    #[test]
    fn what_is_written_and_read_can_be_shortened() {
        let answers: Vec<_> = (1..=8).map(|at| put_and_read(&with(at, FaultKind::Truncate(1))).unwrap()).collect();
        let expected: [&[u8]; 8] = [
            b"01234567abc",
            b"0abc",
            b"01234abc",
            b"01234567abc",
            b"01234567a",
            b"01234567abc",
            b"01234567abc",
            b"0abc",
        ];
        assert_eq!(answers, expected);
    }

    #[test]
    fn a_short_object_ends_in_the_middle_of_a_read() {
        // The fourth call is the first read.
        for (buffer, expected) in [(4, &b"01"[..]), (8, b"0123")] {
            let store = with(4, FaultKind::Short);
            let key = Key::new("a").unwrap();
            store.replace(&key, b"01234567").unwrap();
            store.list("", None, 9).unwrap();
            let (mut reader, mut bytes) = (store.get(&key).unwrap(), vec![0; buffer]);
            let count = reader.read(&mut bytes).unwrap();
            assert_eq!(&bytes[..count], expected);
            assert_eq!(reader.read(&mut bytes).unwrap(), 0);
        }
    }

    #[test]
    fn a_function_runs_before_the_call() {
        let store = Arc::new(MemoryStore::new());
        let seen = Arc::new(Mutex::new(None));
        let run = {
            let (store, seen) = (Arc::clone(&store), Arc::clone(&seen));
            move || *seen.lock().unwrap() = Some(store.list("", None, 9).unwrap().len())
        };
        let plan = FaultPlan { at: 5, kind: FaultKind::Run(Arc::new(run)) };
        put_and_read(&FaultStore::with_plan(store, plan)).unwrap();
        assert_eq!(*seen.lock().unwrap(), Some(1));
    }
}
