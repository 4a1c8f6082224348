//! A store that goes wrong on purpose, at one call chosen in advance.
//!
//! For loops over every place where something can go wrong: run once without a plan and ask [`FaultStore::calls`],
//! then once for each number up to that.

use std::fmt;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{Entry, Key, Published, Store, StoreError, Upload};

/// What goes wrong.
#[derive(Clone)]
pub enum FaultKind {
    /// The call fails with this error and changes nothing.
    Fail(io::ErrorKind),
    /// The call is carried out, and then its answer is lost: it fails with this error.
    FailAfter(io::ErrorKind),
    /// The store lies: only so many bytes of this call are delivered or kept, none of the same object after them, and
    /// the call succeeds. Applies to `replace`, `get`, `get_range`, writes and reads; no other call is changed by it.
    Truncate(u64),
    /// The function runs before the call, which is then carried out; it may damage the store below or end the process.
    Run(Arc<dyn Fn() + Send + Sync>),
}

impl fmt::Debug for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fail(kind) => write!(f, "Fail({kind:?})"),
            Self::FailAfter(kind) => write!(f, "FailAfter({kind:?})"),
            Self::Truncate(length) => write!(f, "Truncate({length})"),
            Self::Run(_) => f.write_str("Run"),
        }
    }
}

/// One fault at one call.
#[derive(Debug, Clone)]
pub struct FaultPlan {
    /// Which call; the first is 1.
    pub at: u64,
    /// What happens there.
    pub kind: FaultKind,
}

/// Hands every call on to another store, and counts them: the store's own, each write and publication of an upload,
/// each read of a reader.
#[derive(Debug)]
pub struct FaultStore<S> {
    inner: S,
    counter: Arc<Counter>,
}

#[derive(Debug)]
struct Counter {
    calls: AtomicU64,
    plan: Option<FaultPlan>,
}

impl<S: Store> FaultStore<S> {
    /// Counts, and never fails.
    pub fn new(inner: S) -> Self {
        Self::planned(inner, None)
    }

    /// Carries out the plan.
    pub fn with_plan(inner: S, plan: FaultPlan) -> Self {
        Self::planned(inner, Some(plan))
    }

    fn planned(inner: S, plan: Option<FaultPlan>) -> Self {
        Self { inner, counter: Arc::new(Counter { calls: AtomicU64::new(0), plan }) }
    }

    /// How many calls there were so far.
    pub fn calls(&self) -> u64 {
        self.counter.calls.load(Ordering::SeqCst)
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
        let fault = self.counter.next();
        let inner = fault.around(what, key, get)?;
        Ok(Box::new(FaultReader { inner, counter: Arc::clone(&self.counter), left: fault.truncated() }))
    }
}

impl Counter {
    /// Counts a call, and what is to happen at it.
    fn next(&self) -> Fault {
        let call = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        let kind = self.plan.as_ref().filter(|plan| plan.at == call).map(|plan| plan.kind.clone());
        if let Some(FaultKind::Run(run)) = &kind {
            run();
        }
        Fault(kind)
    }
}

/// What happens at one call.
struct Fault(Option<FaultKind>);

impl Fault {
    fn around_io<T>(&self, call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        match self.0 {
            Some(FaultKind::Fail(kind)) => Err(kind.into()),
            Some(FaultKind::FailAfter(kind)) => {
                call()?;
                Err(kind.into())
            }
            _ => call(),
        }
    }

    fn around<T>(
        &self,
        what: &str,
        name: impl fmt::Display,
        call: impl FnOnce() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let failure = |kind: io::ErrorKind| StoreError::Io { what: format!("{what} {name}"), source: kind.into() };
        match self.0 {
            Some(FaultKind::Fail(kind)) => Err(failure(kind)),
            Some(FaultKind::FailAfter(kind)) => {
                call()?;
                Err(failure(kind))
            }
            _ => call(),
        }
    }

    fn truncated(&self) -> Option<u64> {
        match self.0 {
            Some(FaultKind::Truncate(length)) => Some(length),
            _ => None,
        }
    }
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
        let inner = self.counter.next().around("begin", key, || self.inner.begin(key))?;
        Ok(Box::new(FaultUpload { inner, name: key.to_string(), counter: Arc::clone(&self.counter), deaf: false }))
    }

    fn replace(&self, key: &Key, bytes: &[u8]) -> Result<(), StoreError> {
        let fault = self.counter.next();
        fault.around("replace", key, || self.inner.replace(key, shortened(bytes, fault.truncated())))
    }

    fn get(&self, key: &Key) -> Result<Box<dyn Read + Send>, StoreError> {
        self.reader("get", key, || self.inner.get(key))
    }

    fn get_range(&self, key: &Key, offset: u64, length: u64) -> Result<Box<dyn Read + Send>, StoreError> {
        self.reader("get a range of", key, || self.inner.get_range(key, offset, length))
    }

    fn list(&self, prefix: &str, start_after: Option<&str>, limit: usize) -> Result<Vec<Entry>, StoreError> {
        self.counter.next().around("list", prefix, || self.inner.list(prefix, start_after, limit))
    }

    fn delete(&self, keys: &[Key]) -> Result<(), StoreError> {
        let name = keys.first().map(Key::as_str).unwrap_or_default();
        self.counter.next().around("delete", name, || self.inner.delete(keys))
    }

    fn stat(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        self.counter.next().around("stat", key, || self.inner.stat(key))
    }

    fn sweep_unpublished(&self, age: Duration) -> Result<u64, StoreError> {
        self.counter.next().around("sweep", "uploads", || self.inner.sweep_unpublished(age))
    }
}

struct FaultReader {
    inner: Box<dyn Read + Send>,
    counter: Arc<Counter>,
    /// How many bytes are still delivered; `None` for all.
    left: Option<u64>,
}

impl Read for FaultReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let fault = self.counter.next();
        self.left = self.left.or(fault.truncated());
        let count = fault.around_io(|| match self.left {
            Some(left) => self.inner.by_ref().take(left).read(buffer),
            None => self.inner.read(buffer),
        })?;
        self.left = self.left.map(|left| left.saturating_sub(count as u64));
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
        let fault = self.counter.next();
        let left = if self.deaf { Some(0) } else { fault.truncated() };
        if left.is_none() {
            return fault.around_io(|| self.inner.write(bytes));
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
        counter.next().around("publish", name, || inner.publish_new())
    }

    fn abort(self: Box<Self>) {
        self.inner.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{MemoryStore, conformance};
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
