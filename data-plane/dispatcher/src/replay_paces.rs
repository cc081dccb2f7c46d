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

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use qrelay_store::{
        Timestamp,
        checkpoint::ReplayRange,
        id::{EndpointId, PartitionId},
    };
    use tokio::time::sleep_until;

    use super::*;
    use crate::{fixture, pace::Pace};

    const PER_SECOND: f64 = 4.0;

    #[tokio::test(start_paused = true)]
    async fn of_a_replay_no_more_begins_in_any_second_than_it_was_given_and_no_less() {
        let mut ledger = Ledger::new(PartitionId::new(0), 1);
        ledger.subscribe(Arc::new(fixture::endpoint(1)));
        let replay = ReplayId::of(EndpointId::from_bytes([1; 10]), [1; 10]);
        let range = ReplayRange {
            start: Timestamp::EPOCH,
            end: Timestamp::from_millis(1),
            end_given: None,
            only_failed: false,
            per_second: Some(PER_SECOND),
        };
        ledger.begin_replay(replay, range, Timestamp::EPOCH);
        let (mut paces, endpoint) = (ReplayPaces::default(), Pace::new(SharedLimit::default()));
        let start = Instant::now();
        let mut begun: Vec<Duration> = Vec::new();
        while begun.len() < 40 {
            match paces.ask(&ledger, replay) {
                May::Now => {
                    let limit = paces.of(&ledger, replay);
                    // Planned, and then its first byte goes out.
                    assert_eq!(endpoint.take_within(limit.as_ref(), Count::Plan), None);
                    assert_eq!(endpoint.take_within(limit.as_ref(), Count::Gate), None);
                    begun.push(start.elapsed());
                }
                May::WakeAt(at) => {
                    assert_eq!(paces.ask(&ledger, replay), May::Waits, "one timer is enough");
                    sleep_until(at).await;
                }
                May::Waits => panic!("it woke, and is told to wait for that"),
            }
        }
        for (first, at) in begun.iter().enumerate() {
            let window = begun[first..]
                .iter()
                .take_while(|later| **later - *at < Duration::from_secs(1));
            assert!(window.count() <= 5, "4 a second and a burst of 1: {begun:?}");
        }
        let all = *begun.last().unwrap();
        assert!(
            all <= Duration::from_millis(10_250),
            "slower than it was given: {all:?}"
        );
    }
}
