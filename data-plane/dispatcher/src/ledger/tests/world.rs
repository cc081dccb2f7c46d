//! A ledger, a store that may fail in every way that a store can, and all that the tests know beside them.
//!
//! After every save that the store applied, what it holds is judged by itself, without the ledger ([`World::judge`]):
//! no saved cursor has passed a delivery that is neither recorded nor outstanding in a chunk that the same checkpoint
//! names. A life ends with [`World::drain`] and [`World::check`]: whatever happened, nothing is lost.

mod replays;
mod skips;

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
    id::{CodeId, EndpointId, EventAddress, OwnerId, PartitionId, ReplayId, Seq, WriterId},
    limits,
    model::{Endpoint, EndpointIntent, Ordering},
    record::Classification,
    store::{Cas, Fence, Lease},
};
use tokio::time::Instant;

use super::super::{
    Ledger,
    feed::{Moment, Seen, SeenBatch, Verdicts},
    load::{Damage, Loaded, LoadedChunk},
    plan::Plan,
    recall::{Recall, Recalled},
    sending::Finish,
};
use crate::{
    checkpoint::{RunName, RunRow},
    cursor::{Cursor, Stream},
    fixture,
    health::Sign,
    lease::{Held, Saved, Sending},
    outstanding::{self, ChunkName, DoneMap},
    usage::UsageDelta,
};

pub(super) const ENDPOINTS: u8 = 3;
pub(super) const STREAMS: u64 = 2;
/// The tenant's other partition, in which the last writer records.
const OTHER: PartitionId = PartitionId::new(1);
/// One that is followed for other tenants.
const FOREIGN: PartitionId = PartitionId::new(2);
/// Batches that an own run's read brings at most.
const OWN_READ_BATCHES: usize = 3;

type Delivery = (EndpointId, EventAddress);

/// The store, and all that the test knows beside it.
pub(super) struct World {
    start: Instant,
    elapsed: Duration,
    /// How far the owner's clock is ahead.
    pub(super) ahead: Duration,
    pub(super) ledger: Ledger,
    /// Per stream, how many events each batch has; none for one that is missing and was given up.
    log: BTreeMap<Stream, Vec<Option<u16>>>,
    /// When each batch was recorded.
    times: BTreeMap<(Stream, Seq), Timestamp>,
    pub(super) endpoints: BTreeMap<EndpointId, Endpoint>,
    pub(super) rows: BTreeMap<RowKey, String>,
    pub(super) chunks: BTreeMap<ChunkName, Vec<u8>>,
    // The lease, as the store and its holder have it.
    lease: Lease,
    held: Held,
    /// What was sent to the store and not answered: a plan, or the question what became of one.
    sending: Option<(Sending, Option<Plan>)>,
    /// The plan of which nobody knows whether the store has it.
    in_doubt: Option<Plan>,
    /// Writes whose answer was given up while they were still on their way.
    late: Vec<(Sending, Option<Plan>)>,
    // Deliveries.
    pub(super) in_flight: Vec<Delivery>,
    recording: Vec<(Delivery, bool)>,
    /// Those whose last row the attempt log has acknowledged, ever.
    recorded: BTreeSet<Delivery>,
    /// Per endpoint, up to where all is recorded, and need not be judged again.
    judged: BTreeMap<EndpointId, Cursor>,
    /// How each ended last, as far as it was recorded: whether it succeeded.
    ended: BTreeMap<Delivery, bool>,
    pub(super) delivered: BTreeSet<Delivery>,
    pub(super) attempts: usize,
    /// Whom a rate limit keeps back.
    paced: BTreeSet<EndpointId>,
    /// Reads of own runs that are under way.
    own_reads: BTreeMap<EndpointId, Vec<(SeenBatch, bool)>>,
    /// Wishes whose commands are pending: as of which revision.
    wishes: BTreeMap<Delivery, u32>,
    wished: bool,
    /// Deliveries that were ever delivered or given up, and those that were ever asked for again.
    over: BTreeSet<Delivery>,
    came_back: BTreeSet<Delivery>,
    /// Replays that were asked for, with what was in the log then and was not sent since.
    replays: BTreeMap<ReplayId, BTreeSet<EventAddress>>,
    /// Those whose begin or end is not saved.
    replay_wishes: BTreeSet<ReplayId>,
    cancelled: BTreeSet<ReplayId>,
    /// Those that had begun when their endpoint's tenant wanted nothing of what waited.
    begun_before: BTreeSet<ReplayId>,
    /// How many deliveries were given up because their endpoint skips them, repeats included.
    pub(super) skipped: usize,
    /// How far the partition is passed that is followed for others.
    passed: u64,
    /// How often somebody left the shared run, and rejoined it; and rejoined with deliveries that were not done.
    pub(super) moves: Moves,
}

