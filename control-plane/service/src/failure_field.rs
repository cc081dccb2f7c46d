//! An endpoint's field `failure`: what failed attempts mean for it.

use std::time::Duration;

use qrelay_proto::v1;
use qrelay_store::{
    limits::{DEGRADE_AFTER_MAX, DISABLE_AFTER_MAX, DISABLE_AFTER_MIN, RETRY_AFTER_MAX},
    model::FailureRules,
};

use crate::{refusal::Violations, wire};

/// The paths of the field, for update masks.
pub(crate) const PATHS: [&str; 7] = [
    "failure",
    "failure.retry_after_max",
    "failure.gone_disables",
    "failure.overload_slows",
    "failure.degrade_after",
    "failure.disable_after",
    "failure.client_errors_retried",
];

/// Sets what one of [`PATHS`] names; the rest stays. A rule without a value is the default's.
pub(crate) fn set(
    rules: &mut FailureRules,
    path: &str,
    given: Option<&v1::FailureRules>,
    violations: &mut Violations,
) {
    let (given, default) = (given.copied().unwrap_or_default(), FailureRules::default());
    let named = |rule: &str| path == "failure" || path.strip_prefix("failure.") == Some(rule);
    if named("retry_after_max") {
        rules.retry_after_max_ms = match given.retry_after_max.as_ref().map(wire::to_duration) {
            None => default.retry_after_max_ms,
            Some(Some(pause)) if pause <= RETRY_AFTER_MAX => millis(pause),
            Some(_) => refuse(violations, "failure.retry_after_max", "must be 0s to 86400s"),
        };
    }
    if named("gone_disables") {
        rules.gone_disables = given.gone_disables.unwrap_or(default.gone_disables);
    }
    if named("overload_slows") {
        rules.overload_slows = given.overload_slows.unwrap_or(default.overload_slows);
    }
    if named("client_errors_retried") {
        rules.client_errors_retried = given
            .client_errors_retried
            .unwrap_or(default.client_errors_retried);
    }
    if named("degrade_after") {
        rules.degrade_after = match given.degrade_after.map(u32::try_from) {
            None => default.degrade_after,
            Some(Ok(count)) if count <= DEGRADE_AFTER_MAX => count,
            Some(_) => refuse(violations, "failure.degrade_after", "must be 0 to 1000"),
        };
    }
    if named("disable_after") {
        rules.disable_after_ms = match given.disable_after.as_ref().map(wire::to_duration) {
            None => default.disable_after_ms,
            Some(Some(time)) if time.is_zero() => 0,
            Some(Some(time)) if (DISABLE_AFTER_MIN..=DISABLE_AFTER_MAX).contains(&time) => millis(time),
            Some(_) => refuse(
                violations,
                "failure.disable_after",
                "must be 0s, or 60s to 2592000s",
            ),
        };
    }
}

fn refuse<T: Default>(violations: &mut Violations, field: &str, rule: &str) -> T {
    violations.add(field, rule);
    T::default()
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// On the wire: every rule, defaults too.
pub(crate) fn show(rules: &FailureRules) -> v1::FailureRules {
    v1::FailureRules {
        retry_after_max: Some(wire::duration(rules.retry_after_max_ms)),
        gone_disables: Some(rules.gone_disables),
        overload_slows: Some(rules.overload_slows),
        degrade_after: Some(wire::small_count(rules.degrade_after)),
        disable_after: Some(wire::duration(rules.disable_after_ms)),
        client_errors_retried: Some(rules.client_errors_retried),
    }
}
