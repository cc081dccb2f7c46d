//! A tenant whose scans lie in several partitions: whoever has one of its endpoints delivers from all of them.

use std::collections::BTreeSet;

use qrelay_store::{
    Clock,
    checkpoint::ReplayState,
    clock::SystemClock,
    id::PartitionId,
    model::{EndpointIntent, Ordering, TenantStatus},
    store::Registry,
};

use super::{
    leases::two_ways,
    replays::{all, ask, counts, ends},
    world::{Receiver, Running, World, until},
    *,
};
use crate::{Config, cursor::Stream};

const P: PartitionId = PartitionId::new(0);
const Q: PartitionId = PartitionId::new(1);
const R: PartitionId = PartitionId::new(2);

/// A receiver with an endpoint whose home this is.
async fn homed(world: &World, home: PartitionId) -> (Receiver, Endpoint) {
    let receiver = Receiver::ok().await;
    let endpoint = world.endpoint(&receiver, |endpoint| endpoint.home = home).await;
    (receiver, endpoint)
}

/// Waits until the owner of a partition has saved that it is past all that was recorded in another one, and that whoever
/// is homed with it from now on is sent nothing of it.
async fn level(world: &World, home: PartitionId, others: &[PartitionId]) {
    until("the owner has come to the end of what it follows", async || {
        let run = world.shared_run(home).await;
        let mut level = true;
        for partition in others.iter().chain([&home]) {
            let (writer, seq) = world.last_batch(*partition).await;
            let stream = Stream {
                partition: *partition,
                writer,
            };
            let followed = *partition == home || run.follows.get(partition) == Some(&true);
            level &= followed && run.cursor.at(stream) >= seq;
        }
        level
    })
    .await;
}

