//! The ledger of one partition: what is owed to whom, from the moment an event is read until it is done.
//!
//! Pure: no I/O, no clock. The owner ([`crate::owner`]) feeds it with what it read, asks it what to send, tells it
//! how that went, and saves what it plans. Its one rule is promise 3: **every event that was matched is done, given
//! up with its row acknowledged, outstanding in a saved chunk, or still ahead of the saved cursor of the run that
//! feeds its endpoint.** A crash at any moment falls back on the saved checkpoint, so it repeats, and loses nothing.
//!
//! - [`feed`]: events become deliveries.
//! - [`sending`]: deliveries go out and come back.
//! - [`plan`]: what to save next, and what follows once it is saved; `draft`: within its budget.
//! - [`abroad`]: what is under way when the partition changes hands.
//! - [`recall`]: a delivery is sent again because its tenant asks.
//! - [`replay`]: the events of a range are sent again, beside the live ones.
//! - [`skip`]: what an endpoint that resumes with `now` is not sent.
//! - [`settle`]: endpoints leave the shared run, rejoin it, and are removed.
//! - [`spread`]: tenants whose scans lie in several partitions.
//! - `order`: one code's events one after the other.
//! - [`load`]: from a saved checkpoint.
//! - [`backlog`]: what the control plane is told; `announce`: what subscribers are told of an endpoint's health.
//!
//! While a plan is under way nobody leaves, rejoins or is removed, and deliveries that it saves as outstanding are
//! not completed (their completion is deferred): so what is planned stays true until the store has answered.

pub mod abroad;
mod announce;
pub mod backlog;
mod draft;
pub mod feed;
pub mod load;
mod order;
pub mod plan;
pub mod recall;
pub mod replay;
pub mod sending;
pub mod settle;
pub mod skip;
pub mod spread;

#[cfg(test)]
mod announce_tests;
#[cfg(test)]
mod backlog_tests;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use qrelay_store::{
    Timestamp,
    checkpoint::{EndpointHealth, HealthChange, HealthState},
    event::EventType,
    id::{CodeId, EndpointId, EventAddress, PartitionId, ReplayId, Seq, TenantId},
    limits::{
        FRESH_MAX, FRESH_WHEN_FULL_MAX, OUTSTANDING_PER_ENDPOINT_MAX, OUTSTANDING_PER_PARTITION_MAX,
        OWN_RUN_WINDOW, UNSAVED_BATCHES_MAX, UNSAVED_DELIVERIES_MAX,
    },
    model::{Endpoint, EndpointIntent},
};
use tokio::time::Instant;

use self::{abroad::Abroad, order::Lanes, replay::Replay};
use crate::{
    checkpoint::RunName,
    health,
    outstanding::{ChunkName, Chunks, Part},
    queue::{Class, Queue},
    run::{Queued, Run},
    usage::{Succeeded, UsageDelta, UsageTotals},
};

/// However many endpoints lag, each reads so far ahead: enough for one round of its connections.
const OWN_WINDOW_MIN: usize = 16;

/// Where a delivery stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Read, and waiting for its first turn.
    Fresh,
    /// Waiting for its time, or among the due ones.
    Waiting,
    /// An attempt is under way.
    InFlight,
    /// The last attempt was made; its row is not acknowledged yet.
    Recording(Succeeded),
    /// Waiting for the one before it ([`order`]).
    Behind,
    /// To be given up, because its endpoint skips it ([`skip`]).
    Skipped,
}

/// In which chunk, and as of which revision, a delivery is saved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SavedIn {
    /// The chunk.
    pub chunk: ChunkName,
    /// The entry.
    pub index: u16,
    /// The delivery's revision when the entry was written.
    pub revision: u32,
    /// Whether the entry holds when the first attempt began, and so keeps the delivery's id.
    pub begun: bool,
}

/// One event for one endpoint.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The event's type.
    pub event_type: EventType,
    /// When the event was recorded.
    pub recorded_at: Timestamp,
    /// The code that the event is of, if of one. None for what came back at its tenant's wish: it is in no order.
    pub code: Option<CodeId>,
    /// Attempts made.
    pub attempts: u32,
    /// When the first one began.
    pub first_at: Option<Timestamp>,
    /// When the next one is due.
    pub due: Timestamp,
    /// Where it stands.
    pub phase: Phase,
    /// Moves with every change that a saved entry would show.
    pub revision: u32,
    /// Its saved entry.
    pub saved: Option<SavedIn>,
    /// It came back at its tenant's wish and is in no saved chunk yet: no batch counts it, and nothing is sent.
    pub recalled: bool,
    /// The replay that it belongs to.
    pub replay: Option<Part>,
}

