//! Where the prefetcher puts segments and restore-wal takes them: a folder of the spool.
//!
//! | name | holds |
//! |---|---|
//! | `<segment>` | a segment, whole, checked and synced |
//! | `<segment>.coming` | the segment is being fetched; since which start of the machine |
//! | `<segment>.fetched` | the segment, whole and checked, not synced yet |
//! | `position` | what the server asked for last |
//! | `notes` | what there is to say of the repositories |
//! | `lock` | held by the prefetcher as long as it runs |
//!
//! Another set of repositories, another cluster or another system has another shelf, so nothing is ever served that the
//! present configuration would not find.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use common::app::Context;
use common::archive::Identity;
use common::archive::spool::Spool;
use common::codec::{Digest, read_full};
use common::pg::wal_page::{LongHeader, first_page_matches};
use common::pg::{TimelineId, WalSegmentName};
use common::sys::durable::{self, TemporaryFile};
use common::sys::lock::FileLock;
use common::sys::{identity, passing, private};

/// The longest note that is read, in bytes.
const NOTE_BYTES_MAX: u64 = 4096;

/// The shelf of one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shelf {
    folder: PathBuf,
    identity: Identity,
}

/// What the server asked for last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Position {
    /// The last segment that it got.
    pub(crate) segment: Option<WalSegmentName>,
    /// The newest timeline whose history it got.
    pub(crate) timeline: Option<TimelineId>,
}

/// Something to tell once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Note {
    /// What makes it the same as another: one line.
    pub(crate) what: String,
    /// What is said.
    pub(crate) text: String,
}

impl Shelf {
    /// The shelf in this spool for the configured repositories; it need not exist.
    pub(crate) fn within(spool: &Spool, identity: Identity, ctx: &Context) -> Self {
        let mut key = format!("{} {}", identity.system_identifier, ctx.settings.cluster.value);
        for repository in &ctx.settings.repositories {
            key.push('\n');
            key.push_str(&repository.url.value);
        }
        let digest: String = Digest::of(key.as_bytes()).to_string().chars().take(16).collect();
        Self { folder: spool.path(format!("prefetched-{digest}")), identity }
    }

    /// Makes the shelf, private to this user.
    pub(crate) fn make(&self) -> io::Result<()> {
        private::make(&self.folder)
    }

    /// The folder itself.
    pub(crate) fn place_of_all(&self) -> &Path {
        &self.folder
    }

    /// Where the segment lies, or will lie.
    pub(crate) fn place(&self, segment: WalSegmentName) -> PathBuf {
        self.folder.join(segment.to_string())
    }

    /// Whether the segment is there, synced.
    pub(crate) fn has(&self, segment: WalSegmentName) -> bool {
        self.place(segment).exists()
    }

    /// Hands the segment over: it lies at `destination` and no longer here. `false` when it is not here, or is not what
    /// its name says. One that is not synced yet will do: PostgreSQL syncs what it restores.
    pub(crate) fn take(&self, segment: WalSegmentName, destination: &Path) -> io::Result<bool> {
        if self.hand_over(&self.place(segment), segment, destination)? {
            return Ok(true);
        }
        Ok(self.is_coming(segment) && self.hand_over(&self.fetched(segment), segment, destination)?)
    }

