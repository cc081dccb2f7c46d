//! An endpoint's fields: what a caller may write, and how a row and its owner's findings look on the wire.

use std::time::Duration;

use qrelay_proto::v1;
use qrelay_store::{
    checkpoint::{BacklogReason, EndpointHealth, HealthState},
    clock::Timestamp,
    limits,
    model::{Endpoint, EndpointIntent, EventPattern, Ordering},
};

use crate::{
    endpoint_filter, endpoint_signature, failure_field,
    field::{self, Settable},
    payload_fields,
    presets::{self, Preset},
    rate_limit_field,
    refusal::Violations,
    tls_client, wire,
};

/// What a create or an update may set.
pub(crate) const SETTABLE: Settable = Settable {
    fields: &[
        "url",
        "description",
        "events",
        "status",
        "retry_schedule",
        "max_concurrency",
        "ordering",
    ],
    messages: &[
        &rate_limit_field::PATHS,
        &failure_field::PATHS,
        &endpoint_signature::PATHS,
        &endpoint_filter::PATHS,
        &payload_fields::PATHS,
        &tls_client::PATHS,
    ],
};

/// What may stand in an update mask without effect.
pub(crate) const IGNORED: [&str; 13] = [
    "id",
    "consecutive_failures",
    "backlog",
    "etag",
    "created_at",
    "updated_at",
    "tenant_id",
    "public_key",
    "tls_client.subject",
    "tls_client.expires_at",
    // Judged by itself: it comes with a change of the scheme only.
    "secret",
    // So is this: it says how a status is set.
    "resume",
    // It stays what it was at creation.
    "preset",
];

/// 0 s, 1 m, 5 m, 30 m, 2 h, then 4 h five times.
const RETRY_SCHEDULE_DEFAULT_S: [u64; 10] = [0, 60, 300, 1800, 7200, 14400, 14400, 14400, 14400, 14400];

/// The schedule of who gives none.
pub(crate) fn default_schedule_ms() -> Vec<u64> {
    RETRY_SCHEDULE_DEFAULT_S
        .iter()
        .map(|seconds| seconds * 1000)
        .collect()
}

/// Whether a field was given, as far as proto3 can tell.
pub(crate) fn is_populated(given: &v1::Endpoint, path: &str) -> bool {
    match path {
        "url" => !given.url.is_empty(),
        "description" => !given.description.is_empty(),
        "events" => !given.events.is_empty(),
        "status" => given.status != 0,
        "retry_schedule" => !given.retry_schedule.is_empty(),
        "max_concurrency" => given.max_concurrency != 0,
        "ordering" => given.ordering != 0,
        "rate_limit" => given.rate_limit.is_some(),
        "failure" => given.failure.is_some(),
        "signature" => given.signature.is_some(),
        "filter" => given.filter.is_some(),
        "payload" => given.payload.is_some(),
        "tls_client" => given.tls_client.is_some(),
        _ => false,
    }
}

/// Whether an update without a mask changes a field: an empty message, in which nothing was given, changes nothing.
pub(crate) fn is_changed(given: &v1::Endpoint, path: &str) -> bool {
    fn holds<T: Default + PartialEq>(message: Option<&T>) -> bool {
        message.is_some_and(|message| *message != T::default())
    }
    match path {
        "rate_limit" => holds(given.rate_limit.as_ref()),
        "failure" => holds(given.failure.as_ref()),
        "signature" => holds(given.signature.as_ref()),
        "filter" => holds(given.filter.as_ref()),
        "payload" => holds(given.payload.as_ref()),
        "tls_client" => holds(given.tls_client.as_ref()),
        path => is_populated(given, path),
    }
}

