//! What only a cluster of three nodes shows, with any of them away: several processes on one keyspace, and the ledger of
//! all that was answered.
//!
//! Each test starts nodes of its own, also where `QRELAY_TEST_CQL` names a cluster: they are killed here, and nodes that were
//! killed while their schema changed may disagree on it for good. `--test-threads=1` is what lets a machine bear it.

mod availability;
mod faults;
mod ledger;
mod open;
mod processes;

use qrelay_store::id::WriterId;

/// The name of a keyspace that is not there.
fn unused_keyspace() -> String {
    format!("qrelay_{}", WriterId::random())
}
