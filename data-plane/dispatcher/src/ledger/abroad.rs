//! What is under way when the partition changes hands.
//!
//! Whoever hands it over saves these deliveries as outstanding, finishes their attempts and records them. For whoever
//! takes it over they are under way too, and count against concurrency, until their rows are found in the attempt log, or
//! did not come for as long as an attempt can take: only then are they sent again.

use std::time::Duration;

use qrelay_store::{
    Timestamp,
    id::{EndpointId, EventAddress},
    store::{AttemptRow, DeliveryStatus},
};

use super::{Ledger, Phase, feed::Moment, sending::Finish};
use crate::{outstanding::Entry, schedule};

/// What is under way is over and recorded after so long: an exchange takes five seconds at most.
pub const ABROAD_FOR: Duration = Duration::from_secs(6);

/// A delivery of which somebody else has an attempt under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Abroad {
    /// To whom.
    pub endpoint: EndpointId,
    /// Which event.
    pub event: EventAddress,
    /// The attempts before it.
    pub attempts: u32,
}

impl Abroad {
    pub(super) fn of(entry: &Entry) -> Self {
        Self {
            endpoint: entry.endpoint,
            event: entry.event,
            attempts: entry.attempts,
        }
    }

    /// Whether what the attempt log knows of the delivery is this attempt, or what came of it without one.
    pub fn is_told_by(&self, attempts: u32, status: DeliveryStatus) -> bool {
        let never_sent = attempts == 0 && self.attempts == 0 && status == DeliveryStatus::GivenUp;
        attempts > self.attempts || never_sent
    }
}

impl Ledger {
    /// The partition is handed over: from now on what is under way is saved as such, due at `due`.
    pub fn depart(&mut self, due: Timestamp) {
        self.leaving = Some(due);
        for (endpoint, subscriber) in &mut self.subscribers {
            for (event, delivery) in &mut subscriber.deliveries {
                if !matches!(delivery.phase, Phase::InFlight | Phase::Recording(_)) {
                    continue;
                }
                // A save that is on its way has it as nobody's: the next one must say otherwise.
                delivery.revision += 1;
                if delivery.saved.is_some() {
                    self.dirty.insert((*endpoint, *event));
                }
            }
        }
    }

    /// What was under way when the partition was handed over to us.
    pub fn take_abroad(&mut self) -> Vec<Abroad> {
        std::mem::take(&mut self.abroad)
    }

    /// The row of an attempt that was under way abroad was found, or is not waited for any more: then it is sent again.
    pub fn returned(&mut self, abroad: &Abroad, row: Option<&AttemptRow>, at: Moment) {
        let (endpoint, event) = (abroad.endpoint, abroad.event);
        let Some(row) = row else {
            return self.finish(endpoint, event, at.wall, Finish::Unused(Duration::ZERO), at);
        };
        let pause = row
            .next_attempt_at
            .map_or(Duration::ZERO, |next| next.since(at.wall));
        let pause = pause.min(schedule::DUE_AHEAD_MAX);
        let finish = match row.status {
            DeliveryStatus::Succeeded => Finish::Delivered,
            DeliveryStatus::GivenUp => Finish::GivenUp,
            DeliveryStatus::Retrying if row.fault == "ours" => Finish::Again(pause),
            DeliveryStatus::Retrying => Finish::Retry(pause),
        };
        self.finish(endpoint, event, row.first_at, finish, at);
        self.recorded(endpoint, event);
    }
}
