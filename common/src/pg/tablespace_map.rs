//! `tablespace_map`: where a backup's tablespaces lay.
//!
//! Written by `do_pg_backup_start` (`src/backend/access/transam/xlog.c`), read by `read_tablespace_map`
//! (`xlogrecovery.c`), which makes the links in `pg_tblspc` from it. Paths are bytes: they need be no UTF-8.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// Why the bytes are no tablespace map: PostgreSQL would not start with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TablespaceMapError {
    /// A line is not `oid path`. The line as it stands, cut to 100 characters.
    #[error("the tablespace map has a line that is not an oid and a path: {0:?}")]
    Malformed(String),
    /// The last line lacks its end, as in a file that was cut off.
    #[error("the tablespace map ends within a line")]
    CutOff,
}

/// Reads the file: for each tablespace its oid and its path, in the file's order. Empty bytes give an empty map.
pub fn parse(bytes: &[u8]) -> Result<Vec<(u32, PathBuf)>, TablespaceMapError> {
    let mut map = Vec::new();
    let mut line = Vec::new();
    let mut escaped = false;
    for byte in bytes.iter().copied() {
        match byte {
            b'\n' | b'\r' if !escaped => {
                // A carriage return before the line feed makes no second line.
                if !line.is_empty() {
                    map.push(entry(&line)?);
                    line.clear();
                }
            }
            b'\\' if !escaped => escaped = true,
            _ => {
                line.push(byte);
                escaped = false;
            }
        }
    }
    if line.is_empty() && !escaped { Ok(map) } else { Err(TablespaceMapError::CutOff) }
}

/// Writes the file as PostgreSQL does: a line feed, a carriage return or a backslash in a path gets a backslash before it.
pub fn format(map: &[(u32, PathBuf)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (oid, path) in map {
        bytes.extend(oid.to_string().bytes());
        bytes.push(b' ');
        for byte in path.as_os_str().as_bytes().iter().copied() {
            if matches!(byte, b'\n' | b'\r' | b'\\') {
                bytes.push(b'\\');
            }
            bytes.push(byte);
        }
        bytes.push(b'\n');
    }
    bytes
}

/// `oid path`, escapes undone.
fn entry(line: &[u8]) -> Result<(u32, PathBuf), TablespaceMapError> {
    let parse = || {
        let digits = line.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (oid, path) = line.split_at_checked(digits)?;
        let oid = std::str::from_utf8(oid).ok()?.parse().ok()?;
        let path = path.strip_prefix(b" ").filter(|path| !path.is_empty())?;
        Some((oid, PathBuf::from(OsString::from_vec(path.to_vec()))))
    };
    parse().ok_or_else(|| TablespaceMapError::Malformed(String::from_utf8_lossy(line).chars().take(100).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    fn path(bytes: &[u8]) -> PathBuf {
        PathBuf::from(OsString::from_vec(bytes.to_vec()))
    }

    #[rstest]
    #[case(b"", &[])]
    #[case(b"16384 /srv/ts\n", &[(16384, &b"/srv/ts"[..])])]
    #[case(b"16384 /srv/ts 1\n4294967295 /b\n", &[(16384, &b"/srv/ts 1"[..]), (u32::MAX, b"/b")])]
    #[case(b"1 /a\\\nb\\\\c\\\rd\n", &[(1, &b"/a\nb\\c\rd"[..])])]
    #[case(b"1 /\xFFx\n", &[(1, &b"/\xFFx"[..])])]
    fn reads_and_writes_what_the_server_writes(#[case] bytes: &[u8], #[case] map: &[(u32, &[u8])]) {
        let map: Vec<_> = map.iter().map(|(oid, at)| (*oid, path(at))).collect();
        assert_eq!(parse(bytes).as_ref(), Ok(&map));
        assert_eq!(format(&map), bytes);
    }

    #[test]
    fn takes_windows_line_ends_and_needless_escapes() {
        assert_eq!(parse(b"1 /\\a\r\n\r\n2 /b\r\n"), Ok(vec![(1, path(b"/a")), (2, path(b"/b"))]));
    }

    #[rstest]
    #[case(b"1 /a")]
    #[case(b"1 /a\\\n")]
    #[case(b"\\")]
    fn a_cut_off_file_is_refused(#[case] bytes: &[u8]) {
        assert_eq!(parse(bytes), Err(TablespaceMapError::CutOff));
    }

    #[rstest]
    #[case("/srv/ts")]
    #[case("16384")]
    #[case("16384 ")]
    #[case("16384/x")]
    #[case("4294967296 /x")]
    #[case("-1 /x")]
    fn other_lines_are_refused(#[case] line: &str) {
        assert_eq!(parse(format!("{line}\n").as_bytes()), Err(TablespaceMapError::Malformed(line.into())));
    }

    proptest! {
        #[test]
        fn round_trips(map in proptest::collection::vec((any::<u32>(), proptest::collection::vec(1_u8.., 1..30)), 0..5)) {
            let map: Vec<_> = map.into_iter().map(|(oid, at)| (oid, path(&at))).collect();
            prop_assert_eq!(parse(&format(&map)).unwrap(), map);
        }

        #[test]
        fn never_panics(bytes in proptest::collection::vec(proptest::sample::select(&b"12 /a\\\n\r\xFF\0"[..]), 0..40)) {
            parse(&bytes).ok();
        }
    }
}
