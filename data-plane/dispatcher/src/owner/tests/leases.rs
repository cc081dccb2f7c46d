//! Two deliverers on one store that does not prove who lives: the clock that counts is each one's own.

use std::time::Duration;

use qrelay_store::{
    fault::{Fault, FaultStore, Op},
    store::{Leases, SharedStore},
};
use tokio::time::Instant;

use super::world::{Running, World};
use crate::lease::{DEAD_AFTER, RENEW_PERIOD};

/// Two ways into the same store, neither of which proves that the other is dead.
async fn two_ways(world: &World) -> [std::sync::Arc<FaultStore>; 2] {
    [(); 2].map(|()| {
        let store = FaultStore::new(std::sync::Arc::clone(&world.store) as SharedStore);
        store.set_exclusive(false);
        store
    })
}

async fn owner(world: &World) -> Option<(qrelay_store::id::OwnerId, u64)> {
    let lease = world.store.lease(world.partition()).await.unwrap()?;
    Some((lease.owner?, lease.fence.epoch))
}

async fn owned_in_epoch(world: &World, epoch: u64) -> Instant {
    super::until("the lease is taken", async || {
        owner(world).await.is_some_and(|(_, now)| now == epoch)
    })
    .await;
    Instant::now()
}

#[tokio::test(start_paused = true)]
async fn a_dead_owner_is_taken_over_once_its_beat_stood_still() {
    let world = World::new().await;
    let [first, second] = two_ways(&world).await;
    let mut one = Running::start(&world, first, crate::Config::default());
    owned_in_epoch(&world, 1).await;
    let mut two = Running::start(&world, second, crate::Config::default());
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(owner(&world).await.unwrap().1, 1, "a living owner is left alone");
    one.kill().await;
    let killed = Instant::now();
    let taken = owned_in_epoch(&world, 2).await;
    let after = taken - killed;
    assert!(
        after + RENEW_PERIOD >= DEAD_AFTER && after < Duration::from_secs(15),
        "{after:?}"
    );
    two.stop().await;
    assert_eq!(owner(&world).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_zombies_save_is_refused_and_it_stops() {
    let world = World::new().await;
    let [first, second] = two_ways(&world).await;
    let mut one = Running::start(&world, std::sync::Arc::clone(&first), crate::Config::default());
    owned_in_epoch(&world, 1).await;
    let zombie = owner(&world).await.unwrap().0;
    first.break_all(Op::Save, Fault::Stall);
    let mut two = Running::start(&world, second, crate::Config::default());
    owned_in_epoch(&world, 2).await;
    let living = owner(&world).await.unwrap();
    assert_ne!(living.0, zombie);
    let looked = first.calls(Op::Lease);
    first.heal_all();
    // Fenced, it looks at the lease again like anybody else, and waits.
    first.called(Op::Lease, looked + 2).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(owner(&world).await, Some(living));
    one.stop().await;
    assert_eq!(
        owner(&world).await,
        Some(living),
        "its stop gives back nothing that is another's"
    );
    two.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_partition_that_was_given_back_is_taken_after_five_seconds() {
    let world = World::new().await;
    let [first, second] = two_ways(&world).await;
    let mut one = Running::start(&world, first, crate::Config::default());
    owned_in_epoch(&world, 1).await;
    let mut two = Running::start(&world, second, crate::Config::default());
    tokio::time::sleep(Duration::from_secs(2)).await;
    one.stop().await;
    let stopped = Instant::now();
    let taken = owned_in_epoch(&world, 2).await;
    assert!(taken - stopped < Duration::from_secs(7));
    two.stop().await;
}
