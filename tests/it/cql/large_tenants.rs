//! Very large tenants on a cluster: partitions of their own, given at creation and raised while scans flow.

use std::collections::HashSet;

use qrelay_store::conformance::Fixture as _;
use qrelay_tests::{
    api::Api,
    cql,
    receiver::{Behaviour, Receiver},
    server::Setup,
};
use serde_json::json;

use super::{
    Cluster,
    up::{delivered, scan},
};
use crate::large_tenants::raise;

/// A receiver that is registered.
async fn listener(api: &Api) -> Receiver {
    let receiver = Receiver::start(Behaviour::Accept).await;
    let endpoint = json!({"url": receiver.url(), "events": ["scan.created"]});
    let endpoint = api.persist("/v1/endpoints", &endpoint).await;
    receiver.expect_secret(endpoint["secret"].as_str().unwrap());
    receiver
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Cassandra: run by make test"]
async fn endpoints_of_before_and_after_a_raise_get_every_scan_of_all_partitions() {
    let cluster = Cluster::open().await;
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup::new(crate::BINARY, &dir.path().join("server"))
        .on_cluster(cql::address(), &cluster.keyspace.name);
    let server = setup.start().await;
    let admin = server.admin();
    let tenant = json!({"name": "large", "partitions": 2});
    let tenant = admin.persist("/v1/tenants", &tenant).await;
    assert_eq!(tenant["partitions"], 2);
    let tenant = format!("/v1/tenants/{}", tenant["id"].as_str().unwrap());
    let key = json!({"name": "test"});
    let key = admin.persist(&format!("{tenant}/api_keys"), &key).await;
    let api = admin.with_key(key["key"].as_str().unwrap());
    let mut paths = Vec::new();
    for _ in 0..12 {
        let code = json!({"destination_url": "https://example.com/"});
        let code = api.persist("/v1/codes", &code).await;
        paths.push(format!("/{}", code["short_id"].as_str().unwrap()));
    }
    let scan_all = async || {
        let mut answered = HashSet::new();
        for path in &paths {
            answered.extend(scan(&server, path, 1).await);
        }
        answered
    };
    let early = [listener(&api).await, listener(&api).await];
    let mut expected = scan_all().await;
    let (meanwhile, raised) = tokio::join!(scan_all(), raise(&admin, &tenant, 4));
    assert_eq!(raised["partitions"], 4);
    expected.extend(meanwhile);
    let late = [listener(&api).await, listener(&api).await];
    let after = scan_all().await;
    for receiver in &late {
        delivered(receiver, &after).await;
    }
    expected.extend(after);
    for receiver in &early {
        delivered(receiver, &expected).await;
    }
    server.stop().await;
}