/// Sets one field from what was given, and notes what is wrong with it. Where a URL leads, what templates make and
/// client certificates are judged elsewhere.
pub(crate) fn set(endpoint: &mut Endpoint, path: &str, given: &v1::Endpoint, violations: &mut Violations) {
    match path {
        "url" => endpoint.url.clone_from(&given.url),
        "description" => {
            field::line(
                violations,
                "description",
                &given.description,
                limits::DESCRIPTION_CHARS_MAX,
            );
            endpoint.description.clone_from(&given.description);
        }
        "events" => {
            endpoint.events = patterns(&given.events, presets::named(&endpoint.preset), violations);
        }
        "status" => match given.status() {
            v1::EndpointStatus::Active => endpoint.intent = EndpointIntent::Active,
            v1::EndpointStatus::Paused => endpoint.intent = EndpointIntent::Paused,
            _ => violations.add(
                "status",
                "must be active or paused: the others are the server's findings",
            ),
        },
        "retry_schedule" => endpoint.retry_schedule_ms = schedule(&given.retry_schedule, violations),
        "max_concurrency" => endpoint.max_concurrency = concurrency(given.max_concurrency, violations),
        "ordering" => match v1::Ordering::try_from(given.ordering) {
            Ok(v1::Ordering::Unspecified | v1::Ordering::None) => endpoint.ordering = Ordering::None,
            Ok(v1::Ordering::PerCode) => endpoint.ordering = Ordering::PerCode,
            Err(_) => violations.add("ordering", "must be none or per_code"),
        },
        path if failure_field::PATHS.contains(&path) => {
            failure_field::set(&mut endpoint.failure, path, given.failure.as_ref(), violations);
        }
        path if endpoint_filter::PATHS.contains(&path) => {
            endpoint_filter::set(&mut endpoint.filter, path, given.filter.as_ref(), violations);
        }
        path if endpoint_signature::PATHS.contains(&path) => {
            endpoint_signature::set(
                &mut endpoint.signature,
                path,
                given.signature.as_ref(),
                violations,
            );
        }
        path if rate_limit_field::PATHS.contains(&path) => {
            rate_limit_field::set(
                &mut endpoint.rate_limit,
                path,
                given.rate_limit.as_ref(),
                violations,
            );
        }
        path if payload_fields::PATHS.contains(&path) => {
            payload_fields::set(&mut endpoint.payload, path, given.payload.as_ref(), violations);
        }
        _ => {}
    }
}

fn patterns(given: &[String], preset: Option<&Preset>, violations: &mut Violations) -> Vec<EventPattern> {
    if given.is_empty() {
        violations.add("events", "must name at least one event");
    }
    if given.len() > limits::EVENT_PATTERNS_MAX {
        violations.add(
            "events",
            format!("must have at most {} entries", limits::EVENT_PATTERNS_MAX),
        );
        return Vec::new();
    }
    let mut patterns = Vec::with_capacity(given.len());
    for (at, text) in given.iter().enumerate() {
        let own = preset
            .and_then(|preset| preset.event(text))
            .map(EventPattern::Exact);
        match own.map_or_else(|| text.parse::<EventPattern>(), Ok) {
            Ok(pattern) if patterns.contains(&pattern) => {}
            Ok(pattern) => patterns.push(pattern),
            Err(why) => {
                let own = preset.map(|preset| format!("; the preset has {}", preset.names()));
                violations.add(
                    format!("events[{at}]"),
                    format!("{why}{}", own.unwrap_or_default()),
                );
            }
        }
    }
    patterns
}

fn schedule(given: &[prost_types::Duration], violations: &mut Violations) -> Vec<u64> {
    if given.is_empty() {
        return default_schedule_ms();
    }
    if given.len() > limits::RETRY_SCHEDULE_MAX {
        violations.add(
            "retry_schedule",
            format!("must have at most {} entries", limits::RETRY_SCHEDULE_MAX),
        );
        return Vec::new();
    }
    let mut pauses = Vec::with_capacity(given.len());
    for (at, pause) in given.iter().enumerate() {
        let (min, rule) = match at {
            0 => (Duration::ZERO, "must be 0s to 86400s"),
            _ => (limits::RETRY_PAUSE_MIN, "must be 1s to 86400s"),
        };
        match wire::to_duration(pause) {
            Some(pause) if pause.subsec_nanos() % 1_000_000 != 0 => {
                violations.add(format!("retry_schedule[{at}]"), "must be whole milliseconds")
            }
            Some(pause) if pause >= min && pause <= limits::RETRY_PAUSE_MAX => {
                pauses.push(u64::try_from(pause.as_millis()).unwrap_or(u64::MAX));
            }
            _ => violations.add(format!("retry_schedule[{at}]"), rule),
        }
    }
    pauses
}