#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Moves {
    pub(super) left: usize,
    pub(super) rejoined: usize,
    pub(super) rejoined_undone: usize,
    /// Saves whose outcome was unknown at first, by what it was.
    pub(super) lost_applied: usize,
    pub(super) lost_never: usize,
}

impl World {
    pub(super) fn new() -> Self {
        let endpoints: BTreeMap<_, _> = (1..=ENDPOINTS)
            .map(|number| {
                let mut endpoint = fixture::endpoint(number);
                endpoint.max_concurrency = 2;
                endpoint.retry_schedule_ms = vec![0; 1000];
                (endpoint.id, endpoint)
            })
            .collect();
        let (start, lease) = (Instant::now(), claimed(0));
        let mut world = Self {
            start,
            elapsed: Duration::ZERO,
            ahead: Duration::ZERO,
            ledger: Ledger::new(PartitionId::new(0), 0),
            log: (1..=STREAMS).map(|writer| (stream(writer), Vec::new())).collect(),
            times: BTreeMap::new(),
            endpoints,
            rows: BTreeMap::new(),
            chunks: BTreeMap::new(),
            held: Held::new(&lease, OWNER, start),
            lease,
            sending: None,
            in_doubt: None,
            late: Vec::new(),
            in_flight: Vec::new(),
            recording: Vec::new(),
            recorded: BTreeSet::new(),
            judged: BTreeMap::new(),
            ended: BTreeMap::new(),
            delivered: BTreeSet::new(),
            attempts: 0,
            paced: BTreeSet::new(),
            own_reads: BTreeMap::new(),
            wishes: BTreeMap::new(),
            wished: false,
            over: BTreeSet::new(),
            came_back: BTreeSet::new(),
            replays: BTreeMap::new(),
            replay_wishes: BTreeSet::new(),
            cancelled: BTreeSet::new(),
            begun_before: BTreeSet::new(),
            skipped: 0,
            passed: 0,
            moves: Moves::default(),
        };
        world.reload();
        world
    }

    /// Two of its endpoints want each code's events one after the other.
    pub(super) fn in_order() -> Self {
        let mut world = Self::new();
        for number in [1, 2] {
            world.edit(number, |endpoint| endpoint.ordering = Ordering::PerCode);
        }
        world
    }

    pub(super) fn at(&self) -> Moment {
        Moment {
            now: self.start + self.elapsed,
            wall: Timestamp::from_millis(1_800_000_000_000).after(self.elapsed + self.ahead),
        }
    }

    /// A new owner finds what was saved. Whatever was only in memory is gone.
    fn reload(&mut self) {
        self.lease = claimed(self.lease.fence.epoch + 1);
        self.held = Held::new(&self.lease, OWNER, self.at().now);
        (self.sending, self.in_doubt) = (None, None);
        self.in_flight.clear();
        self.recording.clear();
        self.own_reads.clear();
        let rows = self.rows.iter().filter(|(key, _)| key.kind == RowKind::Chunk);
        let chunks = rows.map(|(key, row)| {
            let (name, done, entries) = self.chunk(key, row);
            LoadedChunk {
                name,
                done,
                entries: Some(entries),
            }
        });
        let loaded = Loaded {
            chunks: chunks.collect(),
            rows: self.rows.clone(),
            endpoints: self.endpoints.values().cloned().map(Arc::new).collect(),
        };
        let epoch = self.lease.fence.epoch;
        let (ledger, damage) = Ledger::load(PartitionId::new(0), epoch, loaded, self.at());
        assert_eq!(damage, Damage::default());
        self.ledger = ledger;
        let mut tenant = fixture::tenant_row();
        tenant.partitions.push(OTHER);
        self.ledger.learn_tenant(&Arc::new(tenant));
        self.ledger.follow(OTHER, &BTreeMap::new(), true);
    }

