//! Endpoints that were set active with `resume: now`: what was recorded before is passed over.
//!
//! The wish stands in the endpoint's row ([`Endpoint::skips`]), so it is obeyed again after a crash, wherever one fell.
//! What is a delivery already, or becomes one, is given up with its row, in no line and within no limit
//! ([`Phase::Skipped`]); an attempt that is under way ends first. What an own run has not read is passed over by the
//! owner, which tells of it before the run's position moves.
//!
//! Replays are not bound by it, and what is asked for again after the wish is a wish of its own.

use std::{collections::BTreeSet, sync::Arc};

use qrelay_store::{
    Timestamp,
    event::EventType,
    id::{CodeId, EndpointId, EventAddress},
    model::Endpoint,
};

use super::{Delivery, Ledger, Phase, feed::Moment};
use crate::{run::Queued, usage::Succeeded};

/// A delivery that is given up because its endpoint skips it.
#[derive(Clone, Debug)]
pub struct Skipped {
    /// For whom it was.
    pub endpoint: Arc<Endpoint>,
    /// Which event.
    pub event: EventAddress,
    /// Its type.
    pub event_type: EventType,
    /// The number of the row that says so: 0 if no attempt was made, else one more than the last attempt's.
    pub number: u32,
    /// When the first attempt began, or else the moment of the wish: however often this is told, it is one delivery.
    pub first_at: Timestamp,
    /// The code that the event is of, as far as it is known.
    pub code: Option<CodeId>,
}

impl Ledger {
    /// Whether some endpoint skips something that was not given up yet.
    pub fn has_skipped(&self) -> bool {
        !self.unswept.is_empty() || !self.skipping.is_empty()
    }

    /// Takes what waits and is to be skipped out of its lines. To be called before anything is sent.
    pub fn sweep_skipped(&mut self, at: Moment) {
        while let Some(endpoint) = self.unswept.pop_first() {
            self.sweep(endpoint, at);
        }
    }

    /// The next delivery to give up; it is over once its row is acknowledged ([`Ledger::recorded`]).
    pub fn next_skipped(&mut self) -> Option<Skipped> {
        loop {
            let endpoint = *self.skipping.first()?;
            let subscriber = self.subscribers.get_mut(&endpoint);
            let Some(subscriber) = subscriber.filter(|subscriber| !subscriber.removed) else {
                self.skipping.remove(&endpoint);
                continue;
            };
            let Some(event) = subscriber.skip.pop_first() else {
                self.skipping.remove(&endpoint);
                continue;
            };
            let Some(delivery) = subscriber.deliveries.get_mut(&event) else {
                debug_assert!(false, "what is to be skipped is not over");
                continue;
            };
            delivery.phase = Phase::Recording(Succeeded::No);
            let wish = subscriber.config.skip_before.unwrap_or(delivery.recorded_at);
            return Some(Skipped {
                endpoint: Arc::clone(&subscriber.config),
                event,
                event_type: delivery.event_type,
                number: delivery.attempts + u32::from(delivery.attempts > 0),
                first_at: delivery.first_at.unwrap_or(wish),
                code: delivery.code,
            });
        }
    }

    /// Whether an attempt that is under way is its delivery's last, because its endpoint skips the event by now.
    pub fn is_skipped(&self, endpoint: EndpointId, event: EventAddress, wall: Timestamp) -> bool {
        self.subscriber(endpoint).is_some_and(|subscriber| {
            let delivery = subscriber.deliveries.get(&event);
            delivery.is_some_and(|delivery| may_skip(delivery, &subscriber.config, wall))
        })
    }

    /// Whether an endpoint's own run is likely to have much before it that is passed over: then it reads more at once.
    pub fn passes_over(&self, endpoint: EndpointId) -> bool {
        self.own_run(endpoint).is_some_and(|(_, own)| own.passes_over)
    }

    /// An attempt came back, and no other one follows: it is given up.
    pub(super) fn skip_returned(&mut self, endpoint: EndpointId, event: EventAddress) {
        if let Some(subscriber) = self.subscribers.get_mut(&endpoint)
            && let Some(delivery) = subscriber.deliveries.get_mut(&event)
        {
            delivery.phase = Phase::Skipped;
            subscriber.skip.insert(event);
            self.skipping.insert(endpoint);
        }
    }

    fn sweep(&mut self, endpoint: EndpointId, at: Moment) {
        let Some(subscriber) = self.subscribers.get_mut(&endpoint) else {
            return;
        };
        let config = Arc::clone(&subscriber.config);
        if let Some(own) = &mut subscriber.own {
            own.passes_over = true;
            // What was counted is what is not sent.
            if own.behind_since.is_some_and(|since| config.skips(since, at.wall)) {
                (own.behind, own.behind_since) = (0, None);
            }
        }
        let waits = |delivery: &Delivery| {
            matches!(delivery.phase, Phase::Fresh | Phase::Waiting | Phase::Behind)
                && !delivery.recalled
                && may_skip(delivery, &config, at.wall)
        };
        let (mut out, mut unqueued) = (BTreeSet::new(), Vec::new());
        for (event, delivery) in &mut subscriber.deliveries {
            if waits(delivery) {
                if delivery.saved.is_none() && delivery.queued() == Queued::Yes {
                    unqueued.push(*event);
                }
                delivery.phase = Phase::Skipped;
                out.insert(*event);
            }
        }
        if out.is_empty() {
            return;
        }
        subscriber.queue.remove(&out);
        let first = subscriber.lanes.leave(&out);
        let queued: Vec<_> = first
            .into_iter()
            .filter(|next| subscriber.go(*next, at))
            .collect();
        subscriber.skip.append(&mut out);
        self.skipping.insert(endpoint);
        self.woken.insert(endpoint);
        for event in unqueued {
            if let Some(pending) = self.run_of(endpoint).pending_of(event) {
                pending.queued = pending.queued.saturating_sub(1);
            }
        }
        for event in queued {
            if let Some(pending) = self.run_of(endpoint).pending_of(event) {
                pending.queued += 1;
            }
        }
    }
}

/// Whether a delivery is bound by its endpoint's wish, wherever it stands.
pub(super) fn may_skip(delivery: &Delivery, endpoint: &Endpoint, wall: Timestamp) -> bool {
    delivery.replay.is_none() && endpoint.skips(delivery.recorded_at, wall)
}
