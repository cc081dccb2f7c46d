//! Times and durations as people give them: RFC 3339, or how long ago or from now (`90m`, `30d`).

use std::time::Duration;

use qrelay_store::{Clock, Timestamp, clock::SystemClock};

/// A time in the past: RFC 3339, or how long ago.
pub(crate) fn past(text: &str) -> Result<Timestamp, String> {
    either(text, Timestamp::before)
}

/// A time in the future: RFC 3339, or how long from now.
pub(crate) fn future(text: &str) -> Result<Timestamp, String> {
    either(text, Timestamp::after)
}

fn either(text: &str, shift: fn(Timestamp, Duration) -> Timestamp) -> Result<Timestamp, String> {
    if let Ok(at) = text.parse() {
        return Ok(at);
    }
    match humantime::parse_duration(text) {
        Ok(duration) => Ok(shift(SystemClock.now(), duration)),
        Err(_) => {
            Err("expected a time such as 2026-03-03T14:00:00Z, or a duration such as 90m or 30d".to_owned())
        }
    }
}

/// A duration such as `60s` or `1h 30m`.
pub(crate) fn duration(text: &str) -> Result<prost_types::Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let seconds = i64::try_from(duration.as_secs()).map_err(|_| "too long".to_owned())?;
    let nanos = i32::try_from(duration.subsec_nanos()).map_err(|_| "too long".to_owned())?;
    Ok(prost_types::Duration { seconds, nanos })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_given_exactly_or_as_a_distance_from_now() {
        assert_eq!(
            past("2026-03-03T14:32:18.492Z").unwrap().as_millis(),
            1_772_548_338_492
        );
        let now = SystemClock.now();
        assert!(past("30d").unwrap() < now && future("30d").unwrap() > now);
        for bad in ["", "yesterday", "2026-03-03", "-5m", "5"] {
            assert!(past(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_schedule_takes_seconds_and_larger_units() {
        assert_eq!(duration("0s").unwrap().seconds, 0);
        assert_eq!(duration("2h").unwrap().seconds, 7200);
        assert_eq!(duration("1500ms").unwrap().nanos, 500_000_000);
        assert!(duration("soon").is_err());
    }
}
