//! Events become deliveries: the shared run matches each one against all of the tenant's endpoints; a run of an
//! endpoint's own matches it against that endpoint alone.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use qrelay_store::{
    Timestamp,
    event::EventType,
    id::{CodeId, EndpointId, EventAddress, Seq, TenantId},
    model::Endpoint,
    record::Classification,
};
use tokio::time::Instant;

use super::{Delivery, Ledger, Phase, Subscriber};
use crate::{cursor::Stream, run::Queued, schedule, usage::UsageDelta};

/// An event, as far as matching needs it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seen {
    /// Its index in the batch.
    pub index: u16,
    /// Whose it is.
    pub tenant: TenantId,
    /// Its type.
    pub event_type: EventType,
    /// When it was recorded.
    pub recorded_at: Timestamp,
    /// Of which code it is, if of one.
    pub code: Option<CodeId>,
    /// What scanned, if it is a scan.
    pub classification: Option<Classification>,
    /// The endpoint that it is about: it is told to the others.
    pub subject: Option<EndpointId>,
}

impl Seen {
    /// Whether an endpoint subscribes to it, is not what it is about, and its filter lets it pass as far as this tells
    /// ([`Verdicts`] has the rest).
    pub fn is_for(&self, endpoint: &Endpoint) -> bool {
        self.subject != Some(endpoint.id)
            && endpoint.subscribes(self.event_type)
            && endpoint.filter.passes(self.code, self.classification)
    }
}

/// What those parts of filters said of a batch that ask for more than [`Seen`] tells.
#[derive(Clone, Debug, Default)]
pub struct Verdicts {
    /// Events, by index, that an endpoint's filter holds back.
    pub refused: HashSet<(u16, EndpointId)>,
    /// Endpoints whose filters were not judged: they go on from here in runs of their own.
    pub undecided: BTreeSet<EndpointId>,
}

impl Verdicts {
    /// Whether an event is for an endpoint whose filter was judged.
    pub fn is_for(&self, event: &Seen, endpoint: &Endpoint) -> bool {
        event.is_for(endpoint) && !self.refused.contains(&(event.index, endpoint.id))
    }
}

/// A batch that was read and decoded.
#[derive(Clone, Debug)]
pub struct SeenBatch {
    /// The stream.
    pub stream: Stream,
    /// Its number.
    pub seq: Seq,
    /// Its events, in order.
    pub events: Vec<Seen>,
    /// What it adds to tenants' usage, if this partition's owner is who counts it.
    pub usage: UsageDelta,
    /// What filters said.
    pub verdicts: Verdicts,
}

/// The moment at which something happens, on both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// Monotonic.
    pub now: Instant,
    /// Wall time.
    pub wall: Timestamp,
}

impl Ledger {
    /// Takes in the shared run's next batch of a stream. Returns how many deliveries were matched (those of lagging
    /// endpoints included, those that are skipped not).
    pub fn feed_shared(&mut self, batch: SeenBatch, at: Moment) -> usize {
        let SeenBatch {
            stream,
            seq,
            events,
            usage,
            verdicts,
        } = batch;
        let before = self.shared.read.at(stream);
        if seq <= before {
            return 0;
        }
        for endpoint in self.undecided_here(&verdicts) {
            debug_assert!(self.under_way.is_none(), "an endpoint left during a save");
            self.leave(endpoint);
        }
        let mut in_step = self.in_step(stream, before);
        in_step.retain(|endpoint| !verdicts.undecided.contains(endpoint));
        let mut matched = 0;
        if !usage.is_empty() {
            self.shared.pending_or_new(stream, seq, at.now).usage = usage;
        }
        for event in events {
            let Some(endpoints) = self.tenants.get(&event.tenant).cloned() else {
                continue;
            };
            for endpoint in endpoints {
                let wanted = self.subscriber(endpoint).map(|subscriber| &subscriber.config);
                let Some(config) = wanted.filter(|config| verdicts.is_for(&event, config)) else {
                    continue;
                };
                let skipped = config.skips(event.recorded_at, at.wall);
                matched += usize::from(!skipped);
                if !self.own.contains(&endpoint) || in_step.contains(&endpoint) {
                    self.admit(endpoint, stream.address(seq, event.index), &event, at);
                } else if !skipped {
                    self.count_behind(endpoint, event.recorded_at);
                }
            }
        }
        self.shared.read.advance(stream, seq);
        for endpoint in in_step {
            self.run_of(endpoint).read.advance(stream, seq);
        }
        matched
    }

    /// Whether a batch can only be taken in once no save is under way: it makes endpoints leave the shared run.
    pub fn must_wait(&self, batch: &SeenBatch) -> bool {
        self.under_way.is_some() && !self.undecided_here(&batch.verdicts).is_empty()
    }

    /// Undecided endpoints that the shared run still feeds.
    fn undecided_here(&self, verdicts: &Verdicts) -> Vec<EndpointId> {
        let undecided = verdicts.undecided.iter().copied();
        let here = |endpoint: &EndpointId| {
            self.subscriber(*endpoint)
                .is_some_and(|subscriber| subscriber.own.is_none())
        };
        undecided.filter(here).collect()
    }

    /// Moves the shared run's position on where there is nothing to read (a gap that was recorded).
    pub fn skip_shared(&mut self, stream: Stream, through: Seq) {
        self.shared.read.advance(stream, through);
    }

