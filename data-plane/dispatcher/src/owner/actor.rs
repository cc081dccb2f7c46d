//! The task that owns all state of a partition.
//!
//! A loop: do what can be done now ([`Actor::advance`]), then wait for a message or the next moment at which
//! something is due. It never waits for the store or a receiver itself.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use qrelay_store::{
    Timestamp,
    id::{CommandId, ConfigSeq, EndpointId, EventAddress, PartitionId, ReplayId, Seq},
    limits,
    model::{Endpoint, Tenant},
    reader::end_of_gap,
    store::{AttemptRow, Cas, Command, Result, SharedStore, StoreError},
};
use tokio::{
    sync::{mpsc, watch},
    task::{AbortHandle, JoinError, JoinSet},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    Shard, answered,
    commands::Asked,
    followed::Followed,
    reader::{LogReader, NEWS_MAX, News, see},
    saving::Answer,
    skips::{PassedOver, Told, passed_over},
};
use crate::{
    attempt::Over,
    config::DRAIN_DEADLINE_DEFAULT,
    cursor::Stream,
    filters::{Asking, Budget},
    lease::{Held, LOOK_WAIT, Sending},
    ledger::{
        Ledger,
        abroad::{ABROAD_FOR, Abroad},
        feed::SeenBatch,
        plan::Plan,
        replay::ReplayStep,
        sending::Job,
    },
    metrics,
    turns::Turns,
};

/// How often lagging endpoints are looked for.
pub(super) const SETTLE_PERIOD: Duration = Duration::from_millis(200);
/// How often backlogs and gauges are brought up to date.
const REPORT_PERIOD: Duration = Duration::from_secs(1);
/// How far beyond its deadline a drain may go for its last rows and saves.
const CLOSE_MARGIN: Duration = Duration::from_secs(2);

/// So long a hand-over waits for more to be saved; what is not is repeated.
const HAND_OVER_WAIT: Duration = Duration::from_secs(1);

/// What an event takes in the log at least: an own run reads about as many at once as its window has.
const OWN_READ_EVENT_BYTES: usize = 200;
/// Of what came back, so many are taken before whose turn it is, what to save and what else is due are looked at again.
const JOINED_AT_ONCE: usize = 64;

/// How an owner ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// It was stopped, and gave the lease back if it could.
    Stopped,
    /// Somebody else has the lease.
    Fenced,
    /// It gave the lease back to somebody who asked for it.
    HandedOver,
}

/// What a task brings back.
pub(super) enum Done {
    /// The log reader ended, which it does only with its owner.
    Reader,
    /// An attempt of a delivery.
    Attempt(Box<(Job, Over)>),
    /// A test.
    Test(Box<(Command, Arc<Endpoint>, EventAddress, Over)>),
    /// An own run's read.
    OwnRead(EndpointId, Stream, Result<OwnRead>),
    /// A replay's read, for this version of its endpoint.
    ReplayRead(ReplayId, u64, Result<Vec<ReplayStep>>),
    /// Rows of the attempt log: those that end a delivery.
    Recorded(Result<Vec<(EndpointId, EventAddress)>, Vec<AttemptRow>>),
    /// A save.
    Saved(Sending, Option<Box<Plan>>, Answer),
    /// Commands that wait.
    Commands(Result<Vec<Asked>>),
    /// A command's result was put down, or not.
    Finished(CommandId, Result<()>),
    /// A change of an endpoint's health was announced, or not.
    Announced(EndpointId, u64, Result<Option<ConfigSeq>>),
    /// Something that nobody waits for.
    Nothing,
    /// The lease was given back, or not.
    Released(Result<Cas>),
    /// What the attempt log knows of attempts that were under way when the partition was taken over.
    Abroad(Vec<(Abroad, Option<AttemptRow>)>),
}

/// What an own run's read brought.
pub(super) enum OwnRead {
    /// Batches in order, judged for this version of the endpoint.
    Batches(u64, Vec<SeenBatch>),
    /// What stood from the first of these to the second is gone.
    Gone(Seq, Seq),
    /// Nothing but what this version of the endpoint skips.
    Skipped(u64, PassedOver),
}

