//! How fast an endpoint may be sent to: its own limit, its tenant's, and the careful pace of probation.
//!
//! Every limit counts twice. The *plan* says when the next exchange may be started, so that nobody holds a connection
//! while waiting for its turn; the *gate* is asked in the connection's write path, as the first byte goes out, and is
//! what makes the limit exact. Exchanges are started no faster than the plan allows, and each reaches its gate within an
//! exchange's time, so none waits there for longer than the slowest of them was late.
//!
//! Invariants: in any second at most `per_second` + `burst` permits are given by the gate, across a change at most the
//! larger of each (promise 5): a new or changed limit starts empty, its first permit is due one period later. A gate that
//! waits obeys the limit as it is when it is asked again, not as it was. A request that one limit keeps back uses up
//! nothing of the others.

use std::{
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use governor::{
    Quota, RateLimiter,
    clock::Clock,
    middleware::NoOpMiddleware,
    nanos::Nanos,
    state::{NotKeyed, StateStore},
};
use qrelay_store::model::RateLimit;
use tokio::time::Instant;

/// Requests a second to an endpoint that never answered 2xx, or fails.
const PROBATION_PER_SECOND: f64 = 10.0;
/// The longest a limit is reckoned ahead, period and burst together: governor counts nanoseconds in 64 bits, which end
/// after 584 years. Nothing that runs waits for so long.
const HORIZON: Duration = Duration::from_secs(50 * 365 * 24 * 3600);

/// Which of a limit's two counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Count {
    /// Exchanges started.
    Plan,
    /// First bytes written.
    Gate,
}

/// Governor's state, which can be looked at without being changed.
#[derive(Clone, Debug, Default)]
struct Slot(Arc<Mutex<(Option<Nanos>, Look)>>);

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Look {
    #[default]
    Take,
    Peek,
}

impl StateStore for Slot {
    type Key = NotKeyed;

    fn measure_and_replace<T, F, E>(&self, _: &NotKeyed, judge: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut slot = lock(&self.0);
        let (answer, next) = judge(slot.0)?;
        if slot.1 == Look::Take {
            slot.0 = Some(next);
        }
        Ok(answer)
    }
}

/// tokio's clock, from an instant of our own on.
#[derive(Clone, Copy, Debug)]
struct TokioClock(Instant);

impl Clock for TokioClock {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::from(self.0.elapsed())
    }
}

#[derive(Debug)]
struct Counter {
    limiter: RateLimiter<NotKeyed, Slot, TokioClock, NoOpMiddleware<Nanos>>,
    slot: Slot,
    origin: Instant,
}

impl Counter {
    fn new(quota: Quota) -> Self {
        let (slot, origin) = (Slot::default(), Instant::now());
        Self {
            limiter: RateLimiter::new(quota, slot.clone(), TokioClock(origin)),
            slot,
            origin,
        }
    }

    /// Uses all of the burst up: the first permit is due one period from now.
    fn empty(self, burst: NonZeroU32) -> Self {
        let emptied = self.limiter.check_n(burst);
        debug_assert!(matches!(emptied, Ok(Ok(()))), "a new limiter holds its burst");
        self
    }

    /// None when a request may begin now; else when to ask again.
    fn ask(&self, look: Look) -> Option<Instant> {
        lock(&self.slot.0).1 = look;
        let not_until = self.limiter.check().err()?;
        Some(self.origin + Duration::from_nanos(not_until.earliest_possible().as_u64()))
    }
}

/// One limit, counted twice.
#[derive(Debug)]
struct Limit {
    rate: RateLimit,
    plan: Counter,
    gate: Counter,
}

impl Limit {
    /// One that starts empty.
    fn empty(rate: RateLimit) -> Self {
        let (quota, burst) = quota(rate);
        Self {
            rate,
            plan: Counter::new(quota).empty(burst),
            gate: Counter::new(quota).empty(burst),
        }
    }

    fn probation() -> Self {
        let rate = RateLimit {
            per_second: PROBATION_PER_SECOND,
            burst: 1,
        };
        let (quota, _) = quota(rate);
        Self {
            rate,
            plan: Counter::new(quota),
            gate: Counter::new(quota),
        }
    }

    fn ask(&self, count: Count, look: Look) -> Option<Instant> {
        match count {
            Count::Plan => self.plan.ask(look),
            Count::Gate => self.gate.ask(look),
        }
    }
}

/// A period rounded up to a nanosecond and a burst, both at least 1 and together within [`HORIZON`].
fn quota(rate: RateLimit) -> (Quota, NonZeroU32) {
    let period = Duration::try_from_secs_f64(rate.per_second.recip()).unwrap_or(HORIZON);
    // Rounded to the nearest nanosecond, it could be too short by half of one.
    let period = period.min(HORIZON).saturating_add(Duration::from_nanos(1));
    let room = u32::try_from(HORIZON.as_nanos() / period.as_nanos()).unwrap_or(u32::MAX);
    let burst = NonZeroU32::new(rate.burst.min(room)).unwrap_or(NonZeroU32::MIN);
    let quota = Quota::with_period(period).expect("invariant: a period is at least a nanosecond");
    (quota.allow_burst(burst), burst)
}

