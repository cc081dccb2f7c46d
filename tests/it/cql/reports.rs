//! Conversions that a control plane was recording when it was killed, or stood still: another one finishes them, and each is
//! recorded once.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::future::join_all;
use http::Method;
use qrelay_store::conformance::Fixture as _;
use qrelay_tests::{PATIENCE, api::Api, wait_within};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{Cluster, roles::World};

/// How many reports are under way at once.
const PEOPLE: usize = 8;
/// Reports that are answered before the process is hit.
const BEFORE: usize = 40;
/// Another process has to wait out that one first, and a busy cluster.
const LONG: Duration = Duration::from_secs(240);
/// Who stands still is given up.
const HANGS: Duration = Duration::from_secs(5);

/// Ids of the events by external id; none where nobody was told.
type Reported = Arc<Mutex<BTreeMap<String, Option<Value>>>>;

async fn report(api: &Api, external_id: &str) -> Option<Value> {
    let body = json!({"short_id": "menu", "external_id": external_id, "value": "1.00"});
    let call = api.call(Method::POST, "/v1/conversions", Some(&body));
    match timeout(HANGS, call).await {
        Ok(Ok((status, made))) if status.is_success() => Some(made["id"].clone()),
        // Too many requests, or a process or a cluster that cannot do it just now.
        Ok(Ok((status, made))) => {
            assert!(
                status.as_u16() == 429 || status.is_server_error(),
                "{status}: {made}"
            );
            None
        }
        Ok(Err(_)) | Err(_) => None,
    }
}

/// Reports one conversion after the other, each once.
async fn report_all(api: Api, person: usize, reported: Reported) {
    for order in 0.. {
        let external_id = format!("order {person}-{order}");
        reported.lock().unwrap().insert(external_id.clone(), None);
        let id = report(&api, &external_id).await;
        reported.lock().unwrap().insert(external_id, id);
        sleep(Duration::from_millis(5)).await;
    }
}

/// Reports everything until it is answered: what was answered before is answered the same.
async fn repeat_all(api: &Api, reported: &Reported) {
    let all = reported.lock().unwrap().clone();
    let repeats = all.into_iter().map(|(external_id, before)| async move {
        let what = format!("the repeated report of {external_id} is answered");
        let id = wait_within(LONG, &what, async || report(api, &external_id).await).await;
        assert!(before.is_none_or(|before| before == id), "{external_id}");
        reported.lock().unwrap().insert(external_id, Some(id));
    });
    join_all(repeats).await;
}

/// What is recorded, by external id.
async fn recorded(api: &Api) -> BTreeMap<String, Option<Value>> {
    let (mut all, mut token) = (BTreeMap::new(), String::new());
    loop {
        let path = format!("/v1/events?type=qr.conversion&page_size=500&page_token={token}");
        let page = wait_within(LONG, "events are listed", async || {
            let listed = api.call(Method::GET, &path, None).await.ok()?;
            listed.0.is_success().then_some(listed.1)
        })
        .await;
        for event in page["events"].as_array().unwrap() {
            let external_id = event["data"]["external_id"].as_str().unwrap().to_owned();
            let before = all.insert(external_id.clone(), Some(event["id"].clone()));
            assert_eq!(before, None, "{external_id} is recorded twice");
        }
        token = page["next_page_token"].as_str().unwrap().to_owned();
        if token.is_empty() {
            return all;
        }
    }
}

/// Hits one of two control planes in the middle of its work. `killed`: else it only stands still, and goes on later.
async fn finished_by_another(killed: bool) {
    let cluster = Cluster::open().await;
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(&cluster.keyspace.name, dir.path());
    let setups = [world.setup("control-plane", 0), world.setup("control-plane", 1)];
    let [hit, other] = [setups[0].start().await, setups[1].start().await];
    let admin = hit.admin();
    let tenant = admin.persist("/v1/tenants", &json!({"name": "shop"})).await;
    let keys = format!("/v1/tenants/{}/api_keys", tenant["id"].as_str().unwrap());
    let key = admin.persist(&keys, &json!({"name": "test"})).await;
    let key = key["key"].as_str().unwrap();
    let [first, second] = [&hit, &other].map(|server| server.admin().with_key(key));
    let code = json!({"short_id": "menu", "destination_url": "https://example.com/"});
    first.persist("/v1/codes", &code).await;

    let (reported, mut people) = (Reported::default(), JoinSet::new());
    for person in 0..PEOPLE {
        people.spawn(report_all(first.clone(), person, Arc::clone(&reported)));
    }
    wait_within(PATIENCE * 3, "reports are answered", async || {
        let answered = reported.lock().unwrap().values().flatten().count();
        (answered >= BEFORE).then_some(())
    })
    .await;
    let mut stopped = None;
    if killed {
        hit.kill();
    } else {
        hit.signal(Signal::STOP);
        stopped = Some(hit);
    }
    people.shutdown().await;
    let left = reported
        .lock()
        .unwrap()
        .values()
        .filter(|id| id.is_none())
        .count();
    repeat_all(&second, &reported).await;
    let taken_over = other.log().contains("its writer is closed");
    println!("{left} reports were not answered; a writer was closed: {taken_over}");
    assert_eq!(recorded(&second).await, *reported.lock().unwrap());

    if let Some(hit) = stopped {
        hit.signal(Signal::CONT);
        repeat_all(&first, &reported).await;
        reported.lock().unwrap().insert("another".to_owned(), None);
        repeat_all(&first, &reported).await;
        assert_eq!(recorded(&first).await, *reported.lock().unwrap());
        hit.stop().await;
    }
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Cassandra: run by make test"]
async fn what_a_killed_control_plane_was_recording_is_finished_by_another() {
    finished_by_another(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Cassandra: run by make test"]
async fn what_one_that_stood_still_was_recording_is_recorded_once() {
    finished_by_another(false).await;
}
