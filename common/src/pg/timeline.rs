//! Timeline identifiers.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A timeline's number; the first is 1. Printed in decimal; in file names it is eight hexadecimal digits
/// ([`TimelineId::hex`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TimelineId(pub u32);

impl TimelineId {
    /// The timeline's part of a file name: `00000001`.
    pub fn hex(self) -> String {
        format!("{:08X}", self.0)
    }

    /// The name of the timeline's history file: `00000002.history`.
    pub fn history_file(self) -> String {
        format!("{:08X}.history", self.0)
    }
}

impl fmt::Display for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
