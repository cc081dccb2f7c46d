//! What a receiver's answers mean beyond their delivery: each rule on and off.

use qrelay_store::{id::EndpointId, limits::OVERLOAD_PAUSE_MIN, store::DeliverySummary};

use super::{
    world::{Receiver, until},
    *,
};

async fn last(world: &World, endpoint: EndpointId) -> Option<DeliverySummary> {
    world.store.deliveries(endpoint, None, 1).await.unwrap().pop()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_410_disables_unless_the_settings_say_otherwise() {
    let mut world = World::new().await;
    let receivers = [
        Receiver::new(|_| Some("410 Gone")).await,
        Receiver::new(|number| Some(if number < 3 { "410 Gone" } else { OK })).await,
    ];
    let obeyed = world.endpoint(&receivers[0], |_| {}).await;
    world
        .endpoint(&receivers[1], |endpoint| endpoint.failure.gone_disables = false)
        .await;
    world.start();
    let ids = world.scan(1).await;
    receivers[1].heard_count(4).await;
    until("it is disabled", async || {
        world.health(obeyed.id).await.state == HealthState::Disabled
    })
    .await;
    world.stop().await;
    assert_eq!(receivers[0].ids(), ids, "asked once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_may_abort_one_message_or_disable_its_endpoint() {
    let mut world = World::new().await;
    let aborts = Receiver::new(|_| Some("400 No\r\nwebhook-delivery: abort-message")).await;
    let leaves = Receiver::new(|_| Some("200 OK\r\nwebhook-delivery: disable")).await;
    let aborting = world.endpoint(&aborts, |_| {}).await;
    let leaving = world.endpoint(&leaves, |_| {}).await;
    world.start();
    world.scan(1).await;
    until("one is given up", async || {
        last(&world, aborting.id)
            .await
            .is_some_and(|row| row.last.status == DeliveryStatus::GivenUp)
    })
    .await;
    until("one is disabled", async || {
        world.health(leaving.id).await.state == HealthState::Disabled
    })
    .await;
    world.stop().await;
    let row = last(&world, aborting.id).await.unwrap();
    assert!(
        row.attempts == 1 && row.last.error.contains("abort-message"),
        "{row:?}"
    );
    assert_eq!(world.health(aborting.id).await.state, HealthState::Healthy);
    let row = last(&world, leaving.id).await.unwrap();
    assert_eq!(row.last.status, DeliveryStatus::Succeeded);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_overloaded_receiver_is_asked_ever_more_rarely_and_retry_after_counts_up_to_its_cap() {
    let mut world = World::new().await;
    let busy = Receiver::new(|number| Some(if number < 3 { "503 Busy" } else { OK })).await;
    let capped = Receiver::new(|number| {
        Some(if number < 1 {
            "429 Slow down\r\nretry-after: 86400"
        } else {
            OK
        })
    })
    .await;
    world.endpoint(&busy, |_| {}).await;
    world
        .endpoint(&capped, |endpoint| endpoint.failure.retry_after_max_ms = 300)
        .await;
    world.start();
    let ids = world.scan(1).await;
    busy.heard_count(4).await;
    capped.heard_count(2).await;
    world.stop().await;
    assert_eq!((busy.ids().len(), &busy.ids()[..1]), (4, &ids[..]));
    // A pause begins after the answer, so the next request comes no earlier than its end.
    let arrivals: Vec<_> = busy.hooks().iter().map(|hook| hook.at).collect();
    for (times, pair) in arrivals.windows(2).enumerate() {
        let pause = OVERLOAD_PAUSE_MIN * 2_u32.pow(u32::try_from(times).unwrap());
        assert!(pair[1] - pair[0] >= pause, "{times}: {:?}", pair[1] - pair[0]);
    }
    let hooks = capped.hooks();
    assert!(hooks[1].at - hooks[0].at >= Duration::from_millis(300));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_error_ends_a_delivery_where_the_settings_say_so_and_nothing_else_does() {
    let mut world = World::new().await;
    let refuses = Receiver::new(|_| Some("404 Not Found")).await;
    let others = Receiver::new(|number| {
        Some(match number {
            0 => "408 Request Timeout",
            1 => "500 Oops",
            2 => "429 Slow down",
            _ => OK,
        })
    })
    .await;
    let rule = |endpoint: &mut Endpoint| {
        endpoint.failure.client_errors_retried = false;
        endpoint.failure.overload_slows = false;
    };
    let refused = world.endpoint(&refuses, rule).await;
    world.endpoint(&others, rule).await;
    world.start();
    let ids = world.scan(1).await;
    others.heard_count(4).await;
    until("one is given up", async || {
        last(&world, refused.id)
            .await
            .is_some_and(|row| row.last.status == DeliveryStatus::GivenUp)
    })
    .await;
    world.stop().await;
    assert_eq!(refuses.ids(), ids, "asked once");
    let row = last(&world, refused.id).await.unwrap();
    assert!(row.last.error.contains("after a client error"), "{row:?}");
}
