//! The deliverer whole: on the embedded store, with receivers on loopback.

mod behind;
mod failure;
mod filters;
mod health;
mod leases;
mod own_partitions;
mod pace;
mod partitions;
mod replays;
mod retries;
mod skips;
mod world;

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use qrelay_store::signature::{Message, Signer};
use qrelay_store::{
    checkpoint::{BacklogReason, HealthState},
    event::EventType,
    fault::{Fault, Op},
    id::CommandId,
    model::{Endpoint, EndpointIntent, EventPattern, RateLimit, Signature},
    store::{Attempts, Command, CommandKind, CommandResult, Commands, DeliveryStatus, Leases, Store},
};

use self::world::{Hook, OK, Receiver, SECRET, World, until};

fn expected_signature(hook: &Hook) -> String {
    let signer = Signer::new(&Signature::default(), &[SECRET.to_vec().into()]).unwrap();
    let headers = signer.headers(Message {
        id: &hook.headers["webhook-id"],
        delivery: "dlv_1",
        event: "scan.created",
        timestamp_s: hook.headers["webhook-timestamp"].parse().unwrap(),
        body: hook.body.as_bytes(),
    });
    let (_, value) = headers
        .into_iter()
        .find(|(name, _)| name == "webhook-signature")
        .unwrap();
    value.to_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scan_becomes_one_signed_webhook_with_a_row_and_is_counted() {
    let mut world = World::new().await;
    let receiver = Receiver::ok().await;
    let endpoint = world.endpoint(&receiver, |_| {}).await;
    world.start();
    let ids = world.scan(3).await;
    receiver.heard(&ids).await;
    world.stop().await;
    assert_eq!(receiver.hooks().len(), 3, "each once");
    let hook = &receiver.hooks()[0];
    assert_eq!(hook.headers["webhook-signature"], expected_signature(hook));
    assert_eq!(hook.headers["content-type"], "application/json");
    let body: serde_json::Value = serde_json::from_str(&hook.body).unwrap();
    assert_eq!(
        (&body["type"], &body["id"]),
        (&"scan.created".into(), &hook.id().into())
    );
    assert_eq!(body["data"]["short_id"], "abc");
    let rows = world.store.deliveries(endpoint.id, None, 10).await.unwrap();
    assert_eq!(rows.len(), 3);
    let row = &rows[0].last;
    assert_eq!(
        (row.status, row.number, row.response_status),
        (DeliveryStatus::Succeeded, 1, Some(200))
    );
    let month = row.started_at.month();
    let usage = world.store.usage(world.tenant, &month).await.unwrap();
    assert_eq!((usage.scans[0], usage.deliveries), (3, 3));
    assert_eq!(usage.events, 4, "three scans, and the code's creation");
    let health = world.health(endpoint.id).await;
    assert!(health.ever_succeeded && health.backlog.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_delivery_is_retried_with_the_same_id_and_bytes() {
    let mut world = World::new().await;
    let receiver = Receiver::new(|number| Some(if number < 2 { "500 Oops" } else { OK })).await;
    let endpoint = world.endpoint(&receiver, |_| {}).await;
    world.start();
    let ids = world.scan(1).await;
    receiver.heard_count(3).await;
    world.stop().await;
    let hooks = receiver.hooks();
    assert_eq!(hooks.len(), 3);
    assert!(
        hooks
            .iter()
            .all(|hook| hook.id() == ids[0] && hook.body == hooks[0].body)
    );
    let rows = world.store.deliveries(endpoint.id, None, 10).await.unwrap();
    assert_eq!(
        (rows.len(), rows[0].attempts, rows[0].last.status),
        (1, 3, DeliveryStatus::Succeeded)
    );
    let all = world
        .store
        .attempts(endpoint.id, rows[0].last.first_at, rows[0].last.event)
        .await
        .unwrap();
    assert_eq!(all[0].status, DeliveryStatus::Retrying);
    assert!(all[0].next_attempt_at.is_some() && all[0].error_class == "http");
    world.nothing_is_outstanding().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_the_last_attempt_a_delivery_is_given_up_with_its_reason() {
    let mut world = World::new().await;
    let receiver = Receiver::new(|_| Some("500 Oops")).await;
    let endpoint = world
        .endpoint(&receiver, |endpoint| endpoint.retry_schedule_ms = vec![0, 0])
        .await;
    world.start();
    world.scan(1).await;
    until("it is given up", async || {
        let rows = world.store.deliveries(endpoint.id, None, 10).await.unwrap();
        rows.first()
            .is_some_and(|row| row.last.status == DeliveryStatus::GivenUp)
    })
    .await;
    world.stop().await;
    let rows = world.store.deliveries(endpoint.id, None, 10).await.unwrap();
    assert_eq!((rows[0].attempts, rows[0].last.error_class.as_str()), (2, "http"));
    assert_eq!(receiver.hooks().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_black_hole_costs_only_itself_and_its_events_come_when_it_recovers() {
    let mut world = World::new().await;
    let healthy = Receiver::ok().await;
    let answers = Arc::new(AtomicBool::new(false));
    let recovers = Arc::clone(&answers);
    let hole = Receiver::new(move |_| recovers.load(Ordering::SeqCst).then_some(OK)).await;
    world.endpoint(&healthy, |_| {}).await;
    let slow = world.endpoint(&hole, |_| {}).await;
    world.start();
    let mut ids = Vec::new();
    for _ in 0..40 {
        ids.extend(world.scan(50).await);
    }
    healthy.heard(&ids).await;
    assert!(hole.hooks().len() < 20, "the hole is not flooded");
    answers.store(true, Ordering::SeqCst);
    hole.heard(&ids).await;
    until("it is done", async || {
        world.health(slow.id).await.backlog.is_none()
    })
    .await;
    world.stop().await;
    assert_eq!(healthy.hooks().len(), ids.len(), "the healthy one got each once");
    assert_eq!(
        world.rows().await["run"],
        1,
        "the slow one is back on the shared run"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_at_any_moment_loses_nothing() {
    let mut world = World::new().await;
    // Half of the requests fail, so that deliveries are outstanding all the time.
    let flaky = Receiver::new(|number| Some(if number % 2 == 0 { "500 Oops" } else { OK })).await;
    let steady = Receiver::ok().await;
    world
        .endpoint(&flaky, |endpoint| {
            endpoint.retry_schedule_ms = vec![0, 50, 50, 50, 50, 50, 50, 50, 50, 50, 50, 50, 50]
        })
        .await;
    world.endpoint(&steady, |_| {}).await;
    let mut ids = Vec::new();
    for round in 0..12_u64 {
        world.start();
        for _ in 0..6 {
            ids.extend(world.scan(5).await);
            tokio::time::sleep(Duration::from_millis(round * 7 % 40)).await;
        }
        world.kill().await;
    }
    world.start();
    steady.heard(&ids).await;
    // An id counts as delivered when the receiver answered 200: its odd requests.
    until("the flaky one took everything", async || {
        let hooks = flaky.hooks();
        let took: HashSet<_> = hooks.iter().skip(1).step_by(2).map(Hook::id).collect();
        ids.iter().all(|id| took.contains(id))
    })
    .await;
    world.stop().await;
}

/// A deliverer that runs, a paused endpoint with its receiver, and the receiver of a live one.
async fn a_paused_and_a_live_endpoint() -> (World, Endpoint, Receiver, Receiver) {
    let mut world = World::new().await;
    let (paused, live) = (Receiver::ok().await, Receiver::ok().await);
    let endpoint = world
        .endpoint(&paused, |endpoint| endpoint.intent = EndpointIntent::Paused)
        .await;
    world.endpoint(&live, |_| {}).await;
    world.start();
    (world, endpoint, paused, live)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_endpoint_gets_everything_when_it_is_resumed_even_after_a_restart() {
    let (mut world, mut endpoint, receiver, other) = a_paused_and_a_live_endpoint().await;
    let mut ids = world.scan(700).await;
    other.heard(&ids).await;
    until("its backlog is told", async || {
        let backlog = world.health(endpoint.id).await.backlog;
        backlog.is_some_and(|backlog| backlog.events == 700 && backlog.reason == BacklogReason::Paused)
    })
    .await;
    world.kill().await;
    world.start();
    ids.extend(world.scan(3).await);
    other.heard(&ids).await;
    assert!(receiver.hooks().is_empty());
    world
        .edit(&mut endpoint, |endpoint| endpoint.intent = EndpointIntent::Active)
        .await;
    receiver.heard(&ids).await;
    world.stop().await;
    assert_eq!(receiver.hooks().len(), ids.len(), "each once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gone_disables_until_the_tenant_enables_it_and_then_nothing_is_missing() {
    let mut world = World::new().await;
    let receiver = Receiver::new(|number| Some(if number == 0 { "410 Gone" } else { OK })).await;
    let mut endpoint = world.endpoint(&receiver, |_| {}).await;
    world.start();
    let mut ids = world.scan(1).await;
    until("it is disabled", async || {
        world.health(endpoint.id).await.state == HealthState::Disabled
    })
    .await;
    ids.extend(world.scan(2).await);
    until("the events wait", async || {
        let backlog = world.health(endpoint.id).await.backlog;
        backlog.is_some_and(|backlog| backlog.events == 3 && backlog.reason == BacklogReason::Disabled)
    })
    .await;
    assert_eq!(receiver.hooks().len(), 1);
    world
        .edit(&mut endpoint, |endpoint| endpoint.enabled_epoch += 1)
        .await;
    receiver.heard(&ids).await;
    until("it is healthy", async || {
        world.health(endpoint.id).await.state == HealthState::Healthy
    })
    .await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retry_after_pauses_the_whole_endpoint_also_over_a_restart() {
    let mut world = World::new().await;
    let receiver = Receiver::new(|_| Some("429 Slow down\r\nretry-after: 3600")).await;
    let endpoint = world.endpoint(&receiver, |_| {}).await;
    world.start();
    world.scan(5).await;
    until("it is held back", async || {
        let backlog = world.health(endpoint.id).await.backlog;
        backlog.is_some_and(|backlog| backlog.events == 5 && backlog.reason == BacklogReason::Throttled)
    })
    .await;
    let heard = receiver.hooks().len();
    assert_eq!(heard, 1, "a new endpoint has one request at a time");
    world.stop().await;
    world.start();
    world.scan(5).await;
    until("all ten wait", async || {
        let backlog = world.health(endpoint.id).await.backlog;
        backlog.is_some_and(|backlog| backlog.events == 10 && backlog.reason == BacklogReason::Throttled)
    })
    .await;
    world.stop().await;
    assert_eq!(receiver.hooks().len(), heard);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_of_a_code_are_events_too_and_show_the_version_they_announce() {
    let mut world = World::new().await;
    let receiver = Receiver::ok().await;
    world.start();
    world
        .endpoint(&receiver, |endpoint| endpoint.events = vec![EventPattern::Any])
        .await;
    world.rename_code(1).await;
    world.rename_code(2).await;
    world.scan_at_version(1, 2).await;
    let names = |kind: EventType| {
        let bodies = receiver
            .hooks()
            .into_iter()
            .map(|hook| serde_json::from_str::<serde_json::Value>(&hook.body).unwrap());
        let of_kind = bodies.filter(|body| body["type"] == kind.as_str());
        of_kind
            .map(|body| body["data"]["name"].to_string())
            .collect::<HashSet<_>>()
    };
    let expected: HashSet<_> = ["\"Poster 1\"", "\"Poster 2\""].map(String::from).into();
    until("both changes came", async || {
        names(EventType::CodeUpdated) == expected
    })
    .await;
    until("the scan came", async || names(EventType::ScanCreated).len() == 1).await;
    world.stop().await;
    assert!(
        names(EventType::ScanCreated).contains("\"Poster 1\""),
        "as the code was when it was scanned"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleting_an_endpoint_stops_its_attempts() {
    let mut world = World::new().await;
    let receiver = Receiver::new(|_| Some("500 Oops")).await;
    let mut endpoint = world
        .endpoint(&receiver, |endpoint| {
            endpoint.retry_schedule_ms = vec![0, 300, 300, 300]
        })
        .await;
    world.start();
    world.scan(1).await;
    receiver.heard_count(1).await;
    world
        .edit(&mut endpoint, |endpoint| endpoint.deleted = true)
        .await;
    until("nothing is outstanding", async || {
        !world.rows().await.contains_key("chunk") && !world.rows().await.contains_key("health")
    })
    .await;
    let heard = receiver.hooks().len();
    world.stop().await;
    world.start();
    tokio::time::sleep(Duration::from_millis(700)).await;
    world.stop().await;
    assert!(receiver.hooks().len() <= heard + 1, "at most what was under way");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_test_is_sent_once_even_while_the_endpoint_is_paused() {
    let mut world = World::new().await;
    let receiver = Receiver::new(|_| Some("418 Teapot")).await;
    let endpoint = world
        .endpoint(&receiver, |endpoint| endpoint.intent = EndpointIntent::Paused)
        .await;
    world.start();
    let command = Command {
        id: CommandId::random(),
        partition: world.partition(),
        kind: CommandKind::Test {
            endpoint: endpoint.id,
        },
        created_at: qrelay_store::clock::Clock::now(&qrelay_store::clock::SystemClock),
        result: None,
    };
    let recorded = world.store.calls(Op::RecordAttempts);
    world.store.break_all(Op::RecordAttempts, Fault::Unavailable);
    assert!(world.store.put_command(&command).await.unwrap());
    let result = async || {
        let command = world.store.command(command.partition, command.id).await.unwrap();
        command.unwrap().result
    };
    until("it is made", async || !receiver.hooks().is_empty()).await;
    world.store.called(Op::RecordAttempts, recorded + 2).await;
    assert!(result().await.is_none(), "its row is not recorded yet");
    world.store.heal(Op::RecordAttempts);
    until("it is finished", async || result().await.is_some()).await;
    let Some(CommandResult::Attempt(row)) = result().await else {
        panic!("refused");
    };
    let rows = world.store.attempts(endpoint.id, row.first_at, row.event).await;
    assert_eq!(rows.unwrap().len(), 1, "who is told of it finds it");
    assert_eq!(
        (row.response_status, row.status),
        (Some(418), DeliveryStatus::GivenUp)
    );
    world.stop().await;
    let hooks = receiver.hooks();
    assert_eq!(hooks.len(), 1);
    assert_eq!(
        hooks[0].headers["webhook-signature"],
        expected_signature(&hooks[0])
    );
    assert_eq!(
        world.store.deliveries(endpoint.id, None, 10).await.unwrap().len(),
        1
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_test_that_a_limit_holds_back_for_too_long_is_refused_with_the_reason() {
    let mut world = World::new().await;
    let receiver = Receiver::ok().await;
    let limit = |per_second| Some(RateLimit { per_second, burst: 1 });
    let endpoint = world
        .endpoint(&receiver, |endpoint| endpoint.rate_limit = limit(0.01))
        .await;
    world.start();
    let command = Command {
        id: CommandId::random(),
        partition: world.partition(),
        kind: CommandKind::Test {
            endpoint: endpoint.id,
        },
        created_at: qrelay_store::clock::Clock::now(&qrelay_store::clock::SystemClock),
        result: None,
    };
    assert!(world.store.put_command(&command).await.unwrap());
    until("it is refused", async || {
        let found = world.store.command(command.partition, command.id).await.unwrap();
        let reason = "the endpoint's rate limit lets nothing out in time".to_owned();
        found.unwrap().result == Some(CommandResult::Refused { reason })
    })
    .await;
    world.stop().await;
    assert!(receiver.hooks().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_save_whose_answer_is_lost_is_found_out_and_delivery_goes_on() {
    let mut world = World::new().await;
    let receiver = Receiver::ok().await;
    world.endpoint(&receiver, |_| {}).await;
    world.start();
    let mut ids = world.scan(1).await;
    receiver.heard(&ids).await;
    for fault in [Fault::LoseAnswer, Fault::Unavailable] {
        let calls = world.store.calls(Op::Save);
        world.store.break_next(Op::Save, 3, fault);
        ids.extend(world.scan(5).await);
        world.store.called(Op::Save, calls + 5).await;
    }
    ids.extend(world.scan(5).await);
    receiver.heard(&ids).await;
    world.stop().await;
    assert_eq!(receiver.hooks().len(), ids.len(), "nothing was repeated");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_usurped_lease_stops_the_owner_before_it_saves_again() {
    let mut world = World::new().await;
    let receiver = Receiver::ok().await;
    world.endpoint(&receiver, |_| {}).await;
    world.start();
    let ids = world.scan(1).await;
    receiver.heard(&ids).await;
    let mine = world.store.lease(world.partition()).await.unwrap().unwrap();
    let mut theirs = mine.clone();
    theirs.fence.epoch += 1;
    theirs.owner = Some(qrelay_store::id::OwnerId::random());
    // The owner's own saves move the beat, so it may take a few tries.
    until("somebody else has it", async || {
        let now = world.store.lease(world.partition()).await.unwrap().unwrap();
        let claimed = world
            .store
            .claim(world.partition(), Some(now.fence), &theirs)
            .await
            .unwrap();
        claimed == qrelay_store::store::Cas::Applied
    })
    .await;
    // The embedded store's lock says that the other is dead, so the owner comes back with a new epoch.
    until("it was fenced and came back", async || {
        let lease = world.store.lease(world.partition()).await.unwrap().unwrap();
        lease.owner == mine.owner && lease.fence.epoch > theirs.fence.epoch
    })
    .await;
    let more = world.scan(2).await;
    receiver.heard(&more).await;
    world.stop().await;
    let lease = world.store.lease(world.partition()).await.unwrap().unwrap();
    assert_eq!(lease.owner, None, "a stop gives the lease back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_log_that_fails_delays_what_it_must_record_and_loses_nothing() {
    let mut world = World::new().await;
    let receiver = Receiver::new(|_| Some("500 Oops")).await;
    let endpoint = world
        .endpoint(&receiver, |endpoint| endpoint.retry_schedule_ms = vec![0])
        .await;
    world.store.break_all(Op::RecordAttempts, Fault::Unavailable);
    world.start();
    world.scan(1).await;
    receiver.heard_count(1).await;
    world.store.called(Op::RecordAttempts, 3).await;
    world.kill().await;
    world.store.heal_all();
    assert!(
        world
            .store
            .deliveries(endpoint.id, None, 10)
            .await
            .unwrap()
            .is_empty()
    );
    world.start();
    until("it is given up, with its row", async || {
        let rows = world.store.deliveries(endpoint.id, None, 10).await.unwrap();
        rows.first()
            .is_some_and(|row| row.last.status == DeliveryStatus::GivenUp)
    })
    .await;
    world.stop().await;
    assert!(world.store.install().partitions == 1 && receiver.hooks().len() >= 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_saves_what_is_under_way_as_outstanding() {
    let mut world = World::new().await;
    let hole = Receiver::new(|number| (number > 0).then_some(OK)).await;
    world.endpoint(&hole, |_| {}).await;
    world.start_with(crate::Config {
        drain_deadline: Duration::from_millis(300),
        ..crate::Config::default()
    });
    let ids = world.scan(3).await;
    hole.heard_count(1).await;
    world.stop().await;
    assert_eq!(world.rows().await["chunk"], 1);
    world.start();
    until("all came, the one under way once more", async || {
        let after: HashSet<_> = hole.ids().into_iter().skip(1).collect();
        ids.iter().all(|id| after.contains(id))
    })
    .await;
    world.stop().await;
    assert_eq!(hole.hooks().len(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_connection_means_one_request_at_a_time_in_the_order_of_the_log() {
    let mut world = World::new().await;
    let receiver = Receiver::ok().await;
    world
        .endpoint(&receiver, |endpoint| endpoint.max_concurrency = 1)
        .await;
    world.start();
    let ids = world.scan(200).await;
    receiver.heard(&ids).await;
    world.stop().await;
    assert_eq!(receiver.ids(), ids);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_store_and_kills_together_lose_nothing() {
    let ops = [
        Op::Save,
        Op::PutChunk,
        Op::DeleteChunks,
        Op::RecordAttempts,
        Op::Read,
        Op::Batch,
        Op::ConfigAfter,
        Op::Claim,
    ];
    let mut world = World::new().await;
    let flaky = Receiver::new(|number| Some(if number % 3 == 0 { "500 Oops" } else { OK })).await;
    let steady = Receiver::ok().await;
    world
        .endpoint(&flaky, |endpoint| endpoint.retry_schedule_ms = vec![50; 20])
        .await;
    let mut paused = world.endpoint(&steady, |_| {}).await;
    let mut ids = Vec::new();
    for round in 0..8_u64 {
        world.store.break_by_chance(round, 150, &ops);
        world.start();
        for _ in 0..6 {
            ids.extend(world.scan(10).await);
            tokio::time::sleep(Duration::from_millis(round * 11 % 70)).await;
        }
        let intent = if round % 2 == 0 {
            EndpointIntent::Paused
        } else {
            EndpointIntent::Active
        };
        world.edit(&mut paused, |endpoint| endpoint.intent = intent).await;
        world.kill().await;
    }
    world.store.heal_all();
    world.start();
    steady.heard(&ids).await;
    until("the flaky one took everything", async || {
        let hooks = flaky.hooks();
        let took = hooks.iter().enumerate().filter(|(number, _)| number % 3 != 0);
        let took: HashSet<_> = took.map(|(_, hook)| hook.id()).collect();
        ids.iter().all(|id| took.contains(id))
    })
    .await;
    until("nothing is owed", async || {
        !world.rows().await.contains_key("chunk") && world.rows().await["run"] == 1
    })
    .await;
    world.stop().await;
    let month = qrelay_store::clock::Clock::now(&qrelay_store::clock::SystemClock).month();
    let usage = world.store.usage(world.tenant, &month).await.unwrap();
    assert_eq!(
        usage.scans[0],
        u64::try_from(ids.len()).unwrap(),
        "scans are counted exactly"
    );
    assert_eq!(
        usage.deliveries,
        u64::try_from(2 * ids.len()).unwrap(),
        "so are deliveries"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_leaves_no_delivery_in_the_list_that_retries_for_ever() {
    let mut world = World::new().await;
    let receiver = Receiver::new(|number| Some(if number % 2 == 0 { "500 Oops" } else { OK })).await;
    let endpoint = world
        .endpoint(&receiver, |endpoint| {
            endpoint.retry_schedule_ms = vec![0, 1000, 1000, 1000, 1000, 1000]
        })
        .await;
    world.start();
    let mut ids = world.scan(1).await;
    receiver.heard_count(2).await;
    // A failed first attempt, with the store's answer to the next save outstanding: what is recorded now would name a
    // delivery that nobody goes on with after the kill.
    until("it is saved", async || {
        world.health(endpoint.id).await.ever_succeeded
    })
    .await;
    world.store.break_all(Op::Save, Fault::Unavailable);
    let saves = world.store.calls(Op::Save);
    ids.extend(world.scan(1).await);
    receiver.heard_count(3).await;
    world.store.called(Op::Save, saves + 1).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    world.kill().await;
    world.store.heal_all();
    world.start();
    until("every delivery in the list ended well", async || {
        let rows = world.store.deliveries(endpoint.id, None, 100).await.unwrap();
        let ended: HashSet<_> = rows
            .iter()
            .filter(|row| row.last.status == DeliveryStatus::Succeeded)
            .map(|row| world.store.install().ids.event_id(row.last.event).to_string())
            .collect();
        ids.iter().all(|id| ended.contains(id))
            && rows
                .iter()
                .all(|row| row.last.status == DeliveryStatus::Succeeded)
    })
    .await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_retention_takes_from_a_paused_endpoint_stands_in_its_delivery_log() {
    let (mut world, mut endpoint, receiver, other) = a_paused_and_a_live_endpoint().await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.extend(world.scan(2).await);
        other.heard(&ids).await;
    }
    world.told_a_backlog_of(endpoint.id, 6).await;
    world.stop().await;
    world.expire_all().await;
    world.start();
    world
        .edit(&mut endpoint, |endpoint| {
            (endpoint.intent, endpoint.enabled_epoch) = (EndpointIntent::Active, 1);
        })
        .await;
    let later = world.scan(1).await;
    receiver.heard(&later).await;
    world.told_of_retention(endpoint.id).await;
    until("nothing waits any more", async || {
        world.health(endpoint.id).await.backlog.is_none()
    })
    .await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_retention_takes_stands_in_the_delivery_log_also_when_its_writer_is_gone_too() {
    let (mut world, endpoint, _receiver, other) = a_paused_and_a_live_endpoint().await;
    let ids = world.scan(4).await;
    other.heard(&ids).await;
    world.told_a_backlog_of(endpoint.id, 4).await;
    world.restart_recording().await;
    world.expire_all().await;
    let later = world.scan(1).await;
    other.heard(&later).await;
    // Nobody reads the stream for it any more, however long it stays paused.
    world.told_of_retention(endpoint.id).await;
    world.stop().await;
}
