//! The roles as processes of their own on one keyspace, whatever ends.

use std::path::Path;

use futures::future::join_all;
use qrelay_store::conformance::Fixture as _;
use qrelay_tests::{
    PATIENCE, cql,
    server::{Server, Setup},
    wait_within,
};

use super::{
    Cluster,
    up::{Stage, delivered, scan},
};

/// Where the processes are, and what they share.
pub(super) struct World<'a> {
    keyspace: &'a str,
    dir: &'a Path,
}

impl<'a> World<'a> {
    pub(super) fn new(keyspace: &'a str, dir: &'a Path) -> Self {
        std::fs::write(dir.join("peer.key"), "peer".repeat(8)).unwrap();
        Self { keyspace, dir }
    }

    pub(super) fn setup(&self, role: &'static str, number: usize) -> Setup {
        let key = self.dir.join("peer.key").display().to_string();
        let setup = Setup::new(crate::BINARY, &self.dir.join(format!("{role}-{number}")))
            .on_cluster(cql::address(), self.keyspace)
            .role(role)
            .with(&[
                "--peer-key-file",
                &key,
                "--node-name",
                &format!("{role}-{number}"),
            ]);
        match role {
            "dispatcher" => setup.with(&["--peer-listen", "127.0.0.1:0"]),
            _ => setup,
        }
    }

    async fn two(&self, role: &'static str) -> Vec<Server> {
        let setups = [self.setup(role, 0), self.setup(role, 1)];
        join_all(setups.iter().map(Setup::start)).await
    }
}

/// Scans at every edge, and waits until all of it was delivered.
async fn deliver(edges: &[Server], stage: &Stage) {
    for edge in edges {
        let answered = scan(edge, &stage.path, 5).await;
        delivered(&stage.receiver, &answered).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Cassandra: run by make test"]
async fn roles_that_share_a_keyspace_deliver_every_scan_whichever_of_them_end() {
    let cluster = Cluster::open().await;
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(&cluster.keyspace.name, dir.path());
    let planes = world.two("control-plane").await;
    let edges = world.two("data-plane").await;
    let mut dispatchers = world.two("dispatcher").await;
    let stage = Stage::set(&planes[0].admin()).await;
    deliver(&edges, &stage).await;
    // An edge tells the partition's owner.
    wait_within(
        PATIENCE * 3,
        "an edge tells a dispatcher what happens",
        async || {
            scan(&edges[0], &stage.path, 1).await;
            (edges[0].metric("qrelay_peer_messages_total").await >= 1.0).then_some(())
        },
    )
    .await;

    // Nobody needs a control plane.
    planes.into_iter().for_each(Server::kill);
    deliver(&edges, &stage).await;

    // What a killed dispatcher had is taken over, with what it had not delivered.
    let mut answered = scan(&edges[0], &stage.path, 5).await;
    dispatchers.remove(0).kill();
    answered.extend(scan(&edges[1], &stage.path, 5).await);
    delivered(&stage.receiver, &answered).await;

    // One that is stopped hands over to one that came.
    let next = world.setup("dispatcher", 2).start().await;
    let last = std::mem::replace(&mut dispatchers[0], next);
    let answered = scan(&edges[0], &stage.path, 5).await;
    last.stop().await;
    delivered(&stage.receiver, &answered).await;
    deliver(&edges, &stage).await;
    for server in edges.into_iter().chain(dispatchers) {
        server.stop().await;
    }
}
