//! The stories: real clusters, archived, damaged, destroyed and brought back by the real programs.
//!
//! One module tells about one promise; every test stands alone, and all of them run side by side.

mod archive_refusals;
mod archive_tools;
mod bit_flips;
mod damaged_middle;
mod extract;
mod fault_loops;
mod fetch_truth;
mod find;
mod first_backup;
mod first_contact;
mod hazards;
mod hostile;
mod killed_tail;
mod kit;
mod layouts;
mod no_lock_in;
mod odd_clusters;
mod onward;
mod pitr_random;
mod pitr_targets;
mod power_cuts;
mod preserved;
mod promotion;
mod recover_refusals;
mod retention_keeps;
mod rollback;
mod runbooks;
mod services;
mod short_story;
mod standby;
mod started_by_root;
mod stopped_replay;
#[cfg(target_arch = "x86_64")]
mod syscalls;
mod tcp_only;
mod timelines;
mod two_archivers;
mod verification;
mod wal_path;
