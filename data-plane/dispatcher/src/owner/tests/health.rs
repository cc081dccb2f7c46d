//! An endpoint's health as the tenant's other endpoints hear of it, with kills and failures at every step of the way.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use qrelay_store::{
    clock::{Clock, SystemClock},
    id::{ConfigSeq, EndpointId},
    store::{ConfigChange, ConfigLog},
};

use super::{world::until, *};

/// What the configuration log announces of an endpoint's health.
async fn announced(world: &World) -> Vec<ConfigChange> {
    let rows = world.store.config_after(ConfigSeq::ZERO, 1000).await.unwrap();
    let changes = rows.into_iter().flat_map(|row| row.changes);
    changes.filter(|change| change.health.is_some()).collect()
}

/// The events that a receiver heard of, each once, in the order in which they came first.
fn told(receiver: &Receiver) -> Vec<serde_json::Value> {
    let mut seen = HashSet::new();
    let hooks = receiver.hooks().into_iter();
    hooks
        .filter(|hook| seen.insert(hook.id()))
        .map(|hook| serde_json::from_str(&hook.body).unwrap())
        .collect()
}

fn family(name: &str) -> Vec<EventPattern> {
    vec![EventPattern::Family(name.to_owned())]
}

/// While a receiver fails: a kill before the change is saved, after that, when it is announced, and when the sender knows.
async fn kill_at_every_step(world: &mut World, subject: EndpointId, failing: &Receiver) {
    // Killed while nothing of it is saved: nothing is announced.
    world.store.break_all(Op::Save, Fault::Unavailable);
    world.start();
    world.scan(1).await;
    failing.heard_count(6).await;
    world.kill().await;
    world.store.heal_all();
    assert_eq!(announced(world).await, []);
    // Killed when it is saved, before the store hears of it.
    world.store.break_all(Op::AnnounceHealth, Fault::Stall);
    world.start();
    world.scan(1).await;
    world.store.called(Op::AnnounceHealth, 1).await;
    assert!(
        world.health(subject).await.state == HealthState::Degraded,
        "it is saved first"
    );
    world.kill().await;
    assert_eq!(announced(world).await, []);
    // Killed when it is announced, before the sender hears of it.
    world.store.heal_all();
    world.store.break_all(Op::AnnounceHealth, Fault::StallAnswer);
    world.start();
    until("it is announced", async || announced(world).await.len() == 1).await;
    world.kill().await;
    // Announced again, with no answer; then killed before that it was announced is saved.
    world.store.heal_all();
    world.store.break_next(Op::AnnounceHealth, 2, Fault::LoseAnswer);
    let calls = world.store.calls(Op::AnnounceHealth);
    world.start();
    world.store.called(Op::AnnounceHealth, calls + 2).await;
    world.store.break_all(Op::Save, Fault::Unavailable);
    world.store.called(Op::AnnounceHealth, calls + 3).await;
    world.kill().await;
    world.store.heal_all();
    assert!(world.health(subject).await.unannounced.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_change_is_one_event_for_the_others_wherever_the_sender_is_killed() {
    let mut world = World::new().await;
    let works = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&works);
    let failing = Receiver::new(move |_| {
        Some(if flag.load(Ordering::SeqCst) {
            OK
        } else {
            "500 Oops"
        })
    })
    .await;
    let watcher = Receiver::ok().await;
    let subject = world
        .endpoint(&failing, |endpoint| endpoint.events = vec![EventPattern::Any])
        .await;
    world
        .endpoint(&watcher, |endpoint| endpoint.events = family("endpoint."))
        .await;
    kill_at_every_step(&mut world, subject.id, &failing).await;
    // It recovers, in peace.
    works.store(true, Ordering::SeqCst);
    world.start();
    world.scan(1).await;
    until("both are told", async || told(&watcher).len() == 2).await;
    until("nothing is left to announce", async || {
        world.health(subject.id).await.unannounced.is_none()
    })
    .await;
    world.stop().await;
    assert_eq!(announced(&world).await.len(), 2);
    let told = told(&watcher);
    assert_eq!(
        (&told[0]["type"], &told[1]["type"]),
        (&"endpoint.degraded".into(), &"endpoint.recovered".into())
    );
    let data = &told[0]["data"];
    assert_eq!(
        (&data["endpoint_id"], &data["status"], &data["reason"]),
        (
            &subject.id.to_string().into(),
            &"degraded".into(),
            &"failures".into()
        )
    );
    assert_eq!(
        (&data["response_status"], &data["error_class"]),
        (&500.into(), &"http".into())
    );
    assert_eq!(data["consecutive_failures"], 5);
    assert!(
        failing
            .hooks()
            .iter()
            .all(|hook| !hook.body.contains("endpoint.")),
        "it hears nothing of itself, though it wants everything"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_gone_and_one_that_asks_are_told_as_disabled_and_as_recovered_when_set_active() {
    let mut world = World::new().await;
    let gone = Receiver::new(|number| Some(if number == 0 { "410 Gone" } else { OK })).await;
    let asks = Receiver::new(|_| Some("200 OK\r\nwebhook-delivery: disable")).await;
    let watcher = Receiver::ok().await;
    let mut subject = world.endpoint(&gone, |_| {}).await;
    let asker = world.endpoint(&asks, |_| {}).await;
    world
        .endpoint(&watcher, |endpoint| {
            endpoint.events = family("endpoint.");
            endpoint.max_concurrency = 1;
        })
        .await;
    world.start();
    world.scan(1).await;
    until("both are told", async || told(&watcher).len() == 2).await;
    world
        .edit(&mut subject, |endpoint| {
            endpoint.enabled_epoch += 1;
            endpoint.updated_at = SystemClock.now();
        })
        .await;
    until("it is told", async || told(&watcher).len() == 3).await;
    world.stop().await;
    let told: HashSet<_> = told(&watcher)
        .iter()
        .map(|event| {
            ["type", "endpoint_id", "status", "reason"].map(|name| {
                let value = if name == "type" {
                    &event[name]
                } else {
                    &event["data"][name]
                };
                value.as_str().unwrap().to_owned()
            })
        })
        .collect();
    let (subject, asker) = (subject.id.to_string(), asker.id.to_string());
    let expected = [
        ["endpoint.disabled", &subject, "disabled", "gone"],
        ["endpoint.disabled", &asker, "disabled", "receiver_asked"],
        ["endpoint.recovered", &subject, "active", "set_active"],
    ];
    assert_eq!(told, expected.map(|texts| texts.map(str::to_owned)).into());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_that_all_fail_tell_each_other_once_and_no_more() {
    let mut world = World::new().await;
    let mut receivers = Vec::new();
    for _ in 0..4 {
        let receiver = Receiver::new(|_| Some("500 Oops")).await;
        world
            .endpoint(&receiver, |endpoint| {
                endpoint.events = vec![EventPattern::Any];
                endpoint.retry_schedule_ms = vec![0, 0];
            })
            .await;
        receivers.push(receiver);
    }
    world.start();
    world.scan(3).await;
    until("all are degraded", async || announced(&world).await.len() == 4).await;
    // Each got three scans, and what was told of the other three.
    for receiver in &receivers {
        until("it was tried with everything", async || told(receiver).len() == 6).await;
    }
    world.stop().await;
    assert_eq!(announced(&world).await.len(), 4, "failing goes on and is no news");
}