/// Whether the owner is being stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mode {
    Running,
    /// Nothing new is started. Exchanges may go on until the instant.
    Draining(Instant),
    /// Nothing new is started, and what has not begun does not begin any more. What is under way is being saved.
    HandingOver(Instant),
    /// All is saved; the lease is being given back.
    Releasing,
    /// The lease is another's. What is under way ends and is recorded, until the instant at the latest.
    Left(Instant),
}

/// The owner of one partition.
pub(super) struct Actor {
    pub(super) shard: Arc<Shard>,
    pub(super) partition: PartitionId,
    pub(super) ledger: Ledger,
    pub(super) held: Held,
    /// Until when a request's first byte may be sent.
    pub(super) until: watch::Sender<Instant>,
    pub(super) work: JoinSet<Done>,
    pub(super) mode: Mode,
    pub(super) end: Option<End>,
    news: mpsc::Receiver<News>,
    /// Batches that can be matched only between saves, and what follows them.
    parked: VecDeque<SeenBatch>,
    reader: AbortHandle,
    pub(super) turns: Turns,
    pub(super) exchanges: usize,
    // Own runs: those that may want to read on, and those that do.
    own_turns: VecDeque<EndpointId>,
    in_own_turns: HashSet<EndpointId>,
    own_reading: HashSet<EndpointId>,
    /// What the delivery log says of what they pass over, and how far they go once it says so.
    pub(super) told: HashMap<(EndpointId, Stream), Told>,
    pub(super) passing: HashMap<(EndpointId, EventAddress), (Stream, Seq)>,
    // Replays: when they are looked at, their reads under way, and whose was the last.
    pub(super) replays_due: Instant,
    pub(super) replay_reads: HashSet<ReplayId>,
    /// Those that could not go on just now are left alone until then.
    pub(super) replay_pauses: HashMap<ReplayId, Instant>,
    pub(super) replay_read_last: Option<ReplayId>,
    /// Wishes that were taken and are not saved yet.
    pub(super) replay_wishes: HashMap<CommandId, ReplayId>,
    // The attempt log.
    pub(super) rows: Vec<AttemptRow>,
    /// Rows that wait for a save, each until the instant at the latest.
    pub(super) held_rows: Vec<(Instant, AttemptRow)>,
    pub(super) rows_due: Instant,
    pub(super) recording: bool,
    // Saves.
    pub(super) saving: bool,
    pub(super) in_doubt: Option<Box<Plan>>,
    pub(super) save_at: Instant,
    /// The last look found nothing to save; cleared by the next event.
    pub(super) looked_in_vain: bool,
    /// When the last save with something in it was sent.
    pub(super) sent_at: Option<Instant>,
    /// The last look found nothing to save, and nothing happened since.
    pub(super) nothing_to_save: bool,
    // Commands.
    pub(super) commands_due: Instant,
    pub(super) commands_polled: bool,
    pub(super) known_commands: HashSet<CommandId>,
    pub(super) tests: VecDeque<Command>,
    /// Tests that were made and whose rows are not recorded yet, by their event.
    pub(super) unrecorded_tests: HashMap<EventAddress, (CommandId, AttemptRow)>,
    /// Results of commands that are being put down.
    pub(super) finishing: usize,
    /// Retries that were taken and are not saved yet: which delivery, as of which revision.
    pub(super) retries: HashMap<CommandId, (EndpointId, EventAddress, u32)>,
    // Announcements of health: when to look, and those on their way.
    pub(super) announce_at: Instant,
    pub(super) announcing: HashSet<EndpointId>,
    // What was under way when the partition was taken over: when to look, and until when.
    pub(super) abroad: Vec<Abroad>,
    pub(super) abroad_at: Instant,
    pub(super) abroad_until: Instant,
    /// Whether the lease goes to another one, and the partition's owner ends later.
    hands_over: bool,
    settle_at: Instant,
    report_at: Instant,
}

