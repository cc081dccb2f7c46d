//! Very large tenants: partitions of their own, given at creation or later, while scans flow.

use std::collections::{BTreeMap, HashSet};

use http::Method;
use qrelay_tests::{
    PATIENCE,
    api::Api,
    http as client,
    receiver::{Behaviour, Receiver},
    server::{Server, Setup},
    wait_within,
};
use serde_json::{Value, json};
use tokio::time::Instant;

/// Codes of the tenant: enough that every one of eight partitions has some.
const CODES: usize = 40;

struct Large {
    tenant: String,
    api: Api,
    admin: Api,
    codes: Vec<String>,
}

/// An endpoint and its receiver.
struct Listener {
    id: String,
    receiver: Receiver,
}

impl Large {
    /// A tenant with its codes.
    async fn create(server: &Server, fields: Value) -> Self {
        let admin = server.admin();
        let mut body = json!({"name": "large"});
        body.as_object_mut()
            .unwrap()
            .extend(fields.as_object().unwrap().clone());
        let tenant = admin.post("/v1/tenants", body).await;
        for (field, value) in fields.as_object().unwrap() {
            assert_eq!(tenant[field], *value, "{tenant}");
        }
        let tenant = format!("/v1/tenants/{}", tenant["id"].as_str().unwrap());
        let api = admin.with_key(&key_of(&admin, &tenant).await);
        let mut codes = Vec::new();
        for _ in 0..CODES {
            let code = api
                .post("/v1/codes", json!({"destination_url": "https://example.com/"}))
                .await;
            codes.push(format!("/{}", code["short_id"].as_str().unwrap()));
        }
        Self {
            tenant,
            api,
            admin,
            codes,
        }
    }

    async fn listener(&self) -> Listener {
        let receiver = Receiver::start(Behaviour::Accept).await;
        let endpoint = json!({"url": receiver.url(), "events": ["scan.created"]});
        let endpoint = self.api.post("/v1/endpoints", endpoint).await;
        receiver.expect_secret(endpoint["secret"].as_str().unwrap());
        Listener {
            id: endpoint["id"].as_str().unwrap().to_owned(),
            receiver,
        }
    }

    /// Scans each code so often: the events.
    async fn scan(&self, server: &Server, times: usize) -> HashSet<String> {
        let mut answered = HashSet::new();
        for _ in 0..times {
            for path in &self.codes {
                let answer = client::get(server.edge(), path).await.unwrap();
                assert_eq!(answer.status(), 302, "{path}");
                let id = answer.headers()["x-qrelay-scan"].to_str().unwrap();
                answered.insert(id.to_owned());
            }
        }
        answered
    }

    /// Gives it partitions, until that is done: who has just taken a partition up may not have heard of it yet.
    async fn raise(&self, partitions: i32) -> Value {
        raise(&self.admin, &self.tenant, partitions).await
    }

    /// How many attempts each event took at an endpoint.
    async fn attempts(&self, endpoint: &str) -> BTreeMap<String, i64> {
        let (mut all, mut token) = (BTreeMap::new(), String::new());
        loop {
            let path = format!("/v1/endpoints/{endpoint}/deliveries?page_size=500&page_token={token}");
            let page = self.api.get(&path).await;
            for delivery in page["deliveries"].as_array().unwrap() {
                let event = delivery["event_id"].as_str().unwrap().to_owned();
                all.insert(event, delivery["attempts"].as_i64().unwrap());
            }
            token = page["next_page_token"].as_str().unwrap().to_owned();
            if token.is_empty() {
                return all;
            }
        }
    }

    /// Waits until a receiver got all of these, and checks that none came twice but by a further attempt.
    async fn got_all(&self, listener: &Listener, events: &HashSet<String>) {
        wait_within(PATIENCE * 3, "every event comes", async || {
            let accepted = listener.receiver.accepted();
            events.iter().all(|id| accepted.contains_key(id)).then_some(())
        })
        .await;
        let arrivals = listener.receiver.arrivals();
        assert!(arrivals.iter().all(|arrival| arrival.verified == Some(true)));
        let accepted = listener.receiver.accepted();
        if accepted.values().any(|count| *count > 1) {
            let attempts = self.attempts(&listener.id).await;
            for (event, count) in accepted {
                let made = attempts.get(&event).copied().unwrap_or(0);
                assert!(i64::from(count) <= made.max(1), "{event} came {count} times");
            }
        }
    }
}

