//! Replays: the events of a range, sent again beside the live ones.

use std::{collections::HashMap, time::Duration};

use qrelay_store::{
    Clock, Timestamp,
    checkpoint::{ReplayRange, ReplayRow, ReplayState, RowKey},
    clock::SystemClock,
    fault::{Fault, Op},
    id::{CommandId, ReplayId},
    limits::{REPLAY_LOOKS_AT_ONCE, REPLAYS_UNDER_WAY_MAX},
    model::{Endpoint, EndpointIntent, EventPattern},
    store::{
        Attempts, Command, CommandKind, CommandResult, Commands, DeliveryStatus, DeliverySummary, Leases,
    },
};

use super::world::{OK, Receiver, World, until};

/// All that was recorded so far.
pub(super) fn all() -> ReplayRange {
    ReplayRange {
        start: Timestamp::EPOCH,
        end: SystemClock.now().after(Duration::from_secs(1)),
        end_given: None,
        only_failed: false,
        per_second: None,
    }
}

/// Asks as the control plane does.
pub(super) async fn ask(world: &World, endpoint: &Endpoint, range: ReplayRange) -> ReplayId {
    let replay = ReplayId::random(endpoint.id);
    put(
        world,
        CommandId::from_bytes(replay.own()),
        CommandKind::Replay { replay, range },
    )
    .await;
    replay
}

async fn put(world: &World, id: CommandId, kind: CommandKind) {
    let command = Command {
        id,
        partition: world.partition(),
        kind,
        created_at: SystemClock.now(),
        result: None,
    };
    assert!(world.store.put_command(&command).await.unwrap());
}

async fn row(world: &World, replay: ReplayId) -> Option<ReplayRow> {
    let key = RowKey::replay(replay);
    let row = world.store.checkpoint_row(world.partition(), &key).await.unwrap();
    row.map(|row| serde_json::from_str(&row).unwrap())
}

pub(super) async fn ends(world: &World, replay: ReplayId, state: ReplayState) -> ReplayRow {
    until("the replay ends", async || {
        row(world, replay).await.is_some_and(|row| row.state == state)
    })
    .await;
    row(world, replay).await.unwrap()
}

async fn deliveries(world: &World, endpoint: &Endpoint) -> Vec<DeliverySummary> {
    world.store.deliveries(endpoint.id, None, 500).await.unwrap()
}

async fn all_over(world: &World, endpoint: &Endpoint, count: usize) {
    until("every delivery is over", async || {
        let all = deliveries(world, endpoint).await;
        let over = all
            .iter()
            .filter(|one| one.last.status != DeliveryStatus::Retrying);
        over.count() == count
    })
    .await;
}

