//! What `main` hands to every program.

use std::path::PathBuf;
use std::sync::Arc;

use super::config::Settings;
use super::environment::Environment;
use super::exit::Program;
use super::output::Output;
use crate::report::{Cancel, Progress};
use crate::sys::clock::Clock;

/// The world outside, made once and passed down.
pub struct Context {
    /// Which program this is.
    pub program: Program,
    /// What the user configured.
    pub settings: Settings,
    /// The data directory that the program works for, where it is known: what it found out itself, else what is
    /// configured.
    pub data_directory: Option<PathBuf>,
    /// Environment variables and the current directory.
    pub environment: Environment,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Standard output.
    pub output: Output,
    /// Where long work tells how far it is.
    pub progress: Arc<dyn Progress>,
    /// Set when the process is asked to stop; long work ends with [`crate::report::Interrupted`] then.
    pub cancel: Cancel,
}
