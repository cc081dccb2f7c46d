//! Changes of endpoints' health become events in the configuration log, from where they are delivered like any other.

use std::{sync::Arc, time::Duration};

use qrelay_store::{
    id::{ConfigSeq, EndpointId},
    limits::HEALTH_EVENTS_AT_ONCE,
    store::{ConfigChange, Result},
};
use tokio::time::Instant;

use super::actor::{Actor, Done};

/// In the configuration log, who announces what an owner found.
const ACTOR: &str = "dispatcher";
/// How often what waits for its pace, or failed, is looked at.
const LOOK_PERIOD: Duration = Duration::from_secs(1);

impl Actor {
    /// Announces what is saved and due.
    pub(super) fn announce(&mut self, now: Instant) {
        if now < self.announce_at || !self.ledger.has_unannounced() {
            return;
        }
        self.announce_at = now + LOOK_PERIOD;
        let at = self.wall();
        let room = HEALTH_EVENTS_AT_ONCE.saturating_sub(self.announcing.len());
        let due = self
            .ledger
            .announcements(at)
            .filter(|(subscriber, _)| !self.announcing.contains(&subscriber.config.id));
        let changes: Vec<_> = due
            .map(|(subscriber, change)| {
                let change = ConfigChange::of_health(&subscriber.config, change.clone(), at, ACTOR);
                (subscriber.config.id, change)
            })
            .take(room)
            .collect();
        for (endpoint, change) in changes {
            self.announcing.insert(endpoint);
            let store = Arc::clone(&self.shard.store);
            self.work.spawn(async move {
                let told = store.announce_health(&change).await;
                Done::Announced(endpoint, change.version, told)
            });
        }
    }

    pub(super) fn end_announcement(
        &mut self,
        endpoint: EndpointId,
        version: u64,
        result: Result<Option<ConfigSeq>>,
    ) {
        self.announcing.remove(&endpoint);
        match result {
            Ok(seq) => {
                let wall = self.wall();
                self.ledger.announced(endpoint, version, seq.is_some(), wall);
                self.announce_at = Instant::now();
                self.save_soon();
            }
            Err(error) => {
                tracing::warn!(%endpoint, %error, "cannot announce a change of an endpoint's health; trying again");
            }
        }
    }
}
