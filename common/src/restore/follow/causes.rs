//! What is known to end a server's recovery, and what helps.
//!
//! The server's words are only ever used to inform: some installations translate them, and then no cause is found and
//! the words stand alone. Nothing is decided by them.

/// Words of a server's log and what helps where they occur. The first that fits counts, so what is special comes before
/// what is general.
const CAUSES: &[(&str, &str)] = &[
    (
        "recovery ended before configured recovery target was reached",
        "the WAL at hand ends before the target: recover windows shows how far it goes, --target-latest goes to its end",
    ),
    (
        "requested recovery stop point is before consistent recovery point",
        "the target lies before the end of the backup: choose an older one with --backup ID; recover list shows them",
    ),
    (
        "insufficient parameter settings",
        "a setting is lower than on the server that wrote the WAL; recover continue starts the server with what the WAL \
         asks for",
    ),
    (
        "lower setting than on the primary",
        "a setting is lower than on the server that wrote the WAL; recover continue starts the server with what the WAL \
         asks for",
    ),
    (
        "maximum number of prepared transactions reached",
        "raise max_prepared_transactions in the server's configuration, then recover continue",
    ),
    (
        "not a child of this server's history",
        "the timeline does not come from this backup: recover windows shows which do; name one with --target-timeline",
    ),
    (
        "could not locate required checkpoint record",
        "the WAL in which the backup begins cannot be fetched: verify backup tells what is missing",
    ),
    (
        "could not find redo location",
        "the WAL in which the backup begins cannot be fetched: verify backup tells what is missing",
    ),
    (
        "could not restore file",
        "a WAL file could not be fetched: bring a good copy of it into the repository, then recover continue",
    ),
    (
        "restore-wal: ",
        "a WAL file could not be fetched: bring a good copy of it into the repository, then recover continue",
    ),
    (
        "Create this directory for the tablespace",
        "make that directory, for the user that runs PostgreSQL, then recover continue",
    ),
    ("pg_tblspc/", "a tablespace's directory is missing or cannot be used: see to it, then recover continue"),
    ("could not set permissions on directory", "the directory must belong to the user that runs PostgreSQL"),
    (
        "database files are incompatible with server",
        "these are the programs of another version or build: name the right ones with bin-directory in the configuration",
    ),
    (
        "was initialized by PostgreSQL version",
        "these are the programs of another version: name the right ones with bin-directory in the configuration",
    ),
    (
        "Address already in use",
        "another server uses that port: stop it, or give this one another port (-p for a copy), then recover continue",
    ),
    (
        "Is another postmaster",
        "another server uses that port or directory: stop it, or give this one another port, then recover continue",
    ),
    (
        "could not create any TCP/IP sockets",
        "the address or port cannot be used: see listen_addresses and port in the configuration",
    ),
    (
        "could not create any Unix-domain sockets",
        "the socket's folder cannot be used: see unix_socket_directories in the configuration",
    ),
    (
        "could not create lock file",
        "the socket's folder cannot be written to: see unix_socket_directories in the configuration",
    ),
    ("has invalid permissions", "the data directory must have the mode 0700 or 0750"),
    ("has wrong ownership", "the data directory must belong to the user that runs PostgreSQL"),
    ("could not load library", "a library of shared_preload_libraries is not installed on this host: install it"),
    ("could not access file", "a library of shared_preload_libraries is not installed on this host: install it"),
    ("contains errors", "mend that configuration file; the lines before in the log name the setting"),
    ("could not load pg_hba.conf", "the authentication file is missing or wrong: see hba_file in the configuration"),
    ("could not load server certificate file", "the certificate is not on this host: bring it back, or set ssl = off"),
    ("could not load private key file", "the certificate's key is not on this host: bring it back, or set ssl = off"),
    ("could not map anonymous shared memory", "there is not enough memory for shared_buffers on this host: lower it"),
    ("could not create shared memory segment", "there is not enough memory for shared_buffers on this host: lower it"),
    ("could not resize shared memory segment", "there is not enough room in /dev/shm for this server"),
    ("No space left on device", "a disk is full: make room, then recover continue"),
    ("invalid page in block", "a data page is damaged: verify backup tells whether the backup is"),
    (
        "WAL contains references to invalid pages",
        "the backup and the WAL do not fit: choose another backup with --backup ID",
    ),
    ("is from different database system", "a WAL file of another cluster was fetched: see --cluster and --repo"),
    ("invalid resource manager ID", "the WAL is damaged there, or a library that reads it is missing"),
    ("replication slot \"", "make the slot on the primary: SELECT pg_create_physical_replication_slot('NAME')"),
    (
        "has already been removed",
        "the primary no longer has that WAL, and the archive does not have it yet: see that it archives, or use a slot",
    ),
    (
        "no pg_hba.conf entry for replication",
        "let this host in: a line \"host replication USER ADDRESS scram-sha-256\" in the primary's pg_hba.conf, and reload",
    ),
    (
        "password authentication failed",
        "put the right password into the file that passfile in --primary-conninfo names, or into ~/.pgpass",
    ),
    (
        "no password supplied",
        "put the password into the file that passfile in --primary-conninfo names, or into ~/.pgpass",
    ),
    ("must be superuser or replication role", "give the role on the primary the attribute REPLICATION"),
    ("could not connect to the primary server", "see that the primary runs and that --primary-conninfo leads to it"),
    ("Permission denied", "everything in the data directory must belong to the user that runs PostgreSQL"),
];

/// What helps against what these words of a server tell; `None` when nothing is known.
pub fn help(words: &str) -> Option<&'static str> {
    CAUSES.iter().find(|(cause, _)| words.contains(cause)).map(|(_, help)| *help)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case(
        "2026-11-26 UTC [7] FATAL:  recovery ended before configured recovery target was reached",
        "recover windows"
    )]
    #[case("FATAL:  recovery aborted because of insufficient parameter settings", "recover continue")]
    #[case(
        "FATAL:  could not restore file \"000000010000000000000007\" from archive: child process exited with exit code 201",
        "repository"
    )]
    #[case("FATAL:  database files are incompatible with server", "bin-directory")]
    #[case(
        "FATAL:  lock file \"/run/.s.PGSQL.5432.lock\" already exists; HINT:  Is another postmaster (PID 7) using socket file",
        "port"
    )]
    #[case("LOG:  could not bind Unix address \"/s/.s.PGSQL.5432\": Address already in use", "port")]
    #[case(
        "FATAL:  directory \"/mnt/ts\" does not exist; HINT:  Create this directory for the tablespace before restarting the server.",
        "make that directory"
    )]
    #[case("FATAL:  could not access file \"pg_cron\": No such file or directory", "shared_preload_libraries")]
    #[case(
        "FATAL:  could not start WAL streaming: ERROR:  replication slot \"nobody\" does not exist",
        "pg_create_physical_replication_slot"
    )]
    #[case("PANIC:  could not write to file: No space left on device", "room")]
    #[case("FATAL:  data directory \"/d\" has wrong ownership", "belong")]
    fn knows_what_helps(#[case] words: &str, #[case] part: &str) {
        assert!(help(words).is_some_and(|help| help.contains(part)), "{words}: {:?}", help(words));
    }

    #[test]
    fn what_is_not_known_stands_alone() {
        assert_eq!(help("ФАТАЛЬНО:  восстановление окончилось"), None);
    }
}
