//! How an endpoint fares: healthy, degraded after failed attempts in a row, disabled after a long time of nothing
//! else or because its receiver wants no more. When that is, its settings say.
//!
//! Who answers again is not flooded: attempts under way at once start at one, and each success makes room for one
//! more, so that they double with every round of answers (slow start); a failure on the way halves them.
//!
//! Each change of state is announced as an event (`endpoint.*`), once it is saved: [`EndpointHealth::unannounced`] is the
//! last one. An endpoint that comes and goes floods nobody: announcements are paced, and one that waits is replaced by the
//! next change, so that what is told then is how the endpoint stands.
//!
//! Pure rules over [`EndpointHealth`], which the checkpoint keeps. Failures are counted by attempt; our own trouble
//! is nobody's failure. Nothing here loses an event: a disabled endpoint's deliveries wait.

use std::time::Duration;

use qrelay_store::{
    Timestamp,
    checkpoint::{EndpointHealth, HealthChange, HealthReason, HealthState},
    limits::{FAILURES_TO_DISABLE_MIN, HEALTH_EVENT_PERIOD, HEALTH_EVENTS_BURST},
    model::Endpoint,
};

/// What an attempt says about the endpoint's health.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sign {
    /// A 2xx.
    Success,
    /// Anything else that is not our fault.
    Failure,
    /// A 410: the receiver wants no more.
    Gone,
    /// The receiver asked for no more by a header.
    Unwanted,
}

/// Takes an attempt's outcome into account. Says whether the state changed.
pub fn observe(health: &mut EndpointHealth, sign: Sign, endpoint: &Endpoint, now: Timestamp) -> bool {
    let rules = &endpoint.failure;
    if sign == Sign::Success {
        let ramp = if on_probation(health) {
            Some(1)
        } else {
            health.ramp
        };
        health.ever_succeeded = true;
        if health.state == HealthState::Disabled {
            // A straggler's success does not lift it either: that is for its tenant to do.
            return false;
        }
        let changed = enter(health, HealthState::Healthy, HealthReason::Succeeded, now);
        end_failures(health);
        health.ramp = ramp
            .map(|width| width + 1)
            .filter(|width| *width < endpoint.max_concurrency);
        return changed;
    }
    health.ramp = health.ramp.map(|width| (width / 2).max(1));
    health.consecutive_failures += 1;
    let since = *health.failing_since.get_or_insert(now);
    let failures = health.consecutive_failures;
    let endured = Duration::from_millis(rules.disable_after_ms);
    let too_long = !endured.is_zero() && failures >= FAILURES_TO_DISABLE_MIN && now.since(since) >= endured;
    let too_many = rules.degrade_after > 0 && failures >= u64::from(rules.degrade_after);
    let (state, reason) = match (sign, health.state) {
        (Sign::Gone, _) => (HealthState::Disabled, HealthReason::Gone),
        (Sign::Unwanted, _) => (HealthState::Disabled, HealthReason::ReceiverAsked),
        _ if too_long => (HealthState::Disabled, HealthReason::FailingTooLong),
        (_, HealthState::Healthy) if too_many => (HealthState::Degraded, HealthReason::Failures),
        // A straggler's failure does not lift a disabled endpoint.
        (_, state) => (state, HealthReason::Failures),
    };
    enter(health, state, reason, now)
}

/// Starts anew when the tenant set the endpoint active since. Says whether the state changed.
pub fn enable(health: &mut EndpointHealth, endpoint: &Endpoint) -> bool {
    if endpoint.enabled_epoch <= health.enabled_epoch {
        return false;
    }
    health.enabled_epoch = endpoint.enabled_epoch;
    let at = endpoint.updated_at;
    let changed = enter(health, HealthState::Healthy, HealthReason::SetActive, at);
    end_failures(health);
    if changed {
        health.ramp = Some(1);
    }
    changed
}

/// Attempts that may be under way at once.
pub fn concurrency(health: &EndpointHealth, endpoint: &Endpoint) -> u32 {
    if on_probation(health) {
        return 1;
    }
    let most = endpoint.max_concurrency.max(1);
    health.ramp.map_or(most, |width| width.min(most))
}

