//! A repository's objects, and damage done to them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use common::sys::durable;

use crate::process;
use crate::sandbox::{Sandbox, walk};

/// The ends of names that say how an object is compressed.
const CODECS: [&str; 3] = ["zst", "lz4", "gz"];

/// A repository in a folder of the sandbox. Holdfast makes the content; this only looks, and breaks things.
#[derive(Debug, Clone)]
pub struct Repo {
    sandbox: Sandbox,
    path: PathBuf,
}

impl Repo {
    /// A repository called `name`, still empty.
    pub fn new(sandbox: &Sandbox, name: &str) -> Result<Self> {
        Ok(Self { path: sandbox.folder(name)?, sandbox: sandbox.clone() })
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it, and what its writers remember of it: to them it was never there.
    pub fn forget(&self) -> Result<()> {
        self.sandbox.clear(&self.path)?;
        // The folders stay: nobody has to make them again in the middle of a loop.
        for folder in ["home/.local", "home/.local/state", "home/.local/state/holdfast"] {
            self.sandbox.folder(folder)?;
        }
        let memory = self.sandbox.folder("home/.local/state/holdfast/repositories")?;
        walk(&memory).iter().try_for_each(|path| self.sandbox.clear(path))
    }

    /// Its folder as an argument of a program.
    pub fn arg(&self) -> Result<&str> {
        self.path.to_str().context("a path of a test is text")
    }

    /// The object that holds the WAL file of this name, when there is one.
    pub fn find_wal(&self, name: &str) -> Option<PathBuf> {
        self.wal_objects().remove(name)
    }

    /// The object that holds the WAL file of this name.
    pub fn wal(&self, name: &str) -> Result<PathBuf> {
        self.find_wal(name).with_context(|| format!("no object for {name} in {}", self.path.display()))
    }

    /// Every archived WAL file's name, and its object.
    pub fn wal_objects(&self) -> BTreeMap<String, PathBuf> {
        let files = walk(&self.path).into_iter().filter(|path| path.iter().any(|part| part == "wal"));
        files.filter_map(|path| Some((wal_name(&path)?, path))).collect()
    }

    /// The archived whole segments' names, in order.
    pub fn segments(&self) -> Vec<String> {
        self.wal_objects().into_keys().filter(|name| name.len() == 24).collect()
    }

    /// The ids of the backups that are committed, in order.
    pub fn backups(&self) -> Vec<String> {
        let records = walk(&self.path).into_iter().filter(|path| path.ends_with("backup.json"));
        let mut ids: Vec<String> =
            records.filter_map(|path| Some(path.parent()?.file_name()?.to_str()?.to_owned())).collect();
        ids.sort();
        ids
    }

    /// An object of a backup, found by the beginning of its name.
    pub fn backup_object(&self, id: &str, prefix: &str) -> Result<PathBuf> {
        let found = walk(&self.path).into_iter().find(|path| {
            path.iter().any(|part| part == id)
                && path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(prefix))
        });
        found.with_context(|| format!("no object {prefix}* in backup {id}"))
    }

    /// The plain bytes of an object, unpacked by the stock tools.
    pub fn unpack(&self, object: &Path) -> Result<Vec<u8>> {
        let tool = match object.extension().and_then(|end| end.to_str()) {
            Some("zst") => "zstd",
            Some("lz4") => "lz4",
            Some("gz") => "gzip",
            _ => return fs::read(object).with_context(|| format!("read {}", object.display())),
        };
        let output = Command::new(tool).arg("-dc").arg(object).output()?;
        ensure!(output.status.success(), "{tool} cannot unpack {}", object.display());
        Ok(output.stdout)
    }

    /// Every visible object: all files but those under a temporary name.
    pub fn objects(&self) -> Vec<PathBuf> {
        let is_temporary = |path: &PathBuf| path.file_name().is_some_and(durable::is_temporary_name);
        walk(&self.path).into_iter().filter(|path| !is_temporary(path)).collect()
    }

    /// Fails unless every visible object is whole: read to its end by the stock tool, or one JSON document.
    pub fn require_whole(&self) -> Result<()> {
        let mut packed: BTreeMap<&str, Vec<PathBuf>> = BTreeMap::new();
        for object in self.objects() {
            match object.extension().and_then(|end| end.to_str()) {
                Some("zst") => packed.entry("zstd").or_default().push(object),
                Some("lz4") => packed.entry("lz4").or_default().push(object),
                Some("gz") => packed.entry("gzip").or_default().push(object),
                Some("json") => {}
                _ => bail!("{} is no object of a repository", object.display()),
            }
        }
        for (tool, objects) in packed {
            process::run(Command::new(tool).arg("-tq").args(objects), "")?.success()?;
        }
        self.require_json()
    }

