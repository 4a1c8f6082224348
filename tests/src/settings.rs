//! What the person who runs the tests can set, and what the tests tell that person.
//!
//! `HOLDFAST_TEST_SEED` repeats a random story, `HOLDFAST_TEST_ROUNDS` says how many rounds it has,
//! `HOLDFAST_TEST_PG_BIN` chooses the PostgreSQL, `HOLDFAST_TEST_BIN` Holdfast's programs, `HOLDFAST_TEST_USER` the
//! account of the servers, and `HOLDFAST_TEST_KEEP=1` keeps the folders of the stories.

use std::io::Write;
use std::str::FromStr;

use nix::unistd::Uid;

/// How many rounds a random story has when nothing else is said.
const ROUNDS_DEFAULT: u32 = 10;

/// The seed of a random story, printed so that a failure can be repeated.
pub fn seed(story: &str) -> u64 {
    let seed = variable("HOLDFAST_TEST_SEED").unwrap_or_else(|| fastrand::u64(1..1_000_000));
    tell(&format!("{story}: HOLDFAST_TEST_SEED={seed}"));
    seed
}

/// The number of rounds of a random story, printed.
pub fn rounds(story: &str) -> u32 {
    let rounds = variable("HOLDFAST_TEST_ROUNDS").unwrap_or(ROUNDS_DEFAULT);
    tell(&format!("{story}: HOLDFAST_TEST_ROUNDS={rounds}"));
    rounds
}

/// How many rounds a soak has at least.
const ROUNDS_SOAK: u32 = 100;

/// Whether everything is tried where a sample does otherwise: in a soak.
pub fn is_soak() -> bool {
    variable("HOLDFAST_TEST_ROUNDS").unwrap_or(ROUNDS_DEFAULT) >= ROUNDS_SOAK
}

/// Whether folders stay for a look afterwards.
pub fn keep() -> bool {
    variable::<u8>("HOLDFAST_TEST_KEEP").is_some_and(|value| value != 0)
}

/// Whether this test may go on; without root it prints the line that `make test` counts.
pub fn has_root(test: &str) -> bool {
    let root = Uid::effective().is_root();
    if !root {
        tell(&format!("skipped: needs root: {test}"));
    }
    root
}

/// One line for the person, past the test harness' capture of output.
pub fn tell(line: &str) {
    // Nobody to tell is no reason to fail.
    drop(writeln!(std::io::stderr(), "{line}"));
}

fn variable<T: FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok()?.parse().ok()
}