    fn chunk(&self, key: &RowKey, row: &str) -> (ChunkName, DoneMap, Vec<outstanding::Entry>) {
        let name: ChunkName = key.id.parse().unwrap();
        let body = self
            .chunks
            .get(&name)
            .expect("a checkpoint names a chunk that was never written");
        (
            name,
            DoneMap::from_row(row).unwrap(),
            outstanding::decode(body).unwrap(),
        )
    }

    /// What the store alone says: whatever a saved cursor has passed is recorded, or outstanding beside it.
    fn judge(&mut self) {
        let mut outstanding: BTreeSet<Delivery> = BTreeSet::new();
        for (key, row) in self.rows.iter().filter(|(key, _)| key.kind == RowKind::Chunk) {
            let (_, done, entries) = self.chunk(key, row);
            let open = (0_u16..).zip(entries).filter(|(index, _)| !done.is_done(*index));
            outstanding.extend(open.map(|(_, entry)| (entry.endpoint, entry.event)));
        }
        let cursor = |run: RunName| {
            let row = self.rows.get(&run.key())?;
            Some(RunRow::from_row(&run.key().id, row).unwrap().1.cursor)
        };
        let shared = cursor(RunName::Shared).unwrap_or_default();
        for endpoint in self.endpoints.keys().copied().collect::<Vec<_>>() {
            let own = cursor(RunName::Own(endpoint));
            let mut streams = own.iter().flat_map(Cursor::iter);
            assert!(
                streams.all(|(stream, _)| stream.partition != FOREIGN),
                "an own cursor has what is another tenant's"
            );
            assert!(
                own.as_ref().is_none_or(|own| own.is_within(&shared)),
                "an own cursor is past the shared one"
            );
            let known = self.judged.remove(&endpoint).unwrap_or_default();
            let passed = own.as_ref().unwrap_or(&shared);
            let owed = |event: &EventAddress| !self.recorded.contains(&(endpoint, *event));
            let (mut judged, mut open) = (known.clone(), BTreeSet::new());
            for (stream, seq, events) in self.batches(&known, passed) {
                let owed: Vec<_> = events.into_iter().filter(owed).collect();
                for event in &owed {
                    assert!(
                        outstanding.contains(&(endpoint, *event)),
                        "a saved cursor passed {event:?} for {endpoint}: neither recorded nor outstanding"
                    );
                }
                if owed.is_empty() && !open.contains(&stream) {
                    judged.advance(stream, seq);
                } else {
                    open.insert(stream);
                }
            }
            self.judged.insert(endpoint, judged);
        }
    }

    /// The batches after one cursor up to another, with their events.
    fn batches(&self, after: &Cursor, through: &Cursor) -> Vec<(Stream, Seq, Vec<EventAddress>)> {
        let mut all = Vec::new();
        for (stream, batches) in &self.log {
            let from = after.at(*stream).as_u64();
            let skip = usize::try_from(from).unwrap();
            let seqs = (from + 1..=through.at(*stream).as_u64()).map(Seq::new);
            for (seq, count) in seqs.zip(&batches[skip.min(batches.len())..]) {
                let events = (0..count.unwrap_or_default()).map(|index| stream.address(seq, index));
                all.push((*stream, seq, events.collect()));
            }
        }
        all
    }

    fn batch(&self, stream: Stream, seq: Seq) -> (SeenBatch, bool) {
        let count = self.log[&stream][usize::try_from(seq.as_u64() - 1).unwrap()];
        let at = self.recorded_at(stream.address(seq, 0));
        let mut usage = UsageDelta::default();
        let events = (0..count.unwrap_or_default()).map(|index| {
            if stream.partition != OTHER {
                usage.count_scan(fixture::tenant(), at, Classification::Human);
            }
            Seen {
                index,
                tenant: fixture::tenant(),
                event_type: EventType::ScanCreated,
                recorded_at: at,
                code: Some(code(stream.address(seq, index))),
                classification: Some(Classification::Human),
                subject: None,
            }
        });
        let seen = SeenBatch {
            stream,
            seq,
            events: events.collect(),
            usage,
            verdicts: Verdicts::default(),
        };
        (seen, count.is_none())
    }

    fn recorded_at(&self, event: EventAddress) -> Timestamp {
        self.times[&(Stream::of(event), event.seq)]
    }