    fn hand_over(&self, place: &Path, segment: WalSegmentName, destination: &Path) -> io::Result<bool> {
        let mut file = match durable::open_nofollow(place) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            result => result?,
        };
        let mut header = [0; LongHeader::SIZE];
        let whole = file.metadata()?.len() == self.identity.segment_size.bytes()
            && read_full(&mut file, &mut header)? == header.len()
            && first_page_matches(&header, segment, &self.identity.expected()).is_ok();
        if !whole {
            passing::remove(place)?;
            return Ok(false);
        }
        match passing::rename(place, destination) {
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => carry(place, destination)?,
            // The prefetcher has synced it meanwhile, and it has its final name.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            result => result?,
        }
        Ok(true)
    }

    /// The mark of a segment that is being fetched.
    pub(crate) fn coming(&self, segment: WalSegmentName) -> PathBuf {
        self.folder.join(format!("{segment}.coming"))
    }

    /// Says that the segment is being fetched.
    pub(crate) fn announce(&self, segment: WalSegmentName) -> io::Result<()> {
        passing::replace(&self.coming(segment), identity::boot().unwrap_or_default().as_bytes(), 0o600)
    }

    /// Whether somebody said so since the machine was started. What is from before may have been torn by a power cut.
    pub(crate) fn is_coming(&self, segment: WalSegmentName) -> bool {
        let mark = fs::read_to_string(self.coming(segment)).ok();
        mark.is_some_and(|mark| identity::boot() == Some(mark))
    }

    /// Where a segment lies until it is synced.
    pub(crate) fn fetched(&self, segment: WalSegmentName) -> PathBuf {
        self.folder.join(format!("{segment}.fetched"))
    }

    /// Writes down what the server asked for.
    pub(crate) fn ask(&self, position: Position) -> io::Result<()> {
        let segment = position.segment.map_or_else(|| "-".to_owned(), |segment| segment.to_string());
        let timeline = position.timeline.map_or(0, |timeline| timeline.0);
        let path = self.folder.join("position");
        // The server waits for this call, and ext4 begins to write a file out that is renamed over another one
        // (`auto_da_alloc` in its documentation). For a moment there is no position, which asks for nothing.
        drop(passing::remove(&path));
        passing::replace(&path, format!("{segment} {timeline}\n").as_bytes(), 0o600)
    }

    /// What the server asked for last, and a time stamp that is another for each question.
    pub(crate) fn asked(&self) -> Option<(Position, SystemTime)> {
        let path = self.folder.join("position");
        let time = fs::metadata(&path).and_then(|metadata| metadata.modified()).ok()?;
        let text = fs::read_to_string(&path).ok()?;
        let (segment, timeline) = text.trim_end().split_once(' ')?;
        let timeline = timeline.parse().ok().filter(|number| *number > 0).map(TimelineId);
        Some((Position { segment: WalSegmentName::parse(segment), timeline }, time))
    }

    /// The prefetcher's lock; `None` when one runs already.
    pub(crate) fn lock(&self) -> io::Result<Option<FileLock>> {
        FileLock::try_exclusive(&self.folder.join("lock"))
    }

    /// Leaves word for the next call that speaks into the server's log. The last word counts.
    pub(crate) fn leave_note(&self, note: &Note) {
        let text = format!("{}\n{}", note.what, note.text);
        drop(passing::replace(&self.folder.join("notes"), text.as_bytes(), 0o600));
    }

    /// Takes the note that was left.
    pub(crate) fn take_note(&self) -> Option<Note> {
        let path = self.folder.join("notes");
        let mut text = String::new();
        File::open(&path).ok()?.take(NOTE_BYTES_MAX).read_to_string(&mut text).ok()?;
        passing::remove(&path).ok()?;
        let (what, text) = text.split_once('\n')?;
        Some(Note { what: what.to_owned(), text: text.to_owned() })
    }

    /// The segments that are here.
    pub(crate) fn segments(&self) -> Vec<WalSegmentName> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().filter_map(Result::ok);
        entries.filter_map(|entry| WalSegmentName::parse(entry.file_name().to_str()?)).collect()
    }

    /// Removes a segment; nothing happens where it is not here any more.
    pub(crate) fn discard(&self, segment: WalSegmentName) {
        drop(passing::remove(&self.place(segment)));
    }

    /// Removes everything but the lock: what a killed prefetcher left.
    pub(crate) fn clear(&self) {
        for entry in fs::read_dir(&self.folder).into_iter().flatten().filter_map(Result::ok) {
            if entry.file_name() != "lock" && entry.file_name() != "position" {
                drop(passing::remove(&entry.path()));
            }
        }
    }

    /// Removes the shelf with all that is on it.
    pub(crate) fn remove(&self, lock: FileLock) {
        self.clear();
        drop(passing::remove(&self.folder.join("position")));
        drop(lock.remove(&self.folder.join("lock")));
        drop(passing::remove_empty_dir(&self.folder));
    }

    /// How long a segment that is coming is waited for before it is fetched once more.
    pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
}

/// Moves a file to another file system.
fn carry(place: &Path, destination: &Path) -> io::Result<()> {
    let directory = destination.parent().filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut copy = TemporaryFile::create_in(directory, 0o600)?;
    io::copy(&mut File::open(place)?, &mut copy)?;
    copy.rename_unsynced(destination)?;
    passing::remove(place)
}
