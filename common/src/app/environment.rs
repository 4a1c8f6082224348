//! The process's environment, gathered once and passed down as a value, so that tests can make their own.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};

use crate::report::Advice;

/// Variables and the current directory. Its `Debug` shows names alone: values may be secrets.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Environment {
    variables: BTreeMap<OsString, OsString>,
    directory: PathBuf,
}

impl Environment {
    /// That of this process.
    pub fn of_process() -> Self {
        // A directory that was removed under the process leaves relative paths as they are; using them fails then.
        Self { variables: std::env::vars_os().collect(), directory: std::env::current_dir().unwrap_or_default() }
    }

    /// One with these variables and without a current directory.
    pub fn of<N: Into<OsString>, V: Into<OsString>>(variables: impl IntoIterator<Item = (N, V)>) -> Self {
        Self {
            variables: variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
            directory: PathBuf::new(),
        }
    }

    /// The same variables with another current directory.
    #[must_use]
    pub fn in_directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = directory.into();
        self
    }

    /// All variables.
    pub fn variables(&self) -> &BTreeMap<OsString, OsString> {
        &self.variables
    }

    /// The current directory; empty when it is not known.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The variable's value; one that is empty counts as unset.
    pub fn get(&self, name: &str) -> Option<&OsStr> {
        self.variables.get(OsStr::new(name)).map(OsString::as_os_str).filter(|value| !value.is_empty())
    }

    /// Like [`Environment::get`], as text. Bytes that are not UTF-8 are a usage error.
    pub fn text(&self, name: &str) -> Result<Option<&str>, Advice> {
        self.get(name)
            .map(|value| value.to_str().ok_or_else(|| Advice::usage(format!("{name}: the value is not valid UTF-8"))))
            .transpose()
    }

    /// `path` from the current directory, without `.` components. Links and `..` stay as they are.
    pub fn absolute(&self, path: &Path) -> PathBuf {
        self.directory.join(path).components().collect()
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Environment")
            .field("names", &self.variables.keys().collect::<Vec<_>>())
            .field("directory", &self.directory)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt as _;

    #[test]
    fn an_empty_variable_is_unset() {
        let environment = Environment::of([("A", ""), ("B", "x")]);
        assert_eq!(environment.get("A"), None);
        assert_eq!(environment.text("B").unwrap(), Some("x"));
    }

    #[test]
    fn bytes_that_are_no_text_are_named() {
        let environment = Environment::of([("A", OsString::from_vec(vec![0xff]))]);
        assert_eq!(environment.text("A").unwrap_err().message, "A: the value is not valid UTF-8");
    }

    #[test]
    fn debug_output_keeps_secrets() {
        let shown = format!("{:?}", Environment::of([("PGPASSWORD", "tiger")]));
        assert!(shown.contains("PGPASSWORD") && !shown.contains("tiger"), "{shown}");
    }

    #[test]
    fn paths_become_absolute() {
        let environment = Environment::default().in_directory("/home/x");
        assert_eq!(environment.absolute(Path::new("./a/./b")), Path::new("/home/x/a/b"));
        assert_eq!(environment.absolute(Path::new("/a/")), Path::new("/a"));
    }
}
