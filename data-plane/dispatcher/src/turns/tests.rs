//! Endpoints beside each other on a virtual clock, with receivers that misbehave in every way.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use qrelay_store::{
    Timestamp,
    event::EventType,
    id::{PartitionId, Seq, WriterId},
    model::Endpoint,
    record::Classification,
};
use tokio::time::advance;

use super::*;
use crate::{
    cursor::Stream,
    fixture,
    health::Sign,
    ledger::{
        feed::{Seen, SeenBatch, Verdicts},
        sending::Finish,
    },
    schedule,
    usage::UsageDelta,
};

/// Exchanges at once: fewer than fifty bad endpoints want.
const EXCHANGES: usize = 64;
const HEALTHY: u8 = 200;
const EVENT_EVERY: Duration = Duration::from_millis(100);
const SETTLE_EVERY: Duration = Duration::from_millis(200);

/// What a receiver does, and after how long the exchange is over.
#[derive(Clone, Copy)]
enum Manner {
    Answers(u64),
    Fails(u64),
}

/// As the exchanges of [`crate::exchange`] with such receivers end: a black hole, one byte of the body a second, 10 MB, a
/// gzip bomb, a reset, a half-closed connection, garbage, a TLS failure, a redirect, a million headers.
const BAD: [Manner; 10] = [
    Manner::Fails(5000),
    Manner::Answers(5000),
    Manner::Answers(300),
    Manner::Answers(300),
    Manner::Fails(1),
    Manner::Fails(1),
    Manner::Fails(2),
    Manner::Fails(2),
    Manner::Fails(1),
    Manner::Fails(20),
];

struct World {
    ledger: Ledger,
    turns: Turns,
    start: Instant,
    manners: BTreeMap<EndpointId, Manner>,
    under_way: BTreeMap<(Instant, usize), Go>,
    started: usize,
    events: u64,
    next_event: Instant,
    next_settle: Instant,
    /// When what was sent to whom.
    sent: Vec<(EndpointId, Duration)>,
    under_way_max: usize,
}

fn id(number: u8) -> EndpointId {
    EndpointId::from_bytes([number; 10])
}

impl World {
    /// With the healthy endpoint and these others.
    fn new(others: impl IntoIterator<Item = Manner>) -> Self {
        let now = Instant::now();
        let mut world = Self {
            ledger: Ledger::new(PartitionId::new(0), 1),
            turns: Turns::new(Permits::new(EXCHANGES)),
            start: now,
            manners: BTreeMap::new(),
            under_way: BTreeMap::new(),
            started: 0,
            events: 0,
            next_event: now,
            next_settle: now,
            sent: Vec::new(),
            under_way_max: 0,
        };
        world
            .turns
            .paces
            .limit_tenant(&fixture::tenant_row(), PartitionId::new(0));
        for (number, manner) in (1_u8..).zip(others) {
            world.add(number, manner);
        }
        world.add(HEALTHY, Manner::Answers(20));
        // It is known to be well.
        for _ in 0..20 {
            let wall = world.at().wall;
            world
                .ledger
                .observe(id(HEALTHY), Sign::Success, fixture::answer(200), wall);
        }
        world
    }

    fn add(&mut self, number: u8, manner: Manner) {
        let endpoint = Endpoint {
            retry_schedule_ms: vec![0; 20],
            ..fixture::endpoint(number)
        };
        self.ledger.subscribe(Arc::new(endpoint));
        self.manners.insert(id(number), manner);
    }

    fn at(&self) -> Moment {
        let now = Instant::now();
        Moment {
            now,
            wall: Timestamp::from_millis(1_800_000_000_000).after(now - self.start),
        }
    }

    async fn run(&mut self, until: Duration) {
        while self.start.elapsed() < until {
            self.step();
            let ends = self.under_way.keys().next().map(|(at, _)| *at);
            let next = [ends, self.turns.next_wake(), Some(self.next_settle)];
            let next = next.into_iter().flatten().min().unwrap().min(self.next_event);
            advance(next.saturating_duration_since(Instant::now())).await;
        }
    }

