//! `ordering: per_code`: one code's events one after the other, through failures and restarts.

use std::collections::BTreeSet;

use qrelay_tests::{
    api::Api,
    http,
    receiver::{Behaviour, Receiver},
    server::{Server, Setup},
    wait_until,
};
use serde_json::json;

async fn scan(server: &Server, short_id: &str) -> String {
    let answer = http::get(server.edge(), &format!("/{short_id}")).await.unwrap();
    answer.headers()["x-qrelay-scan"].to_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_failing_event_holds_up_its_code_alone_and_the_order_outlives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup::new(super::BINARY, &dir.path().join("data"));
    let server = setup.start().await;
    let (_, api) = server.admin().tenant("order").await;
    for short_id in ["menu", "poster"] {
        let code = json!({"short_id": short_id, "destination_url": "https://example.com/"});
        api.post("/v1/codes", code).await;
    }
    let receiver = Receiver::start(Behaviour::Answer(500)).await;
    let schedule: Vec<&str> = std::iter::once("0s").chain(["1s"; 19]).collect();
    let endpoint = json!({
        "url": receiver.url(), "events": ["scan.created"], "ordering": "per_code", "retry_schedule": schedule,
        "failure": {"degrade_after": 0},
    });
    let endpoint = api.post("/v1/endpoints", endpoint).await;
    assert_eq!(endpoint["ordering"], "per_code");
    let (mut menu, mut poster) = (Vec::new(), Vec::new());
    for _ in 0..10 {
        menu.push(scan(&server, "menu").await);
        poster.push(scan(&server, "poster").await);
    }
    let firsts: BTreeSet<String> = [menu[0].clone(), poster[0].clone()].into();
    let attempted = || -> BTreeSet<String> {
        let arrivals = receiver.arrivals();
        arrivals.into_iter().map(|arrival| arrival.id).collect()
    };
    wait_until("the first of both was tried again", async || {
        (receiver.arrivals().len() >= 4 && attempted() == firsts).then_some(())
    })
    .await;
    server.stop().await;

    let server = setup.start().await;
    let api = Api {
        address: server.admin().address,
        ..api
    };
    let tried = receiver.arrivals().len();
    wait_until("they are tried after the restart", async || {
        (receiver.arrivals().len() > tried).then_some(())
    })
    .await;
    assert_eq!(attempted(), firsts, "nothing overtakes a failing one");
    receiver.behave(Behaviour::Accept);
    menu.push(scan(&server, "menu").await);
    wait_until("all are delivered", async || {
        (receiver.accepted().len() == menu.len() + poster.len()).then_some(())
    })
    .await;
    // In the order of their first arrival, each code's events came as they were recorded.
    let mut seen = BTreeSet::new();
    let arrivals = receiver.arrivals().into_iter().map(|arrival| arrival.id);
    let order: Vec<String> = arrivals.filter(|id| seen.insert(id.clone())).collect();
    for code in [&menu, &poster] {
        let came: Vec<_> = order.iter().filter(|id| code.contains(id)).collect();
        assert_eq!(came, code.iter().collect::<Vec<_>>());
    }
    let path = format!("/v1/endpoints/{}", endpoint["id"].as_str().unwrap());
    let shown = api.patch(&path, json!({"ordering": "none"})).await;
    assert_eq!(shown["ordering"], "none");
    server.stop().await;
}