/// Each of these came once, and nothing else.
fn assert_each_once(receiver: &Receiver, ids: &[String]) {
    let came = receiver.ids();
    let (distinct, wanted): (BTreeSet<_>, BTreeSet<_>) = (came.iter().collect(), ids.iter().collect());
    assert_eq!(distinct, wanted);
    assert_eq!(came.len(), ids.len(), "each came once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_of_any_partition_comes_once_to_endpoints_of_every_home_and_is_counted_once() {
    let mut world = World::with_partitions(3, &[0, 1, 2]).await;
    let (a, _) = homed(&world, P).await;
    let (b, _) = homed(&world, Q).await;
    let mut ids = world.scan_in(Q, 4, 1).await;
    world.start();
    for round in 0..6 {
        for partition in [P, Q, R] {
            ids.extend(world.scan_in(partition, 3 + round, 1).await);
        }
    }
    a.heard(&ids).await;
    b.heard(&ids).await;
    world.stop().await;
    assert_each_once(&a, &ids);
    assert_each_once(&b, &ids);
    let month = SystemClock.now().month();
    let usage = world.store.usage(world.tenant, &month).await.unwrap();
    let count = u64::try_from(ids.len()).unwrap();
    assert_eq!((usage.scans[0], usage.deliveries), (count, 2 * count));
    assert_eq!(usage.events, count + 1, "the scans, and the code's creation");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_that_gets_more_partitions_while_events_wait_loses_none_and_later_endpoints_get_nothing_of_the_past()
 {
    let mut world = World::with_partitions(3, &[0]).await;
    let (a, _) = homed(&world, P).await;
    let mut slow = world
        .endpoint(&a, |endpoint| endpoint.intent = EndpointIntent::Paused)
        .await;
    world.start();
    a.hold(true);
    let mut ids = world.scan_in(P, 20, 1).await;
    a.heard_count(1).await;
    world.spread_tenant(2, &[0, 1, 2], TenantStatus::Active).await;
    // An edge that knows of it records there at once, and one that does not still here.
    for partition in [Q, P, R, Q] {
        ids.extend(world.scan_in(partition, 5, 1).await);
    }
    a.hold(false);
    a.heard(&ids).await;
    level(&world, Q, &[P, R]).await;
    let (b, _) = homed(&world, Q).await;
    let mut later = Vec::new();
    for partition in [P, Q, R] {
        later.extend(world.scan_in(partition, 5, 1).await);
    }
    b.heard(&later).await;
    ids.extend(later.clone());
    a.heard(&ids).await;
    world
        .edit(&mut slow, |endpoint| {
            (endpoint.intent, endpoint.enabled_epoch) = (EndpointIntent::Active, 1);
        })
        .await;
    until("the paused one has caught up", async || {
        a.ids().len() == 2 * ids.len() && world.shared_run(P).await.follows.len() == 2
    })
    .await;
    world.stop().await;
    assert_each_once(&b, &later);
    let came = a.ids();
    let came = counts(&came);
    assert!(ids.iter().all(|id| came[id.as_str()] == 2), "each once for each");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_lose_nothing_of_other_partitions_and_send_nothing_of_the_past() {
    let mut world = World::with_partitions(2, &[0, 1]).await;
    let (a, _) = homed(&world, P).await;
    let mut ids = Vec::new();
    for round in 0..6 {
        world.start();
        for partition in [Q, P, Q] {
            ids.extend(world.scan_in(partition, 4, 1).await);
        }
        if round % 2 == 0 {
            a.heard(&ids).await;
        }
        world.kill().await;
        ids.extend(world.scan_in(Q, 2, 1).await);
    }
    world.start();
    a.heard(&ids).await;
    level(&world, Q, &[P]).await;
    world.kill().await;
    // Nobody runs while it is created, and meets its first events.
    let (b, _) = homed(&world, Q).await;
    let mut later = world.scan_in(P, 3, 1).await;
    later.extend(world.scan_in(Q, 3, 1).await);
    world.start();
    b.heard(&later).await;
    ids.extend(later.clone());
    a.heard(&ids).await;
    world.stop().await;
    assert_each_once(&b, &later);
}

#[tokio::test]
async fn homes_that_move_from_one_deliverer_to_another_lose_nothing_of_each_others_partitions() {
    let world = World::with_partitions(2, &[0, 1]).await;
    let (a, _) = homed(&world, P).await;
    let (b, _) = homed(&world, Q).await;
    let [first, second] = two_ways(&world).await;
    let mut ids = Vec::new();
    let mut one = Running::start(&world, first, Config::default());
    for _ in 0..3 {
        ids.extend(world.scan_in(P, 3, 1).await);
        ids.extend(world.scan_in(Q, 3, 1).await);
    }
    a.heard(&ids).await;
    let mut two = Running::start(&world, std::sync::Arc::clone(&second), Config::default());
    second.called(Op::Lease, 4).await;
    for partition in [P, Q, P, Q] {
        ids.extend(world.scan_in(partition, 3, 1).await);
    }
    tokio::join!(one.stop(), async {
        for partition in [P, Q, P, Q] {
            ids.extend(world.scan_in(partition, 3, 1).await);
        }
    });
    for partition in [P, Q] {
        ids.extend(world.scan_in(partition, 3, 1).await);
    }
    a.heard(&ids).await;
    b.heard(&ids).await;
    two.stop().await;
    // A delivery is made at least once: some that end just as a partition changes hands come again.
    let wanted: BTreeSet<_> = ids.into_iter().collect();
    for receiver in [a, b] {
        assert_eq!(receiver.ids().into_iter().collect::<BTreeSet<_>>(), wanted);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_sends_what_all_partitions_hold_also_over_kills() {
    let mut world = World::with_partitions(3, &[0, 1, 2]).await;
    let (a, endpoint) = homed(&world, P).await;
    world.start();
    let mut ids = Vec::new();
    for partition in [P, Q, R, Q, P] {
        for _ in 0..3 {
            ids.extend(world.scan_in(partition, 2, 1).await);
        }
    }
    a.heard(&ids).await;
    // Its checkpoint is saved: else a kill repeats live deliveries, which this test counts.
    world.stop().await;
    let before = a.ids().len();
    assert_eq!(before, ids.len());
    world.start();
    let range = qrelay_store::checkpoint::ReplayRange {
        per_second: Some(40.0),
        ..all()
    };
    let replay = ask(&world, &endpoint, range).await;
    for sent in [3, 9, 16] {
        a.heard_count(before + sent).await;
        world.kill().await;
        world.start();
    }
    let row = ends(&world, replay, ReplayState::Done).await;
    let count = u64::try_from(ids.len()).unwrap();
    assert_eq!(row.position.found + row.position.skipped, count, "{row:?}");
    assert_eq!(row.succeeded, row.position.found, "{row:?}");
    world.stop().await;
    let came = a.ids();
    let came = counts(&came[before..]);
    assert!(
        ids.iter().all(|id| came.contains_key(id.as_str())),
        "each came again"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_gone_from_another_partition_stops_nothing_and_is_told_to_who_waited_for_it() {
    let mut world = World::with_partitions(2, &[0, 1]).await;
    let (a, _) = homed(&world, P).await;
    let paused = world
        .endpoint(&a, |endpoint| endpoint.intent = EndpointIntent::Paused)
        .await;
    world.start();
    let ids = world.scan_in(Q, 4, 1).await;
    a.heard(&ids).await;
    world.told_a_backlog_of(paused.id, 4).await;
    world.stop().await;
    world.scan_in(Q, 4, 1).await;
    world.expire_all().await;
    world.start();
    let mut later = world.scan_in(Q, 2, 1).await;
    later.extend(world.scan_in(P, 2, 1).await);
    a.heard(&later).await;
    let mut paused = paused;
    world
        .edit(&mut paused, |endpoint| {
            (endpoint.intent, endpoint.enabled_epoch) = (EndpointIntent::Active, 1);
        })
        .await;
    world.told_of_retention(paused.id).await;
    until("nothing waits any more", async || {
        world.health(paused.id).await.backlog.is_none()
    })
    .await;
    world.stop().await;
    let wanted: BTreeSet<_> = ids.into_iter().chain(later).collect();
    assert_eq!(a.ids().into_iter().collect::<BTreeSet<_>>(), wanted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn order_by_code_is_kept_in_another_partition() {
    let mut world = World::with_partitions(2, &[0, 1]).await;
    let (failing, _) = (
        Receiver::new(|n| Some(if n % 3 == 0 { "500 Oops" } else { "200 OK" })).await,
        (),
    );
    world
        .endpoint(&failing, |endpoint| {
            endpoint.ordering = Ordering::PerCode;
            endpoint.retry_schedule_ms = vec![0; 100];
            endpoint.failure.degrade_after = 0;
        })
        .await;
    world.start();
    let mut ids = Vec::new();
    for _ in 0..8 {
        ids.extend(world.scan_in(Q, 2, 1).await);
    }
    failing.heard(&ids).await;
    world.stop().await;
    let mut came = failing.ids();
    came.dedup();
    assert_eq!(came, ids);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_belongs_to_a_tenant_that_is_gone_is_not_followed_any_more() {
    let mut world = World::with_partitions(2, &[0, 1]).await;
    let (a, mut endpoint) = homed(&world, P).await;
    world.start();
    let mut ids = world.scan_in(Q, 1, 1).await;
    a.heard(&ids).await;
    world
        .edit(&mut endpoint, |endpoint| endpoint.deleted = true)
        .await;
    // Whoever comes next goes on with it, and gets what is recorded from then on.
    ids.extend(world.scan_in(Q, 3, 1).await);
    level(&world, P, &[Q]).await;
    let (b, mut endpoint) = homed(&world, P).await;
    let later = world.scan_in(Q, 2, 1).await;
    b.heard(&later).await;
    assert_each_once(&b, &later);
    world
        .edit(&mut endpoint, |endpoint| endpoint.deleted = true)
        .await;
    world.spread_tenant(2, &[0, 1], TenantStatus::Deleted).await;
    until("it is not followed any more", async || {
        // A cursor that moves is saved.
        world.scan_in(P, 1, 1).await;
        let run = world.shared_run(P).await;
        run.follows.is_empty() && run.cursor.iter().all(|(stream, _)| stream.partition != Q)
    })
    .await;
    assert!(world.store.tenant(world.tenant).await.unwrap().is_some());
    world.stop().await;
}
