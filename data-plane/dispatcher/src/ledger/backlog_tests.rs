//! Every reason for which deliveries wait, with since when they do and when the next one goes out.

use std::{sync::Arc, time::Duration};

use qrelay_store::{
    Timestamp,
    checkpoint::{Backlog, BacklogReason},
    event::EventType,
    id::{CodeId, EndpointId, PartitionId, Seq, WriterId},
    model::{Endpoint, EndpointIntent, Ordering},
    record::Classification,
};
use tokio::time::Instant;

use super::{
    Ledger,
    feed::{Moment, Seen, SeenBatch, Verdicts},
    sending::Finish,
};
use crate::{cursor::Stream, fixture, health::Sign, usage::UsageDelta};

const ID: EndpointId = EndpointId::from_bytes([1; 10]);
const MINUTE: Duration = Duration::from_secs(60);

struct World {
    start: Instant,
    ledger: Ledger,
    endpoint: Endpoint,
    events: u64,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            start: Instant::now(),
            ledger: Ledger::new(PartitionId::new(0), 1),
            endpoint: fixture::endpoint(1),
            events: 0,
        };
        world.edit(|_| {});
        world
    }

    fn edit(&mut self, edit: impl FnOnce(&mut Endpoint)) {
        edit(&mut self.endpoint);
        self.endpoint.version += 1;
        self.ledger.subscribe(Arc::new(self.endpoint.clone()));
    }

    fn at(&self, ms: u64) -> Moment {
        Moment {
            now: self.start + Duration::from_millis(ms),
            wall: wall(ms),
        }
    }

    /// An event that is recorded and read.
    fn event(&mut self, ms: u64) {
        self.events += 1;
        let at = self.at(ms);
        let seen = Seen {
            index: 0,
            tenant: fixture::tenant(),
            event_type: EventType::ScanCreated,
            recorded_at: at.wall,
            code: Some(CodeId::from_bytes([5; 10])),
            classification: Some(Classification::Human),
            subject: None,
        };
        let batch = SeenBatch {
            stream: Stream {
                partition: PartitionId::new(0),
                writer: WriterId::from_u64(1),
            },
            seq: Seq::new(self.events),
            events: vec![seen],
            usage: UsageDelta::default(),
            verdicts: Verdicts::default(),
        };
        self.ledger.feed_shared(batch, at);
    }

    /// The next delivery fails, and is tried again after a minute.
    fn fail(&mut self, ms: u64) {
        let at = self.at(ms);
        let job = self.ledger.start(ID, at.now, |_| true).unwrap();
        self.ledger
            .observe(ID, Sign::Failure, fixture::answer(500), at.wall);
        self.ledger
            .finish(ID, job.event, at.wall, Finish::Retry(MINUTE), at);
    }

    fn backlog(&mut self, ms: u64) -> Option<Backlog> {
        self.ledger.refresh_backlogs(self.at(ms).now);
        self.ledger.subscriber(ID).unwrap().health.backlog.clone()
    }

    fn is(&mut self, ms: u64, reason: BacklogReason, events: u64, oldest: u64, next: Option<u64>) {
        let backlog = self.backlog(ms).expect("something waits");
        assert_eq!(
            (
                backlog.reason,
                backlog.events,
                backlog.oldest_at,
                backlog.next_send_at
            ),
            (reason, events, Some(wall(oldest)), next.map(wall))
        );
    }
}

fn wall(ms: u64) -> Timestamp {
    Timestamp::from_millis(1_800_000_000_000).after(Duration::from_millis(ms))
}

#[tokio::test(start_paused = true)]
async fn what_passes_through_is_no_backlog() {
    let mut world = World::new();
    world.event(0);
    assert_eq!(world.backlog(10), None);
}

#[tokio::test(start_paused = true)]
async fn retrying_says_when_the_retry_is_due() {
    let mut world = World::new();
    world.event(5);
    world.fail(100);
    world.is(200, BacklogReason::Retrying, 1, 5, Some(60_100));
}

#[tokio::test(start_paused = true)]
async fn throttled_says_until_when_by_the_receiver_and_by_a_limit() {
    let mut world = World::new();
    world.event(5);
    world.event(6);
    let at = world.at(10);
    world.ledger.hold(ID, MINUTE, at);
    world.ledger.settle(at.now);
    world.is(20, BacklogReason::Throttled, 2, 5, Some(60_010));
    assert!(!world.backlog(20).unwrap().by_limit);
    let mut world = World::new();
    world.event(5);
    world.ledger.pace(ID, Some(wall(9000)));
    world.is(1500, BacklogReason::Throttled, 1, 5, Some(9000));
    assert!(world.backlog(1500).unwrap().by_limit);
}

#[tokio::test(start_paused = true)]
async fn paused_and_disabled_send_nothing_next() {
    for disabled in [false, true] {
        let mut world = World::new();
        world.event(5);
        let reason = if disabled {
            let at = world.at(6);
            world
                .ledger
                .observe(ID, Sign::Gone, fixture::answer(410), at.wall);
            BacklogReason::Disabled
        } else {
            world.edit(|endpoint| endpoint.intent = EndpointIntent::Paused);
            BacklogReason::Paused
        };
        world.ledger.settle(world.at(10).now);
        world.event(20);
        world.event(30);
        world.is(40, reason, 3, 5, None);
    }
}

#[tokio::test(start_paused = true)]
async fn degraded_says_when_it_is_tried_again() {
    let mut world = World::new();
    for ms in 1..=5 {
        world.event(ms);
        world.fail(ms * 100);
    }
    world.is(600, BacklogReason::Degraded, 5, 1, Some(60_100));
}

#[tokio::test(start_paused = true)]
async fn catching_up_says_since_when_it_is_behind() {
    let mut world = World::new();
    world.edit(|endpoint| endpoint.intent = EndpointIntent::Paused);
    world.ledger.settle(world.at(0).now);
    world.event(5);
    world.event(6);
    world.edit(|endpoint| endpoint.intent = EndpointIntent::Active);
    world.is(10, BacklogReason::CatchingUp, 2, 5, None);
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_the_one_before_it_counts_from_when_it_was_recorded() {
    let mut world = World::new();
    world.edit(|endpoint| endpoint.ordering = Ordering::PerCode);
    world.event(5);
    world.event(6);
    world.event(7);
    world.fail(100);
    world.is(200, BacklogReason::Retrying, 3, 5, Some(60_100));
}
