//! Times and durations as text.
//!
//! A `Timestamp` prints as RFC 3339 in UTC with exactly milliseconds, cut off below; any RFC 3339 (§5.6) text is
//! read, down to the nanosecond. A `Duration` prints in seconds with three, six or nine decimals or none.

use jiff::{SignedDuration, civil};

/// 0001-01-01T00:00:00Z, the first second of a protobuf `Timestamp`.
const SECONDS_MIN: i64 = -62_135_596_800;
/// 9999-12-31T23:59:59Z, the last one.
const SECONDS_MAX: i64 = 253_402_300_799;
/// 10,000 years, the limit of a protobuf `Duration` either way.
const DURATION_SECONDS_MAX: i64 = 315_576_000_000;

const BAD_TIMESTAMP: &str = "must be a time as in RFC 3339, like 2026-05-01T12:00:00Z";
const BAD_DURATION: &str = "must be a duration in seconds, like \"60s\" or \"0.500s\"";

const EPOCH: civil::DateTime = civil::DateTime::constant(1970, 1, 1, 0, 0, 0, 0);

/// `None` if the parts are outside what a `Timestamp` may hold.
pub(crate) fn format_timestamp(seconds: i64, nanos: i32) -> Option<String> {
    let in_range = (SECONDS_MIN..=SECONDS_MAX).contains(&seconds) && (0..1_000_000_000).contains(&nanos);
    let at = in_range.then(|| EPOCH.checked_add(SignedDuration::from_secs(seconds)).ok())??;
    let (year, month, day) = (at.year(), at.month(), at.day());
    let (hour, minute, second, millis) = (at.hour(), at.minute(), at.second(), nanos / 1_000_000);
    Some(format!(
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z"
    ))
}

/// Seconds and nanoseconds since the epoch. A leap second is the second after it, as in POSIX time.
pub(crate) fn parse_timestamp(text: &str) -> Result<(i64, i32), &'static str> {
    let (seconds, nanos) = timestamp_parts(text).ok_or(BAD_TIMESTAMP)?;
    if !(SECONDS_MIN..=SECONDS_MAX).contains(&seconds) {
        return Err("must be a time in the years 0001 to 9999");
    }
    Ok((seconds, nanos))
}

fn timestamp_parts(text: &str) -> Option<(i64, i32)> {
    let mut rest = text.as_bytes();
    let year = digits(&mut rest, 4)?;
    byte(&mut rest, b"-")?;
    let month = digits(&mut rest, 2)?;
    byte(&mut rest, b"-")?;
    let day = digits(&mut rest, 2)?;
    byte(&mut rest, b"Tt")?;
    let (hour, minute) = hour_and_minute(&mut rest)?;
    byte(&mut rest, b":")?;
    let second = digits(&mut rest, 2).filter(|second| *second <= 60)?;
    let nanos = if byte(&mut rest, b".").is_some() {
        fraction(&mut rest)?
    } else {
        0
    };
    let offset_minutes = match byte(&mut rest, b"Zz+-")? {
        b'+' => offset(&mut rest)?,
        b'-' => -offset(&mut rest)?,
        _ => 0,
    };
    let (year, month, day) = (
        i16::try_from(year).ok()?,
        i8::try_from(month).ok()?,
        i8::try_from(day).ok()?,
    );
    let date = civil::Date::new(year, month, day).ok()?;
    let days = i64::from(EPOCH.date().until(date).ok()?.get_days());
    let seconds = days * 86_400 + hour * 3_600 + (minute - offset_minutes) * 60 + second;
    rest.is_empty().then_some((seconds, nanos))
}

fn hour_and_minute(rest: &mut &[u8]) -> Option<(i64, i64)> {
    let hour = digits(rest, 2).filter(|hour| *hour <= 23)?;
    byte(rest, b":")?;
    let minute = digits(rest, 2).filter(|minute| *minute <= 59)?;
    Some((hour, minute))
}

fn offset(rest: &mut &[u8]) -> Option<i64> {
    hour_and_minute(rest).map(|(hours, minutes)| hours * 60 + minutes)
}

