//! What only a cluster of three nodes shows, with any of them away: several processes on one keyspace, and the ledger of
//! all that was answered.
//!
//! The nodes are this test binary's own, also where `QRELAY_TEST_CQL` names a cluster: they are killed here. A test has
//! them to itself.

mod availability;
mod faults;
mod ledger;
mod open;
mod processes;

use qrelay_store::id::WriterId;
use qrelay_tests::nodes::Nodes;
use tokio::sync::{MappedMutexGuard, Mutex, MutexGuard};

/// Started by the first test that needs them.
static NODES: Mutex<Option<Nodes>> = Mutex::const_new(None);

/// The nodes, unharmed.
async fn nodes() -> MappedMutexGuard<'static, Nodes> {
    let mut nodes = NODES.lock().await;
    match &*nodes {
        // A test that failed left them as they were.
        Some(nodes) => nodes.heal().await,
        None => *nodes = Some(Nodes::start().await),
    }
    MutexGuard::map(nodes, |nodes| {
        nodes.as_mut().expect("invariant: they were started")
    })
}

/// The name of a keyspace that is not there.
fn unused_keyspace() -> String {
    format!("qrelay_{}", WriterId::random())
}
