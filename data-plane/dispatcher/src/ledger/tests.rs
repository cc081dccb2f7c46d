//! Random life of a ledger: events, attempts, saves that apply or do not, crashes, pauses, deletions. Whatever
//! happens, once everybody may send again every event was delivered to every endpoint, and counted exactly once.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use proptest::prelude::*;
use qrelay_store::{
    Timestamp,
    checkpoint::{RowKey, RowKind, UsageCounts},
    event::EventType,
    id::{EndpointId, EventAddress, PartitionId, Seq, TenantId, WriterId},
    limits,
    model::{Endpoint, EndpointIntent},
    record::Classification,
};
use tokio::time::Instant;

use super::{
    Ledger,
    feed::{Moment, Seen, SeenBatch},
    load::{Loaded, LoadedChunk},
    plan::Plan,
    recall::{Recall, Recalled},
    sending::Finish,
};
use crate::{
    cursor::Stream,
    fixture,
    outstanding::{self, ChunkName, DoneMap},
    usage::UsageDelta,
};

const ENDPOINTS: u8 = 3;
const STREAMS: u64 = 2;

/// The store, and all that the test knows beside it.
struct World {
    start: Instant,
    elapsed: Duration,
    ledger: Ledger,
    epoch: u64,
    /// Per stream, how many events each batch has.
    log: BTreeMap<Stream, Vec<u16>>,
    endpoints: BTreeMap<EndpointId, Endpoint>,
    rows: BTreeMap<RowKey, String>,
    chunks: BTreeMap<ChunkName, Vec<u8>>,
    saving: Option<Plan>,
    in_flight: Vec<(EndpointId, EventAddress)>,
    recording: Vec<(EndpointId, EventAddress)>,
    delivered: BTreeSet<(EndpointId, EventAddress)>,
    attempts: usize,
    /// Wishes whose commands are pending: as of which revision.
    wishes: BTreeMap<(EndpointId, EventAddress), u32>,
    wished: bool,
}

impl World {
    fn new() -> Self {
        let endpoints: BTreeMap<_, _> = (1..=ENDPOINTS)
            .map(|number| {
                let mut endpoint = fixture::endpoint(number);
                endpoint.max_concurrency = 2;
                endpoint.retry_schedule_ms = vec![0; 1000];
                (endpoint.id, endpoint)
            })
            .collect();
        let mut world = Self {
            start: Instant::now(),
            elapsed: Duration::ZERO,
            ledger: Ledger::new(PartitionId::new(0), 0),
            epoch: 0,
            log: (1..=STREAMS).map(|writer| (stream(writer), Vec::new())).collect(),
            endpoints,
            rows: BTreeMap::new(),
            chunks: BTreeMap::new(),
            saving: None,
            in_flight: Vec::new(),
            recording: Vec::new(),
            delivered: BTreeSet::new(),
            attempts: 0,
            wishes: BTreeMap::new(),
            wished: false,
        };
        world.reload();
        world
    }

    fn at(&self) -> Moment {
        Moment {
            now: self.start + self.elapsed,
            wall: Timestamp::from_millis(1_800_000_000_000).after(self.elapsed),
        }
    }

    /// A new owner finds what was saved. Whatever was only in memory is gone.
    fn reload(&mut self) {
        self.epoch += 1;
        self.saving = None;
        self.in_flight.clear();
        self.recording.clear();
        let rows = self.rows.iter().filter(|(key, _)| key.kind == RowKind::Chunk);
        let chunks = rows.map(|(key, row)| {
            let name: ChunkName = key.id.parse().unwrap();
            let body = self
                .chunks
                .get(&name)
                .expect("a checkpoint names a chunk that was never written");
            LoadedChunk {
                name,
                done: DoneMap::from_row(row).unwrap(),
                entries: Some(outstanding::decode(body).unwrap()),
            }
        });
        let loaded = Loaded {
            chunks: chunks.collect(),
            rows: self.rows.clone(),
            endpoints: self.endpoints.values().cloned().map(Arc::new).collect(),
        };
        let (ledger, damage) = Ledger::load(PartitionId::new(0), self.epoch, loaded, self.at());
        assert_eq!(damage, super::load::Damage::default());
        self.ledger = ledger;
    }

