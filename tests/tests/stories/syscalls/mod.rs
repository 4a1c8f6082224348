//! Whatever the kernel answers to whichever call, and wherever a signal arrives: the exit code is one that PostgreSQL
//! understands rightly, nothing half-written is visible, and the same command afterwards succeeds.
//!
//! A loop runs a command once to learn its system calls (`e2e::syscalls`), then with a fault at each. The loops of
//! `fault_loops` do the same at the calls of the programs' own module for files, and know what each of them means;
//! these know nothing, and leave out nothing.

mod archive_wal;
mod prefetch;
mod restore_wal;
