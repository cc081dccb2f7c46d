//! Processes that are started before the nodes that they need.

use qrelay_store::conformance::Fixture as _;
use qrelay_tests::{cql, http, server::Setup, wait_until};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinSet,
};

use super::Cluster;

/// Passes connections on to the node.
async fn pass_on(listener: TcpListener) {
    let mut passing = JoinSet::new();
    loop {
        let (mut from, _) = listener.accept().await.unwrap();
        passing.spawn(async move {
            let mut to = TcpStream::connect(cql::address()).await.unwrap();
            // Either side may leave.
            copy_bidirectional(&mut from, &mut to).await.ok();
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Cassandra: run by make test"]
async fn a_role_begins_when_its_nodes_are_there() {
    let cluster = Cluster::open().await;
    let dir = tempfile::tempdir().unwrap();
    // Bound, so that nobody else takes the port; nobody listens yet.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let node = socket.local_addr().unwrap().to_string();
    let setup = Setup::new(crate::BINARY, &dir.path().join("edge"))
        .on_cluster(&node, &cluster.keyspace.name)
        .role("data-plane");
    let server = setup.spawn();
    wait_until("it says what it waits for", async || {
        let ready = http::get(server.ops(), "/readyz").await.ok()?;
        let text = String::from_utf8(ready.body().to_vec()).unwrap();
        text.contains("cannot connect").then_some(())
    })
    .await;
    let mut passing = JoinSet::new();
    passing.spawn(pass_on(socket.listen(1024).unwrap()));
    // Three times: its next try may be a while away, and the cluster busy.
    qrelay_tests::wait_within(qrelay_tests::PATIENCE * 3, "it is ready", async || {
        setup.is_ready().await.then_some(())
    })
    .await;
    let scan = http::get(server.edge(), "/unknown").await.unwrap();
    assert_eq!(scan.status(), 404);
    server.stop().await;
}
