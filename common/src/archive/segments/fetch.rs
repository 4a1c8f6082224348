//! One WAL file back from one repository, and the truth when it is not there.

use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use crate::codec::decoder;
use crate::pg::ArchiveName;
use crate::report::{Cancel, Interrupted};
use crate::store::Key;
use crate::sys::durable::{self, TemporaryFile};

use super::seek::{Found, Object, Sought};
use super::{Check, CheckError};
use crate::archive::{Identity, Repository};

/// How much is decompressed and checked at a time.
const CHUNK_BYTES: usize = 256 << 10;

/// A temporary file beside the destination that nobody has written to for this long is a killed call's.
const LEFTOVER_AGE_MIN: Duration = Duration::from_hours(1);

/// The truth about one WAL file in one repository.
#[derive(Debug)]
pub enum Fetched {
    /// It is whole and valid at the destination.
    Delivered,
    /// The repository answers, does not have it, and has nothing after it.
    Absent,
    /// The repository does not have it, but has this, which comes after it.
    Hole(ArchiveName),
    /// It is there and cannot be what it should be.
    Damaged(String),
    /// The repository did not answer.
    Unreachable(anyhow::Error),
}

/// Reads one archived WAL file to its end and gives its plain bytes to `take`, piece by piece, checked as by [`Sought::fetch`]:
/// what [`Fetched::Delivered`] says of them holds only then. An error of `take` ends the reading and is answered as
/// [`Fetched::Unreachable`].
pub fn read_back(
    repository: &Repository,
    identity: &Identity,
    name: ArchiveName,
    cancel: &Cancel,
    mut take: impl FnMut(&[u8]) -> std::io::Result<()>,
) -> Result<Fetched, Interrupted> {
    let object = match Sought::within(repository, identity.system_identifier, name).find(identity) {
        Found::Object(object) => object,
        Found::Not(answer) => return Ok(answer),
    };
    let taken = |chunk: &[u8]| take(chunk).map_err(|err| Failure::Unreachable(err.into()));
    Failure::answer(stream(object, Check::new(name, *identity), cancel, taken))
}

impl Sought {
    /// Brings the file to `destination`, replacing what is there.
    ///
    /// It is checked while it is written under a temporary name beside the destination and renamed only when it is whole
    /// and valid; it is not synced, since PostgreSQL does that itself. Nothing is left behind unless delivered.
    pub fn fetch(self, identity: &Identity, destination: &Path, cancel: &Cancel) -> Result<Fetched, Interrupted> {
        let name = self.name;
        match self.find(identity) {
            Found::Object(object) => Failure::answer(copy(object, Check::new(name, *identity), destination, cancel)),
            Found::Not(answer) => Ok(answer),
        }
    }
}

fn copy(object: Object, check: Check, destination: &Path, cancel: &Cancel) -> Result<(), Failure> {
    let directory = destination.parent().filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new("."));
    durable::sweep_temporaries(directory, LEFTOVER_AGE_MIN);
    let mut file = TemporaryFile::create_in(directory, 0o600).map_err(|err| Failure::here(directory, err))?;
    let write = |chunk: &[u8]| file.write_all(chunk).map_err(|err| Failure::here(destination, err));
    stream(object, check, cancel, write)?;
    file.rename_unsynced(destination).map_err(|err| Failure::here(destination, err))
}

/// Gives the object's plain bytes to `take`; they are good once this has succeeded.
fn stream(
    object: Object,
    mut check: Check,
    cancel: &Cancel,
    mut take: impl FnMut(&[u8]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let Object { key, codec, source } = object;
    let invalid = |err: CheckError| Failure::Damaged(format!("{key}: {err}"));
    let mut plain = decoder(codec, source).map_err(|err| Failure::of_object(&key, &err))?;
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        cancel.check().map_err(|_| Failure::Interrupted)?;
        let count = plain.read(&mut buffer).map_err(|err| Failure::of_object(&key, &err))?;
        match buffer.get(..count).unwrap_or_default() {
            [] => break,
            chunk => {
                check.update(chunk).map_err(invalid)?;
                take(chunk)?;
            }
        }
    }
    check.finish().map_err(invalid)
}

enum Failure {
    Damaged(String),
    Unreachable(anyhow::Error),
    Interrupted,
}

impl Failure {
    /// What is told of a reading that ended like this.
    fn answer(result: Result<(), Self>) -> Result<Fetched, Interrupted> {
        match result {
            Ok(()) => Ok(Fetched::Delivered),
            Err(Self::Damaged(reason)) => Ok(Fetched::Damaged(reason)),
            Err(Self::Unreachable(err)) => Ok(Fetched::Unreachable(err)),
            Err(Self::Interrupted) => Err(Interrupted),
        }
    }

    /// The destination's side failed; nothing is known of the object.
    fn here(path: &Path, err: std::io::Error) -> Self {
        Self::Unreachable(anyhow::Error::new(err).context(format!("write {}", path.display())))
    }

    /// Reading the object failed: its bytes are wrong, or they did not come.
    fn of_object(key: &Key, err: &std::io::Error) -> Self {
        use std::io::ErrorKind::{InvalidData, InvalidInput, Other, UnexpectedEof};
        match err.kind() {
            InvalidData | InvalidInput | UnexpectedEof | Other => Self::Damaged(format!("{key}: {err}")),
            _ => Self::Unreachable(anyhow::anyhow!("read {key}: {err}")),
        }
    }
}
