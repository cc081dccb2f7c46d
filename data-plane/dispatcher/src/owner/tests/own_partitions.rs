//! Partitions of tenants' own: who takes them up, and what their owners have to do with what was before.

use qrelay_store::{
    id::PartitionId,
    model::EventPattern,
    record::Record,
    store::{Attempts as _, Leases as _, Registry as _, Store as _},
};

use super::world::{Receiver, World, until};

/// Claims a partition.
async fn claimed(world: &World) -> PartitionId {
    let claimed = world.store.claim_partitions(1).await.unwrap().unwrap();
    PartitionId::new(claimed.start)
}

async fn is_held(world: &World, partition: PartitionId) -> bool {
    let lease = world.store.lease(partition).await.unwrap();
    lease.is_some_and(|lease| lease.owner.is_some())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_of_a_tenants_own_is_taken_up_once_it_is_claimed_and_given_back_at_the_stop() {
    let mut world = World::new().await;
    let early = claimed(&world).await;
    world.start();
    until("what was claimed before is held", async || {
        is_held(&world, early).await
    })
    .await;
    let late = claimed(&world).await;
    until("what was claimed meanwhile is held", async || {
        is_held(&world, late).await
    })
    .await;
    world.stop().await;
    for partition in [world.partition(), early, late] {
        assert!(!is_held(&world, partition).await, "{partition}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_at_home_in_an_own_partition_gets_what_is_recorded_there() {
    let mut world = World::new().await;
    let own = claimed(&world).await;
    let receiver = Receiver::ok().await;
    let endpoint = world.endpoint(&receiver, |endpoint| endpoint.home = own).await;
    world.start();
    let at = world.now();
    let scan = Record::Scan(world.a_scan_at(at));
    let recorded = world.appender.append(own, at, &scan).unwrap();
    let address = recorded.durable().await.unwrap();
    let id = world.store.install().ids.event_id(address).to_string();
    receiver.heard(&[id]).await;
    world.stop().await;
    let rows = world.store.deliveries(endpoint.id, None, 10).await.unwrap();
    assert_eq!(rows.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_announced_before_a_partition_was_claimed_is_not_for_endpoints_at_home_in_it() {
    let mut world = World::new().await;
    world.rename_code(1).await;
    let own = claimed(&world).await;
    let receiver = Receiver::ok().await;
    // Nobody took the partition up before it had an endpoint.
    world
        .endpoint(&receiver, |endpoint| {
            endpoint.home = own;
            endpoint.events = vec![EventPattern::Any];
        })
        .await;
    world.rename_code(2).await;
    world.start();
    world.rename_code(3).await;
    until("both later changes came", async || receiver.hooks().len() >= 2).await;
    world.stop().await;
    let mut names: Vec<_> = receiver
        .hooks()
        .iter()
        .map(|hook| serde_json::from_str::<serde_json::Value>(&hook.body).unwrap())
        .map(|body| body["data"]["name"].to_string())
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["\"Poster 2\"", "\"Poster 3\""]);
}
