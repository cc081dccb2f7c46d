//! A delivery is sent again because its tenant asks, whatever became of it.
//!
//! One that still waits for its next attempt is due at once: that replaces the scheduled one. One that is over comes
//! back under its old id, with its attempts counted on. Its event is behind the cursors, so that nothing but a chunk
//! can hold it: it is saved first and sent then, and the command that asked for it stays pending until it is saved.

use qrelay_store::{
    Timestamp,
    event::EventType,
    id::{EndpointId, EventAddress},
    model::Endpoint,
};

use super::{Delivery, Ledger, Phase, feed::Moment};

/// What the attempt log knows of a delivery that is asked for again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Recalled {
    /// Which event.
    pub event: EventAddress,
    /// Its type.
    pub event_type: EventType,
    /// The last attempt's number.
    pub attempts: u32,
    /// When the first attempt began.
    pub first_at: Timestamp,
}

impl Recalled {
    /// It as it comes back.
    fn delivery(&self, endpoint: &Endpoint, at: Moment) -> Delivery {
        Delivery {
            event_type: self.event_type,
            // When it was recorded says nothing any more of how long it waits, nor whether its endpoint skips it.
            recorded_at: endpoint.skip_before.map_or(at.wall, |before| before.max(at.wall)),
            code: None,
            attempts: self.attempts,
            first_at: Some(self.first_at),
            due: at.wall,
            phase: Phase::Waiting,
            revision: 0,
            saved: None,
            recalled: true,
            replay: None,
        }
    }
}

/// What became of the wish.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Recall {
    /// It will be sent, or is being sent.
    Taken {
        /// The wish outlives a crash once this revision of the delivery is saved.
        revision: u32,
        /// The attempt that the log knows as the last one is followed by another one, under the same id.
        follows: bool,
    },
    /// Its end is just being recorded: ask again.
    Busy,
    /// The endpoint has as many deliveries waiting as it may, or is gone.
    NoRoom,
}

impl Ledger {
    /// Sends a delivery again as soon as its endpoint's limits let it.
    pub fn recall(&mut self, endpoint: EndpointId, recalled: Recalled, at: Moment) -> Recall {
        let undone_max = self.undone_max();
        let Some(subscriber) = self.subscribers.get_mut(&endpoint) else {
            return Recall::NoRoom;
        };
        let event = recalled.event;
        if let Some(replay) = subscriber.leave_replay(event) {
            self.replays_changed.insert(replay);
            if subscriber
                .deliveries
                .get(&event)
                .is_some_and(|it| it.saved.is_some())
            {
                self.dirty.insert((endpoint, event));
            }
        }
        if let Some(delivery) = subscriber.deliveries.get_mut(&event) {
            return match delivery.phase {
                Phase::Recording(_) | Phase::Skipped => Recall::Busy,
                Phase::Fresh | Phase::InFlight => Recall::Taken {
                    revision: delivery.revision,
                    follows: false,
                },
                Phase::Waiting | Phase::Behind => {
                    let waits = delivery.phase == Phase::Waiting;
                    let hastens = waits && delivery.due > at.wall && !delivery.recalled;
                    // After a crash the log may know more than the checkpoint.
                    let behind = delivery.attempts < recalled.attempts || delivery.first_at.is_none();
                    if hastens || behind {
                        delivery.attempts = delivery.attempts.max(recalled.attempts);
                        delivery.first_at.get_or_insert(recalled.first_at);
                        delivery.due = delivery.due.min(at.wall);
                        delivery.revision += 1;
                        if delivery.saved.is_some() {
                            self.dirty.insert((endpoint, event));
                        }
                    }
                    let follows = delivery.attempts == recalled.attempts
                        && delivery.first_at == Some(recalled.first_at);
                    let revision = delivery.revision;
                    if hastens {
                        subscriber.queue.hasten(event);
                        self.woken.insert(endpoint);
                    }
                    Recall::Taken { revision, follows }
                }
            };
        }
        if subscriber.removed || subscriber.deliveries.len() >= undone_max {
            return Recall::NoRoom;
        }
        let delivery = recalled.delivery(&subscriber.config, at);
        subscriber.deliveries.insert(event, delivery);
        self.undone += 1;
        self.recalled.insert((endpoint, event));
        Recall::Taken {
            revision: 0,
            follows: true,
        }
    }

    /// Whether a wish that was taken at `revision` outlives a crash: its delivery is saved so, or is over.
    pub fn keeps_recall(&self, endpoint: EndpointId, event: EventAddress, revision: u32) -> bool {
        let subscriber = self.subscribers.get(&endpoint);
        let delivery = subscriber.and_then(|subscriber| subscriber.deliveries.get(&event));
        delivery.is_none_or(|delivery| delivery.saved.is_some_and(|saved| saved.revision >= revision))
    }
}
