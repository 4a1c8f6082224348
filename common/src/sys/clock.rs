//! Time: what the calendar says, and how long something takes.
//!
//! Decisions get a [`Clock`]'s answer as a parameter; waiting is always bounded by a [`Deadline`] and stops when the
//! work is cancelled.

use std::fmt::Debug;
use std::thread;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};

use crate::report::Cancel;

/// The longest sleep between two looks at the cancellation flag.
const NAP_MAX: Duration = Duration::from_millis(50);

/// Says what time it is.
pub trait Clock: Send + Sync + Debug {
    /// The present moment; may jump in either direction between two calls.
    fn now(&self) -> DateTime<Utc>;
}

/// The operating system's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this module is where the clock is read")]
    fn now(&self) -> DateTime<Utc> {
        Utc::now()
    }
}

/// A clock that stands still.
#[derive(Debug, Clone, Copy)]
pub struct FixedClock(pub DateTime<Utc>);

impl Clock for FixedClock {
    fn now(&self) -> DateTime<Utc> {
        self.0
    }
}

/// Measures how long something takes; not disturbed by changes of the system's time.
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Begins now.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// The time since the start.
    pub fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

/// A moment after which waiting is over; not disturbed by changes of the system's time.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    /// `None` is further away than the clock can say.
    end: Option<Instant>,
}

impl Deadline {
    /// So long from now.
    pub fn after(time: Duration) -> Self {
        Self { end: Instant::now().checked_add(time) }
    }

    /// Whether the moment has come.
    pub fn passed(&self) -> bool {
        self.remaining().is_zero()
    }

    /// The time until then; zero afterwards.
    pub fn remaining(&self) -> Duration {
        self.end.map_or(Duration::MAX, |end| end.saturating_duration_since(Instant::now()))
    }
}

/// Asks `f` until it has an answer, with a `pause` between two questions; `None` once the deadline has passed.
///
/// `f` is asked at least once, and once more after the last pause. Its error ends the wait;
/// [`Interrupted`](crate::report::Interrupted) when the work is cancelled.
pub fn poll<T>(
    deadline: Deadline,
    pause: Duration,
    cancel: &Cancel,
    mut f: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<Option<T>> {
    loop {
        cancel.check()?;
        if let Some(answer) = f()? {
            return Ok(Some(answer));
        }
        if deadline.passed() {
            return Ok(None);
        }
        sleep_unless(cancel, pause.min(deadline.remaining()));
    }
}

/// Sleeps, but wakes soon after a cancellation.
fn sleep_unless(cancel: &Cancel, time: Duration) {
    let end = Deadline::after(time);
    while !end.passed() && !cancel.is_cancelled() {
        thread::sleep(end.remaining().min(NAP_MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Interrupted;

    #[test]
    fn polls_until_there_is_an_answer() {
        let mut asked = 0;
        let answer = poll(Deadline::after(Duration::MAX), Duration::ZERO, &Cancel::default(), || {
            asked += 1;
            Ok((asked == 3).then_some(asked))
        });
        assert_eq!(answer.unwrap(), Some(3));
    }

    #[test]
    fn a_passed_deadline_still_asks_once() {
        let mut asked = 0;
        let answer = poll(Deadline::after(Duration::ZERO), Duration::MAX, &Cancel::default(), || {
            asked += 1;
            Ok(None::<()>)
        });
        assert_eq!((answer.unwrap(), asked), (None, 1));
    }

    #[test]
    fn an_error_ends_it() {
        let answer = poll(Deadline::after(Duration::MAX), Duration::MAX, &Cancel::default(), || {
            Err::<Option<()>, _>(anyhow::anyhow!("broken"))
        });
        assert_eq!(answer.unwrap_err().to_string(), "broken");
    }

    #[test]
    fn a_cancellation_ends_it_within_a_pause() {
        let cancel = Cancel::default();
        let answer = poll(Deadline::after(Duration::MAX), Duration::MAX, &cancel, || {
            cancel.cancel();
            Ok(None::<()>)
        });
        assert!(answer.unwrap_err().is::<Interrupted>());
    }

    #[test]
    fn a_fixed_clock_stands_still() {
        let moment = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
        assert_eq!(FixedClock(moment).now(), moment);
        assert!(SystemClock.now() > moment);
    }
}
