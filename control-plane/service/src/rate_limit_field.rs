//! The field `rate_limit`, which endpoints and tenants share.

use qrelay_proto::v1;
use qrelay_store::{limits, model::RateLimit};

use crate::{refusal::Violations, wire};

/// The paths of the field, for update masks.
pub(crate) const PATHS: [&str; 3] = ["rate_limit", "rate_limit.per_second", "rate_limit.burst"];

/// Sets what one of [`PATHS`] names; the rest stays. Without a value the whole is no limit.
pub(crate) fn set(
    limit: &mut Option<RateLimit>,
    path: &str,
    given: Option<&v1::RateLimit>,
    violations: &mut Violations,
) {
    let Some(given) = given else {
        *limit = None;
        return;
    };
    let before = limit.filter(|_| path != "rate_limit");
    let next = RateLimit {
        per_second: match before {
            Some(before) if path == "rate_limit.burst" => before.per_second,
            _ => given.per_second,
        },
        burst: match before {
            Some(before) if path == "rate_limit.per_second" => before.burst,
            _ => burst(given.burst, violations),
        },
    };
    // Not a number is neither.
    if next.per_second > 0.0 && next.per_second <= limits::RATE_PER_SECOND_MAX {
        *limit = Some(next);
    } else {
        violations.add(
            "rate_limit.per_second",
            format!("must be more than 0 and at most {}", limits::RATE_PER_SECOND_MAX),
        );
    }
}

fn burst(given: i32, violations: &mut Violations) -> u32 {
    match u32::try_from(given) {
        Ok(0) => 1,
        Ok(burst) if burst <= limits::RATE_BURST_MAX => burst,
        _ => {
            violations.add(
                "rate_limit.burst",
                format!("must be 1 to {}", limits::RATE_BURST_MAX),
            );
            1
        }
    }
}

/// On the wire.
pub(crate) fn show(limit: RateLimit) -> v1::RateLimit {
    v1::RateLimit {
        per_second: limit.per_second,
        burst: wire::small_count(limit.burst),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(
        before: Option<(f64, u32)>,
        path: &str,
        given: Option<(f64, i32)>,
    ) -> Result<Option<(f64, u32)>, String> {
        let mut limit = before.map(|(per_second, burst)| RateLimit { per_second, burst });
        let given = given.map(|(per_second, burst)| v1::RateLimit { per_second, burst });
        let mut violations = Violations::default();
        set(&mut limit, path, given.as_ref(), &mut violations);
        let set = limit.map(|limit| (limit.per_second, limit.burst));
        violations
            .finish()
            .map(|()| set)
            .map_err(|status| status.message().to_owned())
    }

    #[test]
    fn a_limit_is_set_whole_or_by_its_parts_and_lifted_by_null() {
        assert_eq!(after(None, "rate_limit", Some((2.5, 0))), Ok(Some((2.5, 1))));
        assert_eq!(
            after(Some((1.0, 9)), "rate_limit", Some((2.0, 0))),
            Ok(Some((2.0, 1)))
        );
        assert_eq!(
            after(Some((1.0, 9)), "rate_limit.per_second", Some((2.0, 0))),
            Ok(Some((2.0, 9)))
        );
        assert_eq!(
            after(Some((1.0, 9)), "rate_limit.burst", Some((0.0, 3))),
            Ok(Some((1.0, 3)))
        );
        assert_eq!(
            after(None, "rate_limit.burst", Some((4.0, 3))),
            Ok(Some((4.0, 3)))
        );
        assert_eq!(after(Some((1.0, 9)), "rate_limit", None), Ok(None));
    }

    #[test]
    fn what_is_no_rate_is_refused_by_its_name() {
        for per_second in [0.0, -1.0, f64::NAN, f64::INFINITY, 100_000.1] {
            let refused = after(None, "rate_limit", Some((per_second, 1))).unwrap_err();
            assert!(refused.contains("rate_limit.per_second"), "{refused}");
        }
        for burst in [-1, 100_001] {
            let refused = after(None, "rate_limit", Some((1.0, burst))).unwrap_err();
            assert!(refused.contains("rate_limit.burst"), "{refused}");
        }
        assert!(
            after(None, "rate_limit.burst", Some((0.0, 3))).is_err(),
            "a burst alone is no limit"
        );
    }
}
