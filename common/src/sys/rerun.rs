//! Runs one test again in a process of its own, for what changes or ends a process.

use std::process::{Command, Output};

const ROLE: &str = "HOLDFAST_TEST_ROLE";

/// What the test is to do in this process; `None` in the first one.
pub(crate) fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// Runs the test of this name (from the crate's root) in a new process with a role.
pub(crate) fn run(test: &str, role: &str) -> Output {
    let program = std::env::current_exe().unwrap();
    Command::new(program).args(["--exact", test, "--nocapture"]).env(ROLE, role).output().unwrap()
}