/// A limit that several endpoints share: a tenant's; or the requests of one replay.
#[derive(Clone, Debug, Default)]
pub struct SharedLimit(Arc<Mutex<Option<Limit>>>);

impl SharedLimit {
    /// The limit from now on. An unchanged one goes on counting.
    pub fn set(&self, rate: Option<RateLimit>) {
        change(&mut lock(&self.0), rate);
    }

    /// When a request may begin, if that is not now. Uses up nothing.
    pub fn peek(&self, count: Count) -> Option<Instant> {
        lock(&self.0)
            .as_ref()
            .and_then(|limit| limit.ask(count, Look::Peek))
    }

    /// Whether an endpoint's pace still holds it.
    pub fn is_held(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}

#[derive(Debug)]
struct Limits {
    own: Option<Limit>,
    probation: Option<Limit>,
    shared: SharedLimit,
}

/// All that one endpoint's requests must pass. Shared by its owner and its exchanges.
#[derive(Debug)]
pub struct Pace(Mutex<Limits>);

impl Pace {
    /// Without a limit of its own yet.
    pub fn new(shared: SharedLimit) -> Self {
        Self(Mutex::new(Limits {
            own: None,
            probation: None,
            shared,
        }))
    }

    /// The limits from now on. Unchanged ones go on counting.
    pub fn set(&self, own: Option<RateLimit>, on_probation: bool) {
        let mut limits = lock(&self.0);
        change(&mut limits.own, own);
        if !on_probation {
            limits.probation = None;
        } else if limits.probation.is_none() {
            limits.probation = Some(Limit::probation());
        }
    }

    /// When a request may begin, if that is not now. Uses up nothing.
    pub fn peek(&self, count: Count) -> Option<Instant> {
        self.ask(None, count, Look::Peek)
    }

    /// Which limit keeps the next request back the longest, for people. None when it may begin now.
    pub fn keeper(&self) -> Option<&'static str> {
        let limits = lock(&self.0);
        let shared = lock(&limits.shared.0);
        let all = [
            (&limits.own, "the endpoint's rate limit"),
            (
                &limits.probation,
                "the careful pace of an endpoint that does not answer yet",
            ),
            (&*shared, "the tenant's rate limit"),
        ];
        let waits = all.into_iter().filter_map(|(limit, name)| {
            let at = limit.as_ref()?.ask(Count::Plan, Look::Peek)?;
            Some((at, name))
        });
        waits.max_by_key(|(at, _)| *at).map(|(_, name)| name)
    }

    /// Begins a request: none when it may, and its permit is used up; else when to ask again.
    pub fn take(&self, count: Count) -> Option<Instant> {
        self.take_within(None, count)
    }

    /// The same for a request that has one more limit to pass.
    pub fn take_within(&self, more: Option<&SharedLimit>, count: Count) -> Option<Instant> {
        self.ask(more, count, Look::Take)
    }

    fn ask(&self, more: Option<&SharedLimit>, count: Count, look: Look) -> Option<Instant> {
        let limits = lock(&self.0);
        // Always in this order, endpoint, tenant and then replay, so that nobody waits for each other.
        let shared = lock(&limits.shared.0);
        let more = more.map(|more| lock(&more.0));
        let more = more.as_ref().and_then(|more| more.as_ref());
        let all = [&limits.own, &limits.probation, &*shared];
        let all = all.into_iter().flatten().chain(more);
        // First all are asked, then all are taken from.
        let wait = all.clone().filter_map(|limit| limit.ask(count, Look::Peek)).max();
        if wait.is_some() || look == Look::Peek {
            return wait;
        }
        // The clock only went on since they were asked.
        all.filter_map(|limit| limit.ask(count, Look::Take)).max()
    }
}

