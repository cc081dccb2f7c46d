//! The limits that replays were given, while they are under way.

use std::collections::HashMap;

use qrelay_store::{id::ReplayId, model::RateLimit};
use tokio::time::Instant;

use crate::{
    ledger::Ledger,
    pace::{Count, SharedLimit},
};

/// By replay.
#[derive(Debug, Default)]
pub struct ReplayPaces(HashMap<ReplayId, ReplayPace>);

#[derive(Debug)]
struct ReplayPace {
    limit: SharedLimit,
    /// When its endpoint wakes for it.
    wakes: Option<Instant>,
}

/// Whether a replay may send now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum May {
    /// It may.
    Now,
    /// Its endpoint is to wake at the instant.
    WakeAt(Instant),
    /// Its endpoint wakes already.
    Waits,
}

impl ReplayPaces {
    /// What a replay's requests must pass beside the limits of its endpoint; none for one without a limit.
    pub fn of(&mut self, ledger: &Ledger, replay: ReplayId) -> Option<SharedLimit> {
        Some(self.pace(ledger, replay)?.limit.clone())
    }

    fn pace(&mut self, ledger: &Ledger, replay: ReplayId) -> Option<&mut ReplayPace> {
        let per_second = ledger.replay_range(replay)?.per_second?;
        Some(self.0.entry(replay).or_insert_with(|| {
            let limit = SharedLimit::default();
            limit.set(Some(RateLimit { per_second, burst: 1 }));
            ReplayPace { limit, wakes: None }
        }))
    }

    /// Whether a replay's own limit lets it send. Live deliveries make its endpoint ask often; one timer is enough.
    pub fn ask(&mut self, ledger: &Ledger, replay: ReplayId) -> May {
        let Some(pace) = self.pace(ledger, replay) else {
            return May::Now;
        };
        match pace.limit.peek(Count::Plan) {
            None => May::Now,
            Some(at) if pace.wakes.replace(at) == Some(at) => May::Waits,
            Some(at) => May::WakeAt(at),
        }
    }

    /// Forgets the limits of replays that are over, but those that an exchange still holds.
    pub fn forget_idle(&mut self, ledger: &Ledger) {
        self.0
            .retain(|id, pace| ledger.replay_range(*id).is_some() || pace.limit.is_held());
    }
}
