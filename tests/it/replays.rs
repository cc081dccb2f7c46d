//! A replay under `kill -9`: every event of its range comes again, and live ones come as ever.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use qrelay_tests::{
    api::Api,
    receiver::{Behaviour, Receiver},
    scan::Crowd,
    server::{Server, Setup},
    setting, wait_until, wait_within,
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};
use tokio::time::sleep;

/// How long all may take after the last kill.
const DRAIN: Duration = Duration::from_secs(120);

async fn kill_and_restart(server: &mut Server, setup: &Setup) {
    rustix::process::kill_process(server.pid(), rustix::process::Signal::KILL).unwrap();
    server.ended().await;
    *server = setup.start().await;
}

fn number(replay: &Value, field: &str) -> u64 {
    replay[field].as_u64().unwrap()
}

async fn state(api: &Api, id: &str) -> Value {
    api.get(&format!("/v1/replays/{id}")).await
}

/// How often each event came since.
fn since(receiver: &Receiver, before: usize) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    for arrival in &receiver.arrivals()[before..] {
        *counts.entry(arrival.id.clone()).or_default() += 1;
    }
    counts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_comes_to_its_end_across_kills_and_live_events_come_meanwhile() {
    let seed = setting("QRELAY_TEST_SEED", rand::random_range(0..1_000_000));
    println!("replay: seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup::new(super::BINARY, &dir.path().join("data"));
    let mut server = setup.start().await;
    let (_, api) = server.admin().tenant("replay").await;
    let receiver = Receiver::start(Behaviour::Accept).await;
    let endpoint = json!({"url": receiver.url(), "events": ["scan.*"]});
    let endpoint = api.post("/v1/endpoints", endpoint).await;
    receiver.expect_secret(endpoint["secret"].as_str().unwrap());
    let endpoint = endpoint["id"].as_str().unwrap().to_owned();
    api.post(
        "/v1/codes",
        json!({"short_id": "again", "destination_url": "https://example.com/"}),
    )
    .await;

    let crowd = Crowd::start(server.edge(), "/again", 150);
    sleep(Duration::from_secs(3)).await;
    let range: HashSet<String> = crowd.finish().await.answered();
    wait_until("the range was delivered", async || {
        let accepted = receiver.accepted();
        range.iter().all(|id| accepted.contains_key(id)).then_some(())
    })
    .await;

    let before = receiver.arrivals().len();
    let asked = json!({"start_time": "2020-01-01T00:00:00Z", "per_second": 100, "request_id": "once"});
    let path = format!("/v1/endpoints/{endpoint}/replay");
    let id = api.post(&path, asked.clone()).await["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let crowd = Crowd::start(server.edge(), "/again", 50);
    for _ in 0..5 {
        sleep(Duration::from_millis(random.random_range(50..900))).await;
        kill_and_restart(&mut server, &setup).await;
        let again = api.post(&path, asked.clone()).await;
        assert_eq!(again["id"], json!(id), "a repeated request begins no other one");
    }
    let live = crowd.finish().await.answered();
    let done = wait_within(DRAIN, "the replay comes to its end", async || {
        let replay = state(&api, &id).await;
        (replay["state"] == "done").then_some(replay)
    })
    .await;
    let counts = since(&receiver, before);
    let missing: Vec<_> = range.iter().filter(|id| !counts.contains_key(*id)).collect();
    assert!(missing.is_empty(), "not sent again: {missing:?}");
    wait_within(DRAIN, "live events came", async || {
        let accepted = receiver.accepted();
        live.iter().all(|id| accepted.contains_key(id)).then_some(())
    })
    .await;
    assert!(number(&done, "found") + number(&done, "skipped") >= u64::try_from(range.len()).unwrap());
    assert_eq!(number(&done, "found"), number(&done, "succeeded"), "{done}");
    assert_eq!(done["total"], done["found"]);
    assert!(
        receiver
            .arrivals()
            .iter()
            .all(|arrival| arrival.verified == Some(true))
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_failed_is_sent_again_and_a_replay_can_be_cancelled() {
    let dir = tempfile::tempdir().unwrap();
    let server = Setup::new(super::BINARY, &dir.path().join("data")).start().await;
    let (_, api) = server.admin().tenant("replay").await;
    let receiver = Receiver::start(Behaviour::Answer(500)).await;
    let endpoint = json!({
        "url": receiver.url(), "events": ["scan.*"], "retry_schedule": ["0s"],
        "failure": {"degrade_after": 0, "gone_disables": true},
    });
    let endpoint = api.post("/v1/endpoints", endpoint).await;
    let endpoint = endpoint["id"].as_str().unwrap().to_owned();
    api.post(
        "/v1/codes",
        json!({"short_id": "again", "destination_url": "https://example.com/"}),
    )
    .await;
    let crowd = Crowd::start(server.edge(), "/again", 40);
    sleep(Duration::from_secs(1)).await;
    let failed = crowd.finish().await.answered();
    wait_until("all are given up", async || {
        let path = format!("/v1/endpoints/{endpoint}/deliveries?status=given_up&page_size=500");
        let listed = api.get(&path).await;
        (listed["deliveries"].as_array().unwrap().len() >= failed.len()).then_some(())
    })
    .await;
    receiver.behave(Behaviour::Accept);
    let path = format!("/v1/endpoints/{endpoint}/replay");
    let slow = json!({"start_time": "2020-01-01T00:00:00Z", "per_second": 0.1});
    let slow = api.post(&path, slow).await["id"].as_str().unwrap().to_owned();
    let cancelled = api.post(&format!("/v1/replays/{slow}/cancel"), json!({})).await;
    assert_eq!(cancelled["state"], "cancelled", "{cancelled}");
    let only_failed = json!({"start_time": "2020-01-01T00:00:00Z", "only_failed": true});
    let id = api.post(&path, only_failed.clone()).await["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let done = wait_until("the replay comes to its end", async || {
        let replay = state(&api, &id).await;
        (replay["state"] == "done").then_some(replay)
    })
    .await;
    assert!(
        number(&done, "succeeded") >= u64::try_from(failed.len()).unwrap().saturating_sub(1),
        "{done}"
    );
    let accepted = receiver.accepted();
    assert!(failed.iter().all(|id| accepted.contains_key(id)));
    let listed = api.get(&format!("/v1/endpoints/{endpoint}/replays")).await;
    assert_eq!(listed["replays"].as_array().unwrap().len(), 2);
    server.stop().await;
}
