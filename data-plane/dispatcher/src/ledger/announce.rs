//! Which changes of an endpoint's health may be announced: those that the store has, as they are still so.
//!
//! A change is saved with its version, then announced by (endpoint, version), then its removal is saved. A crash anywhere
//! repeats the announcement, which the store knows; what was not saved was never announced, so no version means two things.

use qrelay_store::{Timestamp, checkpoint::HealthChange, id::EndpointId};

use super::{Ledger, Subscriber};
use crate::health;

impl Ledger {
    /// Whether some change waits to be announced.
    pub fn has_unannounced(&self) -> bool {
        !self.unannounced.is_empty()
    }

    /// Changes that may be announced now.
    pub fn announcements(&self, now: Timestamp) -> impl Iterator<Item = (&Subscriber, &HealthChange)> {
        self.unannounced.iter().filter_map(move |(endpoint, change)| {
            let subscriber = self.subscriber(*endpoint)?;
            let health = &subscriber.health;
            // A later change takes its place once that is saved.
            let still_so = health.unannounced.as_ref() == Some(change);
            let due = health::announce_at(health, now).is_some_and(|due| due <= now);
            (still_so && due).then_some((subscriber, change))
        })
    }

    /// A change was announced; `told`: it made an event.
    pub fn announced(&mut self, endpoint: EndpointId, version: u64, told: bool, now: Timestamp) {
        let saved = self.unannounced.get(&endpoint);
        if saved.is_some_and(|change| change.version == version) {
            self.unannounced.remove(&endpoint);
        }
        if let Some(subscriber) = self.subscribers.get_mut(&endpoint) {
            health::announced(&mut subscriber.health, version, told, now);
            self.health_changed.insert(endpoint);
        }
    }

    /// The store has this row of an endpoint's health.
    pub(super) fn health_saved(
        &mut self,
        endpoint: EndpointId,
        row: Option<String>,
        change: Option<HealthChange>,
    ) {
        match row {
            Some(row) => self.health_rows.insert(endpoint, row),
            None => self.health_rows.remove(&endpoint),
        };
        match change {
            Some(change) => self.unannounced.insert(endpoint, change),
            None => self.unannounced.remove(&endpoint),
        };
    }
}