    fn batch(&self, stream: Stream, seq: Seq) -> SeenBatch {
        let count = self.log[&stream][usize::try_from(seq.as_u64() - 1).unwrap()];
        let at = Timestamp::from_millis(1_800_000_000_000);
        let mut usage = UsageDelta::default();
        let events = (0..count).map(|index| {
            usage.count_scan(fixture::tenant(), at, Classification::Human);
            Seen {
                index,
                tenant: fixture::tenant(),
                event_type: EventType::ScanCreated,
                recorded_at: at,
                code: None,
                classification: Some(Classification::Human),
            }
        });
        SeenBatch {
            stream,
            seq,
            events: events.collect(),
            usage,
        }
    }

    fn read_shared(&mut self) {
        for (stream, batches) in self.log.clone() {
            let read = self.ledger.shared().read.at(stream);
            if read.as_u64() < u64::try_from(batches.len()).unwrap() {
                let batch = self.batch(stream, read.next());
                let at = self.at();
                self.ledger.feed_shared(batch, at);
            }
        }
    }

    fn read_own(&mut self) {
        let at = self.at();
        for endpoint in self.ledger.own_runs().collect::<Vec<_>>() {
            if let Some((stream, after, _)) = self.ledger.own_wants(endpoint, at.now) {
                let batch = self.batch(stream, after.next());
                self.ledger.feed_own(endpoint, &batch, at);
            }
        }
    }

    fn start_attempts(&mut self) {
        for endpoint in self.endpoints.keys() {
            while let Some(job) = self.ledger.start(*endpoint, self.at().now, |_| true) {
                self.in_flight.push((*endpoint, job.event));
                self.attempts += 1;
            }
        }
    }

    fn end_attempt(&mut self, pick: usize, succeed: Answer) {
        if self.in_flight.is_empty() {
            return;
        }
        let (endpoint, event) = self.in_flight.swap_remove(pick % self.in_flight.len());
        let at = self.at();
        let finish = match succeed {
            Answer::Ok => {
                self.delivered.insert((endpoint, event));
                self.recording.push((endpoint, event));
                self.ledger
                    .observe(endpoint, crate::health::Sign::Success, at.wall);
                Finish::Delivered
            }
            Answer::Failed => Finish::Retry(Duration::from_millis(700)),
            Answer::NotSent => Finish::Unused(Duration::from_millis(100)),
        };
        self.ledger.finish(endpoint, event, at.wall, finish, at);
    }

    fn record(&mut self) {
        for (endpoint, event) in std::mem::take(&mut self.recording) {
            self.ledger.recorded(endpoint, event);
        }
    }

    /// A tenant asks for a delivery that it got: it is owed again.
    fn recall(&mut self, pick: usize) {
        let all = self.delivered.iter();
        let over = all.filter(|delivery| !self.wishes.contains_key(delivery));
        let over: Vec<_> = over.copied().collect();
        if let Some(wish) = over.get(pick % over.len().max(1)) {
            self.wish(*wish);
        }
    }

    fn wish(&mut self, (endpoint, event): (EndpointId, EventAddress)) {
        let recalled = Recalled {
            event,
            event_type: EventType::ScanCreated,
            attempts: 1,
            first_at: self.at().wall,
        };
        if let Recall::Taken { revision, .. } = self.ledger.recall(endpoint, recalled, self.at()) {
            self.wished = true;
            // One that is under way is what was asked for, wherever it ends.
            if !self.in_flight.contains(&(endpoint, event)) {
                self.delivered.remove(&(endpoint, event));
            }
            self.wishes.insert((endpoint, event), revision);
        }
    }

    fn finish_wishes(&mut self) {
        let ledger = &self.ledger;
        self.wishes
            .retain(|(endpoint, event), revision| !ledger.keeps_recall(*endpoint, *event, *revision));
    }

