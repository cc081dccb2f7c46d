//! Endpoints that are set active with `resume: now`: what waits is told in the delivery log, and not sent.

use std::time::Duration;

use qrelay_store::{
    Clock, Timestamp,
    checkpoint::ReplayRange,
    clock::SystemClock,
    id::{CommandId, ReplayId},
    model::{Endpoint, EndpointIntent, RateLimit},
    store::{
        AttemptRow, Attempts, Command, CommandKind, CommandResult, Commands, DeliveryStatus, DeliverySummary,
    },
};

use super::world::{Counter, OK, Receiver, World, until, until_within};

/// For a thousand events on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// As the control plane does.
async fn resume_now(world: &World, endpoint: &mut Endpoint) {
    world
        .edit(endpoint, |endpoint| {
            endpoint.intent = EndpointIntent::Active;
            endpoint.skip_before = Some(SystemClock.now());
        })
        .await;
}

async fn deliveries(world: &World, endpoint: &Endpoint) -> Vec<DeliverySummary> {
    world.store.deliveries(endpoint.id, None, 500).await.unwrap()
}

/// The rows of what was skipped, once there are so many.
async fn told(world: &World, endpoint: &Endpoint, count: usize) -> Vec<AttemptRow> {
    let skipped = async || -> Vec<AttemptRow> {
        let all = deliveries(world, endpoint).await.into_iter().map(|one| one.last);
        all.filter(|row| row.status == DeliveryStatus::GivenUp && row.error.starts_with("skipped"))
            .collect()
    };
    until("what is skipped is told", async || skipped().await.len() >= count).await;
    skipped().await
}

async fn nothing_waits(world: &World, endpoint: &Endpoint) {
    until("nothing waits and it is back on the shared run", async || {
        world.rows().await["run"] == 1 && world.health(endpoint.id).await.backlog.is_none()
    })
    .await;
}

async fn put(world: &World, kind: CommandKind) -> Command {
    let command = Command {
        id: CommandId::random(),
        partition: world.partition(),
        kind,
        created_at: SystemClock.now(),
        result: None,
    };
    assert!(world.store.put_command(&command).await.unwrap());
    command
}

