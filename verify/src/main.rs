//! Proves that backups restore; everything is in the library.

use std::process::ExitCode;

use common::app::{self, Program};

fn main() -> ExitCode {
    app::main(Program::Verify, |cli: &verify::Cli| &cli.common, verify::run)
}