impl Delivery {
    fn queued(&self) -> Queued {
        if self.phase == Phase::Fresh {
            Queued::Yes
        } else {
            Queued::No
        }
    }
}

/// An endpoint's own run.
#[derive(Clone, Debug)]
pub struct Own {
    /// The run.
    pub run: Run,
    /// Events for it that the shared run saw and this one did not.
    pub behind: u64,
    /// When the oldest of them was recorded.
    pub behind_since: Option<Timestamp>,
    /// What comes next was most likely recorded before what its endpoint wants.
    passes_over: bool,
}

/// An endpoint homed in the partition.
#[derive(Clone, Debug)]
pub struct Subscriber {
    /// As its tenant wants it.
    pub config: Arc<Endpoint>,
    /// As we found it.
    pub health: EndpointHealth,
    own: Option<Own>,
    deliveries: HashMap<EventAddress, Delivery>,
    queue: Queue,
    lanes: Lanes,
    /// To be given up: those in [`Phase::Skipped`].
    skip: BTreeSet<EventAddress>,
    in_flight: u32,
    /// The receiver asked not to be asked before.
    hold: Option<(Instant, Timestamp)>,
    /// A rate limit keeps what is due back until then.
    paced: Option<Timestamp>,
    /// Pauses for overload since the last success.
    slowed: u32,
    removed: bool,
    /// Those under way, and the last of those that are over.
    replays: BTreeMap<ReplayId, Replay>,
    /// Of which an attempt was started last.
    replay_last: Option<ReplayId>,
}

impl Subscriber {
    fn new(config: Arc<Endpoint>, health: EndpointHealth) -> Self {
        Self {
            config,
            health,
            own: None,
            deliveries: HashMap::new(),
            queue: Queue::default(),
            lanes: Lanes::default(),
            skip: BTreeSet::new(),
            in_flight: 0,
            hold: None,
            paced: None,
            slowed: 0,
            removed: false,
            replays: BTreeMap::new(),
            replay_last: None,
        }
    }

    /// Whether something could be sent now, were there room for it, by class.
    fn is_ready(&self, class: Class) -> bool {
        !self.is_blocked()
            && self.hold.is_none()
            && self.in_flight < self.concurrency()
            && self.queue.has(class)
    }

    /// Whether nothing is sent to it until its tenant says so.
    pub fn is_blocked(&self) -> bool {
        self.removed
            || self.config.intent == EndpointIntent::Paused
            || self.health.state == HealthState::Disabled
    }

    /// Attempts that may be under way at once.
    pub fn concurrency(&self) -> u32 {
        health::concurrency(&self.health, &self.config)
    }

    /// Attempts under way.
    pub fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// Until when the receiver wants to be left alone.
    pub fn held_until(&self) -> Option<Instant> {
        self.hold.map(|(until, _)| until)
    }

    /// Its own run, if it has one.
    pub fn own(&self) -> Option<&Own> {
        self.own.as_ref()
    }

    /// Deliveries that are not done.
    pub fn undone(&self) -> usize {
        self.deliveries.len()
    }
}

/// A plan's deliveries, while the store has not answered.
#[derive(Clone, Debug, Default)]
struct UnderWay {
    members: HashSet<(EndpointId, EventAddress)>,
    deferred: Vec<(EndpointId, EventAddress)>,
}