/// Whether the endpoint gets one connection and few requests only: it never answered 2xx, so nobody can be flooded
/// by registering them, or it fails.
pub fn on_probation(health: &EndpointHealth) -> bool {
    !health.ever_succeeded || health.state != HealthState::Healthy
}

/// When the pending change may be announced; none when there is none.
pub fn announce_at(health: &EndpointHealth, now: Timestamp) -> Option<Timestamp> {
    health.unannounced.as_ref()?;
    let ahead_max = HEALTH_EVENT_PERIOD * (HEALTH_EVENTS_BURST - 1);
    let due = health.paced_to.map(|paced_to| paced_to.before(ahead_max));
    // Further away than any pace leads: the clock was set back.
    Some(
        due.filter(|due| due.since(now) <= HEALTH_EVENT_PERIOD)
            .unwrap_or(now),
    )
}

/// A change was announced: as an event if `told`. Says whether it is the pending one.
pub fn announced(health: &mut EndpointHealth, version: u64, told: bool, now: Timestamp) -> bool {
    if told {
        let ahead_max = HEALTH_EVENT_PERIOD * HEALTH_EVENTS_BURST;
        let paced_to = health
            .paced_to
            .filter(|paced_to| paced_to.since(now) <= ahead_max);
        health.paced_to = Some(paced_to.unwrap_or(now).max(now).after(HEALTH_EVENT_PERIOD));
    }
    health
        .unannounced
        .take_if(|change| change.version == version)
        .is_some()
}

fn end_failures(health: &mut EndpointHealth) {
    health.consecutive_failures = 0;
    health.failing_since = None;
    health.last_failure = None;
}

fn enter(health: &mut EndpointHealth, state: HealthState, reason: HealthReason, at: Timestamp) -> bool {
    if health.state == state {
        return false;
    }
    health.state = state;
    health.version += 1;
    health.unannounced = Some(HealthChange {
        version: health.version,
        state,
        reason,
        at,
        consecutive_failures: health.consecutive_failures,
        failing_since: health.failing_since,
        last_failure: health.last_failure.clone(),
    });
    true
}

#[cfg(test)]
mod tests {
    use qrelay_store::model::FailureRules;

    use super::*;
    use crate::fixture;

    /// An endpoint with these thresholds, in hours for the second.
    fn with_rules(degrade_after: u32, disable_after_hours: u64) -> Endpoint {
        let mut endpoint = fixture::endpoint(1);
        endpoint.failure = FailureRules {
            degrade_after,
            disable_after_ms: disable_after_hours * 3600 * 1000,
            ..FailureRules::default()
        };
        endpoint
    }

    fn usual() -> Endpoint {
        with_rules(5, 24)
    }

    #[test]
    fn settings_move_both_thresholds_and_zero_is_never() {
        let rules = with_rules(2, 1);
        let mut health = EndpointHealth::default();
        assert!(!observe(&mut health, Sign::Failure, &rules, at(0)));
        assert!(observe(&mut health, Sign::Failure, &rules, at(0)));
        assert_eq!(health.state, HealthState::Degraded);
        observe(&mut health, Sign::Failure, &rules, at(0));
        observe(&mut health, Sign::Failure, &rules, at(2));
        assert_eq!(health.state, HealthState::Degraded, "four failures are few");
        observe(&mut health, Sign::Failure, &rules, at(2));
        assert_eq!(health.state, HealthState::Disabled);
        let never = with_rules(0, 0);
        let mut health = EndpointHealth::default();
        for hour in 0..1000 {
            assert!(!observe(&mut health, Sign::Failure, &never, at(hour)));
        }
        assert_eq!(health.state, HealthState::Healthy);
    }

    fn at(hours: u64) -> Timestamp {
        Timestamp::EPOCH.after(Duration::from_secs(hours * 3600))
    }

