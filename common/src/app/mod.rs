//! What every program's `main` needs: options, configuration, logging, output, exit codes.
//!
//! This is the only layer that reads the environment, prints, or decides how the process ends. A program's `main.rs`
//! names its [`Program`] and hands [`main`] its parser and its `run`; `run` gets everything else in a [`Context`].
//!
//! ```no_run
//! use common::app::{self, CommonArgs, Context, Outcome, Program};
//!
//! #[derive(clap::Parser)]
//! struct Cli {
//!     #[command(flatten)]
//!     common: CommonArgs,
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     app::main::<Cli>(Program::Verify, |cli| &cli.common, |_cli, ctx| {
//!         ctx.output.line("nothing to do")?;
//!         Ok(Outcome::Done)
//!     })
//! }
//! ```

pub mod cli;
pub mod config;
mod config_file;
mod connection;
pub mod context;
pub mod environment;
pub mod exit;
mod failure;
pub mod logging;
pub mod output;
mod panic;
pub mod progress;
pub mod run;
pub mod server_files;
mod suggest;

pub use cli::{CommonArgs, ServerArgs};
pub use config::{Origin, RepositorySetting, Settings, Sourced};
pub use context::Context;
pub use environment::Environment;
pub use exit::Program;
pub use failure::hint_of;
pub use output::Output;
pub use run::{Outcome, main, main_in};
pub use suggest::nearest;
