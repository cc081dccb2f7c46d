//! The crash ledger on a cluster: what a killed process left is found by the next one in the cluster, and nowhere else.

use std::time::Duration;

use qrelay_store::conformance::Fixture as _;
use qrelay_tests::{PATIENCE, cql, server::Setup, setting};
use rand::{RngExt as _, rngs::StdRng};

use super::Cluster;
use crate::crash_ledger::{Trial, try_server};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Cassandra: run by make test"]
async fn every_answered_scan_is_delivered_across_kills_of_a_process_on_a_cluster() {
    let cluster = Cluster::open().await;
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup::new(crate::BINARY, &dir.path().join("server"))
        .on_cluster(cql::address(), &cluster.keyspace.name);
    let trial = Trial {
        kills: setting("QRELAY_TEST_CQL_KILLS", 8),
        seed: setting("QRELAY_TEST_SEED", rand::random_range(0..1_000_000)),
        // Other tests use the same node.
        scans_per_second: 20,
        life,
        // A process that takes over from a killed one may need longer than a client waits.
        pauses: 100..500,
        replays_max: 2,
        patience: PATIENCE * 4,
        stalled: Duration::from_secs(240),
    };
    try_server(&setup, &trial).await;
}

/// Half of them are killed before they could take over from the one before, which takes them 12 seconds; the others later.
fn life(random: &mut StdRng) -> Duration {
    let seconds = match random.random_bool(0.5) {
        true => random.random_range(0.02..5.0),
        false => random.random_range(12.0..25.0),
    };
    Duration::from_secs_f64(seconds)
}
