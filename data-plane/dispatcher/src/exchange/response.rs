//! Reading a response, as little of it as is needed, from a receiver that may send anything.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::RETRY_AFTER;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use qrelay_store::Timestamp;
use qrelay_store::limits::{RESPONSE_BYTES_MAX, RESPONSE_SNIPPET_BYTES};
use tokio::time::{Instant, timeout_at};

use super::outcome::{RetryAfter, Wish};

/// What was read of a response body.
pub(super) struct Body {
    /// Its first bytes, as they came: nothing is decompressed.
    pub(super) snippet: Bytes,
    /// Whether all of it was read, so that the connection can be used again.
    pub(super) complete: bool,
}

/// Reads until the body ends, [`RESPONSE_BYTES_MAX`] are read, the receiver breaks off, or `deadline`: whatever
/// happens here does not change the outcome, which the status decides.
pub(super) async fn read_body(mut body: Incoming, deadline: Instant) -> Body {
    let mut snippet = BytesMut::new();
    let mut read = 0_usize;
    let complete = loop {
        match timeout_at(deadline, body.frame()).await {
            Ok(None) => break true,
            Ok(Some(Ok(frame))) => {
                // Trailers are no part of the body.
                let Some(data) = frame.data_ref() else { continue };
                let wanted = data.len().min(RESPONSE_SNIPPET_BYTES - snippet.len());
                snippet.extend_from_slice(&data[..wanted]);
                read = read.saturating_add(data.len());
                if read > RESPONSE_BYTES_MAX {
                    break false;
                }
            }
            Ok(Some(Err(_))) | Err(_) => break false,
        }
    };
    Body {
        snippet: snippet.freeze(),
        complete,
    }
}

/// `Retry-After` in seconds or as an HTTP date (RFC 9110 §10.2.3); nothing if it is neither.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<RetryAfter> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // A number that is too large is as good as for ever; the caller caps it.
        return Some(RetryAfter::Delay(Duration::from_secs(
            text.parse().unwrap_or(u64::from(u32::MAX)),
        )));
    }
    let since_epoch = httpdate::parse_http_date(text)
        .ok()?
        .duration_since(std::time::UNIX_EPOCH)
        .ok()?;
    let ms = i64::try_from(since_epoch.as_millis()).ok()?;
    Some(RetryAfter::At(Timestamp::from_millis(ms)))
}

/// What `webhook-delivery` asks for; nothing if it is neither of the known words.
pub(super) fn wish(headers: &HeaderMap) -> Option<Wish> {
    let text = headers.get("webhook-delivery")?.to_str().ok()?.trim();
    match text.to_ascii_lowercase().as_str() {
        "disable" => Some(Wish::Disable),
        "abort-message" => Some(Wish::Abort),
        _ => None,
    }
}

/// How long the receiver keeps an idle connection (`Keep-Alive: timeout=5`), if it says so.
pub(super) fn keep_alive(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("keep-alive")?.to_str().ok()?;
    let seconds = text
        .split(',')
        .find_map(|part| part.trim().strip_prefix("timeout=")?.parse().ok())?;
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn headers(name: &'static str, value: &'static [u8]) -> HeaderMap {
        HeaderMap::from_iter([(
            HeaderName::from_static(name),
            HeaderValue::from_bytes(value).unwrap(),
        )])
    }

    #[test]
    fn retry_after_is_read_in_seconds_and_as_a_date() {
        let seconds = |text: &'static str| retry_after(&headers("retry-after", text.as_bytes()));
        assert_eq!(seconds("120"), Some(RetryAfter::Delay(Duration::from_secs(120))));
        assert_eq!(seconds(" 0 "), Some(RetryAfter::Delay(Duration::ZERO)));
        let at = Timestamp::from_millis(1_445_412_480_000);
        for date in [
            "Wed, 21 Oct 2015 07:28:00 GMT",
            "Wednesday, 21-Oct-15 07:28:00 GMT",
            "Wed Oct 21 07:28:00 2015",
        ] {
            assert_eq!(seconds(date), Some(RetryAfter::At(at)), "{date}");
        }
        assert_eq!(
            RetryAfter::At(at).from(at.before(Duration::from_secs(9))),
            Duration::from_secs(9)
        );
        assert_eq!(
            RetryAfter::At(at).from(at.after(Duration::from_secs(9))),
            Duration::ZERO
        );
    }

    #[test]
    fn only_the_known_wishes_are_wishes() {
        let asks = |text: &'static str| wish(&headers("webhook-delivery", text.as_bytes()));
        assert_eq!(asks("disable"), Some(Wish::Disable));
        assert_eq!(asks(" Abort-Message"), Some(Wish::Abort));
        assert_eq!((asks("abort"), asks("")), (None, None));
    }

    #[test]
    fn a_retry_after_that_makes_no_sense_is_ignored() {
        for text in [&b""[..], b"soon", b"-1", b"1.5", b"Wed, 21 Oct", b"\xff"] {
            assert_eq!(retry_after(&headers("retry-after", text)), None, "{text:?}");
        }
        let huge = retry_after(&headers("retry-after", b"99999999999999999999999"));
        assert!(matches!(huge, Some(RetryAfter::Delay(delay)) if delay.as_secs() > 1_000_000_000));
    }

    #[test]
    fn keep_alive_says_how_long() {
        let says = |text: &'static str| keep_alive(&headers("keep-alive", text.as_bytes()));
        assert_eq!(says("timeout=5"), Some(Duration::from_secs(5)));
        assert_eq!(says("max=100, timeout=72"), Some(Duration::from_secs(72)));
        assert_eq!((says("timeout=x"), says("max=3")), (None, None));
    }
}