fn concurrency(given: i32, violations: &mut Violations) -> u32 {
    match u32::try_from(given) {
        Ok(0) => limits::CONCURRENCY_DEFAULT,
        Ok(count) if count <= limits::CONCURRENCY_MAX => count,
        _ => {
            violations.add(
                "max_concurrency",
                format!("must be 1 to {}", limits::CONCURRENCY_MAX),
            );
            limits::CONCURRENCY_DEFAULT
        }
    }
}

/// A row and its owner's findings on the wire at `now`, without secret. Findings from before the endpoint was last set
/// active are left out: its owner has not yet heard of it.
pub(crate) fn show(endpoint: &Endpoint, health: &EndpointHealth, now: Timestamp) -> v1::Endpoint {
    let unfound = EndpointHealth::default();
    let health = if is_outdated(endpoint, health) {
        &unfound
    } else {
        health
    };
    v1::Endpoint {
        id: endpoint.id.to_string(),
        url: endpoint.url.clone(),
        description: endpoint.description.clone(),
        events: presets::show_events(endpoint),
        status: status(endpoint, health).into(),
        consecutive_failures: wire::count(health.consecutive_failures),
        retry_schedule: endpoint
            .retry_schedule_ms
            .iter()
            .map(|ms| wire::duration(*ms))
            .collect(),
        max_concurrency: wire::small_count(endpoint.max_concurrency),
        backlog: show_backlog(endpoint, health, now),
        etag: field::etag(endpoint.version),
        created_at: Some(wire::time(endpoint.created_at)),
        updated_at: Some(wire::time(endpoint.updated_at)),
        secret: None,
        tenant_id: endpoint.tenant.to_string(),
        rate_limit: endpoint.rate_limit.map(rate_limit_field::show),
        failure: Some(failure_field::show(&endpoint.failure)),
        signature: Some(endpoint_signature::show(&endpoint.signature)),
        public_key: endpoint.public_key.clone(),
        filter: endpoint_filter::show(&endpoint.filter),
        ordering: match endpoint.ordering {
            Ordering::None => v1::Ordering::None,
            Ordering::PerCode => v1::Ordering::PerCode,
        }
        .into(),
        payload: Some(payload_fields::show(&endpoint.payload)),
        tls_client: endpoint.tls_client.as_ref().map(tls_client::show),
        preset: Some(endpoint.preset.clone()).filter(|preset| !preset.is_empty()),
        resume: None,
    }
}

/// What the tenant wants comes first. Findings from before the endpoint was last set active count no more, even
/// while its owner has not yet heard of it.
fn status(endpoint: &Endpoint, health: &EndpointHealth) -> v1::EndpointStatus {
    let outdated = is_outdated(endpoint, health);
    match (endpoint.intent, health.state) {
        (EndpointIntent::Paused, _) => v1::EndpointStatus::Paused,
        (EndpointIntent::Active, HealthState::Degraded) if !outdated => v1::EndpointStatus::Degraded,
        (EndpointIntent::Active, HealthState::Disabled) if !outdated => v1::EndpointStatus::Disabled,
        (EndpointIntent::Active, _) => v1::EndpointStatus::Active,
    }
}

fn is_outdated(endpoint: &Endpoint, health: &EndpointHealth) -> bool {
    health.enabled_epoch < endpoint.enabled_epoch
}

/// When something that is due `at` goes out: none while the endpoint waits for its tenant, and not in the past.
pub(crate) fn next_send(
    endpoint: &Endpoint,
    health: &EndpointHealth,
    at: Timestamp,
    now: Timestamp,
) -> Option<Timestamp> {
    let waits = matches!(
        status(endpoint, health),
        v1::EndpointStatus::Paused | v1::EndpointStatus::Disabled
    );
    (!waits && !endpoint.deleted).then(|| at.max(now))
}

