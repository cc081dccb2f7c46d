//! Filters of endpoints: what passes them is delivered, and nothing else.

use std::collections::BTreeSet;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use qrelay_tests::{
    http::once,
    receiver::{Behaviour, Receiver},
    server::{Server, Setup},
    wait_until,
};
use serde_json::{Value, json};

const HUMAN: &str = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) \
                     Version/18.0 Mobile/15E148 Safari/604.1";
const PREVIEW: &str = "Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)";
const TOOL: &str = "curl/8.5.0";

/// Scans a code as somebody: the event's id.
async fn scan(server: &Server, short_id: &str, user_agent: &str) -> String {
    let request = Request::get(format!("/{short_id}"))
        .header("host", server.edge().to_string())
        .header("user-agent", user_agent)
        .body(Full::<Bytes>::default())
        .unwrap();
    let answer = once(server.edge(), request).await.unwrap();
    assert_eq!(answer.status(), 302, "{short_id}");
    answer.headers()["x-qrelay-scan"].to_str().unwrap().to_owned()
}

/// What arrived once `last`, which goes out after all else, is there.
async fn all_until(receiver: &Receiver, last: &str) -> BTreeSet<String> {
    wait_until("the last delivery", async || {
        receiver
            .arrivals()
            .iter()
            .any(|arrival| arrival.id == last)
            .then_some(())
    })
    .await;
    receiver
        .arrivals()
        .into_iter()
        .map(|arrival| arrival.id)
        .collect()
}

fn set<'a>(ids: impl IntoIterator<Item = &'a String>) -> BTreeSet<String> {
    ids.into_iter().cloned().collect()
}

#[tokio::test]
async fn an_endpoint_gets_what_its_filter_lets_pass_and_a_change_counts_from_then_on() {
    let dir = tempfile::tempdir().unwrap();
    let server = Setup::new(super::BINARY, &dir.path().join("data")).start().await;
    let (_, api) = server.admin().tenant("filters").await;
    let mut codes = Vec::new();
    for (short_id, tags, campaign) in [
        ("menu", json!(["lobby", "a4"]), "spring"),
        ("poster", json!([]), ""),
    ] {
        let code = json!({
            "short_id": short_id, "destination_url": "https://example.com/", "tags": tags, "campaign_id": campaign,
            "metadata": {"table": 7},
        });
        codes.push(api.post("/v1/codes", code).await["id"].clone());
    }
    let filters = [
        Value::Null,
        json!({"codes": [codes[0]]}),
        json!({"humans_only": true}),
        json!({"classifications": ["preview", "human"], "codes": [codes[0]]}),
        json!({"tags": ["lobby", "hall"]}),
        json!({"campaigns": ["spring"], "humans_only": true}),
        json!({"expression": "data.classification != 'tool' && data.metadata.table == 7 && 'a4' in code.tags"}),
        json!({"expression": "data.metadata.nothing == 7 || data.short_id == 'menu'"}),
    ];
    let (mut receivers, mut paths) = (Vec::new(), Vec::new());
    for filter in &filters {
        let receiver = Receiver::start(Behaviour::Accept).await;
        let endpoint = json!({
            "url": receiver.url(), "events": ["scan.created"], "filter": filter, "max_concurrency": 1,
        });
        let endpoint = api.post("/v1/endpoints", endpoint).await;
        assert_eq!(endpoint.get("filter").is_none(), filter.is_null());
        paths.push(format!("/v1/endpoints/{}", endpoint["id"].as_str().unwrap()));
        receivers.push(receiver);
    }
    let mut ids = Vec::new();
    for (code, by) in [
        ("menu", TOOL),
        ("poster", HUMAN),
        ("menu", PREVIEW),
        ("poster", TOOL),
        ("menu", HUMAN),
    ] {
        ids.push(scan(&server, code, by).await);
    }
    let expected = [
        set(&ids),
        set([&ids[0], &ids[2], &ids[4]]),
        set([&ids[1], &ids[4]]),
        set([&ids[2], &ids[4]]),
        set([&ids[0], &ids[2], &ids[4]]),
        set([&ids[4]]),
        set([&ids[2], &ids[4]]),
        set([&ids[0], &ids[2], &ids[4]]),
    ];
    for (receiver, expected) in receivers.iter().zip(&expected) {
        assert_eq!(all_until(receiver, &ids[4]).await, *expected);
    }

    // A part of the filter is replaced, the rest stays; events from before stay as they were judged.
    let changed = api
        .patch(&paths[3], json!({"filter": {"codes": [codes[1]]}}))
        .await;
    assert_eq!(
        changed["filter"],
        json!({
            "codes": [codes[1]], "tags": [], "campaigns": [], "classifications": ["human", "preview"],
            "humans_only": false, "expression": "",
        })
    );
    scan(&server, "menu", HUMAN).await;
    let last = scan(&server, "poster", HUMAN).await;
    let expected = set([&ids[2], &ids[4], &last]);
    assert_eq!(all_until(&receivers[3], &last).await, expected);
    let lifted = api.patch(&paths[3], json!({"filter": null})).await;
    assert!(lifted.get("filter").is_none(), "{lifted}");
    server.stop().await;
}

#[tokio::test]
async fn an_endpoint_that_was_paused_gets_what_passes_its_filter_from_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup::new(super::BINARY, &dir.path().join("data"));
    let server = setup.start().await;
    let (_, api) = server.admin().tenant("paused").await;
    let code = json!({"short_id": "menu", "destination_url": "https://example.com/"});
    api.post("/v1/codes", code).await;
    let receiver = Receiver::start(Behaviour::Accept).await;
    let endpoint = json!({
        "url": receiver.url(), "events": ["scan.*", "code.*"], "status": "paused", "max_concurrency": 1,
        "filter": {"humans_only": true},
    });
    let endpoint = api.post("/v1/endpoints", endpoint).await;
    let path = format!("/v1/endpoints/{}", endpoint["id"].as_str().unwrap());
    let mut people = BTreeSet::new();
    for _ in 0..20 {
        scan(&server, "menu", TOOL).await;
        people.insert(scan(&server, "menu", HUMAN).await);
    }
    server.stop().await;
    let server = setup.start().await;
    let api = qrelay_tests::api::Api {
        address: server.admin().address,
        ..api
    };
    wait_until("what waits is counted", async || {
        let shown = api.get(&path).await;
        (shown["backlog"]["events"] == "20" || shown["backlog"]["events"] == 20).then_some(())
    })
    .await;
    api.patch(&path, json!({"status": "active"})).await;
    wait_until("the people's scans", async || {
        (receiver.accepted().len() >= 20).then_some(())
    })
    .await;
    // A change of a code is no scan, so that `humans_only` asks nothing of it.
    api.post("/v1/codes", json!({"destination_url": "https://example.com/"}))
        .await;
    let arrived = wait_until("the code's event", async || {
        let arrived: BTreeSet<String> = receiver
            .arrivals()
            .into_iter()
            .map(|arrival| arrival.id)
            .collect();
        (arrived.len() > 20).then_some(arrived)
    })
    .await;
    assert_eq!(arrived.intersection(&people).count(), 20);
    assert_eq!(arrived.len(), 21);
    server.stop().await;
}
