//! Settings that a recovering server must not have lower than the server that wrote the WAL.
//!
//! With a lower one replay ends, or pauses short of its target (`CheckRequiredParameterValues` and
//! `RecoveryRequiresIntParameter` in `src/backend/access/transam/`); with too few prepared transactions it ends at the
//! promotion. The WAL says what it needs wherever a server was restarted with other settings, and `pg_control` repeats it.

use serde::{Deserialize, Serialize};

use crate::pg::control::ControlFile;
use crate::pg::wal_reader::Parameters;

/// The least values that are needed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Demands {
    /// `max_connections`.
    pub max_connections: i32,
    /// `max_worker_processes`.
    pub max_worker_processes: i32,
    /// `max_wal_senders`.
    pub max_wal_senders: i32,
    /// `max_prepared_transactions`.
    pub max_prepared_transactions: i32,
    /// `max_locks_per_transaction`.
    pub max_locks_per_transaction: i32,
}

impl Demands {
    /// What a control file asks for: the settings of the server that wrote the WAL up to there.
    pub fn of_control(control: &ControlFile) -> Self {
        Self {
            max_connections: control.max_connections,
            max_worker_processes: control.max_worker_processes,
            max_wal_senders: control.max_wal_senders,
            max_prepared_transactions: control.max_prepared_xacts,
            max_locks_per_transaction: control.max_locks_per_xact,
        }
    }

    /// What changes of settings in the WAL ask for.
    pub fn of_wal(parameters: &Parameters) -> Self {
        Self {
            max_connections: parameters.max_connections,
            max_worker_processes: parameters.max_worker_processes,
            max_wal_senders: parameters.max_wal_senders,
            max_prepared_transactions: parameters.max_prepared_xacts,
            max_locks_per_transaction: parameters.max_locks_per_xact,
        }
    }

    /// What both ask for.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            max_connections: self.max_connections.max(other.max_connections),
            max_worker_processes: self.max_worker_processes.max(other.max_worker_processes),
            max_wal_senders: self.max_wal_senders.max(other.max_wal_senders),
            max_prepared_transactions: self.max_prepared_transactions.max(other.max_prepared_transactions),
            max_locks_per_transaction: self.max_locks_per_transaction.max(other.max_locks_per_transaction),
        }
    }

    /// A control file of a server with these settings.
    #[must_use]
    pub fn raise(&self, control: &ControlFile) -> ControlFile {
        let both = self.and(Self::of_control(control));
        ControlFile {
            max_connections: both.max_connections,
            max_worker_processes: both.max_worker_processes,
            max_wal_senders: both.max_wal_senders,
            max_prepared_xacts: both.max_prepared_transactions,
            max_locks_per_xact: both.max_locks_per_transaction,
            ..control.clone()
        }
    }

    /// Each setting's name and least value: all of them for a server with hot standby, else those that matter without.
    pub fn settings(&self, hot_standby: bool) -> Vec<(&'static str, i32)> {
        let prepared = ("max_prepared_transactions", self.max_prepared_transactions);
        if !hot_standby {
            return vec![prepared];
        }
        vec![
            ("max_connections", self.max_connections),
            ("max_worker_processes", self.max_worker_processes),
            ("max_wal_senders", self.max_wal_senders),
            prepared,
            ("max_locks_per_transaction", self.max_locks_per_transaction),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn both_are_met(a: [i32; 5], b: [i32; 5]) {
            let demands = |[connections, workers, senders, prepared, locks]: [i32; 5]| Demands {
                max_connections: connections,
                max_worker_processes: workers,
                max_wal_senders: senders,
                max_prepared_transactions: prepared,
                max_locks_per_transaction: locks,
            };
            let (one, other) = (demands(a), demands(b));
            let both = one.and(other);
            prop_assert_eq!(both, other.and(one));
            for hot_standby in [false, true] {
                let each = both.settings(hot_standby).into_iter();
                for ((name, both), ((_, one), (_, other))) in
                    each.zip(one.settings(hot_standby).into_iter().zip(other.settings(hot_standby)))
                {
                    prop_assert_eq!(both, one.max(other), "{}", name);
                }
            }
        }
    }
}
