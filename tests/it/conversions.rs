//! Conversions from a scan to a signed webhook, and their ledger over kills: each is recorded once.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::Method;
use qrelay_tests::{
    api::Api,
    http as client,
    receiver::{Behaviour, Receiver},
    server::Setup,
    setting, wait_until,
};
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::sleep};
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn a_reported_conversion_becomes_a_verified_webhook_that_names_its_scan() {
    let dir = tempfile::tempdir().unwrap();
    let server = Setup::new(super::BINARY, &dir.path().join("data")).start().await;
    let (tenant, api) = server.admin().tenant("conversions").await;
    let receivers = [
        Receiver::start(Behaviour::Accept).await,
        Receiver::start(Behaviour::Accept).await,
    ];
    for (receiver, events) in receivers.iter().zip([json!(["qr.*"]), json!(["qr.conversion"])]) {
        let endpoint = json!({"url": receiver.url(), "events": events});
        let endpoint = api.post("/v1/endpoints", endpoint).await;
        receiver.expect_secret(endpoint["secret"].as_str().unwrap());
    }
    let code = json!({
        "short_id": "menu", "destination_url": "https://example.com/landing?a=b", "conversion_param": "qr_eid",
    });
    api.post("/v1/codes", code).await;
    let scan = client::get(server.edge(), "/menu").await.unwrap();
    let landing = scan.headers()["location"].to_str().unwrap();
    let scan = landing
        .strip_prefix("https://example.com/landing?a=b&qr_eid=")
        .unwrap()
        .to_owned();

    let order = json!({"event_id": scan, "external_id": "order 1", "value": "49.90", "currency": "EUR"});
    let made = api.post("/v1/conversions", order.clone()).await;
    assert_eq!(api.post("/v1/conversions", order).await, made);
    for receiver in &receivers {
        let arrival = wait_until("the webhook", async || receiver.arrivals().into_iter().next()).await;
        assert_eq!(arrival.verified, Some(true));
        assert_eq!(json!(arrival.id), made["id"]);
        let body: Value = serde_json::from_slice(&arrival.body).unwrap();
        assert_eq!(body["type"], "qr.conversion");
        assert_eq!(body["data"]["scan"]["event_id"], json!(scan));
        assert_eq!(body["data"]["value"], "49.90");
        assert_eq!(api.get(&format!("/v1/events/{}", arrival.id)).await, body);
    }
    let usage = wait_until("both are counted", async || {
        let usage = server.admin().get(&format!("/v1/tenants/{tenant}/usage")).await;
        (usage["deliveries"] == 2).then_some(usage)
    })
    .await;
    assert_eq!(usage["scans"], 1, "a conversion is no scan: {usage}");
    server.stop().await;
}

#[tokio::test]
async fn conversions_reported_over_kills_are_recorded_once_each() {
    let kills = setting("QRELAY_TEST_KILLS", 3);
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup::new(super::BINARY, &dir.path().join("data"));
    let mut server = setup.start().await;
    let (_, api) = server.admin().tenant("ledger").await;
    let code = json!({"short_id": "menu", "destination_url": "https://example.com/landing"});
    api.post("/v1/codes", code).await;
    let (answered, stop) = (Arc::new(Mutex::new(HashMap::new())), CancellationToken::new());
    let mut people = JoinSet::new();
    for person in 0..8 {
        people.spawn(report_all(
            api.clone(),
            person,
            Arc::clone(&answered),
            stop.clone(),
        ));
    }
    for kill in 1..=kills {
        let wanted = answered.lock().unwrap().len() + 50;
        wait_until("reports are answered", async || {
            (answered.lock().unwrap().len() >= wanted).then_some(())
        })
        .await;
        println!("kill {kill} after {wanted} reports");
        server.kill();
        server = setup.start().await;
    }
    stop.cancel();
    while let Some(done) = people.join_next().await {
        done.unwrap();
    }
    let recorded = all_conversions(&api).await;
    let answered = answered.lock().unwrap().clone();
    println!(
        "{} conversions answered, {} recorded",
        answered.len(),
        recorded.len()
    );
    let mut ids = HashMap::new();
    for event in &recorded {
        let external_id = event["data"]["external_id"].as_str().unwrap().to_owned();
        let id = event["id"].as_str().unwrap().to_owned();
        assert_eq!(
            ids.insert(external_id.clone(), id),
            None,
            "{external_id} is recorded twice"
        );
    }
    assert_eq!(ids, answered, "what is recorded is what was answered");
    server.stop().await;
}

/// Reports one conversion after the other, each until it is answered, under whatever outages.
async fn report_all(
    api: Api,
    person: usize,
    answered: Arc<Mutex<HashMap<String, String>>>,
    stop: CancellationToken,
) {
    for order in 0.. {
        if stop.is_cancelled() {
            return;
        }
        let external_id = format!("order {person}-{order}");
        let body = json!({"short_id": "menu", "external_id": external_id, "value": "1.00"});
        let made = loop {
            match api.call(Method::POST, "/v1/conversions", Some(&body)).await {
                Ok((status, made)) if status.is_success() => break made,
                // Too many requests, or a server that is starting or ending.
                Ok((status, made)) => assert!(
                    status.as_u16() == 429 || status.is_server_error(),
                    "{status}: {made}"
                ),
                Err(_) => {}
            }
            sleep(Duration::from_millis(5)).await;
        };
        let id = made["id"].as_str().unwrap().to_owned();
        answered.lock().unwrap().insert(external_id, id);
    }
}

async fn all_conversions(api: &Api) -> Vec<Value> {
    let (mut all, mut token) = (Vec::new(), String::new());
    loop {
        let path = format!("/v1/events?type=qr.conversion&page_size=500&page_token={token}");
        let page = api.get(&path).await;
        all.extend(page["events"].as_array().unwrap().iter().cloned());
        token = page["next_page_token"].as_str().unwrap().to_owned();
        if token.is_empty() {
            return all;
        }
    }
}