    /// The next batch of a writer is recorded; none: it is missing.
    fn append(&mut self, writer: u64, count: Option<u16>) {
        let (stream, wall) = (stream(writer), self.at().wall);
        let batches = self.log.get_mut(&stream).unwrap();
        batches.push(count);
        let seq = Seq::new(u64::try_from(batches.len()).unwrap());
        self.times.insert((stream, seq), wall);
    }

    fn read_shared(&mut self) {
        self.read_shared_without(None);
    }

    /// Reads on; the filter of one endpoint was not judged.
    fn read_shared_without(&mut self, undecided: Option<EndpointId>) {
        for (stream, batches) in self.log.clone() {
            let read = self.ledger.shared().read.at(stream);
            if read.as_u64() < u64::try_from(batches.len()).unwrap() {
                let (mut batch, missing) = self.batch(stream, read.next());
                batch.verdicts.undecided.extend(undecided);
                if self.ledger.must_wait(&batch) {
                    // The owner reads nothing more until the save is over.
                    return;
                }
                if missing {
                    self.ledger.skip_shared(stream, batch.seq);
                } else {
                    self.ledger.feed_shared(batch, self.at());
                }
            }
        }
    }

    /// Own runs ask for what they want, and are told at once.
    fn read_own(&mut self) {
        for endpoint in self.ledger.own_runs().collect::<Vec<_>>() {
            self.ask_own(endpoint);
            self.tell_own(endpoint);
        }
    }

    /// An own run asks; much may happen until the answer is there.
    fn ask_own(&mut self, endpoint: EndpointId) {
        if self.own_reads.contains_key(&endpoint) {
            return;
        }
        if let Some((stream, after, through)) = self.ledger.own_wants(endpoint, self.at().now) {
            let seqs = std::iter::successors(Some(after.next()), |seq| Some(seq.next()));
            let seqs = seqs.take_while(|seq| *seq <= through).take(OWN_READ_BATCHES);
            let batches = seqs.map(|seq| self.batch(stream, seq)).collect();
            self.own_reads.insert(endpoint, batches);
        }
    }

    fn tell_own(&mut self, endpoint: EndpointId) {
        let at = self.at();
        for (batch, missing) in self.own_reads.remove(&endpoint).unwrap_or_default() {
            if missing {
                self.ledger.skip_own(endpoint, batch.stream, batch.seq);
            } else if !self.pass_over(endpoint, &batch) {
                self.ledger.feed_own(endpoint, &batch, at);
            }
        }
        self.ledger.settle_one(endpoint, at.now);
    }

    fn start_attempts(&mut self) {
        self.give_up_skipped();
        for endpoint in self.endpoints.keys().copied().collect::<Vec<_>>() {
            if self.paced.contains(&endpoint) {
                continue;
            }
            while let Some(job) = self.ledger.start(endpoint, self.at().now, |_| true) {
                self.check_order((endpoint, job.event));
                self.check_wanted((endpoint, job.event));
                self.in_flight.push((endpoint, job.event));
                self.attempts += 1;
            }
            self.start_replays(endpoint);
        }
    }

    /// Nothing of the same code is under way, and what stands before it in its stream was delivered or given up.
    fn check_order(&self, delivery @ (endpoint, event): Delivery) {
        let in_order = self.endpoints[&endpoint].ordering == Ordering::PerCode;
        if !in_order || self.came_back.contains(&delivery) {
            return;
        }
        let beside = self.in_flight.iter().filter(|other| {
            other.0 == endpoint && code(other.1) == code(event) && !self.came_back.contains(other)
        });
        assert_eq!(beside.count(), 0, "two of a code at once");
        let before = self.batches(&Cursor::default(), &self.ledger.shared().read);
        let before = before.into_iter().flat_map(|(_, _, events)| events);
        let mut before = before.filter(|other| {
            Stream::of(*other) == Stream::of(event) && *other < event && code(*other) == code(event)
        });
        let early = before.find(|other| !self.over.contains(&(endpoint, *other)));
        assert_eq!(early, None, "{event:?} is sent before it");
    }

