//! The CQL backend on a real cluster: the conformance suite, and what only several processes and servers can show.
//!
//! The cluster is the one that `QRELAY_TEST_CQL` (host:port) names, else a node started for this test binary.

mod cluster;
mod combined;
mod config_log;
mod crashes;
mod open;

use std::{num::NonZeroU8, sync::Arc, time::Duration};

use qrelay_store::{
    conformance::Fixture,
    conformance_tests,
    scylla::{ScyllaConfig, ScyllaStore},
    sqlite::{self, SqliteStore},
    store::SharedStore,
};
use tempfile::TempDir;

use self::{cluster::Keyspace, combined::Combined};

/// How long events are kept here.
const KEEP: Duration = Duration::from_secs(30 * 24 * 3600);

/// An empty keyspace, and a directory for what is not kept in it yet.
struct Cluster {
    store: Arc<Combined>,
    keyspace: Keyspace,
    dir: TempDir,
}

/// How the tests' keyspaces are opened: there may be one node only.
fn config(keyspace: &Keyspace) -> ScyllaConfig {
    let nodes = vec![qrelay_tests::cql::address().to_owned()];
    let mut config = ScyllaConfig::new(nodes, &keyspace.name, KEEP);
    config.replication = NonZeroU8::MIN;
    config
}

impl Cluster {
    async fn at(keyspace: Keyspace, dir: TempDir) -> Self {
        let config = config(&keyspace);
        let store = Combined {
            cluster: ScyllaStore::open(&config).await.unwrap(),
            directory: SqliteStore::open(dir.path(), &sqlite::Options::default()).unwrap(),
        };
        Self {
            store: Arc::new(store),
            keyspace,
            dir,
        }
    }
}

impl Fixture for Cluster {
    async fn open() -> Self {
        Self::at(Keyspace::empty().await, tempfile::tempdir().unwrap()).await
    }

    fn store(&self) -> SharedStore {
        Arc::clone(&self.store) as SharedStore
    }

    async fn restart(self) -> Self {
        drop(self.store);
        Self::at(self.keyspace, self.dir).await
    }

    /// The cluster stays, and so does the directory: what ends is the process.
    async fn crash(self) -> Self {
        self.restart().await
    }
}

conformance_tests!(Cluster, #[ignore = "needs Cassandra: run by make test"], log config registry lists leases attempts commands conversions);
