//! Waiting for a condition, never for a time.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long a story waits for anything.
pub const DEADLINE: Duration = Duration::from_mins(1);

/// Asks until the answer is yes; an error ends the waiting, and so does [`DEADLINE`], naming `what`.
pub fn until(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    for_some(what, || Ok(done()?.then_some(())))
}

/// Asks until there is an answer.
pub fn for_some<T>(what: &str, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + DEADLINE;
    let mut pause = Duration::from_millis(2);
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        if Instant::now() > deadline {
            bail!("waited {DEADLINE:?} in vain until {what}");
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}