pub(super) fn counts(ids: &[String]) -> HashMap<&str, usize> {
    let mut counts = HashMap::new();
    for id in ids {
        *counts.entry(id.as_str()).or_default() += 1;
    }
    counts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_became_of_several_batches_is_looked_up_at_once() {
    let mut world = World::new().await;
    let receiver = Receiver::ok().await;
    let endpoint = world.endpoint(&receiver, |_| {}).await;
    world.start();
    for _ in 0..REPLAY_LOOKS_AT_ONCE {
        world.scan(1).await;
    }
    all_over(&world, &endpoint, REPLAY_LOOKS_AT_ONCE).await;
    world.store.break_all(Op::DeliveriesOfBatch, Fault::Stall);
    let replay = ask(&world, &endpoint, all()).await;
    let looks = u64::try_from(REPLAY_LOOKS_AT_ONCE).unwrap();
    until("all looks are under way, and none has ended", async || {
        world.store.calls(Op::DeliveriesOfBatch) >= looks
    })
    .await;
    world.store.heal(Op::DeliveriesOfBatch);
    let row = ends(&world, replay, ReplayState::Done).await;
    assert_eq!((row.position.found, row.succeeded), (looks, looks));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_sends_every_event_of_its_range_again_with_the_same_ids_and_bytes() {
    let mut world = World::new().await;
    let receiver = Receiver::ok().await;
    let endpoint = world
        .endpoint(&receiver, |endpoint| endpoint.events = vec![EventPattern::Any])
        .await;
    world.start();
    world.scan(40).await;
    world.rename_code(1).await;
    // The scans, the rename, and the code's creation, which nobody had read before.
    all_over(&world, &endpoint, 42).await;
    let replay = ask(&world, &endpoint, all()).await;
    let row = ends(&world, replay, ReplayState::Done).await;
    assert_eq!(
        (row.position.found, row.sent, row.succeeded, row.failed),
        (42, 42, 42, 0)
    );
    assert_eq!((row.position.skipped, row.position.expired_before), (0, None));
    assert!(row.ended_at.is_some());
    world.stop().await;
    let ids = receiver.ids();
    let counts = counts(&ids);
    assert_eq!(counts.len(), 42);
    assert!(counts.values().all(|count| *count == 2));
    let mut bodies = HashMap::new();
    for hook in receiver.hooks() {
        let first = bodies.entry(hook.id()).or_insert_with(|| hook.body.clone());
        assert_eq!(*first, hook.body);
    }
    let log = deliveries(&world, &endpoint).await;
    assert_eq!(
        log.len(),
        42,
        "its attempts are further attempts of the deliveries"
    );
    assert!(log.iter().all(|one| one.attempts == 2));
    assert!(
        !world.rows().await.contains_key("chunk"),
        "nothing is outstanding"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_range_has_only_what_was_recorded_in_it() {
    let mut world = World::new().await;
    let receiver = Receiver::ok().await;
    let endpoint = world.endpoint(&receiver, |_| {}).await;
    world.start();
    world.scan(5).await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    let start = SystemClock.now();
    let inside = world.scan(7).await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    let end = SystemClock.now();
    world.scan(3).await;
    all_over(&world, &endpoint, 15).await;
    let range = ReplayRange { start, end, ..all() };
    let replay = ask(&world, &endpoint, range).await;
    let row = ends(&world, replay, ReplayState::Done).await;
    assert_eq!((row.position.found, row.succeeded), (7, 7));
    world.stop().await;
    let ids = receiver.ids();
    let counts = counts(&ids);
    assert!(inside.iter().all(|id| counts[id.as_str()] == 2));
    assert_eq!(counts.values().sum::<usize>(), 22);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_failed_sends_what_was_given_up_and_nothing_else() {
    let mut world = World::new().await;
    let receiver = Receiver::new(|number| Some(if number < 4 { "500 Oops" } else { OK })).await;
    let endpoint = world
        .endpoint(&receiver, |endpoint| {
            endpoint.retry_schedule_ms = vec![0];
            endpoint.failure.degrade_after = 0;
        })
        .await;
    world.start();
    world.scan(10).await;
    all_over(&world, &endpoint, 10).await;
    let failed: Vec<_> = receiver.ids()[..4].to_vec();
    let only_failed = ReplayRange {
        only_failed: true,
        ..all()
    };
    let replay = ask(&world, &endpoint, only_failed).await;
    let row = ends(&world, replay, ReplayState::Done).await;
    assert_eq!(
        (row.position.found, row.position.skipped, row.succeeded),
        (4, 0, 4)
    );
    let again = ask(&world, &endpoint, only_failed).await;
    let row = ends(&world, again, ReplayState::Done).await;
    assert_eq!(
        row.position.found, 0,
        "what was sent again has not failed any more"
    );
    world.stop().await;
    let ids = receiver.ids();
    assert_eq!(ids.len(), 14);
    assert!(failed.iter().all(|id| counts(&ids)[id.as_str()] == 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn live_events_go_first_while_a_replay_is_slow() {
    let mut world = World::new().await;
    let receiver = Receiver::ok().await;
    let endpoint = world.endpoint(&receiver, |_| {}).await;
    world.start();
    world.scan(30).await;
    all_over(&world, &endpoint, 30).await;
    let slow = ReplayRange {
        per_second: Some(1.0),
        ..all()
    };
    let replay = ask(&world, &endpoint, slow).await;
    receiver.heard_count(31).await;
    let live = world.scan(50).await;
    receiver.heard(&live).await;
    let row = row(&world, replay).await.unwrap();
    assert_eq!(
        row.state,
        ReplayState::Running,
        "a replay of 30 at 1/s takes half a minute"
    );
    let health = world.health(endpoint.id).await;
    assert_eq!(health.backlog, None, "a replay is no backlog");
    put(&world, CommandId::random(), CommandKind::CancelReplay { replay }).await;
    let row = ends(&world, replay, ReplayState::Cancelled).await;
    assert!(row.sent < 30 && row.position.found == 30);
    world.stop().await;
    assert!(
        !world.rows().await.contains_key("chunk"),
        "what was not sent is dropped"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_goes_on_after_every_kill_and_ends() {
    let mut world = World::new().await;
    let receiver = Receiver::ok().await;
    let endpoint = world.endpoint(&receiver, |_| {}).await;
    world.start();
    let range_of = world.scan(300).await;
    all_over(&world, &endpoint, 300).await;
    let range = ReplayRange {
        per_second: Some(200.0),
        ..all()
    };
    // Its checkpoint is saved: else a kill repeats live deliveries, which this test counts.
    world.stop().await;
    let before = receiver.ids().len();
    world.start();
    let replay = ask(&world, &endpoint, range).await;
    let mut live = Vec::new();
    for round in 0..6_u64 {
        tokio::time::sleep(Duration::from_millis(round * 83)).await;
        world.kill().await;
        live.extend(world.scan(5).await);
        world.start();
    }
    let row = ends(&world, replay, ReplayState::Done).await;
    receiver.heard(&live).await;
    // Some of the live ones are in the range, too.
    assert!(row.position.found + row.position.skipped >= 300, "{row:?}");
    assert_eq!(row.succeeded, row.position.found, "{row:?}");
    world.stop().await;
    let ids = receiver.ids();
    let sent = counts(&ids[before..]);
    assert!(
        range_of.iter().all(|id| sent.contains_key(id.as_str())),
        "every event of the range was sent again"
    );
    assert!(!world.rows().await.contains_key("chunk"));
    let found = world
        .store
        .command(world.partition(), CommandId::from_bytes(replay.own()))
        .await
        .unwrap();
    assert_eq!(found.unwrap().result, Some(CommandResult::Taken));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_waits_for_a_paused_endpoint_and_too_many_are_refused() {
    let mut world = World::new().await;
    let receiver = Receiver::ok().await;
    let mut endpoint = world.endpoint(&receiver, |_| {}).await;
    world.start();
    world.scan(3).await;
    all_over(&world, &endpoint, 3).await;
    world
        .edit(&mut endpoint, |endpoint| endpoint.intent = EndpointIntent::Paused)
        .await;
    until("the pause is known", async || {
        let live = world.scan(1).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        !receiver.ids().contains(&live[0])
    })
    .await;
    let heard = receiver.ids().len();
    let mut begun = Vec::new();
    for _ in 0..REPLAYS_UNDER_WAY_MAX {
        let replay = ask(&world, &endpoint, all()).await;
        // Of those that are asked for at once any may be the one too many.
        until("it has begun", async || row(&world, replay).await.is_some()).await;
        begun.push(replay);
    }
    let replay = begun[0];
    let surplus = ask(&world, &endpoint, all()).await;
    until("the surplus is refused", async || {
        let id = CommandId::from_bytes(surplus.own());
        let found = world.store.command(world.partition(), id).await.unwrap();
        matches!(found.unwrap().result, Some(CommandResult::Refused { .. }))
    })
    .await;
    assert_eq!(receiver.ids().len(), heard, "a paused endpoint is sent nothing");
    world
        .edit(&mut endpoint, |endpoint| endpoint.intent = EndpointIntent::Active)
        .await;
    ends(&world, replay, ReplayState::Done).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replays_failures_are_retried_and_then_given_up() {
    let mut world = World::new().await;
    let receiver = Receiver::new(|number| Some(if number < 5 { OK } else { "500 Oops" })).await;
    let endpoint = world
        .endpoint(&receiver, |endpoint| {
            endpoint.retry_schedule_ms = vec![0, 10, 10];
            endpoint.failure.degrade_after = 0;
        })
        .await;
    world.start();
    world.scan(5).await;
    all_over(&world, &endpoint, 5).await;
    let replay = ask(&world, &endpoint, all()).await;
    let row = ends(&world, replay, ReplayState::Done).await;
    assert_eq!((row.sent, row.succeeded, row.failed), (5, 0, 5));
    world.stop().await;
    // One attempt before, and two more until the schedule is used up.
    assert_eq!(receiver.ids().len(), 15);
    let health = world.health(endpoint.id).await;
    assert_eq!(health.consecutive_failures, 10, "they count like any others");
    let log = deliveries(&world, &endpoint).await;
    assert!(
        log.iter()
            .all(|one| one.last.status == DeliveryStatus::GivenUp && one.attempts == 3)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_says_what_retention_took_before_it_came_to_it() {
    let mut world = World::new().await;
    let receiver = Receiver::ok().await;
    let endpoint = world.endpoint(&receiver, |_| {}).await;
    world.start();
    for _ in 0..30 {
        // A batch each.
        world.scan(1).await;
    }
    all_over(&world, &endpoint, 30).await;
    let slow = ReplayRange {
        per_second: Some(0.01),
        ..all()
    };
    // The first one is in the way of the second one, until it is cancelled.
    let first = ask(&world, &endpoint, slow).await;
    until("the first one has read", async || {
        row(&world, first).await.is_some_and(|row| row.position.found > 0)
    })
    .await;
    let second = ask(&world, &endpoint, all()).await;
    until("the second one has begun", async || {
        row(&world, second).await.is_some()
    })
    .await;
    world.expire_all().await;
    put(
        &world,
        CommandId::random(),
        CommandKind::CancelReplay { replay: first },
    )
    .await;
    ends(&world, first, ReplayState::Cancelled).await;
    let row = ends(&world, second, ReplayState::Done).await;
    assert_eq!(row.succeeded + row.failed, row.position.found);
    world.stop().await;
}
