//! Directories that nobody but this user can look into or change.
//!
//! What lies in one is believed without further proof, so who owns it is looked at on every use.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::geteuid;

use super::durable;

/// Makes the directory with mode 0700, and those above it, unless it is there. One that is a link, belongs to somebody
/// else or lets others in is refused ([`io::ErrorKind::PermissionDenied`]) and stays as it is.
pub fn make(path: &Path) -> io::Result<()> {
    if is_there(path)? {
        return Ok(());
    }
    durable::create_dir_all(path, 0o700)?;
    is_there(path).map(drop)
}

/// Whether the directory is there and private; refused as by [`make`] when it is there and is not.
pub fn is_there(path: &Path) -> io::Result<bool> {
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        result => result?,
    };
    match fault_of(&metadata) {
        None => Ok(true),
        Some(fault) => Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("{} {fault}", path.display()))),
    }
}

fn fault_of(metadata: &Metadata) -> Option<&'static str> {
    if !metadata.is_dir() {
        Some("is no directory")
    } else if metadata.uid() != geteuid().as_raw() {
        Some("belongs to another user")
    } else if metadata.mode() & 0o077 != 0 {
        Some("is open to other users")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    #[test]
    fn makes_it_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b");
        assert!(!is_there(&path).unwrap());
        make(&path).unwrap();
        make(&path).unwrap();
        assert!(is_there(&path).unwrap());
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn refuses_what_others_can_reach() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        make(&path).unwrap();
        symlink(&path, folder.path().join("link")).unwrap();
        fs::File::create(folder.path().join("file")).unwrap();
        for (name, word) in [("link", "no directory"), ("file", "no directory")] {
            let refusal = make(&folder.path().join(name)).unwrap_err();
            assert!(refusal.to_string().contains(word), "{refusal}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o750)).unwrap();
        let refusal = make(&path).unwrap_err();
        assert_eq!(refusal.kind(), io::ErrorKind::PermissionDenied);
        assert!(refusal.to_string().contains("open to other users"), "{refusal}");
    }

    #[test]
    fn refuses_another_users() {
        if geteuid().is_root() {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("a");
            make(&path).unwrap();
            std::os::unix::fs::chown(&path, Some(1), None).unwrap();
            assert!(make(&path).unwrap_err().to_string().contains("another user"));
        } else {
            println!("skipped: needs root");
        }
    }
}