    fn step(&mut self) {
        let at = self.at();
        while let Some(entry) = self.under_way.first_entry()
            && entry.key().0 <= at.now
        {
            let go = entry.remove();
            self.end(go);
        }
        if at.now >= self.next_settle {
            self.next_settle = at.now + SETTLE_EVERY;
            self.ledger.settle(at.now);
        }
        if at.now >= self.next_event {
            self.next_event = at.now + EVENT_EVERY;
            self.feed();
        }
        for endpoint in self.ledger.take_woken() {
            self.turns.stand_in(endpoint);
        }
        self.turns.ripen(at.now);
        while let Some(go) = self.turns.next(&mut self.ledger, at) {
            let endpoint = go.job.endpoint.id;
            let (Manner::Answers(ms) | Manner::Fails(ms)) = self.manners[&endpoint];
            self.sent.push((endpoint, at.now - self.start));
            self.started += 1;
            let ends = at.now + Duration::from_millis(ms);
            self.under_way.insert((ends, self.started), go);
        }
        self.under_way_max = self.under_way_max.max(self.under_way.len());
    }

    fn feed(&mut self) {
        self.events += 1;
        let at = self.at();
        let stream = Stream {
            partition: PartitionId::new(0),
            writer: WriterId::from_u64(1),
        };
        let seen = Seen {
            index: 0,
            tenant: fixture::tenant(),
            event_type: EventType::ScanCreated,
            recorded_at: at.wall,
            code: None,
            classification: Some(Classification::Human),
            subject: None,
        };
        let batch = SeenBatch {
            stream,
            seq: Seq::new(self.events),
            events: vec![seen],
            usage: UsageDelta::default(),
            verdicts: Verdicts::default(),
        };
        self.ledger.feed_shared(batch, at);
    }

    /// What the owner does when an attempt is over.
    fn end(&mut self, go: Go) {
        let Go { job, room, .. } = go;
        drop(room);
        let (endpoint, at) = (job.endpoint.id, self.at());
        let (sign, finish) = match self.manners[&endpoint] {
            Manner::Answers(_) => (Sign::Success, Finish::Delivered),
            Manner::Fails(_) => {
                let pause = schedule::pause_after(&job.endpoint, job.event, job.number, None);
                (Sign::Failure, pause.map_or(Finish::GivenUp, Finish::Retry))
            }
        };
        self.ledger.observe(endpoint, sign, fixture::answer(500), at.wall);
        self.ledger.finish(endpoint, job.event, at.wall, finish, at);
        self.ledger.recorded(endpoint, job.event);
    }

    fn sent_to(&self, number: u8) -> Vec<Duration> {
        let to_it = self.sent.iter().filter(|(endpoint, _)| *endpoint == id(number));
        to_it.map(|(_, at)| *at).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn beside_fifty_bad_ones_a_healthy_endpoint_is_sent_everything_at_the_moment_it_would_be_alone() {
    let until = Duration::from_secs(60);
    let mut alone = World::new([]);
    alone.run(until).await;
    let mut beside = World::new(BAD.iter().copied().cycle().take(50));
    beside.run(until).await;
    assert_eq!(alone.sent_to(HEALTHY).len(), 600);
    assert_eq!(beside.sent_to(HEALTHY), alone.sent_to(HEALTHY));
    let most = EXCHANGES / 8 * 7;
    assert!(
        beside.under_way_max >= most,
        "{} exchanges at once: nothing was scarce, the test tests nothing",
        beside.under_way_max
    );
    let all: BTreeSet<_> = beside.sent.iter().map(|(endpoint, _)| *endpoint).collect();
    assert_eq!(all.len(), 51, "each came to its turn");
}

#[tokio::test(start_paused = true)]
async fn endpoints_that_never_answered_leave_a_quarter_of_the_shard() {
    let mut world = World::new([Manner::Fails(5000); 150]);
    world.run(Duration::from_secs(30)).await;
    // The healthy one has one at a time.
    assert_eq!(world.under_way_max, EXCHANGES / 4 * 3 + 1);
    let each: Vec<_> = (1..=150).map(|number| world.sent_to(number).len()).collect();
    let (least, most) = (each.iter().min().unwrap(), each.iter().max().unwrap());
    assert!(*least >= 1 && most - least <= 1, "in turn: {each:?}");
}