    #[test]
    fn five_failures_in_a_row_degrade_and_one_success_heals() {
        let mut health = EndpointHealth::default();
        assert!(on_probation(&health));
        for _ in 0..4 {
            assert!(!observe(&mut health, Sign::Failure, &usual(), at(0)));
        }
        assert!(observe(&mut health, Sign::Failure, &usual(), at(0)));
        assert_eq!((health.state, health.version), (HealthState::Degraded, 1));
        assert!(observe(&mut health, Sign::Success, &usual(), at(0)));
        assert_eq!(
            (health.state, health.consecutive_failures),
            (HealthState::Healthy, 0)
        );
        assert!(!on_probation(&health));
    }

    #[test]
    fn a_day_of_nothing_but_failures_disables_but_a_success_within_it_does_not() {
        let mut health = EndpointHealth::default();
        for hour in 0..24 {
            observe(&mut health, Sign::Failure, &usual(), at(hour));
        }
        assert_eq!(health.state, HealthState::Degraded);
        observe(&mut health, Sign::Success, &usual(), at(23));
        for hour in 24..48 {
            observe(&mut health, Sign::Failure, &usual(), at(hour));
        }
        assert_eq!(health.state, HealthState::Degraded);
        assert!(observe(&mut health, Sign::Failure, &usual(), at(48)));
        assert_eq!(health.state, HealthState::Disabled);
        assert!(!observe(&mut health, Sign::Failure, &usual(), at(49)));
    }

    #[test]
    fn a_few_rare_failures_over_days_do_not_disable() {
        let mut health = EndpointHealth::default();
        observe(&mut health, Sign::Failure, &usual(), at(0));
        observe(&mut health, Sign::Failure, &usual(), at(100));
        assert_eq!(health.state, HealthState::Healthy);
    }

    #[test]
    fn gone_disables_at_once_until_the_tenant_enables_it_again() {
        let mut health = EndpointHealth::default();
        assert!(observe(&mut health, Sign::Gone, &usual(), at(0)));
        assert_eq!(health.state, HealthState::Disabled);
        assert!(
            !observe(&mut health, Sign::Success, &usual(), at(0)),
            "a straggler"
        );
        assert_eq!(health.state, HealthState::Disabled);
        let mut endpoint = fixture::endpoint(1);
        assert!(!enable(&mut health, &endpoint));
        endpoint.enabled_epoch = 1;
        assert!(enable(&mut health, &endpoint));
        assert_eq!(
            (health.state, health.consecutive_failures),
            (HealthState::Healthy, 0)
        );
        assert!(!enable(&mut health, &endpoint));
    }

    #[test]
    fn who_answers_again_gets_one_more_at_once_for_each_success_up_to_all() {
        let mut endpoint = usual();
        endpoint.max_concurrency = 6;
        let mut health = EndpointHealth::default();
        let mut widths = Vec::new();
        let mut take = |health: &mut EndpointHealth, sign| {
            observe(health, sign, &endpoint, at(0));
            widths.push(concurrency(health, &endpoint));
        };
        // Its first answer, then a failure on the way.
        [
            Sign::Success,
            Sign::Success,
            Sign::Success,
            Sign::Failure,
            Sign::Success,
        ]
        .into_iter()
        .for_each(|sign| take(&mut health, sign));
        // It fails for good, and recovers.
        (0..5).for_each(|_| take(&mut health, Sign::Failure));
        assert_eq!(health.state, HealthState::Degraded);
        (0..6).for_each(|_| take(&mut health, Sign::Success));
        assert_eq!(widths, [2, 3, 4, 2, 3, 1, 1, 1, 1, 1, 2, 3, 4, 5, 6, 6]);
        assert_eq!(health.ramp, None, "nothing is saved of what is over");
    }

    #[test]
    fn who_is_set_active_starts_slowly_and_one_that_does_well_is_left_alone() {
        let mut endpoint = usual();
        let mut health = EndpointHealth::default();
        observe(&mut health, Sign::Gone, &endpoint, at(0));
        health.ever_succeeded = true;
        endpoint.enabled_epoch = 1;
        enable(&mut health, &endpoint);
        assert_eq!(concurrency(&health, &endpoint), 1);
        for _ in 0..15 {
            observe(&mut health, Sign::Success, &endpoint, at(0));
        }
        assert_eq!(concurrency(&health, &endpoint), endpoint.max_concurrency);
        endpoint.enabled_epoch = 2;
        enable(&mut health, &endpoint);
        assert_eq!(concurrency(&health, &endpoint), endpoint.max_concurrency);
    }