impl Actor {
    pub(super) fn new(shard: Arc<Shard>, mut ledger: Ledger, tenants: &[Arc<Tenant>], held: Held) -> Self {
        let (sender, news) = mpsc::channel(NEWS_MAX);
        let store = Arc::clone(&shard.store);
        let events = (shard.sender.bodies.clone(), shard.filters.clone());
        let partition = ledger.partition();
        let mut asking = Asking::default();
        ledger
            .subscribers()
            .for_each(|subscriber| asking.learn(&subscriber.config));
        let followed = followed(&store, &mut ledger, tenants);
        let read = &ledger.shared().read;
        let reader = LogReader::new(store, events, (partition, followed), read, asking, sender);
        let mut work = JoinSet::new();
        let reader = work.spawn(async move {
            reader.run().await;
            Done::Reader
        });
        let (now, abroad) = (Instant::now(), ledger.take_abroad());
        let mut actor = Self {
            until: watch::Sender::new(held.start_until()),
            turns: Turns::new(shard.permits.clone()),
            shard,
            partition,
            ledger,
            held,
            work,
            mode: Mode::Running,
            end: None,
            news,
            parked: VecDeque::new(),
            reader,
            exchanges: 0,
            own_turns: VecDeque::new(),
            in_own_turns: HashSet::new(),
            own_reading: HashSet::new(),
            told: HashMap::new(),
            passing: HashMap::new(),
            replays_due: now,
            replay_reads: HashSet::new(),
            replay_pauses: HashMap::new(),
            replay_read_last: None,
            replay_wishes: HashMap::new(),
            rows: Vec::new(),
            held_rows: Vec::new(),
            rows_due: now,
            recording: false,
            saving: false,
            in_doubt: None,
            save_at: now,
            looked_in_vain: false,
            sent_at: None,
            nothing_to_save: false,
            commands_due: now,
            commands_polled: false,
            known_commands: HashSet::new(),
            tests: VecDeque::new(),
            unrecorded_tests: HashMap::new(),
            finishing: 0,
            retries: HashMap::new(),
            announce_at: now,
            announcing: HashSet::new(),
            abroad,
            abroad_at: now,
            abroad_until: now + ABROAD_FOR,
            hands_over: false,
            settle_at: now,
            report_at: now,
        };
        actor.limit(tenants);
        actor
    }

    /// Limits count from the claim on, so that an endpoint's first permit is due one period later, and not after its first
    /// event.
    fn limit(&mut self, tenants: &[Arc<Tenant>]) {
        let (paces, here) = (&mut self.turns.paces, self.partition);
        tenants.iter().for_each(|tenant| paces.limit_tenant(tenant, here));
        let endpoints: Vec<_> = self.ledger.subscribers().map(|known| known.config.id).collect();
        for endpoint in endpoints {
            drop(paces.of(&self.ledger, endpoint));
        }
    }

    /// Runs until stopped or fenced. Dropping it cuts everything that is under way.
    pub(super) async fn run(mut self, stop: &CancellationToken) -> End {
        let hints = self.shard.store.hints().partition(self.partition);
        let (mut commands, mut freed) = (hints.commands(), self.shard.permits.freed());
        let mut members = self.shard.members.looked();
        loop {
            self.advance();
            if let Some(end) = self.end {
                return end;
            }
            let wake = self.next_wake();
            let reads = self.mode == Mode::Running && self.parked.is_empty() && self.ledger.may_read();
            tokio::select! {
                // What is seldom comes first. What came back from tasks is taken below in any case.
                biased;
                Ok(()) = members.changed(), if self.mode == Mode::Running => {
                    if self.shard.members.is_asked(self.partition) {
                        self.hand_over();
                    }
                }
                () = stop.cancelled(), if self.mode == Mode::Running => {
                    if self.shard.members.has_others() {
                        self.hand_over();
                    } else {
                        self.drain();
                    }
                }
                Ok(()) = commands.changed() => self.commands_due = Instant::now(),
                Some(news) = self.news.recv(), if reads => self.learn(news),
                Ok(()) = freed.changed(), if self.turns.starved => self.turns.starved = false,
                Some(done) = self.work.join_next() => self.take_joined(done),
                () = sleep_until(wake) => {}
            }
            // What came back meanwhile is taken together: a look at whose turn it is costs more than each of them.
            for _ in 0..JOINED_AT_ONCE {
                match self.work.try_join_next() {
                    Some(done) => self.take_joined(done),
                    None => break,
                }
            }
        }
    }