/// The ledger.
#[derive(Clone, Debug)]
pub struct Ledger {
    partition: PartitionId,
    epoch: u64,
    next_chunk: u64,
    subscribers: BTreeMap<EndpointId, Subscriber>,
    tenants: HashMap<TenantId, Vec<EndpointId>>,
    shared: Run,
    /// Endpoints with a run of their own.
    own: BTreeSet<EndpointId>,
    chunks: Chunks,
    totals: UsageTotals,
    /// Saved deliveries that changed since.
    dirty: BTreeSet<(EndpointId, EventAddress)>,
    /// Deliveries that came back and must be saved before they are sent.
    recalled: BTreeSet<(EndpointId, EventAddress)>,
    /// Run rows as they stand in the store.
    run_rows: BTreeMap<RunName, String>,
    /// Health rows as they stand in the store.
    health_rows: BTreeMap<EndpointId, String>,
    health_changed: BTreeSet<EndpointId>,
    /// Changes of health that the store has and that were not announced, as it has them.
    unannounced: BTreeMap<EndpointId, HealthChange>,
    /// Replay rows as they stand in the store.
    replay_rows: BTreeMap<ReplayId, String>,
    replays_changed: BTreeSet<ReplayId>,
    replays_running: BTreeSet<ReplayId>,
    under_way: Option<UnderWay>,
    /// Endpoints for which something changed that may let them send.
    woken: BTreeSet<EndpointId>,
    /// Endpoints that skip what nobody has looked for yet, and those that have found some.
    unswept: BTreeSet<EndpointId>,
    skipping: BTreeSet<EndpointId>,
    /// Deliveries that are not done, and those among them that are in no saved chunk.
    undone: usize,
    unsaved: usize,
    /// Those of the unsaved that own runs feed: they stop nobody but their endpoint.
    unsaved_own: usize,
    /// The last plan had no room for even one batch: the next one is for cursors alone.
    starved: bool,
    /// Where the next plan goes on with own runs, and with replays.
    own_turn: Option<EndpointId>,
    replay_turn: Option<ReplayId>,
    /// The partition is being handed over; what is under way is due then.
    leaving: Option<Timestamp>,
    /// What was under way when the partition was handed over to us.
    abroad: Vec<Abroad>,
    /// The partitions of tenants that have more than this one.
    spread: HashMap<TenantId, Vec<PartitionId>>,
    /// The other ones that are followed, and whether an endpoint that is new here is sent nothing of their past.
    follows: BTreeMap<PartitionId, bool>,
}

impl Ledger {
    /// An empty ledger of a partition that was never owned before. `epoch`: of the claim.
    pub fn new(partition: PartitionId, epoch: u64) -> Self {
        Self {
            partition,
            epoch,
            next_chunk: 0,
            subscribers: BTreeMap::new(),
            tenants: HashMap::new(),
            shared: Run::default(),
            own: BTreeSet::new(),
            chunks: Chunks::default(),
            totals: UsageTotals::default(),
            dirty: BTreeSet::new(),
            recalled: BTreeSet::new(),
            run_rows: BTreeMap::new(),
            health_rows: BTreeMap::new(),
            health_changed: BTreeSet::new(),
            unannounced: BTreeMap::new(),
            replay_rows: BTreeMap::new(),
            replays_changed: BTreeSet::new(),
            replays_running: BTreeSet::new(),
            under_way: None,
            woken: BTreeSet::new(),
            unswept: BTreeSet::new(),
            skipping: BTreeSet::new(),
            undone: 0,
            unsaved: 0,
            unsaved_own: 0,
            starved: false,
            own_turn: None,
            replay_turn: None,
            leaving: None,
            abroad: Vec::new(),
            spread: HashMap::new(),
            follows: BTreeMap::new(),
        }
    }

    /// The partition.
    pub fn partition(&self) -> PartitionId {
        self.partition
    }

    /// The shared run.
    pub fn shared(&self) -> &Run {
        &self.shared
    }

    /// An endpoint.
    pub fn subscriber(&self, endpoint: EndpointId) -> Option<&Subscriber> {
        self.subscribers
            .get(&endpoint)
            .filter(|subscriber| !subscriber.removed)
    }

    /// All endpoints.
    pub fn subscribers(&self) -> impl Iterator<Item = &Subscriber> {
        self.subscribers.values().filter(|subscriber| !subscriber.removed)
    }

    /// Whether a tenant has endpoints here.
    pub fn serves(&self, tenant: TenantId) -> bool {
        self.tenants.contains_key(&tenant)
    }

