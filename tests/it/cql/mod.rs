//! The CQL backend on a real cluster: the conformance suite, and what only several processes and servers can show.
//!
//! The cluster is the one that `QRELAY_TEST_CQL` (host:port) names, else a node started for this test binary.

mod cluster;
mod code_lists;
mod config_log;
mod crash_ledger;
mod crashes;
mod finished_commands;
mod guarded;
mod half_rows;
mod hot_endpoint;
mod journal;
mod large_tenants;
mod late_nodes;
mod open;
mod partition_claims;
mod races;
mod reports;
mod roles;
mod stopped;
mod up;

use std::{num::NonZeroU8, sync::Arc, time::Duration};

use qrelay_store::{
    conformance::Fixture,
    conformance_tests,
    scylla::{ScyllaConfig, ScyllaStore},
    store::SharedStore,
};

use self::cluster::Keyspace;

/// How long events are kept here.
const KEEP: Duration = Duration::from_secs(30 * 24 * 3600);

/// A store in an empty keyspace.
struct Cluster {
    store: Arc<ScyllaStore>,
    keyspace: Keyspace,
}

/// How the tests' keyspaces are opened: there may be one node only.
fn config(keyspace: &Keyspace) -> ScyllaConfig {
    let nodes = vec![qrelay_tests::cql::address().to_owned()];
    let mut config = ScyllaConfig::new(nodes, &keyspace.name, KEEP);
    config.replication = NonZeroU8::MIN;
    config
}

impl Cluster {
    async fn at(keyspace: Keyspace) -> Self {
        let store = ScyllaStore::open(&config(&keyspace)).await.unwrap();
        Self { store, keyspace }
    }
}

impl Fixture for Cluster {
    /// A quarter of a minute each.
    const HISTORIES: u32 = 4;

    async fn open() -> Self {
        Self::at(Keyspace::empty().await).await
    }

    fn store(&self) -> SharedStore {
        Arc::clone(&self.store) as SharedStore
    }

    async fn restart(self) -> Self {
        drop(self.store);
        Self::at(self.keyspace).await
    }

    /// The cluster stays: what ends is the process.
    async fn crash(self) -> Self {
        self.restart().await
    }
}

conformance_tests!(
    Cluster,
    #[ignore = "needs Cassandra: run by make test"],
    log config registry lists leases attempts commands conversions model
);
