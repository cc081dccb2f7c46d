//! What waits for an endpoint, in the words of the contract.

use qrelay_store::{
    Timestamp,
    checkpoint::{Backlog, BacklogReason, HealthState},
    id::EndpointId,
    model::EndpointIntent,
};
use tokio::time::Instant;

use super::{Delivery, Ledger, Phase, Subscriber, settle::LAG_AFTER};

impl Ledger {
    /// Brings every endpoint's backlog up to date; what changed is saved with the next plan.
    pub fn refresh_backlogs(&mut self, now: Instant) {
        for (id, subscriber) in &mut self.subscribers {
            let backlog = backlog(subscriber, now);
            if subscriber.health.backlog != backlog {
                subscriber.health.backlog = backlog;
                self.health_changed.insert(*id);
            }
        }
    }

    /// Deliveries that wait, over all endpoints: fresh ones, retries, and those held back by a receiver's wish, a
    /// pause or a disabled state.
    pub fn waiting(&self) -> (usize, usize, usize) {
        let mut all = (0, 0, 0);
        for subscriber in self.subscribers.values() {
            let queue = &subscriber.queue;
            let retries = queue.due_len() + queue.waiting_len() + subscriber.lanes.behind();
            if subscriber.is_blocked() || subscriber.hold.is_some() {
                all.2 += subscriber.queue.fresh_len() + retries;
            } else {
                all.0 += subscriber.queue.fresh_len();
                all.1 += retries;
            }
        }
        all
    }

    /// The oldest fresh delivery's wait, over all endpoints that may be sent to.
    pub fn oldest_fresh(&self, now: Instant) -> std::time::Duration {
        let open = self
            .subscribers
            .values()
            .filter(|subscriber| !subscriber.is_blocked());
        let since = open
            .filter_map(|subscriber| subscriber.queue.oldest_fresh())
            .map(|(_, since)| since)
            .min();
        since.map_or(std::time::Duration::ZERO, |since| now.duration_since(since))
    }

    /// When an endpoint's retry is due next.
    pub fn next_due(&self, endpoint: EndpointId) -> Option<Instant> {
        self.subscriber(endpoint)?.queue.next_due()
    }
}

/// None while deliveries only pass through.
fn backlog(subscriber: &Subscriber, now: Instant) -> Option<Backlog> {
    let queue = &subscriber.queue;
    let behind = subscriber.own.as_ref().map_or(0, |own| own.behind);
    let waiting = queue.fresh_len() + queue.due_len() + queue.waiting_len() + subscriber.lanes.behind();
    let events = u64::try_from(waiting).unwrap_or(u64::MAX).saturating_add(behind);
    let lingers = subscriber.own.is_some()
        || queue.due_len() + queue.waiting_len() > 0
        || queue
            .oldest_fresh()
            .is_some_and(|(_, since)| now.duration_since(since) > LAG_AFTER);
    if events == 0 || !lingers {
        return None;
    }
    let reason = reason(subscriber, now);
    Some(Backlog {
        events,
        oldest_at: oldest(subscriber),
        reason,
        next_send_at: next_send(subscriber, reason),
        by_limit: reason == BacklogReason::Throttled
            && subscriber.held_until().is_none_or(|until| until <= now),
    })
}

fn reason(subscriber: &Subscriber, now: Instant) -> BacklogReason {
    if subscriber.config.intent == EndpointIntent::Paused {
        BacklogReason::Paused
    } else if subscriber.health.state == HealthState::Disabled {
        BacklogReason::Disabled
    } else if subscriber.held_until().is_some_and(|until| until > now) {
        BacklogReason::Throttled
    } else if subscriber.health.state == HealthState::Degraded {
        BacklogReason::Degraded
    } else if subscriber.paced.is_some() {
        BacklogReason::Throttled
    } else if subscriber.own.is_some() {
        BacklogReason::CatchingUp
    } else {
        BacklogReason::Retrying
    }
}

fn oldest(subscriber: &Subscriber) -> Option<Timestamp> {
    let waiting = subscriber.deliveries.values();
    let waiting = waiting.filter(|delivery| waits(delivery) || is_behind(delivery));
    let here = waiting.map(|delivery| delivery.recorded_at).min();
    let behind = subscriber.own.as_ref().and_then(|own| own.behind_since);
    match (here, behind) {
        (Some(here), Some(behind)) => Some(here.min(behind)),
        (here, behind) => here.or(behind),
    }
}

fn next_send(subscriber: &Subscriber, reason: BacklogReason) -> Option<Timestamp> {
    match reason {
        BacklogReason::Paused | BacklogReason::Disabled => None,
        BacklogReason::Throttled => {
            let held = subscriber.hold.map(|(_, until)| until);
            held.max(subscriber.paced)
        }
        BacklogReason::Degraded | BacklogReason::Retrying | BacklogReason::CatchingUp => {
            let waiting = subscriber.deliveries.values();
            let waiting = waiting.filter(|delivery| waits(delivery));
            waiting.map(|delivery| delivery.due).min()
        }
    }
}

/// Replays are told of by themselves.
fn waits(delivery: &Delivery) -> bool {
    delivery.replay.is_none() && matches!(delivery.phase, Phase::Fresh | Phase::Waiting)
}

/// It waits for the one before it, and goes when that is over.
fn is_behind(delivery: &Delivery) -> bool {
    delivery.replay.is_none() && delivery.phase == Phase::Behind
}