    fn end_attempt(&mut self, pick: usize, answer: Answer) {
        if self.in_flight.is_empty() {
            return;
        }
        let (endpoint, event) = self.in_flight.swap_remove(pick % self.in_flight.len());
        let at = self.at();
        if matches!(answer, Answer::Ok | Answer::GivenUp) {
            self.replays_sent((endpoint, event));
        }
        let finish = match answer {
            Answer::Ok => {
                self.over.insert((endpoint, event));
                self.delivered.insert((endpoint, event));
                self.recording.push(((endpoint, event), true));
                self.ledger
                    .observe(endpoint, Sign::Success, fixture::answer(200), at.wall);
                Finish::Delivered
            }
            Answer::GivenUp => {
                self.over.insert((endpoint, event));
                self.recording.push(((endpoint, event), false));
                self.ledger
                    .observe(endpoint, Sign::Failure, fixture::answer(500), at.wall);
                Finish::GivenUp
            }
            Answer::Failed => {
                self.ledger
                    .observe(endpoint, Sign::Failure, fixture::answer(500), at.wall);
                Finish::Retry(Duration::from_millis(700))
            }
            Answer::Ours => Finish::Again(Duration::from_millis(300)),
            Answer::NotSent => Finish::Unused(Duration::from_millis(100)),
        };
        self.ledger.finish(endpoint, event, at.wall, finish, at);
    }