    /// After a crash the pending commands are found again. One whose delivery was made since is known by its row.
    fn repeat_wishes(&mut self) {
        for wish in std::mem::take(&mut self.wishes).into_keys() {
            if !self.delivered.contains(&wish) {
                self.wish(wish);
            }
        }
    }

    fn plan(&mut self, hold: Duration) {
        let now = self.at().now;
        if let Some(plan) = self.ledger.plan(now, hold) {
            assert!(plan.delta.bytes() <= limits::CHECKPOINT_BYTES_MAX);
            for chunk in &plan.chunks {
                let before = self.chunks.insert(chunk.name, chunk.body.to_vec());
                assert_eq!(before, None, "a chunk's name was used again");
            }
            self.saving = Some(plan);
        }
    }

    fn apply(&mut self, plan: &Plan) {
        for (key, row) in &plan.delta.rows {
            match row {
                Some(row) => self.rows.insert(key.clone(), row.clone()),
                None => self.rows.remove(key),
            };
        }
    }

    fn answer_save(&mut self, applied: Applied) {
        let Some(plan) = self.saving.take() else {
            return;
        };
        match applied {
            Applied::Yes => {
                self.apply(&plan);
                for name in self.ledger.commit(plan) {
                    self.chunks.remove(&name);
                }
                self.finish_wishes();
            }
            Applied::No => {
                for name in self.ledger.abort(&plan) {
                    self.chunks.remove(&name);
                }
            }
            Applied::YesAndCrash => {
                self.apply(&plan);
                self.reload();
                self.repeat_wishes();
            }
        }
    }

    fn pause(&mut self, number: u8, intent: EndpointIntent) {
        let id = EndpointId::from_bytes([number; 10]);
        if let Some(endpoint) = self.endpoints.get_mut(&id) {
            endpoint.intent = intent;
            endpoint.version += 1;
            self.ledger.subscribe(Arc::new(endpoint.clone()));
        }
    }

    fn delete(&mut self, number: u8) {
        let id = EndpointId::from_bytes([number; 10]);
        if let Some(mut endpoint) = self.endpoints.remove(&id) {
            endpoint.deleted = true;
            endpoint.version += 1;
            self.ledger.subscribe(Arc::new(endpoint));
        }
    }

    fn step(&mut self, op: &Op) {
        match op {
            Op::Append { writer, count } => self.log.get_mut(&stream(*writer)).unwrap().push(*count),
            Op::ReadShared => self.read_shared(),
            Op::ReadOwn => self.read_own(),
            Op::Start => self.start_attempts(),
            Op::End(pick, answer) => self.end_attempt(*pick, *answer),
            Op::Record => self.record(),
            Op::Plan => self.plan(Duration::from_millis(100)),
            Op::Save(applied) => self.answer_save(*applied),
            Op::Settle => self.ledger.settle(self.at().now),
            Op::Wait(ms) => self.elapsed += Duration::from_millis(*ms),
            Op::Pause(number) => self.pause(*number, EndpointIntent::Paused),
            Op::Resume(number) => self.pause(*number, EndpointIntent::Active),
            Op::Delete(number) => self.delete(*number),
            Op::Recall(pick) => self.recall(*pick),
            Op::Crash => {
                self.reload();
                self.repeat_wishes();
            }
        }
    }

    /// Everything works from now on: delivers what is owed.
    fn drain(&mut self) {
        (1..=ENDPOINTS).for_each(|number| self.pause(number, EndpointIntent::Active));
        for _ in 0..10_000 {
            self.read_shared();
            self.read_own();
            self.start_attempts();
            while !self.in_flight.is_empty() {
                self.end_attempt(0, Answer::Ok);
            }
            self.record();
            self.plan(Duration::ZERO);
            let saved_all = self.saving.is_none();
            self.answer_save(Applied::Yes);
            self.ledger.settle(self.at().now);
            self.elapsed += Duration::from_millis(800);
            if saved_all && self.is_idle() {
                return;
            }
        }
        panic!("never came to rest: {} undone", self.ledger.undone());
    }

