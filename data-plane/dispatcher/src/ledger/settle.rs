//! Endpoints leave the shared run, rejoin it, and are removed: only between saves.
//!
//! Leaving splits the shared run: the endpoint's own run stands where the shared one stands, in the store and in
//! memory, and takes over the endpoint's share of the batches between the two. Nothing is read twice for it.
//! Rejoining is the reverse, and allowed only when both runs have read equally far in every stream, and nothing of
//! the own run is left at or below the saved shared cursor.

use std::time::Duration;

use qrelay_store::id::{EndpointId, EventAddress, Seq};
use tokio::time::Instant;

use super::{Ledger, Own, Subscriber};
use crate::{cursor::Stream, run::Run, usage::UsageDelta};

/// A fresh delivery that waited so long for its turn makes its endpoint leave the shared run.
pub const LAG_AFTER: Duration = Duration::from_secs(1);
/// An endpoint whose oldest fresh delivery waits less than this may rejoin: half, so that it does not come and go.
pub const REJOIN_BELOW: Duration = Duration::from_millis(500);

impl Ledger {
    /// Does what is due between saves, for every endpoint.
    pub fn settle(&mut self, now: Instant) {
        if self.under_way.is_none() {
            let ids: Vec<_> = self.subscribers.keys().copied().collect();
            ids.into_iter()
                .for_each(|endpoint| self.settle_one(endpoint, now));
        }
    }

    /// The same for one endpoint.
    pub fn settle_one(&mut self, endpoint: EndpointId, now: Instant) {
        let (None, Some(subscriber)) = (&self.under_way, self.subscribers.get(&endpoint)) else {
            return;
        };
        if subscriber.removed {
            self.remove(endpoint);
        } else if subscriber.own.is_none() {
            if self.lags(subscriber, now) {
                self.leave(endpoint);
            }
        } else if self.may_rejoin(subscriber, now) {
            self.rejoin(endpoint);
        }
    }

    fn lags(&self, subscriber: &Subscriber, now: Instant) -> bool {
        let waited = |since: Instant| now.duration_since(since) > LAG_AFTER;
        subscriber.is_blocked()
            || subscriber
                .queue
                .oldest_fresh()
                .is_some_and(|(_, since)| waited(since))
            || subscriber
                .held_until()
                .is_some_and(|until| until > now + LAG_AFTER)
            || subscriber.queue.fresh_len() > self.fresh_max()
            || subscriber.deliveries.len() >= self.undone_max()
    }

    fn may_rejoin(&self, subscriber: &Subscriber, now: Instant) -> bool {
        let Some(own) = &subscriber.own else {
            return false;
        };
        let waits = |(_, since): (EventAddress, Instant)| now.duration_since(since) >= REJOIN_BELOW;
        self.is_level(subscriber.config.tenant, &own.run.read)
            && !subscriber.is_blocked()
            && subscriber.held_until().is_none_or(|until| until <= now)
            && !subscriber.queue.oldest_fresh().is_some_and(waits)
            && subscriber.queue.fresh_len() <= self.fresh_max() / 2
            && subscriber.deliveries.len() < self.undone_max() / 2
            && own
                .run
                .pending()
                .all(|(stream, seq, _)| seq > self.shared.saved.at(stream))
    }