    /// Whether a crash now would keep the delivery's id: the row of its first attempt may be recorded. Also when there
    /// is no such delivery (any more).
    pub fn keeps_its_id(&self, endpoint: EndpointId, event: EventAddress) -> bool {
        let subscriber = self.subscribers.get(&endpoint);
        let delivery = subscriber.and_then(|subscriber| subscriber.deliveries.get(&event));
        delivery.is_none_or(|delivery| delivery.saved.is_some_and(|saved| saved.begun))
    }

    /// Endpoints with a run of their own.
    pub fn own_runs(&self) -> impl Iterator<Item = EndpointId> + '_ {
        self.own.iter().copied()
    }

    /// Whether an endpoint has a run of its own.
    pub fn has_own_run(&self, endpoint: EndpointId) -> bool {
        self.own.contains(&endpoint)
    }

    /// Endpoints for which something changed that may let them send, since the last call.
    pub fn take_woken(&mut self) -> BTreeSet<EndpointId> {
        std::mem::take(&mut self.woken)
    }

    /// Deliveries that are not done.
    pub fn undone(&self) -> usize {
        self.undone
    }

    /// Takes in an endpoint as its tenant wants it now. A new one joins the shared run; one that is paused, or is
    /// homed elsewhere or deleted, is dealt with when nothing is being saved ([`settle`]).
    pub fn subscribe(&mut self, config: Arc<Endpoint>) {
        let id = config.id;
        if config.deleted || config.home != self.partition {
            if let Some(subscriber) = self.subscribers.get_mut(&id) {
                subscriber.removed = true;
            }
            return;
        }
        let tenant = config.tenant;
        let known = self.subscribers.get(&id);
        let skipped_before = known.and_then(|known| known.config.skip_before);
        if config.skip_before.is_some() && config.skip_before != skipped_before {
            self.unswept.insert(id);
        }
        match self.subscribers.get_mut(&id) {
            Some(known) if known.config.version >= config.version => return,
            Some(known) => known.config = config,
            None => {
                let health = EndpointHealth {
                    enabled_epoch: config.enabled_epoch,
                    ..EndpointHealth::default()
                };
                self.subscribers.insert(id, Subscriber::new(config, health));
                self.tenants.entry(tenant).or_default().push(id);
            }
        }
        let subscriber = self
            .subscribers
            .get_mut(&id)
            .expect("invariant: it was just put there");
        let config = Arc::clone(&subscriber.config);
        let enabled_epoch = subscriber.health.enabled_epoch;
        health::enable(&mut subscriber.health, &config);
        if subscriber.health.enabled_epoch != enabled_epoch {
            // What the receiver asked for before its tenant set it active again holds no more.
            subscriber.hold = None;
        }
        self.health_changed.insert(id);
        self.woken.insert(id);
    }

    /// What lagging endpoints have not read of streams that are not `known` any more, and never will: whose, and after
    /// which batch through which.
    pub fn left_behind(
        &self,
        known: impl Fn(crate::cursor::Stream) -> bool,
    ) -> Vec<(EndpointId, crate::cursor::Stream, Seq, Seq)> {
        let gone = |tenant: TenantId, own: &Own| {
            let read = own.run.read.clone();
            let lost = |stream: crate::cursor::Stream| !known(stream) && self.concerns(tenant, stream);
            let behind = self.shared.read.iter().filter(|(stream, _)| lost(*stream));
            let behind: Vec<_> = behind
                .map(|(stream, through)| (stream, read.at(stream), through))
                .filter(|(_, after, through)| after < through)
                .collect();
            behind
        };
        let own = self.own.iter().filter_map(|endpoint| self.own_run(*endpoint));
        own.flat_map(|(subscriber, own)| {
            let id = subscriber.config.id;
            gone(subscriber.config.tenant, own)
                .into_iter()
                .map(move |(stream, after, through)| (id, stream, after, through))
        })
        .collect()
    }

    /// Forgets streams whose writers are gone for good, once nothing of them matters. Cursors would grow with every
    /// restart otherwise.
    pub fn forget_streams(&mut self, known: impl Fn(crate::cursor::Stream) -> bool) {
        if self.under_way.is_some() {
            return;
        }
        let own = self
            .subscribers
            .values_mut()
            .filter_map(|subscriber| subscriber.own.as_mut());
        for run in own.map(|own| &mut own.run).chain([&mut self.shared]) {
            run.forget(&known);
        }
    }

    /// Whether the shared run may read on. Lagging endpoints have no say: theirs wait for as long as the endpoint does,
    /// and each holds no more than its [`Ledger::own_window`].
    pub fn may_read(&self) -> bool {
        self.unsaved_shared() < UNSAVED_DELIVERIES_MAX && self.shared.pending_len() < UNSAVED_BATCHES_MAX
    }

    /// The shared run's deliveries that are not done and in no saved chunk.
    pub fn unsaved_shared(&self) -> usize {
        self.unsaved.saturating_sub(self.unsaved_own)
    }

    /// Fresh deliveries that an own run reads ahead: less the more endpoints lag.
    pub fn own_window(&self) -> usize {
        (UNSAVED_DELIVERIES_MAX / self.own.len().max(1)).clamp(OWN_WINDOW_MIN, OWN_RUN_WINDOW)
    }

    /// A delivery is in no saved chunk, and is not done.
    fn count_unsaved(&mut self, endpoint: EndpointId) {
        self.unsaved += 1;
        self.unsaved_own += usize::from(self.own.contains(&endpoint));
    }

    /// It is saved or done now.
    fn uncount_unsaved(&mut self, endpoint: EndpointId) {
        self.unsaved -= 1;
        self.unsaved_own -= usize::from(self.own.contains(&endpoint));
    }

    /// What an endpoint may have waiting before it must lag: its own limit, and its fair share once the partition is
    /// full.
    fn undone_max(&self) -> usize {
        if self.undone < OUTSTANDING_PER_PARTITION_MAX {
            return OUTSTANDING_PER_ENDPOINT_MAX;
        }
        OUTSTANDING_PER_PARTITION_MAX / self.subscribers.len().max(1)
    }

    fn fresh_max(&self) -> usize {
        if self.undone < OUTSTANDING_PER_PARTITION_MAX / 2 {
            FRESH_MAX
        } else {
            FRESH_WHEN_FULL_MAX
        }
    }

    fn own_run(&self, endpoint: EndpointId) -> Option<(&Subscriber, &Own)> {
        let subscriber = self.subscribers.get(&endpoint)?;
        Some((subscriber, subscriber.own.as_ref()?))
    }

    /// The run that feeds an endpoint.
    fn run_of(&mut self, endpoint: EndpointId) -> &mut Run {
        match self
            .subscribers
            .get_mut(&endpoint)
            .and_then(|subscriber| subscriber.own.as_mut())
        {
            Some(own) => &mut own.run,
            None => &mut self.shared,
        }
    }

    /// Ends a delivery: done, given up or dropped. Deferred while a plan saves it as outstanding.
    fn complete(&mut self, endpoint: EndpointId, event: EventAddress) {
        if let Some(under_way) = &mut self.under_way
            && under_way.members.contains(&(endpoint, event))
        {
            under_way.deferred.push((endpoint, event));
            return;
        }
        let Some(subscriber) = self.subscribers.get_mut(&endpoint) else {
            return;
        };
        let Some(delivery) = subscriber.deliveries.remove(&event) else {
            return;
        };
        let succeeded = match delivery.phase {
            Phase::Recording(succeeded) => succeeded,
            Phase::Fresh | Phase::Waiting | Phase::InFlight | Phase::Behind | Phase::Skipped => Succeeded::No,
        };
        let usage = UsageDelta::delivery(subscriber.config.tenant, delivery.recorded_at, succeeded);
        if let Some(part) = delivery.replay {
            subscriber.replay_over(part, succeeded);
            self.replays_changed.insert(part.of);
        }
        self.undone -= 1;
        self.woken.insert(endpoint);
        match delivery.saved {
            Some(saved) => {
                self.dirty.remove(&(endpoint, event));
                self.chunks.settle(saved.chunk, saved.index, &usage);
            }
            // Dropped before it was saved.
            None if delivery.recalled => {
                self.recalled.remove(&(endpoint, event));
            }
            None => {
                self.uncount_unsaved(endpoint);
                let run = self.run_of(endpoint);
                if let Some(pending) = run.pending_of(event) {
                    pending.detach(delivery.queued());
                    if !usage.is_empty() {
                        pending.delivered.entry(endpoint).or_default().add(&usage);
                    }
                }
                run.tidy(event);
            }
        }
    }
}
