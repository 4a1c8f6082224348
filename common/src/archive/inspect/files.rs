//! The files of a part on their way from the index to the worker that reads the part: not all of them at once, since a
//! part may have a million.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use crate::repo::index::FileEntry;

/// How many files are handed over at a time.
const CHUNK_FILES: usize = 1024;

/// How many files all workers together may be behind the index; each is about 150 bytes.
const AHEAD_FILES: usize = 128 * 1024;

/// The end at which the index is read. Dropped, it says that there are no more files.
pub(super) struct Feed {
    chunk: Vec<FileEntry>,
    sender: SyncSender<Vec<FileEntry>>,
}

/// The end at which the part is read: the files in the order of their offsets.
pub(super) struct Files {
    receiver: Receiver<Vec<FileEntry>>,
    chunk: std::vec::IntoIter<FileEntry>,
    current: Option<FileEntry>,
    /// How many there were before the current one.
    done: usize,
}

/// Files that were not read.
pub(super) struct Rest {
    /// The path of the first.
    pub(super) first: String,
    /// How many they are.
    pub(super) count: usize,
    /// Of how many.
    pub(super) all: usize,
}

/// Both ends, for one of so many workers. Whoever feeds waits for a reader that is too far behind.
pub(super) fn ahead(workers: usize) -> (Feed, Files) {
    let (sender, receiver) = sync_channel((AHEAD_FILES / CHUNK_FILES / workers.max(1)).max(1));
    let files = Files { receiver, chunk: Vec::new().into_iter(), current: None, done: 0 };
    (Feed { chunk: Vec::new(), sender }, files)
}

/// No files at all.
pub(super) fn none() -> Files {
    ahead(1).1
}

impl Feed {
    /// Adds a file. A reader that wants no more gets none.
    pub(super) fn push(&mut self, file: FileEntry) {
        self.chunk.push(file);
        if self.chunk.len() >= CHUNK_FILES {
            self.flush();
        }
    }

    fn flush(&mut self) {
        // It has failed, or its part is not there: that is told by the reader.
        drop(self.sender.send(std::mem::take(&mut self.chunk)));
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.flush();
    }
}

impl Files {
    /// The file whose turn it is; waits until it is known. None after the last.
    pub(super) fn current(&mut self) -> Option<&FileEntry> {
        while self.current.is_none() {
            self.current = self.chunk.next();
            if self.current.is_none() {
                self.chunk = self.receiver.recv().ok()?.into_iter();
            }
        }
        self.current.as_ref()
    }

    /// The current one is done.
    pub(super) fn advance(&mut self) {
        if self.current.take().is_some() {
            self.done += 1;
        }
    }

    /// What is left, the current one first; none when all are done. Waits until the whole part is known.
    pub(super) fn rest(mut self) -> Option<Rest> {
        let done = self.done;
        let first = self.current()?.path.display();
        let count = 1 + self.chunk.len() + self.receiver.iter().map(|chunk| chunk.len()).sum::<usize>();
        Some(Rest { first, count, all: done + count })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Digest;
    use crate::repo::index::RelativePath;

    fn file(number: usize) -> FileEntry {
        FileEntry {
            path: RelativePath::new(number.to_string()).unwrap(),
            part: 1,
            offset: 0,
            size: 0,
            mode: 0o600,
            modified: 0,
            sha256: Digest::of(b""),
        }
    }

    #[test]
    fn all_come_in_order_and_what_is_left_is_counted() {
        let count = 3 * CHUNK_FILES + 5;
        let (mut feed, mut files) = ahead(1);
        std::thread::scope(|scope| {
            scope.spawn(move || (0..count).for_each(|number| feed.push(file(number))));
            for number in 0..=CHUNK_FILES {
                assert_eq!(files.current().unwrap().path.display(), number.to_string());
                files.advance();
            }
            let rest = files.rest().unwrap();
            let expected = ((CHUNK_FILES + 1).to_string(), 2 * CHUNK_FILES + 4, count);
            assert_eq!((rest.first, rest.count, rest.all), expected);
        });
    }

    #[test]
    fn whoever_wants_no_more_holds_nobody_up() {
        let (mut feed, files) = ahead(AHEAD_FILES);
        drop(files);
        (0..4 * CHUNK_FILES).for_each(|number| feed.push(file(number)));
    }

    #[test]
    fn there_may_be_none() {
        assert!(none().current().is_none());
        assert!(none().rest().is_none());
    }
}