    fn record(&mut self) {
        for (delivery, succeeded) in std::mem::take(&mut self.recording) {
            self.recorded.insert(delivery);
            self.ended.insert(delivery, succeeded);
            self.ledger.recorded(delivery.0, delivery.1);
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

    fn wish(&mut self, (endpoint, event): Delivery) {
        let recalled = Recalled {
            event,
            event_type: EventType::ScanCreated,
            attempts: 1,
            first_at: self.at().wall,
        };
        if let Recall::Taken { revision, .. } = self.ledger.recall(endpoint, recalled, self.at()) {
            self.wished = true;
            self.came_back.insert((endpoint, event));
            // One that is under way is what was asked for, wherever it ends.
            if !self.in_flight.contains(&(endpoint, event)) {
                self.delivered.remove(&(endpoint, event));
                self.ended.remove(&(endpoint, event));
            }
            self.wishes.insert((endpoint, event), revision);
        }
    }

    fn finish_wishes(&mut self) {
        let ledger = &self.ledger;
        self.wishes
            .retain(|(endpoint, event), revision| !ledger.keeps_recall(*endpoint, *event, *revision));
        self.replay_wishes.retain(|id| !ledger.keeps_replay(*id));
    }

    /// After a crash the pending commands are found again. One whose delivery was made since is known by its row.
    fn repeat_wishes(&mut self) {
        for wish in std::mem::take(&mut self.wishes).into_keys() {
            if !self.delivered.contains(&wish) {
                self.wish(wish);
            }
        }
    }

    /// Sends the next save; while the outcome of one is unknown, only the question what became of it.
    pub(super) fn plan(&mut self, hold: Duration) {
        if self.sending.is_some() {
            return;
        }
        let now = self.at().now;
        if self.held.is_unresolved() {
            self.sending = Some((self.held.next(now), None));
            return;
        }
        if let Some(plan) = self.ledger.plan(now, hold) {
            assert!(plan.delta.bytes() <= limits::CHECKPOINT_BYTES_MAX);
            for chunk in &plan.chunks {
                let before = self.chunks.insert(chunk.name, chunk.body.to_vec());
                assert_eq!(before, None, "a chunk's name was used again");
            }
            self.sending = Some((self.held.next(now), Some(plan)));
        }
    }

    /// The store's compare-and-set.
    fn write(&mut self, sending: Sending, plan: Option<&Plan>) -> Cas {
        if self.lease.fence != sending.expected {
            return Cas::Lost(Some(self.lease.clone()));
        }
        self.lease.fence.beat = sending.beat;
        for (key, row) in plan.iter().flat_map(|plan| &plan.delta.rows) {
            match row {
                Some(row) => self.rows.insert(key.clone(), row.clone()),
                None => self.rows.remove(key),
            };
        }
        self.judge();
        Cas::Applied
    }

    /// The store answers what was sent, or does not; then what follows, as the owner does it.
    fn answer_save(&mut self, applied: Applied) {
        let Some((sending, plan)) = self.sending.take() else {
            return;
        };
        let saved = match applied {
            Applied::Yes | Applied::YesAndCrash => {
                let cas = self.write(sending, plan.as_ref());
                if applied == Applied::YesAndCrash {
                    self.crash();
                    return;
                }
                self.held.answered(sending, Some(&cas))
            }
            // A chunk could not be written: nothing was sent.
            Applied::No if plan.is_some() => Saved::Never,
            Applied::No => self.held.answered(sending, None),
            Applied::Lost => {
                self.write(sending, plan.as_ref());
                self.held.answered(sending, None)
            }
            Applied::Late => {
                self.late.push((sending, plan.clone()));
                self.held.answered(sending, None)
            }
        };
        let was_in_doubt = self.in_doubt.is_some();
        let plan = plan.or_else(|| self.in_doubt.take());
        match (saved, plan) {
            (Saved::Applied, Some(plan)) => {
                self.moves.lost_applied += usize::from(was_in_doubt);
                for name in self.ledger.commit(plan) {
                    self.chunks.remove(&name);
                }
                self.finish_wishes();
            }
            (Saved::Never, Some(plan)) => {
                self.moves.lost_never += usize::from(was_in_doubt);
                for name in self.ledger.abort(&plan) {
                    self.chunks.remove(&name);
                }
            }
            (Saved::Unknown, plan) => self.in_doubt = plan,
            (Saved::Applied | Saved::Never, None) => {}
            (Saved::Fenced, _) => panic!("nobody else claims it"),
        }
    }

    /// A write of which nobody expected anything any more arrives.
    fn arrive(&mut self) {
        if let Some((sending, plan)) = self.late.pop() {
            self.write(sending, plan.as_ref());
        }
    }

    fn crash(&mut self) {
        self.reload();
        self.repeat_wishes();
        self.repeat_replay_wishes();
    }

    pub(super) fn edit(&mut self, number: u8, edit: impl FnOnce(&mut Endpoint)) {
        let id = EndpointId::from_bytes([number; 10]);
        if let Some(endpoint) = self.endpoints.get_mut(&id) {
            edit(endpoint);
            endpoint.version += 1;
            self.ledger.subscribe(Arc::new(endpoint.clone()));
        }
    }

    fn delete(&mut self, number: u8) {
        self.edit(number, |endpoint| endpoint.deleted = true);
        self.endpoints.remove(&EndpointId::from_bytes([number; 10]));
    }

    pub(super) fn step(&mut self, op: &Op) {
        let before: BTreeSet<_> = self.ledger.own_runs().collect();
        self.take(op);
        if matches!(op, Op::Crash | Op::Save(Applied::YesAndCrash)) {
            return;
        }
        let after: BTreeSet<_> = self.ledger.own_runs().collect();
        self.moves.left += after.difference(&before).count();
        for endpoint in before.difference(&after) {
            let undone = self
                .ledger
                .subscriber(*endpoint)
                .map(super::super::Subscriber::undone);
            self.moves.rejoined += usize::from(undone.is_some());
            self.moves.rejoined_undone += usize::from(undone.is_some_and(|undone| undone > 0));
        }
    }

    fn take(&mut self, op: &Op) {
        let id = |number: &u8| EndpointId::from_bytes([*number; 10]);
        let at = self.at();
        match op {
            Op::Append { writer, count } => self.append(*writer, Some(*count)),
            Op::Miss(writer) => self.append(*writer, None),
            Op::ReadShared => {
                self.passed += 1;
                let passed = BTreeMap::from([(WriterId::from_u64(1), Seq::new(self.passed))]);
                self.ledger.follow(FOREIGN, &passed, true);
                self.read_shared();
            }
            Op::ReadUndecided(number) => self.read_shared_without(Some(id(number))),
            Op::ReadOwn => self.read_own(),
            Op::AskOwn(number) => self.ask_own(id(number)),
            Op::TellOwn(number) => self.tell_own(id(number)),
            Op::Start => self.start_attempts(),
            Op::End(pick, answer) => self.end_attempt(*pick, *answer),
            Op::Record => self.record(),
            Op::Plan => self.plan(Duration::from_millis(100)),
            Op::Save(applied) => self.answer_save(*applied),
            Op::Arrive => self.arrive(),
            Op::Settle => self.ledger.settle(at.now),
            Op::Report => self.ledger.refresh_backlogs(at.now),
            Op::Wait(ms) => self.elapsed += Duration::from_millis(*ms),
            Op::Pause(number) => self.edit(*number, |endpoint| endpoint.intent = EndpointIntent::Paused),
            Op::Resume(number) => self.edit(*number, |endpoint| endpoint.intent = EndpointIntent::Active),
            Op::Disable(number) => {
                self.ledger
                    .observe(id(number), Sign::Gone, fixture::answer(410), at.wall);
            }
            Op::Enable(number) => self.edit(*number, |endpoint| endpoint.enabled_epoch += 1),
            Op::Hold(number, ms) => self.ledger.hold(id(number), Duration::from_millis(*ms), at),
            Op::Pace(number) => drop(self.paced.insert(id(number))),
            Op::Unpace(number) => drop(self.paced.remove(&id(number))),
            Op::Delete(number) => self.delete(*number),
            Op::Skip(number) => self.skip(*number),
            Op::GiveUpSkipped => self.give_up_skipped(),
            Op::Recall(pick) => self.recall(*pick),
            Op::Replay(number) => self.begin_replay(id(number)),
            Op::CancelReplay(pick) => self.cancel_replay(*pick),
            Op::ReadReplays => self.read_replays(),
            Op::Crash => self.crash(),
        }
    }

    /// Everything works from now on: delivers what is owed.
    pub(super) fn drain(&mut self) {
        for number in 1..=ENDPOINTS {
            self.edit(number, |endpoint| {
                endpoint.intent = EndpointIntent::Active;
                endpoint.enabled_epoch += 1;
            });
        }
        self.paced.clear();
        for _ in 0..10_000 {
            self.read_shared();
            self.own_reads.clear();
            self.read_own();
            self.read_replays();
            self.start_attempts();
            while !self.in_flight.is_empty() {
                self.end_attempt(0, Answer::Ok);
                self.start_attempts();
            }
            self.record();
            self.plan(Duration::ZERO);
            let saved_all = self.sending.is_none();
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
        read_all
            && self.ledger.undone() == 0
            && self.ledger.own_runs().count() == 0
            && self.ledger.replays_running().len() == 0
    }

    pub(super) fn check(&self) {
        let all = self.batches(&Cursor::default(), &self.ledger.shared().read);
        let all: Vec<_> = all.into_iter().flat_map(|(_, _, events)| events).collect();
        let counted = all.iter().filter(|event| event.partition != OTHER);
        let scans = u64::try_from(counted.count()).unwrap();
        let expected: BTreeSet<Delivery> = self
            .endpoints
            .keys()
            .flat_map(|endpoint| all.iter().map(|event| (*endpoint, *event)))
            .collect();
        let missing: Vec<_> = expected
            .iter()
            .filter(|delivery| !self.ended.contains_key(delivery))
            .collect();
        assert!(missing.is_empty(), "lost: {missing:?}");
        assert!(
            self.rows.keys().all(|key| key.kind != RowKind::Chunk),
            "chunks stay behind: {:?}",
            self.rows
        );
        self.check_replays();
        let usage = self.rows.iter().find(|(key, _)| key.kind == RowKind::Usage);
        let usage: UsageCounts = usage
            .map(|(_, row)| serde_json::from_str(row).unwrap())
            .unwrap_or_default();
        assert_eq!(usage.events, scans, "scans are counted exactly");
        if self.endpoints.len() == usize::from(ENDPOINTS) {
            let succeeded = self.ended.values().filter(|succeeded| **succeeded).count();
            let deliveries = u64::try_from(succeeded).unwrap();
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

/// The code that an event of the log is of: one of two.
fn code(event: EventAddress) -> CodeId {
    let number = (event.seq.as_u64() + u64::from(event.index)) % 2;
    CodeId::from_bytes([u8::try_from(number).unwrap(); 10])
}

const OWNER: OwnerId = OwnerId::from_bytes([9; 10]);

fn claimed(epoch: u64) -> Lease {
    Lease {
        fence: Fence { epoch, beat: 0 },
        owner: Some(OWNER),
        addr: String::new(),
    }
}

/// How an attempt ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum Answer {
    Ok,
    Failed,
    /// For good.
    GivenUp,
    /// Through trouble of our own.
    Ours,
    NotSent,
}

/// What becomes of a save.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Applied {
    Yes,
    No,
    /// It is in the store; nobody was told.
    Lost,
    /// Nobody was told, and it is still on its way.
    Late,
    YesAndCrash,
}

#[derive(Clone, Debug)]
pub(super) enum Op {
    Append {
        writer: u64,
        count: u16,
    },
    /// A batch that is missing below the head: given up as a gap.
    Miss(u64),
    ReadShared,
    /// The filter of an endpoint cost too much to be judged.
    ReadUndecided(u8),
    ReadOwn,
    AskOwn(u8),
    TellOwn(u8),
    Start,
    End(usize, Answer),
    Record,
    Plan,
    Save(Applied),
    /// A write of unknown outcome reaches the store at last.
    Arrive,
    Settle,
    Report,
    Wait(u64),
    Pause(u8),
    Resume(u8),
    /// Its receiver wants no more.
    Disable(u8),
    Enable(u8),
    /// Its receiver asks for a pause.
    Hold(u8, u64),
    /// A rate limit keeps it back.
    Pace(u8),
    Unpace(u8),
    Delete(u8),
    /// Its tenant wants nothing of what waits.
    Skip(u8),
    GiveUpSkipped,
    Recall(usize),
    Replay(u8),
    CancelReplay(usize),
    ReadReplays,
    Crash,
}

pub(super) fn op() -> impl Strategy<Value = Op> {
    let answer = prop_oneof![
        8 => Just(Answer::Ok),
        3 => Just(Answer::Failed),
        1 => Just(Answer::GivenUp),
        1 => Just(Answer::Ours),
        1 => Just(Answer::NotSent),
    ];
    let applied = prop_oneof![
        8 => Just(Applied::Yes),
        2 => Just(Applied::No),
        2 => Just(Applied::Lost),
        2 => Just(Applied::Late),
        1 => Just(Applied::YesAndCrash),
    ];
    let endpoint = || 1..=ENDPOINTS;
    prop_oneof![
        // Few enough events that endpoints catch up, and rejoin, now and then.
        3 => (1..=STREAMS, 0_u16..3).prop_map(|(writer, count)| Op::Append { writer, count }),
        1 => (1..=STREAMS).prop_map(Op::Miss),
        8 => Just(Op::ReadShared),
        1 => endpoint().prop_map(Op::ReadUndecided),
        9 => Just(Op::ReadOwn),
        3 => endpoint().prop_map(Op::AskOwn),
        3 => endpoint().prop_map(Op::TellOwn),
        12 => Just(Op::Start),
        25 => (any::<usize>(), answer).prop_map(|(pick, answer)| Op::End(pick, answer)),
        8 => Just(Op::Record),
        7 => Just(Op::Plan),
        8 => applied.prop_map(Op::Save),
        2 => Just(Op::Arrive),
        6 => Just(Op::Settle),
        1 => Just(Op::Report),
        5 => (1_u64..1300).prop_map(Op::Wait),
        1 => endpoint().prop_map(Op::Pause),
        3 => endpoint().prop_map(Op::Resume),
        1 => endpoint().prop_map(Op::Disable),
        3 => endpoint().prop_map(Op::Enable),
        1 => (endpoint(), 1_u64..3000).prop_map(|(number, ms)| Op::Hold(number, ms)),
        1 => endpoint().prop_map(Op::Pace),
        3 => endpoint().prop_map(Op::Unpace),
        1 => Just(Op::Crash),
    ]
}

pub(super) fn op_or_recall() -> impl Strategy<Value = Op> {
    prop_oneof![12 => op(), 3 => any::<usize>().prop_map(Op::Recall)]
}

pub(super) fn op_or_replay() -> impl Strategy<Value = Op> {
    prop_oneof![
        24 => op_or_recall(),
        2 => (1..=ENDPOINTS).prop_map(Op::Replay),
        1 => any::<usize>().prop_map(Op::CancelReplay),
        8 => Just(Op::ReadReplays),
    ]
}

pub(super) fn op_or_skip() -> impl Strategy<Value = Op> {
    prop_oneof![
        24 => op_or_replay(),
        2 => (1..=ENDPOINTS).prop_map(Op::Skip),
        2 => Just(Op::GiveUpSkipped),
    ]
}

pub(super) fn stream(writer: u64) -> Stream {
    Stream {
        partition: if writer == STREAMS {
            OTHER
        } else {
            PartitionId::new(0)
        },
        writer: WriterId::from_u64(writer),
    }
}