    fn take_joined(&mut self, done: Result<Done, JoinError>) {
        match done {
            Ok(done) => self.take(done),
            // Only an aborted reader is cancelled; a panic is a bug of ours.
            Err(error) if error.is_cancelled() => {}
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    /// Does all that can be done now.
    fn advance(&mut self) {
        let now = Instant::now();
        if now >= self.settle_at {
            self.settle_at = now + SETTLE_PERIOD;
            self.ledger.settle(now);
            for endpoint in self.ledger.own_runs().collect::<Vec<_>>() {
                self.look_at_own_run(endpoint);
            }
        }
        if self.held_rows.first().is_some_and(|(until, _)| *until <= now) {
            self.release_kept_rows(now);
        }
        if now >= self.report_at {
            self.report_at = now + REPORT_PERIOD;
            self.ledger.refresh_backlogs(now);
            self.turns.paces.forget_idle(&self.ledger);
            self.forget_replays();
            self.nothing_to_save = false;
            metrics::waiting(
                self.partition,
                self.ledger.waiting(),
                self.ledger.oldest_fresh(now),
            );
        }
        if self.mode == Mode::Running {
            self.give_up_skipped();
            self.read_own_runs(now);
            self.read_replays(now);
            self.poll_commands(now);
            self.announce(now);
            self.look_abroad(now);
            self.take_turns(now);
        }
        self.record_rows(now);
        self.save(now);
        self.close(now);
    }

    /// When something is due, at the latest.
    fn next_wake(&self) -> Instant {
        let mut wake = self.report_at;
        if self.ledger.undone() > 0 || self.ledger.own_runs().next().is_some() {
            wake = wake.min(self.settle_at);
        }
        if !self.saving && !matches!(self.mode, Mode::Releasing | Mode::Left(_)) {
            wake = wake.min(self.next_save());
        }
        if !self.rows.is_empty() && !self.recording {
            wake = wake.min(self.rows_due);
        }
        if let Some((until, _)) = self.held_rows.first() {
            wake = wake.min(*until);
        }
        match self.mode {
            Mode::Running => {
                wake = wake.min(self.commands_due);
                if self.ledger.replays_running().len() > 0 {
                    wake = wake.min(self.replays_due);
                }
                if self.ledger.has_unannounced() {
                    wake = wake.min(self.announce_at);
                }
                if let Some(at) = self.turns.next_wake() {
                    wake = wake.min(at);
                }
                if !self.abroad.is_empty() {
                    wake = wake.min(self.abroad_at);
                }
            }
            Mode::Draining(deadline) | Mode::Left(deadline) => wake = wake.min(deadline),
            Mode::HandingOver(deadline) if Instant::now() < deadline => wake = wake.min(deadline),
            Mode::HandingOver(deadline) => wake = wake.min(deadline + DRAIN_DEADLINE_DEFAULT),
            Mode::Releasing => {}
        }
        // A moment that has passed and still could not be used (the store is busy) must not spin.
        wake.max(Instant::now() + Duration::from_millis(1))
    }

    fn learn(&mut self, news: News) {
        self.save_soon();
        match news {
            News::Config {
                endpoints,
                tenants,
                batch,
            } => {
                for tenant in &tenants {
                    self.turns.paces.limit_tenant(tenant, self.partition);
                    self.ledger.learn_tenant(tenant);
                }
                for endpoint in endpoints {
                    let id = endpoint.id;
                    self.ledger.subscribe(endpoint);
                    // A limit that is new counts from here.
                    drop(self.turns.paces.of(&self.ledger, id));
                }
                self.parked.push_back(batch);
                self.match_parked();
            }
            News::Batches(batches) => {
                self.parked.extend(batches);
                self.match_parked();
            }
            News::Gap(stream, through) => self.ledger.skip_shared(stream, through),
            News::Followed(told) => self.ledger.follow(told.partition, &told.passed, told.level),
            News::Writers(writers) => {
                let of = |stream: Stream| writers.get(&stream.partition);
                let known = |stream: Stream| {
                    stream == Stream::CONFIG || of(stream).is_some_and(|it| it.contains(&stream.writer))
                };
                // Retention took their batches while these lagged. Were they forgotten now, nobody would ever tell.
                for (endpoint, stream, after, through) in self.ledger.left_behind(known) {
                    self.give_up_gone(endpoint, stream, after.next(), through);
                    self.ledger.skip_own(endpoint, stream, through);
                }
                self.ledger.forget_streams(known);
                self.ledger
                    .follow_only(|partition| writers.contains_key(&partition));
            }
        }
    }

    /// Matches what was read, in order. What makes an endpoint leave the shared run waits until no save is under way, and
    /// nothing more is read until then.
    pub(super) fn match_parked(&mut self) {
        let at = self.shard.moment();
        while let Some(batch) = self.parked.pop_front() {
            if self.ledger.must_wait(&batch) {
                self.parked.push_front(batch);
                return;
            }
            metrics::matched(self.ledger.feed_shared(batch, at));
        }
    }

    fn take(&mut self, done: Done) {
        match done {
            Done::Reader | Done::Nothing => {}
            Done::Attempt(attempt) => {
                let (job, over) = *attempt;
                self.exchanges -= 1;
                self.end_attempt(job, over);
            }
            Done::Test(test) => {
                let (command, endpoint, event, over) = *test;
                self.exchanges -= 1;
                self.end_test(command, &endpoint, event, over);
            }
            Done::OwnRead(endpoint, stream, read) => self.end_own_read(endpoint, stream, read),
            Done::ReplayRead(id, version, read) => self.end_replay_read(id, version, read),
            Done::Recorded(result) => self.end_recording(result),
            Done::Saved(sending, plan, answer) => self.end_save(sending, plan, answer),
            Done::Commands(commands) => self.take_commands(commands),
            Done::Finished(command, result) => self.command_finished(command, result),
            Done::Announced(endpoint, version, result) => self.end_announcement(endpoint, version, result),
            Done::Abroad(looked) => self.end_look_abroad(looked),
            Done::Released(result) => {
                match result {
                    Ok(Cas::Applied) => {
                        tracing::info!(partition = %self.partition, "gave the partition back")
                    }
                    Ok(Cas::Lost(_)) => {
                        tracing::warn!(partition = %self.partition, "the lease was lost before it was given back")
                    }
                    Err(error) => {
                        tracing::warn!(partition = %self.partition, %error, "cannot give the lease back; it ends by itself")
                    }
                }
                if self.hands_over {
                    self.mode = Mode::Left(Instant::now() + ABROAD_FOR);
                    self.release_all_rows();
                } else {
                    self.end = Some(End::Stopped);
                }
            }
        }
    }

    // ---- Own runs ----

    /// Something changed that may let an endpoint's own run read on.
    pub(super) fn look_at_own_run(&mut self, endpoint: EndpointId) {
        if self.ledger.has_own_run(endpoint) && self.in_own_turns.insert(endpoint) {
            self.own_turns.push_back(endpoint);
        }
    }

    fn read_own_runs(&mut self, now: Instant) {
        while self.own_reading.len() < limits::OWN_READS_MAX {
            let Some(endpoint) = self.own_turns.pop_front() else {
                return;
            };
            self.in_own_turns.remove(&endpoint);
            if self.own_reading.contains(&endpoint) {
                continue;
            }
            let Some((stream, after, through)) = self.ledger.own_wants(endpoint, now) else {
                continue;
            };
            let Some(config) = self
                .ledger
                .subscriber(endpoint)
                .map(|subscriber| Arc::clone(&subscriber.config))
            else {
                continue;
            };
            self.own_reading.insert(endpoint);
            let shard = Arc::clone(&self.shard);
            let bytes_max = self.ledger.own_window().saturating_mul(OWN_READ_EVENT_BYTES);
            let read_max = limits::READ_BYTES_MAX / 4;
            let passes_over = self.ledger.passes_over(endpoint);
            let bytes_max = if passes_over {
                read_max
            } else {
                bytes_max.min(read_max)
            };
            self.work.spawn(async move {
                let read = read_own(&shard, &config, stream, (after, through), bytes_max).await;
                Done::OwnRead(endpoint, stream, read)
            });
        }
    }

    fn end_own_read(&mut self, endpoint: EndpointId, stream: Stream, read: Result<OwnRead>) {
        self.own_reading.remove(&endpoint);
        let at = self.shard.moment();
        match read {
            Ok(OwnRead::Batches(version, _)) if self.is_misjudged(endpoint, version) => {
                // Its filter is another one by now: it is read again.
            }
            Ok(OwnRead::Skipped(version, passed)) => {
                if self.pass_over(endpoint, stream, version, passed) {
                    self.own_reading.insert(endpoint);
                    return;
                }
            }
            Ok(OwnRead::Batches(_, batches)) => {
                batches
                    .iter()
                    .for_each(|batch| self.ledger.feed_own(endpoint, batch, at));
            }
            Ok(OwnRead::Gone(first, through)) => {
                self.give_up_gone(endpoint, stream, first, through);
                self.ledger.skip_own(endpoint, stream, through);
            }
            Err(error) => {
                // The next look at lagging endpoints tries again.
                tracing::warn!(partition = %self.partition, %endpoint, %error, "cannot read for a lagging endpoint; trying again");
                return;
            }
        }
        self.own_read_over(endpoint);
    }

    /// An own run's position moved: it may read on, or be level.
    pub(super) fn own_read_over(&mut self, endpoint: EndpointId) {
        self.own_reading.remove(&endpoint);
        self.ledger.settle_one(endpoint, Instant::now());
        self.look_at_own_run(endpoint);
    }

    /// Whether batches that were judged for a version of the endpoint are not what its filter asks now.
    fn is_misjudged(&self, endpoint: EndpointId, version: u64) -> bool {
        let subscriber = self.ledger.subscriber(endpoint);
        subscriber.is_some_and(|subscriber| {
            subscriber.config.version != version && subscriber.config.filter.needs_code()
        })
    }

    // ---- The end ----

    fn drain(&mut self) {
        self.reader.abort();
        self.mode = Mode::Draining(Instant::now() + self.shard.config.drain_deadline);
        self.save_at = Instant::now();
        tracing::debug!(partition = %self.partition, exchanges = self.exchanges, "draining");
    }

    /// Gives the partition to another one at once. What is under way goes on, and is saved as what somebody else finishes
    /// and records.
    fn hand_over(&mut self) {
        let now = Instant::now();
        self.reader.abort();
        self.hands_over = true;
        self.mode = Mode::HandingOver(now + HAND_OVER_WAIT);
        // From here on no request begins, so that the limits are the next owner's alone.
        self.until.send_replace(now);
        self.ledger.depart(self.wall().after(ABROAD_FOR));
        self.nothing_to_save = false;
        self.save_at = now;
        tracing::debug!(partition = %self.partition, exchanges = self.exchanges, "handing over");
    }

    /// Gives the lease back once everything is over or saved.
    fn close(&mut self, now: Instant) {
        match self.mode {
            Mode::Draining(deadline) => self.close_drained(deadline, now),
            Mode::HandingOver(deadline) => {
                if self.saving || self.held.is_unresolved() {
                    if now >= deadline + DRAIN_DEADLINE_DEFAULT {
                        tracing::warn!(partition = %self.partition, "stopped without a last save; what it would have held is repeated");
                        self.end = Some(End::HandedOver);
                    }
                    return;
                }
                // What ends meanwhile would always leave something to save.
                if self.nothing_to_save || now >= deadline {
                    self.release();
                } else {
                    self.save_at = now;
                }
            }
            Mode::Left(deadline) => {
                let recorded = self.rows.is_empty() && !self.recording && self.finishing == 0;
                if (self.exchanges == 0 && recorded) || now >= deadline {
                    self.end = Some(End::HandedOver);
                }
            }
            Mode::Running | Mode::Releasing => {}
        }
    }

    fn close_drained(&mut self, deadline: Instant, now: Instant) {
        if now >= deadline + CLOSE_MARGIN {
            tracing::warn!(partition = %self.partition, "stopped without a last save; what it would have held is repeated");
            self.end = Some(End::Stopped);
            return;
        }
        let over = self.exchanges == 0 || now >= deadline;
        let recorded = self.rows.is_empty() && self.held_rows.is_empty() && !self.recording;
        if !over || !recorded || self.finishing > 0 || self.saving || self.held.is_unresolved() {
            return;
        }
        if !self.nothing_to_save {
            self.save_at = now;
            return;
        }
        self.release();
    }

    fn release(&mut self) {
        self.mode = Mode::Releasing;
        let (expected, lease) = self.held.release();
        let (shard, partition) = (Arc::clone(&self.shard), self.partition);
        self.work.spawn(async move {
            let claim = shard.store.claim(partition, Some(expected), &lease);
            Done::Released(answered(&shard.store, LOOK_WAIT, claim).await)
        });
    }

    pub(super) fn wall(&self) -> Timestamp {
        self.shard.sender.clock.now()
    }
}

/// The partitions beside its own that the owner follows, as the checkpoint and the tenants of its endpoints have it.
fn followed(store: &SharedStore, ledger: &mut Ledger, tenants: &[Arc<Tenant>]) -> Followed {
    let (home, read) = (ledger.partition(), &ledger.shared().read);
    let mut followed = Followed::new(Arc::clone(store), home, ledger.follows(), read);
    let endpoints: Vec<_> = ledger
        .subscribers()
        .map(|known| Arc::clone(&known.config))
        .collect();
    for told in followed.learn(tenants, &endpoints) {
        ledger.follow(told.partition, &told.passed, told.level);
    }
    tenants.iter().for_each(|tenant| ledger.learn_tenant(tenant));
    followed
}

/// Reads on for an own run, at most as far as the shared run was. A batch that is missing there was given up by the
/// shared run, or taken by retention.
async fn read_own(
    shard: &Shard,
    endpoint: &Arc<Endpoint>,
    stream: Stream,
    (after, through): (Seq, Seq),
    bytes_max: usize,
) -> Result<OwnRead> {
    let store = &shard.store;
    if stream == Stream::CONFIG {
        let rows = store
            .config_after(ConfigSeq::new(after.as_u64()), limits::CONFIG_CHANGES_PER_ROW)
            .await?;
        let rows = rows
            .into_iter()
            .filter(|row| row.seq.as_u64() <= through.as_u64());
        let batches: Vec<_> = rows.map(|row| super::reader::see_config(&row)).collect();
        // Its numbers leave nothing out, so that what is missing was taken by retention.
        let before = batches
            .first()
            .map_or(through, |first| Seq::new(first.seq.as_u64() - 1));
        return Ok(if before > after {
            OwnRead::Gone(after.next(), before)
        } else if let Some(passed) = passed_over(endpoint, &batches, shard.sender.clock.now()) {
            OwnRead::Skipped(endpoint.version, passed)
        } else {
            judged(shard, endpoint, batches).await?
        });
    }
    let batches = store
        .read(stream.partition, stream.writer, after, through, bytes_max)
        .await?;
    if batches.is_empty() {
        let gone = end_of_gap(store, stream.partition, stream.writer, (after, through)).await?;
        return Ok(OwnRead::Gone(after.next(), gone));
    }
    let seen = batches.iter().map(|batch| see(batch, PartitionId::TEST));
    let seen: Vec<_> = seen.collect();
    if let Some(passed) = passed_over(endpoint, &seen, shard.sender.clock.now()) {
        return Ok(OwnRead::Skipped(endpoint.version, passed));
    }
    if endpoint.filter.needs_code() {
        for batch in &batches {
            shard.sender.bodies.keep(batch).await;
        }
    }
    judged(shard, endpoint, seen).await
}

/// Batches with what the endpoint's filter says of them: as many as it judges in its turn, but one at least.
async fn judged(shard: &Shard, endpoint: &Arc<Endpoint>, batches: Vec<SeenBatch>) -> Result<OwnRead> {
    let (mut asking, mut budget) = (Asking::default(), Budget::of_own_run());
    asking.learn(endpoint);
    let mut judged = Vec::with_capacity(batches.len());
    for mut batch in batches {
        shard
            .filters
            .judge(&mut batch, &asking, &mut budget)
            .await
            .map_err(|error| StoreError::Unavailable(error.to_string()))?;
        judged.push(batch);
        if budget.is_turn_over() {
            break;
        }
    }
    Ok(OwnRead::Batches(endpoint.version, judged))
}