/// Gives a tenant partitions, until that is done.
pub(super) async fn raise(admin: &Api, tenant: &str, partitions: i32) -> Value {
    wait_within(PATIENCE * 3, "the partitions are given", async || {
        let body = json!({"partitions": partitions});
        let (status, json) = admin.call(Method::PATCH, tenant, Some(&body)).await.ok()?;
        assert!(status.is_success() || status.is_server_error(), "{status} {json}");
        status.is_success().then_some(json)
    })
    .await
}

async fn started(dir: &tempfile::TempDir) -> Server {
    Setup::new(super::BINARY, &dir.path().join("data")).start().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_gets_more_partitions_while_scans_flow_and_every_endpoint_gets_every_event_once() {
    let dir = tempfile::tempdir().unwrap();
    let server = started(&dir).await;
    let large = Large::create(&server, json!({"partitions": 4})).await;
    let mut listeners = Vec::new();
    for _ in 0..3 {
        listeners.push((large.listener().await, HashSet::new()));
    }
    let begun = large.scan(&server, 1).await;
    // Raised while scans are under way.
    let (meanwhile, raised) = tokio::join!(large.scan(&server, 3), large.raise(8));
    assert_eq!(raised["partitions"], 8);
    for (_, expected) in &mut listeners {
        expected.extend(begun.iter().chain(&meanwhile).cloned());
    }
    for _ in 0..3 {
        listeners.push((large.listener().await, HashSet::new()));
    }
    let after = large.scan(&server, 2).await;
    for (listener, expected) in &mut listeners {
        expected.extend(after.iter().cloned());
        large.got_all(listener, expected).await;
    }
    wait_within(PATIENCE, "all is counted", async || {
        let usage = large.admin.get(&format!("{}/usage", large.tenant)).await;
        (usage["scans"] == json!(CODES * 6)).then_some(())
    })
    .await;
    // A restart knows all of it.
    server.stop().await;
    let server = started(&dir).await;
    let admin = server.admin();
    let large = Large {
        api: admin.with_key(&key_of(&admin, &large.tenant).await),
        admin,
        ..large
    };
    let last = large.scan(&server, 1).await;
    for (listener, _) in &listeners {
        large.got_all(listener, &last).await;
    }
    server.stop().await;
}

async fn key_of(admin: &Api, tenant: &str) -> String {
    let key = admin
        .post(&format!("{tenant}/api_keys"), json!({"name": "test"}))
        .await;
    key["key"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_that_shared_a_partition_gets_its_own_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let server = started(&dir).await;
    let large = Large::create(&server, json!({"partitions": 0})).await;
    let listener = large.listener().await;
    let mut expected = large.scan(&server, 1).await;
    for partitions in [1, 3] {
        let (meanwhile, raised) = tokio::join!(large.scan(&server, 2), large.raise(partitions));
        assert_eq!(raised["partitions"], partitions);
        expected.extend(meanwhile);
    }
    let late = large.listener().await;
    let after = large.scan(&server, 1).await;
    expected.extend(after.iter().cloned());
    large.got_all(&listener, &expected).await;
    large.got_all(&late, &after).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenants_limit_is_exact_over_all_of_its_homes_and_over_a_raise() {
    const PER_SECOND: u32 = 100;
    const BURST: u32 = 8;
    let dir = tempfile::tempdir().unwrap();
    let server = started(&dir).await;
    let limit = json!({"per_second": PER_SECOND, "burst": BURST});
    let large = Large::create(&server, json!({"partitions": 2, "rate_limit": limit})).await;
    let mut listeners = Vec::new();
    for _ in 0..6 {
        listeners.push(large.listener().await);
    }
    let begun = Instant::now();
    let mut events = large.scan(&server, 1).await;
    let refused = json!({"partitions": 9});
    let (status, body) = large
        .admin
        .call(Method::PATCH, &large.tenant, Some(&refused))
        .await
        .unwrap();
    assert_eq!(status, 400, "a burst of 8 has no nine parts: {body}");
    assert!(body.to_string().contains("\"partitions\""), "{body}");
    large.raise(8).await;
    for _ in 0..6 {
        listeners.push(large.listener().await);
    }
    let after = large.scan(&server, 1).await;
    for late in &listeners[6..] {
        large.got_all(late, &after).await;
    }
    events.extend(after);
    for early in &listeners[..6] {
        large.got_all(early, &events).await;
    }
    let took = begun.elapsed().as_secs_f64();
    let made: usize = listeners
        .iter()
        .map(|listener| listener.receiver.arrivals().len())
        .sum();
    assert!(made >= 18 * CODES, "{made}");
    // However slow the machine is, it takes no less.
    let made = u32::try_from(made).unwrap();
    let least = f64::from(made - BURST) / f64::from(PER_SECOND);
    assert!(
        took >= least,
        "{made} requests in {took} s, not in {least} s or more"
    );
    server.stop().await;
}
