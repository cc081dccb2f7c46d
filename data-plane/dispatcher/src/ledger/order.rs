//! Endpoints that want one code's events one after the other.
//!
//! Of each code the deliveries stand in a lane, in the order of their coming. The first may be sent; it stays the first
//! while it is retried, whatever delays it, and the others wait behind it in no queue ([`Phase::Behind`]) until it is
//! delivered or given up. They become outstanding like any other that waits, so they hold up no cursor and outlive a
//! crash; and they count for what an endpoint may have waiting, so they are bounded.
//!
//! Within a stream the order is the log's. After a crash it is so again: what is outstanding stands before what is read
//! from there on. Between streams (after a restart of a writer, say) it is the order of recording, as far as clocks tell.
//!
//! What was asked for again after it was over stands in no lane: it waits for nobody, and nobody for it.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use qrelay_store::{
    Timestamp,
    id::{CodeId, EndpointId, EventAddress},
    model::{Endpoint, Ordering},
};

use super::{Delivery, Ledger, Phase, Subscriber, feed::Moment};
use crate::{cursor::Stream, schedule};

/// One endpoint's lanes: those of codes of which something is not over.
#[derive(Clone, Debug, Default)]
pub(super) struct Lanes {
    lanes: HashMap<CodeId, VecDeque<EventAddress>>,
    /// Deliveries that are not the first of their lane.
    behind: usize,
}

impl Lanes {
    /// Puts a delivery at the end of its code's lane. Says whether it must wait there.
    pub(super) fn join(&mut self, endpoint: &Endpoint, code: Option<CodeId>, event: EventAddress) -> bool {
        let (Ordering::PerCode, Some(code)) = (endpoint.ordering, code) else {
            return false;
        };
        let lane = self.lanes.entry(code).or_default();
        lane.push_back(event);
        self.behind += usize::from(lane.len() > 1);
        lane.len() > 1
    }

    /// One of a code's lane is over. If it was the first, the next one, if there is one, is the first now.
    fn next(&mut self, code: Option<CodeId>, event: EventAddress) -> Option<EventAddress> {
        let code = code?;
        let lane = self.lanes.get_mut(&code)?;
        if lane.front() != Some(&event) {
            // Of those that were under way at a hand-over any may be over first.
            let before = lane.len();
            lane.retain(|other| *other != event);
            self.behind -= before - lane.len();
            return None;
        }
        lane.pop_front();
        let Some(next) = lane.front().copied() else {
            self.lanes.remove(&code);
            return None;
        };
        self.behind -= 1;
        Some(next)
    }

    /// Takes out what will not be sent. Those that are the first of their lane for it.
    pub(super) fn leave(&mut self, out: &BTreeSet<EventAddress>) -> Vec<EventAddress> {
        let mut first = Vec::new();
        self.lanes.retain(|_, lane| {
            let (before, head) = (lane.len(), lane.front().copied());
            lane.retain(|event| !out.contains(event));
            self.behind -= before.saturating_sub(1) - lane.len().saturating_sub(1);
            first.extend(lane.front().copied().filter(|now| Some(*now) != head));
            !lane.is_empty()
        });
        first
    }

    /// Deliveries that wait for the one before them.
    pub(super) fn behind(&self) -> usize {
        self.behind
    }
}

impl Ledger {
    /// A delivery is over: the next of its code may go.
    pub(super) fn let_next_go(&mut self, endpoint: EndpointId, event: EventAddress, at: Moment) {
        let Some(subscriber) = self.subscribers.get_mut(&endpoint) else {
            return;
        };
        let code = subscriber.deliveries.get(&event).and_then(|over| over.code);
        if let Some(next) = subscriber.lanes.next(code, event)
            && !subscriber.is_under_way(next)
            && subscriber.go(next, at)
            && let Some(pending) = self.run_of(endpoint).pending_of(next)
        {
            pending.queued += 1;
        }
    }

    /// After the load of a checkpoint: what was outstanding lines up as it stood.
    pub(super) fn form_lanes(&mut self, at: Moment) {
        for subscriber in self.subscribers.values_mut() {
            // What is under way abroad comes first in its lane: one that is being sent, and one before it that was sent and
            // is being recorded.
            let config = std::sync::Arc::clone(&subscriber.config);
            let abroad = subscriber.deliveries.iter();
            let abroad = abroad.filter(|(_, delivery)| delivery.phase == Phase::InFlight);
            let abroad: BTreeMap<_, _> = abroad
                .map(|(event, delivery)| ((delivery.recorded_at, *event), delivery.code))
                .collect();
            for ((_, event), code) in abroad {
                subscriber.lanes.join(&config, code, event);
            }
            let waiting = subscriber.deliveries.iter();
            let waiting = waiting.filter(|(_, delivery)| delivery.phase == Phase::Behind);
            let waiting: BTreeMap<EventAddress, (Timestamp, Option<CodeId>)> = waiting
                .map(|(event, delivery)| (*event, (delivery.recorded_at, delivery.code)))
                .collect();
            let mut order = Vec::with_capacity(waiting.len());
            let mut latest: Option<(Stream, Timestamp)> = None;
            for (event, (recorded_at, code)) in waiting {
                // Clocks step back; the log's order holds.
                let before = latest.filter(|(stream, _)| *stream == Stream::of(event));
                let recorded_at = before.map_or(recorded_at, |(_, before)| before.max(recorded_at));
                latest = Some((Stream::of(event), recorded_at));
                order.push((recorded_at, event, code));
            }
            order.sort_unstable_by_key(|(recorded_at, event, _)| (*recorded_at, *event));
            for (_, event, code) in order {
                if !subscriber.lanes.join(&config, code, event) {
                    subscriber.go(event, at);
                }
            }
        }
    }
}

impl Subscriber {
    fn is_under_way(&self, event: EventAddress) -> bool {
        let delivery = self.deliveries.get(&event);
        delivery.is_some_and(|delivery| delivery.phase == Phase::InFlight)
    }

    /// Puts a delivery that waited behind another one into line. Says whether its batch must count it as queued.
    pub(super) fn go(&mut self, event: EventAddress, at: Moment) -> bool {
        let Some(delivery) = self.deliveries.get_mut(&event) else {
            debug_assert!(false, "what stands in a lane is not over");
            return false;
        };
        let pause = delivery.due.since(at.wall).min(schedule::DUE_AHEAD_MAX);
        if !pause.is_zero() {
            delivery.phase = Phase::Waiting;
            self.queue.push_waiting(event, at.now + pause);
        } else if is_new(delivery) {
            delivery.phase = Phase::Fresh;
            self.queue.push_fresh(event, at.now);
            return delivery.saved.is_none();
        } else {
            delivery.phase = Phase::Waiting;
            self.queue.push_due(event);
        }
        false
    }
}

/// Whether it was never sent, as far as anybody knows.
fn is_new(delivery: &Delivery) -> bool {
    delivery.attempts == 0 && delivery.first_at.is_none()
}
