//! Processes that stand still for longer than others wait for them, and go on as if nothing had been.

use std::{collections::BTreeMap, time::Duration};

use qrelay_store::{
    Store as _,
    checkpoint::RowKey,
    conformance::Fixture as _,
    id::{OwnerId, PartitionId},
    scylla::ScyllaStore,
    store::{Fence, Leases as _, Log as _, StoreError},
};
use qrelay_tests::{PATIENCE, scan::Crowd, server::Server, wait_within};
use rustix::process::Signal;
use tokio::time::{Instant, sleep, sleep_until};

use super::{
    Cluster,
    roles::World,
    up::{Stage, delivered, scan},
};
use crate::crash_ledger::{missing, settled, some_of};

/// How long something may take that others have to wait out first.
const LONG: Duration = Duration::from_secs(240);
/// How long nothing may come of what is due.
const STALLED: Duration = Duration::from_secs(240);
/// What was sent has come after so long.
const UNDER_WAY: Duration = Duration::from_secs(3);
/// How often it is tried to meet a process in a certain moment.
const TRIES: usize = 200;

/// What is asked again while the cluster does not answer.
async fn patiently<T>(ask: impl AsyncFn() -> Result<T, StoreError>) -> T {
    wait_within(LONG, "the store answers", async || match ask().await {
        Ok(answer) => Some(answer),
        Err(StoreError::Unavailable(_)) => None,
        Err(error) => panic!("{error}"),
    })
    .await
}

/// What stands in the checkpoints of all partitions.
#[derive(PartialEq, Debug)]
struct Checkpoint {
    fence: Fence,
    owner: Option<OwnerId>,
    rows: BTreeMap<RowKey, String>,
}

async fn checkpoints(store: &ScyllaStore) -> Vec<Checkpoint> {
    let mut all = Vec::new();
    for partition in 0..store.install().partitions {
        let partition = PartitionId::new(partition);
        let (lease, rows) = patiently(async || store.checkpoint(partition).await).await;
        let lease = lease.unwrap();
        all.push(Checkpoint {
            fence: lease.fence,
            owner: lease.owner,
            rows,
        });
    }
    all
}

/// The same once nothing moves: who was stopped may have sent something before.
async fn settled_checkpoints(store: &ScyllaStore) -> Vec<Checkpoint> {
    let mut last = checkpoints(store).await;
    loop {
        sleep(UNDER_WAY).await;
        let now = checkpoints(store).await;
        if now == last {
            return now;
        }
        last = now;
    }
}

async fn holds(dispatcher: &Server) -> f64 {
    dispatcher.metric("qrelay_leases_held").await
}

/// The zombie is looked at alone: whoever took over from it stands still meanwhile, so that all that moves is the zombie's
/// doing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Cassandra: run by make test"]
async fn a_dispatcher_that_stood_still_past_its_leases_moves_no_cursor_and_loses_no_event() {
    let cluster = Cluster::open().await;
    let store = &cluster.store;
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(&cluster.keyspace.name, dir.path());
    let plane = world.setup("control-plane", 0).start().await;
    let edge = world.setup("data-plane", 0).start().await;
    let zombie = world.setup("dispatcher", 0).start().await;
    let stage = Stage::set(&plane.admin()).await;
    delivered(&stage.receiver, &scan(&edge, &stage.path, 5).await).await;
    let all = f64::from(store.install().partitions);
    wait_within(LONG, "one dispatcher holds everything", async || {
        (holds(&zombie).await >= all).then_some(())
    })
    .await;

    let crowd = Crowd::start(edge.edge(), &stage.path, 20);
    wait_within(LONG, "there is something to save", async || {
        (crowd.ledger().count() >= 20).then_some(())
    })
    .await;
    zombie.signal(Signal::STOP);
    let before = checkpoints(store).await;
    let heir = world.setup("dispatcher", 1).start().await;
    wait_within(LONG, "all that it held is taken over", async || {
        (holds(&heir).await >= all).then_some(())
    })
    .await;
    let answered = crowd.ledger().answered();
    delivered(&stage.receiver, &answered).await;

    heir.signal(Signal::STOP);
    let taken_over = settled_checkpoints(store).await;
    for (before, after) in before.iter().zip(&taken_over) {
        assert!(after.fence.epoch > before.fence.epoch);
        assert!(after.owner.is_some() && after.owner != before.owner);
    }
    zombie.signal(Signal::CONT);
    wait_within(LONG, "it knows that it holds nothing", async || {
        (holds(&zombie).await <= 0.0).then_some(())
    })
    .await;
    // It may claim what stands still, and on a slow machine it has done so by now: under another epoch.
    for (was, is) in taken_over.iter().zip(checkpoints(store).await) {
        if is.fence.epoch == was.fence.epoch {
            assert_eq!(*was, is, "who lost a lease saved something");
        }
    }
    heir.signal(Signal::CONT);
    let answered = crowd.finish().await.answered();
    settled(STALLED, "every answered scan is delivered", async || {
        some_of(missing(&answered, &stage.receiver.accepted()))
    })
    .await;
    for server in [plane, edge, zombie, heir] {
        server.stop().await;
    }
}

/// Whether a batch stands in the log that no head tells of.
async fn is_ahead_of_its_head(store: &ScyllaStore) -> bool {
    for writer in patiently(async || store.writers().await).await {
        for partition in (0..store.install().partitions).map(PartitionId::new) {
            let head = writer.heads.get(&partition).copied().unwrap_or_default();
            let tail = patiently(async || store.tail(partition, writer.writer, head).await).await;
            if tail > head {
                return true;
            }
        }
    }
    false
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Cassandra: run by make test"]
async fn what_an_edge_answered_before_it_stood_still_or_was_killed_is_read_without_it() {
    let cluster = Cluster::open().await;
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(&cluster.keyspace.name, dir.path());
    let plane = world.setup("control-plane", 0).start().await;
    let dispatcher = world.setup("dispatcher", 0).start().await;
    let mut edge = world.setup("data-plane", 0);
    // Nobody is told of anything but by the store.
    edge.flags.clear();
    let edge = edge.start().await;
    let stage = Stage::set(&plane.admin()).await;
    let mut answered = scan(&edge, &stage.path, 3).await;
    delivered(&stage.receiver, &answered).await;

    let mut tries = 0;
    loop {
        // The first of them makes the edge publish its heads, and not at once again.
        answered.extend(scan(&edge, &stage.path, 2).await);
        edge.signal(Signal::STOP);
        if is_ahead_of_its_head(&cluster.store).await {
            break;
        }
        edge.signal(Signal::CONT);
        tries += 1;
        assert!(tries < TRIES, "heads are never behind: this test shows nothing");
    }
    let since = Instant::now();
    println!("stopped before its head at try {tries}");
    delivered(&stage.receiver, &answered).await;
    println!("delivered {:?} after the stop", since.elapsed());
    // For a minute: the experiment, not a wait for something.
    sleep_until(since + PATIENCE).await;
    edge.signal(Signal::CONT);
    for _ in 0..20 {
        answered.extend(scan(&edge, &stage.path, 1).await);
    }
    edge.kill();
    delivered(&stage.receiver, &answered).await;
    plane.stop().await;
    dispatcher.stop().await;
}
