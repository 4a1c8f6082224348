//! Configuration that lies outside the data directory, as on Debian: a lost server would be without it.
//!
//! It goes into a tar archive of its own, with absolute paths less their leading slash. Private keys never do.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use common::repo::layout::backup_object;
use common::repo::part::Attributes;
use common::repo::records::ObjectRecord;
use common::server::ServerFacts;
use common::sys::faults;
use tar::{Builder, Header};

use crate::copy::attributes;
use crate::object::Target;

/// No configuration file is larger than this.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What a private key in PEM has in its first line, whatever kind of key it is.
const PRIVATE_KEY: &[u8] = b"PRIVATE KEY-----";

/// Stores the configuration files that the scan of the data directory does not take; none when there are none.
///
/// A file that cannot be read is warned of and left out: the backup is whole without it.
pub(crate) fn store(facts: &ServerFacts, pgdata: &Path, target: Target<'_>) -> anyhow::Result<Option<ObjectRecord>> {
    let paths = outside(&facts.config_files, pgdata);
    let mut archive = Builder::new(Vec::new());
    let mut stored = 0;
    for path in paths {
        match read(&path) {
            Ok(Contents::File(attributes, bytes)) => {
                add(&mut archive, &path, attributes, &bytes).with_context(|| format!("archive {}", path.display()))?;
                stored += 1;
            }
            Ok(Contents::Absent) => {}
            Ok(Contents::LeftOut(reason)) => {
                tracing::warn!("{} is not in the backup: {reason}", path.display());
            }
            Err(err) => tracing::warn!("{} is not in the backup: {err}", path.display()),
        }
    }
    if stored == 0 {
        return Ok(None);
    }
    let bytes = archive.into_inner().context("archive the configuration")?;
    target.put(&backup_object::config(target.codec()), &bytes).map(Some)
}

/// The files that lie outside the data directory, or in it as links to the outside.
fn outside(files: &[PathBuf], pgdata: &Path) -> Vec<PathBuf> {
    let is_copied = |file: &Path| file.starts_with(pgdata) && file.symlink_metadata().is_ok_and(|it| it.is_file());
    files.iter().filter(|file| file.is_absolute() && !is_copied(file)).cloned().collect()
}

/// What became of reading a configuration file.
enum Contents {
    File(Attributes, Vec<u8>),
    /// Named somewhere, but not there.
    Absent,
    LeftOut(&'static str),
}

fn read(path: &Path) -> io::Result<Contents> {
    let file = match faults::call("open", path, || File::open(path)) {
        Ok(file) => file,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Contents::Absent),
        Err(err) => return Err(err),
    };
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Ok(Contents::LeftOut("it is no file"));
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Ok(Contents::LeftOut("it is too large for a configuration file"));
    }
    if bytes.windows(PRIVATE_KEY.len()).any(|window| window == PRIVATE_KEY) {
        return Ok(Contents::LeftOut("it holds a private key"));
    }
    Ok(Contents::File(attributes(&metadata), bytes))
}

fn add(archive: &mut Builder<Vec<u8>>, path: &Path, attributes: Attributes, bytes: &[u8]) -> io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_mode(attributes.mode);
    header.set_mtime(attributes.modified);
    header.set_size(bytes.len() as u64);
    let relative = path.strip_prefix("/").unwrap_or(path);
    archive.append_data(&mut header, relative, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::sys::durable;
    use std::os::unix::fs::symlink;

    #[test]
    fn takes_what_the_data_directory_does_not_have() {
        let directory = tempfile::tempdir().unwrap();
        let (pgdata, etc) = (directory.path().join("data"), directory.path().join("etc"));
        for folder in [&pgdata, &etc] {
            std::fs::create_dir(folder).unwrap();
        }
        for file in [pgdata.join("pg_hba.conf"), etc.join("postgresql.conf")] {
            durable::replace(&file, b"x", 0o600).unwrap();
        }
        symlink(etc.join("postgresql.conf"), pgdata.join("linked.conf")).unwrap();
        let named: Vec<_> =
            [pgdata.join("pg_hba.conf"), pgdata.join("linked.conf"), etc.join("postgresql.conf"), "relative".into()]
                .into();
        assert_eq!(outside(&named, &pgdata), [pgdata.join("linked.conf"), etc.join("postgresql.conf")]);
    }

    #[test]
    fn leaves_private_keys_out() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("server.key");
        durable::replace(&path, b"-----BEGIN EC PRIVATE KEY-----\nx\n", 0o600).unwrap();
        assert!(matches!(read(&path).unwrap(), Contents::LeftOut("it holds a private key")));
        assert!(matches!(read(&directory.path().join("absent")).unwrap(), Contents::Absent));
        assert!(matches!(read(directory.path()).unwrap(), Contents::LeftOut("it is no file")));
    }

    #[test]
    fn paths_are_absolute_less_their_slash() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.conf");
        durable::replace(&path, b"port = 5433\n", 0o640).unwrap();
        let Contents::File(attributes, bytes) = read(&path).unwrap() else { panic!("it is a file") };
        let mut archive = Builder::new(Vec::new());
        add(&mut archive, &path, attributes, &bytes).unwrap();
        let bytes = archive.into_inner().unwrap();
        let mut archive = tar::Archive::new(&bytes[..]);
        let mut entry = archive.entries().unwrap().next().unwrap().unwrap();
        assert_eq!(Path::new("/").join(entry.path().unwrap()), path);
        assert_eq!(entry.header().mode().unwrap(), 0o640);
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        assert_eq!(text, "port = 5433\n");
    }
}
