//! Who runs the program, and on which host.

use std::ffi::CString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use nix::unistd::{Gid, Uid, User, geteuid, gethostname, initgroups, setgid, setgroups, setuid};

/// Started by root: becomes the owner of `path`, for good, with the owner's groups. Started by anybody else, or where
/// root is the owner: does nothing. The environment stays as it is.
///
/// An owner without an entry in the user database keeps `path`'s group as the only one. To be called before other
/// threads do anything that depends on rights; after an error the process may have some rights less.
pub fn become_owner_of(path: &Path) -> anyhow::Result<()> {
    if !is_root() {
        return Ok(());
    }
    let metadata = std::fs::metadata(path).with_context(|| format!("look at {}", path.display()))?;
    let owner = Uid::from_raw(metadata.uid());
    if owner.is_root() {
        return Ok(());
    }
    let user = User::from_uid(owner).with_context(|| format!("look up the user {owner}"))?;
    let gid = if let Some(user) = user {
        let name = CString::new(user.name).context("read the user database")?;
        initgroups(&name, user.gid).with_context(|| format!("take the groups of the user {owner}"))?;
        user.gid
    } else {
        let gid = Gid::from_raw(metadata.gid());
        setgroups(&[gid]).with_context(|| format!("take the group {gid}"))?;
        gid
    };
    setgid(gid).with_context(|| format!("become a member of the group {gid}"))?;
    setuid(owner).with_context(|| format!("become the user {owner}, the owner of {}", path.display()))
}

/// Whether the program acts with root's rights.
pub fn is_root() -> bool {
    geteuid().is_root()
}

/// The host's name as the kernel knows it; `unknown` where it cannot be had.
pub fn host_name() -> String {
    gethostname()
        .map(|name| name.to_string_lossy().into_owned())
        .ok()
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "unknown".to_owned())
}

/// A name for the time since this machine was started (`/proc/sys/kernel/random/boot_id`); `None` where it cannot be had.
/// What was written since then can be read whole, synced or not.
pub fn boot() -> Option<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(text.trim().to_owned()).filter(|name| !name.is_empty())
}

/// The user's folder: the one that `HOME` names, unless it is another user's, as after [`become_owner_of`]; else the
/// one of the user database.
pub fn home_directory(home: Option<&Path>) -> Option<PathBuf> {
    let is_own = |path: &&Path| path.metadata().is_ok_and(|metadata| metadata.uid() == geteuid().as_raw());
    home.filter(is_own).map(Path::to_path_buf).or_else(|| Some(User::from_uid(geteuid()).ok()??.dir))
}

/// The name of the user whose rights the program has; the number for a user without a name.
pub fn user_name() -> String {
    name_of_user(geteuid().as_raw())
}

/// The name of a user; the number for one without a name.
pub fn name_of_user(uid: u32) -> String {
    match User::from_uid(Uid::from_raw(uid)) {
        Ok(Some(user)) => user.name,
        // Without the user database the number is what can be said.
        Ok(None) | Err(_) => uid.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::rerun;
    use nix::unistd::{getgid, getgroups, getuid};
    use std::os::unix::fs::chown;

    /// The owner is known by number only, or by name (`daemon` is the user 1 everywhere).
    #[test]
    fn root_becomes_the_owner_for_good() {
        if let Some(path) = rerun::role() {
            let metadata = std::fs::metadata(&path).unwrap();
            become_owner_of(Path::new(&path)).unwrap();
            assert_eq!((getuid(), geteuid()), (metadata.uid().into(), metadata.uid().into()));
            assert!(!getgroups().unwrap().contains(&Gid::from_raw(0)) && getgid().as_raw() != 0);
            assert!(setuid(Uid::from_raw(0)).is_err());
            become_owner_of(Path::new(&path)).unwrap();
            return;
        }
        if !is_root() {
            println!("skipped: needs root");
            return;
        }
        for (uid, gid) in [(1, 1), (54_321, 54_322)] {
            let dir = tempfile::tempdir().unwrap();
            chown(dir.path(), Some(uid), Some(gid)).unwrap();
            let test = "sys::identity::tests::root_becomes_the_owner_for_good";
            let output = rerun::run(test, dir.path().to_str().unwrap());
            assert!(output.status.success(), "{output:?}");
            assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "{output:?}");
        }
    }

    #[test]
    fn an_own_file_changes_nothing() {
        let before = geteuid();
        let dir = tempfile::tempdir().unwrap();
        become_owner_of(dir.path()).unwrap();
        assert_eq!(geteuid(), before);
        assert_eq!(is_root(), before.is_root());
    }

    #[test]
    fn names_are_never_empty() {
        assert!(!host_name().is_empty() && !user_name().is_empty());
        assert_eq!((name_of_user(0).as_str(), name_of_user(54_321).as_str()), ("root", "54321"));
    }

    #[test]
    fn root_needs_the_path_to_be_there() {
        let dir = tempfile::tempdir().unwrap();
        let answer = become_owner_of(&dir.path().join("missing"));
        assert_eq!(answer.is_err(), is_root());
    }
}
