//! Counting per caller, bounded: governor's keyed limiters with a ceiling on how many keys they hold.

use std::{
    hash::Hash,
    num::NonZeroU32,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter, clock::Clock};
use qrelay_store::limits;

/// Idle callers are forgotten once per so many checks.
const SWEEP_EVERY: u32 = 1024;

/// A rate per caller.
pub(crate) struct Limiter<K: Hash + Eq + Clone> {
    states: DefaultKeyedRateLimiter<K>,
    clock: governor::clock::DefaultClock,
    checks: AtomicU32,
}

impl<K: Hash + Eq + Clone> Limiter<K> {
    /// One permit per `period`, `burst` at once.
    pub(crate) fn new(period: Duration, burst: u32) -> Self {
        let burst = NonZeroU32::new(burst.max(1)).expect("invariant: at least 1");
        let quota = Quota::with_period(period.max(Duration::from_nanos(1)))
            .expect("invariant: the period is not zero")
            .allow_burst(burst);
        Self {
            states: RateLimiter::keyed(quota),
            clock: Default::default(),
            checks: AtomicU32::new(0),
        }
    }

    /// Takes a permit, or says how long to wait for one.
    pub(crate) fn check(&self, key: &K) -> Result<(), Duration> {
        if self.checks.fetch_add(1, Ordering::Relaxed) % SWEEP_EVERY == SWEEP_EVERY - 1 {
            self.states.retain_recent();
            self.states.shrink_to_fit();
        }
        if self.states.len() > limits::API_LIMITED_CALLERS_MAX {
            return Err(Duration::from_secs(1));
        }
        self.states
            .check_key(key)
            .map_err(|until| until.wait_time_from(self.clock.now()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_gets_its_burst_and_then_waits_while_others_go_on() {
        let limiter = Limiter::new(Duration::from_secs(3600), 3);
        assert_eq!((0..5).filter(|_| limiter.check(&"a").is_ok()).count(), 3);
        let wait = limiter.check(&"a").unwrap_err();
        assert!(
            wait > Duration::from_secs(3000) && wait <= Duration::from_secs(3600),
            "{wait:?}"
        );
        assert!(limiter.check(&"b").is_ok());
    }
}