    /// The endpoint goes on with a run of its own.
    pub(super) fn leave(&mut self, endpoint: EndpointId) {
        let Some(tenant) = self.subscribers.get(&endpoint).map(|it| it.config.tenant) else {
            return;
        };
        let mut run = Run::resume(self.part_of(tenant, &self.shared.saved));
        run.read = self.part_of(tenant, &self.shared.read);
        let Some(subscriber) = self.subscribers.get_mut(&endpoint) else {
            return;
        };
        let unsaved = subscriber
            .deliveries
            .iter()
            .filter(|(_, delivery)| delivery.saved.is_none() && !delivery.recalled);
        for (event, delivery) in unsaved {
            self.unsaved_own += 1;
            if let Some(pending) = self.shared.pending_of(*event) {
                pending.detach(delivery.queued());
                let read_at = pending.read_at;
                run.pending_or_new(Stream::of(*event), event.seq, read_at).attach(
                    endpoint,
                    event.index,
                    delivery.queued(),
                );
            }
        }
        let delivered: Vec<(Stream, Seq, Instant, UsageDelta)> = self
            .shared
            .pending()
            .filter_map(|(stream, seq, pending)| {
                let usage = pending.delivered.get(&endpoint)?;
                Some((stream, seq, pending.read_at, usage.clone()))
            })
            .collect();
        for (stream, seq, read_at, usage) in delivered {
            let first = stream.address(seq, 0);
            if let Some(pending) = self.shared.pending_of(first) {
                pending.delivered.remove(&endpoint);
            }
            run.pending_or_new(stream, seq, read_at)
                .delivered
                .insert(endpoint, usage);
        }
        let touched: Vec<_> = run
            .pending()
            .map(|(stream, seq, _)| stream.address(seq, 0))
            .collect();
        touched.into_iter().for_each(|event| self.shared.tidy(event));
        subscriber.own = Some(Own {
            run,
            behind: 0,
            behind_since: None,
            passes_over: false,
        });
        self.own.insert(endpoint);
        self.health_changed.insert(endpoint);
    }

    /// The endpoint goes on with the shared run.
    pub(super) fn rejoin(&mut self, endpoint: EndpointId) {
        let subscriber = self.subscribers.get_mut(&endpoint);
        let Some(subscriber) = subscriber else {
            return;
        };
        let Some(mut own) = subscriber.own.take() else {
            return;
        };
        let deliveries = subscriber.deliveries.values();
        let unsaved = deliveries.filter(|delivery| delivery.saved.is_none() && !delivery.recalled);
        self.unsaved_own -= unsaved.count();
        for ((stream, seq), theirs) in own.run.take_pending() {
            let ours = self.shared.pending_or_new(stream, seq, theirs.read_at);
            // Those that were there when the endpoint left are still named.
            ours.members.extend(theirs.members);
            ours.members.sort_unstable();
            ours.members.dedup();
            ours.undone += theirs.undone;
            ours.queued += theirs.queued;
            for (by, usage) in theirs.delivered {
                ours.delivered.entry(by).or_default().add(&usage);
            }
        }
        self.own.remove(&endpoint);
        self.health_changed.insert(endpoint);
    }

    /// The endpoint is gone, and all that was owed to it.
    fn remove(&mut self, endpoint: EndpointId) {
        let Some(mut subscriber) = self.subscribers.remove(&endpoint) else {
            return;
        };
        if let Some(own) = &mut subscriber.own {
            // What it was sent before it went stays counted, with whatever the shared cursor passes next.
            for ((stream, seq), pending) in own.run.take_pending() {
                for (by, usage) in pending.delivered {
                    let read = self.shared.read.at(stream);
                    let ours = self.shared.pending_or_new(stream, seq.max(read), pending.read_at);
                    ours.delivered.entry(by).or_default().add(&usage);
                }
            }
        }
        for (event, delivery) in &subscriber.deliveries {
            self.undone -= 1;
            match delivery.saved {
                Some(saved) => self
                    .chunks
                    .settle(saved.chunk, saved.index, &UsageDelta::default()),
                None if delivery.recalled => {}
                None => {
                    self.unsaved -= 1;
                    self.unsaved_own -= usize::from(subscriber.own.is_some());
                    if subscriber.own.is_none() {
                        if let Some(pending) = self.shared.pending_of(*event) {
                            pending.detach(delivery.queued());
                        }
                        self.shared.tidy(*event);
                    }
                }
            }
        }
        self.dirty.retain(|(id, _)| *id != endpoint);
        self.recalled.retain(|(id, _)| *id != endpoint);
        self.forget_replays_of(&subscriber);
        self.own.remove(&endpoint);
        self.unannounced.remove(&endpoint);
        if let Some(ids) = self.tenants.get_mut(&subscriber.config.tenant) {
            ids.retain(|id| *id != endpoint);
            if ids.is_empty() {
                self.tenants.remove(&subscriber.config.tenant);
            }
        }
        self.health_changed.insert(endpoint);
    }
}
