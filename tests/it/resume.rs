//! `resume: now` over REST, with `kill -9` before and after: nothing of what waited is sent, all of it is told, and whoever
//! wants it after all gets it.

use std::collections::HashSet;

use qrelay_tests::{
    api::Api,
    http,
    receiver::{Behaviour, Receiver},
    server::{Server, Setup},
    wait_until,
};
use serde_json::{Value, json};

async fn kill_and_restart(server: &mut Server, setup: &Setup) {
    rustix::process::kill_process(server.pid(), rustix::process::Signal::KILL).unwrap();
    server.ended().await;
    *server = setup.start().await;
}

async fn scan(server: &Server, count: usize) -> Vec<String> {
    let mut ids = Vec::with_capacity(count);
    for _ in 0..count {
        let answer = http::get(server.edge(), "/menu").await.unwrap();
        ids.push(answer.headers()["x-qrelay-scan"].to_str().unwrap().to_owned());
    }
    ids
}

fn heard(receiver: &Receiver) -> HashSet<String> {
    receiver
        .arrivals()
        .into_iter()
        .map(|arrival| arrival.id)
        .collect()
}

async fn hears(receiver: &Receiver, ids: &[String]) {
    wait_until("all came", async || {
        let heard = heard(receiver);
        ids.iter().all(|id| heard.contains(id)).then_some(())
    })
    .await;
}

/// An endpoint's deliveries that are told as skipped, once there are any.
async fn skipped(api: &Api, path: &str) -> Vec<Value> {
    let list = format!("{path}/deliveries?status=given_up&page_size=500");
    wait_until("what is skipped is told", async || {
        let listed = api.get(&list).await["deliveries"].as_array().unwrap().clone();
        let told = |delivery: &&Value| delivery["error"].as_str().unwrap().starts_with("skipped");
        let told: Vec<Value> = listed.iter().filter(told).cloned().collect();
        (!told.is_empty()).then_some(told)
    })
    .await
}

async fn waits(api: &Api, path: &str, events: usize) {
    wait_until("so many wait", async || {
        let shown = api.get(path).await;
        (shown["backlog"]["events"] == json!(events)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_resumes_now_gets_nothing_of_what_waited_across_kills() {
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup::new(super::BINARY, &dir.path().join("data"));
    let mut server = setup.start().await;
    let (_, api) = server.admin().tenant("resume").await;
    let code = json!({"short_id": "menu", "destination_url": "https://example.com/"});
    api.post("/v1/codes", code).await;
    let live = Receiver::start(Behaviour::Accept).await;
    let paused = Receiver::start(Behaviour::Accept).await;
    let failing = Receiver::start(Behaviour::Answer(500)).await;
    let settings = |receiver: &Receiver| json!({"url": receiver.url(), "events": ["scan.created"]});
    api.post("/v1/endpoints", settings(&live)).await;
    let mut given = settings(&paused);
    given["status"] = json!("paused");
    let paused_at = api.post("/v1/endpoints", given).await;
    let paused_at = format!("/v1/endpoints/{}", paused_at["id"].as_str().unwrap());
    let mut given = settings(&failing);
    (given["ordering"], given["retry_schedule"]) = (json!("per_code"), json!(["0s", "3600s"]));
    let failing_at = api.post("/v1/endpoints", given).await;
    let failing_at = format!("/v1/endpoints/{}", failing_at["id"].as_str().unwrap());

    let old = scan(&server, 30).await;
    hears(&live, &old).await;
    waits(&api, &paused_at, 30).await;
    waits(&api, &failing_at, 30).await;
    kill_and_restart(&mut server, &setup).await;
    for path in [&paused_at, &failing_at] {
        let wish = json!({"status": "active", "resume": "now"});
        let shown = api.patch(path, wish).await;
        assert_eq!((&shown["status"], shown.get("resume")), (&json!("active"), None));
    }
    kill_and_restart(&mut server, &setup).await;
    failing.behave(Behaviour::Accept);
    let new = scan(&server, 5).await;
    hears(&paused, &new).await;
    hears(&failing, &new).await;
    let told = skipped(&api, &paused_at).await;
    let each_told = skipped(&api, &failing_at).await;
    assert_eq!(each_told.iter().filter(|one| one["attempts"] != 0).count(), 1);
    for path in [&paused_at, &failing_at] {
        wait_until("nothing waits", async || {
            api.get(path).await.get("backlog").is_none().then_some(())
        })
        .await;
    }
    kill_and_restart(&mut server, &setup).await;
    let last = scan(&server, 1).await;
    hears(&paused, &last).await;
    let wanted: HashSet<String> = new.iter().chain(&last).cloned().collect();
    assert_eq!(heard(&paused), wanted, "of what waited nothing was sent");
    let firsts: HashSet<String> = wanted.iter().chain([&old[0]]).cloned().collect();
    hears(&failing, &last).await;
    assert_eq!(heard(&failing), firsts, "but what was tried before");

    // Wanted after all: one of those that waited by themselves, and what was passed over in the log.
    let one = each_told.iter().find(|one| one["attempts"] == 0).unwrap();
    let retry = |delivery: &Value| format!("/v1/deliveries/{}/retry", delivery["id"].as_str().unwrap());
    api.post(&retry(one), json!({})).await;
    hears(&failing, &[one["event_id"].as_str().unwrap().to_owned()]).await;
    // Of those that were still in the log alone one row tells, and goes on to do so whatever is sent of them.
    let is_range = |row: &&Value| {
        row["error"]
            .as_str()
            .unwrap()
            .contains("so were all events of batches")
    };
    let ranges: Vec<&Value> = told.iter().filter(is_range).collect();
    for row in &ranges {
        let (path, nothing) = (retry(row), json!({}));
        let asked = api.call(::http::Method::POST, &path, Some(&nothing));
        let (status, refused) = asked.await.unwrap();
        assert!(status.is_client_error(), "{refused}");
        assert!(refused.to_string().contains("EVENT_RANGE"), "{refused}");
    }
    let range = json!({"start_time": "2020-01-01T00:00:00Z"});
    api.post(&format!("{paused_at}/replay"), range).await;
    hears(&paused, &old).await;
    for row in ranges {
        let shown = api
            .get(&format!("/v1/deliveries/{}", row["id"].as_str().unwrap()))
            .await;
        assert_eq!(shown["status"], "given_up");
    }
    server.stop().await;
}
