//! PostgreSQL's `archive_command`; everything is in the library.

use std::process::ExitCode;

use common::app::{self, Program};

fn main() -> ExitCode {
    app::main_in(
        Program::ArchiveWal,
        |cli: &archive_wal::Cli| &cli.common,
        archive_wal::data_directory,
        archive_wal::run,
    )
}