/// Retries that are far away, and a limit that lets nothing out.
fn slow(endpoint: &mut Endpoint) {
    endpoint.retry_schedule_ms = vec![0, 3_600_000];
    endpoint.failure.degrade_after = 0;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_a_retry_or_a_permit_is_given_up_at_once_also_after_a_kill() {
    let mut world = World::new().await;
    let receiver = Receiver::new(|number| Some(if number < 2 { "500 Oops" } else { OK })).await;
    let mut endpoint = world.endpoint(&receiver, slow).await;
    world.start();
    let failed = world.scan(2).await;
    receiver.heard(&failed).await;
    let limited = |endpoint: &mut Endpoint| {
        endpoint.rate_limit = Some(RateLimit {
            per_second: 0.001,
            burst: 1,
        });
    };
    world.edit(&mut endpoint, limited).await;
    world.scan(3).await;
    world.told_a_backlog_of(endpoint.id, 5).await;
    world.kill().await;
    // Nobody is there to hear it.
    resume_now(&world, &mut endpoint).await;
    world.start();
    let rows = told(&world, &endpoint, 3).await;
    let tried = rows.iter().filter(|row| row.number > 0);
    assert!(
        tried.clone().all(|row| row.number == 2) && tried.count() == 2,
        "{rows:?}"
    );
    world.kill().await;
    world.start();
    world
        .edit(&mut endpoint, |endpoint| endpoint.rate_limit = None)
        .await;
    let later = world.scan(2).await;
    receiver.heard(&later).await;
    nothing_waits(&world, &endpoint).await;
    world.stop().await;
    world.nothing_is_outstanding().await;
    assert_eq!(
        receiver.ids().len(),
        4,
        "two that failed, and two that came later"
    );
    let all = deliveries(&world, &endpoint).await;
    assert!(all.len() <= 7, "each is told once: {all:?}");
    assert!(
        all.iter().all(|one| one.last.status != DeliveryStatus::Retrying),
        "{all:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_far_behind_passes_over_the_log_with_a_row_or_two_and_no_request() {
    const SCANS: usize = 3000;
    let mut world = World::new().await;
    let (fast, slow) = (Counter::new().await, Counter::new().await);
    world.endpoint_of(&fast, |_| {}).await;
    let mut paused = world
        .endpoint_of(&slow, |endpoint| endpoint.intent = EndpointIntent::Paused)
        .await;
    world.start();
    for round in 1..=SCANS / 1000 {
        world.scan(1000).await;
        until_within(PATIENCE, "the live one got it", async || {
            fast.distinct() == round * 1000
        })
        .await;
    }
    world
        .told_a_backlog_of(paused.id, u64::try_from(SCANS).unwrap())
        .await;
    resume_now(&world, &mut paused).await;
    told(&world, &paused, 1).await;
    world.kill().await;
    world.start();
    nothing_waits(&world, &paused).await;
    world.scan(10).await;
    until("what comes later comes", async || slow.distinct() == 10).await;
    world.stop().await;
    assert_eq!(slow.repeated(), 0);
    let rows = told(&world, &paused, 1).await;
    assert!(rows.len() <= 20, "a row of each event: {}", rows.len());
    let range = "so were all events of batches 1 to ";
    assert!(rows.iter().any(|row| row.error.contains(range)), "{rows:?}");
    assert!(rows.iter().all(|row| row.number == 0 && row.fault.is_empty()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_range_that_was_skipped_can_be_replayed_and_stays_told() {
    let mut world = World::new().await;
    let (receiver, other) = (Receiver::ok().await, Receiver::ok().await);
    world.endpoint(&other, |_| {}).await;
    let mut paused = world
        .endpoint(&receiver, |endpoint| endpoint.intent = EndpointIntent::Paused)
        .await;
    world.start();
    let ids = world.scan(6).await;
    other.heard(&ids).await;
    world.told_a_backlog_of(paused.id, 6).await;
    resume_now(&world, &mut paused).await;
    let rows = told(&world, &paused, 1).await;
    nothing_waits(&world, &paused).await;
    assert_eq!(receiver.ids(), [] as [String; 0]);
    let last = rows[0].clone();
    let command = put(
        &world,
        CommandKind::Retry {
            endpoint: last.endpoint,
            event: last.event,
            first_at: last.first_at,
            after: last.number,
        },
    )
    .await;
    until("the command is refused", async || {
        let found = world.store.command(command.partition, command.id).await.unwrap();
        matches!(found.unwrap().result, Some(CommandResult::Refused { .. }))
    })
    .await;
    assert!(last.event.is_range() && receiver.ids().is_empty());
    let range = ReplayRange {
        start: Timestamp::EPOCH,
        end: SystemClock.now().after(Duration::from_secs(1)),
        end_given: None,
        only_failed: false,
        per_second: None,
    };
    let replay = ReplayId::random(paused.id);
    put(&world, CommandKind::Replay { replay, range }).await;
    receiver.heard(&ids).await;
    world.stop().await;
    let rows = deliveries(&world, &paused).await;
    let range = rows.iter().find(|row| row.last.event == last.event).unwrap();
    assert_eq!(
        (range.last.status, &range.last.error),
        (DeliveryStatus::GivenUp, &last.error)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_active_endpoint_that_lags_skips_its_backlog_too() {
    let mut world = World::new().await;
    let (receiver, other) = (Counter::new().await, Counter::new().await);
    world.endpoint_of(&other, |_| {}).await;
    let mut lagging = world
        .endpoint_of(&receiver, |endpoint| {
            endpoint.rate_limit = Some(RateLimit {
                per_second: 0.001,
                burst: 1,
            });
        })
        .await;
    world.start();
    world.scan(200).await;
    until("it is on a run of its own", async || {
        world.rows().await.get("run").is_some_and(|runs| *runs == 2)
    })
    .await;
    // These are in the log alone.
    world.scan(200).await;
    until("the live one got it", async || other.distinct() == 400).await;
    world.told_a_backlog_of(lagging.id, 400).await;
    resume_now(&world, &mut lagging).await;
    told(&world, &lagging, 1).await;
    nothing_waits(&world, &lagging).await;
    assert_eq!(receiver.distinct(), 0);
    world
        .edit(&mut lagging, |endpoint| endpoint.rate_limit = None)
        .await;
    world.scan(5).await;
    until("what comes later comes", async || receiver.distinct() == 5).await;
    world.stop().await;
}
