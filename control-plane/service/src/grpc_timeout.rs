//! The deadline that a gRPC client asks for: the header `grpc-timeout` (gRPC over HTTP/2, "Timeout").

use std::time::Duration;

use http::HeaderMap;

/// At most eight digits and a unit.
const DIGITS_MAX: usize = 8;

/// The header's value; none when it is absent or malformed, as a wrong deadline must not fail a call.
pub(crate) fn parse(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > DIGITS_MAX || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-timeout", HeaderValue::from_str(text).ok()?);
        parse(&headers)
    }

    #[test]
    fn units_are_told_apart_and_nonsense_is_no_deadline() {
        assert_eq!(parsed("5S"), Some(Duration::from_secs(5)));
        assert_eq!(parsed("250m"), Some(Duration::from_millis(250)));
        assert_eq!(parsed("2M"), Some(Duration::from_secs(120)));
        assert_eq!(parsed("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for text in ["", "S", "5", "-5S", "5s", "999999999S", "5.0S", " 5S"] {
            assert_eq!(parsed(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_header_is_a_deadline_or_none_without_panic(text in "\\PC{0,20}") {
            let _deadline = parsed(&text);
        }
    }
}
