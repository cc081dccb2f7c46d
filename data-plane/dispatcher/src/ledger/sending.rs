//! Deliveries go out and come back.

use std::{sync::Arc, time::Duration};

use qrelay_store::{
    Timestamp,
    checkpoint::LastFailure,
    event::EventType,
    id::{EndpointId, EventAddress},
    model::Endpoint,
};
use tokio::time::Instant;

use super::{Ledger, Phase, feed::Moment, skip::may_skip};
use crate::{
    health::{self, Sign},
    queue::Class,
    run::Queued,
    schedule,
    usage::Succeeded,
};

/// An attempt to make.
#[derive(Clone, Debug)]
pub struct Job {
    /// For whom, as it is now.
    pub endpoint: Arc<Endpoint>,
    /// Which event.
    pub event: EventAddress,
    /// Its type.
    pub event_type: EventType,
    /// When it was recorded.
    pub recorded_at: Timestamp,
    /// Which attempt, from 1.
    pub number: u32,
    /// When the first one began, if this is not it.
    pub first_at: Option<Timestamp>,
    /// From which line it came.
    pub class: Class,
}

/// How an attempt ended, for the ledger.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Finish {
    /// Done; its row is on its way to the attempt log.
    Delivered,
    /// No further attempt follows; its row is on its way to the attempt log.
    GivenUp,
    /// An attempt was made and failed; the next one is due after the pause.
    Retry(Duration),
    /// An attempt was made and failed through trouble of our own: the next one, due after the pause, has its number.
    Again(Duration),
    /// No attempt was made: try again after the pause.
    Unused(Duration),
}

impl Ledger {
    /// Takes the endpoint's next delivery of a class that `allowed` lets pass, if one may be sent now.
    pub fn start(
        &mut self,
        endpoint: EndpointId,
        now: Instant,
        allowed: impl Fn(Class) -> bool,
    ) -> Option<Job> {
        let subscriber = self.subscribers.get_mut(&endpoint)?;
        subscriber.queue.ripen(now);
        subscriber.hold = subscriber.hold.filter(|(until, _)| *until > now);
        if subscriber.is_blocked()
            || subscriber.hold.is_some()
            || subscriber.in_flight >= subscriber.concurrency()
        {
            return None;
        }
        let (event, class) = subscriber.queue.pop(allowed)?;
        let delivery = subscriber
            .deliveries
            .get_mut(&event)
            .expect("invariant: what stands in line is not done");
        let was_queued = delivery.queued();
        delivery.phase = Phase::InFlight;
        subscriber.in_flight += 1;
        let job = Job {
            endpoint: Arc::clone(&subscriber.config),
            event,
            event_type: delivery.event_type,
            recorded_at: delivery.recorded_at,
            number: delivery.attempts + 1,
            first_at: delivery.first_at,
            class,
        };
        if delivery.saved.is_none()
            && was_queued == Queued::Yes
            && let Some(pending) = self.run_of(endpoint).pending_of(event)
        {
            pending.queued = pending.queued.saturating_sub(1);
        }
        Some(job)
    }

    /// Moves deliveries whose time has come to the due ones. Whether something live could be sent now, were there room for it.
    pub fn ripen(&mut self, endpoint: EndpointId, now: Instant) -> bool {
        let Some(subscriber) = self.subscribers.get_mut(&endpoint) else {
            return false;
        };
        subscriber.queue.ripen(now);
        subscriber.ripen_replays(now);
        subscriber.hold = subscriber.hold.filter(|(until, _)| *until > now);
        subscriber.is_ready(Class::Fresh) || subscriber.is_ready(Class::Retry)
    }

    /// Whether something could be sent to the endpoint now, were there room for it, by class.
    pub fn is_ready(&self, endpoint: EndpointId, class: Class) -> bool {
        self.subscriber(endpoint)
            .is_some_and(|subscriber| subscriber.is_ready(class))
    }

    /// When something of the endpoint may be sent that may not be sent now.
    pub fn wake_at(&self, endpoint: EndpointId) -> Option<Instant> {
        let subscriber = self.subscriber(endpoint)?;
        if subscriber.is_blocked() {
            return None;
        }
        let due = [subscriber.queue.next_due(), subscriber.replay_due()];
        match subscriber.held_until() {
            Some(hold) => Some(hold),
            None => due.into_iter().flatten().min(),
        }
    }