    /// Takes in the next batch of an endpoint's own run. What it has read already is ignored.
    pub fn feed_own(&mut self, endpoint: EndpointId, batch: &SeenBatch, at: Moment) {
        let Some(subscriber) = self.subscribers.get_mut(&endpoint) else {
            return;
        };
        let (config, Some(own)) = (&subscriber.config, &mut subscriber.own) else {
            return;
        };
        if batch.seq <= own.run.read.at(batch.stream) {
            return;
        }
        own.run.read.advance(batch.stream, batch.seq);
        own.passes_over = false;
        let config = Arc::clone(config);
        let for_it = |event: &&Seen| event.tenant == config.tenant && batch.verdicts.is_for(event, &config);
        let wanted: Vec<Seen> = batch.events.iter().filter(for_it).copied().collect();
        for event in wanted {
            self.admit(endpoint, batch.stream.address(batch.seq, event.index), &event, at);
            if config.skips(event.recorded_at, at.wall) {
                continue;
            }
            let own = self
                .subscribers
                .get_mut(&endpoint)
                .and_then(|subscriber| subscriber.own.as_mut());
            if let Some(own) = own {
                own.behind = own.behind.saturating_sub(1);
                own.behind_since = own.behind_since.map(|since| since.max(event.recorded_at));
            }
        }
        self.forget_behind_if_level(endpoint);
    }

    /// What was counted and is not there after all (it is gone, or its filter was judged only now) is not ahead any more.
    fn forget_behind_if_level(&mut self, endpoint: EndpointId) {
        let Some((subscriber, own)) = self.own_run(endpoint) else {
            return;
        };
        if !self.is_level(subscriber.config.tenant, &own.run.read) {
            return;
        }
        let subscriber = self.subscribers.get_mut(&endpoint);
        if let Some(own) = subscriber.and_then(|subscriber| subscriber.own.as_mut()) {
            (own.behind, own.behind_since) = (0, None);
        }
    }

    /// Moves an own run's position on where there is nothing to read (gone by retention, or a recorded gap).
    pub fn skip_own(&mut self, endpoint: EndpointId, stream: Stream, through: Seq) {
        let through = through.min(self.shared.read.at(stream));
        if self.own.contains(&endpoint) {
            self.run_of(endpoint).read.advance(stream, through);
        }
        self.forget_behind_if_level(endpoint);
    }

    /// What an endpoint's own run should read next: the stream, after which batch, and through which. None when it
    /// has enough, may not send, or is where the shared run is.
    pub fn own_wants(&self, endpoint: EndpointId, now: Instant) -> Option<(Stream, Seq, Seq)> {
        let subscriber = self.subscriber(endpoint)?;
        let own = subscriber.own.as_ref()?;
        if !self.may_feed_own(subscriber, now) {
            return None;
        }
        let tenant = subscriber.config.tenant;
        self.shared.read.iter().find_map(|(stream, through)| {
            let after = own.run.read.at(stream);
            (after < through && self.concerns(tenant, stream)).then_some((stream, after, through))
        })
    }

    fn may_feed_own(&self, subscriber: &Subscriber, now: Instant) -> bool {
        !subscriber.is_blocked()
            && subscriber.held_until().is_none_or(|until| until <= now)
            && subscriber.queue.fresh_len() < self.own_window()
            && subscriber.deliveries.len() < self.undone_max()
    }

    /// Endpoints whose own run stands where the shared run stands in a stream, and may go on with it: they stay in
    /// step, so that they can be level in every stream at once.
    fn in_step(&self, stream: Stream, before: Seq) -> BTreeSet<EndpointId> {
        let level = self.own.iter().filter(|endpoint| {
            self.subscribers.get(endpoint).is_some_and(|subscriber| {
                let read = |own: &super::Own| own.run.read.at(stream) == before;
                subscriber.own.as_ref().is_some_and(read)
                    && self.concerns(subscriber.config.tenant, stream)
                    && !subscriber.is_blocked()
                    && subscriber.hold.is_none()
                    && subscriber.queue.fresh_len() < self.own_window()
                    && subscriber.deliveries.len() < self.undone_max()
            })
        });
        level.copied().collect()
    }

    fn count_behind(&mut self, endpoint: EndpointId, recorded_at: Timestamp) {
        let subscriber = self.subscribers.get_mut(&endpoint);
        if let Some(own) = subscriber.and_then(|subscriber| subscriber.own.as_mut()) {
            own.behind += 1;
            own.behind_since.get_or_insert(recorded_at);
        }
    }

    fn admit(&mut self, endpoint: EndpointId, event: EventAddress, seen: &Seen, at: Moment) {
        let Some(subscriber) = self.subscribers.get_mut(&endpoint) else {
            return;
        };
        if subscriber.deliveries.contains_key(&event) {
            return;
        }
        let pause = schedule::first_pause(&subscriber.config);
        let skipped = subscriber.config.skips(seen.recorded_at, at.wall);
        let (phase, queued) = if skipped {
            subscriber.skip.insert(event);
            (Phase::Skipped, Queued::No)
        } else if subscriber.lanes.join(&subscriber.config, seen.code, event) {
            (Phase::Behind, Queued::No)
        } else if pause.is_zero() {
            subscriber.queue.push_fresh(event, at.now);
            (Phase::Fresh, Queued::Yes)
        } else {
            subscriber.queue.push_waiting(event, at.now + pause);
            (Phase::Waiting, Queued::No)
        };
        let delivery = Delivery {
            event_type: seen.event_type,
            recorded_at: seen.recorded_at,
            code: seen.code,
            attempts: 0,
            first_at: None,
            due: at.wall.after(pause),
            phase,
            revision: 0,
            saved: None,
            recalled: false,
            replay: None,
        };
        subscriber.deliveries.insert(event, delivery);
        self.undone += 1;
        self.count_unsaved(endpoint);
        self.woken.insert(endpoint);
        if skipped {
            self.skipping.insert(endpoint);
        }
        let stream = Stream::of(event);
        self.run_of(endpoint)
            .pending_or_new(stream, event.seq, at.now)
            .attach(endpoint, event.index, queued);
    }
}
