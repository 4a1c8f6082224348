//! Ends work in an orderly way when somebody asks for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::thread;

use anyhow::Context as _;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::report::Cancel;

/// The signal that ended the work, once there was one.
#[derive(Debug, Clone, Default)]
pub struct Received(Arc<AtomicI32>);

impl Received {
    /// The number of the first signal that came.
    pub fn signal(&self) -> Option<i32> {
        match self.0.load(Ordering::SeqCst) {
            0 => None,
            signal => Some(signal),
        }
    }

    fn note(&self, signal: i32) {
        // Only the first one counts: why we stop does not change any more.
        if self.0.compare_exchange(0, signal, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            tracing::debug!(signal, "asked to stop");
        }
    }
}

/// From now on SIGTERM, SIGINT, SIGHUP and SIGQUIT cancel the work instead of ending the process. A second SIGINT ends
/// it as usual, for the person at the keyboard. To be called once, early; it starts a thread.
///
/// SIGQUIT is what a server's immediate shutdown sends to its commands (`signal_child` in
/// `src/backend/postmaster/postmaster.c`): unheeded, it would leave half a segment in `pg_wal` that nobody removes.
pub fn cancel_on_termination(cancel: &Cancel) -> anyhow::Result<Received> {
    let interrupted = Arc::new(AtomicBool::new(false));
    // In this order: the first SIGINT finds the flag unset, and sets it.
    signal_hook::flag::register_conditional_default(SIGINT, Arc::clone(&interrupted))
        .and_then(|_| signal_hook::flag::register(SIGINT, interrupted))
        .context("register the handler of SIGINT")?;
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGQUIT]).context("register the handlers of signals")?;
    let received = Received::default();
    let (cancel, noted) = (cancel.clone(), received.clone());
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            for signal in signals.forever() {
                noted.note(signal);
                cancel.cancel();
            }
        })
        .context("start the thread that waits for signals")?;
    Ok(received)
}

/// Ends the process as the signal would have, had it not been handled: the parent sees a death by that signal.
pub fn die_of(signal: i32) -> ! {
    // Comes back only for a signal that does not end a process, and then there is nothing to do but to end all the same.
    drop(signal_hook::low_level::emulate_default_handler(signal));
    std::process::abort()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::clock::{Deadline, poll};
    use crate::sys::rerun;
    use std::os::unix::process::ExitStatusExt;
    use std::time::Duration;

    fn wait_for(cancel: &Cancel) {
        let deadline = Deadline::after(Duration::from_mins(1));
        let arrived =
            poll(deadline, Duration::from_millis(1), &Cancel::default(), || Ok(cancel.is_cancelled().then_some(())));
        assert_eq!(arrived.unwrap(), Some(()));
    }

    #[test]
    fn the_first_signal_cancels_and_is_remembered() {
        let cancel = Cancel::default();
        let received = cancel_on_termination(&cancel).unwrap();
        assert_eq!(received.signal(), None);
        signal_hook::low_level::raise(SIGTERM).unwrap();
        wait_for(&cancel);
        assert_eq!(received.signal(), Some(SIGTERM));
        received.note(SIGHUP);
        assert_eq!(received.signal(), Some(SIGTERM));
    }

    /// The signals of a server's shutdowns, and of a terminal that goes away. In a process of its own each: one that is
    /// not heeded ends it.
    #[test]
    fn every_wish_to_end_is_heeded() {
        const TEST: &str = "sys::signals::tests::every_wish_to_end_is_heeded";
        if let Some(signal) = rerun::role() {
            let cancel = Cancel::default();
            let received = cancel_on_termination(&cancel).unwrap();
            let signal = signal.parse().unwrap();
            signal_hook::low_level::raise(signal).unwrap();
            wait_for(&cancel);
            assert_eq!(received.signal(), Some(signal));
            return;
        }
        for signal in [SIGTERM, SIGINT, SIGHUP, SIGQUIT] {
            let output = rerun::run(TEST, &signal.to_string());
            assert!(output.status.success(), "{output:?}");
        }
    }

    #[test]
    fn the_second_interrupt_ends_the_process() {
        if rerun::role().is_none() {
            let output = rerun::run("sys::signals::tests::the_second_interrupt_ends_the_process", "child");
            assert!(String::from_utf8_lossy(&output.stdout).contains("survived the first"), "{output:?}");
            assert_eq!(output.status.signal(), Some(SIGINT), "{output:?}");
            return;
        }
        let cancel = Cancel::default();
        cancel_on_termination(&cancel).unwrap();
        signal_hook::low_level::raise(SIGINT).unwrap();
        wait_for(&cancel);
        println!("survived the first");
        signal_hook::low_level::raise(SIGINT).unwrap();
        panic!("survived the second");
    }

    #[test]
    fn dying_of_a_signal_looks_like_it() {
        if let Some(signal) = rerun::role() {
            cancel_on_termination(&Cancel::default()).unwrap();
            die_of(signal.parse().unwrap());
        }
        for signal in [SIGTERM, SIGINT, SIGHUP] {
            let output = rerun::run("sys::signals::tests::dying_of_a_signal_looks_like_it", &signal.to_string());
            assert_eq!(output.status.signal(), Some(signal), "{output:?}");
        }
    }
}