    #[test]
    fn a_change_says_why_and_what_led_to_it_or_what_it_ended() {
        let mut endpoint = usual();
        let mut health = EndpointHealth::default();
        let said = |health: &EndpointHealth| {
            let change = health.unannounced.as_ref().unwrap();
            (
                change.version,
                change.state,
                change.reason,
                change.at,
                change.consecutive_failures,
                change.failing_since,
            )
        };
        for hour in 1..=5 {
            observe(&mut health, Sign::Failure, &endpoint, at(hour));
        }
        let degraded = (
            1,
            HealthState::Degraded,
            HealthReason::Failures,
            at(5),
            5,
            Some(at(1)),
        );
        assert_eq!(said(&health), degraded);
        observe(&mut health, Sign::Success, &endpoint, at(6));
        let recovered = (
            2,
            HealthState::Healthy,
            HealthReason::Succeeded,
            at(6),
            5,
            Some(at(1)),
        );
        assert_eq!(said(&health), recovered);
        observe(&mut health, Sign::Unwanted, &endpoint, at(7));
        let asked = (
            3,
            HealthState::Disabled,
            HealthReason::ReceiverAsked,
            at(7),
            1,
            Some(at(7)),
        );
        assert_eq!(said(&health), asked);
        (endpoint.enabled_epoch, endpoint.updated_at) = (1, at(8));
        enable(&mut health, &endpoint);
        let set_active = (
            4,
            HealthState::Healthy,
            HealthReason::SetActive,
            at(8),
            1,
            Some(at(7)),
        );
        assert_eq!(said(&health), set_active);
        assert_eq!((health.consecutive_failures, health.failing_since), (0, None));
    }

    #[test]
    fn an_endpoint_that_comes_and_goes_is_announced_at_its_pace_only() {
        let mut health = EndpointHealth::default();
        let second = |second: u64| Timestamp::EPOCH.after(Duration::from_secs(second));
        let mut announced_at = Vec::new();
        for now in 0..3600 {
            let sign = if now % 10 < 5 {
                Sign::Failure
            } else {
                Sign::Success
            };
            observe(&mut health, sign, &usual(), second(now));
            if announce_at(&health, second(now)).is_some_and(|due| due <= second(now)) {
                let version = health.unannounced.as_ref().unwrap().version;
                assert_eq!(version, health.version, "always the last change");
                assert!(announced(&mut health, version, true, second(now)));
                announced_at.push(now);
            }
        }
        let burst = usize::try_from(HEALTH_EVENTS_BURST).unwrap();
        assert_eq!(announced_at[..burst], [4, 5, 14, 15], "the first ones at once");
        for pair in announced_at[burst..].windows(2) {
            assert!(
                pair[1] - pair[0] >= HEALTH_EVENT_PERIOD.as_secs(),
                "{announced_at:?}"
            );
        }
        let expected = 3600 / HEALTH_EVENT_PERIOD.as_secs();
        assert!(
            announced_at.len() as u64 + 2 >= expected,
            "it goes on: {announced_at:?}"
        );
    }

    #[test]
    fn a_clock_that_is_set_back_keeps_no_announcement_for_longer_than_the_pace() {
        let mut health = EndpointHealth::default();
        observe(&mut health, Sign::Gone, &usual(), at(100));
        for _ in 0..HEALTH_EVENTS_BURST {
            assert!(!announced(&mut health, 0, true, at(100)), "an earlier change");
        }
        let next = at(100).after(HEALTH_EVENT_PERIOD);
        assert_eq!(announce_at(&health, at(100)), Some(next));
        assert_eq!(announce_at(&health, at(1)), Some(at(1)));
        assert!(announced(&mut health, 1, true, at(1)));
        assert_eq!(announce_at(&health, at(1)), None);
    }
}
