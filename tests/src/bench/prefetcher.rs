//! The memory of a prefetcher, which nobody starts or waits for.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::process;

/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// The peak memory, in bytes, of the prefetcher that runs on this data directory while `act` lasts; 0 when none was seen.
pub fn watched<T>(pgdata: &Path, act: impl FnOnce() -> T) -> (T, u64) {
    let (over, peak) = (AtomicBool::new(false), AtomicU64::new(0));
    let done = thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                let found = process::find(pgdata, "--prefetcher").ok().flatten().and_then(process::peak_memory);
                peak.fetch_max(found.unwrap_or(0), Ordering::SeqCst);
                thread::sleep(LOOK);
            }
        });
        let done = act();
        over.store(true, Ordering::SeqCst);
        done
    });
    (done, peak.into_inner())
}
