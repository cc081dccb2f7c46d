//! Two deliverers on one store that does not prove who lives: the clock that counts is each one's own.

use std::{collections::BTreeSet, time::Duration};

use qrelay_store::{
    fault::{Fault, FaultStore, Op},
    id::OwnerId,
    model::{Endpoint, Ordering},
    store::{Leases, SharedStore},
};
use tokio::time::Instant;

use super::world::{Receiver, Running, World};
use crate::{
    Config,
    lease::{DEAD_AFTER, FREE_AFTER, RENEW_PERIOD},
    membership::weight,
};

/// Calls that an owner or a claimant makes, other than reads of the log.
const OPS: [Op; 10] = [
    Op::Lease,
    Op::Claim,
    Op::Checkpoint,
    Op::Save,
    Op::PutChunk,
    Op::DeleteChunks,
    Op::RecordAttempts,
    Op::PendingCommands,
    Op::PutMember,
    Op::Members,
];

/// Two ways into the same store, neither of which proves that the other is dead.
pub(super) async fn two_ways(world: &World) -> [std::sync::Arc<FaultStore>; 2] {
    [(); 2].map(|()| {
        let store = FaultStore::new(std::sync::Arc::clone(&world.store) as SharedStore);
        store.set_exclusive(false);
        store
    })
}

/// Settings of two deliverers, of which the first is to have the partition.
fn ranked(world: &World) -> [Config; 2] {
    let mut owners = [OwnerId::random(), OwnerId::random()];
    owners.sort_by_key(|owner| std::cmp::Reverse(weight(*owner, world.partition())));
    owners.map(|owner| Config {
        owner: Some(owner),
        ..Config::default()
    })
}

