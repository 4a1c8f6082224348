//! Names of Holdfast's own things among a server's files, where they can lie nowhere else.
//!
//! A directory that something is mounted on cannot be renamed, and what lies beside it may be on another disk or be
//! somebody else's. So what a recovery keeps of such a directory stays in it. Backups leave these names out, and no step
//! of a recovery takes them for the server's.

use std::ffi::OsStr;

use crate::archive::spool::NAME_AMONG_OTHERS;
use crate::sys::durable::is_temporary_name;

/// The folder of a recovery's journal in a data directory that is a mount point.
pub const FOLDER_AMONG_OTHERS: &str = ".holdfast";

/// What the name of a folder with an older cluster's files begins with.
pub const BEFORE: &str = "holdfast-before-";

/// What the name of a folder with an undone recovery's files begins with.
pub const UNDONE: &str = "holdfast-undone-";

/// The folder that some file systems make where they are mounted, and that only root reads.
const LOST_AND_FOUND: &str = "lost+found";

/// Whether this name, at the top of a data directory, a tablespace or a `pg_wal`, is none of the server's.
pub fn is_no_server_file(name: &OsStr) -> bool {
    let text = name.to_string_lossy();
    text.starts_with(BEFORE)
        || text.starts_with(UNDONE)
        || [FOLDER_AMONG_OTHERS, NAME_AMONG_OTHERS, LOST_AND_FOUND].contains(&&*text)
        || is_temporary_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("holdfast-before-20261120_031500_123", true)]
    #[case("holdfast-before-20261120_031500_123.partial", true)]
    #[case("holdfast-undone-20261120_031500_123", true)]
    #[case(".holdfast", true)]
    #[case(".holdfast-spool", true)]
    #[case("lost+found", true)]
    #[case("base", false)]
    #[case("holdfast.conf", false)]
    #[case(".holdfastx", false)]
    #[case("PG_15_202209061", false)]
    fn tells_them_apart(#[case] name: &str, #[case] expected: bool) {
        assert_eq!(is_no_server_file(OsStr::new(name)), expected);
    }
}
