//! Removes what the policy no longer needs; everything is in the library.

use std::process::ExitCode;

use common::app::{self, Program};

fn main() -> ExitCode {
    app::main(Program::Retention, |cli: &retention::Cli| &cli.common, retention::run)
}
