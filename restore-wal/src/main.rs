//! PostgreSQL's `restore_command`; everything is in the library.

use std::process::ExitCode;

use common::app::{self, Program};

fn main() -> ExitCode {
    app::main_in(
        Program::RestoreWal,
        |cli: &restore_wal::Cli| &cli.common,
        restore_wal::data_directory,
        restore_wal::run,
    )
}