/// Reads exactly `count` digits.
fn digits(rest: &mut &[u8], count: usize) -> Option<i64> {
    let (head, tail) = rest.split_at_checked(count)?;
    *rest = tail;
    head.iter().try_fold(0, |number, digit| {
        digit
            .is_ascii_digit()
            .then(|| number * 10 + i64::from(digit - b'0'))
    })
}

fn byte(rest: &mut &[u8], one_of: &[u8]) -> Option<u8> {
    let (first, tail) = rest.split_first()?;
    one_of.contains(first).then(|| {
        *rest = tail;
        *first
    })
}

/// One digit or more of a second's fraction, as nanoseconds; further digits are cut off.
fn fraction(rest: &mut &[u8]) -> Option<i32> {
    let count = rest.iter().take_while(|digit| digit.is_ascii_digit()).count();
    let (head, tail) = rest.split_at(count);
    *rest = tail;
    let padded = head.iter().copied().chain(std::iter::repeat(b'0')).take(9);
    (count > 0).then(|| padded.fold(0, |nanos, digit| nanos * 10 + i32::from(digit - b'0')))
}

/// `None` if the parts are outside what a `Duration` may hold, or of different signs.
pub(crate) fn format_duration(seconds: i64, nanos: i32) -> Option<String> {
    let in_range =
        seconds.unsigned_abs() <= DURATION_SECONDS_MAX.unsigned_abs() && nanos.unsigned_abs() < 1_000_000_000;
    if !in_range || seconds.signum() * i64::from(nanos.signum()) < 0 {
        return None;
    }
    let sign = if seconds < 0 || nanos < 0 { "-" } else { "" };
    let (seconds, nanos) = (seconds.abs(), nanos.abs());
    Some(match nanos {
        0 => format!("{sign}{seconds}s"),
        _ if nanos % 1_000_000 == 0 => format!("{sign}{seconds}.{:03}s", nanos / 1_000_000),
        _ if nanos % 1_000 == 0 => format!("{sign}{seconds}.{:06}s", nanos / 1_000),
        _ => format!("{sign}{seconds}.{nanos:09}s"),
    })
}

/// Seconds and nanoseconds of one sign.
pub(crate) fn parse_duration(text: &str) -> Result<(i64, i32), &'static str> {
    let (seconds, nanos) = duration_parts(text).ok_or(BAD_DURATION)?;
    if seconds.abs() > DURATION_SECONDS_MAX {
        return Err("must be a duration of at most 315576000000s");
    }
    Ok((seconds, nanos))
}

