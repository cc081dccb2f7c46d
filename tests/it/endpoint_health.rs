//! An endpoint fails, leaves and comes back, and another one hears of it.

use qrelay_tests::{
    http,
    receiver::{Behaviour, Receiver},
    server::Setup,
    wait_until,
};
use serde_json::{Value, json};

/// The bodies of type `endpoint.…` that a receiver got, each event once.
fn told(receiver: &Receiver) -> Vec<Value> {
    let mut seen = std::collections::HashSet::new();
    let arrivals = receiver.arrivals().into_iter();
    arrivals
        .filter(|arrival| seen.insert(arrival.id.clone()))
        .map(|arrival| serde_json::from_slice::<Value>(&arrival.body).unwrap())
        .filter(|body| body["type"].as_str().unwrap().starts_with("endpoint."))
        .collect()
}

#[tokio::test]
async fn an_endpoint_that_fails_is_gone_and_returns_is_told_to_another_one_and_not_to_itself() {
    let dir = tempfile::tempdir().unwrap();
    let server = Setup::new(super::BINARY, &dir.path().join("data")).start().await;
    let (_, api) = server.admin().tenant("health").await;
    let (subject, watcher) = (
        Receiver::start(Behaviour::Answer(500)).await,
        Receiver::start(Behaviour::Accept).await,
    );
    let schedule = json!(["0s", "1s", "1s", "1s", "1s", "1s", "1s", "1s"]);
    let failing = json!({"url": subject.url(), "events": ["*"], "retry_schedule": schedule});
    let failing = api.post("/v1/endpoints", failing).await;
    let path = format!("/v1/endpoints/{}", failing["id"].as_str().unwrap());
    let watching = json!({"url": watcher.url(), "events": ["endpoint.*"]});
    let watching = api.post("/v1/endpoints", watching).await;
    watcher.expect_secret(watching["secret"].as_str().unwrap());
    api.post(
        "/v1/codes",
        json!({"short_id": "menu", "destination_url": "https://example.com/"}),
    )
    .await;
    let next = async |count: usize| {
        wait_until("it is told", async || {
            let told = told(&watcher);
            (told.len() >= count).then(|| told[count - 1].clone())
        })
        .await
    };

    // Five failures, of the code's creation and then some.
    http::get(server.edge(), "/menu").await.unwrap();
    let degraded = next(1).await;
    assert_eq!(degraded["type"], "endpoint.degraded");
    assert_eq!(degraded["data"]["endpoint_id"], failing["id"]);
    assert_eq!(
        (&degraded["data"]["reason"], &degraded["data"]["response_status"]),
        (&json!("failures"), &json!(500))
    );
    assert!(
        subject
            .url()
            .starts_with(degraded["data"]["url_origin"].as_str().unwrap())
    );
    assert_eq!(api.get(&path).await["status"], "degraded");

    subject.behave(Behaviour::Accept);
    let recovered = next(2).await;
    assert_eq!(
        (&recovered["type"], &recovered["data"]["reason"]),
        (&json!("endpoint.recovered"), &json!("succeeded"))
    );

    subject.behave(Behaviour::Answer(410));
    http::get(server.edge(), "/menu").await.unwrap();
    let disabled = next(3).await;
    assert_eq!(
        (&disabled["type"], &disabled["data"]["reason"]),
        (&json!("endpoint.disabled"), &json!("gone"))
    );

    subject.behave(Behaviour::Accept);
    api.patch(&path, json!({"status": "active"})).await;
    let enabled = next(4).await;
    assert_eq!(
        (&enabled["type"], &enabled["data"]["reason"]),
        (&json!("endpoint.recovered"), &json!("set_active"))
    );

    // What the API shows is what was sent; the subject heard nothing of it.
    let listed = api.get("/v1/events?type=endpoint.*").await;
    assert_eq!(listed["events"], json!([enabled, disabled, recovered, degraded]));
    let shown = api
        .get(&format!("/v1/events/{}", enabled["id"].as_str().unwrap()))
        .await;
    assert_eq!(shown, enabled);
    assert!(
        watcher
            .arrivals()
            .iter()
            .all(|arrival| arrival.verified == Some(true))
    );
    assert_eq!(told(&subject), [] as [Value; 0]);
    server.stop().await;
}
