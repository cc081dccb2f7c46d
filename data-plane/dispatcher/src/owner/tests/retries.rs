//! Deliveries that a tenant asks for again.

use std::time::Duration;

use qrelay_store::{
    Clock,
    clock::SystemClock,
    id::CommandId,
    model::{Endpoint, EndpointIntent, Payload, PayloadFormat},
    store::{
        AttemptRow, Attempts, Command, CommandKind, CommandResult, Commands, DeliveryStatus, DeliverySummary,
    },
};

use super::world::{OK, Receiver, World, until};

async fn the_delivery(world: &World, endpoint: &Endpoint) -> DeliverySummary {
    let mut all = world.store.deliveries(endpoint.id, None, 10).await.unwrap();
    assert_eq!(all.len(), 1, "one delivery under one id: {all:?}");
    all.remove(0)
}

async fn stands(world: &World, endpoint: &Endpoint, status: DeliveryStatus, attempts: u32) -> AttemptRow {
    until("the delivery stands as expected", async || {
        let all = world.store.deliveries(endpoint.id, None, 10).await.unwrap();
        let one = all.first();
        one.is_some_and(|one| one.last.status == status && one.attempts == attempts)
    })
    .await;
    the_delivery(world, endpoint).await.last
}

/// Asks as the control plane does.
async fn ask(world: &World, last: &AttemptRow) -> Command {
    let command = Command {
        id: CommandId::random(),
        partition: world.partition(),
        kind: CommandKind::Retry {
            endpoint: last.endpoint,
            event: last.event,
            first_at: last.first_at,
            after: last.number,
        },
        created_at: SystemClock.now(),
        result: None,
    };
    assert!(world.store.put_command(&command).await.unwrap());
    command
}

async fn taken(world: &World, command: &Command) {
    until("the command is finished", async || {
        let found = world.store.command(command.partition, command.id).await.unwrap();
        found.unwrap().result == Some(CommandResult::Taken)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_given_up_or_succeeded_is_sent_again_with_the_same_id_and_bytes() {
    let mut world = World::new().await;
    let receiver = Receiver::new(|number| Some(if number == 0 { "500 Oops" } else { OK })).await;
    let endpoint = world
        .endpoint(&receiver, |endpoint| endpoint.retry_schedule_ms = vec![0])
        .await;
    world.start();
    world.scan(1).await;
    let first = stands(&world, &endpoint, DeliveryStatus::GivenUp, 1).await;
    let command = ask(&world, &first).await;
    let second = stands(&world, &endpoint, DeliveryStatus::Succeeded, 2).await;
    assert_eq!(second.first_at, first.first_at, "the delivery keeps its id");
    taken(&world, &command).await;
    let command = ask(&world, &second).await;
    stands(&world, &endpoint, DeliveryStatus::Succeeded, 3).await;
    taken(&world, &command).await;
    world.stop().await;
    let hooks = receiver.hooks();
    assert_eq!(hooks.len(), 3);
    assert!(
        hooks
            .iter()
            .all(|hook| hook.id() == hooks[0].id() && hook.body == hooks[0].body)
    );
    world.nothing_is_outstanding().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_replaces_the_scheduled_one_and_asking_twice_changes_nothing() {
    let mut world = World::new().await;
    let receiver = Receiver::new(|number| Some(if number == 0 { "500 Oops" } else { OK })).await;
    let endpoint = world
        .endpoint(&receiver, |endpoint| {
            endpoint.retry_schedule_ms = vec![0, 3_600_000]
        })
        .await;
    world.start();
    world.scan(1).await;
    let first = stands(&world, &endpoint, DeliveryStatus::Retrying, 1).await;
    let (one, two) = (ask(&world, &first).await, ask(&world, &first).await);
    stands(&world, &endpoint, DeliveryStatus::Succeeded, 2).await;
    taken(&world, &one).await;
    taken(&world, &two).await;
    world.stop().await;
    assert_eq!(receiver.hooks().len(), 2);
    world.nothing_is_outstanding().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_waits_while_the_endpoint_is_paused_and_the_log_says_so() {
    let mut world = World::new().await;
    let receiver = Receiver::ok().await;
    let mut endpoint = world.endpoint(&receiver, |_| {}).await;
    world.start();
    world.scan(1).await;
    let first = stands(&world, &endpoint, DeliveryStatus::Succeeded, 1).await;
    world
        .edit(&mut endpoint, |endpoint| endpoint.intent = EndpointIntent::Paused)
        .await;
    let command = ask(&world, &first).await;
    taken(&world, &command).await;
    let waits = stands(&world, &endpoint, DeliveryStatus::Retrying, 1).await;
    assert!(waits.next_attempt_at.is_some());
    world.kill().await;
    world.start();
    assert_eq!(receiver.hooks().len(), 1);
    world
        .edit(&mut endpoint, |endpoint| endpoint.intent = EndpointIntent::Active)
        .await;
    stands(&world, &endpoint, DeliveryStatus::Succeeded, 2).await;
    world.stop().await;
    assert_eq!(receiver.hooks().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_survives_a_kill_at_any_moment() {
    let mut world = World::new().await;
    let receiver = Receiver::ok().await;
    let endpoint = world.endpoint(&receiver, |_| {}).await;
    world.start();
    world.scan(1).await;
    let mut last = stands(&world, &endpoint, DeliveryStatus::Succeeded, 1).await;
    // Its checkpoint is saved: else a kill repeats the event as a delivery of its own.
    world.stop().await;
    world.start();
    for round in 0..8_u64 {
        let heard = receiver.hooks().len();
        let command = ask(&world, &last).await;
        tokio::time::sleep(Duration::from_millis(round * 13)).await;
        world.kill().await;
        world.start();
        taken(&world, &command).await;
        receiver.heard_count(heard + 1).await;
        until("the log says how it ended", async || {
            the_delivery(&world, &endpoint).await.last.status == DeliveryStatus::Succeeded
        })
        .await;
        last = the_delivery(&world, &endpoint).await.last;
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_template_made_no_body_of_is_sent_when_the_template_was_mended() {
    let mut world = World::new().await;
    let receiver = Receiver::ok().await;
    let form = |template: &str| Payload {
        format: PayloadFormat::Template,
        template: template.to_owned(),
        content_type: "application/x-www-form-urlencoded".to_owned(),
        ..Payload::default()
    };
    let mut endpoint = world
        .endpoint(&receiver, |endpoint| {
            endpoint.payload = form(r#"{"a": "${data}"}"#)
        })
        .await;
    world.start();
    world.scan(1).await;
    let first = stands(&world, &endpoint, DeliveryStatus::GivenUp, 0).await;
    assert!(first.code.is_some(), "it is known which code the event is about");
    world
        .edit(&mut endpoint, |endpoint| {
            endpoint.payload = form(r#"{"a": "${type}"}"#)
        })
        .await;
    let command = ask(&world, &first).await;
    let second = stands(&world, &endpoint, DeliveryStatus::Succeeded, 1).await;
    assert_eq!(second.first_at, first.first_at, "the delivery keeps its id");
    taken(&world, &command).await;
    world.stop().await;
    assert_eq!(receiver.hooks().len(), 1);
}
