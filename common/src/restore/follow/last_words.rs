//! What a server says in its logs when it ends.
//!
//! Its words only ever inform: some installations translate them. Nothing is decided by them but how long to wait.

use std::path::{Path, PathBuf};

/// How much of a log's end is read, in bytes.
const TAIL_BYTES: u64 = 64 << 10;

/// What a server that failed said at last: the line of restore-wal that it failed with, its own line, and the details
/// and hints that follow that one. Empty where there is no log.
pub fn of(log: &Path) -> String {
    let lines = read_end(log).unwrap_or_default();
    let ours = lines.iter().rev().find(|line| line.contains("restore-wal: "));
    let fatal = lines.iter().rposition(|line| is_fatal(line));
    let own = match fatal {
        Some(at) => {
            let rest = lines.iter().skip(at + 1).take_while(|line| is_detail(line));
            lines.get(at).into_iter().chain(rest).collect()
        }
        None => lines.last().into_iter().collect::<Vec<_>>(),
    };
    let words: Vec<&str> = ours.into_iter().chain(own).map(|line| line.trim()).collect();
    words.join("; ")
}

/// The log that tells why a server is gone: the one that it was started with, unless its last word there was not why and a
/// collector took over.
pub fn telling_log(pgdata: &Path, log: &Path) -> PathBuf {
    let collected = collected_log(pgdata).filter(|_| !tell_of_an_end(log));
    collected.unwrap_or_else(|| log.to_path_buf())
}

/// Whether they are those of a server that ended with a failure.
pub fn tell_of_an_end(log: &Path) -> bool {
    read_end(log).is_some_and(|lines| lines.iter().any(|line| is_fatal(line)))
}

/// A line that belongs to the one before it.
fn is_detail(line: &str) -> bool {
    ["DETAIL: ", "HINT: ", "CONTEXT: "].iter().any(|word| line.contains(word))
}

/// Where a server with a logging collector writes its text log, once it does (`LOG_METAINFO_DATAFILE` in
/// `src/include/postmaster/syslogger.h`). A backup brings that of its original, which stays until the server has read its
/// configuration: what a server says before that is in its own log.
fn collected_log(pgdata: &Path) -> Option<PathBuf> {
    let text = std::fs::read_to_string(pgdata.join("current_logfiles")).ok()?;
    let name = text.lines().find_map(|line| line.strip_prefix("stderr "))?;
    Some(pgdata.join(name))
}

/// A line with which a server ends. Severities are translated in some installations; then the last line serves.
fn is_fatal(line: &str) -> bool {
    line.contains("FATAL: ") || line.contains("PANIC: ")
}

fn read_end(path: &Path) -> Option<Vec<String>> {
    use std::io::{Read as _, Seek as _, SeekFrom};
    let mut file = std::fs::File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES))).ok()?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_words_are_those_of_the_failure() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        assert_eq!(of(&log), "");
        let text = "LOG:  starting\nrestore-wal: it is damaged\nFATAL:  could not restore file\nDETAIL:  code 201\n\
                    LOG:  database system is shut down\n";
        crate::sys::durable::replace(&log, text.as_bytes(), 0o600).unwrap();
        assert_eq!(of(&log), "restore-wal: it is damaged; FATAL:  could not restore file; DETAIL:  code 201");
        crate::sys::durable::replace(&log, "ПРОТОКОЛ\nФАТАЛЬНО\n".as_bytes(), 0o600).unwrap();
        assert_eq!(of(&log), "ФАТАЛЬНО");
    }

    #[test]
    fn finds_the_collected_log() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(collected_log(dir.path()), None);
        let name = dir.path().join("current_logfiles");
        crate::sys::durable::replace(&name, b"stderr log/a.log\ncsvlog log/a.csv\n", 0o600).unwrap();
        assert_eq!(collected_log(dir.path()), Some(dir.path().join("log/a.log")));
        crate::sys::durable::replace(&name, b"csvlog log/a.csv\n", 0o600).unwrap();
        assert_eq!(collected_log(dir.path()), None);
    }
}