fn duration_parts(text: &str) -> Option<(i64, i32)> {
    let text = text.strip_suffix('s')?;
    let (sign, text) = text.strip_prefix('-').map_or((1, text), |text| (-1, text));
    let (whole, decimals) = text
        .split_once('.')
        .map_or((text, None), |(whole, tail)| (whole, Some(tail)));
    let plain = !whole.is_empty() && whole.bytes().all(|byte| byte.is_ascii_digit());
    let seconds = if plain {
        whole.parse::<i64>().ok()?
    } else {
        return None;
    };
    let nanos = match decimals {
        None => 0,
        Some(decimals) => {
            let mut rest = decimals.as_bytes();
            let nanos = fraction(&mut rest)?;
            (rest.is_empty() && decimals.len() <= 9).then_some(nanos)?
        }
    };
    Some((seconds * i64::from(sign), nanos * sign))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn timestamps_print_in_utc_with_exactly_milliseconds() {
        for (seconds, nanos, text) in [
            (0, 0, "1970-01-01T00:00:00.000Z"),
            (1_777_636_800, 123_999_999, "2026-05-01T12:00:00.123Z"),
            (-1, 999_000_000, "1969-12-31T23:59:59.999Z"),
            (SECONDS_MIN, 0, "0001-01-01T00:00:00.000Z"),
            (SECONDS_MAX, 999_999_999, "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(format_timestamp(seconds, nanos).as_deref(), Some(text));
        }
        for (seconds, nanos) in [(SECONDS_MAX + 1, 0), (i64::MIN, 0), (0, -1), (0, 1_000_000_000)] {
            assert_eq!(format_timestamp(seconds, nanos), None);
        }
    }

    #[test]
    fn any_valid_rfc_3339_time_is_read() {
        for (text, seconds, nanos) in [
            ("1970-01-01T00:00:00Z", 0, 0),
            ("1985-04-12T23:20:50.52Z", 482_196_050, 520_000_000),
            ("1996-12-19T16:39:57-08:00", 851_042_397, 0),
            ("1990-12-31T23:59:60Z", 662_688_000, 0),
            ("1990-12-31T15:59:60-08:00", 662_688_000, 0),
            ("1937-01-01T12:00:27.87+00:20", -1_041_337_173, 870_000_000),
            ("1970-01-01t00:00:00z", 0, 0),
            ("1970-01-01T00:00:00-00:00", 0, 0),
            ("1970-01-01T00:00:00.123456789987Z", 0, 123_456_789),
            ("9999-12-31T23:59:59.999999999Z", SECONDS_MAX, 999_999_999),
        ] {
            assert_eq!(parse_timestamp(text), Ok((seconds, nanos)), "{text}");
        }
    }

    #[test]
    fn what_is_no_rfc_3339_time_is_refused() {
        for text in [
            "",
            "now",
            "2026-05-01",
            "2026-05-01T12:00:00",
            "2026-05-01 12:00:00Z",
            "2026-05-01T12:00Z",
            "2026-5-01T12:00:00Z",
            "2026-02-29T12:00:00Z",
            "2026-13-01T12:00:00Z",
            "2026-05-01T24:00:00Z",
            "2026-05-01T12:60:00Z",
            "2026-05-01T12:00:61Z",
            "2026-05-01T12:00:00.Z",
            "2026-05-01T12:00:00Zx",
            "2026-05-01T12:00:00+2:00",
            "2026-05-01T12:00:00+0200",
            "+2026-05-01T12:00:00Z",
            "0000-01-01T00:00:00Z",
            "0001-01-01T00:00:00+00:01",
            "9999-12-31T23:59:60Z",
            "２０２６-05-01T12:00:00Z",
            "1777636800",
        ] {
            assert!(parse_timestamp(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_print_and_parse_in_seconds() {
        for (text, seconds, nanos) in [
            ("0s", 0, 0),
            ("60s", 60, 0),
            ("0.500s", 0, 500_000_000),
            ("-1.000001s", -1, -1_000),
            ("-0.000000001s", 0, -1),
            ("315576000000s", DURATION_SECONDS_MAX, 0),
        ] {
            assert_eq!(parse_duration(text), Ok((seconds, nanos)), "{text}");
            assert_eq!(format_duration(seconds, nanos).as_deref(), Some(text));
        }
        assert_eq!(parse_duration("1.5s"), Ok((1, 500_000_000)));
        for text in [
            "",
            "s",
            "1",
            "1m",
            "+1s",
            "1.s",
            ".5s",
            "1.0000000001s",
            "--1s",
            "1e3s",
            "315576000001s",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        for (seconds, nanos) in [
            (1, -1),
            (i64::MIN, 0),
            (0, i32::MIN),
            (DURATION_SECONDS_MAX + 1, 0),
        ] {
            assert_eq!(format_duration(seconds, nanos), None);
        }
    }

    proptest! {
        #[test]
        fn a_printed_time_is_read_back(seconds in SECONDS_MIN..=SECONDS_MAX, millis in 0..1000) {
            let text = format_timestamp(seconds, millis * 1_000_000).expect("in range");
            prop_assert_eq!(parse_timestamp(&text), Ok((seconds, millis * 1_000_000)));
        }

        #[test]
        fn arbitrary_text_is_refused_or_read_but_never_panics(text in ".{0,40}") {
            prop_assert!(parse_timestamp(&text).is_err() || text.len() >= 20);
            prop_assert!(parse_duration(&text).is_err() || text.ends_with('s'));
        }
    }
}