    fn is_idle(&self) -> bool {
        let read_all = self.log.iter().all(|(stream, batches)| {
            self.ledger.shared().saved.at(*stream).as_u64() == u64::try_from(batches.len()).unwrap()
        });
        read_all && self.ledger.undone() == 0 && self.ledger.own_runs().count() == 0
    }

    fn check(&self) {
        let mut expected = BTreeSet::new();
        let mut scans = 0;
        for (stream, batches) in &self.log {
            for (seq, count) in (1..).zip(batches) {
                scans += u64::from(*count);
                for endpoint in self.endpoints.keys() {
                    expected
                        .extend((0..*count).map(|index| (*endpoint, stream.address(Seq::new(seq), index))));
                }
            }
        }
        let missing: Vec<_> = expected.difference(&self.delivered).collect();
        assert!(missing.is_empty(), "lost: {missing:?}");
        assert!(
            self.rows.keys().all(|key| key.kind != RowKind::Chunk),
            "chunks stay behind: {:?}",
            self.rows
        );
        let usage = self.rows.iter().find(|(key, _)| key.kind == RowKind::Usage);
        let usage: UsageCounts = usage
            .map(|(_, row)| serde_json::from_str(row).unwrap())
            .unwrap_or_default();
        assert_eq!(usage.events, scans, "scans are counted exactly");
        if self.endpoints.len() == usize::from(ENDPOINTS) {
            let deliveries = u64::try_from(expected.len()).unwrap();
            if self.wished {
                assert!(
                    usage.deliveries >= deliveries,
                    "a delivery that came back counts again"
                );
            } else {
                assert_eq!(usage.deliveries, deliveries, "deliveries are counted exactly");
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Answer {
    Ok,
    Failed,
    NotSent,
}

#[derive(Clone, Copy, Debug)]
enum Applied {
    Yes,
    No,
    YesAndCrash,
}

#[derive(Clone, Debug)]
enum Op {
    Append { writer: u64, count: u16 },
    ReadShared,
    ReadOwn,
    Start,
    End(usize, Answer),
    Record,
    Plan,
    Save(Applied),
    Settle,
    Wait(u64),
    Pause(u8),
    Resume(u8),
    Delete(u8),
    Recall(usize),
    Crash,
}

fn op() -> impl Strategy<Value = Op> {
    let answer = prop_oneof![5 => Just(Answer::Ok), 2 => Just(Answer::Failed), 1 => Just(Answer::NotSent)];
    let applied =
        prop_oneof![6 => Just(Applied::Yes), 2 => Just(Applied::No), 1 => Just(Applied::YesAndCrash)];
    prop_oneof![
        6 => (1..=STREAMS, 0_u16..4).prop_map(|(writer, count)| Op::Append { writer, count }),
        8 => Just(Op::ReadShared),
        5 => Just(Op::ReadOwn),
        8 => Just(Op::Start),
        10 => (any::<usize>(), answer).prop_map(|(pick, answer)| Op::End(pick, answer)),
        6 => Just(Op::Record),
        6 => Just(Op::Plan),
        6 => applied.prop_map(Op::Save),
        6 => Just(Op::Settle),
        5 => (1_u64..1500).prop_map(Op::Wait),
        1 => (1..=ENDPOINTS).prop_map(Op::Pause),
        2 => (1..=ENDPOINTS).prop_map(Op::Resume),
        1 => Just(Op::Crash),
    ]
}

fn op_or_recall() -> impl Strategy<Value = Op> {
    prop_oneof![12 => op(), 3 => any::<usize>().prop_map(Op::Recall)]
}

fn stream(writer: u64) -> Stream {
    Stream {
        partition: PartitionId::new(0),
        writer: WriterId::from_u64(writer),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_every_event_is_delivered_and_counted_once(ops in proptest::collection::vec(op(), 0..160)) {
        let mut world = World::new();
        ops.iter().for_each(|op| world.step(op));
        world.drain();
        world.check();
    }

    #[test]
    fn what_a_tenant_asks_for_again_is_delivered_again_whatever_happens(
        ops in proptest::collection::vec(op_or_recall(), 0..160),
    ) {
        let mut world = World::new();
        ops.iter().for_each(|op| world.step(op));
        world.drain();
        world.check();
    }

    #[test]
    fn deleting_an_endpoint_at_any_moment_costs_the_others_nothing(
        ops in proptest::collection::vec(op(), 0..120),
        at in any::<prop::sample::Index>(),
        number in 1..=ENDPOINTS,
    ) {
        let mut world = World::new();
        let at = at.index(ops.len() + 1);
        for (index, op) in ops.iter().chain([&Op::Settle]).enumerate() {
            if index == at {
                world.step(&Op::Delete(number));
            }
            world.step(op);
        }
        world.drain();
        world.check();
    }
}

#[test]
fn a_quiet_healthy_life_repeats_nothing_and_writes_no_chunk() {
    let mut world = World::new();
    for count in 1..50 {
        world.step(&Op::Append {
            writer: 1,
            count: count % 4,
        });
        world.step(&Op::ReadShared);
        for _ in 0..30 {
            world.step(&Op::Start);
            while !world.in_flight.is_empty() {
                world.step(&Op::End(0, Answer::Ok));
            }
        }
        world.step(&Op::Record);
        world.step(&Op::Plan);
        world.step(&Op::Save(Applied::Yes));
        world.step(&Op::Settle);
        assert!(world.chunks.is_empty());
    }
    world.drain();
    world.check();
    assert_eq!(world.attempts, world.delivered.len());
}

#[test]
fn a_lagging_endpoint_holds_neither_memory_nor_the_shared_cursor() {
    let mut world = World::new();
    world.step(&Op::Pause(1));
    for _ in 0..5000 {
        world.step(&Op::Append { writer: 1, count: 3 });
        world.step(&Op::ReadShared);
        while world
            .ledger
            .is_ready(EndpointId::from_bytes([2; 10]), crate::queue::Class::Fresh)
            || world
                .ledger
                .is_ready(EndpointId::from_bytes([3; 10]), crate::queue::Class::Fresh)
        {
            world.step(&Op::Start);
            while !world.in_flight.is_empty() {
                world.step(&Op::End(0, Answer::Ok));
            }
        }
        world.step(&Op::Record);
        world.step(&Op::Plan);
        world.step(&Op::Save(Applied::Yes));
        world.step(&Op::Settle);
        assert!(world.ledger.undone() <= 3, "{} undone", world.ledger.undone());
        assert!(world.ledger.shared().pending_len() <= 1);
    }
    assert!(world.rows.len() < 10 && world.chunks.is_empty());
    let paused = world.ledger.subscriber(EndpointId::from_bytes([1; 10])).unwrap();
    assert_eq!(paused.own().unwrap().behind, 15_000 - 3);
    world.drain();
    world.check();
    assert_eq!(world.attempts, world.delivered.len(), "nothing is repeated");
}

/// A ledger with this many endpoints, each of a tenant of its own.
fn crowd(count: u16, intent: EndpointIntent) -> Ledger {
    let mut ledger = Ledger::new(PartitionId::new(0), 1);
    for number in 0..count {
        let mut endpoint = fixture::endpoint(0);
        let mut id = [1; 10];
        id[..2].copy_from_slice(&number.to_be_bytes());
        (endpoint.id, endpoint.tenant) = (EndpointId::from_bytes(id), TenantId::from_bytes(id));
        endpoint.intent = intent;
        ledger.subscribe(Arc::new(endpoint));
    }
    ledger
}

/// One event for each tenant of a crowd.
fn batch_for_all(count: u16, seq: u64) -> SeenBatch {
    let at = Timestamp::from_millis(1_800_000_000_000);
    let mut usage = UsageDelta::default();
    let events = (0..count).map(|number| {
        let mut id = [1; 10];
        id[..2].copy_from_slice(&number.to_be_bytes());
        usage.count_scan(TenantId::from_bytes(id), at, Classification::Human);
        Seen {
            index: number,
            tenant: TenantId::from_bytes(id),
            event_type: EventType::ScanCreated,
            recorded_at: at,
            code: None,
            classification: Some(Classification::Human),
        }
    });
    SeenBatch {
        stream: stream(1),
        seq: Seq::new(seq),
        events: events.collect(),
        usage,
    }
}

/// Plans and saves until there is nothing more to save; how many saves that took. None may be too large.
fn save_all(ledger: &mut Ledger, now: Instant) -> usize {
    for saves in 0..1000 {
        let Some(plan) = ledger.plan(now, Duration::ZERO) else {
            return saves;
        };
        assert!(
            plan.delta.bytes() <= limits::CHECKPOINT_BYTES_MAX,
            "{} bytes",
            plan.delta.bytes()
        );
        ledger.commit(plan);
        ledger.settle(now);
    }
    panic!("there is always something left to save");
}

#[test]
fn what_does_not_fit_into_one_save_fits_into_several() {
    let start = Instant::now();
    let at = |ms| Moment {
        now: start + Duration::from_millis(ms),
        wall: Timestamp::from_millis(1_800_000_000_000),
    };
    for intent in [EndpointIntent::Active, EndpointIntent::Paused] {
        let count = 1100;
        let mut ledger = crowd(count, intent);
        ledger.settle(at(0).now);
        for seq in 1..=20 {
            ledger.feed_shared(batch_for_all(count, seq), at(seq));
        }
        // Everybody has failed once, so that everything is outstanding and then rescheduled.
        let ids: Vec<_> = ledger
            .subscribers()
            .map(|subscriber| subscriber.config.id)
            .collect();
        let saves = save_all(&mut ledger, at(1000).now);
        assert!(saves > 1, "it fits into one: the test tests nothing");
        assert_eq!(ledger.shared().saved.at(stream(1)), Seq::new(20));
        for endpoint in &ids {
            while let Some(job) = ledger.start(*endpoint, at(2000).now, |_| true) {
                let retry = Finish::Retry(Duration::from_secs(60));
                ledger.finish(*endpoint, job.event, at(0).wall, retry, at(2000));
            }
        }
        ledger.feed_shared(batch_for_all(count, 21), at(3000));
        save_all(&mut ledger, at(4000).now);
        assert_eq!(ledger.shared().saved.at(stream(1)), Seq::new(21));
    }
}

#[test]
fn endpoints_that_lag_never_stop_the_shared_run() {
    let start = Instant::now();
    let at = |ms| Moment {
        now: start + Duration::from_millis(ms),
        wall: Timestamp::from_millis(1_800_000_000_000),
    };
    let count = 101;
    let mut ledger = crowd(count, EndpointIntent::Active);
    let ids: Vec<_> = ledger
        .subscribers()
        .map(|subscriber| subscriber.config.id)
        .collect();
    let (healthy, gone) = ids.split_first().unwrap();
    for seq in 1..=600 {
        ledger.feed_shared(batch_for_all(count, seq), at(0));
        ledger.start(*healthy, at(0).now, |_| true).expect("it is served");
        let event = stream(1).address(Seq::new(seq), 0);
        ledger.finish(*healthy, event, at(0).wall, Finish::Delivered, at(0));
        ledger.recorded(*healthy, event);
    }
    // The shared run read 60,000 deliveries, and then all of their endpoints said that they are gone.
    assert!(!ledger.may_read(), "the test tests nothing");
    for endpoint in gone {
        ledger.observe(*endpoint, crate::health::Sign::Gone, at(0).wall);
    }
    ledger.settle(at(1).now);
    assert_eq!(ledger.own_runs().count(), gone.len());
    save_all(&mut ledger, at(1000).now);
    assert_eq!(ledger.shared().saved.at(stream(1)), Seq::new(600));
    assert!(ledger.may_read(), "lagging endpoints stop the partition");
    ledger.feed_shared(batch_for_all(count, 601), at(2000));
    let job = ledger.start(*healthy, at(2000).now, |_| true);
    assert_eq!(job.unwrap().event, stream(1).address(Seq::new(601), 0));
    assert!(
        ledger.own_window() < limits::OWN_RUN_WINDOW,
        "they share what may be read ahead"
    );
}

#[test]
fn an_own_run_does_not_read_again_what_it_sent_of_a_batch() {
    let mut world = World::new();
    let id = EndpointId::from_bytes([1; 10]);
    world.step(&Op::Pause(1));
    world.step(&Op::Settle);
    world.step(&Op::Append { writer: 1, count: 3 });
    world.step(&Op::ReadShared);
    world.step(&Op::Resume(1));
    world.step(&Op::ReadOwn);
    // One of three is sent; the others stand in line.
    let job = world.ledger.start(id, world.at().now, |_| true).unwrap();
    world.in_flight.push((id, job.event));
    world.step(&Op::End(0, Answer::Ok));
    world.step(&Op::Record);
    world.attempts += 1;
    world.plan(Duration::ZERO);
    world.step(&Op::Save(Applied::Yes));
    world.plan(Duration::ZERO);
    world.step(&Op::Save(Applied::Yes));
    world.step(&Op::Crash);
    world.drain();
    world.check();
    let first = world.attempts;
    assert_eq!(first, world.delivered.len(), "nothing is repeated");
}

#[test]
fn setting_an_endpoint_active_lifts_what_its_receiver_asked_for() {
    let mut world = World::new();
    let id = EndpointId::from_bytes([1; 10]);
    world.step(&Op::Append { writer: 1, count: 1 });
    world.step(&Op::ReadShared);
    world.ledger.hold(id, Duration::from_secs(3600), world.at());
    assert!(world.ledger.start(id, world.at().now, |_| true).is_none());
    // Any other edit leaves it.
    world.step(&Op::Resume(1));
    assert!(world.ledger.start(id, world.at().now, |_| true).is_none());
    world.endpoints.get_mut(&id).unwrap().enabled_epoch += 1;
    world.step(&Op::Resume(1));
    assert!(world.ledger.start(id, world.at().now, |_| true).is_some());
}

#[test]
fn trouble_of_our_own_uses_up_no_attempt_and_keeps_the_id() {
    let mut world = World::new();
    let id = EndpointId::from_bytes([1; 10]);
    world.step(&Op::Append { writer: 1, count: 1 });
    world.step(&Op::ReadShared);
    let job = world.ledger.start(id, world.at().now, |_| true).unwrap();
    let (at, began) = (world.at(), world.at().wall);
    let again = Finish::Again(Duration::from_millis(10));
    world.ledger.finish(id, job.event, began, again, at);
    world.step(&Op::Wait(20));
    let job = world.ledger.start(id, world.at().now, |_| true).unwrap();
    assert_eq!((job.number, job.first_at), (1, Some(began)));
}

#[test]
fn an_own_run_whose_row_cannot_be_read_starts_from_the_beginning() {
    let mut world = World::new();
    let id = EndpointId::from_bytes([1; 10]);
    world.step(&Op::Pause(1));
    world.step(&Op::Settle);
    world.step(&Op::Append { writer: 1, count: 2 });
    world.step(&Op::ReadShared);
    world.plan(Duration::ZERO);
    world.step(&Op::Save(Applied::Yes));
    let key = crate::checkpoint::RunName::Own(id).key();
    assert!(
        world.rows.contains_key(&key),
        "it has no row: the test tests nothing"
    );
    let mut rows = world.rows.clone();
    rows.insert(key.clone(), "{".to_owned());
    rows.retain(|key, _| key.kind != RowKind::Chunk);
    let loaded = Loaded {
        rows,
        chunks: Vec::new(),
        endpoints: world.endpoints.values().cloned().map(Arc::new).collect(),
    };
    let (ledger, damage) = Ledger::load(PartitionId::new(0), 9, loaded, world.at());
    assert_eq!(damage.rows, [key]);
    assert!(
        ledger.has_own_run(id),
        "the shared run would pass over what is owed"
    );
    let own = ledger.subscriber(id).unwrap().own().unwrap();
    assert_eq!(own.run.read.at(stream(1)), Seq::ZERO);
}
