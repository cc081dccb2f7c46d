//! The main job on one machine: scan a code, receive a verified webhook.

use std::time::Duration;

use qrelay_tests::{
    http,
    receiver::{Behaviour, Receiver},
    server::{Setup, code_and_endpoint},
    wait_until, wait_within,
};
use serde_json::{Value, json};

#[tokio::test]
async fn a_scan_becomes_a_verified_webhook_with_the_redirects_id() {
    let dir = tempfile::tempdir().unwrap();
    let server = Setup::new(super::BINARY, &dir.path().join("data")).start().await;
    let (tenant, api) = server.admin().tenant("spine").await;
    let receiver = Receiver::start(Behaviour::Accept).await;
    let (code, endpoint) = code_and_endpoint(&api, "menu", &receiver.url()).await;
    receiver.expect_secret(endpoint["secret"].as_str().unwrap());

    let answer = http::get(server.edge(), "/menu").await.unwrap();
    assert_eq!(answer.status(), 302);
    assert_eq!(answer.headers()["location"], "https://example.com/landing");
    assert_eq!(answer.headers()["cache-control"], "no-store");
    let id = answer.headers()["x-qrelay-scan"].to_str().unwrap().to_owned();

    let arrival = wait_until("the webhook", async || receiver.arrivals().into_iter().next()).await;
    assert_eq!(arrival.id, id);
    assert_eq!(arrival.verified, Some(true));
    let body: Value = serde_json::from_slice(&arrival.body).unwrap();
    assert_eq!((&body["type"], &body["id"]), (&json!("scan.created"), &json!(id)));
    assert_eq!(body["data"]["code_id"], code["id"]);
    assert_eq!(body["data"]["tenant_id"], json!(tenant));
    assert_eq!(body["data"]["variant_label"], "(default)");

    // What the API shows is what was sent.
    assert_eq!(api.get(&format!("/v1/events/{id}")).await, body);
    let listed = api.get("/v1/events?type=scan.created").await;
    assert_eq!(listed["events"], json!([body]));
    let delivery = wait_until("the delivery is logged", async || {
        let list = api
            .get(&format!(
                "/v1/endpoints/{}/deliveries",
                endpoint["id"].as_str().unwrap()
            ))
            .await;
        list["deliveries"].as_array().unwrap().first().cloned()
    })
    .await;
    assert_eq!(
        (&delivery["event_id"], &delivery["status"]),
        (&json!(id), &json!("succeeded"))
    );
    assert_eq!(
        (&delivery["response_status"], &delivery["attempts"]),
        (&json!(200), &json!(1))
    );
    server.stop().await;
}

#[tokio::test]
async fn a_changed_destination_is_obeyed_within_a_second_and_makes_an_event() {
    let dir = tempfile::tempdir().unwrap();
    let server = Setup::new(super::BINARY, &dir.path().join("data")).start().await;
    let (_, api) = server.admin().tenant("change").await;
    let receiver = Receiver::start(Behaviour::Accept).await;
    let endpoint = json!({"url": receiver.url(), "events": ["code.*"]});
    api.post("/v1/endpoints", endpoint).await;
    let code = api
        .post(
            "/v1/codes",
            json!({"short_id": "moves", "destination_url": "https://a.example/"}),
        )
        .await;
    let path = format!("/v1/codes/{}", code["id"].as_str().unwrap());
    assert_eq!(
        http::get(server.edge(), "/moves").await.unwrap().headers()["location"],
        "https://a.example/"
    );

    let changed = api
        .patch(&path, json!({"destination_url": "https://b.example/"}))
        .await;
    assert_eq!(changed["version"], 2);
    wait_within(Duration::from_secs(5), "the edge obeys", async || {
        let answer = http::get(server.edge(), "/moves").await.unwrap();
        (answer.headers()["location"] == "https://b.example/").then_some(())
    })
    .await;
    api.delete(&path).await;
    wait_within(Duration::from_secs(5), "the code is gone", async || {
        (http::get(server.edge(), "/moves").await.unwrap().status() == 410).then_some(())
    })
    .await;

    let types = wait_until("three events", async || {
        let arrivals = receiver.arrivals();
        let bodies = arrivals
            .iter()
            .map(|arrival| serde_json::from_slice::<Value>(&arrival.body).unwrap());
        let types: Vec<_> = bodies
            .map(|body| body["type"].as_str().unwrap().to_owned())
            .collect();
        (types.len() == 3).then_some(types)
    })
    .await;
    assert_eq!(types, ["code.created", "code.updated", "code.deleted"]);
    server.stop().await;
}

#[tokio::test]
async fn a_failing_endpoint_is_retried_with_the_same_bytes_and_then_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let server = Setup::new(super::BINARY, &dir.path().join("data")).start().await;
    let (_, api) = server.admin().tenant("retries").await;
    let receiver = Receiver::start(Behaviour::Answer(500)).await;
    let endpoint = json!({"url": receiver.url(), "events": ["*"], "retry_schedule": ["0s", "1s", "1s"]});
    let endpoint = api.post("/v1/endpoints", endpoint).await;
    receiver.expect_secret(endpoint["secret"].as_str().unwrap());
    api.post(
        "/v1/codes",
        json!({"short_id": "fails", "destination_url": "https://a.example/"}),
    )
    .await;

    let list = format!("/v1/endpoints/{}/deliveries", endpoint["id"].as_str().unwrap());
    let delivery = wait_until("the delivery is given up", async || {
        let deliveries = api.get(&list).await;
        deliveries["deliveries"]
            .as_array()
            .unwrap()
            .iter()
            .find(|delivery| delivery["status"] == "given_up")
            .cloned()
    })
    .await;
    assert_eq!(
        (&delivery["attempts"], &delivery["response_status"]),
        (&json!(3), &json!(500))
    );
    assert_ne!(delivery["error"], "");
    let arrivals = receiver.arrivals();
    assert_eq!(arrivals.len(), 3);
    assert!(
        arrivals
            .iter()
            .all(|arrival| arrival.verified == Some(true) && arrival.body == arrivals[0].body)
    );
    let shown = api
        .get(&format!("/v1/deliveries/{}", delivery["id"].as_str().unwrap()))
        .await;
    assert_eq!(shown["attempt_log"].as_array().unwrap().len(), 3);
    server.stop().await;
}