    /// Fails unless every visible record is one JSON document.
    pub fn require_json(&self) -> Result<()> {
        for object in self.objects().iter().filter(|object| object.extension().is_some_and(|end| end == "json")) {
            let _whole: serde_json::Value = serde_json::from_slice(&fs::read(object)?)
                .with_context(|| format!("{} is no JSON document", object.display()))?;
        }
        Ok(())
    }

    /// What the repository holds: names, and a digest of each content.
    pub fn fingerprint(&self) -> Result<BTreeMap<PathBuf, u64>> {
        fingerprint(&self.path)
    }

    /// Changes one bit of the byte at `offset`.
    pub fn flip(&self, object: &Path, offset: usize) -> Result<()> {
        self.change(object, |bytes| {
            let length = bytes.len();
            let byte = bytes.get_mut(offset).with_context(|| format!("no byte {offset} in {length}"))?;
            *byte ^= 0x10;
            Ok(())
        })
    }

    /// Cuts the object off after `length` bytes.
    pub fn truncate(&self, object: &Path, length: usize) -> Result<()> {
        self.change(object, |bytes| {
            bytes.truncate(length);
            Ok(())
        })
    }

    /// Removes the object.
    pub fn remove(&self, object: &Path) -> Result<()> {
        fs::remove_file(object).with_context(|| format!("remove {}", object.display()))
    }

    /// Puts other bytes in the object's place.
    pub fn replace(&self, object: &Path, content: &[u8]) -> Result<()> {
        if object.exists() {
            fs::set_permissions(object, fs::Permissions::from_mode(0o600))?;
        }
        self.sandbox.write(object, content)
    }

    /// Takes the whole repository out of reach; the answer brings it back to where it was.
    #[expect(clippy::disallowed_methods, reason = "an unmounted disk, played by a rename")]
    pub fn take_away(&self) -> Result<Away> {
        let elsewhere = self.path.with_extension("away");
        fs::rename(&self.path, &elsewhere)?;
        Ok(Away { elsewhere, home: self.path.clone() })
    }

    fn change(&self, object: &Path, change: impl FnOnce(&mut Vec<u8>) -> Result<()>) -> Result<()> {
        let mut bytes = fs::read(object).with_context(|| format!("read {}", object.display()))?;
        change(&mut bytes)?;
        self.replace(object, &bytes)
    }
}

/// A repository out of reach.
#[derive(Debug)]
#[must_use = "the repository stays away"]
pub struct Away {
    elsewhere: PathBuf,
    home: PathBuf,
}

impl Away {
    /// Brings the repository back.
    #[expect(clippy::disallowed_methods, reason = "a disk mounted again, played by a rename")]
    pub fn bring_back(self) -> Result<()> {
        fs::rename(&self.elsewhere, &self.home).context("bring the repository back")
    }
}

/// Every file below `dir`, symbolic links not followed, and a digest of its content: of a link, of where it leads.
pub fn fingerprint(dir: &Path) -> Result<BTreeMap<PathBuf, u64>> {
    let content = |path: &Path| match fs::read_link(path) {
        Ok(target) => Ok(target.into_os_string().into_encoded_bytes()),
        Err(_) => fs::read(path),
    };
    walk(dir).into_iter().map(|path| Ok((path.clone(), digest(&content(&path)?)))).collect()
}

/// The WAL file whose content the object at `path` holds.
fn wal_name(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let stem = match name.rsplit_once('.') {
        Some((stem, end)) if CODECS.contains(&end) => stem,
        _ => name,
    };
    common::pg::ArchiveName::parse(stem).map(|name| name.to_string())
}

fn digest(bytes: &[u8]) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("000000010000000000000007.zst", Some("000000010000000000000007"))]
    #[case("000000010000000000000007.partial.lz4", Some("000000010000000000000007.partial"))]
    #[case("00000002.history.gz", Some("00000002.history"))]
    #[case("000000010000000000000007", Some("000000010000000000000007"))]
    #[case("00000002.abandoned.json", None)]
    fn objects_are_named_after_wal_files(#[case] object: &str, #[case] name: Option<&str>) {
        assert_eq!(wal_name(&Path::new("/r/main/wal/1").join(object)).as_deref(), name);
    }
}