fn change(limit: &mut Option<Limit>, rate: Option<RateLimit>) {
    if limit.as_ref().map(|limit| limit.rate) != rate {
        *limit = rate.map(Limit::empty);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::{
        task::JoinSet,
        time::{sleep, sleep_until},
    };

    use super::*;

    /// Waits for a permit as an exchange's gate does, and uses it up.
    async fn permit(pace: &Pace) {
        while let Some(at) = pace.take(Count::Gate) {
            sleep_until(at).await;
        }
    }

    const SECOND: Duration = Duration::from_secs(1);

    fn rate(per_second: f64, burst: u32) -> Option<RateLimit> {
        Some(RateLimit { per_second, burst })
    }

    fn limited(limit: Option<RateLimit>) -> Arc<Pace> {
        let pace = Pace::new(SharedLimit::default());
        pace.set(limit, false);
        Arc::new(pace)
    }

    /// As many permits as `pace` gives in `span` to eight who never stop asking.
    async fn greedy(paces: &[Arc<Pace>], span: Duration) -> Vec<Instant> {
        let (until, given) = (Instant::now() + span, Arc::new(Mutex::new(Vec::new())));
        let mut set = JoinSet::new();
        for pace in paces.iter().cycle().take(paces.len() * 8) {
            let (pace, given) = (Arc::clone(pace), Arc::clone(&given));
            set.spawn(async move {
                while tokio::time::timeout_at(until, permit(&pace)).await.is_ok() {
                    lock(&given).push(Instant::now());
                }
            });
        }
        while set.join_next().await.is_some() {}
        lock(&given).clone()
    }

    /// The fullest second, from each permit on, its own instant included and the one a second later not.
    fn fullest_second(given: &[Instant]) -> usize {
        let within = |from: Instant| {
            given
                .iter()
                .filter(|at| **at >= from && **at < from + SECOND)
                .count()
        };
        given.iter().map(|from| within(*from)).max().unwrap_or(0)
    }

    #[tokio::test(start_paused = true)]
    async fn no_second_has_more_than_the_limit_and_its_burst_and_the_limit_is_reached() {
        for (per_second, burst) in [(10.0, 1), (7.0, 5), (0.5, 1), (2.5, 3), (200.0, 20)] {
            let given = greedy(&[limited(rate(per_second, burst))], 8 * SECOND).await;
            let most = per_second + f64::from(burst);
            let fullest = fullest_second(&given);
            assert!(
                f64::from(u32::try_from(fullest).unwrap()) <= most,
                "{fullest} at {per_second}"
            );
            let total = f64::from(u32::try_from(given.len()).unwrap());
            assert!(total >= per_second * 8.0 - 2.0, "{total} at {per_second}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_limit_starts_empty_and_gives_its_burst_only_after_it_was_idle() {
        let begun = Instant::now();
        let pace = limited(rate(2.0, 4));
        permit(&pace).await;
        assert!(begun.elapsed() >= SECOND / 2 && begun.elapsed() < SECOND / 2 + Duration::from_millis(2));
        sleep(10 * SECOND).await;
        let idle = Instant::now();
        for _ in 0..4 {
            permit(&pace).await;
        }
        assert_eq!(idle.elapsed(), Duration::ZERO);
        permit(&pace).await;
        assert!(idle.elapsed() > Duration::from_millis(400));
    }

    #[tokio::test(start_paused = true)]
    async fn across_a_change_no_second_has_more_than_the_larger_limit_and_the_larger_burst() {
        for (before, after) in [((20.0, 1), (5.0, 8)), ((5.0, 8), (20.0, 1)), ((3.0, 3), (3.0, 9))] {
            let pace = limited(rate(before.0, before.1));
            sleep(5 * SECOND).await;
            let changing = Arc::clone(&pace);
            let mut set = JoinSet::new();
            set.spawn(async move {
                for (per_second, burst) in [after, before, after] {
                    sleep(Duration::from_millis(1370)).await;
                    changing.set(rate(per_second, burst), false);
                }
            });
            let given = greedy(&[pace], 6 * SECOND).await;
            let most = f64::max(before.0, after.0) + f64::from(before.1.max(after.1));
            let fullest = f64::from(u32::try_from(fullest_second(&given)).unwrap());
            assert!(fullest <= most, "{fullest} from {before:?} to {after:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_shared_limit_holds_for_all_together_and_what_it_keeps_back_uses_up_nothing() {
        let shared = SharedLimit::default();
        shared.set(rate(4.0, 1));
        let paces: Vec<_> = (0..3)
            .map(|_| {
                let pace = Pace::new(shared.clone());
                pace.set(rate(2.0, 1), false);
                Arc::new(pace)
            })
            .collect();
        let given = greedy(&paces, 10 * SECOND).await;
        assert!(fullest_second(&given) <= 5);
        assert!(given.len() >= 36, "{}", given.len());
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_uses_up_nothing_and_plan_and_gate_are_counted_apart() {
        let pace = limited(rate(1.0, 1));
        sleep(2 * SECOND).await;
        assert_eq!((pace.peek(Count::Plan), pace.peek(Count::Plan)), (None, None));
        assert_eq!(pace.take(Count::Plan), None);
        assert!(pace.take(Count::Plan).is_some());
        assert_eq!(pace.take(Count::Gate), None);
        assert!(pace.peek(Count::Gate).is_some());
        pace.set(None, false);
        assert_eq!(
            pace.take(Count::Gate),
            None,
            "a limit that was lifted holds nobody"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn probation_gives_its_first_permit_at_once_and_ends_with_it() {
        let pace = Pace::new(SharedLimit::default());
        pace.set(None, true);
        assert_eq!(pace.take(Count::Plan), None);
        assert!(pace.take(Count::Plan).is_some());
        pace.set(None, true);
        assert!(pace.take(Count::Plan).is_some(), "it goes on counting");
        pace.set(None, false);
        assert_eq!(pace.take(Count::Plan), None);
    }

    proptest! {
        #[test]
        fn every_limit_makes_a_quota_that_is_not_faster(per_second in 1e-300_f64..=100_000.0, burst in 1_u32..=100_000) {
            let (quota, burst) = quota(RateLimit { per_second, burst });
            prop_assert!(quota.replenish_interval().as_secs_f64() * per_second > 0.999_999_999 || per_second < 1e-9);
            prop_assert!(quota.replenish_interval().checked_mul(burst.get()).unwrap() <= 2 * HORIZON);
        }
    }
}
