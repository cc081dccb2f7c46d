//! Rate limits as receivers see them, across restarts, live changes, retries and tests; and what a bug in an attempt costs.
//!
//! A receiver sees a request some time after its first byte was written, never before. So at every arrival, no more
//! requests can have come since a moment than were permitted since it: an upper bound that holds without any tolerance,
//! on the slowest machine. Every one-second window, at the instant of the write, is checked in [`crate::pace`] under a
//! paused clock.

use qrelay_store::model::RateLimit;
use tokio::time::Instant;

use super::{
    world::{PANICS, Receiver, until},
    *,
};
use crate::Config;

fn rate(per_second: f64, burst: u32) -> Option<RateLimit> {
    Some(RateLimit { per_second, burst })
}

/// At every arrival: no more came since the first of `phases` began than they permit, and `extra`. A phase is when it
/// began at the earliest, and how many a second it permits; limits start empty, so no burst comes on top while
/// something always waits.
fn check(arrivals: &[Instant], phases: &[(Instant, f64)]) {
    for (count, at) in (1_u32..).zip(arrivals) {
        let ends = phases.iter().skip(1).map(|(begun, _)| *begun).chain([*at]);
        let permitted: f64 = phases
            .iter()
            .zip(ends)
            .map(|((begun, per_second), end)| {
                per_second * end.min(*at).saturating_duration_since(*begun).as_secs_f64()
            })
            .sum();
        assert!(
            f64::from(count) <= permitted,
            "{count} came where {permitted} were permitted"
        );
    }
}

fn arrivals(receivers: &[&Receiver]) -> Vec<Instant> {
    let hooks = receivers.iter().flat_map(|receiver| receiver.hooks());
    let mut all: Vec<_> = hooks.map(|hook| hook.at).collect();
    all.sort_unstable();
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_holds_across_kills_a_stop_a_live_change_and_retries() {
    let mut world = World::new().await;
    // Every third request fails at once and is retried at once.
    let receiver = Receiver::new(|number| Some(if number % 3 == 1 { "500 Oops" } else { OK })).await;
    let begun = Instant::now();
    let mut endpoint = world
        .endpoint(&receiver, |endpoint| {
            endpoint.rate_limit = rate(20.0, 10);
            endpoint.retry_schedule_ms = vec![0; 20];
        })
        .await;
    let ids = world.scan(70).await;
    world.start();
    receiver.heard_count(10).await;
    world.kill().await;
    world.start();
    receiver.heard_count(20).await;
    world.stop().await;
    world.start();
    receiver.heard_count(30).await;
    let changed = Instant::now();
    world
        .edit(&mut endpoint, |endpoint| endpoint.rate_limit = rate(60.0, 10))
        .await;
    receiver.heard(&ids).await;
    world.stop().await;
    check(&arrivals(&[&receiver]), &[(begun, 20.0), (changed, 60.0)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenants_limit_holds_for_all_its_endpoints_and_each_comes_to_its_turn() {
    let mut world = World::new().await;
    let (one, two) = (Receiver::ok().await, Receiver::ok().await);
    let begun = Instant::now();
    world.limit_tenant(rate(40.0, 1)).await;
    world.endpoint(&one, |_| {}).await;
    world.endpoint(&two, |_| {}).await;
    let ids = world.scan(30).await;
    world.start();
    // While both wait, neither is served before the other is.
    until("a third of it came", async || {
        one.hooks().len() + two.hooks().len() >= 20
    })
    .await;
    let (first, second) = (one.hooks().len(), two.hooks().len());
    assert!(first.min(second) >= 5, "{first} and {second}");
    one.heard(&ids).await;
    two.heard(&ids).await;
    world.stop().await;
    check(&arrivals(&[&one, &two]), &[(begun, 40.0)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limited_endpoint_says_so_in_its_backlog_and_costs_the_others_nothing() {
    let mut world = World::new().await;
    let (slow, healthy) = (Receiver::ok().await, Receiver::ok().await);
    let mut limited = world
        .endpoint(&slow, |endpoint| {
            endpoint.rate_limit = rate(0.01, 1);
            endpoint.max_concurrency = 256;
        })
        .await;
    world.endpoint(&healthy, |_| {}).await;
    world.start_with(Config {
        exchanges_max: 4,
        ..Config::default()
    });
    let ids = world.scan(200).await;
    healthy.heard(&ids).await;
    until("its backlog is told", async || {
        let backlog = world.health(limited.id).await.backlog;
        backlog.is_some_and(|backlog| {
            backlog.events == 200
                && backlog.reason == BacklogReason::Throttled
                && backlog.next_send_at.is_some()
        })
    })
    .await;
    assert!(slow.hooks().is_empty());
    // A restart takes nothing of the limit for a wish of the receiver, which would outlive the limit.
    world.stop().await;
    world.start();
    world
        .edit(&mut limited, |endpoint| endpoint.rate_limit = None)
        .await;
    slow.heard(&ids).await;
    world.stop().await;
    let rows = world.store.deliveries(limited.id, None, 500).await.unwrap();
    assert!(
        rows.len() == 200 && rows.iter().all(|row| row.attempts == 1),
        "waiting used up no attempt"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_in_an_attempt_gives_that_delivery_up_and_the_others_go_on() {
    let mut world = World::new().await;
    let (broken, healthy) = (Receiver::ok().await, Receiver::ok().await);
    let panics = world.endpoint_with(&broken, PANICS, |_| {}).await;
    world.endpoint(&healthy, |_| {}).await;
    world.start();
    let ids = world.scan(20).await;
    healthy.heard(&ids).await;
    until("all are given up", async || {
        let rows = world.store.deliveries(panics.id, None, 100).await.unwrap();
        rows.len() == 20 && rows.iter().all(|row| row.last.status == DeliveryStatus::GivenUp)
    })
    .await;
    world.stop().await;
    let rows = world.store.deliveries(panics.id, None, 100).await.unwrap();
    assert!(
        rows.iter()
            .all(|row| row.last.error.contains("panicked") && row.last.fault == "ours")
    );
    assert_eq!(healthy.hooks().len(), 20, "the partition was not taken up anew");
    assert!(broken.hooks().is_empty());
}