    /// An attempt that [`Ledger::start`] gave out came back. `began`: when it began, if it was made.
    pub fn finish(
        &mut self,
        endpoint: EndpointId,
        event: EventAddress,
        began: Timestamp,
        finish: Finish,
        at: Moment,
    ) {
        let Some(subscriber) = self.subscribers.get_mut(&endpoint) else {
            return;
        };
        subscriber.in_flight = subscriber.in_flight.saturating_sub(1);
        self.woken.insert(endpoint);
        subscriber.replay_returned(event, !matches!(finish, Finish::Unused(_)));
        let Some(delivery) = subscriber.deliveries.get_mut(&event) else {
            return;
        };
        let part = delivery.replay;
        let skipped = may_skip(delivery, &subscriber.config, at.wall);
        self.replays_changed.extend(part.map(|part| part.of));
        match finish {
            Finish::Delivered => delivery.phase = Phase::Recording(Succeeded::Yes),
            Finish::GivenUp => delivery.phase = Phase::Recording(Succeeded::No),
            Finish::Retry(pause) | Finish::Again(pause) => {
                delivery.attempts += u32::from(matches!(finish, Finish::Retry(_)));
                delivery.first_at.get_or_insert(began);
                delivery.due = at.wall.after(pause);
                delivery.revision += 1;
                delivery.phase = Phase::Waiting;
                if delivery.saved.is_some() {
                    self.dirty.insert((endpoint, event));
                }
                if !skipped {
                    subscriber.wait(part, event, at.now + pause);
                }
            }
            Finish::Unused(pause) => {
                delivery.phase = Phase::Waiting;
                if self.leaving.is_some() {
                    // It may have been saved as under way, or be so by a save that is on its way.
                    delivery.revision += 1;
                    if delivery.saved.is_some() {
                        self.dirty.insert((endpoint, event));
                    }
                }
                if !skipped {
                    subscriber.wait(part, event, at.now + pause);
                }
            }
        }
        let over = matches!(finish, Finish::Delivered | Finish::GivenUp);
        if skipped && !over {
            self.skip_returned(endpoint, event);
        }
        if skipped || over {
            self.let_next_go(endpoint, event, at);
        }
    }

    /// The attempt log acknowledged the last row of a delivery: it is done, or given up.
    pub fn recorded(&mut self, endpoint: EndpointId, event: EventAddress) {
        let subscriber = self.subscribers.get(&endpoint);
        let delivery = subscriber.and_then(|subscriber| subscriber.deliveries.get(&event));
        if delivery.is_some_and(|delivery| matches!(delivery.phase, Phase::Recording(_))) {
            self.complete(endpoint, event);
        }
    }

    /// Takes an attempt's outcome into account for the endpoint's health. Says whether its state changed.
    pub fn observe(
        &mut self,
        endpoint: EndpointId,
        sign: Sign,
        answer: LastFailure,
        wall: Timestamp,
    ) -> bool {
        let Some(subscriber) = self.subscribers.get_mut(&endpoint) else {
            return false;
        };
        self.health_changed.insert(endpoint);
        if sign == Sign::Success {
            subscriber.slowed = 0;
        } else {
            subscriber.health.last_failure = Some(answer);
        }
        health::observe(&mut subscriber.health, sign, &subscriber.config, wall)
    }

    /// The receiver asks not to be asked for so long. A later wish replaces an earlier one only if it is longer.
    pub fn hold(&mut self, endpoint: EndpointId, pause: Duration, at: Moment) {
        let Some(subscriber) = self.subscribers.get_mut(&endpoint) else {
            return;
        };
        let until = at.now + pause;
        if subscriber.hold.is_none_or(|(held, _)| held < until) {
            subscriber.hold = Some((until, at.wall.after(pause)));
            self.health_changed.insert(endpoint);
            self.woken.insert(endpoint);
        }
    }

    /// The receiver says that it is overloaded: a pause, longer each time until a success. Answers that come while it is
    /// paused already are of the same wave.
    pub fn slow(&mut self, endpoint: EndpointId, at: Moment) {
        let Some(subscriber) = self.subscribers.get_mut(&endpoint) else {
            return;
        };
        if subscriber.held_until().is_some_and(|until| until > at.now) {
            return;
        }
        let pause = schedule::overload_pause(subscriber.slowed);
        subscriber.slowed = subscriber.slowed.saturating_add(1);
        self.hold(endpoint, pause, at);
    }

    /// A rate limit keeps the endpoint's due deliveries back until then, or no longer does.
    pub fn pace(&mut self, endpoint: EndpointId, until: Option<Timestamp>) {
        if let Some(subscriber) = self.subscribers.get_mut(&endpoint) {
            subscriber.paced = until;
        }
    }

    /// Makes room for a test among the endpoint's attempts. Tests pass a pause and a disabled state, not the cap.
    pub fn begin_test(&mut self, endpoint: EndpointId) -> Option<Arc<Endpoint>> {
        let subscriber = self.subscribers.get_mut(&endpoint)?;
        if subscriber.removed || subscriber.in_flight >= subscriber.concurrency() {
            return None;
        }
        subscriber.in_flight += 1;
        Some(Arc::clone(&subscriber.config))
    }

    /// A test is over.
    pub fn end_test(&mut self, endpoint: EndpointId) {
        if let Some(subscriber) = self.subscribers.get_mut(&endpoint) {
            subscriber.in_flight = subscriber.in_flight.saturating_sub(1);
            self.woken.insert(endpoint);
        }
    }
}
