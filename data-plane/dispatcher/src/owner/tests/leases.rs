//! Two deliverers on one store that does not prove who lives: the clock that counts is each one's own.

use std::time::Duration;

use qrelay_store::{
    fault::{Fault, FaultStore, Op},
    store::{Leases, SharedStore},
};
use tokio::time::Instant;

use super::world::{Receiver, Running, World};
use crate::lease::{DEAD_AFTER, RENEW_PERIOD};

/// Calls that an owner or a claimant makes, other than reads of the log.
const OPS: [Op; 8] = [
    Op::Lease,
    Op::Claim,
    Op::Checkpoint,
    Op::Save,
    Op::PutChunk,
    Op::DeleteChunks,
    Op::RecordAttempts,
    Op::PendingCommands,
];

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

/// From here on the clock is held whenever somebody works, and jumps when nobody does.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::sleep(time).await;
    tokio::time::resume();
}

#[tokio::test(start_paused = true)]
async fn nobody_is_robbed_while_the_store_itself_stalls() {
    let world = World::new().await;
    let [first, second] = two_ways(&world).await;
    let mut one = Running::start(&world, std::sync::Arc::clone(&first), crate::Config::default());
    owned_in_epoch(&world, 1).await;
    let mut two = Running::start(&world, std::sync::Arc::clone(&second), crate::Config::default());
    second.called(Op::Lease, 3).await;
    for fault in [Fault::Stall, Fault::StallAnswer, Fault::Unavailable] {
        for store in [&first, &second] {
            OPS.iter().for_each(|op| store.break_all(*op, fault));
        }
        tokio::time::sleep(Duration::from_secs(40)).await;
        // It comes back for the claimant first: what stood still meanwhile proves nothing.
        let looked = second.calls(Op::Lease);
        second.heal_all();
        second.called(Op::Lease, looked + 3).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        first.heal_all();
        tokio::time::sleep(Duration::from_secs(40)).await;
        assert_eq!(owner(&world).await.unwrap().1, 1, "{fault:?}");
    }
    one.stop().await;
    two.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_renewed_however_long_its_checkpoint_takes_to_load() {
    let world = World::new().await;
    let [first, second] = two_ways(&world).await;
    first.break_all(Op::EndpointsHomed, Fault::Stall);
    let mut one = Running::start(&world, std::sync::Arc::clone(&first), crate::Config::default());
    owned_in_epoch(&world, 1).await;
    let mut two = Running::start(&world, second, crate::Config::default());
    // An answer that is lost meanwhile is found out about.
    first.break_next(Op::Save, 2, Fault::LoseAnswer);
    tokio::time::sleep(Duration::from_secs(60)).await;
    first.heal(Op::EndpointsHomed);
    let (polled, saved) = (first.calls(Op::PendingCommands), first.calls(Op::Save));
    first.called(Op::PendingCommands, polled + 1).await;
    first.called(Op::Save, saved + 3).await;
    assert_eq!(owner(&world).await.unwrap().1, 1);
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn a_lease_is_renewed_while_chunks_cannot_be_written() {
    let world = World::new().await;
    let receiver = Receiver::new(|_| Some("500 Oops")).await;
    world
        .endpoint(&receiver, |endpoint| {
            endpoint.retry_schedule_ms = vec![0, 3_600_000]
        })
        .await;
    let [first, second] = two_ways(&world).await;
    let mut one = Running::start(&world, std::sync::Arc::clone(&first), crate::Config::default());
    owned_in_epoch(&world, 1).await;
    let mut two = Running::start(&world, second, crate::Config::default());
    for fault in [Fault::Stall, Fault::Unavailable] {
        first.break_all(Op::PutChunk, fault);
        let ids = world.scan(1).await;
        receiver.heard(&ids).await;
        pass(Duration::from_secs(60)).await;
        assert_eq!(owner(&world).await.unwrap().1, 1, "{fault:?}");
        assert!(!world.rows().await.contains_key("chunk"), "{fault:?}");
    }
    first.heal_all();
    super::until("what is outstanding is saved", async || {
        world.rows().await.contains_key("chunk")
    })
    .await;
    one.stop().await;
    two.stop().await;
}

/// As a process that is stopped by a signal: what it had asked of the store is done when it goes on, and it gives up
/// nothing meanwhile.
#[tokio::test]
async fn a_shard_that_was_stopped_past_its_lease_moves_no_cursor_and_loses_no_event() {
    let world = World::new().await;
    let receiver = Receiver::ok().await;
    world.endpoint(&receiver, |_| {}).await;
    let [first, second] = two_ways(&world).await;
    let mut one = Running::start(&world, std::sync::Arc::clone(&first), crate::Config::default());
    let mut ids = world.scan(3).await;
    super::until("they are saved", async || world.saved_deliveries().await == 3).await;
    // It sends two more and never gets to save them.
    let saved = first.calls(Op::Save);
    first.set_exclusive(true);
    OPS.iter().for_each(|op| first.break_all(*op, Fault::Stall));
    first.heal(Op::PutChunk);
    let unsaved = world.scan(2).await;
    receiver.heard(&unsaved).await;
    first.called(Op::Save, saved + 1).await;
    ids.extend(unsaved.clone());

    let mut two = Running::start(&world, second, crate::Config::default());
    tokio::time::pause();
    owned_in_epoch(&world, 2).await;
    tokio::time::resume();
    ids.extend(world.scan(4).await);
    receiver.heard(&ids).await;
    super::until("those that were not saved come again", async || {
        let heard = receiver.ids();
        unsaved
            .iter()
            .all(|id| heard.iter().filter(|other| *other == id).count() == 2)
    })
    .await;
    super::until("all is saved", async || {
        !world.rows().await.contains_key("chunk") && world.saved_deliveries().await == 9
    })
    .await;
    let standing = world.store.checkpoint(world.partition()).await.unwrap().1;

    let looked = first.calls(Op::Lease);
    first.set_exclusive(false);
    first.heal_all();
    first.called(Op::Lease, looked + 2).await;
    let now = world.store.checkpoint(world.partition()).await.unwrap().1;
    assert_eq!(now, standing, "the zombie's save moved something");
    assert_eq!(owner(&world).await.unwrap().1, 2);
    one.stop().await;
    two.stop().await;
    assert_eq!(receiver.ids().len(), ids.len() + unsaved.len());
}