async fn owner(world: &World) -> Option<(OwnerId, u64)> {
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
    let [preferred, other] = ranked(&world);
    let mut one = Running::start(&world, first, preferred);
    owned_in_epoch(&world, 1).await;
    let mut two = Running::start(&world, second, other);
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
    let [preferred, other] = ranked(&world);
    let mut one = Running::start(&world, std::sync::Arc::clone(&first), other);
    owned_in_epoch(&world, 1).await;
    let zombie = owner(&world).await.unwrap().0;
    for op in [Op::Save, Op::Claim] {
        first.break_all(op, Fault::Stall);
    }
    let mut two = Running::start(&world, second, preferred);
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
async fn a_partition_that_nobody_is_to_have_is_anybodys_after_five_seconds() {
    let world = World::new().await;
    let [first, second] = two_ways(&world).await;
    let [preferred, other] = ranked(&world);
    // The one that should have it is there, and cannot claim it.
    first.break_all(Op::Claim, Fault::Unavailable);
    let mut one = Running::start(&world, std::sync::Arc::clone(&first), preferred);
    first.called(Op::Claim, 1).await;
    let begun = Instant::now();
    let mut two = Running::start(&world, second, other);
    let taken = owned_in_epoch(&world, 1).await;
    assert!(taken - begun >= FREE_AFTER && taken - begun < FREE_AFTER + Duration::from_secs(2));
    // Then it can, asks for it, and has it.
    first.heal_all();
    let healed = Instant::now();
    let taken = owned_in_epoch(&world, 2).await;
    assert!(taken - healed < Duration::from_secs(3), "{:?}", taken - healed);
    // Its stop gives it to the other one at once.
    let stopped = Instant::now();
    one.stop().await;
    let taken = owned_in_epoch(&world, 3).await;
    assert!(taken - stopped < Duration::from_secs(3), "{:?}", taken - stopped);
    two.stop().await;
    assert_eq!(owner(&world).await, None);
    assert_eq!(world.store.members().await.unwrap(), []);
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
    let [preferred, other] = ranked(&world);
    let mut one = Running::start(&world, std::sync::Arc::clone(&first), preferred);
    owned_in_epoch(&world, 1).await;
    let mut two = Running::start(&world, std::sync::Arc::clone(&second), other);
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
    let [preferred, other] = ranked(&world);
    first.break_all(Op::EndpointsHomed, Fault::Stall);
    let mut one = Running::start(&world, std::sync::Arc::clone(&first), preferred);
    owned_in_epoch(&world, 1).await;
    let mut two = Running::start(&world, second, other);
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
    let [preferred, other] = ranked(&world);
    let mut one = Running::start(&world, std::sync::Arc::clone(&first), preferred);
    owned_in_epoch(&world, 1).await;
    let mut two = Running::start(&world, second, other);
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
    let [preferred, other] = ranked(&world);
    let mut one = Running::start(&world, std::sync::Arc::clone(&first), other);
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

    let mut two = Running::start(&world, second, preferred);
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

#[tokio::test]
async fn partitions_move_with_those_that_come_and_go_and_every_event_is_delivered_and_counted_once() {
    let world = World::new().await;
    let receiver = Receiver::ok().await;
    world.endpoint(&receiver, |_| {}).await;
    let [first, second] = two_ways(&world).await;
    let [preferred, other] = ranked(&world);
    let mut one = Running::start(&world, first, other);
    let mut ids = world.scan(5).await;
    receiver.heard(&ids).await;
    let mut two = Running::start(&world, second, preferred);
    while owner(&world).await.is_none_or(|(_, epoch)| epoch == 1) {
        ids.extend(world.scan(3).await);
    }
    ids.extend(world.scan(5).await);
    receiver.heard(&ids).await;
    two.stop().await;
    ids.extend(world.scan(5).await);
    receiver.heard(&ids).await;
    super::until("all is saved", async || {
        usize::try_from(world.saved_deliveries().await).unwrap() == ids.len()
    })
    .await;
    one.stop().await;
    // What a slow disk keeps a hand-over from saving in its second comes again.
    let (came, scanned): (BTreeSet<_>, BTreeSet<_>) =
        (receiver.ids().into_iter().collect(), ids.into_iter().collect());
    assert_eq!(came, scanned);
    world.nothing_is_outstanding().await;
}

#[tokio::test]
async fn what_is_under_way_at_a_hand_over_is_finished_by_the_one_and_counted_by_the_other() {
    let world = World::new().await;
    let receiver = Receiver::new(|number| Some(if number / 2 == 4 { "500 Oops" } else { "200 OK" })).await;
    let settings = |endpoint: &mut Endpoint| {
        endpoint.retry_schedule_ms = vec![0, 100, 100];
        endpoint.max_concurrency = 5;
    };
    let endpoint = world.endpoint(&receiver, settings).await;
    let [first, second] = two_ways(&world).await;
    let [preferred, other] = ranked(&world);
    let mut one = Running::start(&world, first, preferred);
    owned_in_epoch(&world, 1).await;
    let mut two = Running::start(&world, std::sync::Arc::clone(&second), other);
    second.called(Op::Lease, 3).await;
    // It answers well, so that it is sent several at once.
    receiver.heard(&world.scan(8).await).await;
    super::until("they are saved", async || world.saved_deliveries().await == 8).await;
    receiver.hold(true);
    let ids = world.scan(5).await;
    receiver.heard(&ids).await;
    let looked = second.calls(Op::DeliveriesOfBatch);
    tokio::join!(one.stop(), async {
        owned_in_epoch(&world, 2).await;
        // The new owner has them, looks for their rows, and sends nothing.
        second.called(Op::DeliveriesOfBatch, looked + 2).await;
        assert_eq!(receiver.ids().len(), 13);
        receiver.hold(false);
    });
    // Two failed and are sent again; the others are not.
    super::until("all is saved", async || world.saved_deliveries().await == 13).await;
    two.stop().await;
    assert_eq!(receiver.ids().len(), 15);
    assert_eq!(world.attempt_rows(endpoint.id), 15);
    world.nothing_is_outstanding().await;
}

#[tokio::test]
async fn what_was_under_way_and_never_recorded_is_sent_again() {
    let world = World::new().await;
    let receiver = Receiver::ok().await;
    world
        .endpoint(&receiver, |endpoint| endpoint.ordering = Ordering::PerCode)
        .await;
    let [first, second] = two_ways(&world).await;
    let [preferred, other] = ranked(&world);
    let mut one = Running::start(&world, std::sync::Arc::clone(&first), preferred);
    owned_in_epoch(&world, 1).await;
    let mut two = Running::start(&world, std::sync::Arc::clone(&second), other);
    second.called(Op::Lease, 3).await;
    first.break_all(Op::RecordAttempts, Fault::Unavailable);
    receiver.hold(true);
    let ids = world.scan(3).await;
    receiver.heard_count(1).await;
    tokio::join!(one.stop(), async {
        owned_in_epoch(&world, 2).await;
        receiver.hold(false);
    });
    receiver.heard(&ids).await;
    super::until("all is saved", async || world.saved_deliveries().await == 3).await;
    two.stop().await;
    let mut wanted = vec![ids[0].clone()];
    wanted.extend(ids);
    assert_eq!(receiver.ids(), wanted, "in their order");
    world.nothing_is_outstanding().await;
}
