//! Brings a cluster back to a moment; everything is in the library.

use std::process::ExitCode;

use common::app::{self, Program};

fn main() -> ExitCode {
    app::main(Program::Recover, |cli: &recover::Cli| &cli.common, recover::run)
}
