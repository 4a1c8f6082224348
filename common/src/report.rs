//! What lower layers say and `app` renders: advice on an error, progress, cancellation.
//!
//! Nothing here prints or exits. An [`Advice`] travels inside an [`anyhow::Error`], as its root or as a context; the
//! outermost one decides the exit class and the hint.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// How a program ended, in the words of the exit-code table; `app::exit` turns it into a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ExitClass {
    /// Everything that was asked for is done (0).
    Done,
    /// It failed; nothing more specific is known (1).
    Failed,
    /// The arguments or the configuration are wrong (2).
    Usage,
    /// The work was done and it found something bad (3).
    Findings,
    /// Some of the work is done, some is not (4).
    PartDone,
    /// There is no repository, or no such cluster in it (10).
    NoRepository,
    /// Somebody else is at work on the same thing (11).
    Locked,
    /// The contents cannot be decrypted with the keys at hand (12).
    CannotDecrypt,
    /// Refused because going on could lose data (20).
    Refused,
}

/// A message with an exit class and, where there is a next thing to type, a hint.
///
/// Use it as the root of an error (`Err(Advice::refused("…").hint("…").into())`) or as a context
/// (`.context(Advice::usage("…"))`). The message is lower case, without a final stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advice {
    /// How the program ends when this error reaches `main`.
    pub class: ExitClass,
    /// What went wrong; names the thing.
    pub message: String,
    /// The next thing to do or to type.
    pub hint: Option<String>,
}

impl Advice {
    /// A message of the given class, without a hint yet.
    pub fn new(class: ExitClass, message: impl Into<String>) -> Self {
        Self { class, message: message.into(), hint: None }
    }

    /// A failure with nothing more specific (exit 1).
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(ExitClass::Failed, message)
    }

    /// Wrong arguments or configuration (exit 2).
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(ExitClass::Usage, message)
    }

    /// Refused for safety (exit 20).
    pub fn refused(message: impl Into<String>) -> Self {
        Self::new(ExitClass::Refused, message)
    }

    /// No repository, or no such cluster in it (exit 10).
    pub fn no_repository(message: impl Into<String>) -> Self {
        Self::new(ExitClass::NoRepository, message)
    }

    /// The same advice with a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Advice {}

/// The chain of an error in one line, as `main` would say it: nothing twice, the system's answers in plain words.
pub fn message_of(error: &anyhow::Error) -> String {
    let mut message = String::new();
    for text in error.chain().map(ToString::to_string).filter(|text| !text.is_empty()) {
        // An error whose text already ends in its source's would say it twice.
        if message.ends_with(&text) {
            continue;
        }
        if !message.is_empty() {
            message.push_str(": ");
        }
        message.push_str(&text);
    }
    for system in error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>()) {
        message = message.replace(&system.to_string(), &system_error(system));
    }
    message
}

/// "permission denied" rather than "Permission denied (os error 13)".
pub(crate) fn system_error(error: &io::Error) -> String {
    let text = error.to_string();
    let Some(number) = error.raw_os_error() else { return text };
    let text = text.strip_suffix(&format!(" (os error {number})")).unwrap_or(&text);
    let mut characters = text.chars();
    let (first, second) = (characters.next(), characters.clone().next());
    match (first, second) {
        // "RPC …" and "NFS …" stay as they are.
        (Some(first), Some(second)) if second.is_lowercase() => first.to_lowercase().chain(characters).collect(),
        _ => text.to_owned(),
    }
}

/// Where long work tells how far it is. Implementations never fail and never block for long.
pub trait Progress: Send + Sync {
    /// A phase begins; `total` is in plain bytes where it is known.
    fn begin(&self, phase: &str, total: Option<u64>);
    /// `bytes` more plain bytes of the current phase are done.
    fn advance(&self, bytes: u64);
    /// What else there is to tell of the current phase, such as the moment that a replay has come to; it replaces what
    /// was told before.
    fn note(&self, _text: &str) {}
    /// The current phase is over.
    fn end(&self);
}

/// A [`Progress`] that says nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _phase: &str, _total: Option<u64>) {}
    fn advance(&self, _bytes: u64) {}
    fn end(&self) {}
}

/// A flag that asks long work to stop at its next safe point. Clones share the flag.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

/// The error of work that stopped because it was asked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

impl Cancel {
    /// A flag that shares `flag`, for a signal handler to set.
    pub fn sharing(flag: Arc<AtomicBool>) -> Self {
        Self(flag)
    }

    /// Asks for the stop. Calling it twice changes nothing.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether the stop was asked for.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// [`Interrupted`] once the stop was asked for.
    pub fn check(&self) -> Result<(), Interrupted> {
        if self.is_cancelled() { Err(Interrupted) } else { Ok(()) }
    }
}
