//! From what the user wrote to a store.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::Arc;

use percent_encoding::percent_decode_str;

use super::{FaultStore, LocalStore, Store};
use crate::report::Advice;
use crate::sys::faults;

/// The store at an absolute path or a `file://` URL. Touches nothing yet: a store that is not there is made by the
/// first write.
pub fn open(url: &str) -> Result<Arc<dyn Store>, Advice> {
    let path = match url.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("file") => path_of_file_url(rest)
            .ok_or_else(|| Advice::usage(format!("{url:?} names no local path")).hint("write file:///absolute/path"))?,
        Some((scheme, _)) => {
            // Not the whole URL: it may hold a password.
            return Err(Advice::usage(format!("this build knows no {scheme}:// repositories"))
                .hint("use an absolute path or file:///absolute/path"));
        }
        None => PathBuf::from(url),
    };
    if path.is_absolute() {
        let store = LocalStore::open(path);
        Ok(match faults::stores() {
            Some(counter) => Arc::new(FaultStore::counted_by(store, counter)),
            None => Arc::new(store),
        })
    } else {
        Err(Advice::usage(format!("the repository {url:?} is no absolute path"))
            .hint("write the path from the root, beginning with /"))
    }
}

/// What stands after `file://`: an optional host, which must be this one, and a percent-encoded path.
fn path_of_file_url(rest: &str) -> Option<PathBuf> {
    let (host, path) = rest.split_at(rest.find('/')?);
    let local = host.is_empty() || host.eq_ignore_ascii_case("localhost");
    let bytes: Vec<u8> = percent_decode_str(path).collect();
    (local && !bytes.contains(&0)).then(|| PathBuf::from(OsString::from_vec(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::ExitClass;
    use rstest::rstest;

    #[rstest]
    #[case("/srv/repo", "/srv/repo")]
    #[case("file:///srv/repo", "/srv/repo")]
    #[case("FILE://localhost/srv/my%20repo", "/srv/my repo")]
    fn opens(#[case] url: &str, #[case] path: &str) {
        assert_eq!(open(url).unwrap().describe(), path);
    }

    #[rstest]
    #[case("")]
    #[case("repo")]
    #[case("./repo")]
    #[case("file://elsewhere/repo")]
    #[case("file://")]
    #[case("file:///a%00b")]
    fn refuses(#[case] url: &str) {
        let advice = open(url).unwrap_err();
        assert_eq!(advice.class, ExitClass::Usage);
        assert!(advice.message.contains(&format!("{url:?}")) && advice.hint.is_some(), "{advice}");
    }

    #[test]
    fn another_scheme_is_refused_without_its_secrets() {
        let advice = open("s3://key:secret@bucket/prefix").unwrap_err();
        assert_eq!(advice.class, ExitClass::Usage);
        assert!(advice.message.contains("s3://") && !advice.message.contains("secret"), "{advice}");
    }
}