/// What waits, as its owner last told, and why as the row says, of which its owner may not yet have heard: nothing once its
/// tenant skips it, and no pause but the present one.
fn show_backlog(endpoint: &Endpoint, health: &EndpointHealth, now: Timestamp) -> Option<v1::Backlog> {
    let backlog = health.backlog.as_ref()?;
    if backlog
        .oldest_at
        .is_some_and(|oldest| endpoint.skips(oldest, now))
    {
        return None;
    }
    let (reason, next) = match (endpoint.intent, backlog.reason) {
        (EndpointIntent::Paused, _) => (BacklogReason::Paused, None),
        (EndpointIntent::Active, BacklogReason::Paused) => (BacklogReason::CatchingUp, Some(now)),
        (EndpointIntent::Active, reason) => (reason, backlog.next_send_at),
    };
    let next = next.and_then(|at| next_send(endpoint, health, at, now));
    Some(v1::Backlog {
        events: wire::count(backlog.events),
        oldest_at: backlog.oldest_at.map(wire::time),
        reason: reason.as_str().to_owned(),
        next_send_at: next.map(wire::time),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn violations_of(check: impl FnOnce(&mut Violations)) -> String {
        let mut violations = Violations::default();
        check(&mut violations);
        violations
            .finish()
            .err()
            .map_or_else(String::new, |status| status.message().to_owned())
    }

    #[test]
    fn schedules_have_at_most_20_pauses_of_at_least_a_second() {
        let seconds = |seconds: &[i64]| -> Vec<prost_types::Duration> {
            seconds
                .iter()
                .map(|seconds| prost_types::Duration {
                    seconds: *seconds,
                    nanos: 0,
                })
                .collect()
        };
        let judged = |given: &[i64]| violations_of(|v| drop(schedule(&seconds(given), v)));
        assert_eq!(judged(&[0]), "");
        assert_eq!(judged(&[86_400, 1, 86_400]), "");
        assert_eq!(judged(&[0; 1]), "");
        assert!(judged(&[0, 0]).starts_with("retry_schedule[1] must be 1s"));
        assert!(judged(&[86_401]).starts_with("retry_schedule[0]"));
        assert!(judged(&[-1]).starts_with("retry_schedule[0]"));
        assert!(judged(&[1; 21]).contains("at most 20"));
        let half = prost_types::Duration {
            seconds: 0,
            nanos: 500_000_000,
        };
        assert!(violations_of(|v| drop(schedule(&[half, half], v))).starts_with("retry_schedule[1]"));
        let pauses = |nanos| [prost_types::Duration { seconds: 1, nanos }];
        let judged = |nanos| violations_of(|v| drop(schedule(&pauses(nanos), v)));
        assert_eq!(judged(500_001), "retry_schedule[0] must be whole milliseconds");
        assert_eq!(judged(1), "retry_schedule[0] must be whole milliseconds");
        assert_eq!(schedule(&pauses(1_000_000), &mut Violations::default()), [1001]);
        assert_eq!(schedule(&[], &mut Violations::default()), default_schedule_ms());
    }

    #[test]
    fn events_are_known_patterns_and_repeats_count_once() {
        let judged = |given: &[&str]| {
            let given: Vec<String> = given.iter().map(ToString::to_string).collect();
            violations_of(|v| drop(patterns(&given, None, v)))
        };
        assert_eq!(judged(&["scan.created", "code.*", "*"]), "");
        assert!(judged(&[]).starts_with("events must name"));
        assert!(judged(&["*", "scan.nope"]).starts_with("events[1]"));
        let twice = ["*".to_owned(), "*".to_owned()];
        assert_eq!(
            patterns(&twice, None, &mut Violations::default()),
            [EventPattern::Any]
        );
    }

    #[test]
    fn concurrency_is_1_to_256_and_16_by_default() {
        for (given, expected) in [
            (0, Some(16)),
            (1, Some(1)),
            (256, Some(256)),
            (257, None),
            (-1, None),
        ] {
            let mut violations = Violations::default();
            let taken = concurrency(given, &mut violations);
            assert_eq!(violations.is_empty().then_some(taken), expected, "{given}");
        }
    }
}
