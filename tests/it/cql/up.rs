//! `qrelay up` on a cluster: all roles in one process, over stops and kills.

use std::collections::HashSet;

use http::Method;
use qrelay_store::conformance::Fixture as _;
use qrelay_tests::{
    PATIENCE,
    api::Api,
    cql, http as client,
    receiver::{Behaviour, Receiver},
    server::{Server, Setup},
    wait_within,
};
use serde_json::json;

use super::Cluster;

/// Scans `count` times, each until it is answered with a redirect: the events.
pub(super) async fn scan(server: &Server, path: &str, count: usize) -> HashSet<String> {
    let mut answered = HashSet::new();
    while answered.len() < count {
        let id = wait_within(PATIENCE * 3, "a scan is answered", async || {
            let answer = client::get(server.edge(), path).await.ok()?;
            let id = answer.headers().get("x-qrelay-scan")?;
            (answer.status() == 302).then(|| id.to_str().unwrap().to_owned())
        })
        .await;
        answered.insert(id);
    }
    answered
}

/// Waits until every event came, and each at least once with a right signature.
pub(super) async fn delivered(receiver: &Receiver, answered: &HashSet<String>) {
    wait_within(PATIENCE * 3, "every answered scan is delivered", async || {
        let arrivals = receiver.arrivals();
        let good = arrivals
            .iter()
            .filter(|arrival| arrival.accepted && arrival.verified == Some(true));
        let came: HashSet<_> = good.map(|arrival| &arrival.id).collect();
        answered.iter().all(|id| came.contains(id)).then_some(())
    })
    .await;
}

/// A tenant with a code and a receiver.
pub(super) struct Stage {
    /// The tenant's path.
    tenant: String,
    /// The short link's path.
    pub(super) path: String,
    pub(super) receiver: Receiver,
}

impl Stage {
    pub(super) async fn set(admin: &Api) -> Self {
        let tenant = admin.persist("/v1/tenants", &json!({"name": "cluster"})).await;
        let tenant = format!("/v1/tenants/{}", tenant["id"].as_str().unwrap());
        let key = admin
            .persist(&format!("{tenant}/api_keys"), &json!({"name": "test"}))
            .await;
        let api = admin.with_key(key["key"].as_str().unwrap());
        let code = json!({"destination_url": "https://example.com/"});
        let code = api.persist("/v1/codes", &code).await;
        let receiver = Receiver::start(Behaviour::Accept).await;
        let endpoint = json!({"url": receiver.url(), "events": ["scan.created"]});
        let endpoint = api.persist("/v1/endpoints", &endpoint).await;
        receiver.expect_secret(endpoint["secret"].as_str().unwrap());
        Self {
            tenant,
            path: format!("/{}", code["short_id"].as_str().unwrap()),
            receiver,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Cassandra: run by make test"]
async fn all_roles_in_one_process_deliver_from_a_cluster_over_a_stop_and_kills() {
    let cluster = Cluster::open().await;
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup::new(crate::BINARY, &dir.path().join("server"))
        .on_cluster(cql::address(), &cluster.keyspace.name);
    let server = setup.start().await;
    let stage = Stage::set(&server.admin()).await;
    let (path, receiver) = (&*stage.path, &stage.receiver);

    let mut answered = scan(&server, path, 10).await;
    delivered(receiver, &answered).await;
    server.stop().await;

    let mut server = setup.start().await;
    for _ in 0..2 {
        answered.extend(scan(&server, path, 10).await);
        // Whatever was not delivered by now is found by the next process.
        server.kill();
        server = setup.start().await;
    }
    delivered(receiver, &answered).await;
    // What the first process was told is what the last one knows.
    let admin = server.admin();
    let known = wait_within(PATIENCE * 3, "the tenant is known", async || {
        let (status, known) = admin.call(Method::GET, &stage.tenant, None).await.ok()?;
        status.is_success().then_some(known)
    });
    assert_eq!(known.await["name"], "cluster");
    assert!(
        !dir.path().join("server").exists(),
        "a cluster needs no data directory"
    );
    server.stop().await;
}
