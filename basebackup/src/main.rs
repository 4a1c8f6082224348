//! Takes base backups; see the library of the same name.

use std::process::ExitCode;

use basebackup::cli::Cli;
use common::app::{self, Program};

fn main() -> ExitCode {
    app::main::<Cli>(Program::Basebackup, |cli| &cli.common, basebackup::run)
}
